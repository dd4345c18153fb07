//! Routing: which lists a query probes, learned from logged queries.
//!
//! A query's score of a list is `q·W[list] + b[list]`. It is trained as a classifier over all lists by ListNet; the target
//! is the share of the query's neighbors that each list holds, a neighbor weighted by the teacher's softmax: the nearest
//! hundred tell more of where neighbors may be than the nearest ten. Only logged queries are learned from: a router that
//! is trained on rows used as queries loses 1 to 3 points of recall on real ones against the plain centroids.
//!
//! What each part is worth, in rows scanned for 0.95 and 0.975 of the true ten against the normalized centroids (343 lists
//! over 117,659 embedded sentences, 30,000 logged queries, measured on 3,000 others in a prototype):
//! * shares of the nearest ten: 13 and 14 % fewer;
//! * what a probe costs is the length of the list, so lists are ranked by share a row, each bias being lowered by the
//!   logarithm of the list's size: 16 and 16 %;
//! * softened shares of the nearest hundred, and three times the usual rate: 19 and 22 %;
//! * `W = U·A` with a query transform `A` that all lists share (see `trainer`): 20 and 23 %.
//!
//! Mixing queries, noise on them, a pull towards the start, and temperatures other than that which explains the targets
//! best lost; a second vector a list and a hidden layer gained nothing over the shared transform. Neighbors within a part of
//! the rows are poor targets even for many queries: a half loses 4 points, a quarter 7 to 9.

mod trainer;

use crate::distillation::adam::lr_schedule;
use crate::error::TrainError;
use crate::evaluation::{BestSoFar, mean};
use crate::progress::{Monitor, check_interrupts};
use distillvq_linalg::matrix::{MatRef, matmul_nt, squared_norm};
use distillvq_linalg::parallel;
use distillvq_model::format::Metric;
use distillvq_model::params::Routing;
use distillvq_model::query::ranking::centroid_routing;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use trainer::RouterTrainer;

/// Queries a step.
const BATCH: usize = 256;
/// Queries per tile of scores; interrupts are checked between tiles.
const QUERIES_PER_TILE: usize = 16;
/// Steps that training takes if that needs neither fewer nor more passes over the queries than these.
const STEPS: usize = 700;
const PASSES: std::ops::RangeInclusive<usize> = 4..=20;
/// Fractions of the rows scanned when routing recall is measured.
const SCAN_BUDGETS: [f32; 4] = [0.02, 0.05, 0.1, 0.2];
/// How much the logarithm of a list's size counts against it. 1 would be right if the learned shares were; 0.5 and 1 are
/// each about a point worse.
const SIZE_WEIGHT: f32 = 0.75;

/// Softmax targets of a query: the lists of its neighbors, with the weight of the neighbors in them; the weights sum to 1. A
/// neighbor in two lists is found in either. A neighbor in one list has it twice.
pub type ListTargets = Vec<([u32; 2], f32)>;

/// Queries with the lists of their neighbors.
pub struct RoutingSet<'a> {
    /// Internal vectors.
    pub vectors: MatRef<'a>,
    /// Which of them are meant.
    pub picked: &'a [u32],
    /// Targets of each picked query.
    pub shares: &'a [ListTargets],
}

/// The routing of a model without trained routing.
pub fn untrained(metric: Metric, centroids: MatRef<'_>, half_norms: &[f32]) -> Routing {
    let (norms, mut biases) = centroid_routing(metric, half_norms.to_vec());
    biases.resize(half_norms.len(), 0.0);
    let mut vectors = centroids.data.to_vec();
    for (vector, norm) in vectors.chunks_exact_mut(centroids.cols).zip(norms) {
        vector.iter_mut().for_each(|x| *x /= norm);
    }
    Routing { vectors, biases }
}

