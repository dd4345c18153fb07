//! How many lists each query probes, where all queries together are to probe a number of lists on average.
//!
//! The neighbors of one query lie in one list, those of another in a hundred, and the scores of the lists tell: of a query near
//! one centroid, the softmax of the scores is concentrated on few lists. So each query probes lists until their share of this
//! softmax reaches a number that is the same for all queries. A calibration chooses the temperature of the softmax, and measures
//! which share makes queries probe how many lists on average ([`ProbeFit`]). All that is said of recall by the number of lists
//! is then said of that mean, and a search translates it for its query ([`AdaptiveProbes::lists_for`]).
//!
//! Queries unlike those of the calibration have flatter scores, and probe more lists by themselves: much of the recall is kept
//! that a fixed number of lists loses.

use distillvq_model::{ListRanking, softmax_weight};

/// Points of the table of shares, evenly spread over the logarithm of the lists.
pub const SHARES: usize = 16;
/// A query probes at most so many times the mean.
const MAX_RATIO: u32 = 8;
/// Shares below this are not told apart.
const MIN_SHARE: f32 = 1e-6;
/// Queries that the table is made from.
const FITTED_QUERIES: usize = 512;
/// Fewest lists for which queries differ.
const MIN_LISTS: u32 = 16;
/// Temperatures tried, ascending, as fractions of the mean difference of the best and the median score of a query.
const TEMPERATURES: [f32; 10] = [0.06, 0.08, 0.1, 0.125, 0.16, 0.2, 0.25, 0.32, 0.4, 0.5];
/// Coverages of the neighbors at which temperatures are compared.
const LEVELS: [f64; 4] = [0.85, 0.9, 0.95, 0.98];
/// How many more lists than the best temperature a lower one may need: the lower it is, the more lists are probed by queries
/// unlike those of the calibration.
const MAX_EXCESS: f64 = 0.05;

/// Numbers of lists by query. The default is the same number for all queries.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct AdaptiveProbes {
    /// Temperature of the softmax; 0 if all queries probe the same number of lists.
    pub temperature: f32,
    /// Number of lists of the index.
    pub lists: u32,
    /// The share of the softmax at which queries probe `lists^(i / (SHARES - 1))` lists on average, ascending.
    pub shares: [f32; SHARES],
}

impl AdaptiveProbes {
    /// The lists that a query probes, where all queries probe `mean` on average.
    pub fn lists_for(&self, ranking: &mut ListRanking, mean: usize) -> usize {
        let lists = ranking.len();
        if !self.is_adaptive() || mean == 0 || mean >= lists {
            return mean.min(lists);
        }
        let most = mean.saturating_mul(MAX_RATIO as usize).min(lists);
        ranking.lists_for_share(self.temperature, self.share(mean as f64), most)
    }

    fn is_adaptive(&self) -> bool {
        self.temperature > 0.0 && self.lists > 1
    }

    /// The share at which queries probe so many lists on average; between two points its logarithm rises with that of the lists.
    fn share(&self, mean: f64) -> f32 {
        let step = (SHARES - 1) as f64 * mean.max(1.0).ln() / f64::from(self.lists).ln();
        let before = (step as usize).min(SHARES - 2);
        let logarithm = |i: usize| f64::from(self.shares.get(i).map_or(1.0, |it| *it)).ln();
        let (from, to) = (logarithm(before), logarithm(before + 1));
        (from + (step - before as f64).min(1.0) * (to - from)).exp() as f32
    }

    /// The mean number of lists at a share; the inverse of `share`.
    fn mean(&self, share: f32) -> f64 {
        let above = self.shares.partition_point(|it| *it <= share);
        let (Some(from), Some(to)) = (
            above.checked_sub(1).and_then(|i| self.shares.get(i)),
            self.shares.get(above),
        ) else {
            return if above == 0 { 1.0 } else { self.lists.into() };
        };
        let between = (f64::from(share).ln() - f64::from(*from).ln())
            / (f64::from(*to).ln() - f64::from(*from).ln());
        let step = (above - 1) as f64 + between.clamp(0.0, 1.0);
        (f64::from(self.lists).ln() * step / (SHARES - 1) as f64).exp()
    }
}

/// A query of a calibration: its lists, and where its neighbors are.
#[derive(Clone, Debug, Default)]
pub struct RankedQuery {
    /// The scores of all lists, best first.
    pub scores: Vec<f32>,
    /// For each neighbor the place of its list in that order, from 1.
    pub places: Vec<u32>,
}

/// The numbers of lists that queries of a calibration probe.
#[derive(Clone, Copy, Debug)]
pub struct ProbeFit {
    probes: AdaptiveProbes,
}

