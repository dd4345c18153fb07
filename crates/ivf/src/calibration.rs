//! What an index knows of itself: how its model was trained ([`Training`]), and what recall its searches reach at which
//! number of probed lists, and how deep they re-rank ([`Calibration`]). Both are kept in the metapage.
//!
//! The curve gives recall by the number of probed lists. Inserted rows make lists longer. As long as they are distributed like the
//! earlier rows, the neighbors of a query lie in as many lists as before: the curve still holds, and searches cost more. After a
//! change in the distribution of rows or queries, or after most rows were deleted, recall has to be measured again: the neighbors
//! that remain lie farther apart.
//!
//! Where queries probe different numbers of lists ([`AdaptiveProbes`]), the numbers of lists here are means over the queries.
//!
//! The curve is that of the first ten neighbors. How many lists the rows behind them need is kept beside it ([`BandLists`]).

use crate::adaptive_probes::AdaptiveProbes;
use crate::bands::BandLists;
use crate::rerank::Growth;

/// Most points of a curve.
pub const MAX_POINTS: usize = 24;

/// How deep searches may re-rank, the usual first: by so much more standard deviations of the estimates' error a row must be
/// ahead of those that were not compared.
pub const RERANK_MARGINS: [f32; 3] = [1.0, 1.7, 2.7];

/// Queries that a curve was measured with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueryKind {
    /// Rows of the table, each without itself among its neighbors.
    Rows,
    /// Logged queries.
    Log,
    /// Queries that the index was searched with ([`crate::query_sample`]).
    Searches,
}

impl QueryKind {
    /// The name for users.
    pub fn as_str(self) -> &'static str {
        match self {
            QueryKind::Rows => "rows",
            QueryKind::Log => "log",
            QueryKind::Searches => "searches",
        }
    }
}

/// A point of the curve.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Point {
    /// Lists probed.
    pub probes: u32,
    /// Mean recall of the queries.
    pub recall: f32,
    /// Standard error of that mean.
    pub error: f32,
    /// Rows compared exactly, in the mean.
    pub reranked: f32,
}

/// The recall that searches were found to have.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FoundRecall {
    /// Mean recall of the queries.
    pub recall: f32,
    /// The recall that they aimed at.
    pub target: f32,
}

/// Difference of recall and target that calls for a new calibration: too low, or so high that searches do more than is asked.
const MAX_SHORTFALL: f64 = 0.01;
const MAX_EXCESS: f64 = 0.03;

/// The recall of searches with a sample of queries.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SampledRecall {
    /// The mean.
    pub mean: f64,
    /// Its standard error.
    pub error: f64,
}

impl SampledRecall {
    /// From the recall of each search; none without any.
    pub fn of(recalls: &[f32]) -> Option<Self> {
        let n = recalls.len() as f64;
        let values = || recalls.iter().map(|recall| f64::from(*recall));
        let mean = values().sum::<f64>() / n;
        let squares: f64 = values().map(|recall| (recall - mean).powi(2)).sum();
        let error = (squares / (n - 1.0).max(1.0) / n).sqrt();
        (!recalls.is_empty()).then_some(Self { mean, error })
    }

    /// Whether it misses a target by more than the sample leaves open.
    pub fn is_wrong(&self, target: f64) -> bool {
        let sure = 2.0 * self.error;
        self.mean < target - MAX_SHORTFALL.max(sure) || self.mean > target + MAX_EXCESS.max(sure)
    }
}

/// The recall of an index, as measured on its finished pages.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Calibration {
    /// What the queries were.
    pub kind: QueryKind,
    /// How many there were.
    pub queries: u32,
    /// Neighbors asked for: the `k` of recall@k.
    pub k: u8,
    /// Rows of the index then.
    pub rows: u64,
    /// When it was measured, in microseconds since 1970.
    pub measured_at: i64,
    /// How deep searches re-rank, one of [`RERANK_MARGINS`]: the points are of such searches.
    pub rerank_margin: f32,
    /// How many lists each query probes: all else that is said of lists is said of their mean over the queries.
    pub adaptive_probes: AdaptiveProbes,
    /// Lists that the rows behind the first ten need.
    pub bands: BandLists,
    /// What searches had reached by the calibration before, if that was the reason to measure again.
    pub before: Option<FoundRecall>,
    points: [Point; MAX_POINTS],
    len: u8,
}

