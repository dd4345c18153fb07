//! Distances for which a comparison of a monotone formula of the distance can hold: `1 - d > t`, `d * c <= t`, and so on.
//!
//! A formula is evaluated as an interval that contains the value that PostgreSQL computes. For 64-bit and 32-bit floats both
//! ends are rounded as PostgreSQL rounds, so the interval is exact; `numeric` is computed in 64-bit floats, and the interval
//! is wider than the error of that. The bounds of the distance are then found by bisection over the floats, with the
//! comparison itself as the test. So no distance for which the comparison holds is ever outside the range.

/// Relative error allowed for `numeric`: a cast from double precision keeps 15 digits, a division at least 16.
const DECIMAL_ERROR: f64 = 1e-12;

/// An interval of values, ends included.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    low: f64,
    high: f64,
}

/// How the value of an operation is rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// A 64-bit float.
    Double,
    /// A 32-bit float.
    Single,
    /// A `numeric`.
    Decimal,
}

/// An operation on two values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Sum.
    Add,
    /// Difference.
    Subtract,
    /// Product.
    Multiply,
    /// Quotient.
    Divide,
}

/// A comparison of a formula (left) with a value (right).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
    /// `=`
    Equal,
}

/// A formula of the distance.
#[derive(Clone, Debug, PartialEq)]
pub enum Formula {
    /// The distance.
    Distance,
    /// A known value.
    Known(Interval),
    /// The value with its sign changed.
    Negate(Box<Formula>),
    /// A cast.
    Cast(Precision, Box<Formula>),
    /// Rounding that changes the value by at most so much.
    Round(f64, Box<Formula>),
    /// An operation on two formulas.
    Apply(Operation, Precision, Box<Formula>, Box<Formula>),
}

/// Whether a formula rises or falls with the distance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Constant,
    Rising,
    Falling,
}

/// Distances that a condition admits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DistanceRange {
    /// The least of them.
    pub lower: f64,
    /// The greatest of them but NaN; less than `lower` if there are none.
    pub upper: f64,
    /// Whether NaN, which PostgreSQL sorts last, is admitted.
    pub nan: bool,
}

impl Interval {
    const ALL: Interval = Interval {
        low: f64::NEG_INFINITY,
        high: f64::INFINITY,
    };

    /// A value alone.
    pub fn point(value: f64) -> Interval {
        Interval {
            low: value,
            high: value,
        }
    }

    /// The smallest interval with these values; NaN may be anything.
    fn hull(values: &[f64], error: f64) -> Interval {
        if values.iter().any(|value| value.is_nan()) || error.is_nan() {
            return Interval::ALL;
        }
        Interval {
            low: values.iter().copied().fold(f64::INFINITY, f64::min),
            high: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        }
        .widened(error, error)
    }

    /// With so much room on both sides. Infinite ends stay.
    fn widened(self, below: f64, above: f64) -> Interval {
        let moved = |end: f64, by: f64| if end.is_finite() { end + by } else { end };
        Interval {
            low: moved(self.low, -below),
            high: moved(self.high, above),
        }
    }

    fn magnitude(self) -> f64 {
        self.low.abs().max(self.high.abs())
    }

    fn negated(self) -> Interval {
        Interval {
            low: -self.high,
            high: -self.low,
        }
    }

    fn cast(self, precision: Precision) -> Interval {
        let Interval { low, high } = self;
        match precision {
            Precision::Double => self,
            Precision::Single => Interval {
                low: f64::from(low as f32),
                high: f64::from(high as f32),
            },
            Precision::Decimal => {
                self.widened(DECIMAL_ERROR * low.abs(), DECIMAL_ERROR * high.abs())
            }
        }
    }

    fn apply(self, operation: Operation, precision: Precision, other: Interval) -> Interval {
        let (a, b) = (self, other);
        let (values, scale) = match operation {
            Operation::Add => (
                [a.low + b.low, a.high + b.high].to_vec(),
                a.magnitude() + b.magnitude(),
            ),
            Operation::Subtract => (
                [a.low - b.high, a.high - b.low].to_vec(),
                a.magnitude() + b.magnitude(),
            ),
            Operation::Multiply => {
                let values = [
                    a.low * b.low,
                    a.low * b.high,
                    a.high * b.low,
                    a.high * b.high,
                ];
                (values.to_vec(), a.magnitude() * b.magnitude())
            }
            Operation::Divide if b.low <= 0.0 && b.high >= 0.0 => return Interval::ALL,
            Operation::Divide => {
                let values = [
                    a.low / b.low,
                    a.low / b.high,
                    a.high / b.low,
                    a.high / b.high,
                ];
                let divisor = b.low.abs().min(b.high.abs());
                (values.to_vec(), a.magnitude() / divisor)
            }
        };
        match precision {
            Precision::Decimal => Interval::hull(&values, DECIMAL_ERROR * scale),
            // Rounding the 64-bit result of two 32-bit floats once more gives their correctly rounded 32-bit result.
            Precision::Double | Precision::Single => Interval::hull(&values, 0.0).cast(precision),
        }
    }
}

