//! Joins of a search with other rows at the same distance. Without hashing and nested loops they are merge joins.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::{Distance, Record, Row, Shown, ensure, is_other};

/// Which join.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Join {
    Inner,
    Left,
    Full,
    Semi,
    Anti,
    /// Of two searches.
    Twice,
}

/// The id of a row that there is not.
const NO_ROW: i64 = -1;

impl Join {
    pub const ALL: [Self; 6] = [
        Self::Inner,
        Self::Left,
        Self::Full,
        Self::Semi,
        Self::Anti,
        Self::Twice,
    ];

    pub(super) fn sql(self, search: &str, other: &str) -> String {
        let pairs = |join: &str, right: &str| {
            format!(
                "SELECT 0 AS n, coalesce(a.id, {NO_ROW}) AS id, coalesce(a.d, b.d) AS d,
                     ARRAY[coalesce(b.id, {NO_ROW})] AS ids, ARRAY[b.d] AS \"values\"
                 FROM ({search}) a {join} {right} b ON a.d = b.d"
            )
        };
        let rows = |word: &str| {
            format!(
                "SELECT 0 AS n, a.id, a.d, NULL::bigint[] AS ids, NULL::float8[] AS \"values\"
                 FROM ({search}) a WHERE {word} (SELECT FROM other b WHERE b.d = a.d)"
            )
        };
        let sql = match self {
            Self::Inner => pairs("JOIN", "other"),
            Self::Left => pairs("LEFT JOIN", "other"),
            Self::Full => pairs("FULL JOIN", "other"),
            Self::Semi => rows("EXISTS"),
            Self::Anti => rows("NOT EXISTS"),
            Self::Twice => pairs("JOIN", &format!("({search})")),
        };
        format!("WITH other AS MATERIALIZED ({other}) {sql}")
    }

    pub(super) fn check(self, records: &[Record], universe: &[Row]) -> Result<Shown, String> {
        // NULL is equal to nothing.
        let mut others: BTreeMap<Distance, BTreeSet<i64>> = BTreeMap::new();
        for row in universe.iter().filter(|row| is_other(row)) {
            if row.distance.0.is_some() {
                others.entry(row.distance).or_default().insert(row.id);
            }
        }
        let all: HashSet<_> = universe
            .iter()
            .map(|row| (row.id, row.distance.bits()))
            .collect();
        // Partners of each row of the search; the other rows that have none.
        let mut partners: BTreeMap<Row, BTreeSet<i64>> = BTreeMap::new();
        let mut alone: BTreeSet<i64> = BTreeSet::new();
        for record in records {
            let partner = record.ids.first().copied();
            if record.row.id == NO_ROW {
                ensure(partner.is_some_and(|id| alone.insert(id)), || {
                    format!("{record:?} comes twice")
                })?;
                continue;
            }
            ensure(
                all.contains(&(record.row.id, record.row.distance.bits())),
                || format!("{record:?} is none that was asked for"),
            )?;
            let is_new = match partner {
                None | Some(NO_ROW) => partners.insert(record.row, BTreeSet::new()).is_none(),
                Some(id) => partners.entry(record.row).or_default().insert(id),
            };
            ensure(is_new, || format!("{record:?} comes twice"))?;
        }
        for (row, partners) in &partners {
            let none = BTreeSet::new();
            let expected = others.get(&row.distance).unwrap_or(&none);
            let right = match self {
                Self::Inner => !expected.is_empty() && partners == expected,
                Self::Left | Self::Full => partners == expected,
                Self::Semi => !expected.is_empty(),
                Self::Anti => expected.is_empty(),
                Self::Twice => partners
                    .iter()
                    .all(|id| all.contains(&(*id, row.distance.bits()))),
            };
            ensure(right, || {
                format!("{row:?} is joined with {partners:?}, not with {expected:?}")
            })?;
        }
        if self == Self::Full {
            let found: BTreeSet<Distance> = partners.keys().map(|row| row.distance).collect();
            let is_alone = |row: &&Row| {
                is_other(row) && (row.distance.0.is_none() || !found.contains(&row.distance))
            };
            let expected: BTreeSet<i64> =
                universe.iter().filter(is_alone).map(|row| row.id).collect();
            ensure(alone == expected, || {
                format!("without a partner are {alone:?}, not {expected:?}")
            })?;
        }
        let rows = partners.into_keys().collect();
        Ok(match self {
            Self::Left | Self::Full => Shown::All {
                rows,
                ordered: false,
            },
            _ => Shown::Some {
                rows,
                ordered: false,
            },
        })
    }
}
