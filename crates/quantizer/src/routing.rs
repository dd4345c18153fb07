//! Routing: which lists a query probes, learned from logged queries.
//!
//! A query's score of a list is `q·W[list] + b[list]`, and the target is the share of the query's exact neighbours that
//! lie in the list; ListNet over all lists. Only logged queries are learned from: a router that is trained on rows posing
//! as queries loses 1 to 3 points of recall on real ones against the plain centroids.

use crate::adam::{Param, rate, schedule};
use crate::exam::{Best, mean};
use crate::linalg::{MatRef, combine, norm2, products};
use crate::loss::{Totals, exponentials, fold_maxima, gradient};
use crate::model::Routing;
use crate::train::keep_on;
use crate::{Metric, Monitor, TrainError, par};
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// Lists that are worked on together.
const PART: usize = 64;
/// Queries a step.
const BATCH: usize = 256;
/// Shares of the rows whose lists are probed in the exam.
const BUDGETS: [f32; 3] = [0.02, 0.05, 0.1];

/// How fast a bias moves, as a share of how fast a score moves when all values of its vector do.
const BIAS_RATE: f32 = 0.1;

/// Queries with the lists of their exact neighbours.
pub struct Routes<'a> {
    /// Internal vectors.
    pub queries: MatRef<'a>,
    /// Lists of each query's neighbours, one entry a neighbour.
    pub lists: &'a [Vec<u32>],
}

/// The routing that a model has without any training: the centroids, normalised for cosine, by distance for L2.
pub fn by_centroids(metric: Metric, centroids: MatRef<'_>, half_norms: &[f32]) -> Routing {
    let mut vectors = centroids.data.to_vec();
    let mut biases = vec![0.0; half_norms.len()];
    match metric {
        Metric::L2 => biases = half_norms.iter().map(|h| -h).collect(),
        Metric::InnerProduct => {}
        Metric::Cosine => {
            for (vector, half) in vectors.chunks_exact_mut(centroids.cols).zip(half_norms) {
                let length = (2.0 * half).sqrt().max(f32::MIN_POSITIVE);
                vector.iter_mut().for_each(|x| *x /= length);
            }
        }
    }
    Routing { vectors, biases }
}

impl Routes<'_> {
    /// Mean share of each query's neighbours in the lists that are probed within the budgets.
    pub fn recalls(&self, routing: &Routing, sizes: &[usize]) -> Result<Vec<f32>, TrainError> {
        let rows: usize = sizes.iter().sum();
        let lists = sizes.len();
        let blocks = par::map(self.queries.rows().div_ceil(BATCH), |block| {
            let queries = self.queries.slice(block * BATCH, (block + 1) * BATCH);
            let mut scores = vec![0f32; queries.rows() * lists];
            products(
                queries,
                MatRef::new(&routing.vectors, queries.cols),
                &mut scores,
            );
            let truths = &self.lists[block * BATCH..];
            let recalls = scores
                .chunks_exact_mut(lists)
                .zip(truths)
                .map(|(scores, truth)| {
                    scores
                        .iter_mut()
                        .zip(&routing.biases)
                        .for_each(|(s, b)| *s += b);
                    recall(scores, sizes, rows, truth)
                });
            Ok::<_, TrainError>(recalls.collect::<Vec<f32>>())
        })?;
        Ok(blocks.into_iter().flatten().collect())
    }
}

/// Recall of one query, averaged over the budgets.
fn recall(scores: &[f32], sizes: &[usize], rows: usize, truth: &[u32]) -> f32 {
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
        truth
            .iter()
            .filter(|list| read[**list as usize] <= most)
            .count() as f32
            / truth.len().max(1) as f32
    };
    mean(&BUDGETS.map(within))
}

/// Some lists of a step; matrices have a row a list and a column a query.
struct Part {
    vectors: Param,
    biases: Param,
    scores: Vec<f32>,
    targets: Vec<f32>,
    maxima: Vec<f32>,
    sums: Vec<f32>,
}

