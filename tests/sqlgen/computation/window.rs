//! Window functions over the distance.

use std::collections::HashSet;

use super::{Distance, Record, Shown, distances, ensure, rows, sorted};

/// Which functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Window {
    /// Places: `rank`, `dense_rank`, `row_number`.
    Places,
    /// The distance of the row before.
    Lag,
    /// Numbers of rows up to this one, by the default frame and by one of a certain width.
    Ranges,
}

/// Width of a frame.
const WIDTH: f64 = 0.25;

impl Window {
    pub const ALL: [Self; 3] = [Self::Places, Self::Lag, Self::Ranges];

    pub(super) fn sql(self, search: &str) -> String {
        let values = match self {
            Self::Places => "rank() OVER w, dense_rank() OVER w, row_number() OVER w",
            Self::Lag => "row_number() OVER w, lag(d) OVER w",
            Self::Ranges => {
                &format!("count(*) OVER w, count(*) OVER (w RANGE {WIDTH}::float8 PRECEDING)")
            }
        };
        format!(
            "SELECT 0 AS n, id, d, NULL::bigint[] AS ids, ARRAY[{values}]::float8[] AS \"values\"
             FROM ({search}) s WINDOW w AS (ORDER BY d) ORDER BY d"
        )
    }

    pub(super) fn check(self, records: &[Record]) -> Result<Shown, String> {
        let sorted = sorted(distances(records));
        let mut numbers = HashSet::new();
        for record in records {
            let right = self.is_right(record, &sorted, &mut numbers);
            ensure(right, || {
                format!("{self:?} of {record:?} contradicts the distances")
            })?;
        }
        Ok(Shown::All {
            rows: rows(records),
            ordered: true,
        })
    }

    /// `sorted` has all distances, `numbers` the numbers of the rows before.
    fn is_right(self, record: &Record, sorted: &[Distance], numbers: &mut HashSet<usize>) -> bool {
        let distance = record.row.distance;
        let before = sorted.partition_point(|other| *other < distance);
        let up_to = sorted.partition_point(|other| *other <= distance);
        let value = |i: usize| record.values[i].0.unwrap_or(f64::NAN) as usize;
        let mut is_new_number =
            |number: usize| (before + 1..=up_to).contains(&number) && numbers.insert(number);
        match self {
            Self::Places => {
                let distinct = sorted[..before].chunk_by(|a, b| a == b).count();
                value(0) == before + 1 && value(1) == distinct + 1 && is_new_number(value(2))
            }
            Self::Lag => {
                let previous = value(0).checked_sub(2).map(|place| sorted[place]);
                is_new_number(value(0)) && record.values[1] == previous.unwrap_or(Distance(None))
            }
            Self::Ranges => {
                let first = match distance.0 {
                    Some(x) if !x.is_nan() => {
                        sorted.partition_point(|other| *other < Distance(Some(x - WIDTH)))
                    }
                    _ => before,
                };
                value(0) == up_to && value(1) == up_to - first
            }
        }
    }
}
