//! Aggregates that need an order, or the least distance.

use std::collections::HashMap;

use super::{Distance, Record, Row, Shown, ensure, rows_of, sorted};

/// Which aggregate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Aggregate {
    /// `array_agg(d ORDER BY d)`.
    Ordered,
    /// The same, ties in the order of the ids.
    OrderedById,
    /// `array_agg(DISTINCT d)`.
    Distinct,
    /// `count(DISTINCT d)`.
    CountDistinct,
    /// `min(d)`, for which the planner may search the nearest row.
    Least,
}

impl Aggregate {
    pub const ALL: [Self; 5] = [
        Self::Ordered,
        Self::OrderedById,
        Self::Distinct,
        Self::CountDistinct,
        Self::Least,
    ];

    pub(super) fn sql(self, search: &str) -> String {
        let (id, d, ids, values) = match self {
            Self::Ordered => (
                "-1",
                "NULL",
                "array_agg(id ORDER BY d)",
                "array_agg(d ORDER BY d)",
            ),
            Self::OrderedById => (
                "-1",
                "NULL",
                "array_agg(id ORDER BY d, id)",
                "array_agg(d ORDER BY d, id)",
            ),
            Self::Distinct => ("-1", "NULL", "array_agg(id)", "array_agg(DISTINCT d)"),
            Self::CountDistinct => ("count(DISTINCT d)", "NULL", "array_agg(id)", "array_agg(d)"),
            Self::Least => ("-1", "min(d)", "NULL", "NULL"),
        };
        format!(
            "SELECT 0 AS n, {id}::bigint AS id, {d}::float8 AS d, {ids}::bigint[] AS ids, {values}::float8[] AS \"values\"
             FROM ({search}) s"
        )
    }

    pub(super) fn check(self, records: &[Record], universe: &[Row]) -> Result<Shown, String> {
        let [Record { row, ids, values }] = records else {
            return Err(format!("{} rows, not one", records.len()));
        };
        if self == Self::Least {
            let known = universe.iter().any(|other| other.distance == row.distance);
            ensure(known || row.distance == Distance(None), || {
                format!("{row:?} is none that was asked for")
            })?;
            return Ok(Shown::Some {
                rows: vec![*row],
                ordered: false,
            });
        }
        let of_universe: HashMap<i64, Distance> =
            universe.iter().map(|row| (row.id, row.distance)).collect();
        let true_distances: Vec<Distance> = ids
            .iter()
            .map(|id| of_universe.get(id).copied().unwrap_or(Distance(None)))
            .collect();
        let mut distinct = sorted(true_distances.iter().copied());
        distinct.dedup();
        let right = match self {
            Self::Ordered => values.is_sorted() && true_distances == *values,
            Self::OrderedById => {
                let rows = rows_of(ids, values);
                rows.is_sorted_by_key(|row| (row.distance, row.id)) && true_distances == *values
            }
            Self::Distinct => *values == distinct,
            Self::CountDistinct => {
                distinct.retain(|distance| distance.0.is_some());
                true_distances == *values && row.id == distinct.len() as i64
            }
            Self::Least => unreachable!("it is checked above"),
        };
        ensure(right, || {
            format!("{self:?} contradicts the distances {true_distances:?}")
        })?;
        Ok(Shown::All {
            rows: rows_of(ids, &true_distances),
            ordered: matches!(self, Self::Ordered | Self::OrderedById),
        })
    }
}