impl Part {
    fn score(&mut self, queries: MatRef<'_>) {
        self.scores
            .resize(self.biases.values.len() * queries.rows(), 0.0);
        products(
            MatRef::new(&self.vectors.values, queries.cols),
            queries,
            &mut self.scores,
        );
        for (scores, bias) in self
            .scores
            .chunks_exact_mut(queries.rows())
            .zip(&self.biases.values)
        {
            scores.iter_mut().for_each(|s| *s += bias);
        }
        self.maxima.clear();
        self.maxima.resize(queries.rows(), f32::NEG_INFINITY);
        fold_maxima(&self.scores, &mut self.maxima);
    }

    fn exponentials(&mut self, maxima: &[f32], temperature: f32) {
        self.sums.clear();
        self.sums.resize(maxima.len(), 0.0);
        exponentials(&mut self.scores, maxima, temperature, &mut self.sums);
    }

    fn differentiate(&mut self, queries: MatRef<'_>, totals: &Totals<'_>) {
        gradient(&mut self.scores, &self.targets, totals);
        combine(
            MatRef::new(&self.scores, queries.rows()),
            queries,
            &mut self.vectors.gradient,
        );
        for (bias, scores) in self
            .biases
            .gradient
            .iter_mut()
            .zip(self.scores.chunks_exact(queries.rows()))
        {
            *bias = scores.iter().sum();
        }
    }
}

/// The router in training.
struct Router {
    parts: Vec<Part>,
    temperature: f32,
    /// Rates of vectors and biases.
    rates: (f32, f32),
}

impl Router {
    /// `length` is that of a typical query.
    fn new(start: &Routing, cols: usize, temperature: f32, length: f32) -> Router {
        let vectors = start.vectors.chunks(PART * cols);
        let parts = vectors
            .zip(start.biases.chunks(PART))
            .map(|(vectors, biases)| Part {
                vectors: Param::new(vectors),
                biases: Param::new(biases),
                scores: Vec::new(),
                targets: Vec::new(),
                maxima: Vec::new(),
                sums: Vec::new(),
            });
        let rate = rate(&start.vectors);
        let rates = (rate, rate * BIAS_RATE * (cols as f32).sqrt() * length);
        Router {
            parts: parts.collect(),
            temperature,
            rates,
        }
    }

    fn routing(&self) -> Routing {
        let all = |of: fn(&Part) -> &[f32]| {
            self.parts
                .iter()
                .flat_map(|p| of(p).iter().copied())
                .collect()
        };
        Routing {
            vectors: all(|p| &p.vectors.values),
            biases: all(|p| &p.biases.values),
        }
    }

    /// Fills the gradients of all parts for a batch. Targets are shares, so the teacher's sums are 1.
    fn gradients(
        &mut self,
        queries: MatRef<'_>,
        lists: &[&[u32]],
        monitor: &dyn Monitor,
    ) -> Result<(), TrainError> {
        let n = queries.rows();
        for part in &mut self.parts {
            part.targets.clear();
            part.targets.resize(part.biases.values.len() * n, 0.0);
        }
        for (q, lists) in lists.iter().enumerate() {
            for list in *lists {
                let list = *list as usize;
                self.parts[list / PART].targets[list % PART * n + q] += 1.0 / lists.len() as f32;
            }
        }
        par::each_mut(&mut self.parts, |_, part| {
            keep_on(monitor)?;
            part.score(queries);
            Ok(())
        })?;
        let mut maxima = vec![f32::NEG_INFINITY; n];
        for part in &self.parts {
            maxima
                .iter_mut()
                .zip(&part.maxima)
                .for_each(|(m, p)| *m = m.max(*p));
        }
        let temperature = self.temperature;
        par::each_mut(&mut self.parts, |_, part| {
            part.exponentials(&maxima, temperature);
            Ok::<_, TrainError>(())
        })?;
        let mut sums = vec![0f32; n];
        for part in &self.parts {
            sums.iter_mut().zip(&part.sums).for_each(|(s, p)| *s += p);
        }
        let totals = Totals {
            student: &sums,
            teacher: &vec![1.0; n],
            temperature,
        };
        par::each_mut(&mut self.parts, |_, part| {
            part.differentiate(queries, &totals);
            Ok(())
        })
    }

