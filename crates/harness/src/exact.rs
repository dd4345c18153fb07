//! Exact nearest neighbors by brute force: the oracle of every recall figure. It shares no code with the index.

use std::num::NonZero;
use std::str::FromStr;
use std::thread;

use crate::error::Error;
use crate::vectors::Vectors;

/// Documents compared with all queries of a thread before the next ones: 64 rows of 384 dimensions fit an L2 cache.
const BLOCK: usize = 64;

/// A distance that pgvector computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// Euclidean distance, `<->` (compared as its square)
    L2,
    /// Negative inner product, `<#>`
    InnerProduct,
    /// Cosine distance, `<=>`
    Cosine,
}

impl Metric {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::L2, Self::InnerProduct, Self::Cosine];

    /// pgvector's operator.
    #[must_use]
    pub fn operator(self) -> &'static str {
        match self {
            Self::L2 => "<->",
            Self::InnerProduct => "<#>",
            Self::Cosine => "<=>",
        }
    }

    /// The name in prose.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::L2 => "L2 distance",
            Self::InnerProduct => "inner product",
            Self::Cosine => "cosine distance",
        }
    }

    /// The name in operator classes (`vector_…_ops`), in `distillvq_train`, and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::L2 => "l2",
            Self::InnerProduct => "ip",
            Self::Cosine => "cosine",
        }
    }

    /// The distance, smaller is nearer. Infinite where it is undefined: the cosine of a zero vector.
    #[must_use]
    pub fn distance(self, a: &[f32], b: &[f32]) -> f32 {
        match self {
            Self::L2 => sum(a, b, |x, y| (x - y) * (x - y)),
            Self::InnerProduct => -dot(a, b),
            Self::Cosine => {
                let cosine = 1.0 - dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
                if cosine.is_nan() {
                    f32::INFINITY
                } else {
                    cosine
                }
            }
        }
    }

    /// How far rounding may move a distance: two computations in float32 may disagree by this much about a tie.
    fn rounding(self, distance: f32) -> f32 {
        let scale = distance.abs();
        1e-6 * if self == Self::Cosine {
            scale.max(1.0)
        } else {
            scale
        }
    }
}

impl FromStr for Metric {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        let found = Self::ALL.into_iter().find(|metric| metric.name() == name);
        found.ok_or_else(|| Error::Argument(format!("metric {name:?} is not cosine, l2, or ip")))
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    sum(a, b, |x, y| x * y)
}

/// Sums over pairs in eight lanes, which the compiler can keep in vector registers.
fn sum(a: &[f32], b: &[f32], term: impl Fn(f32, f32) -> f32) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    let mut lanes = [0.0f32; 8];
    for (a, b) in a.iter().zip(b) {
        for ((lane, &x), &y) in lanes.iter_mut().zip(a).zip(b) {
            *lane += term(x, y);
        }
    }
    let rest = a_rest.iter().zip(b_rest).map(|(&x, &y)| term(x, y));
    lanes.into_iter().chain(rest).sum()
}

/// The `k` exact nearest neighbors of some queries.
#[derive(Debug)]
pub struct Truth<'a> {
    metric: Metric,
    k: usize,
    documents: &'a Vectors,
    queries: &'a Vectors,
    nearest: Vec<Vec<(f32, usize)>>,
}

impl<'a> Truth<'a> {
    /// Compares every query with every document.
    #[must_use]
    pub fn new(metric: Metric, documents: &'a Vectors, queries: &'a Vectors, k: usize) -> Self {
        Self::among(metric, documents, queries, k, |_| true)
    }

    /// Compares every query with the documents whose number `keep` accepts: what a filter or a deletion leaves.
    #[must_use]
    pub fn among(
        metric: Metric,
        documents: &'a Vectors,
        queries: &'a Vectors,
        k: usize,
        keep: impl Fn(usize) -> bool + Sync,
    ) -> Self {
        let threads = thread::available_parallelism().map_or(1, NonZero::get);
        let share = queries.rows().div_ceil(threads).max(1);
        let keep = &keep;
        let mut nearest = vec![Vec::new(); queries.rows()];
        thread::scope(|scope| {
            for (part, lists) in nearest.chunks_mut(share).enumerate() {
                scope.spawn(move || {
                    fill(metric, documents, queries, part * share, k, keep, lists);
                });
            }
        });
        Self {
            metric,
            k,
            documents,
            queries,
            nearest,
        }
    }

    /// The numbers of the nearest documents of a query, nearest first.
    pub fn neighbors(&self, query: usize) -> impl Iterator<Item = usize> {
        self.nearest
            .get(query)
            .into_iter()
            .flatten()
            .map(|&(_, document)| document)
    }

