//! The recall curve: from where the true neighbors lie, and what searches find of them.
//!
//! A search that probes `p` lists can find a neighbor whose list is among the best `p` of its query. That part of the
//! recall is known exactly for all `p` from the ranking of the lists alone. What searches lose of it, since codes
//! mislead the choice of the rows that are compared, changes slowly with `p` and is measured by real searches at a few
//! numbers of lists, in between which it is interpolated.
//!
//! How many rows searches compare follows from how far off the estimates of a query are ([`crate::rerank`]). Where the rows
//! near it share their errors, as those of one small group do, its first rows do not show how far off others may be; what that
//! loses, looking further finds ([`choose_rerank_margin`]).

use crate::bands::{moments, share};
use crate::calibration::{MAX_POINTS, Point, RERANK_MARGINS};

/// Shares of neighbors within reach at which searches are worth a measurement: about the recalls that users ask for.
const COVERAGE_LEVELS: [f64; 8] = [0.0, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999];

/// Share of the neighbors within reach that may be lost to the choice of the rows that are compared.
const TOLERABLE: f64 = 0.005;
/// Rows that may be compared in the mean to lose fewer than with the usual margin: codes that ask for more are too short.
const MAX_RERANKED_ROWS: f64 = 256.0;

/// The smallest re-ranking margin ([`RERANK_MARGINS`]) with which searches lose no more than is tolerable; where they always do, the
/// least that is about as good as any. `measure` gives what [`RecallCurve::loss`] says of searches with a margin, and how many rows
/// they compare in the mean.
///
/// # Errors
/// Those of `measure`.
pub fn choose_rerank_margin<E>(
    mut measure: impl FnMut(f32) -> Result<(f64, f64), E>,
) -> Result<f32, E> {
    let mut losses: Vec<(f32, f64)> = Vec::new();
    for rerank_margin in RERANK_MARGINS {
        let (lost, reranked) = measure(rerank_margin)?;
        if reranked > MAX_RERANKED_ROWS {
            break;
        }
        if lost <= TOLERABLE {
            return Ok(rerank_margin);
        }
        losses.push((rerank_margin, lost));
    }
    let least = losses.iter().map(|(_, lost)| *lost);
    let least = least.fold(f64::INFINITY, f64::min);
    let chosen = losses.iter().find(|(_, lost)| *lost <= least + TOLERABLE);
    Ok(chosen.map_or(RERANK_MARGINS[0], |(rerank_margin, _)| *rerank_margin))
}

/// A curve being measured.
#[derive(Clone, Debug)]
pub struct RecallCurve {
    lists: u32,
    /// For each query the numbers of lists at which its neighbors come within reach, ascending, at least one.
    probes_needed: Vec<Vec<u32>>,
    measured: Vec<MeasuredPoint>,
}

/// What searches with some number of lists found.
#[derive(Clone, Copy, Debug)]
struct MeasuredPoint {
    probes: u32,
    /// Mean fraction of the neighbors within reach that a query loses. It is measured with fewer queries than the curve.
    loss: f64,
    /// Variance of that mean.
    variance: f64,
    reranked: f64,
}

impl RecallCurve {
    /// A curve of an index with `lists` lists. `probes_needed` has for each query, and each of its neighbors, how many lists must be
    /// probed to reach it. Queries without neighbors must be left out.
    pub fn new(lists: u32, mut probes_needed: Vec<Vec<u32>>) -> Self {
        probes_needed
            .iter_mut()
            .for_each(|of_query| of_query.sort_unstable());
        RecallCurve {
            lists: lists.max(1),
            probes_needed,
            measured: Vec::new(),
        }
    }

    /// Number of queries.
    pub fn queries(&self) -> usize {
        self.probes_needed.len()
    }