/// The shares of the lists in neighbors that are given with their scores and lists, each weighted by
/// `exp(score/temperature)`; alike without a temperature. Ascending by lists.
pub fn shares(near: &[(f32, [u32; 2])], temperature: Option<f32>) -> ListTargets {
    let best = near
        .iter()
        .map(|(s, _)| *s)
        .fold(f32::NEG_INFINITY, f32::max);
    let weight = |score: f32| temperature.map_or(1.0, |t| ((score - best) / t).exp());
    let mut shares: ListTargets = near.iter().map(|(s, lists)| (*lists, weight(*s))).collect();
    shares.sort_unstable_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
    shares.dedup_by(|next, kept| {
        let same = next.0 == kept.0;
        if same {
            kept.1 += next.1;
        }
        same
    });
    let sum: f32 = shares.iter().map(|(_, weight)| weight).sum();
    shares.iter_mut().for_each(|(_, weight)| *weight /= sum);
    shares
}

impl RoutingSet<'_> {
    /// Calls `of` with the scores of every query among the first `most`, and its shares.
    fn map<T: Send>(
        &self,
        most: usize,
        routing: &Routing,
        monitor: &dyn Monitor,
        of: impl Fn(&mut [f32], &ListTargets) -> T + Sync + Send,
    ) -> Result<Vec<T>, TrainError> {
        let lists = routing.biases.len();
        let picked = &self.picked[..self.picked.len().min(most)];
        let blocks = parallel::map(picked.len().div_ceil(QUERIES_PER_TILE), |block| {
            check_interrupts(monitor)?;
            let at = block * QUERIES_PER_TILE;
            let mut queries = Vec::new();
            let few = &picked[at..picked.len().min(at + QUERIES_PER_TILE)];
            self.vectors.gather(few, &mut queries);
            let queries = MatRef::new(&queries, self.vectors.cols);
            let mut scores = vec![0f32; few.len() * lists];
            let vectors = MatRef::new(&routing.vectors, queries.cols);
            matmul_nt(queries, vectors, &mut scores);
            let rows = scores.chunks_exact_mut(lists).zip(&self.shares[at..]);
            let rows = rows.map(|(scores, shares)| {
                let biased = scores.iter_mut().zip(&routing.biases);
                biased.for_each(|(s, b)| *s += b);
                of(scores, shares)
            });
            Ok::<_, TrainError>(rows.collect::<Vec<T>>())
        })?;
        Ok(blocks.into_iter().flatten().collect())
    }

    /// Mean share of each query's neighbors in the lists that are probed within the budgets.
    pub fn recalls(
        &self,
        routing: &Routing,
        sizes: &[usize],
        monitor: &dyn Monitor,
    ) -> Result<Vec<f32>, TrainError> {
        let rows = sizes.iter().sum();
        self.map(usize::MAX, routing, monitor, |scores, shares| {
            recall(scores, sizes, rows, shares)
        })
    }
}

/// Recall of one query, averaged over the budgets.
fn recall(scores: &[f32], sizes: &[usize], rows: usize, shares: &ListTargets) -> f32 {
    let mut order: Vec<u32> = (0..scores.len() as u32).collect();
    order.sort_unstable_by(|a, b| scores[*b as usize].total_cmp(&scores[*a as usize]));
    // How many rows have been read when a list is done, in the order of probing.
    let mut read = vec![0usize; scores.len()];
    let mut sum = 0;
    for list in order {
        sum += sizes[list as usize];
        read[list as usize] = sum;
    }
    let first = read.iter().copied().min().unwrap_or(0);
    let within = |budget: f32| {
        let most = ((budget * rows as f32) as usize).max(first);
        let found = shares
            .iter()
            .filter(|(lists, _)| lists.iter().any(|list| read[*list as usize] <= most));
        found.map(|(_, share)| share).sum::<f32>()
    };
    mean(&SCAN_BUDGETS.map(within))
}