impl ProbeFit {
    /// Chooses the temperature at which the fewest lists cover the neighbors of the queries; the same number of lists for all
    /// queries if none is better.
    pub fn choose(lists: u32, queries: &[RankedQuery]) -> ProbeFit {
        let fixed = ProbeFit {
            probes: AdaptiveProbes::default(),
        };
        let fitted = queries.get(..FITTED_QUERIES).unwrap_or(queries);
        let spread = spread(fitted);
        if lists < MIN_LISTS || !spread.is_normal() {
            return fixed;
        }
        let fits = TEMPERATURES.map(|fraction| {
            let fit = ProbeFit::at(lists, spread * fraction, fitted);
            (fit.cost(queries), fit)
        });
        let best = fits
            .iter()
            .fold(f64::INFINITY, |best, (cost, _)| best.min(*cost));
        let allowed = best + LEVELS.len() as f64 * MAX_EXCESS.ln_1p();
        let allowed = allowed.min(fixed.cost(queries));
        let chosen = fits.into_iter().find(|(cost, _)| *cost <= allowed);
        chosen.map_or(fixed, |(_, fit)| fit)
    }

    /// The fit for a temperature.
    fn at(lists: u32, temperature: f32, queries: &[RankedQuery]) -> ProbeFit {
        let all: Vec<Vec<f32>> = queries
            .iter()
            .map(|query| cumulative_shares(&query.scores, temperature))
            .collect();
        let mean_lists = |share: f32, most: u32| -> f64 {
            let probed = all.iter().map(|shares| {
                let probed = shares.partition_point(|it| *it < share) + 1;
                (probed as u32).min(most).min(lists)
            });
            probed.map(f64::from).sum::<f64>() / all.len().max(1) as f64
        };
        let mut least = MIN_SHARE;
        let shares = std::array::from_fn(|i| {
            let wanted = f64::from(lists).powf(i as f64 / (SHARES - 1) as f64);
            let most = (wanted * f64::from(MAX_RATIO)) as u32;
            let is_below = |share: f32| mean_lists(share, most) <= wanted;
            least = if i + 1 == SHARES {
                1.0
            } else {
                largest(least, 1.0, is_below)
            };
            least
        });
        ProbeFit {
            probes: AdaptiveProbes {
                temperature,
                lists,
                shares,
            },
        }
    }

    /// What was fitted.
    pub fn probes(&self) -> AdaptiveProbes {
        self.probes
    }

    /// For each place of a list the mean number of lists at which this query probes it.
    pub fn means_needed(&self, scores: &[f32], places: &[u32]) -> Vec<u32> {
        let needed = self.exact_means(scores, places);
        // What rounding adds to a whole number is no list.
        needed.map(|mean| (mean - 1e-6).ceil() as u32).collect()
    }

    fn exact_means(&self, scores: &[f32], places: &[u32]) -> impl Iterator<Item = f64> {
        let probes = self.probes;
        let shares = if probes.is_adaptive() {
            cumulative_shares(scores, probes.temperature)
        } else {
            Vec::new()
        };
        places.iter().map(move |&place| {
            let before = place.checked_sub(2).and_then(|i| shares.get(i as usize));
            let by_share = match before {
                Some(share) => probes
                    .mean(*share)
                    .max(f64::from(place) / f64::from(MAX_RATIO)),
                None if place > 1 && !probes.is_adaptive() => place.into(),
                None => 1.0,
            };
            by_share.min(scores.len().max(1) as f64)
        })
    }

    /// The sum over [`LEVELS`] of the logarithm of the lists that cover so many of the neighbors.
    fn cost(&self, queries: &[RankedQuery]) -> f64 {
        let mut needed: Vec<(f64, f64)> = Vec::new();
        for query in queries {
            let weight = 1.0 / query.places.len().max(1) as f64;
            let means = self.exact_means(&query.scores, &query.places);
            needed.extend(means.map(|mean| (mean, weight)));
        }
        needed.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
        let all: f64 = needed.iter().map(|(_, weight)| weight).sum();
        let (mut sum, mut levels, mut cost) = (0.0, LEVELS.iter().peekable(), 0.0);
        for (mean, weight) in needed {
            sum += weight;
            while levels
                .next_if(|level| sum >= **level * all - 1e-9)
                .is_some()
            {
                cost += mean.ln();
            }
        }
        cost
    }
}

/// The mean difference of the best and the median score of a query.
fn spread(queries: &[RankedQuery]) -> f32 {
    let differences = queries.iter().filter_map(|query| {
        let difference = query.scores.first()? - query.scores.get(query.scores.len() / 2)?;
        Some(difference).filter(|it| it.is_finite())
    });
    let (sum, count) = differences.fold((0.0, 0), |(sum, count), it| (sum + it, count + 1));
    sum / count.max(1) as f32
}

