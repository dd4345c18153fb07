//! The router in training: scores `(A·q)·U[list] + b[list]` of a batch, their gradients and Adam's steps.
//!
//! `U` starts at the routing's vectors and `A` at the unit matrix. Training both learns the same vectors `W = U·A` as
//! training `W` would, but what one list's queries teach about the difference between queries and rows reaches the others.
//!
//! Lists are worked on in shards whose size is fixed, so results do not depend on the number of threads.

use super::ListTargets;
use crate::distillation::adam::{Param, base_learning_rate};
use crate::distillation::loss::{SoftmaxSums, exponentials, fold_maxima, gradient};
use crate::error::TrainError;
use crate::progress::{Monitor, check_interrupts};
use distillvq_linalg::matrix::{MatRef, add_matmul_tn, matmul_nn, matmul_nt};
use distillvq_linalg::orthogonal::identity;
use distillvq_linalg::parallel;
use distillvq_model::params::Routing;

/// Lists per shard.
const SHARD_LISTS: usize = 64;
/// Rows of the other matrices that are worked on together.
const ROWS: usize = 32;
/// How fast vectors move, in units of the usual rate.
const VECTOR_RATE: f32 = 3.0;
/// How fast a bias moves, as a share of how fast a score moves when all values of its vector do at the usual rate.
const BIAS_RATE: f32 = 0.2;
/// How fast the values of the query transform move, as a share of their root mean square if it were any rotation.
const TRANSFORM_RATE: f32 = 0.02;

/// A shard of the lists; matrices have a row a list and a column a query.
pub(super) struct ListShard {
    pub vectors: Param,
    pub biases: Param,
    scores: Vec<f32>,
    targets: Vec<f32>,
    maxima: Vec<f32>,
    sums: Vec<f32>,
}

impl ListShard {
    fn new(vectors: &[f32], biases: &[f32]) -> ListShard {
        ListShard {
            vectors: Param::new(vectors),
            biases: Param::new(biases),
            scores: Vec::new(),
            targets: Vec::new(),
            maxima: Vec::new(),
            sums: Vec::new(),
        }
    }

    fn score(&mut self, transformed: MatRef<'_>) {
        let n = transformed.rows();
        self.scores.resize(self.biases.values.len() * n, 0.0);
        let vectors = MatRef::new(&self.vectors.values, transformed.cols);
        matmul_nt(vectors, transformed, &mut self.scores);
        for (scores, bias) in self.scores.chunks_exact_mut(n).zip(&self.biases.values) {
            scores.iter_mut().for_each(|s| *s += bias);
        }
        self.maxima.clear();
        self.maxima.resize(n, f32::NEG_INFINITY);
        fold_maxima(&self.scores, &mut self.maxima);
    }

    fn exponentials(&mut self, maxima: &[f32], temperature: f32) {
        self.sums.clear();
        self.sums.resize(maxima.len(), 0.0);
        exponentials(&mut self.scores, maxima, temperature, &mut self.sums);
    }

    /// Turns the exponentials into gradients of the scores, and fills those of vectors and biases.
    fn backward(&mut self, transformed: MatRef<'_>, totals: &SoftmaxSums<'_>) {
        gradient(&mut self.scores, &self.targets, totals);
        let gradients = MatRef::new(&self.scores, transformed.rows());
        matmul_nn(gradients, transformed, &mut self.vectors.gradient);
        let rows = self.scores.chunks_exact(transformed.rows());
        for (bias, scores) in self.biases.gradient.iter_mut().zip(rows) {
            *bias = scores.iter().sum();
        }
    }
}

/// State of the router's training.
pub(super) struct RouterTrainer {
    pub shards: Vec<ListShard>,
    /// `A`, square.
    pub query_transform: Param,
    cols: usize,
    temperature: f32,
    /// Rates of vectors, biases and the query transform.
    rates: [f32; 3],
    /// The batch after the query transform, and the gradient by it.
    transformed: Vec<f32>,
    query_gradients: Vec<f32>,
}

impl RouterTrainer {
    /// `length` is that of a typical query.
    pub fn new(start: &Routing, cols: usize, temperature: f32, length: f32) -> RouterTrainer {
        let vectors = start.vectors.chunks(SHARD_LISTS * cols);
        let shards = vectors.zip(start.biases.chunks(SHARD_LISTS));
        let usual = base_learning_rate(&start.vectors);
        let root = (cols as f32).sqrt();
        RouterTrainer {
            shards: shards.map(|(v, b)| ListShard::new(v, b)).collect(),
            query_transform: Param::new(&identity(cols)),
            cols,
            temperature,
            rates: [
                usual * VECTOR_RATE,
                usual * BIAS_RATE * root * length,
                TRANSFORM_RATE / root,
            ],
            transformed: Vec::new(),
            query_gradients: Vec::new(),
        }
    }

    /// The routing as learned so far, the query transform folded into its vectors.
    pub fn routing(&self, monitor: &dyn Monitor) -> Result<Routing, TrainError> {
        let query_transform = MatRef::new(&self.query_transform.values, self.cols);
        let vectors = parallel::map(self.shards.len(), |i| {
            check_interrupts(monitor)?;
            let vectors = &self.shards[i].vectors.values;
            let mut folded = vec![0f32; vectors.len()];
            matmul_nn(
                MatRef::new(vectors, self.cols),
                query_transform,
                &mut folded,
            );
            Ok::<_, TrainError>(folded)
        })?;
        let biases = self.shards.iter().flat_map(|p| &p.biases.values);
        Ok(Routing {
            vectors: vectors.concat(),
            biases: biases.copied().collect(),
        })
    }

