//! Kinds of plans: finds the planner's choice, and times each kind.

use std::time::{Duration, Instant};

use postgres::Client;

use crate::error::{Error, Result};

/// How well plans are timed.
#[derive(Clone, Copy, Debug)]
pub struct RunBudget {
    /// Executions of a plan that count, at most; one more before them warms up.
    pub runs: usize,
    /// No further execution begins after this time, if there are some already.
    pub patience: Duration,
    /// Whether what looks bad is measured once more, with full budget: it may have been somebody else's load.
    pub again: bool,
}

impl RunBudget {
    /// For a document.
    pub const FULL: Self = Self {
        runs: 15,
        patience: Duration::from_millis(250),
        again: false,
    };
    /// For a test.
    pub const QUICK: Self = Self {
        runs: 5,
        patience: Duration::from_millis(40),
        again: true,
    };
}

/// Executions that count, at least.
const MIN_RUNS: usize = 3;

/// A way to answer a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A search of the index on the vectors.
    Search,
    /// The rows that the btree gives, sorted.
    Btree,
    /// All rows, sorted.
    Sequential,
    /// All rows, by several processes.
    Parallel,
}

/// The plans, and the settings that leave the planner no other.
pub(super) const PLAN_KINDS: [(Kind, &str); 4] = [
    (
        Kind::Search,
        "SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_sort = off",
    ),
    (
        Kind::Btree,
        "SET enable_seqscan = off; SET enable_indexscan = off; SET max_parallel_workers_per_gather = 0",
    ),
    (
        Kind::Sequential,
        "SET enable_indexscan = off; SET enable_bitmapscan = off; SET max_parallel_workers_per_gather = 0",
    ),
    (
        Kind::Parallel,
        "SET enable_indexscan = off; SET enable_bitmapscan = off",
    ),
];

/// A plan, what the planner thinks of it, and the truth.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What it is.
    pub kind: Kind,
    /// Its nodes, outermost first.
    pub nodes: String,
    /// The planner's cost.
    pub cost: f64,
    /// Median time of an execution, in microseconds.
    pub time: f64,
}

/// The plan of a query, without its time.
pub(super) fn explain(client: &mut Client, sql: &str) -> Result<Plan> {
    let rows = client.query(&format!("EXPLAIN {sql}"), &[])?;
    let mut nodes = Vec::new();
    let mut cost = None;
    for (number, row) in rows.iter().enumerate() {
        let line: String = row.try_get(0)?;
        if number > 0 && !line.contains("->") {
            continue;
        }
        let (node, figures) = line.split_once("  (cost=").unwrap_or((&line, ""));
        nodes.push(node.trim_start_matches([' ', '-', '>']).trim().to_owned());
        let total = figures
            .split_once("..")
            .and_then(|(_, rest)| rest.split(' ').next());
        cost = cost.or_else(|| total.and_then(|total| total.parse::<f64>().ok()));
    }
    let has = |word: &str| nodes.iter().any(|node| node.contains(word));
    let kind = if has("_embedding on") {
        Kind::Search
    } else if has("Gather") {
        Kind::Parallel
    } else if ["_bucket", "_spot", "_own_id", "_own_doc"]
        .into_iter()
        .any(has)
    {
        Kind::Btree
    } else {
        Kind::Sequential
    };
    Ok(Plan {
        kind,
        nodes: nodes.join(" ← "),
        cost: cost.unwrap_or_default(),
        time: 0.0,
    })
}

/// The median time of executions, in microseconds, by the server's own clock: planning and the client not counted.
pub(super) fn median_time(client: &mut Client, sqls: &[String], budget: RunBudget) -> Result<f64> {
    let mut times = Vec::new();
    let start = Instant::now();
    for (run, sql) in sqls.iter().cycle().take(budget.runs + 1).enumerate() {
        let time = execute(client, sql)?;
        if run > 0 {
            times.push(time);
        }
        if times.len() >= MIN_RUNS && start.elapsed() > budget.patience {
            break;
        }
    }
    times.sort_unstable_by(f64::total_cmp);
    Ok(times.get(times.len() / 2).copied().unwrap_or_default())
}

fn execute(client: &mut Client, sql: &str) -> Result<f64> {
    let rows = client.query(
        &format!("EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, BUFFERS OFF, SUMMARY ON) {sql}"),
        &[],
    )?;
    let last: String = match rows.last() {
        Some(row) => row.try_get(0)?,
        None => String::new(),
    };
    let milliseconds = last
        .strip_prefix("Execution Time: ")
        .and_then(|rest| rest.strip_suffix(" ms"))
        .and_then(|number| number.parse::<f64>().ok());
    let milliseconds =
        milliseconds.ok_or_else(|| Error::Argument(format!("no execution time: {last}")))?;
    Ok(1000.0 * milliseconds)
}
