//! Runs and times queries of one client with a prepared statement.

use std::time::{Duration, Instant};

use postgres::{Client, Statement};

use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::exact::Metric;
use crate::load::Embedding;
use crate::vectors::Vectors;

/// What a timed run showed.
#[derive(Debug)]
pub struct Timing {
    /// Queries that were run.
    pub queries: usize,
    /// Queries a second.
    pub per_second: f64,
    /// The time of each query.
    pub latencies: Latencies,
}

/// Times of single queries, as a client sees them.
#[derive(Clone, Debug, Default)]
pub struct Latencies {
    /// Ascending.
    times: Vec<Duration>,
}

impl Latencies {
    /// Sorts times.
    #[must_use]
    pub fn new(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self { times }
    }

    /// The times of both.
    #[must_use]
    pub fn merged(self, other: Self) -> Self {
        Self::new([self.times, other.times].concat())
    }

    /// The mean time; 0 of none.
    #[must_use]
    pub fn mean(&self) -> Duration {
        let count = u32::try_from(self.times.len()).unwrap_or(u32::MAX);
        self.times.iter().sum::<Duration>() / count.max(1)
    }

    /// The time that `percent` of the queries stay below; 0 of none.
    #[must_use]
    pub fn percentile(&self, percent: usize) -> Duration {
        percentile(&self.times, percent)
    }

    /// Mean, p50, p95 and p99 in microseconds.
    #[must_use]
    pub fn json(&self) -> Value {
        let micros = |time: Duration| time.as_nanos() as f64 / 1e3;
        json!({
            "mean": micros(self.mean()), "p50": micros(self.percentile(50)), "p95": micros(self.percentile(95)),
            "p99": micros(self.percentile(99)),
        })
    }
}

/// The statement that finds the `k` nearest ids of `items` for the query whose id is `$1` in `queries`.
#[must_use]
pub fn nearest_by_id(items: &str, queries: &str, metric: Metric, k: usize) -> String {
    let operator = metric.operator();
    format!(
        "SELECT id FROM {items} ORDER BY embedding {operator} (SELECT embedding FROM {queries} WHERE id = $1) LIMIT {k}"
    )
}

/// The statement that finds the `k` nearest ids of `items` for the vector `$1`.
#[must_use]
pub fn nearest(items: &str, metric: Metric, k: usize) -> String {
    let operator = metric.operator();
    format!("SELECT id FROM {items} ORDER BY embedding {operator} $1 LIMIT {k}")
}

/// Runs a statement of [`nearest_by_id`] for the queries `0..count` and returns the ids found.
///
/// # Errors
/// If a query fails.
pub fn find_by_id(client: &mut Client, sql: &str, count: usize) -> Result<Vec<Vec<i64>>> {
    let statement = client.prepare(sql)?;
    (0i64..)
        .take(count)
        .map(|id| ids(client, &statement, id))
        .collect()
}

/// Runs a statement of [`nearest`] for every query vector and returns the ids found.
///
/// # Errors
/// If a query fails.
pub fn find(client: &mut Client, sql: &str, queries: &Vectors) -> Result<Vec<Vec<i64>>> {
    let statement = client.prepare(sql)?;
    queries
        .iter()
        .map(|query| {
            let rows = client.query(&statement, &[&Embedding(query)])?;
            rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
        })
        .collect()
}

/// Times a statement of [`nearest_by_id`], cycling through the queries `0..count` for at least one whole cycle (or
/// `longest`, if that is over first) and at least `shortest`. Run the queries once before: the first run warms caches.
///
/// # Errors
/// If a query fails.
pub fn time_by_id(
    client: &mut Client,
    sql: &str,
    count: usize,
    shortest: Duration,
    longest: Duration,
) -> Result<Timing> {
    let statement = client.prepare(sql)?;
    let mut times = Vec::new();
    let start = Instant::now();
    for id in (0i64..).take(count.max(1)).cycle() {
        let before = Instant::now();
        ids(client, &statement, id)?;
        times.push(before.elapsed());
        let elapsed = start.elapsed();
        if elapsed >= longest || (elapsed >= shortest && times.len() >= count) {
            break;
        }
    }
    Ok(timing(times, start.elapsed()))
}

fn ids(client: &mut Client, statement: &Statement, query: i64) -> Result<Vec<i64>> {
    let rows = client.query(statement, &[&query])?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

fn timing(times: Vec<Duration>, elapsed: Duration) -> Timing {
    Timing {
        queries: times.len(),
        per_second: times.len() as f64 / elapsed.as_secs_f64().max(f64::MIN_POSITIVE),
        latencies: Latencies::new(times),
    }
}

/// A percentile of sorted times; 0 of none.
#[must_use]
pub fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let place = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(place).copied().unwrap_or_default()
}

/// The plan of a statement, as text without costs. Parameters are left open as in a generic plan.
///
/// # Errors
/// If the statement is invalid.
pub fn explain(client: &mut Client, sql: &str) -> Result<String> {
    let rows = client.simple_query(&format!("EXPLAIN (COSTS OFF) {sql}"))?;
    let lines: Vec<&str> = rows
        .iter()
        .filter_map(|message| match message {
            postgres::SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        })
        .collect();
    Ok(lines.join("\n"))
}

/// Checks that a statement of [`nearest_by_id`] uses an index.
///
/// # Errors
/// If it does not, or is invalid.
pub fn require_index(client: &mut Client, sql: &str, index: &str) -> Result<()> {
    let plan = explain(client, &sql.replace("$1", "0"))?;
    if plan.contains(&format!("using {index} on")) {
        return Ok(());
    }
    Err(Error::Argument(format!(
        "the planner does not take {index}:\n{plan}"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_measured_times() {
        let times = (1..=200).rev().map(Duration::from_millis).collect();
        let timing = timing(times, Duration::from_secs(10));
        assert_eq!(timing.per_second, 20.0);
        let latencies = timing.latencies;
        assert_eq!(latencies.percentile(50), Duration::from_millis(101));
        assert_eq!(latencies.percentile(99), Duration::from_millis(199));
        assert_eq!(latencies.mean(), Duration::from_micros(100_500));
        let longer = Latencies::new(vec![Duration::from_secs(1); 3]);
        let merged = latencies.merged(longer);
        assert_eq!(merged.percentile(99), Duration::from_secs(1));
        assert_eq!(Latencies::default().json()["p99"], 0.0);
        assert_eq!(Latencies::default().mean(), Duration::ZERO);
    }
}
