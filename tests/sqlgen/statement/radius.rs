//! Limits of the distance, in all forms that a client may write.

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

use crate::sqlgen::any;
use crate::sqlgen::test_tables::QUERIES;

/// A limit of the distance.
#[derive(Clone, Debug)]
pub struct Radius {
    pub form: Form,
    pub bound: Bound,
}

/// What the distance is compared with.
#[derive(Clone, Debug)]
pub enum Bound {
    /// A constant, or a parameter.
    Value(String),
    /// That of a row of `queries`, by a sub-select.
    Listed(i32),
    /// That of the outer row.
    Outer,
}

impl Bound {
    /// One that needs no row: special numbers, or a sub-select. None: take the distance of some row.
    pub fn special(random: &mut ChaCha8Rng) -> Option<Self> {
        let value = |text: &str| Some(Bound::Value(text.to_owned()));
        match random.random_range(0..12) {
            0 => value("'NaN'"),
            1 => value("NULL"),
            2 => value(any(random, &["0", "-1", "1", "0.5", "'Infinity'"])),
            3 => Some(Bound::Listed(random.random_range(0..QUERIES))),
            _ => None,
        }
    }
}

/// How the limit is written: a condition with `{d}` for the distance, `{v}` for the bound, and `{s}` for the distance with
/// its operands the other way round than in ORDER BY.
#[derive(Clone, Copy, Debug)]
pub struct Form(&'static str);

const FORMS: [&str; 37] = [
    // A plain upper limit.
    "{d} < {v}",
    "{d} < {v}",
    "{d} < {v}",
    "{d} <= {v}",
    "{v} > {d}",
    "{v} >= {s}",
    "NOT {d} >= {v}",
    "NOT {v} < {d}",
    // An upper limit of a monotone function of the distance.
    "1 - ({d}) > 1 - {v}",
    "1 - ({d}) >= 1 - {v}",
    "1 - {v} <= 1 - ({d})",
    "NOT 1 - ({d}) <= 1 - {v}",
    "- ({d}) > - {v}",
    "- {v} <= - ({s})",
    "({d}) * -1 > {v} * -1",
    "-1 * ({d}) >= -1 * {v}",
    "({d}) + 0.25 < {v} + 0.25",
    "({d}) - 0.5 <= {v} - 0.5",
    "({d}) / 2 < {v} / 2",
    "({d}) * 3 <= {v} * 3",
    "{v} - ({d}) > 0.25",
    "{d} < 1 - (1 - {v})",
    // Casts.
    "({d})::real <= {v}::real",
    "{d} < {v}::real",
    "({d})::real < {v}",
    "({d})::numeric <= {v}::numeric",
    // Limits on both sides.
    "{d} BETWEEN {v} - 0.5::float8 AND {v}",
    "{d} BETWEEN SYMMETRIC {v} AND {v} - 0.5::float8",
    "({d} > {v} - 0.5::float8 AND {d} < {v})",
    "({v} - 0.5::float8 <= {d} AND {v} >= {d})",
    "({d} < {v} AND {d} <= {v} + 0.25::float8)",
    // Lower limits and conditions that only look like upper ones.
    "{d} > {v}",
    "1 - ({d}) < 1 - {v}",
    "- ({d}) <= - {v}",
    "({d}) * {v} < 0.5",
    "({d} < {v} OR i.id % 5 = 1)",
    "abs(({d}) - {v}) < 0.25",
];

impl Form {
    /// A random one.
    pub fn random(random: &mut ChaCha8Rng) -> Self {
        Form(any(random, &FORMS))
    }

    /// The condition.
    pub fn sql(self, distance: &str, swapped: &str, bound: &str) -> String {
        self.0
            .replace("{d}", distance)
            .replace("{s}", swapped)
            .replace("{v}", bound)
    }
}
