//! Searches under filters: recall, time and missing rows by the share of rows that a filter keeps.

use std::time::Duration;

use postgres::Client;

use crate::affinity::Together;
use crate::error::{Error, Result};
use crate::exact::{Metric, Truth};
use crate::measure::{explain, find_by_id, time_by_id};
use crate::vectors::Vectors;

/// Every filter is timed for at least this long…
const SHORTEST: Duration = Duration::from_millis(500);
/// …and no longer than this, even if that leaves queries out.
const LONGEST: Duration = Duration::from_secs(4);

/// Shares of the rows that the filters keep, in thousandths.
pub const THOUSANDTHS: [i32; 5] = [1000, 500, 100, 10, 1];

/// A condition on the rows, and what it should find.
#[derive(Debug)]
pub struct Filter<'a> {
    /// The condition in SQL.
    pub condition: String,
    /// What it keeps, in thousandths.
    pub thousandths: i32,
    /// The nearest of the rows that it keeps, for every query.
    pub truth: Truth<'a>,
    /// The rows that a query should return.
    pub rows: usize,
}

impl<'a> Filter<'a> {
    /// `column < thousandths`, where `values` are the column's, by a row's number.
    #[must_use]
    pub fn below(
        column: &str,
        values: &[i32],
        thousandths: i32,
        documents: &'a Vectors,
        queries: &'a Vectors,
        k: usize,
    ) -> Self {
        let keeps = |row: usize| values.get(row).is_some_and(|&value| value < thousandths);
        let kept = (0..documents.rows()).filter(|&row| keeps(row)).count();
        Self {
            condition: format!("{column} < {thousandths}"),
            thousandths,
            truth: Truth::among(Metric::Cosine, documents, queries, k, keeps),
            rows: kept.min(k),
        }
    }
}

/// Where the vectors are, and how many queries to ask for how many rows.
#[derive(Clone, Copy, Debug)]
pub struct Tables<'a> {
    /// The table that is searched, with columns `id`, `embedding` and those of the filters.
    pub items: &'a str,
    /// The table of the queries, with columns `id` (from 0) and `embedding`.
    pub queries: &'a str,
    /// Number of queries.
    pub count: usize,
    /// Rows asked for.
    pub k: usize,
}

/// How an index did under a filter.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Share of the exact neighbours found.
    pub recall: f64,
    /// Mean time of a query.
    pub mean: Duration,
    /// Queries that returned fewer rows than there are.
    pub short: usize,
}

/// Measures an index under each filter, with statements that set the session up. Without an index, the planner does what it
/// likes.
///
/// # Errors
/// If a query fails, or the planner does not take the index.
pub fn measure(
    client: &mut Client,
    tables: &Tables<'_>,
    filters: &[Filter<'_>],
    index: Option<&str>,
    settings: &str,
) -> Result<Vec<Outcome>> {
    client.batch_execute("RESET ALL; SET max_parallel_workers_per_gather = 0")?;
    if index.is_some() {
        client.batch_execute(
            "SET enable_seqscan = off; SET enable_sort = off; SET enable_bitmapscan = off",
        )?;
    }
    client.batch_execute(settings)?;
    let _together = Together::on(0, client)?;
    let each = filters
        .iter()
        .map(|filter| measure_one(client, tables, filter, index));
    each.collect()
}

fn measure_one(
    client: &mut Client,
    tables: &Tables<'_>,
    filter: &Filter<'_>,
    index: Option<&str>,
) -> Result<Outcome> {
    let Tables {
        items,
        queries,
        count,
        k,
    } = *tables;
    let condition = &filter.condition;
    let sql = format!(
        "SELECT id FROM {items} WHERE {condition}
         ORDER BY embedding <=> (SELECT embedding FROM {queries} WHERE id = $1) LIMIT {k}"
    );
    if let Some(index) = index {
        let plan = explain(client, &sql.replace("$1", "0"))?;
        if !plan.contains(&format!("using {index} on")) {
            return Err(Error::Argument(format!(
                "the planner does not take {index}:\n{plan}"
            )));
        }
    }
    let found = find_by_id(client, &sql, count)?;
    let timing = time_by_id(client, &sql, count, SHORTEST, LONGEST)?;
    Ok(Outcome {
        recall: filter.truth.recall(&found),
        mean: Duration::from_secs_f64(1.0 / timing.per_second.max(f64::MIN_POSITIVE)),
        short: found.iter().filter(|ids| ids.len() < filter.rows).count(),
    })
}
