//! The exact neighbors of some queries, found in passing while rows are encoded anyway.

use crate::Tid;
use crate::calibration::QueryKind;
use crate::rerank::RANKS;
use distillvq_model::{Encoded, EncodedRows, ExactScores, Model, Placement, ScoreBuffers};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Neighbors of each query: the `k` of recall@k.
pub const CALIBRATION_K: usize = 10;
/// Queries, the first ones, whose neighbors are kept as far as the last rank of [`RANKS`].
pub const DEEP_QUERIES: usize = 128;
/// Rows between two for which the error of the codes is measured.
const ERROR_STEP: usize = 128;

/// A row near a query.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Neighbor {
    score: f32,
    tid: Tid,
    /// Its lists, twice the same if it is in one list; the number of lists stands for the exact list.
    lists: [u32; 2],
    /// Whether its elements are those of the query.
    same: bool,
}

/// Best first.
fn order(a: &Neighbor, b: &Neighbor) -> std::cmp::Ordering {
    b.score.total_cmp(&a.score).then(a.tid.cmp(&b.tid))
}

/// The true neighbors of a query.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Neighbors {
    /// The row that poses as the query, if it is one: it is none of the neighbors, nor is it to be counted when found.
    pub own: Option<Tid>,
    /// The nearest rows, best first, and the lists of each (twice the same if it is in one list), as far as there are so many:
    /// [`CALIBRATION_K`], or for the first [`DEEP_QUERIES`] as many as the last of [`RANKS`].
    pub rows: Vec<(Tid, [u32; 2])>,
}

/// Finds the neighbors of queries among rows that are offered in any order, from any number of threads: what is found
/// does not depend on either.
#[derive(Debug)]
pub struct GroundTruthCollector<'a> {
    model: &'a Model,
    kind: QueryKind,
    /// Raw, row-major.
    queries: Vec<f32>,
    scores: ExactScores,
    /// The best so far of each query, in no order, and some more.
    best: Vec<Mutex<Vec<Neighbor>>>,
    /// The bits of the score below which nothing is wanted, of each query: may lag behind.
    least: Vec<AtomicU32>,
    /// Sum and number of the errors of the codes.
    errors: Mutex<(f64, usize)>,
    rows: AtomicU64,
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Truth {
    /// What the queries are.
    pub kind: QueryKind,
    /// The raw queries, row-major.
    pub queries: Vec<f32>,
    /// The neighbors of each.
    pub neighbors: Vec<Neighbors>,
    /// Rows offered that belong into the index.
    pub rows: u64,
    /// Mean error of the codes of the rows ([`Model::code_error`]), none without rows.
    pub code_error: Option<f32>,
}

impl<'a> GroundTruthCollector<'a> {
    /// For raw queries, row-major.
    pub fn new(model: &'a Model, kind: QueryKind, queries: Vec<f32>) -> Self {
        let scores = model.exact_scores(&queries);
        let n = scores.queries();
        let nothing = f32::NEG_INFINITY.to_bits();
        GroundTruthCollector {
            model,
            kind,
            queries,
            scores,
            best: (0..n)
                .map(|query| Mutex::new(Vec::with_capacity(room(query))))
                .collect(),
            least: (0..n).map(|_| AtomicU32::new(nothing)).collect(),
            errors: Mutex::default(),
            rows: AtomicU64::new(0),
        }
    }

    /// Bytes that it takes, with the buffers of so many threads.
    pub fn bytes(&self, threads: usize) -> usize {
        let n = self.best.len();
        let buffers = ExactScores::ROWS * (n + self.model.dim()) * size_of::<f32>();
        let best: usize = (0..n).map(room).sum();
        let best = best * size_of::<Neighbor>();
        2 * size_of_val(&self.queries[..]) + best + threads * buffers
    }

