//! The decoder in training: scores of a batch's candidates, gradients, and Adam's steps.
//!
//! Candidates are worked on in parts of a fixed size, so results do not depend on the number of threads.

use super::{Course, Plan};
use crate::adam::{Param, rate};
use crate::linalg::{MatRef, add_transposed, combine, products};
use crate::loss::{Found, SUMS, fold_maxima};
use crate::model::{Decoder, Tables};
use crate::product::Codebooks;
use crate::rotation::identity;
use crate::train::keep_on;
use crate::{Monitor, Sampling, TrainError, par};
use std::ops::Range;

/// Candidates that are worked on together.
const PART: usize = 256;
/// Sub-quantizers whose gradients are summed together.
const GROUP: usize = 16;
/// Rows of the turn that are worked on together.
const BLOCK: usize = 32;
/// How fast the values of the turn move, as a share of their root mean square if it were any rotation.
const TURN_RATE: f32 = 0.02;

/// Some candidates and the queries of the batch that are compared on them; buffers are kept from step to step. Matrices
/// have a row a candidate.
#[derive(Default)]
struct Part {
    rows: Vec<u32>,
    queries: Range<usize>,
    vectors: Vec<f32>,
    teacher: Vec<f32>,
    student: Vec<f32>,
    /// `D`, a row a candidate.
    gradient: Vec<f32>,
    /// Gradient by the turned queries, a row a query.
    pull: Vec<f32>,
    maxima: [Vec<f32>; 2],
    sums: [Vec<f32>; SUMS],
}

/// The decoder in training.
pub(super) struct Learner<'a> {
    course: &'a Course<'a>,
    plan: &'a Plan,
    monitor: &'a dyn Monitor,
    lists: Vec<Param>,
    /// Lists that have a gradient: the others are left alone in a step.
    touched: Vec<bool>,
    groups: Vec<Param>,
    /// The codebooks with the values of `groups`.
    books: Codebooks,
    turn: Option<Param>,
    /// Rates of lists, codebooks and the turn.
    rates: [f32; 3],
    parts: Vec<Part>,
}

/// Queries of a batch, and as the student sees them.
struct Batch<'a> {
    queries: MatRef<'a>,
    turned: MatRef<'a>,
}

