//! The decoder in training: scores of a batch's candidates, gradients, and Adam's steps.
//!
//! Candidates are worked on in shards of a fixed size, so results do not depend on the number of threads.

use super::{DecoderTrainOptions, DecoderTrainSet};
use crate::ablation::NegativeSampling;
use crate::distillation::adam::{Param, base_learning_rate};
use crate::distillation::loss::{BatchTotals, SUMS, fold_maxima};
use crate::error::TrainError;
use crate::progress::{Monitor, check_interrupts};
use distillvq_linalg::matrix::{MatRef, add_matmul_tn, matmul_nn, matmul_nt};
use distillvq_linalg::orthogonal::identity;
use distillvq_linalg::parallel;
use distillvq_model::codebooks::Codebooks;
use distillvq_model::params::{Decoder, IvfPqTables};
use std::ops::Range;

/// Candidates per shard.
const SHARD_ROWS: usize = 256;
/// Subquantizers whose gradients are summed together.
const GROUP: usize = 16;
/// Rows of the query transform that are worked on together.
const BLOCK: usize = 32;
/// How fast the values of the query transform move, as a share of their root mean square if it were any rotation.
const TRANSFORM_RATE: f32 = 0.02;

/// A shard of the batch's candidates and the queries that are compared on them; buffers are kept from step to step. Matrices
/// have one row per candidate.
#[derive(Default)]
struct CandidateShard {
    rows: Vec<u32>,
    queries: Range<usize>,
    vectors: Vec<f32>,
    teacher: Vec<f32>,
    student: Vec<f32>,
    /// `D`, one row per candidate.
    gradient: Vec<f32>,
    /// Gradient by the transformed queries, one row per query.
    query_gradient: Vec<f32>,
    maxima: [Vec<f32>; 2],
    sums: [Vec<f32>; SUMS],
}

/// State of the decoder's training: parameters and their gradients.
pub(super) struct DecoderTrainer<'a> {
    set: &'a DecoderTrainSet<'a>,
    options: &'a DecoderTrainOptions,
    monitor: &'a dyn Monitor,
    lists: Vec<Param>,
    /// Lists that have a gradient: the others are left alone in a step.
    touched: Vec<bool>,
    groups: Vec<Param>,
    /// The codebooks with the values of `groups`.
    books: Codebooks,
    query_transform: Option<Param>,
    /// Rates of lists, codebooks and the query transform.
    rates: [f32; 3],
    shards: Vec<CandidateShard>,
}

/// Queries of a batch, before and after the decoder's transform.
struct QueryBatch<'a> {
    queries: MatRef<'a>,
    transformed: MatRef<'a>,
}

