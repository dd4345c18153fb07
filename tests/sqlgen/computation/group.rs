//! `DISTINCT`, `DISTINCT ON`, `GROUP BY`, and grouping sets.

use std::collections::{BTreeMap, HashSet};

use super::{Record, Row, Shown, distances, ensure, rows, rows_of, sorted};

/// Which clause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    Distinct,
    DistinctOn,
    /// By the distance.
    By,
    /// By the distance and another column.
    ByBoth,
    Rollup,
    Cube,
    Sets,
}

/// `GROUPING(d, category)` where rows are not grouped by the distance.
const WITHOUT_DISTANCE: i64 = 2;

impl Group {
    pub const ALL: [Self; 7] = [
        Self::Distinct,
        Self::DistinctOn,
        Self::By,
        Self::ByBoth,
        Self::Rollup,
        Self::Cube,
        Self::Sets,
    ];

    pub(super) fn sql(self, search: &str) -> String {
        let groups = |grouping: &str, clause: &str| {
            format!(
                "SELECT {grouping} AS n, count(*) AS id, d, array_agg(id) AS ids, ARRAY[category]::float8[] AS \"values\"
                 FROM ({search}) s GROUP BY {clause}"
            )
        };
        let sets = |clause: &str| groups("GROUPING(d, category)", clause);
        match self {
            Self::Distinct => format!(
                "SELECT 0 AS n, -1::bigint AS id, d, NULL::bigint[] AS ids, NULL::float8[] AS \"values\"
                 FROM (SELECT DISTINCT d FROM ({search}) s) u ORDER BY d"
            ),
            Self::DistinctOn => format!(
                "SELECT DISTINCT ON (d) 0 AS n, id, d, NULL::bigint[] AS ids, NULL::float8[] AS \"values\"
                 FROM ({search}) s ORDER BY d"
            ),
            Self::By => groups("1", "d ORDER BY d").replacen("ARRAY[category]", "NULL", 1),
            Self::ByBoth => sets("d, category"),
            Self::Rollup => sets("ROLLUP (d, category)"),
            Self::Cube => sets("CUBE (d, category)"),
            Self::Sets => sets("GROUPING SETS ((d), (category), ())"),
        }
    }

    pub(super) fn check(self, records: &[Record], universe: &[Row]) -> Result<Shown, String> {
        match self {
            Self::Distinct | Self::DistinctOn => self.check_distinct(records, universe),
            _ => self.check_groups(records),
        }
    }

    /// Each distance comes once, and is one of the universe; its row, if shown, has it.
    fn check_distinct(self, records: &[Record], universe: &[Row]) -> Result<Shown, String> {
        let shows_rows = self == Self::DistinctOn;
        let key = |row: &Row| (shows_rows.then_some(row.id), row.distance.bits());
        let known: HashSet<_> = universe.iter().map(key).collect();
        for record in records {
            ensure(known.contains(&key(&record.row)), || {
                format!("{record:?} is none that was asked for")
            })?;
        }
        let sorted = sorted(distances(records));
        ensure(sorted.is_sorted_by(|a, b| a < b), || {
            format!("distances come twice: {sorted:?}")
        })?;
        Ok(Shown::Some {
            rows: rows(records),
            ordered: true,
        })
    }

    /// The groups of each grouping have different keys and share the same rows out.
    fn check_groups(self, records: &[Record]) -> Result<Shown, String> {
        let mut groupings: BTreeMap<i32, Vec<&Record>> = BTreeMap::new();
        for record in records {
            ensure(record.row.id == record.ids.len() as i64, || {
                format!("{record:?} does not count its rows")
            })?;
            groupings.entry(record.row.search).or_default().push(record);
        }
        let mut shown: Option<Vec<Row>> = None;
        let mut members: Option<Vec<i64>> = None;
        for (grouping, groups) in &groupings {
            let mut keys = HashSet::new();
            for group in groups {
                let category = group.values.first().map(|value| value.bits());
                ensure(keys.insert((group.row.distance.bits(), category)), || {
                    format!("grouping {grouping} has the group of {group:?} twice")
                })?;
            }
            let mut ids: Vec<i64> = groups.iter().flat_map(|group| group.ids.clone()).collect();
            ids.sort_unstable();
            let same = members.get_or_insert_with(|| ids.clone()) == &ids;
            ensure(same, || format!("grouping {grouping} has other rows"))?;
            if i64::from(*grouping) & WITHOUT_DISTANCE == 0 {
                let of_group = |group: &&Record| {
                    rows_of(&group.ids, &vec![group.row.distance; group.ids.len()])
                };
                let mut rows: Vec<Row> = groups.iter().flat_map(of_group).collect();
                if self != Self::By {
                    rows.sort_unstable();
                }
                let same = shown.get_or_insert_with(|| rows.clone()) == &rows;
                ensure(same, || {
                    format!("grouping {grouping} has rows at other distances")
                })?;
            }
        }
        Ok(Shown::All {
            rows: shown.unwrap_or_default(),
            ordered: self == Self::By,
        })
    }
}