impl Formula {
    /// The value, if it does not depend on the distance.
    pub fn known(&self) -> Option<Interval> {
        (self.direction() == Some(Direction::Constant)).then(|| self.at(0.0))
    }

    /// An interval around the value at a distance.
    fn at(&self, distance: f64) -> Interval {
        match self {
            Formula::Distance => Interval::point(distance),
            Formula::Known(value) => *value,
            Formula::Negate(inner) => inner.at(distance).negated(),
            Formula::Cast(precision, inner) => inner.at(distance).cast(*precision),
            Formula::Round(error, inner) => {
                let value = inner.at(distance);
                Interval::hull(&[value.low, value.high], *error)
            }
            Formula::Apply(operation, precision, a, b) => {
                let (a, b) = (a.at(distance), b.at(distance));
                a.apply(*operation, *precision, b)
            }
        }
    }

    /// Whether it rises or falls; `None` if that is not known.
    fn direction(&self) -> Option<Direction> {
        use Direction::{Constant, Falling, Rising};
        let opposite = |direction| match direction {
            Constant => Constant,
            Rising => Falling,
            Falling => Rising,
        };
        match self {
            Formula::Distance => Some(Rising),
            Formula::Known(_) => Some(Constant),
            Formula::Negate(inner) => inner.direction().map(opposite),
            Formula::Cast(_, inner) | Formula::Round(_, inner) => inner.direction(),
            Formula::Apply(operation, _, a, b) => {
                let (a_way, b_way) = (a.direction()?, b.direction()?);
                if (a_way, b_way) == (Constant, Constant) {
                    return Some(Constant);
                }
                let by = |way, factor: &Formula| match factor.at(0.0) {
                    factor if factor.low > 0.0 => Some(way),
                    factor if factor.high < 0.0 => Some(opposite(way)),
                    _ => None,
                };
                let sum = |a, b| match (a, b) {
                    (Constant, way) | (way, Constant) => Some(way),
                    (a, b) => (a == b).then_some(a),
                };
                match operation {
                    Operation::Add => sum(a_way, b_way),
                    Operation::Subtract => sum(a_way, opposite(b_way)),
                    Operation::Multiply if b_way == Constant => by(a_way, b),
                    Operation::Multiply if a_way == Constant => by(b_way, a),
                    Operation::Divide if b_way == Constant => by(a_way, b),
                    Operation::Multiply | Operation::Divide => None,
                }
            }
        }
    }
}

impl Comparison {
    /// Whether it can hold between some values of two intervals.
    fn may_hold(self, left: Interval, right: Interval) -> bool {
        match self {
            Comparison::Less => left.low < right.high,
            Comparison::LessOrEqual => left.low <= right.high,
            Comparison::Greater => left.high > right.low,
            Comparison::GreaterOrEqual => left.high >= right.low,
            Comparison::Equal => left.low <= right.high && left.high >= right.low,
        }
    }

    /// The same comparison with its sides swapped.
    #[must_use]
    pub fn swapped(self) -> Comparison {
        match self {
            Comparison::Less => Comparison::Greater,
            Comparison::LessOrEqual => Comparison::GreaterOrEqual,
            Comparison::Greater => Comparison::Less,
            Comparison::GreaterOrEqual => Comparison::LessOrEqual,
            Comparison::Equal => Comparison::Equal,
        }
    }
}

impl DistanceRange {
    /// All distances.
    pub const ALL: DistanceRange = DistanceRange {
        lower: f64::NEG_INFINITY,
        upper: f64::INFINITY,
        nan: true,
    };
    /// None.
    pub const NONE: DistanceRange = DistanceRange {
        lower: f64::INFINITY,
        upper: f64::NEG_INFINITY,
        nan: false,
    };

    /// Distances at which a comparison of a formula with a known value can hold; all, if the formula is not monotone.
    pub fn of(formula: &Formula, comparison: Comparison, value: Interval) -> DistanceRange {
        let rising = match formula.direction() {
            Some(Direction::Rising) => true,
            Some(Direction::Falling) => false,
            _ => return DistanceRange::ALL,
        };
        // A formula of NaN is NaN, which is more than all others.
        let nan = matches!(comparison, Comparison::Greater | Comparison::GreaterOrEqual);
        let side = |comparison: Comparison| {
            let holds = |distance: f64| comparison.may_hold(formula.at(distance), value);
            let is_less = matches!(comparison, Comparison::Less | Comparison::LessOrEqual);
            if is_less == rising {
                (f64::NEG_INFINITY, greatest(holds))
            } else {
                (-greatest(|distance| holds(-distance)), f64::INFINITY)
            }
        };
        let (lower, upper) = match comparison {
            Comparison::Equal => {
                let (a, b) = (
                    side(Comparison::LessOrEqual),
                    side(Comparison::GreaterOrEqual),
                );
                (a.0.max(b.0), a.1.min(b.1))
            }
            one => side(one),
        };
        DistanceRange { lower, upper, nan }
    }

