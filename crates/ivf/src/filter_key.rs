//! Keys of filter columns: unsigned numbers in the order of the values that they stand for.
//!
//! A column stores a key of 1, 2, 4 or 8 bytes per row. The keys of a type are either exact, one per value; or ordered, when
//! values that differ may share a key; or hashes, which keep equality alone. A condition becomes a [`ColumnTest`] on keys that
//! admits every row for which the condition holds, and with exact keys no other.

use crate::distance_range::Comparison;
use std::cmp::Ordering;

/// What the keys of a column tell of its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// Equal keys are equal values, and the order of keys is that of values.
    Exact,
    /// A smaller key is a smaller value; equal keys may be different values.
    Ordered,
    /// Different keys are different values.
    Hash,
}

/// Where a value lies on the scale of the keys of a column, which may have no key of its own for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyPosition {
    /// The nearest key.
    pub key: u64,
    /// How the value compares with the values of that key. Unless it is equal, no key lies between them.
    pub order: Ordering,
}

impl KeyPosition {
    /// The position of a value that has a key.
    pub fn of(key: u64) -> KeyPosition {
        KeyPosition {
            key,
            order: Ordering::Equal,
        }
    }
}

/// Which keys a condition admits. NULL has no key: only [`ColumnTest::Null`] admits it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ColumnTest {
    /// None.
    Nothing,
    /// NULL.
    Null,
    /// Every key.
    NotNull,
    /// The keys of an interval, ends included.
    Range(u64, u64),
    /// Certain keys, in ascending order.
    OneOf(Vec<u64>),
    /// Keys that have all bits of at least one of these.
    Superset(Vec<u64>),
    /// Keys that have no other bits than these.
    Subset(u64),
}

/// How a condition compares the labels of a row, the elements of an array, with those that it asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LabelComparison {
    /// The row has at least one of them: `&&`.
    Overlaps,
    /// The row has all of them: `@>`.
    Contains,
    /// The row has no others: `<@`.
    ContainedBy,
}

impl ColumnTest {
    /// The keys of the values that compare so with at least one of the values at these positions; `largest` is the largest key.
    pub fn any(
        kind: KeyKind,
        comparison: Comparison,
        values: &[KeyPosition],
        largest: u64,
    ) -> ColumnTest {
        if values.is_empty() {
            return ColumnTest::Nothing;
        }
        if comparison == Comparison::Equal {
            let is_possible = |value: &&KeyPosition| value.order == Ordering::Equal;
            let keys = values.iter().filter(is_possible).map(|value| value.key);
            return ColumnTest::of_keys(keys.collect());
        }
        if kind == KeyKind::Hash {
            return ColumnTest::NotNull;
        }
        let ranges = values
            .iter()
            .filter_map(|value| value.range(kind, comparison, largest));
        // All of them begin with the smallest key, or all end with the largest.
        let union = ranges.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)));
        union.map_or(ColumnTest::Nothing, |(min, max)| {
            ColumnTest::Range(min, max)
        })
    }

    /// The keys of rows whose labels may compare so with these; see [`label_key`].
    pub fn labels(comparison: LabelComparison, mut labels: Vec<u64>) -> ColumnTest {
        let all = labels.iter().fold(0, |all, label| all | label);
        match comparison {
            LabelComparison::Overlaps if labels.is_empty() => ColumnTest::Nothing,
            LabelComparison::Overlaps => {
                labels.sort_unstable();
                labels.dedup();
                ColumnTest::Superset(labels)
            }
            LabelComparison::Contains => ColumnTest::Superset(vec![all]),
            LabelComparison::ContainedBy => ColumnTest::Subset(all),
        }
    }

    fn of_keys(mut keys: Vec<u64>) -> ColumnTest {
        keys.sort_unstable();
        keys.dedup();
        match *keys {
            [] => ColumnTest::Nothing,
            [key] => ColumnTest::Range(key, key),
            _ => ColumnTest::OneOf(keys),
        }
    }

    /// Whether a key, `None` for NULL, is admitted.
    pub fn admits(&self, key: Option<u64>) -> bool {
        match (self, key) {
            (ColumnTest::Null, None) | (ColumnTest::NotNull, Some(_)) => true,
            (ColumnTest::Range(min, max), Some(key)) => (min..=max).contains(&&key),
            (ColumnTest::OneOf(keys), Some(key)) => keys.binary_search(&key).is_ok(),
            (ColumnTest::Superset(masks), Some(key)) => masks.iter().any(|mask| mask & !key == 0),
            (ColumnTest::Subset(mask), Some(key)) => key & !mask == 0,
            _ => false,
        }
    }
}