    /// Makes a step with a share of the full rates.
    fn descend(&mut self, share: f32) -> Result<(), TrainError> {
        let rates = self.rates;
        par::each_mut(&mut self.parts, |_, part| {
            part.vectors.step(rates.0 * share);
            part.biases.step(rates.1 * share);
            Ok(())
        })
    }
}

/// Trains the routing from `start` for `epochs` over the queries. `exam` gives the recall of every held-out query and is
/// asked once an epoch; the routing with the best mean is returned with its recalls. Ends early when two exams in a row
/// are no better.
pub fn train(
    routes: &Routes<'_>,
    start: &Routing,
    epochs: usize,
    seed: u64,
    monitor: &dyn Monitor,
    exam: impl Fn(&Routing) -> Result<Vec<f32>, TrainError>,
) -> Result<Option<(Routing, Vec<f32>)>, TrainError> {
    let cols = routes.queries.cols;
    let Some(temperature) = temperature(routes, start) else {
        return Ok(None);
    };
    let squares = norm2(routes.queries.data) / routes.queries.rows().max(1) as f32;
    let mut router = Router::new(start, cols, temperature, squares.sqrt());
    let mut order: Vec<u32> = (0..routes.queries.rows() as u32).collect();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let steps = epochs * order.len().div_ceil(BATCH);
    let mut best = Best::default();
    let mut step = 0;
    let mut queries = Vec::new();
    for _ in 0..epochs {
        order.shuffle(&mut rng);
        for batch in order.chunks(BATCH) {
            routes.queries.gather(batch, &mut queries);
            let lists: Vec<&[u32]> = batch
                .iter()
                .map(|q| &routes.lists[*q as usize][..])
                .collect();
            router.gradients(MatRef::new(&queries, cols), &lists, monitor)?;
            router.descend(schedule(step, steps))?;
            step += 1;
        }
        let routing = router.routing();
        let recalls = exam(&routing)?;
        best.offer(routing, recalls);
        if best.stalled() {
            break;
        }
    }
    Ok(best.take())
}

/// The temperature at which the start explains the targets best: scores have no scale of their own here.
fn temperature(routes: &Routes<'_>, start: &Routing) -> Option<f32> {
    let queries = routes.queries.slice(0, BATCH);
    let lists = start.biases.len();
    let mut scores = vec![0f32; queries.rows() * lists];
    products(
        queries,
        MatRef::new(&start.vectors, queries.cols),
        &mut scores,
    );
    for scores in scores.chunks_exact_mut(lists) {
        scores
            .iter_mut()
            .zip(&start.biases)
            .for_each(|(s, b)| *s += b);
    }
    let spread = scores.iter().fold(0f32, |a, s| a.max(s.abs()));
    let loss = |temperature: f32| {
        let of = |(scores, truth): (&[f32], &Vec<u32>)| {
            let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f64 = scores
                .iter()
                .map(|s| f64::from((s - max) / temperature).exp())
                .sum();
            let found = truth
                .iter()
                .map(|l| f64::from((scores[*l as usize] - max) / temperature));
            sum.ln() - found.sum::<f64>() / truth.len().max(1) as f64
        };
        scores
            .chunks_exact(lists)
            .zip(routes.lists)
            .map(of)
            .sum::<f64>()
    };
    let candidates = (0..12)
        .map(|i| spread * 0.5f32.powi(i))
        .filter(|t| t.is_normal());
    candidates
        .map(|t| (loss(t), t))
        .min_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, t)| t)
}

#[cfg(test)]
mod tests;