/// Trains the routing from `start`. `sizes` are the rows per list. `evaluate` gives the recall of every held-out query and is
/// asked once a pass over the queries; the routing with the best mean is returned with its recalls.
pub fn train(
    set: &RoutingSet<'_>,
    start: &Routing,
    sizes: &[usize],
    seed: u64,
    monitor: &dyn Monitor,
    evaluate: impl Fn(&Routing) -> Result<Vec<f32>, TrainError>,
) -> Result<Option<(Routing, Vec<f32>)>, TrainError> {
    let cols = set.vectors.cols;
    let Some(temperature) = temperature(set, start, monitor)? else {
        return Ok(None);
    };
    let length = length(set);
    let mut trainer = RouterTrainer::new(start, cols, temperature, length);
    let mut order: Vec<u32> = (0..set.picked.len() as u32).collect();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let a_pass = order.len().div_ceil(BATCH);
    let passes = (STEPS / a_pass.max(1)).clamp(*PASSES.start(), *PASSES.end());
    let mut best = BestSoFar::default();
    let mut step = 0;
    let mut queries = Vec::new();
    for _ in 0..passes {
        order.shuffle(&mut rng);
        for batch in order.chunks(BATCH) {
            let picked: Vec<u32> = batch.iter().map(|q| set.picked[*q as usize]).collect();
            set.vectors.gather(&picked, &mut queries);
            let shares: Vec<&ListTargets> =
                batch.iter().map(|q| &set.shares[*q as usize]).collect();
            trainer.gradients(MatRef::new(&queries, cols), &shares, monitor)?;
            trainer.apply_step(lr_schedule(step, passes * a_pass), monitor)?;
            step += 1;
        }
        let mut routing = trainer.routing(monitor)?;
        penalize_long_lists(&mut routing.biases, sizes, SIZE_WEIGHT * temperature);
        let recalls = evaluate(&routing)?;
        best.offer(routing, recalls);
    }
    Ok(best.take())
}

/// Lowers the biases of long lists and raises those of short ones.
fn penalize_long_lists(biases: &mut [f32], sizes: &[usize], weight: f32) {
    let mean = sizes.iter().sum::<usize>() as f32 / sizes.len().max(1) as f32;
    for (bias, size) in biases.iter_mut().zip(sizes) {
        *bias -= weight * ((*size).max(1) as f32 / mean.max(1.0)).ln();
    }
}

/// Root mean square of the queries' lengths.
fn length(set: &RoutingSet<'_>) -> f32 {
    let squares = set
        .picked
        .iter()
        .map(|q| f64::from(squared_norm(set.vectors.row(*q as usize))));
    (squares.sum::<f64>() / set.picked.len().max(1) as f64).sqrt() as f32
}

/// The temperature at which the start explains the targets best: scores have no scale of their own here.
fn temperature(
    set: &RoutingSet<'_>,
    start: &Routing,
    monitor: &dyn Monitor,
) -> Result<Option<f32>, TrainError> {
    let spreads = set.map(BATCH, start, monitor, |scores, _| {
        scores.iter().fold(0f32, |a, s| a.max(s.abs()))
    })?;
    let spread = spreads.into_iter().fold(0f32, f32::max);
    let candidates: Vec<f32> = (0..24)
        .map(|i| spread * 0.5f32.powf(i as f32 / 2.0))
        .filter(|t| t.is_normal())
        .collect();
    let losses = set.map(BATCH, start, monitor, |scores, shares| {
        let loss = |t: &f32| loss(scores, shares, *t);
        candidates.iter().map(loss).collect::<Vec<f64>>()
    })?;
    let total = |i: usize| losses.iter().map(|losses| losses[i]).sum::<f64>();
    let totals = candidates.iter().enumerate().map(|(i, t)| (total(i), *t));
    Ok(totals.min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, t)| t))
}

/// Cross-entropy of a query's shares and the softmax of its scores. The probability of two lists is the sum of both.
fn loss(scores: &[f32], shares: &ListTargets, temperature: f32) -> f64 {
    let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let logit = |score: f32| f64::from((score - max) / temperature);
    let sum: f64 = scores.iter().map(|s| logit(*s).exp()).sum();
    let found = shares.iter().map(|([first, second], share)| {
        let (a, b) = (
            logit(scores[*first as usize]),
            logit(scores[*second as usize]),
        );
        let either = if first == second {
            a
        } else {
            a.max(b) + (-(a - b).abs()).exp().ln_1p()
        };
        f64::from(*share) * either
    });
    sum.ln() - found.sum::<f64>()
}

#[cfg(test)]
mod tests;