    /// Offers rows: their addresses, raw vectors, and what they were encoded to; calls `check_interrupts` every few
    /// milliseconds.
    ///
    /// # Errors
    /// The first error of `check_interrupts`.
    pub fn offer<E>(
        &self,
        tids: &[Tid],
        vectors: &[f32],
        encoded: &EncodedRows,
        check_interrupts: impl Fn() -> Result<(), E>,
    ) -> Result<(), E> {
        let dim = self.model.dim();
        self.measure_errors(vectors, encoded);
        let placed = |row: &&Encoded| row.placement != Placement::Unindexed;
        let placed = encoded.rows.iter().filter(placed).count();
        self.rows.fetch_add(placed as u64, Ordering::Relaxed);
        let mut buffers = ScoreBuffers::default();
        let pieces = vectors.chunks(ExactScores::ROWS * dim);
        let rows = tids.chunks(ExactScores::ROWS);
        for (chunk, (tids, vectors)) in rows.zip(pieces).enumerate() {
            check_interrupts()?;
            let scores = self.scores.of(vectors, &mut buffers);
            for (query, scores) in scores.chunks_exact(tids.len().max(1)).enumerate() {
                let near = |i: usize, score: f32| {
                    let tid = *tids.get(i)?;
                    let lists = self.lists(encoded, chunk * ExactScores::ROWS + i)?;
                    let row = vectors.get(i * dim..(i + 1) * dim)?;
                    let own = self.queries.get(query * dim..(query + 1) * dim)?;
                    Some(Neighbor {
                        score,
                        tid,
                        lists,
                        same: row == own,
                    })
                };
                self.take(query, scores, near);
            }
        }
        Ok(())
    }

    /// The lists of the `i`-th row, `None` if it is not in the index.
    fn lists(&self, encoded: &EncodedRows, i: usize) -> Option<[u32; 2]> {
        let first = match encoded.rows.get(i)?.placement {
            Placement::List(list) => list,
            Placement::Exact => self.model.lists() as u32,
            Placement::Unindexed => return None,
        };
        let second = encoded.second_rows.get(i).map(|row| row.placement);
        Some(match second {
            Some(Placement::List(second)) => [first, second],
            _ => [first, first],
        })
    }

    /// Takes the rows of these scores that are among the best of a query.
    fn take(&self, query: usize, scores: &[f32], near: impl Fn(usize, f32) -> Option<Neighbor>) {
        let (Some(best), Some(least)) = (self.best.get(query), self.least.get(query)) else {
            return;
        };
        let floor = f32::from_bits(least.load(Ordering::Relaxed));
        // Nearly always there is nothing better: one comparison of the maximum tells.
        if scores.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b)) < floor {
            return;
        }
        let wanted = scores.iter().enumerate();
        let wanted = wanted.filter(|(_, score)| **score >= floor && score.is_finite());
        let found: Vec<Neighbor> = wanted.filter_map(|(i, score)| near(i, *score)).collect();
        if found.is_empty() {
            return;
        }
        let mut best = lock(best);
        let kept = kept(query);
        for near in found {
            best.push(near);
            if best.len() >= room(query) {
                let (_, last, _) = best.select_nth_unstable_by(kept - 1, order);
                least.store(last.score.to_bits(), Ordering::Relaxed);
                best.truncate(kept);
            }
        }
    }

    /// Measures the codes of some of the rows.
    fn measure_errors(&self, vectors: &[f32], encoded: &EncodedRows) {
        let (dim, m) = (self.model.dim(), self.model.subquantizers());
        let rows = vectors.chunks_exact(dim).zip(encoded.codes.chunks_exact(m));
        let some = rows.zip(&encoded.rows).step_by(ERROR_STEP);
        let errors = some.filter_map(|((row, codes), one)| match one.placement {
            Placement::List(list) => self.model.code_error(row, list, codes),
            Placement::Exact | Placement::Unindexed => None,
        });
        let (sum, count) = errors.fold((0.0, 0), |(sum, count), error| (sum + error, count + 1));
        let mut all = lock(&self.errors);
        *all = (all.0 + sum, all.1 + count);
    }

    /// What was found among all rows offered.
    pub fn finish(self) -> Truth {
        let (sum, count) = *lock(&self.errors);
        let neighbors = self.best.iter().enumerate().map(|(query, best)| {
            let mut best = lock(best);
            best.sort_unstable_by(order);
            best.truncate(kept(query));
            let own = match self.kind {
                QueryKind::Rows => best.iter().position(|near| near.same),
                QueryKind::Log | QueryKind::Searches => None,
            };
            let own = own.map(|i| best.remove(i).tid);
            let rows = best.iter().take(kept(query) - 1);
            Neighbors {
                own,
                rows: rows.map(|near| (near.tid, near.lists)).collect(),
            }
        });
        Truth {
            neighbors: neighbors.collect(),
            kind: self.kind,
            rows: self.rows.into_inner(),
            code_error: (count > 0).then(|| (sum / count as f64) as f32),
            queries: self.queries,
        }
    }
}

/// Rows that are kept of a query, itself included.
fn kept(query: usize) -> usize {
    match RANKS.last() {
        Some(&last) if query < DEEP_QUERIES => last as usize + 1,
        _ => CALIBRATION_K + 1,
    }
}

/// Rows for which there is room, so that the best need not be told from the others at each row.
fn room(query: usize) -> usize {
    kept(query) + kept(query) / 4 + 16
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
