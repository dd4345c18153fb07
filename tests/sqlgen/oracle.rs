//! Compares an answer of the index with that of a sequential scan.

use std::cmp::Ordering;
use std::collections::HashMap;

/// A distance: numbers in order, NaN behind them, NULL last, as PostgreSQL sorts.
#[derive(Clone, Copy, Debug)]
pub struct Distance(pub Option<f64>);

impl Distance {
    fn key(self) -> (u8, f64) {
        match self.0 {
            Some(x) if x.is_nan() => (1, 0.0),
            Some(x) => (0, x + 0.0), // one zero
            None => (2, 0.0),
        }
    }

    /// The same for equal distances, and only for those.
    pub fn bits(self) -> (u8, u64) {
        let (class, number) = self.key();
        (class, number.to_bits())
    }
}

impl Ord for Distance {
    fn cmp(&self, other: &Self) -> Ordering {
        let ((a, x), (b, y)) = (self.key(), other.key());
        a.cmp(&b).then(x.total_cmp(&y))
    }
}

impl PartialOrd for Distance {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Distance {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Distance {}

/// A row of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Row {
    /// Which search of the statement found it.
    pub search: i32,
    pub distance: Distance,
    pub id: i64,
}

/// What the statement asks for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    pub offset: usize,
    /// Whether ids settle ties.
    pub by_id: bool,
    /// Whether the rows come in the order of the search.
    pub ordered: bool,
    /// Whether late rows of one scan may come amidst those of others that are merged with it, or are sorted with rows before
    /// them (Incremental Sort, which trusts the order).
    pub mixed: bool,
}

/// What the settings and the index guarantee about an answer.
#[derive(Clone, Copy, Debug)]
pub struct Guarantee {
    /// As many rows come as there are, up to the limit.
    pub full: bool,
    /// Rows that are found too late to stand in order follow at the end; else they are left out.
    pub late_rows_follow: bool,
    /// No row is missed.
    pub exact: bool,
}

/// How an answer that keeps its guarantee compares.
#[derive(Clone, Copy, Debug, Default)]
pub struct Comparison {
    /// Rows of the truth.
    pub rows: usize,
    /// Those of them that were not found in their place.
    pub missed: usize,
}

/// The answers to be compared.
pub struct Answers<'a> {
    pub found: &'a [Row],
    pub truth: &'a [Row],
    /// All rows that fulfil the conditions.
    pub universe: &'a mut dyn FnMut() -> Vec<Row>,
}

/// Compares the answers, search by search. An error says what guarantee was broken.
pub fn check_answer(
    answers: Answers<'_>,
    wanted: Wanted,
    guarantee: Guarantee,
) -> Result<Comparison, String> {
    let Answers {
        found,
        truth,
        universe,
    } = answers;
    let mut comparison = Comparison {
        rows: truth.len(),
        missed: 0,
    };
    if found == truth {
        return Ok(comparison);
    }
    let universe = by_search(&universe());
    let (found, truth) = (by_search(found), by_search(truth));
    let mut searches: Vec<i32> = found.keys().chain(truth.keys()).copied().collect();
    searches.sort_unstable();
    searches.dedup();
    for search in searches {
        let of = |rows: &HashMap<i32, Vec<Row>>| rows.get(&search).cloned().unwrap_or_default();
        let one = One {
            found: of(&found),
            truth: of(&truth),
            universe: of(&universe),
            wanted,
            guarantee,
        };
        comparison.missed += one
            .check_answer()
            .map_err(|what| format!("search {search}: {what}"))?;
    }
    Ok(comparison)
}

/// Compares distances that depend on all rows of a search, so that neither their number nor their place says what was missed.
pub fn check_some(
    found: &[Row],
    truth: &[Row],
    ordered: bool,
    guarantee: Guarantee,
) -> Result<Comparison, String> {
    if ordered && !guarantee.late_rows_follow && !found.is_sorted_by_key(|row| row.distance) {
        return Err("out of order".to_owned());
    }
    let (missed, added) = (missing(truth, found), missing(found, truth));
    if guarantee.exact && (!missed.is_empty() || !added.is_empty()) {
        return Err(format!(
            "distances missed where nothing may be: {missed:?}; added: {added:?}"
        ));
    }
    Ok(Comparison {
        rows: truth.len(),
        missed: missed.len(),
    })
}