impl<'a> DecoderTrainer<'a> {
    pub fn new(
        set: &'a DecoderTrainSet<'a>,
        start: &Decoder,
        options: &'a DecoderTrainOptions,
        monitor: &'a dyn Monitor,
    ) -> DecoderTrainer<'a> {
        let dim = set.rows.x.cols;
        let tables = &start.tables;
        let group = (GROUP * tables.books.stride()).max(1);
        let query_transform = if start.query_transform.is_empty() {
            options.query_transform.then(|| Param::new(&identity(dim)))
        } else {
            Some(Param::new(&start.query_transform))
        };
        DecoderTrainer {
            set,
            options,
            monitor,
            lists: tables.centroids.chunks_exact(dim).map(Param::new).collect(),
            touched: vec![false; tables.centroids.len() / dim],
            groups: tables.books.values.chunks(group).map(Param::new).collect(),
            books: tables.books.clone(),
            query_transform,
            rates: [
                base_learning_rate(&tables.centroids),
                base_learning_rate(&tables.books.values),
                TRANSFORM_RATE / (dim as f32).sqrt(),
            ],
            shards: Vec::new(),
        }
    }

    /// What has been learned.
    pub fn decoder(&self) -> Decoder {
        let centroids = self.lists.iter().flat_map(|list| &list.values);
        Decoder {
            tables: IvfPqTables {
                centroids: centroids.copied().collect(),
                books: self.books.clone(),
            },
            query_transform: (self.query_transform.as_ref())
                .map_or_else(Vec::new, |query_transform| query_transform.values.clone()),
        }
    }

    /// Fills all gradients for a batch of queries.
    pub fn gradients(&mut self, batch: &[u32]) -> Result<(), TrainError> {
        let cols = self.set.rows.x.cols;
        let (mut queries, mut transformed) = (Vec::new(), Vec::new());
        MatRef::new(&self.set.queries.vectors, cols).gather(batch, &mut queries);
        let queries = MatRef::new(&queries, cols);
        let transformed = match &self.query_transform {
            None => queries,
            Some(query_transform) => {
                transformed.resize(queries.data.len(), 0.0);
                matmul_nt(
                    queries,
                    MatRef::new(&query_transform.values, cols),
                    &mut transformed,
                );
                MatRef::new(&transformed, cols)
            }
        };
        let mut shards = std::mem::take(&mut self.shards);
        self.choose(batch, &mut shards);
        self.backward(
            &mut shards,
            &QueryBatch {
                queries,
                transformed,
            },
        )?;
        self.sum_lists(&shards);
        self.sum_books(&shards)?;
        self.sum_transform(&shards, queries)?;
        self.shards = shards;
        Ok(())
    }

    /// Deals the batch's candidates out to shards.
    fn choose(&self, batch: &[u32], shards: &mut Vec<CandidateShard>) {
        let near = |q: &u32, most: usize| {
            let best = &self.set.taught.best[*q as usize];
            best.iter().take(most).map(|(_, row)| *row)
        };
        let all = |most: usize| {
            let mut rows: Vec<u32> = batch.iter().flat_map(|q| near(q, most)).collect();
            rows.sort_unstable();
            rows.dedup();
            vec![(0..batch.len(), rows)]
        };
        let groups = match self.options.sampling {
            NegativeSampling::Both => all(usize::MAX),
            #[cfg(feature = "ablation")]
            NegativeSampling::InBatch => all(1),
            #[cfg(feature = "ablation")]
            NegativeSampling::OwnNeighbors => {
                let own = |(i, q)| (i..i + 1, near(q, usize::MAX).collect());
                batch.iter().enumerate().map(own).collect()
            }
        };
        let pieces: Vec<(&Range<usize>, &[u32])> = groups
            .iter()
            .flat_map(|(queries, rows)| rows.chunks(SHARD_ROWS).map(move |rows| (queries, rows)))
            .collect();
        shards.resize_with(pieces.len(), CandidateShard::default);
        for (shard, (queries, rows)) in shards.iter_mut().zip(pieces) {
            shard.rows.clear();
            shard.rows.extend_from_slice(rows);
            shard.queries = queries.clone();
        }
    }

    /// Fills the gradients of all shards.
    fn backward(
        &self,
        shards: &mut [CandidateShard],
        batch: &QueryBatch<'_>,
    ) -> Result<(), TrainError> {
        let (loss, temperature) = (self.options.loss, self.options.temperature);
        parallel::each_mut(shards, |_, shard| {
            check_interrupts(self.monitor)?;
            self.score(shard, batch);
            Ok(())
        })?;
        let n = batch.queries.rows();
        let maxima = [0, 1].map(|side| {
            let all = shards.iter().map(|p| (&p.queries, &p.maxima[side][..]));
            reduce(all, n, f32::NEG_INFINITY, f32::max)
        });
        parallel::each_mut(shards, |_, shard| {
            check_interrupts(self.monitor)?;
            let maxima = [0, 1].map(|side| &maxima[side][shard.queries.clone()]);
            for sums in &mut shard.sums {
                sums.clear();
                sums.resize(shard.queries.len(), 0.0);
            }
            loss.sum(
                &mut shard.student,
                &mut shard.teacher,
                maxima,
                temperature,
                &mut shard.sums,
            );
            Ok(())
        })?;
        let sums: [Vec<f32>; SUMS] = std::array::from_fn(|i| {
            let all = shards.iter().map(|p| (&p.queries, &p.sums[i][..]));
            reduce(all, n, 0.0, |a, b| a + b)
        });
        parallel::each_mut(shards, |_, shard| {
            check_interrupts(self.monitor)?;
            let totals = BatchTotals {
                maxima: [0, 1].map(|side| &maxima[side][shard.queries.clone()]),
                sums: std::array::from_fn(|i| &sums[i][shard.queries.clone()]),
                temperature,
                batch: n,
            };
            loss.backward(&mut shard.student, &shard.teacher, &totals);
            self.propagate(shard, batch);
            Ok(())
        })
    }

    /// Scores of both sides and their maxima, per query.
    fn score(&self, shard: &mut CandidateShard, batch: &QueryBatch<'_>) {
        let set = self.set;
        let (x, n) = (set.rows.x, shard.rows.len());
        let queries = batch.queries.slice(shard.queries.start, shard.queries.end);
        let transformed = batch
            .transformed
            .slice(shard.queries.start, shard.queries.end);
        x.gather(&shard.rows, &mut shard.vectors);
        shard.teacher.resize(n * queries.rows(), 0.0);
        let vectors = MatRef::new(&shard.vectors, x.cols);
        matmul_nt(vectors, queries, &mut shard.teacher);
        for (out, row) in shard.vectors.chunks_exact_mut(x.cols).zip(&shard.rows) {
            let row = *row as usize;
            let base = &self.lists[set.coded.list(row)].values;
            set.coded.decode(row, base, &self.books, out);
        }
        shard.student.resize(n * queries.rows(), 0.0);
        let vectors = MatRef::new(&shard.vectors, x.cols);
        matmul_nt(vectors, transformed, &mut shard.student);
        let sides = [&mut shard.student, &mut shard.teacher];
        for (scores, maxima) in sides.into_iter().zip(&mut shard.maxima) {
            if let Some(norms) = set.rows.norms {
                for (scores, row) in scores.chunks_exact_mut(queries.rows()).zip(&shard.rows) {
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
    fn propagate(&self, shard: &mut CandidateShard, batch: &QueryBatch<'_>) {
        let cols = batch.queries.cols;
        let transformed = batch
            .transformed
            .slice(shard.queries.start, shard.queries.end);
        if self.set.rows.norms.is_some() {
            shard.student.iter_mut().for_each(|s| *s *= 2.0);
        }
        if self.query_transform.is_some() {
            shard.query_gradient.clear();
            shard.query_gradient.resize(transformed.data.len(), 0.0);
            let scores = MatRef::new(&shard.student, transformed.rows());
            let vectors = MatRef::new(&shard.vectors, cols);
            add_matmul_tn(scores, 0, vectors, &mut shard.query_gradient);
        }
        let rows = shard.student.chunks_exact_mut(transformed.rows());
        for (scores, row) in rows.zip(&shard.rows) {
            let factor = self.set.coded.correction(*row as usize);
            scores.iter_mut().for_each(|s| *s *= factor);
        }
        shard.gradient.resize(shard.rows.len() * cols, 0.0);
        let scores = MatRef::new(&shard.student, transformed.rows());
        matmul_nn(scores, transformed, &mut shard.gradient);
    }

    /// Adds the candidates' gradients to those of their lists.
    fn sum_lists(&mut self, shards: &[CandidateShard]) {
        let cols = self.set.rows.x.cols;
        for shard in shards {
            for (row, gradient) in shard.rows.iter().zip(shard.gradient.chunks_exact(cols)) {
                let list = self.set.coded.list(*row as usize);
                let sums = self.lists[list].gradient.iter_mut().zip(gradient);
                sums.for_each(|(sum, g)| *sum += g);
                self.touched[list] = true;
            }
        }
    }

    /// Adds the candidates' gradients to those of their codewords.
    fn sum_books(&mut self, shards: &[CandidateShard]) -> Result<(), TrainError> {
        let cols = self.set.rows.x.cols;
        let (width, stride) = (self.books.width, self.books.stride());
        let (coded, monitor) = (&self.set.coded, self.monitor);
        let books = &self.books;
        let ranges: Vec<_> = (0..books.subquantizers).map(|s| books.range(s)).collect();
        parallel::each_mut(&mut self.groups, |group, param| {
            check_interrupts(monitor)?;
            let first = group * GROUP;
            let ranges = &ranges[first..(first + GROUP).min(ranges.len())];
            for shard in shards {
                for (row, gradient) in shard.rows.iter().zip(shard.gradient.chunks_exact(cols)) {
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

    /// Sums the gradient of the query transform.
    fn sum_transform(
        &mut self,
        shards: &[CandidateShard],
        queries: MatRef<'_>,
    ) -> Result<(), TrainError> {
        let (cols, monitor) = (queries.cols, self.monitor);
        let Some(query_transform) = &mut self.query_transform else {
            return Ok(());
        };
        let mut query_gradients = vec![0f32; queries.data.len()];
        for shard in shards {
            let at = shard.queries.start * cols;
            let query_gradients = query_gradients[at..].iter_mut().zip(&shard.query_gradient);
            query_gradients.for_each(|(sum, query_gradient)| *sum += query_gradient);
        }
        parallel::chunks_mut(&mut query_transform.gradient, BLOCK * cols, |i, out| {
            check_interrupts(monitor)?;
            add_matmul_tn(MatRef::new(&query_gradients, cols), i * BLOCK, queries, out);
            Ok(())
        })
    }

    /// Makes a step with a share of the full rates.
    pub fn apply_step(&mut self, share: f32) -> Result<(), TrainError> {
        let [lists, books, query_transform] = self.rates.map(|rate| rate * share);
        let monitor = self.monitor;
        let touched = self.touched.iter_mut().map(std::mem::take);
        let moved = self.lists.iter_mut().zip(touched);
        for (list, _) in moved.filter(|(_, touched)| *touched) {
            list.step(lists);
        }
        parallel::each_mut(&mut self.groups, |_, group| {
            check_interrupts(monitor)?;
            group.step(books);
            Ok(())
        })?;
        if let Some(param) = &mut self.query_transform {
            param.step(query_transform);
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
impl DecoderTrainer<'_> {
    /// Gradients of lists, codebooks and the query transform.
    pub fn flat_gradients(&self) -> [Vec<f32>; 3] {
        let all = |params: &[Param]| params.iter().flat_map(|p| p.gradient.clone()).collect();
        [
            all(&self.lists),
            all(&self.groups),
            self.query_transform
                .as_ref()
                .map_or_else(Vec::new, |t| t.gradient.clone()),
        ]
    }
}
