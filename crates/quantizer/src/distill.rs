//! Distillation of the decoder: list bases and codebooks learn to rank like the teacher (Xiao et al., Distill-VQ, 2022).
//!
//! Lists, codes and norm corrections stay as the encoder made them, so a row's score is linear in what is learned and the
//! loss is convex in it. Candidates of a batch are the exact neighbours of all its queries: each query sees its own
//! and, as negatives, everyone else's.
//!
//! With `G` the gradient by the scores and `D_d = κ_d·Σ_q G_qd·q` (twice that for L2), the gradients are
//! `∂L/∂O_l = Σ_{d in list l} D_d` and `∂L/∂C_s[j] = Σ_{d with code j} D_d[s]`.

use crate::adam::{Param, rate, schedule};
use crate::coded::Coded;
use crate::exam::Best;
use crate::lessons::{Exact, Queries};
use crate::linalg::{MatRef, combine, products};
use crate::loss::{Totals, exponentials, fold_maxima, gradient};
use crate::model::Tables;
use crate::product::Codebooks;
use crate::rank::Ranked;
use crate::train::keep_on;
use crate::{Monitor, Phase, TrainError, par};
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// Candidates that are worked on together.
const PART: usize = 256;
/// Sub-quantizers whose gradients are summed together.
const GROUP: usize = 16;

/// How long and how to train.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Queries a step.
    pub batch: usize,
    /// Steps.
    pub steps: usize,
    /// Steps between two exams.
    pub exam_every: usize,
    /// τ of both softmaxes.
    pub temperature: f32,
    /// Seed of the order of the queries.
    pub seed: u64,
}

/// Everything the students learn from.
pub struct Course<'a> {
    /// The rows of the sample.
    pub rows: &'a Exact<'a>,
    /// The same in codes.
    pub coded: &'a Coded,
    /// Training queries.
    pub queries: &'a Queries,
    /// Their exact neighbours.
    pub taught: &'a Ranked,
}

/// Half the mean distance between the best and the last taught score: the scale on which errors matter. `None` when
/// scores do not differ.
pub fn temperature(taught: &Ranked) -> Option<f32> {
    let spreads = taught
        .best
        .iter()
        .filter_map(|best| Some(best.first()?.0 - best.last()?.0));
    let (sum, count) = spreads.fold((0f64, 0f64), |(sum, n), spread| {
        (sum + f64::from(spread), n + 1.0)
    });
    let temperature = (0.5 * sum / count) as f32;
    (temperature.is_normal() && temperature > 0.0).then_some(temperature)
}

/// Some candidates of a batch; buffers are kept from step to step. Matrices have a row a candidate.
#[derive(Default)]
struct Part {
    rows: Vec<u32>,
    vectors: Vec<f32>,
    teacher: Vec<f32>,
    student: Vec<f32>,
    gradient: Vec<f32>,
    maxima: [Vec<f32>; 2],
    sums: [Vec<f32>; 2],
}

/// The decoder in training.
struct Decoder {
    lists: Vec<Param>,
    groups: Vec<Param>,
    /// The codebooks with the values of `groups`.
    books: Codebooks,
}

impl Decoder {
    fn new(tables: &Tables, dim: usize) -> Decoder {
        let group = (GROUP * tables.books.stride()).max(1);
        Decoder {
            lists: tables.centroids.chunks_exact(dim).map(Param::new).collect(),
            groups: tables.books.values.chunks(group).map(Param::new).collect(),
            books: tables.books.clone(),
        }
    }

    fn tables(&self) -> Tables {
        let centroids = self
            .lists
            .iter()
            .flat_map(|list| list.values.iter().copied())
            .collect();
        Tables {
            centroids,
            books: self.books.clone(),
        }
    }
}