    /// Fills all gradients for a batch and the shares of each of its queries.
    pub fn gradients(
        &mut self,
        queries: MatRef<'_>,
        shares: &[&ListTargets],
        monitor: &dyn Monitor,
    ) -> Result<(), TrainError> {
        self.transform_queries(queries, monitor)?;
        let (temperature, n) = (self.temperature, queries.rows());
        let transformed = MatRef::new(&self.transformed, self.cols);
        parallel::each_mut(&mut self.shards, |_, shard| {
            check_interrupts(monitor)?;
            shard.score(transformed);
            Ok(())
        })?;
        let mut maxima = vec![f32::NEG_INFINITY; n];
        for shard in &self.shards {
            let pairs = maxima.iter_mut().zip(&shard.maxima);
            pairs.for_each(|(m, p)| *m = m.max(*p));
        }
        parallel::each_mut(&mut self.shards, |_, shard| {
            check_interrupts(monitor)?;
            shard.exponentials(&maxima, temperature);
            Ok(())
        })?;
        let mut sums = vec![0f32; n];
        for shard in &self.shards {
            sums.iter_mut().zip(&shard.sums).for_each(|(s, p)| *s += p);
        }
        set_targets(&mut self.shards, shares);
        let totals = SoftmaxSums {
            student: &sums,
            teacher: &vec![1.0; n],
            temperature,
            batch: n,
        };
        parallel::each_mut(&mut self.shards, |_, shard| {
            check_interrupts(monitor)?;
            shard.backward(transformed, &totals);
            Ok(())
        })?;
        self.backward_transform(queries, monitor)
    }

    fn transform_queries(
        &mut self,
        queries: MatRef<'_>,
        monitor: &dyn Monitor,
    ) -> Result<(), TrainError> {
        let query_transform = MatRef::new(&self.query_transform.values, self.cols);
        self.transformed.resize(queries.data.len(), 0.0);
        parallel::chunks_mut(&mut self.transformed, ROWS * self.cols, |i, out| {
            check_interrupts(monitor)?;
            matmul_nt(
                queries.slice(i * ROWS, (i + 1) * ROWS),
                query_transform,
                out,
            );
            Ok(())
        })
    }

    /// Fills the gradient of the query transform from those of the scores.
    fn backward_transform(
        &mut self,
        queries: MatRef<'_>,
        monitor: &dyn Monitor,
    ) -> Result<(), TrainError> {
        let (shards, cols, n) = (&self.shards, self.cols, queries.rows());
        self.query_gradients.clear();
        self.query_gradients.resize(queries.data.len(), 0.0);
        parallel::chunks_mut(&mut self.query_gradients, ROWS * cols, |i, out| {
            for shard in shards {
                check_interrupts(monitor)?;
                let scores = MatRef::new(&shard.scores, n);
                add_matmul_tn(
                    scores,
                    i * ROWS,
                    MatRef::new(&shard.vectors.values, cols),
                    out,
                );
            }
            Ok(())
        })?;
        let gradients = MatRef::new(&self.query_gradients, cols);
        parallel::chunks_mut(&mut self.query_transform.gradient, ROWS * cols, |i, out| {
            check_interrupts(monitor)?;
            out.fill(0.0);
            add_matmul_tn(gradients, i * ROWS, queries, out);
            Ok(())
        })
    }

    /// Makes a step with a share of the full rates.
    pub fn apply_step(&mut self, share: f32, monitor: &dyn Monitor) -> Result<(), TrainError> {
        let [vectors, biases, query_transform] = self.rates.map(|rate| rate * share);
        parallel::each_mut(&mut self.shards, |_, shard| {
            check_interrupts(monitor)?;
            shard.vectors.step(vectors);
            shard.biases.step(biases);
            Ok(())
        })?;
        self.query_transform.step(query_transform);
        Ok(())
    }
}

/// Writes the targets, once the scores are exponentials. The share of two lists is divided in proportion to their probabilities.
/// The gradient is then that of the logarithm of the sum of both. Each query's targets sum to 1, so the teacher's sums are 1.
fn set_targets(shards: &mut [ListShard], shares: &[&ListTargets]) {
    let n = shares.len();
    for shard in shards.iter_mut() {
        shard.targets.clear();
        shard.targets.resize(shard.biases.values.len() * n, 0.0);
    }
    for (q, shares) in shares.iter().enumerate() {
        let position = |list: u32| {
            let list = list as usize;
            (list / SHARD_LISTS, list % SHARD_LISTS * n + q)
        };
        for ([first, second], share) in *shares {
            let (a, b) = (position(*first), position(*second));
            let [of_a, of_b] = [a, b].map(|(shard, i)| shards[shard].scores[i]);
            let part = if of_a + of_b > 0.0 {
                of_a / (of_a + of_b)
            } else {
                0.5
            };
            shards[a.0].targets[a.1] += share * part;
            shards[b.0].targets[b.1] += share * (1.0 - part);
        }
    }
}