    /// The numbers of lists with which searches should be measured, ascending.
    pub fn probes_to_measure(&self) -> Vec<u32> {
        let n = self.queries().max(1) as f64;
        let weighted = self.probes_needed.iter().flat_map(|of_query| {
            let weight = 1.0 / of_query.len() as f64;
            of_query.iter().map(move |probes| (*probes, weight))
        });
        let mut weighted: Vec<(u32, f64)> = weighted.collect();
        weighted.sort_unstable_by_key(|(probes, _)| *probes);
        let (mut sum, mut wanted, mut found) = (0.0, COVERAGE_LEVELS.iter().peekable(), Vec::new());
        for (probes, weight) in weighted {
            sum += weight;
            while wanted.next_if(|share| sum / n >= **share - 1e-9).is_some() {
                found.push(probes.clamp(1, self.lists));
            }
        }
        found.dedup();
        found
    }

    /// Takes in what searches with so many lists found: the recall of each of the first queries, and how many rows they
    /// compared in the mean. To be called with rising `probes`.
    pub fn measured(&mut self, probes: u32, recalls: &[f32], reranked: f64) {
        let (loss, variance) = self.losses(probes, recalls);
        self.measured.push(MeasuredPoint {
            probes,
            loss,
            variance: variance / recalls.len().max(1) as f64,
            reranked,
        });
    }

    /// What the first queries lose of their neighbors within reach, in the mean, where they found these shares.
    pub fn loss(&self, probes: u32, recalls: &[f32]) -> f64 {
        self.losses(probes, recalls).0
    }

    /// Mean and variance of what a query loses.
    fn losses(&self, probes: u32, recalls: &[f32]) -> (f64, f64) {
        let pairs = self.probes_needed.iter().zip(recalls);
        let losses: Vec<f64> = pairs
            .map(|(of_query, recall)| share(of_query, probes) - f64::from(*recall))
            .collect();
        moments(&losses)
    }

    /// The curve, from one list to all.
    pub fn points(&self) -> Vec<Point> {
        let mut best = 0f32;
        let point = |probes: u32| {
            let shares: Vec<f64> = self
                .probes_needed
                .iter()
                .map(|of| share(of, probes))
                .collect();
            let (reach, spread) = moments(&shares);
            let of = self.interpolated(probes);
            let error = (spread / shares.len().max(1) as f64 + of.variance).sqrt();
            best = best.max((reach - of.loss).clamp(0.0, 1.0) as f32);
            Point {
                probes,
                recall: best,
                error: error as f32,
                reranked: of.reranked as f32,
            }
        };
        self.grid().into_iter().map(point).collect()
    }

    /// The numbers of lists that were measured, and others from one to all such that each is about the same multiple of
    /// the one before.
    fn grid(&self) -> Vec<u32> {
        let mut grid: Vec<u32> = self.measured.iter().map(|it| it.probes).collect();
        let steps = MAX_POINTS.saturating_sub(grid.len() + 1).max(1);
        let largest = f64::from(self.lists);
        let step = |i: usize| largest.powf(i as f64 / steps as f64).round() as u32;
        grid.extend((0..=steps).map(step));
        grid.sort_unstable();
        grid.dedup();
        grid
    }

