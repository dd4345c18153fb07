//! Measuring the recall of searches against exact ones.

use std::collections::BinaryHeap;

/// Standard deviations on both sides of the mean that hold 95 % of a normal distribution.
const Z: f64 = 1.96;

/// A distance in the order of `f64::total_cmp`.
#[derive(Clone, Copy, Debug)]
struct Ordered(f64);

impl PartialEq for Ordered {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Ordered {}

impl PartialOrd for Ordered {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ordered {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

/// The distances of the `k` rows nearest to a query, among all rows that were offered.
#[derive(Clone, Debug)]
pub struct TopDistances {
    k: usize,
    /// The farthest on top.
    best: BinaryHeap<Ordered>,
}

impl TopDistances {
    /// No rows yet.
    pub fn new(k: usize) -> Self {
        TopDistances {
            k,
            best: BinaryHeap::new(),
        }
    }

    /// Offers a row. Ignores rows without a distance (NaN).
    pub fn offer(&mut self, distance: f64) {
        if distance.is_nan() || self.k == 0 {
            return;
        }
        let row = Ordered(distance);
        if self.best.len() < self.k {
            self.best.push(row);
        } else if let Some(mut farthest) = self.best.peek_mut()
            && row < *farthest
        {
            *farthest = row;
        }
    }