    /// Recall@k: the share of the `k` nearest neighbors among the first `k` ids found, mean over the queries in `found`
    /// (which are the first queries, in order). Any document as near as the k-th counts: ties are no misses. An id that
    /// comes twice counts once.
    #[must_use]
    pub fn recall(&self, found: &[Vec<i64>]) -> f64 {
        let (mut hits, mut wanted) = (0, 0);
        for (query, (ids, nearest)) in found.iter().zip(&self.nearest).enumerate() {
            wanted += nearest.len();
            hits += self.hits(query, ids, nearest);
        }
        hits as f64 / wanted.max(1) as f64
    }

    /// The same for one query.
    #[must_use]
    pub fn recall_of(&self, query: usize, ids: &[i64]) -> f64 {
        let nearest = self.nearest.get(query).map_or(&[][..], Vec::as_slice);
        self.hits(query, ids, nearest) as f64 / nearest.len().max(1) as f64
    }

    fn hits(&self, query: usize, ids: &[i64], nearest: &[(f32, usize)]) -> usize {
        let Some(&(radius, _)) = nearest.last() else {
            return 0;
        };
        let limit = radius + self.metric.rounding(radius);
        let mut ids: Vec<i64> = ids.iter().copied().take(self.k).collect();
        ids.sort_unstable();
        ids.dedup();
        let near = |id: &i64| {
            usize::try_from(*id).is_ok_and(|id| {
                id < self.documents.rows()
                    && self
                        .metric
                        .distance(self.queries.row(query), self.documents.row(id))
                        <= limit
            })
        };
        ids.iter().filter(|id| near(id)).count().min(nearest.len())
    }
}

/// Fills the neighbor lists of the queries from number `first` on.
fn fill(
    metric: Metric,
    documents: &Vectors,
    queries: &Vectors,
    first: usize,
    k: usize,
    keep: &(impl Fn(usize) -> bool + Sync),
    lists: &mut [Vec<(f32, usize)>],
) {
    for start in (0..documents.rows()).step_by(BLOCK) {
        let block = start..(start + BLOCK).min(documents.rows());
        for (query, list) in lists.iter_mut().enumerate() {
            let query = queries.row(first + query);
            for document in block.clone().filter(|&document| keep(document)) {
                let distance = metric.distance(query, documents.row(document));
                offer(list, k, distance, document);
            }
        }
    }
}

/// Keeps the `k` smallest distances in order.
fn offer(list: &mut Vec<(f32, usize)>, k: usize, distance: f32, document: usize) {
    if list.len() >= k && list.last().is_none_or(|&(last, _)| distance >= last) {
        return;
    }
    let place = list.partition_point(|&(other, _)| other <= distance);
    list.insert(place, (distance, document));
    list.truncate(k);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn line(points: &[f32]) -> Vectors {
        Vectors::new(1, points.to_vec()).unwrap()
    }

    #[test]
    fn distances_agree_with_their_definitions() {
        let (a, b) = ([3.0, 4.0, 0.0], [0.0, 4.0, 3.0]);
        assert_eq!(Metric::L2.distance(&a, &b), 18.0);
        assert_eq!(Metric::InnerProduct.distance(&a, &b), -16.0);
        assert!((Metric::Cosine.distance(&a, &b) - 0.36).abs() < 1e-6);
        assert_eq!(Metric::Cosine.distance(&a, &[0.0; 3]), f32::INFINITY);
    }

    #[test]
    fn blocks_and_threads_change_nothing() {
        let documents = Vectors::clustered(500, 20, 5, 1);
        let queries = Vectors::clustered(7, 20, 5, 2);
        for metric in Metric::ALL {
            let truth = Truth::new(metric, &documents, &queries, 10);
            for query in 0..queries.rows() {
                let mut all: Vec<usize> = (0..documents.rows()).collect();
                all.sort_by(|&a, &b| {
                    let distance = |d| metric.distance(queries.row(query), documents.row(d));
                    distance(a).total_cmp(&distance(b)).then(a.cmp(&b))
                });
                assert!(truth.neighbors(query).eq(all.into_iter().take(10)));
            }
        }
    }

    #[test]
    fn ties_count_and_doubles_do_not() {
        let documents = line(&[0.0, 1.0, -1.0, 1.0, 5.0]);
        let queries = line(&[0.0]);
        let truth = Truth::new(Metric::L2, &documents, &queries, 2);
        assert_eq!(truth.recall(&[vec![0, 3]]), 1.0);
        assert_eq!(truth.recall(&[vec![0, 0]]), 0.5);
        assert_eq!(truth.recall(&[vec![0, 4]]), 0.5);
        assert_eq!(
            truth.recall(&[vec![4, 0, 1]]),
            0.5,
            "only the first k count"
        );
        assert_eq!(truth.recall(&[vec![99, -1]]), 0.0);
    }

    #[test]
    fn a_filter_restricts_the_truth() {
        let documents = line(&[0.0, 1.0, 2.0, 3.0]);
        let queries = line(&[0.0]);
        let truth = Truth::among(Metric::L2, &documents, &queries, 2, |id| id % 2 == 1);
        assert!(truth.neighbors(0).eq([1, 3]));
    }
}