    /// What searches with so many lists lose and compare, by those that were measured: linear in the logarithm of the lists.
    fn interpolated(&self, probes: u32) -> MeasuredPoint {
        let after = self.measured.iter().position(|it| it.probes >= probes);
        let after = after.unwrap_or(self.measured.len());
        let before = after.checked_sub(1).and_then(|i| self.measured.get(i));
        match (before, self.measured.get(after)) {
            (Some(a), Some(b)) => {
                let [from, at, to] = [a.probes, probes, b.probes].map(|x| f64::from(x.max(1)).ln());
                let between = (at - from) / (to - from);
                let mix = |a: f64, b: f64| a + between * (b - a);
                MeasuredPoint {
                    probes,
                    loss: mix(a.loss, b.loss),
                    variance: mix(a.variance, b.variance),
                    reranked: mix(a.reranked, b.reranked),
                }
            }
            (one, other) => one.or(other).copied().unwrap_or(MeasuredPoint {
                probes,
                loss: 0.0,
                variance: 0.0,
                reranked: 0.0,
            }),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Ten neighbors, the `i`-th of which is reached by `2^i` lists.
    fn doubling() -> Vec<u32> {
        (0..10).map(|i| 1 << i).collect()
    }

    #[test]
    fn reach_alone_is_exact() {
        let curve = RecallCurve::new(1000, vec![doubling(); 50]);
        assert_eq!(curve.probes_to_measure(), [1, 128, 256, 512]);
        let points = curve.points();
        assert_eq!((points[0].probes, points.last().unwrap().probes), (1, 1000));
        assert!(points.len() <= MAX_POINTS && points.len() > 15);
        for point in points {
            let probes_needed = f64::from(point.probes).log2().floor() + 1.0;
            let recall = (probes_needed / 10.0).min(1.0) as f32;
            assert!((point.recall - recall).abs() < 1e-6 && point.error < 1e-6);
        }
    }

    #[test]
    fn what_searches_lose_is_taken_off() {
        let mut curve = RecallCurve::new(1024, vec![doubling(); 4]);
        curve.measured(4, &[0.3, 0.1], 40.0);
        curve.measured(64, &[0.7, 0.7], 80.0);
        let points = curve.points();
        let at = |probes| points.iter().find(|it| it.probes == probes).unwrap();
        let near = |point: &Point, recall: f32, compared: f32| {
            (point.recall - recall).abs() < 1e-6 && (point.reranked - compared).abs() < 1e-4
        };
        assert!(near(at(1), 0.0, 40.0) && near(at(4), 0.2, 40.0));
        assert!(near(at(64), 0.7, 80.0) && near(at(1024), 1.0, 80.0));
        // Two queries of four were searched, and lost 0 and 0.2: the mean of these is as unsure as two queries leave it.
        assert!((at(4).error - 0.1).abs() < 1e-6 && at(64).error == 0.0);
        assert!(points.is_sorted_by(|a, b| a.probes < b.probes && a.recall <= b.recall));
    }

    #[test]
    fn searches_look_as_deep_as_it_pays() {
        let chosen = |found: [(f64, f64); RERANK_MARGINS.len()]| {
            let of = |rerank_margin| {
                RERANK_MARGINS
                    .iter()
                    .position(|it| *it == rerank_margin)
                    .unwrap()
            };
            choose_rerank_margin(|rerank_margin| Ok::<_, ()>(found[of(rerank_margin)])).map(of)
        };
        assert_eq!(chosen([(0.005, 30.0), (0.0, 40.0), (0.0, 50.0)]), Ok(0));
        assert_eq!(chosen([(0.04, 30.0), (0.004, 60.0), (0.0, 90.0)]), Ok(1));
        assert_eq!(chosen([(0.04, 30.0), (0.02, 60.0), (0.001, 90.0)]), Ok(2));
        // Nothing helps, or hardly, or too dearly.
        assert_eq!(chosen([(0.04, 30.0), (0.04, 60.0), (0.04, 90.0)]), Ok(0));
        assert_eq!(chosen([(0.04, 30.0), (0.022, 60.0), (0.02, 90.0)]), Ok(1));
        assert_eq!(chosen([(0.04, 30.0), (0.02, 60.0), (0.001, 300.0)]), Ok(1));
        assert_eq!(chosen([(0.04, 300.0), (0.001, 400.0), (0.0, 500.0)]), Ok(0));
        let stopped = choose_rerank_margin(|_| Err::<(f64, f64), _>("stopped"));
        assert_eq!(stopped, Err("stopped"));
        let curve = RecallCurve::new(1024, vec![doubling(); 2]);
        assert!((curve.loss(64, &[0.5, 0.7]) - 0.1).abs() < 1e-6);
    }

    #[test]
    fn small_and_empty_indexes_have_curves() {
        for lists in [0, 1, 2, 5, 23, 24, 25] {
            let mut curve = RecallCurve::new(lists, vec![vec![1, lists.max(1)], vec![1]]);
            for probes in curve.probes_to_measure() {
                curve.measured(probes, &[1.0], 10.0);
            }
            let points = curve.points();
            assert_eq!(points.last().unwrap().probes, lists.max(1), "{lists}");
            assert!(points.len() <= lists.max(1) as usize);
        }
        assert_eq!(RecallCurve::new(3, Vec::new()).probes_to_measure(), []);
    }
}