    /// Distances that are in both.
    #[must_use]
    pub fn and(self, other: DistanceRange) -> DistanceRange {
        DistanceRange {
            lower: self.lower.max(other.lower),
            upper: self.upper.min(other.upper),
            nan: self.nan && other.nan,
        }
    }

    /// The smallest range with the distances of both.
    #[must_use]
    pub fn or(self, other: DistanceRange) -> DistanceRange {
        DistanceRange {
            lower: self.lower.min(other.lower),
            upper: self.upper.max(other.upper),
            nan: self.nan || other.nan,
        }
    }
}

/// The greatest float at which a test holds that holds for all smaller ones; infinity, if it holds there, and negative
/// infinity, if it holds nowhere.
fn greatest(holds: impl Fn(f64) -> bool) -> f64 {
    if holds(f64::INFINITY) {
        return f64::INFINITY;
    }
    let (mut low, mut high) = (rank(f64::NEG_INFINITY), rank(f64::INFINITY));
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if holds(ranked(middle)) {
            low = middle;
        } else {
            high = middle;
        }
    }
    // One zero: the test takes both alike.
    ranked(low) + 0.0
}

/// The place of a float in the order of all floats.
fn rank(value: f64) -> i128 {
    let bits = value.to_bits() as i64;
    i128::from(if bits < 0 { i64::MIN - bits } else { bits })
}