/// Trains the decoder from `start`. `exam` gives the recall of every held-out query; the tables with the best mean are
/// returned with their recalls (the start is not examined here). Ends early when two exams in a row are no better.
pub fn distill(
    course: &Course<'_>,
    start: &Tables,
    plan: &Plan,
    monitor: &dyn Monitor,
    exam: impl Fn(&Tables) -> Result<Vec<f32>, TrainError>,
) -> Result<Option<(Tables, Vec<f32>)>, TrainError> {
    let cols = course.rows.x.cols;
    let mut decoder = Decoder::new(start, cols);
    let rates = (rate(&start.centroids), rate(&start.books.values));
    let mut order: Vec<u32> = (0..course.queries.len() as u32).collect();
    let mut rng = ChaCha8Rng::seed_from_u64(plan.seed);
    let mut best = Best::default();
    let mut next = order.len();
    let mut parts = Vec::new();
    for step in 0..plan.steps {
        monitor.phase(Phase::Distilling, step, plan.steps);
        if next + plan.batch > order.len() {
            order.shuffle(&mut rng);
            next = 0;
        }
        let batch = &order[next..(next + plan.batch).min(order.len())];
        next += plan.batch;
        gradients(
            course,
            &mut decoder,
            &mut parts,
            batch,
            plan.temperature,
            monitor,
        )?;
        descend(
            course,
            &mut decoder,
            &parts,
            rates,
            schedule(step, plan.steps),
        )?;
        if step + 1 == plan.steps || (step + 1).is_multiple_of(plan.exam_every) {
            let tables = decoder.tables();
            let recalls = exam(&tables)?;
            best.offer(tables, recalls);
            if best.stalled() {
                break;
            }
        }
    }
    monitor.phase(Phase::Distilling, plan.steps, plan.steps);
    Ok(best.take())
}

/// All neighbours of the batch's queries, each once, in ascending order.
fn candidates(course: &Course<'_>, batch: &[u32]) -> Vec<u32> {
    let best = batch.iter().flat_map(|q| &course.taught.best[*q as usize]);
    let mut rows: Vec<u32> = best.map(|(_, row)| *row).collect();
    rows.sort_unstable();
    rows.dedup();
    rows
}

/// Fills every part's `gradient` with `D`, a row a candidate.
fn gradients(
    course: &Course<'_>,
    decoder: &mut Decoder,
    parts: &mut Vec<Part>,
    batch: &[u32],
    temperature: f32,
    monitor: &dyn Monitor,
) -> Result<(), TrainError> {
    let rows = candidates(course, batch);
    parts.resize_with(rows.len().div_ceil(PART), Part::default);
    for (part, rows) in parts.iter_mut().zip(rows.chunks(PART)) {
        part.rows.clear();
        part.rows.extend_from_slice(rows);
    }
    let cols = course.rows.x.cols;
    let mut queries = Vec::new();
    MatRef::new(&course.queries.vectors, cols).gather(batch, &mut queries);
    let queries = MatRef::new(&queries, cols);
    par::each_mut(parts, |_, part| {
        keep_on(monitor)?;
        part.score(course, decoder, queries);
        Ok(())
    })?;
    let maxima = [0, 1].map(|side| {
        reduce(
            parts.iter().map(|p| &p.maxima[side][..]),
            f32::NEG_INFINITY,
            f32::max,
        )
    });
    par::each_mut(parts, |_, part| {
        part.exponentials(&maxima, temperature);
        Ok::<_, TrainError>(())
    })?;
    let sums =
        [0, 1].map(|side| reduce(parts.iter().map(|p| &p.sums[side][..]), 0.0, |a, b| a + b));
    let totals = Totals {
        student: &sums[0],
        teacher: &sums[1],
        temperature,
    };
    par::each_mut(parts, |_, part| {
        keep_on(monitor)?;
        part.differentiate(course, queries, &totals);
        Ok(())
    })
}

/// Folds vectors of one length together, in order.
fn reduce<'a>(
    vectors: impl Iterator<Item = &'a [f32]>,
    start: f32,
    fold: impl Fn(f32, f32) -> f32,
) -> Vec<f32> {
    let mut out: Vec<f32> = Vec::new();
    for vector in vectors {
        out.resize(vector.len(), start);
        out.iter_mut()
            .zip(vector)
            .for_each(|(o, x)| *o = fold(*o, *x));
    }
    out
}

impl Part {
    /// Scores of both sides and their maxima a query.
    fn score(&mut self, course: &Course<'_>, decoder: &Decoder, queries: MatRef<'_>) {
        let (x, n) = (course.rows.x, self.rows.len());
        x.gather(&self.rows, &mut self.vectors);
        self.teacher.resize(n * queries.rows(), 0.0);
        products(
            MatRef::new(&self.vectors, x.cols),
            queries,
            &mut self.teacher,
        );
        for (out, row) in self.vectors.chunks_exact_mut(x.cols).zip(&self.rows) {
            let row = *row as usize;
            course.coded.decode(
                row,
                &decoder.lists[course.coded.list(row)].values,
                &decoder.books,
                out,
            );
        }
        self.student.resize(n * queries.rows(), 0.0);
        products(
            MatRef::new(&self.vectors, x.cols),
            queries,
            &mut self.student,
        );
        for (side, scores) in [&mut self.student, &mut self.teacher]
            .into_iter()
            .enumerate()
        {
            if let Some(norms) = course.rows.norms {
                for (scores, row) in scores.chunks_exact_mut(queries.rows()).zip(&self.rows) {
                    let norm = norms[*row as usize];
                    scores.iter_mut().for_each(|s| *s = 2.0 * *s - norm);
                }
            }
            self.maxima[side].clear();
            self.maxima[side].resize(queries.rows(), f32::NEG_INFINITY);
            fold_maxima(scores, &mut self.maxima[side]);
        }
    }