impl Calibration {
    /// A measurement without points.
    pub fn new(kind: QueryKind, queries: u32, k: u8, rows: u64, measured_at: i64) -> Self {
        Calibration {
            kind,
            queries,
            k,
            rows,
            measured_at,
            rerank_margin: RERANK_MARGINS[0],
            adaptive_probes: AdaptiveProbes::default(),
            bands: BandLists::default(),
            before: None,
            points: [Point::default(); MAX_POINTS],
            len: 0,
        }
    }

    /// The same of searches that re-rank so deep.
    #[must_use]
    pub fn with_rerank_margin(self, rerank_margin: f32) -> Self {
        Calibration {
            rerank_margin,
            ..self
        }
    }

    /// The same of searches that probe lists so.
    #[must_use]
    pub fn with_adaptive_probes(self, adaptive_probes: AdaptiveProbes) -> Self {
        Calibration {
            adaptive_probes,
            ..self
        }
    }

    /// The same with the lists that further rows need.
    #[must_use]
    pub fn with_bands(self, bands: BandLists) -> Self {
        Calibration { bands, ..self }
    }

    /// The same, measured because searches had another recall than they should.
    #[must_use]
    pub fn with_before(self, before: Option<FoundRecall>) -> Self {
        Calibration { before, ..self }
    }

    /// The same with these points, in the order of their probes; those beyond [`MAX_POINTS`] are left out.
    #[must_use]
    pub fn with_points(mut self, points: &[Point]) -> Self {
        self.len = points.len().min(MAX_POINTS) as u8;
        self.points = [Point::default(); MAX_POINTS];
        for (place, point) in self.points.iter_mut().zip(points) {
            *place = *point;
        }
        self
    }

    /// The curve, by rising probes; recall never falls.
    pub fn points(&self) -> &[Point] {
        self.points.get(..usize::from(self.len)).unwrap_or_default()
    }

    /// The fewest lists that a search must probe to reach the target on average; none if all lists are not enough.
    ///
    /// It aims one standard error of the measurement above the target: five times in six the recall of other queries of
    /// the same kind is then really above it, and with some hundreds of queries the surplus is below 0.01. Where the
    /// measured curve ends within that margin of the target, the target itself is aimed at.
    pub fn probes_for(&self, target: f64) -> Option<u32> {
        let sure = self.crossing(|point| f64::from(point.recall - point.error), target);
        sure.or_else(|| self.crossing(|point| f64::from(point.recall), target))
    }

    /// How the lists of a search that begins with so many have to grow, so that further rows are found as surely as the first
    /// ones are with these.
    pub fn growth_from(&self, probes: u32) -> Growth {
        let value = |point: &Point| f64::from(point.recall - point.error);
        let points = self.points();
        let above = points.partition_point(|point| point.probes < probes);
        let recall = match (
            above.checked_sub(1).and_then(|i| points.get(i)),
            points.get(above),
        ) {
            (Some(a), Some(b)) => {
                let [from, at, to] = [a.probes, probes, b.probes].map(|x| f64::from(x.max(1)).ln());
                value(a) + (at - from) / (to - from) * (value(b) - value(a))
            }
            (one, other) => one.or(other).map_or(0.0, value),
        };
        self.bands.growth(recall)
    }

    /// The lists at which a rising value of the points reaches the target: between two points, the value rises with the
    /// logarithm of the lists.
    fn crossing(&self, value: impl Fn(&Point) -> f64, target: f64) -> Option<u32> {
        let points = self.points();
        let above = points.iter().position(|point| value(point) >= target)?;
        let point = points.get(above)?;
        let Some(before) = above.checked_sub(1).and_then(|i| points.get(i)) else {
            return Some(point.probes);
        };
        let share = (target - value(before)) / (value(point) - value(before));
        let [from, to] = [before, point].map(|point| f64::from(point.probes.max(1)).ln());
        let probes = (from + share.clamp(0.0, 1.0) * (to - from)).exp();
        // What rounding adds to a whole number is no list.
        Some((probes - 1e-6).ceil().max(1.0) as u32)
    }

    /// The best recall that was measured.
    pub fn best(&self) -> Option<f32> {
        self.points().last().map(|point| point.recall)
    }
}

