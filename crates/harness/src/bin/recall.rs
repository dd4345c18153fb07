//! Requested recall compared with measured recall, on queries not used for calibration: on half of the rows, doubled by inserts,
//! after following the advice, and rebuilt.
//!
//! `recall --help` lists the arguments.

use std::fmt::Write as _;
use std::time::Instant;

use distillvq_harness::affinity::Together;
use distillvq_harness::measure::{find_by_id, nearest_by_id};
use distillvq_harness::query_sets::QuerySet;
use distillvq_harness::report::SectionArguments;
use distillvq_harness::{Metric, Result, Server, Truth, Vectors, load};
use postgres::Client;

/// Neighbors asked for.
const K: usize = 10;
/// Recalls asked for.
const TARGETS: [f64; 4] = [0.90, 0.95, 0.98, 0.99];
const DATABASE: &str = "recall";

const INTRODUCTION: &str = "# Requested and measured recall

`make bench-recall` writes this page. A build measures recall, and `distillvq.target_recall` chooses the number of probed lists from
this calibration. The page compares the target with the measured recall@10 (and the mean query time), on test queries used neither
for training nor for calibration, in four states of the table:

* *half*: an index built on half of the rows;
* *doubled*: the other half was inserted, without a new calibration;
* *advised*: the advice of `distillvq_index_info` was followed once;
* *rebuilt*: a new index on all rows.

Both sides are samples. The recall of a single query has a standard deviation of 0.14 at a mean of 0.90, 0.10 at 0.95, 0.06 at 0.98,
and 0.04 at 0.99. A calibration with 1,024 queries therefore has a standard error of 0.004 at 0.90, and aims one standard error above
the target. For 500 test queries it is 0.006: differences of 0.015 at 0.90 are not significant. Recall is higher than the target if a
single list already exceeds it.

Without a query log, an index is calibrated with rows, and the target holds only for queries that are distributed like the rows. The
log and the test queries of the generated sets lie midway between two vectors that are distributed like the rows.
";

/// Queries to measure with.
#[derive(Clone)]
struct Test {
    name: &'static str,
    queries: Vectors,
}

/// A table, and what is asked of it.
struct Set {
    name: String,
    metric: Metric,
    rows: Vectors,
    /// Queries to train with, if there is a log.
    log: Option<Vectors>,
    tests: Vec<Test>,
}

impl Set {
    /// The sets of this name: one with a query log, if there is one, and one without.
    fn named(name: &str, metric: Option<Metric>) -> Result<Vec<Self>> {
        let QuerySet {
            name,
            metric,
            rows,
            like_rows,
            log,
            test,
        } = QuerySet::named(name, metric)?;
        let test = Test {
            name: "test queries",
            queries: test,
        };
        let like_rows = Test {
            name: "queries like the rows",
            queries: like_rows,
        };
        let set = |kind: &str, rows: Vectors, log, tests| Set {
            name: format!("{name}, {kind}"),
            metric,
            rows,
            log,
            tests,
        };
        let mut sets = Vec::new();
        if log.rows() > 0 {
            let (rows, test) = (rows.clone(), test.clone());
            sets.push(set("with a query log", rows, Some(log), vec![test]));
        }
        let tests = vec![like_rows, test];
        sets.push(set("without a query log", rows, None, tests));
        Ok(sets)
    }
}

fn main() -> Result<()> {
    let arguments = SectionArguments::read(
        "Measures how well distillvq.target_recall is met, and writes a page",
        "texts, mixture, noise",
    );
    let server = Server::start("recall")?;
    let mut client = server.database(DATABASE)?;
    client.batch_execute("SET maintenance_work_mem = '512MB'")?;
    let mut section = String::new();
    for set in Set::named(&arguments.set, arguments.metric)? {
        eprintln!("==> {}", set.name);
        section.push_str(&measure(&server, &mut client, &set)?);
    }
    arguments.page.write(INTRODUCTION, &arguments.set, &section)
}

/// What one state of the table showed with one target.
struct Shown {
    recall: f64,
    milliseconds: f64,
}

/// Builds over a half, doubles by inserts, follows the advice, rebuilds; measures after each.
fn measure(server: &Server, client: &mut Client, set: &Set) -> Result<String> {
    let dim = set.rows.dim();
    let half = set.rows.slice(0..set.rows.rows() / 2);
    let rest = set.rows.slice(half.rows()..set.rows.rows());
    client.batch_execute(&format!(
        "DROP TABLE IF EXISTS items, more, log, test;
         CREATE TABLE items (id bigint, embedding vector({dim}));
         CREATE TABLE more (LIKE items); CREATE TABLE log (LIKE items)"
    ))?;
    load::copy_vectors(client, "items", &half)?;
    load::copy_vectors(client, "more", &rest)?;
    if let Some(log) = &set.log {
        load::copy_vectors(client, "log", log)?;
    }
    let mut states = vec![("half", build(client, set)?, ask(server, set, &half)?)];
    let (count, start) = (half.rows(), Instant::now());
    client.batch_execute(&format!(
        "INSERT INTO items SELECT id + {count}, embedding FROM more ORDER BY id; ANALYZE items"
    ))?;
    let inserted = start.elapsed().as_secs_f64();
    states.push(("doubled", inserted, ask(server, set, &set.rows)?));
    let (advice, followed) = follow(client)?;
    states.push(("advised", followed, ask(server, set, &set.rows)?));
    client.batch_execute("DROP INDEX items_idx")?;
    states.push(("rebuilt", build(client, set)?, ask(server, set, &set.rows)?));
    Ok(section(set, &states, &advice))
}