    fn exponentials(&mut self, maxima: &[Vec<f32>; 2], temperature: f32) {
        for (side, scores) in [&mut self.student, &mut self.teacher]
            .into_iter()
            .enumerate()
        {
            self.sums[side].clear();
            self.sums[side].resize(maxima[side].len(), 0.0);
            exponentials(scores, &maxima[side], temperature, &mut self.sums[side]);
        }
    }

    fn differentiate(&mut self, course: &Course<'_>, queries: MatRef<'_>, totals: &Totals<'_>) {
        gradient(&mut self.student, &self.teacher, totals);
        let twice = if course.rows.norms.is_some() {
            2.0
        } else {
            1.0
        };
        for (scores, row) in self
            .student
            .chunks_exact_mut(queries.rows())
            .zip(&self.rows)
        {
            let factor = twice * course.coded.correction(*row as usize);
            scores.iter_mut().for_each(|s| *s *= factor);
        }
        self.gradient.resize(self.rows.len() * queries.cols, 0.0);
        combine(
            MatRef::new(&self.student, queries.rows()),
            queries,
            &mut self.gradient,
        );
    }
}

/// Sums the candidates' gradients into lists and codewords, and makes a step.
fn descend(
    course: &Course<'_>,
    decoder: &mut Decoder,
    parts: &[Part],
    rates: (f32, f32),
    share: f32,
) -> Result<(), TrainError> {
    sum_lists(course, decoder, parts, |list| list.step(rates.0 * share))?;
    sum_books(course, decoder, parts, |group| group.step(rates.1 * share))?;
    let stride = GROUP * decoder.books.stride();
    for (values, group) in decoder
        .books
        .values
        .chunks_mut(stride.max(1))
        .zip(&decoder.groups)
    {
        values.copy_from_slice(&group.values);
    }
    Ok(())
}

/// Adds the gradients of each list's candidates and calls `then` for the lists that have any.
fn sum_lists(
    course: &Course<'_>,
    decoder: &mut Decoder,
    parts: &[Part],
    then: impl Fn(&mut Param) + Sync + Send,
) -> Result<(), TrainError> {
    let cols = course.rows.x.cols;
    let mut members: Vec<Vec<&[f32]>> = vec![Vec::new(); decoder.lists.len()];
    for part in parts {
        for (row, gradient) in part.rows.iter().zip(part.gradient.chunks_exact(cols)) {
            members[course.coded.list(*row as usize)].push(gradient);
        }
    }
    par::each_mut(&mut decoder.lists, |list, param| {
        for gradient in &members[list] {
            param
                .gradient
                .iter_mut()
                .zip(*gradient)
                .for_each(|(sum, g)| *sum += g);
        }
        if !members[list].is_empty() {
            then(param);
        }
        Ok(())
    })
}

/// Adds the gradients of each codeword's candidates and calls `then` for every group.
fn sum_books(
    course: &Course<'_>,
    decoder: &mut Decoder,
    parts: &[Part],
    then: impl Fn(&mut Param) + Sync + Send,
) -> Result<(), TrainError> {
    let cols = course.rows.x.cols;
    let (width, stride) = (decoder.books.width, decoder.books.stride());
    par::each_mut(&mut decoder.groups, |group, param| {
        let first = group * GROUP;
        let from = (first * width).min(cols);
        let to = ((first + GROUP) * width).min(cols);
        for part in parts {
            for (row, gradient) in part.rows.iter().zip(part.gradient.chunks_exact(cols)) {
                let codes = course.coded.codes(*row as usize)[first..].iter();
                let books = param.gradient.chunks_exact_mut(stride);
                for ((gradient, code), book) in
                    gradient[from..to].chunks(width).zip(codes).zip(books)
                {
                    let word = &mut book[usize::from(*code) * width..];
                    word.iter_mut().zip(gradient).for_each(|(sum, g)| *sum += g);
                }
            }
        }
        then(param);
        Ok(())
    })
}

#[cfg(test)]
mod tests;