/// Distances of the truth that were not found, ties counted.
fn missing(truth: &[Row], found: &[Row]) -> Vec<Distance> {
    let sorted = |rows: &[Row]| {
        let mut distances: Vec<Distance> = rows.iter().map(|row| row.distance).collect();
        distances.sort_unstable();
        distances
    };
    let mut found = sorted(found).into_iter().peekable();
    let mut missing = sorted(truth);
    missing.retain(|distance| {
        while found.next_if(|other| other < distance).is_some() {}
        found.next_if_eq(distance).is_none()
    });
    missing
}

fn by_search(rows: &[Row]) -> HashMap<i32, Vec<Row>> {
    let mut searches: HashMap<i32, Vec<Row>> = HashMap::new();
    for row in rows {
        searches.entry(row.search).or_default().push(*row);
    }
    searches
}

/// The answers to one search.
struct One {
    found: Vec<Row>,
    truth: Vec<Row>,
    universe: Vec<Row>,
    wanted: Wanted,
    guarantee: Guarantee,
}

impl One {
    /// How many rows were missed.
    fn check_answer(&self) -> Result<usize, String> {
        self.rows_are_true()?;
        let (found, truth) = (self.found.len(), self.truth.len());
        if found > truth {
            return Err(format!("{found} rows, and {truth} by a sequential scan"));
        }
        if found < truth && self.guarantee.full {
            return Err(format!(
                "{found} rows come, of {truth}; missing: {:?}",
                self.missing()
            ));
        }
        let missed = self.missing().len() + self.late()?;
        if missed > 0 && self.guarantee.exact {
            return Err(format!(
                "{missed} rows missed where nothing may be: {:?}",
                self.missing()
            ));
        }
        if missed == 0 && self.wanted.by_id {
            return self.ids_missed();
        }
        Ok(missed)
    }

    /// Rows that ids would have put before others at the same distance, if they had been found.
    fn ids_missed(&self) -> Result<usize, String> {
        let ids = |rows: &[Row]| rows.iter().map(|row| row.id).collect::<Vec<_>>();
        let (found, truth) = (ids(&self.found), ids(&self.truth));
        let missed = truth.iter().filter(|id| !found.contains(id)).count();
        if found != truth && (missed == 0 || self.guarantee.exact) {
            return Err("ties are not in the order of their ids".to_owned());
        }
        Ok(missed)
    }

    /// Every row is one of those that fulfil the conditions, at that very distance, and comes once.
    fn rows_are_true(&self) -> Result<(), String> {
        let mut left: HashMap<i64, Distance> = self
            .universe
            .iter()
            .map(|row| (row.id, row.distance))
            .collect();
        for row in &self.found {
            match left.remove(&row.id) {
                Some(distance) if distance == row.distance => {}
                Some(distance) => return Err(format!("{row:?} is at {distance:?}")),
                None => {
                    return Err(format!(
                        "{row:?} comes twice, or is none that was asked for"
                    ));
                }
            }
        }
        Ok(())
    }

    fn missing(&self) -> Vec<Distance> {
        missing(&self.truth, &self.found)
    }

    /// Rows that come out of order: those may only come when there is nothing else left to come.
    fn late(&self) -> Result<usize, String> {
        if !self.wanted.ordered {
            return Ok(0);
        }
        let mut last = None;
        let mut is_late = |row: &Row| {
            let late = last > Some(row.distance);
            last = last.max(Some(row.distance));
            late
        };
        let late: Vec<bool> = self.found.iter().map(&mut is_late).collect();
        let Some(first) = late.iter().position(|late| *late) else {
            return Ok(0);
        };
        let tail = &self.found[first..];
        if !self.guarantee.late_rows_follow {
            return Err(format!("out of order: {tail:?}"));
        }
        let count = late.iter().filter(|late| **late).count();
        if self.wanted.mixed {
            return Ok(count);
        }
        if !tail.is_sorted_by_key(|row| row.distance) {
            return Err(format!("late rows are not in order: {tail:?}"));
        }
        // Whatever was not given out before is late.
        Ok(self
            .universe
            .len()
            .saturating_sub(self.wanted.offset + first))
    }
}