/// The share of the softmax in the first lists, for each number of them.
fn cumulative_shares(scores: &[f32], temperature: f32) -> Vec<f32> {
    let best = scores.first().copied().unwrap_or_default();
    let weight = |score: &f32| f64::from(softmax_weight(*score, best, 1.0 / temperature));
    let all: f64 = scores.iter().map(weight).sum();
    let mut sum = 0.0;
    let shares = scores.iter().map(|score| {
        sum += weight(score);
        (sum / all) as f32
    });
    shares.collect()
}

/// The largest number between two for which `holds`, which no larger one does; `low` if none does. By its logarithm.
fn largest(low: f32, high: f32, holds: impl Fn(f32) -> bool) -> f32 {
    let (mut low, mut high) = (low, high);
    if holds(high) {
        return high;
    }
    for _ in 0..24 {
        let middle = (low * high).sqrt();
        if holds(middle) {
            low = middle;
        } else {
            high = middle;
        }
    }
    low
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const COUNT: u32 = 400;

    /// Scores that fall the slower, the larger `width` is.
    fn scores(width: f32) -> Vec<f32> {
        (0..COUNT).map(|i| -(i as f32) / width).collect()
    }

    /// Queries whose neighbors lie in as many lists as their scores are wide, if `tell`, else in the reverse.
    fn queries(tell: bool) -> Vec<RankedQuery> {
        let widths = (0..200).map(|i| 1.0 + (i % 40) as f32);
        widths
            .map(|width| {
                let lies = if tell { width } else { 41.0 - width };
                RankedQuery {
                    scores: scores(width),
                    places: (1..=10)
                        .map(|i| 1 + (i as f32 * lies / 5.0) as u32)
                        .collect(),
                }
            })
            .collect()
    }

    #[test]
    fn wide_scores_probe_more_lists_and_the_mean_is_kept() {
        let queries = queries(true);
        let fit = ProbeFit::choose(COUNT, &queries);
        assert!(fit.probes().is_adaptive());
        for mean in [2, 5, 20, 60, 150] {
            let probed = |query: &RankedQuery| {
                let mut ranking = ListRanking::from_scores(&query.scores);
                fit.probes().lists_for(&mut ranking, mean)
            };
            let all: Vec<usize> = queries.iter().map(probed).collect();
            assert!(all[0] < all[39], "{all:?}");
            assert!(all.iter().all(|lists| (1..=8 * mean).contains(lists)));
            let sum = all.iter().sum::<usize>() as f64 / all.len() as f64;
            assert!((sum / mean as f64 - 1.0).abs() < 0.2, "{sum} for {mean}");
        }
    }

    #[test]
    fn a_query_probes_a_place_at_the_mean_that_it_needs() {
        let queries = queries(true);
        let fit = ProbeFit::choose(COUNT, &queries);
        for query in queries.iter().take(40) {
            let needed = fit.means_needed(&query.scores, &query.places);
            for (place, mean) in query.places.iter().zip(needed) {
                let mut ranking = ListRanking::from_scores(&query.scores);
                let mut probed = |mean: u32| fit.probes().lists_for(&mut ranking, mean as usize);
                let place = *place as usize;
                // A rounding may move a whole number by one.
                assert!(probed(mean + 1) >= place, "{mean} {place}");
                assert!(mean <= 2 || probed(mean - 2) < place, "{mean} {place}");
            }
        }
    }

    #[test]
    fn scores_that_tell_nothing_are_not_used() {
        let fit = ProbeFit::choose(COUNT, &queries(false));
        assert_eq!(fit.probes(), AdaptiveProbes::default());
        assert_eq!(
            fit.means_needed(&scores(3.0), &[1, 2, 9, 400]),
            [1, 2, 9, 400]
        );
        let mut ranking = ListRanking::from_scores(&scores(3.0));
        for (mean, lists) in [(0, 0), (7, 7), (400, 400), (usize::MAX, 400)] {
            assert_eq!(fit.probes().lists_for(&mut ranking, mean), lists);
        }
    }

    #[test]
    fn odd_scores_are_no_trouble() {
        for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0] {
            let query = RankedQuery {
                scores: vec![odd; 40],
                places: vec![1, 40],
            };
            let fit = ProbeFit::choose(40, &vec![query.clone(); 3]);
            assert_eq!(fit.means_needed(&query.scores, &query.places), [1, 40]);
            let probes = AdaptiveProbes {
                temperature: 0.1,
                lists: 40,
                shares: [0.5; SHARES],
            };
            let mut ranking = ListRanking::from_scores(&query.scores);
            assert!((1..=40).contains(&probes.lists_for(&mut ranking, 9)));
        }
        let none = ProbeFit::choose(40, &[]);
        assert_eq!(none.probes(), AdaptiveProbes::default());
    }
}
