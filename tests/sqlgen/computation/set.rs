//! `UNION`, `INTERSECT`, and `EXCEPT` of distances.

use std::collections::BTreeMap;

use rand_chacha::ChaCha8Rng;

use super::{Record, Row, Shown, distances, ensure, is_other, rows};
use crate::sqlgen::{any, one_in};

/// An operation between a search and rows that are known exactly, or the search again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Set {
    operator: Operator,
    /// Whether duplicates stay.
    all: bool,
    arms: Arms,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Operator {
    Union,
    Intersect,
    Except,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Arms {
    SearchAndOther,
    OtherAndSearch,
    SearchTwice,
}

impl Set {
    /// A random one.
    pub fn random(random: &mut ChaCha8Rng) -> Self {
        Set {
            operator: any(
                random,
                &[Operator::Union, Operator::Intersect, Operator::Except],
            ),
            all: one_in(random, 2),
            arms: any(
                random,
                &[
                    Arms::SearchAndOther,
                    Arms::OtherAndSearch,
                    Arms::SearchTwice,
                ],
            ),
        }
    }

    pub(super) fn sql(self, search: &str, other: &str) -> String {
        let search = format!("(SELECT d FROM ({search}) s)");
        let (left, right) = match self.arms {
            Arms::SearchAndOther => (&*search, "(SELECT d FROM other)"),
            Arms::OtherAndSearch => ("(SELECT d FROM other)", &*search),
            Arms::SearchTwice => (&*search, &*search),
        };
        let operator = match self.operator {
            Operator::Union => "UNION",
            Operator::Intersect => "INTERSECT",
            Operator::Except => "EXCEPT",
        };
        let all = if self.all { " ALL" } else { "" };
        format!(
            "WITH other AS MATERIALIZED ({other})
             SELECT 0 AS n, -1::bigint AS id, d, NULL::bigint[] AS ids, NULL::float8[] AS \"values\"
             FROM ({left} {operator}{all} {right}) u ORDER BY d"
        )
    }

    /// Each distance comes as often as is possible with some of the rows that may be found.
    pub(super) fn check(self, records: &[Record], universe: &[Row]) -> Result<Shown, String> {
        // By distance: rows that may be found, other rows, and rows of the answer.
        let mut counts: BTreeMap<_, [usize; 3]> = BTreeMap::new();
        for row in universe {
            let [possible, other, _] = counts.entry(row.distance).or_default();
            *possible += 1;
            *other += usize::from(is_other(row));
        }
        for distance in distances(records) {
            counts.entry(distance).or_default()[2] += 1;
        }
        for (distance, [possible, other, found]) in counts {
            let searched = [0, possible];
            let (left, right) = match self.arms {
                Arms::SearchAndOther => (searched, [other; 2]),
                Arms::OtherAndSearch => ([other; 2], searched),
                Arms::SearchTwice => (searched, searched),
            };
            let results = left.map(|left| right.map(|right| self.count(left, right)));
            let least = results.as_flattened().iter().min();
            let most = results.as_flattened().iter().max();
            ensure(Some(&found) >= least && Some(&found) <= most, || {
                format!("{distance:?} comes {found} times, not {least:?} to {most:?} times")
            })?;
        }
        Ok(Shown::Some {
            rows: rows(records),
            ordered: true,
        })
    }

    /// How often something is in the result that is so often on the left and on the right.
    fn count(self, left: usize, right: usize) -> usize {
        match (self.operator, self.all) {
            (Operator::Union, true) => left + right,
            (Operator::Union, false) => usize::from(left + right > 0),
            (Operator::Intersect, true) => left.min(right),
            (Operator::Intersect, false) => usize::from(left.min(right) > 0),
            (Operator::Except, true) => left.saturating_sub(right),
            (Operator::Except, false) => usize::from(left > 0 && right == 0),
        }
    }
}
