//! Filtered searches: recall, time, and missing rows by the fraction of rows that a filter keeps.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use postgres::Client;

use crate::affinity::Together;
use crate::error::Result;
use crate::exact::{Metric, Truth};
use crate::measure::{find_by_id, require_index, time_by_id};
use crate::vectors::Vectors;

/// Every filter is timed for at least this long…
const SHORTEST: Duration = Duration::from_millis(500);
/// …and no longer than this, even if that leaves queries out.
const LONGEST: Duration = Duration::from_secs(4);

/// A condition on the rows, and what it should find.
#[derive(Debug)]
pub struct Filter<'a> {
    /// The condition in SQL, empty for none.
    pub condition: String,
    /// Number of rows that it keeps.
    pub kept: usize,
    /// The nearest of the rows that it keeps, for every query.
    pub truth: Truth<'a>,
    /// The rows that a query should return.
    pub rows: usize,
}

impl<'a> Filter<'a> {
    /// A condition on a table with these documents, whose `id` is a row's number. The server evaluates it.
    ///
    /// # Errors
    /// If the condition is invalid.
    pub fn new(
        client: &mut Client,
        items: &str,
        condition: &str,
        (documents, queries): (&'a Vectors, &'a Vectors),
        k: usize,
    ) -> Result<Self> {
        let sql = format!("SELECT id FROM {items}{}", clause(condition));
        let mut keeps = vec![false; documents.rows()];
        let ids = client.query(&sql, &[])?;
        for row in &ids {
            let id = usize::try_from(row.try_get::<_, i64>(0)?).unwrap_or(usize::MAX);
            keeps.get_mut(id).into_iter().for_each(|keep| *keep = true);
        }
        let keep = |row: usize| keeps.get(row).copied().unwrap_or(false);
        Ok(Self {
            condition: condition.to_owned(),
            kept: ids.len(),
            truth: Truth::among(Metric::Cosine, documents, queries, k, keep),
            rows: ids.len().min(k),
        })
    }
}

/// ` WHERE …`, or nothing.
fn clause(condition: &str) -> String {
    if condition.is_empty() {
        String::new()
    } else {
        format!(" WHERE {condition}")
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
    /// Share of the exact neighbors found.
    pub recall: f64,
    /// Mean time of a query.
    pub mean: Duration,
    /// Queries that returned fewer rows than there are.
    pub short: usize,
    /// Of the rows that all queries should return, those that they did not.
    pub missing: usize,
}

/// How an index did for all rows within a distance.
#[derive(Clone, Copy, Debug, Default)]
pub struct WithinOutcome {
    /// Rows that all queries should return.
    pub rows: usize,
    /// Those of them that they did not.
    pub missing: usize,
    /// Queries that returned a row after a farther one.
    pub unordered: usize,
    /// Mean time of a query.
    pub mean: Duration,
}

/// Asks for all rows within a distance of each query, by an index and by a sequential scan.
///
/// # Errors
/// If a query fails.
pub fn measure_within(
    client: &mut Client,
    items: &str,
    queries: &Vectors,
    farthest: f64,
    settings: &str,
) -> Result<WithinOutcome> {
    let mut outcome = WithinOutcome::default();
    let mut took = Duration::ZERO;
    for query in queries.iter() {
        let elements: Vec<String> = query.iter().map(f32::to_string).collect();
        let distance = format!("embedding <=> '[{}]'", elements.join(","));
        let sql = format!(
            "SELECT id, {distance} FROM {items} WHERE {distance} < {farthest} ORDER BY {distance}"
        );
        let mut run = |settings: &str| -> Result<(Vec<(i64, f64)>, Duration)> {
            client.batch_execute(&format!(
                "RESET ALL; SET max_parallel_workers_per_gather = 0; {settings}"
            ))?;
            let statement = client.prepare(&sql)?;
            client.query(&statement, &[])?;
            let start = Instant::now();
            let rows = client.query(&statement, &[])?;
            let took = start.elapsed();
            let rows: Result<_> = rows
                .iter()
                .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
                .collect();
            Ok((rows?, took))
        };
        let by_index = "SET enable_seqscan = off; SET enable_sort = off";
        let (found, time) = run(&format!("{by_index}; {settings}"))?;
        let (truth, _) = run("SET enable_indexscan = off")?;
        took += time;
        let ids: HashSet<i64> = found.iter().map(|(id, _)| *id).collect();
        outcome.rows += truth.len();
        outcome.missing += truth.iter().filter(|(id, _)| !ids.contains(id)).count();
        outcome.unordered += usize::from(!found.is_sorted_by(|a, b| a.1 <= b.1));
    }
    outcome.mean = took / queries.rows().max(1) as u32;
    Ok(outcome)
}

/// Rows a second that one client inserts one by one: copies of the rows `0..count` of a table, each in a transaction of its own.
///
/// # Errors
/// If an insert fails.
pub fn inserts_per_second(
    client: &mut Client,
    from: &str,
    into: &str,
    count: usize,
) -> Result<f64> {
    client.batch_execute("RESET ALL")?;
    let insert = client.prepare(&format!(
        "INSERT INTO {into} SELECT * FROM {from} WHERE id = $1"
    ))?;
    let start = Instant::now();
    for id in (0i64..).take(count) {
        client.execute(&insert, &[&id])?;
    }
    Ok(count as f64 / start.elapsed().as_secs_f64())
}

/// Measures an index under each filter, with statements that set the session up. Without an index, the planner does what it
/// likes.
///
/// # Errors
/// If a query fails, or the planner does not take the index.
pub fn measure(
    client: &mut Client,
    tables: &Tables<'_>,
    filters: &[&Filter<'_>],
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
    let condition = clause(&filter.condition);
    let sql = format!(
        "SELECT id FROM {items}{condition}
         ORDER BY embedding <=> (SELECT embedding FROM {queries} WHERE id = $1) LIMIT {k}"
    );
    if let Some(index) = index {
        require_index(client, &sql, index)?;
    }
    let found = find_by_id(client, &sql, count)?;
    let timing = time_by_id(client, &sql, count, SHORTEST, LONGEST)?;
    let recall = filter.truth.recall(&found);
    Ok(Outcome {
        recall,
        missing: ((1.0 - recall) * (filter.rows * count) as f64).round() as usize,
        mean: Duration::from_secs_f64(1.0 / timing.per_second.max(f64::MIN_POSITIVE)),
        short: found.iter().filter(|ids| ids.len() < filter.rows).count(),
    })
}