/// How the model of an index came to be.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Training {
    /// When the index was built, in microseconds since 1970; 0 if nobody said.
    pub built_at: i64,
    /// When its current student was put there: by the build, or by a later training.
    pub trained_at: i64,
    /// Rows that the current student was trained on; 0 for an untrained index.
    pub rows: u64,
    /// Logged queries that it was trained with.
    pub queries: u64,
    /// Recall 10@10 of the codes on held-out queries before distillation, none if unknown.
    pub recall_before: Option<f32>,
    /// The same afterwards.
    pub recall_after: Option<f32>,
    /// Mean squared error of the codes over the squared length of the vector, over a sample of the rows of the build
    /// ([`distillvq_model::Model::code_error`]); none if it was not measured.
    pub code_error: Option<f32>,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn curve(points: &[(u32, f32, f32)]) -> Calibration {
        let points: Vec<Point> = points
            .iter()
            .map(|&(probes, recall, error)| Point {
                probes,
                recall,
                error,
                reranked: 30.0,
            })
            .collect();
        Calibration::new(QueryKind::Log, 400, 10, 1000, 5)
            .with_rerank_margin(RERANK_MARGINS[1])
            .with_adaptive_probes(AdaptiveProbes {
                temperature: 0.25,
                lists: 100,
                shares: std::array::from_fn(|i| (1 + i) as f32 / 16.0),
            })
            .with_bands(BandLists::new(&[[3; 9], [1, 2, 3, 4, 5, 6, 7, 8, 9]]))
            .with_points(&points)
    }

    #[test]
    fn lists_between_two_points_by_their_logarithm() {
        let it = curve(&[(1, 0.5, 0.0), (4, 0.75, 0.0), (64, 1.0, 0.0)]);
        assert_eq!(it.probes_for(0.4), Some(1));
        assert_eq!(it.probes_for(0.5), Some(1));
        assert_eq!(it.probes_for(0.625), Some(2));
        assert_eq!(it.probes_for(0.75), Some(4));
        assert_eq!(it.probes_for(0.875), Some(16));
        assert_eq!(it.probes_for(1.0), Some(64));
    }

    #[test]
    fn the_aim_is_above_the_target_as_far_as_the_measurement_is_unsure() {
        let it = curve(&[(1, 0.5, 0.25), (4, 1.0, 0.0)]);
        // From 0.25 up to 1: the target lies two thirds of the way.
        assert_eq!(it.probes_for(0.75), Some(3));
        let end = curve(&[(1, 0.5, 0.01), (100, 0.955, 0.01)]);
        assert_eq!(end.probes_for(0.95), Some(96));
        assert_eq!(end.probes_for(0.96), None);
        assert_eq!(
            (curve(&[]).probes_for(0.5), curve(&[]).best()),
            (None, None)
        );
    }

    #[test]
    fn further_rows_are_found_as_surely_as_the_first() {
        let it = curve(&[(1, 0.5, 0.0), (4, 0.96, 0.01), (64, 0.999, 0.0)]);
        assert_eq!(it.growth_from(4), Growth::new(&[3, 5]));
        assert_eq!(it.growth_from(1), Growth::new(&[3, 1]));
        assert_eq!(it.growth_from(100), Growth::new(&[3, 9]));
        assert_eq!(it.growth_from(2), it.bands.growth(0.725));
        assert_eq!(curve(&[]).growth_from(7), it.bands.growth(0.0));
    }

    #[test]
    fn a_sample_that_leaves_the_target_open_is_no_reason() {
        let of = |recalls: &[f32]| SampledRecall::of(recalls).unwrap();
        let many = |share: usize| -> Vec<f32> {
            let hit = |i: usize| f32::from(u8::from(i % 1_000 < share));
            (0..100_000).map(hit).collect()
        };
        for (share, is_wrong) in [
            (930, true),
            (941, false),
            (950, false),
            (979, false),
            (982, true),
        ] {
            assert_eq!(of(&many(share)).is_wrong(0.95), is_wrong, "{share}");
        }
        let few = of(&[1.0, 1.0, 0.7, 0.9, 1.0, 0.9]);
        assert!((few.mean - 0.916).abs() < 0.01 && few.error > 0.03);
        assert!(!few.is_wrong(0.95) && few.is_wrong(0.6));
        assert!(SampledRecall::of(&[]).is_none());
        assert_eq!(of(&[0.5]).error, 0.0);
    }

    #[test]
    fn points_without_a_rise_are_no_trouble() {
        let it = curve(&[(1, 0.9, 0.0), (2, 0.9, 0.0), (7, 0.9, 0.0), (9, 0.95, 0.0)]);
        assert_eq!(it.probes_for(0.89), Some(1));
        assert!((7..=9).contains(&it.probes_for(0.91).unwrap()));
        let strange = curve(&[
            (0, f32::NAN, 0.0),
            (0, f32::INFINITY, f32::NAN),
            (3, 2.0, 0.0),
        ]);
        assert!(strange.probes_for(0.9).unwrap() >= 1);
    }
}