impl KeyPosition {
    /// The keys of the values that may compare so with the value at this position, `None` if there are none. Not for
    /// [`Comparison::Equal`].
    fn range(&self, kind: KeyKind, comparison: Comparison, largest: u64) -> Option<(u64, u64)> {
        let KeyPosition { key, order } = *self;
        // Values of the same key may lie on either side.
        let is_shared = kind == KeyKind::Ordered && order == Ordering::Equal;
        let (below, above) = (
            key.checked_sub(1),
            key.checked_add(1).filter(|it| *it <= largest),
        );
        match (comparison, order) {
            (Comparison::Less, Ordering::Equal) if !is_shared => Some((0, below?)),
            (Comparison::Less | Comparison::LessOrEqual, Ordering::Less) => Some((0, below?)),
            (Comparison::Less | Comparison::LessOrEqual, _) => Some((0, key)),
            (Comparison::Greater, Ordering::Equal) if !is_shared => Some((above?, largest)),
            (Comparison::Greater | Comparison::GreaterOrEqual, Ordering::Greater) => {
                Some((above?, largest))
            }
            (Comparison::Greater | Comparison::GreaterOrEqual, _) => Some((key, largest)),
            (Comparison::Equal, _) => Some((key, key)),
        }
    }
}

/// The largest key of so many bytes.
pub fn largest_key(bytes: usize) -> u64 {
    match bytes {
        0..8 => (1 << (8 * bytes)) - 1,
        _ => u64::MAX,
    }
}

/// The position of an integer among those of a type of so many bytes, signed as all of PostgreSQL's.
pub fn integer_position(value: i64, bytes: usize) -> KeyPosition {
    let shift = 64 - 8 * bytes.clamp(1, 8);
    let (min, max) = (i64::MIN >> shift, i64::MAX >> shift);
    let key = |value: i64| (value.wrapping_sub(min)).cast_unsigned();
    KeyPosition {
        key: key(value.clamp(min, max)),
        order: value.cmp(&value.clamp(min, max)),
    }
}

/// The key of a 64-bit float, in PostgreSQL's order: both zeros are equal, and NaN is equal to itself and greater than all others.
pub fn double_key(value: f64) -> u64 {
    if value.is_nan() {
        return u64::MAX;
    }
    let bits = (value + 0.0).to_bits();
    if bits >> 63 == 1 {
        !bits
    } else {
        bits | 1 << 63
    }
}

/// The key of a 32-bit float, likewise.
pub fn single_key(value: f32) -> u64 {
    if value.is_nan() {
        return u32::MAX.into();
    }
    let bits = (value + 0.0).to_bits();
    (if bits >> 31 == 1 {
        !bits
    } else {
        bits | 1 << 31
    })
    .into()
}

/// The position of a 64-bit float among the 32-bit ones.
pub fn single_position(value: f64) -> KeyPosition {
    let nearest = value as f32;
    let order = if value.is_nan() {
        Ordering::Equal
    } else {
        value
            .partial_cmp(&f64::from(nearest))
            .unwrap_or(Ordering::Equal)
    };
    KeyPosition {
        key: single_key(nearest),
        order,
    }
}

/// The key of a label with this hash: two bits of 64, which may be the same. The key of several labels has the bits of all.
///
/// Of rows with three labels, about one of 120 passes a test for another label.
pub fn label_key(hash: u32) -> u64 {
    1 << (hash & 63) | 1 << (hash >> 6 & 63)
}

