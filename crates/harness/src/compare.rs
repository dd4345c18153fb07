//! Comparison of indexes on one table, one server, and one prepared statement.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use postgres::Client;

use crate::affinity::Together;
use crate::error::Result;
use crate::exact::Truth;
use crate::measure::{Latencies, find_by_id, require_index, time_by_id};

/// Every setting is timed for at least this long…
const SHORTEST: Duration = Duration::from_secs(1);
/// …and no longer than this, even if that leaves queries out.
const LONGEST: Duration = Duration::from_secs(10);

/// What is run: a statement of [`crate::measure::nearest_by_id`], and what it should find for the queries `0..queries`.
#[derive(Debug)]
pub struct Workload<'a> {
    /// The statement; `$1` is the query's id.
    pub sql: String,
    /// Number of queries.
    pub queries: usize,
    /// The exact neighbors of these queries.
    pub truth: &'a Truth<'a>,
}

/// One line of the table: an index at one setting.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// The kind of index.
    pub index: String,
    /// The setting that was measured.
    pub setting: String,
    /// Share of the exact neighbors found.
    pub recall: f64,
    /// Queries a second of one client.
    pub per_second: f64,
    /// Times of the queries.
    pub latencies: Latencies,
    /// Size of the index in bytes; none without an index.
    pub bytes: Option<i64>,
    /// Time to build the index, training included.
    pub build: Option<Duration>,
}

/// An index in the table of the comparison.
#[derive(Debug)]
pub struct Built {
    /// Its name in the catalog.
    pub name: String,
    /// Its size in bytes.
    pub bytes: i64,
    /// How long building it took.
    pub build: Duration,
}

/// Runs `CREATE INDEX name …` and measures time and size.
///
/// # Errors
/// If the statement fails.
pub fn build(client: &mut Client, name: &str, definition: &str) -> Result<Built> {
    let start = Instant::now();
    client.batch_execute(&format!("CREATE INDEX {name} ON {definition}"))?;
    let build = start.elapsed();
    let bytes = client
        .query_one("SELECT pg_relation_size($1::text::regclass)", &[&name])?
        .try_get(0)?;
    Ok(Built {
        name: name.to_owned(),
        bytes,
        build,
    })
}

/// Measures a workload at a setting (`name = value`; empty for none), through an index or by scanning the table.
///
/// # Errors
/// If a query fails, or the planner does not take the index.
pub fn measure(
    client: &mut Client,
    workload: &Workload<'_>,
    index: Option<&Built>,
    setting: &str,
) -> Result<Figures> {
    client.batch_execute("RESET ALL; SET max_parallel_workers_per_gather = 0")?;
    if let Some(index) = index {
        client.batch_execute("SET enable_seqscan = off")?;
        require_index(client, &workload.sql, &index.name)?;
    }
    if !setting.is_empty() {
        client.batch_execute(&format!("SET {setting}"))?;
    }
    let found = find_by_id(client, &workload.sql, workload.queries)?;
    let _together = Together::on(0, client)?;
    let timing = time_by_id(client, &workload.sql, workload.queries, SHORTEST, LONGEST)?;
    Ok(Figures {
        setting: setting.to_owned(),
        recall: workload.truth.recall(&found),
        per_second: timing.per_second,
        latencies: timing.latencies,
        bytes: index.map(|index| index.bytes),
        build: index.map(|index| index.build),
        ..Figures::default()
    })
}

/// The figures as a text table, with latencies in milliseconds; what a line shares with the one above is left out.
#[must_use]
pub fn table(k: usize, lines: &[Figures]) -> String {
    let width = lines.iter().map(|line| line.index.len()).max();
    let width = width.unwrap_or_default().max("index".len());
    let mut text = format!(
        "{:<width$} {:<30} {:>10} {:>10} {:>8} {:>8} {:>8} {:>8} {:>11} {:>9}\n",
        "index",
        "setting",
        format!("recall@{k}"),
        "queries/s",
        "mean ms",
        "p50",
        "p95",
        "p99",
        "index size",
        "build"
    );
    let mut last = "";
    for line in lines {
        let first = line.index != last;
        last = &line.index;
        let milliseconds = |time: Duration| format!("{:.2}", time.as_secs_f64() * 1e3);
        let percentile = |percent| milliseconds(line.latencies.percentile(percent));
        let once = |value: String| if first { value } else { String::new() };
        let _ = writeln!(
            text,
            "{:<width$} {:<30} {:>10.3} {:>10.0} {:>8} {:>8} {:>8} {:>8} {:>11} {:>9}",
            once(line.index.clone()),
            line.setting,
            line.recall,
            line.per_second,
            milliseconds(line.latencies.mean()),
            percentile(50),
            percentile(95),
            percentile(99),
            once(line.bytes.map_or(String::new(), megabytes)),
            once(line.build.map_or(String::new(), seconds)),
        );
    }
    text
}

/// `12.3 MB`, in units of a million bytes.
#[must_use]
pub fn megabytes(bytes: i64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

/// `12.3 s`
#[must_use]
pub fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_names_an_index_once() {
        let line = |setting: &str| Figures {
            index: "hnsw".into(),
            setting: setting.into(),
            recall: 0.9,
            per_second: 1234.5,
            latencies: Latencies::new(vec![Duration::from_micros(810)]),
            bytes: Some(12_345_678),
            build: Some(Duration::from_millis(1500)),
        };
        let text = table(10, &[line("a = 1"), line("a = 2")]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(lines[1].contains("hnsw") && lines[1].ends_with("12.3 MB     1.5 s"));
        assert!(lines[1].contains("1234     0.81     0.81     0.81     0.81"));
        assert!(!lines[2].contains("hnsw") && lines[2].contains("a = 2"));
    }
}