impl<'a> Learner<'a> {
    pub fn new(
        course: &'a Course<'a>,
        start: &Decoder,
        plan: &'a Plan,
        monitor: &'a dyn Monitor,
    ) -> Learner<'a> {
        let dim = course.rows.x.cols;
        let tables = &start.tables;
        let group = (GROUP * tables.books.stride()).max(1);
        let turn = if start.turn.is_empty() {
            plan.turn.then(|| Param::new(&identity(dim)))
        } else {
            Some(Param::new(&start.turn))
        };
        Learner {
            course,
            plan,
            monitor,
            lists: tables.centroids.chunks_exact(dim).map(Param::new).collect(),
            touched: vec![false; tables.centroids.len() / dim],
            groups: tables.books.values.chunks(group).map(Param::new).collect(),
            books: tables.books.clone(),
            turn,
            rates: [
                rate(&tables.centroids),
                rate(&tables.books.values),
                TURN_RATE / (dim as f32).sqrt(),
            ],
            parts: Vec::new(),
        }
    }

    /// What has been learned.
    pub fn decoder(&self) -> Decoder {
        let centroids = self.lists.iter().flat_map(|list| &list.values);
        Decoder {
            tables: Tables {
                centroids: centroids.copied().collect(),
                books: self.books.clone(),
            },
            turn: (self.turn.as_ref()).map_or_else(Vec::new, |turn| turn.values.clone()),
        }
    }

    /// Fills all gradients for a batch of queries.
    pub fn gradients(&mut self, batch: &[u32]) -> Result<(), TrainError> {
        let cols = self.course.rows.x.cols;
        let (mut queries, mut turned) = (Vec::new(), Vec::new());
        MatRef::new(&self.course.queries.vectors, cols).gather(batch, &mut queries);
        let queries = MatRef::new(&queries, cols);
        let turned = match &self.turn {
            None => queries,
            Some(turn) => {
                turned.resize(queries.data.len(), 0.0);
                products(queries, MatRef::new(&turn.values, cols), &mut turned);
                MatRef::new(&turned, cols)
            }
        };
        let mut parts = std::mem::take(&mut self.parts);
        self.choose(batch, &mut parts);
        self.differentiate(&mut parts, &Batch { queries, turned })?;
        self.sum_lists(&parts);
        self.sum_books(&parts)?;
        self.sum_turn(&parts, queries)?;
        self.parts = parts;
        Ok(())
    }

    /// Deals the batch's candidates out to parts.
    fn choose(&self, batch: &[u32], parts: &mut Vec<Part>) {
        let near = |q: &u32, most: usize| {
            let best = &self.course.taught.best[*q as usize];
            best.iter().take(most).map(|(_, row)| *row)
        };
        let all = |most: usize| {
            let mut rows: Vec<u32> = batch.iter().flat_map(|q| near(q, most)).collect();
            rows.sort_unstable();
            rows.dedup();
            vec![(0..batch.len(), rows)]
        };
        let groups = match self.plan.sampling {
            Sampling::Both => all(usize::MAX),
            Sampling::InBatch => all(1),
            Sampling::Own => {
                let own = |(i, q)| (i..i + 1, near(q, usize::MAX).collect());
                batch.iter().enumerate().map(own).collect()
            }
        };
        let pieces: Vec<(&Range<usize>, &[u32])> = groups
            .iter()
            .flat_map(|(queries, rows)| rows.chunks(PART).map(move |rows| (queries, rows)))
            .collect();
        parts.resize_with(pieces.len(), Part::default);
        for (part, (queries, rows)) in parts.iter_mut().zip(pieces) {
            part.rows.clear();
            part.rows.extend_from_slice(rows);
            part.queries = queries.clone();
        }
    }

    /// Fills the gradients of all parts.
    fn differentiate(&self, parts: &mut [Part], batch: &Batch<'_>) -> Result<(), TrainError> {
        let (loss, temperature) = (self.plan.loss, self.plan.temperature);
        par::each_mut(parts, |_, part| {
            keep_on(self.monitor)?;
            self.score(part, batch);
            Ok(())
        })?;
        let n = batch.queries.rows();
        let maxima = [0, 1].map(|side| {
            let all = parts.iter().map(|p| (&p.queries, &p.maxima[side][..]));
            reduce(all, n, f32::NEG_INFINITY, f32::max)
        });
        par::each_mut(parts, |_, part| {
            keep_on(self.monitor)?;
            let maxima = [0, 1].map(|side| &maxima[side][part.queries.clone()]);
            for sums in &mut part.sums {
                sums.clear();
                sums.resize(part.queries.len(), 0.0);
            }
            loss.sum(
                &mut part.student,
                &mut part.teacher,
                maxima,
                temperature,
                &mut part.sums,
            );
            Ok(())
        })?;
        let sums: [Vec<f32>; SUMS] = std::array::from_fn(|i| {
            let all = parts.iter().map(|p| (&p.queries, &p.sums[i][..]));
            reduce(all, n, 0.0, |a, b| a + b)
        });
        par::each_mut(parts, |_, part| {
            keep_on(self.monitor)?;
            let found = Found {
                maxima: [0, 1].map(|side| &maxima[side][part.queries.clone()]),
                sums: std::array::from_fn(|i| &sums[i][part.queries.clone()]),
                temperature,
                batch: n,
            };
            loss.differentiate(&mut part.student, &part.teacher, &found);
            self.propagate(part, batch);
            Ok(())
        })
    }

    /// Scores of both sides and their maxima a query.
    fn score(&self, part: &mut Part, batch: &Batch<'_>) {
        let course = self.course;
        let (x, n) = (course.rows.x, part.rows.len());
        let queries = batch.queries.slice(part.queries.start, part.queries.end);
        let turned = batch.turned.slice(part.queries.start, part.queries.end);
        x.gather(&part.rows, &mut part.vectors);
        part.teacher.resize(n * queries.rows(), 0.0);
        let vectors = MatRef::new(&part.vectors, x.cols);
        products(vectors, queries, &mut part.teacher);
        for (out, row) in part.vectors.chunks_exact_mut(x.cols).zip(&part.rows) {
            let row = *row as usize;
            let base = &self.lists[course.coded.list(row)].values;
            course.coded.decode(row, base, &self.books, out);
        }
        part.student.resize(n * queries.rows(), 0.0);
        let vectors = MatRef::new(&part.vectors, x.cols);
        products(vectors, turned, &mut part.student);
        let sides = [&mut part.student, &mut part.teacher];
        for (scores, maxima) in sides.into_iter().zip(&mut part.maxima) {
            if let Some(norms) = course.rows.norms {
                for (scores, row) in scores.chunks_exact_mut(queries.rows()).zip(&part.rows) {
                    let norm = norms[*row as usize];
                    scores.iter_mut().for_each(|s| *s = 2.0 * *s - norm);
                }
            }
            maxima.clear();
            maxima.resize(queries.rows(), f32::NEG_INFINITY);
            fold_maxima(scores, maxima);
        }
    }

    /// From the gradient by the scores to those by candidates and turned queries.
    fn propagate(&self, part: &mut Part, batch: &Batch<'_>) {
        let cols = batch.queries.cols;
        let turned = batch.turned.slice(part.queries.start, part.queries.end);
        if self.course.rows.norms.is_some() {
            part.student.iter_mut().for_each(|s| *s *= 2.0);
        }
        if self.turn.is_some() {
            part.pull.clear();
            part.pull.resize(turned.data.len(), 0.0);
            let scores = MatRef::new(&part.student, turned.rows());
            let vectors = MatRef::new(&part.vectors, cols);
            add_transposed(scores, 0, vectors, &mut part.pull);
        }
        let rows = part.student.chunks_exact_mut(turned.rows());
        for (scores, row) in rows.zip(&part.rows) {
            let factor = self.course.coded.correction(*row as usize);
            scores.iter_mut().for_each(|s| *s *= factor);
        }
        part.gradient.resize(part.rows.len() * cols, 0.0);
        let scores = MatRef::new(&part.student, turned.rows());
        combine(scores, turned, &mut part.gradient);
    }

    /// Adds the candidates' gradients to those of their lists.
    fn sum_lists(&mut self, parts: &[Part]) {
        let cols = self.course.rows.x.cols;
        for part in parts {
            for (row, gradient) in part.rows.iter().zip(part.gradient.chunks_exact(cols)) {
                let list = self.course.coded.list(*row as usize);
                let sums = self.lists[list].gradient.iter_mut().zip(gradient);
                sums.for_each(|(sum, g)| *sum += g);
                self.touched[list] = true;
            }
        }
    }

    /// Adds the candidates' gradients to those of their codewords.
    fn sum_books(&mut self, parts: &[Part]) -> Result<(), TrainError> {
        let cols = self.course.rows.x.cols;
        let (width, stride) = (self.books.width, self.books.stride());
        let (coded, monitor) = (&self.course.coded, self.monitor);
        let books = &self.books;
        let ranges: Vec<_> = (0..books.subquantizers).map(|s| books.range(s)).collect();
        par::each_mut(&mut self.groups, |group, param| {
            keep_on(monitor)?;
            let first = group * GROUP;
            let ranges = &ranges[first..(first + GROUP).min(ranges.len())];
            for part in parts {
                for (row, gradient) in part.rows.iter().zip(part.gradient.chunks_exact(cols)) {
                    let codes = &coded.codes(*row as usize)[first..];
                    let books = param.gradient.chunks_exact_mut(stride);
                    for ((range, code), book) in ranges.iter().zip(codes).zip(books) {
                        let word = book[usize::from(*code) * width..].iter_mut();
                        let gradient = &gradient[range.clone()];
                        word.zip(gradient).for_each(|(sum, g)| *sum += g);
                    }
                }
            }
            Ok(())
        })
    }

    /// Sums the gradient of the turn.
    fn sum_turn(&mut self, parts: &[Part], queries: MatRef<'_>) -> Result<(), TrainError> {
        let (cols, monitor) = (queries.cols, self.monitor);
        let Some(turn) = &mut self.turn else {
            return Ok(());
        };
        let mut pulls = vec![0f32; queries.data.len()];
        for part in parts {
            let at = part.queries.start * cols;
            let pulls = pulls[at..].iter_mut().zip(&part.pull);
            pulls.for_each(|(sum, pull)| *sum += pull);
        }
        par::chunks_mut(&mut turn.gradient, BLOCK * cols, |i, out| {
            keep_on(monitor)?;
            add_transposed(MatRef::new(&pulls, cols), i * BLOCK, queries, out);
            Ok(())
        })
    }

    /// Makes a step with a share of the full rates.
    pub fn descend(&mut self, share: f32) -> Result<(), TrainError> {
        let [lists, books, turn] = self.rates.map(|rate| rate * share);
        let monitor = self.monitor;
        let touched = self.touched.iter_mut().map(std::mem::take);
        let moved = self.lists.iter_mut().zip(touched);
        for (list, _) in moved.filter(|(_, touched)| *touched) {
            list.step(lists);
        }
        par::each_mut(&mut self.groups, |_, group| {
            keep_on(monitor)?;
            group.step(books);
            Ok(())
        })?;
        if let Some(param) = &mut self.turn {
            param.step(turn);
        }
        let group = (GROUP * self.books.stride()).max(1);
        let values = self.books.values.chunks_mut(group);
        for (values, group) in values.zip(&self.groups) {
            values.copy_from_slice(&group.values);
        }
        Ok(())
    }
}

/// Folds vectors over ranges of `n` entries together, in order.
fn reduce<'a>(
    vectors: impl Iterator<Item = (&'a Range<usize>, &'a [f32])>,
    n: usize,
    start: f32,
    fold: impl Fn(f32, f32) -> f32,
) -> Vec<f32> {
    let mut out = vec![start; n];
    for (range, vector) in vectors {
        let out = out[range.clone()].iter_mut().zip(vector);
        out.for_each(|(o, x)| *o = fold(*o, *x));
    }
    out
}

#[cfg(test)]
impl Learner<'_> {
    /// Gradients of lists, codebooks and the turn.
    pub fn slopes(&self) -> [Vec<f32>; 3] {
        let all = |params: &[Param]| params.iter().flat_map(|p| p.gradient.clone()).collect();
        [
            all(&self.lists),
            all(&self.groups),
            self.turn
                .as_ref()
                .map_or_else(Vec::new, |t| t.gradient.clone()),
        ]
    }
}