/// The key of a string of bytes: its first eight.
pub fn prefix_key(bytes: &[u8]) -> u64 {
    let mut first = [0; 8];
    first
        .iter_mut()
        .zip(bytes)
        .for_each(|(to, from)| *to = *from);
    u64::from_be_bytes(first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const COMPARISONS: [Comparison; 5] = [
        Comparison::Less,
        Comparison::LessOrEqual,
        Comparison::Equal,
        Comparison::GreaterOrEqual,
        Comparison::Greater,
    ];

    fn holds(order: Ordering, comparison: Comparison) -> bool {
        match comparison {
            Comparison::Less => order.is_lt(),
            Comparison::LessOrEqual => order.is_le(),
            Comparison::Equal => order.is_eq(),
            Comparison::GreaterOrEqual => order.is_ge(),
            Comparison::Greater => order.is_gt(),
        }
    }

    /// PostgreSQL's order of floats.
    fn float_order(a: f64, b: f64) -> Ordering {
        a.partial_cmp(&b)
            .unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
    }

    fn float() -> impl Strategy<Value = f64> {
        let special = [
            0.0,
            -0.0,
            1.0,
            f64::NAN,
            -f64::NAN,
            f64::INFINITY,
            f64::NEG_INFINITY,
        ];
        let near = (-20i32..20).prop_map(|i| 1.0 + f64::from(i) * 1e-8);
        prop_oneof![any::<f64>(), prop::sample::select(special.to_vec()), near]
    }

    fn integer() -> impl Strategy<Value = i64> {
        let edges = [
            i8::MIN.into(),
            i16::MAX.into(),
            i32::MIN.into(),
            i32::MAX.into(),
        ];
        let edges = prop::sample::select(
            edges
                .into_iter()
                .chain([i64::MIN, i64::MAX])
                .collect::<Vec<i64>>(),
        );
        let near_edges = (edges, -2i64..=2).prop_map(|(edge, more)| edge.saturating_add(more));
        prop_oneof![any::<i64>(), -3i64..3, near_edges]
    }

    /// Checks a test against the values themselves.
    fn check(
        test: &ColumnTest,
        key: u64,
        kind: KeyKind,
        expected: bool,
    ) -> Result<(), TestCaseError> {
        let found = test.admits(Some(key));
        prop_assert!(found || !expected, "a row is missing: {test:?} {key}");
        prop_assert!(
            kind != KeyKind::Exact || found == expected,
            "{test:?} {key}"
        );
        prop_assert!(!test.admits(None));
        Ok(())
    }

    proptest! {
        #[test]
        fn integers_compare_with_wider_ones(
            row in any::<i64>(), near in any::<bool>(), bytes in prop::sample::select(vec![2usize, 4, 8]),
            values in prop::collection::vec(integer(), 0..4),
        ) {
            let shift = 64 - 8 * bytes;
            let row = if near { values.first().copied().unwrap_or(row) } else { row };
            let row = row.clamp(i64::MIN >> shift, i64::MAX >> shift);
            let positions: Vec<_> = values.iter().map(|value| integer_position(*value, bytes)).collect();
            let key = integer_position(row, bytes);
            prop_assert_eq!(key.order, Ordering::Equal);
            prop_assert!(key.key <= largest_key(bytes));
            for comparison in COMPARISONS {
                let test = ColumnTest::any(KeyKind::Exact, comparison, &positions, largest_key(bytes));
                let expected = values.iter().any(|value| holds(row.cmp(value), comparison));
                check(&test, key.key, KeyKind::Exact, expected)?;
            }
        }

        #[test]
        fn floats_compare_as_in_postgres(row in float(), values in prop::collection::vec(float(), 1..4)) {
            let single = row as f32;
            for comparison in COMPARISONS {
                let doubles: Vec<_> = values.iter().map(|value| KeyPosition::of(double_key(*value))).collect();
                let test = ColumnTest::any(KeyKind::Exact, comparison, &doubles, u64::MAX);
                let expected = values.iter().any(|value| holds(float_order(row, *value), comparison));
                check(&test, double_key(row), KeyKind::Exact, expected)?;
                let singles: Vec<_> = values.iter().map(|value| single_position(*value)).collect();
                let test = ColumnTest::any(KeyKind::Exact, comparison, &singles, largest_key(4));
                let expected = values.iter().any(|value| holds(float_order(single.into(), *value), comparison));
                check(&test, single_key(single), KeyKind::Exact, expected)?;
            }
        }

        #[test]
        fn prefixes_and_hashes_lose_no_row(
            row in prop::collection::vec(0..3u8, 0..11), values in prop::collection::vec(prop::collection::vec(0..3u8, 0..11), 1..3),
        ) {
            for comparison in COMPARISONS {
                let expected = values.iter().any(|value| holds(row.cmp(value), comparison));
                let prefixes: Vec<_> = values.iter().map(|value| KeyPosition::of(prefix_key(value))).collect();
                let test = ColumnTest::any(KeyKind::Ordered, comparison, &prefixes, u64::MAX);
                check(&test, prefix_key(&row), KeyKind::Ordered, expected)?;
                let hash = |value: &[u8]| value.iter().fold(7u64, |hash, byte| (hash * 3 + u64::from(*byte)) % 5);
                let hashes: Vec<_> = values.iter().map(|value| KeyPosition::of(hash(value))).collect();
                let test = ColumnTest::any(KeyKind::Hash, comparison, &hashes, largest_key(4));
                check(&test, hash(&row), KeyKind::Hash, expected)?;
            }
        }
    }

    #[test]
    fn an_exact_key_at_either_end_excludes_what_lies_beyond() {
        let any = |comparison, key| {
            ColumnTest::any(KeyKind::Exact, comparison, &[KeyPosition::of(key)], 255)
        };
        assert_eq!(any(Comparison::Less, 0), ColumnTest::Nothing);
        assert_eq!(any(Comparison::Greater, 255), ColumnTest::Nothing);
        assert_eq!(
            any(Comparison::GreaterOrEqual, 255),
            ColumnTest::Range(255, 255)
        );
        assert_eq!(any(Comparison::LessOrEqual, 255), ColumnTest::Range(0, 255));
        assert!(ColumnTest::Null.admits(None) && !ColumnTest::Null.admits(Some(0)));
        assert!(ColumnTest::NotNull.admits(Some(0)) && !ColumnTest::Nothing.admits(None));
    }

    proptest! {
        #[test]
        fn labels_that_compare_so_pass(
            row in prop::collection::vec(0..40u32, 0..6),
            asked in prop::collection::vec(0..40u32, 0..6),
        ) {
            let hash = |label: &u32| label_key(label.wrapping_mul(2_654_435_761) >> 7);
            let key = row.iter().map(hash).fold(0, |all, key| all | key);
            let has = |label: &u32| row.contains(label);
            for (comparison, holds) in [
                (LabelComparison::Overlaps, asked.iter().any(has)),
                (LabelComparison::Contains, asked.iter().all(has)),
                (LabelComparison::ContainedBy, row.iter().all(|label| asked.contains(label))),
            ] {
                let test = ColumnTest::labels(comparison, asked.iter().map(hash).collect());
                prop_assert!(!holds || test.admits(Some(key)), "{:?}", comparison);
                prop_assert!(!test.admits(None));
            }
        }
    }

    #[test]
    fn few_rows_with_other_labels_pass() {
        let key = |label: u32| label_key(label.wrapping_mul(2_654_435_761) >> 7);
        let rows = 3_000..9_000u32;
        let test = ColumnTest::labels(LabelComparison::Overlaps, vec![key(1)]);
        let passed = rows.filter(|row| {
            let labels = [3 * row, 3 * row + 1, 3 * row + 2].map(key);
            test.admits(Some(labels[0] | labels[1] | labels[2]))
        });
        let passed = passed.count();
        assert!((20..=100).contains(&passed), "{passed}");
    }
}