    /// The share of the true neighbors among the rows that a search found, of which each counts that is as near as the
    /// farthest true neighbor: which of several equally near rows are found does not matter. `None` if there are no
    /// neighbors.
    pub fn recall(&self, found: &[f64]) -> Option<f64> {
        let radius = self.best.peek()?.0;
        let hits = found.iter().filter(|&&distance| distance <= radius);
        let wanted = self.best.len();
        Some(hits.count().min(wanted) as f64 / wanted as f64)
    }
}

/// A mean with what it may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RecallEstimate {
    /// The mean of the sample.
    pub mean: f64,
    /// Lower end of the 95 % confidence interval of the true mean.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
}

/// RecallEstimate and confidence interval of a proportion that was measured on several queries, each giving one between 0 and 1;
/// `None` without any query.
///
/// The interval is Wilson's (1927), which stays honest near 1, for as many independent trials as the queries are worth: at
/// least one each, at most `trials` each, according to how much they differ from each other. Few queries that are all alike
/// do not tell that others are: two more queries, one of recall 0 and one of recall 1, are added when the spread is estimated.
/// For recalls from 0.7 to 0.998, 10 to 400 queries, and spreads from none to a few bad queries among good ones, the interval
/// held the true mean in 92 to 100 % of simulated samples.
pub fn estimate_recall(shares: &[f64], trials: usize) -> Option<RecallEstimate> {
    if shares.is_empty() {
        return None;
    }
    let n = shares.len() as f64;
    let mean = shares.iter().sum::<f64>() / n;
    let worth = n / design_effect(shares).clamp(1.0 / trials.max(1) as f64, 1.0);
    let square = Z * Z;
    let shrink = 1.0 + square / worth;
    let center = (mean + square / (2.0 * worth)) / shrink;
    let variance = mean * (1.0 - mean) / worth + square / (4.0 * worth * worth);
    let half = Z * variance.max(0.0).sqrt() / shrink;
    Some(RecallEstimate {
        mean,
        low: (center - half).clamp(0.0, mean),
        high: (center + half).clamp(mean, 1.0),
    })
}

/// The variance of the shares, in that of single trials of the same mean.
fn design_effect(shares: &[f64]) -> f64 {
    let all = || shares.iter().copied().chain([0.0, 1.0]);
    let n = shares.len() as f64 + 2.0;
    let mean = all().sum::<f64>() / n;
    let squares: f64 = all().map(|share| (share - mean).powi(2)).sum();
    squares / (n - 1.0) / (mean * (1.0 - mean))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn recall_counts_what_is_as_near_as_the_farthest_neighbor() {
        let mut nearest = TopDistances::new(3);
        for distance in [5.0, 1.0, f64::NAN, 3.0, 2.0, 3.0, 9.0] {
            nearest.offer(distance);
        }
        assert_eq!(nearest.recall(&[1.0, 2.0, 3.0]), Some(1.0));
        assert_eq!(nearest.recall(&[1.0, 3.0, 3.0]), Some(1.0));
        assert_eq!(nearest.recall(&[1.0, 2.0, 3.0, 3.0]), Some(1.0));
        assert_eq!(nearest.recall(&[1.0, 5.0, 9.0]), Some(1.0 / 3.0));
        assert_eq!(nearest.recall(&[f64::NAN]), Some(0.0));
        assert_eq!(nearest.recall(&[]), Some(0.0));
    }

    #[test]
    fn recall_is_against_what_exists() {
        let mut nearest = TopDistances::new(10);
        assert_eq!(nearest.recall(&[1.0]), None);
        nearest.offer(f64::INFINITY);
        nearest.offer(-1.0);
        assert_eq!(nearest.recall(&[-1.0, f64::INFINITY]), Some(1.0));
        assert_eq!(nearest.recall(&[-1.0]), Some(0.5));
        let mut none = TopDistances::new(0);
        none.offer(1.0);
        assert_eq!(none.recall(&[]), None);
    }

    #[test]
    fn perfect_samples_are_no_proof() {
        let all = |n: usize| estimate_recall(&vec![1.0; n], 10).unwrap();
        assert_eq!((all(100).mean, all(100).high), (1.0, 1.0));
        assert!((0.95..0.98).contains(&all(100).low), "{:?}", all(100));
        assert!(all(5).low < 0.65 && all(5).low < all(10).low && all(10).low < all(1_000).low);
        let none = estimate_recall(&[0.0; 50], 10).unwrap();
        assert_eq!((none.mean, none.low), (0.0, 0.0));
        assert!(none.high > 0.02 && none.high < 0.1);
        assert_eq!(estimate_recall(&[], 10), None);
        let one = estimate_recall(&[0.5], 10).unwrap();
        assert!(one.low < 0.2 && one.high > 0.8, "{one:?}");
    }

    #[test]
    fn the_interval_holds_the_truth_as_often_as_it_says() {
        let mut random = ChaCha8Rng::seed_from_u64(3);
        // The true mean, and the recall of the bad queries among good ones; 1 means that all queries are alike.
        for (truth, bad) in [
            (0.7, 1.0),
            (0.95, 1.0),
            (0.95, 0.4),
            (0.99, 0.4),
            (0.998, 0.5),
        ] {
            for queries in [10, 50, 200] {
                let (mut held, mut width, rounds) = (0, 0.0, 400);
                for _ in 0..rounds {
                    let share = |random: &mut ChaCha8Rng| {
                        let chance = match bad {
                            1.0 => truth,
                            bad if random.random_bool((1.0 - truth) / (1.0 - bad)) => bad,
                            _ => 1.0,
                        };
                        (0..10).filter(|_| random.random_bool(chance)).count() as f64 / 10.0
                    };
                    let shares: Vec<f64> = (0..queries).map(|_| share(&mut random)).collect();
                    let found = estimate_recall(&shares, 10).unwrap();
                    held += u32::from((found.low..=found.high).contains(&truth));
                    width += found.high - found.low;
                }
                let (held, width) = (
                    f64::from(held) / f64::from(rounds),
                    width / f64::from(rounds),
                );
                assert!(held >= 0.92, "{truth} {bad} {queries}: {held}");
                // And it says something: less than single trials would.
                let single = 2.0 * Z * (truth * (1.0 - truth) / f64::from(queries)).sqrt();
                assert!(
                    width < single + 0.35 / f64::from(queries) * 10.0,
                    "{truth} {queries}: {width}"
                );
            }
        }
    }
}