/// Does what the index advises, once; returns the advice, and the seconds of it.
fn follow(client: &mut Client) -> Result<(String, f64)> {
    let row = client.query_one("SELECT advice FROM distillvq_index_info('items_idx')", &[])?;
    let advice: String = row.try_get(0)?;
    let start = Instant::now();
    for statement in advice.split("; ").skip(1) {
        let statement = statement.replace(
            "queries => ..., query_column => ...",
            "queries => 'log', query_column => 'embedding'",
        );
        client.batch_execute(&statement)?;
    }
    Ok((advice, start.elapsed().as_secs_f64()))
}

/// Trains and builds; returns the seconds of it.
fn build(client: &mut Client, set: &Set) -> Result<f64> {
    let (name, start) = (set.metric.name(), Instant::now());
    let with = if set.log.is_some() {
        client.batch_execute(&format!(
            "SELECT distillvq_train('items', 'embedding', 'm', '{name}', 'log', 'embedding')"
        ))?;
        "WITH (model = m)"
    } else {
        ""
    };
    client.batch_execute(&format!(
        "CREATE INDEX items_idx ON items USING distillvq (embedding vector_{name}_ops) {with}"
    ))?;
    let seconds = start.elapsed().as_secs_f64();
    client.batch_execute("VACUUM ANALYZE items")?;
    Ok(seconds)
}

/// What searches find with each target, for the queries of each test.
fn ask(server: &Server, set: &Set, rows: &Vectors) -> Result<Vec<Vec<Shown>>> {
    let sql = nearest_by_id("items", "test", set.metric, K);
    let mut session = server.connect_to(DATABASE)?;
    let client = &mut session;
    let _together = Together::on(0, client)?;
    client.batch_execute("SET enable_seqscan = off; SET enable_sort = off")?;
    let mut all = Vec::new();
    for test in &set.tests {
        let truth = Truth::new(set.metric, rows, &test.queries, K);
        client.batch_execute("DROP TABLE IF EXISTS test")?;
        load::create_table(client, "test", &test.queries)?;
        client.batch_execute("ANALYZE test")?;
        let mut shown = Vec::new();
        for target in TARGETS {
            client.batch_execute(&format!("SET distillvq.target_recall = {target}"))?;
            let n = test.queries.rows();
            find_by_id(client, &sql, n.min(100))?;
            let start = Instant::now();
            let found = find_by_id(client, &sql, n)?;
            let milliseconds = 1e3 * start.elapsed().as_secs_f64() / n as f64;
            let recall = truth.recall(&found);
            eprintln!("{} {target}: {recall:.4}, {milliseconds:.3} ms", test.name);
            shown.push(Shown {
                recall,
                milliseconds,
            });
        }
        all.push(shown);
    }
    Ok(all)
}

/// The set's tables in Markdown, with the advice after the inserts.
fn section(set: &Set, states: &[(&str, f64, Vec<Vec<Shown>>)], advice: &str) -> String {
    let mut text = format!("\n## {}\n", set.name);
    for (i, test) in set.tests.iter().enumerate() {
        let queries = format!("{} {}", test.queries.rows(), test.name);
        let heads: Vec<&str> = states.iter().map(|(name, ..)| *name).collect();
        let _ = writeln!(text, "\n| target ({queries}) | {} |", heads.join(" | "));
        let _ = writeln!(text, "|---|{}", "---|".repeat(heads.len()));
        for (j, target) in TARGETS.iter().enumerate() {
            let of = |(_, _, tests): &(&str, f64, Vec<Vec<Shown>>)| {
                let shown = tests.get(i).and_then(|shown| shown.get(j));
                shown.map_or(String::new(), |it| {
                    format!("{:.3} ({:.2} ms)", it.recall, it.milliseconds)
                })
            };
            let cells: Vec<String> = states.iter().map(of).collect();
            let _ = writeln!(text, "| {target:.2} | {} |", cells.join(" | "));
        }
    }
    let seconds: Vec<String> = states
        .iter()
        .map(|(name, seconds, _)| format!("{name} {seconds:.1} s"))
        .collect();
    let _ = writeln!(
        text,
        "\nAdvice after the inserts: `{advice}`. Time to reach each state: {}.",
        seconds.join("; ")
    );
    text
}