/// The float at a place.
fn ranked(place: i128) -> f64 {
    let place = place as i64;
    let bits = if place < 0 { i64::MIN - place } else { place };
    f64::from_bits(bits as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn known(value: f64) -> Formula {
        Formula::Known(Interval::point(value))
    }

    fn apply(operation: Operation, precision: Precision, a: Formula, b: Formula) -> Formula {
        Formula::Apply(operation, precision, Box::new(a), Box::new(b))
    }

    fn double(operation: Operation, a: Formula, b: Formula) -> Formula {
        apply(operation, Precision::Double, a, b)
    }

    fn upper(formula: &Formula, comparison: Comparison, value: f64) -> f64 {
        DistanceRange::of(formula, comparison, Interval::point(value)).upper
    }

    #[test]
    fn the_bounds_of_plain_comparisons_are_exact() {
        use Comparison::{Equal, Greater, GreaterOrEqual, Less, LessOrEqual};
        let of = |comparison, value| {
            let range = DistanceRange::of(&Formula::Distance, comparison, Interval::point(value));
            (range.lower, range.upper, range.nan)
        };
        let all = f64::INFINITY;
        assert_eq!(of(LessOrEqual, 0.5), (-all, 0.5, false));
        assert_eq!(of(Less, 0.5), (-all, 0.5f64.next_down(), false));
        assert_eq!(of(Less, 0.0), (-all, (-0.0f64).next_down(), false));
        assert_eq!(of(LessOrEqual, -0.0), (-all, 0.0, false));
        assert_eq!(of(GreaterOrEqual, 0.5), (0.5, all, true));
        assert_eq!(of(Greater, 0.5), (0.5f64.next_up(), all, true));
        assert_eq!(of(Equal, 0.5), (0.5, 0.5, false));
        assert_eq!(of(LessOrEqual, all), (-all, all, false));
        assert_eq!(of(Less, -all), (-all, -all, false));
        assert_eq!(of(LessOrEqual, -1e-320), (-all, -1e-320, false));
    }

    #[test]
    fn formulas_are_inverted() {
        use Comparison::{Greater, Less};
        use Operation::{Add, Divide, Multiply, Subtract};
        let d = || Formula::Distance;
        let negated = Formula::Negate(Box::new(d()));
        for (formula, comparison, value, expected) in [
            (double(Subtract, known(1.0), d()), Greater, 0.6, 0.4),
            (double(Add, d(), known(1.0)), Less, 1.5, 0.5),
            (double(Subtract, d(), known(1.0)), Less, 1.5, 2.5),
            (double(Multiply, d(), known(-1.0)), Greater, 0.5, -0.5),
            (double(Multiply, known(100.0), d()), Less, 30.0, 0.3),
            (double(Divide, d(), known(-2.0)), Greater, -0.5, 1.0),
            (negated.clone(), Greater, 0.25, -0.25),
            (
                double(Subtract, known(1.0), double(Divide, d(), known(2.0))),
                Greater,
                0.75,
                0.5,
            ),
        ] {
            let found = upper(&formula, comparison, value);
            assert!((found - expected).abs() < 1e-9, "{formula:?}: {found}");
        }
        // The other way round there is no upper bound, and neither where the formula is not monotone.
        for (formula, comparison) in [
            (double(Subtract, known(1.0), d()), Less),
            (negated, Less),
            (double(Multiply, d(), d()), Less),
            (double(Multiply, d(), known(0.0)), Less),
            (double(Divide, known(1.0), d()), Greater),
            (double(Subtract, d(), d()), Less),
            (known(1.0), Less),
        ] {
            assert_eq!(
                upper(&formula, comparison, 0.5),
                f64::INFINITY,
                "{formula:?}"
            );
        }
    }

    #[test]
    fn ranges_are_combined() {
        let range = |lower, upper, nan| DistanceRange { lower, upper, nan };
        let (a, b) = (range(0.0, 2.0, false), range(1.0, 3.0, true));
        assert_eq!(a.and(b), range(1.0, 2.0, false));
        assert_eq!(a.or(b), range(0.0, 3.0, true));
        assert_eq!(a.and(DistanceRange::ALL), a);
        assert_eq!(a.or(DistanceRange::NONE), a);
    }

    /// A formula, and what PostgreSQL computes for it, if that is not an error.
    type Computed = (Formula, fn(f64, f64) -> f64);

    fn computed(form: usize, c: f64) -> Computed {
        use Operation::{Add, Divide, Multiply, Subtract};
        use Precision::{Decimal, Single};
        let d = || Formula::Distance;
        let decimal = || Formula::Cast(Decimal, Box::new(d()));
        // As a cast to numeric: 15 digits.
        fn digits(x: f64) -> f64 {
            format!("{x:.14e}").parse().unwrap_or(f64::NAN)
        }
        match form {
            0 => (double(Subtract, known(c), d()), |d, c| c - d),
            1 => (double(Subtract, d(), known(c)), |d, c| d - c),
            2 => (double(Multiply, d(), known(c)), |d, c| d * c),
            3 => (double(Divide, d(), known(c)), |d, c| d / c),
            4 => (
                Formula::Cast(Single, Box::new(double(Subtract, known(c), d()))),
                |d, c| f64::from((c - d) as f32),
            ),
            5 => (apply(Subtract, Decimal, known(c), decimal()), |d, c| {
                c - digits(d)
            }),
            6 => (
                Formula::Round(0.005, Box::new(apply(Add, Decimal, decimal(), known(c)))),
                |d, c| ((digits(d) + c) * 100.0).round() / 100.0,
            ),
            _ => (
                apply(
                    Multiply,
                    Single,
                    Formula::Cast(Single, Box::new(d())),
                    known(f64::from(c as f32)),
                ),
                |d, c| f64::from(d as f32 * c as f32),
            ),
        }
    }

    proptest! {
        #[test]
        fn no_distance_that_a_comparison_admits_is_outside(
            form in 0..8usize, c in -3.0..3.0f64, at in -3.0..3.0f64, steps in -40i32..40, which in 0..5usize,
        ) {
            use Comparison::{Equal, Greater, GreaterOrEqual, Less, LessOrEqual};
            let comparison = [Less, LessOrEqual, Greater, GreaterOrEqual, Equal][which];
            let (formula, compute) = computed(form, c);
            // A value that distances near this one reach.
            let value = compute(at, c);
            let range = DistanceRange::of(&formula, comparison, Interval::point(value));
            let mut distance = at;
            for _ in 0..steps.unsigned_abs() {
                distance = if steps < 0 { distance.next_down() } else { distance.next_up() };
            }
            for distance in [distance, at * 0.999_999, at * 1.000_001, at + 0.1, at - 0.1] {
                let left = compute(distance, c);
                let holds = match comparison {
                    Less => left < value,
                    LessOrEqual => left <= value,
                    Greater => left > value,
                    GreaterOrEqual => left >= value,
                    Equal => left == value,
                };
                let inside = (range.lower..=range.upper).contains(&distance);
                prop_assert!(inside || !holds, "{distance} {range:?}");
            }
        }

        #[test]
        fn bounds_are_tight(form in 0..8usize, c in 0.1..3.0f64, at in -3.0..3.0f64) {
            let (formula, compute) = computed(form, c);
            let value = Interval::point(compute(at, c));
            for comparison in [Comparison::LessOrEqual, Comparison::GreaterOrEqual] {
                let range = DistanceRange::of(&formula, comparison, value);
                let bound = if range.upper.is_finite() { range.upper } else { range.lower };
                let rounding = if form == 6 { 0.02 } else { 1e-5 };
                prop_assert!((bound - at).abs() < rounding, "{bound} {at}");
            }
        }
    }
}
