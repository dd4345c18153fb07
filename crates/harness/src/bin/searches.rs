//! What an index learns from the queries that it is searched with: recall and codes scanned before any search, after some
//! searches and a VACUUM, and after a training with the sample.
//!
//! `searches --help` lists the arguments.

use std::fmt::Write as _;
use std::time::Instant;

use distillvq_harness::measure::nearest_by_id;
use distillvq_harness::process_tree::cpu_time;
use distillvq_harness::query_sets::QuerySet;
use distillvq_harness::report::SectionArguments;
use distillvq_harness::{Error, Result, Server, Truth, Vectors, load};
use postgres::Client;

/// Neighbors asked for.
const K: usize = 10;
/// Recalls asked for.
const TARGETS: [f64; 4] = [0.90, 0.95, 0.98, 0.99];
/// Searches that an index learns from.
const SEARCHES: usize = 2_000;
/// Turns of searches that are timed, and searches of a turn.
const TURNS: usize = 15;
const TURN: usize = 250;
const DATABASE: &str = "searches";

const INTRODUCTION: &str = "# Learning from searches

`make bench-searches` writes this page. Searches keep a sample of their queries in the index, and no query log is used. Each table shows
the target, the measured recall@10 on test queries that neither training nor calibration has seen, the recall of the worst twentieth of
these queries, and the mean number of codes that a search scans, in these states of an index on all rows:

* *built*: before any search;
* *vacuumed*: after 2,000 searches with other queries of the same kind and one `VACUUM`;
* *trained*: after `SELECT distillvq_train('items_idx')`, which learns from the sample;
* *changed*: after 2,000 searches with queries like the rows and one `VACUUM`, measured with queries like the rows.

The last column compares codes at equal recall: codes that searches would scan for exactly the target, interpolated between the
measured points, in the trained index relative to the vacuumed one.

The processor time of sampling is within the noise of the measurement, which is 0.05 beside other work. WAL is that of the first seconds
after a checkpoint, in which each page of the sample is logged once: at most 8 kB per page and checkpoint.
";

fn main() -> Result<()> {
    let arguments = SectionArguments::read(
        "Measures what an index learns from searches, and writes a page",
        "texts, mixture, noise, products",
    );
    let set = QuerySet::named(&arguments.set, arguments.metric)?;
    if set.log.rows() == 0 {
        return Err(Error::Argument(format!(
            "data set {} has no query log",
            arguments.set
        )));
    }
    eprintln!("==> {}", set.name);
    let server = Server::start("searches")?;
    let mut client = server.database(DATABASE)?;
    client.batch_execute("SET maintenance_work_mem = '512MB'")?;
    let section = measure(&mut client, &set)?;
    arguments.page.write(INTRODUCTION, &arguments.set, &section)
}

/// What searches with one target showed.
struct Shown {
    recall: f64,
    /// Mean recall of the worst twentieth of the queries.
    worst: f64,
    codes: f64,
}

/// The table of test queries, these queries, and their neighbors.
type Asked<'a> = (&'a str, &'a Vectors, &'a Truth<'a>);

/// A state of the index, the seconds to reach it, and what was shown there for each target.
struct State {
    name: &'static str,
    seconds: f64,
    shown: Vec<Shown>,
}

fn measure(client: &mut Client, set: &QuerySet) -> Result<String> {
    load::create_table(client, "items", &set.rows)?;
    for (table, queries) in [
        ("learn", &set.log),
        ("test", &set.test),
        ("like_rows", &set.like_rows),
    ] {
        load::create_table(client, table, queries)?;
    }
    client.batch_execute("ANALYZE; SET enable_seqscan = off; SET enable_sort = off")?;
    let metric = set.metric.name();
    let create =
        format!("CREATE INDEX items_idx ON items USING distillvq (embedding vector_{metric}_ops)");
    let test = Truth::new(set.metric, &set.rows, &set.test, K);
    let like_rows = Truth::new(set.metric, &set.rows, &set.like_rows, K);
    let mut states = Vec::new();
    let mut state = |client: &mut Client, name, work: &[&str], asked: Asked<'_>| {
        let start = Instant::now();
        for statement in work {
            client.batch_execute(statement)?;
        }
        let seconds = start.elapsed().as_secs_f64();
        let shown = ask(client, set, asked)?;
        states.push(State {
            name,
            seconds,
            shown,
        });
        Ok::<_, Error>(())
    };
    let tests = ("test", &set.test, &test);
    state(client, "built", &[&create, "VACUUM ANALYZE items"], tests)?;
    search(client, set, "learn", SEARCHES.min(set.log.rows()))?;
    state(client, "vacuumed", &["VACUUM items"], tests)?;
    state(
        client,
        "trained",
        &["SELECT distillvq_train('items_idx')"],
        tests,
    )?;
    search(client, set, "like_rows", SEARCHES.min(set.like_rows.rows()))?;
    let like_rows = ("like_rows", &set.like_rows, &like_rows);
    state(client, "changed", &["VACUUM items"], like_rows)?;
    let cost = cost(client, set)?;
    Ok(section(set, &states, &cost))
}

/// What sampling costs.
struct Cost {
    /// Processor time of searches that fill the sample, and of those when it is full, relative to searches that sample nothing.
    filling: f64,
    full: f64,
    /// Bytes of WAL of the latter after a checkpoint, without those of searches that sample nothing, and seconds.
    wal: f64,
    seconds: f64,
}

/// Measures the processor time of searches with and without sampling, in turns.
fn cost(client: &mut Client, set: &QuerySet) -> Result<Cost> {
    let statement = client.prepare(&nearest_by_id("items", "test", set.metric, K))?;
    let process: i32 = client.query_one("SELECT pg_backend_pid()", &[])?.get(0);
    let turn = |client: &mut Client, setting: &str| {
        client.batch_execute(&format!("SET distillvq.sample_queries = {setting}"))?;
        let before = cpu_time(process as u32);
        for id in 0..TURN as i64 {
            client.query(&statement, &[&id])?;
        }
        let took = cpu_time(process as u32).saturating_sub(before);
        Ok::<_, Error>(took.as_secs_f64())
    };
    let (mut filling, mut full) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        // The first searches fill the sample that is empty then.
        client.batch_execute("SELECT distillvq_reset_query_sample('items_idx')")?;
        let (without, with) = (turn(client, "off")?, turn(client, "on")?);
        filling.push(with / without);
    }
    for _ in 0..4 {
        turn(client, "on")?;
    }
    client.batch_execute("CHECKPOINT")?;
    let (mut wal, mut seconds) = (0.0, 0.0);
    for _ in 0..TURNS {
        let (first, start) = (wal_position(client)?, Instant::now());
        let with = turn(client, "on")?;
        seconds += start.elapsed().as_secs_f64();
        let second = wal_position(client)?;
        let without = turn(client, "off")?;
        wal += second - first - (wal_position(client)? - second);
        full.push(with / without);
    }
    Ok(Cost {
        filling: median(filling),
        full: median(full),
        wal,
        seconds,
    })
}

/// Bytes of WAL so far.
fn wal_position(client: &mut Client) -> Result<f64> {
    let sql = "SELECT (pg_current_wal_insert_lsn() - '0/0')::float8";
    Ok(client.query_one(sql, &[])?.get(0))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Searches with the first queries of a table, which are sampled.
fn search(client: &mut Client, set: &QuerySet, table: &str, count: usize) -> Result<()> {
    let statement = client.prepare(&nearest_by_id("items", table, set.metric, K))?;
    for id in 0..count as i64 {
        client.query(&statement, &[&id])?;
    }
    Ok(())
}

/// What searches for test queries, which are not sampled, find with each target.
fn ask(
    client: &mut Client,
    set: &QuerySet,
    (table, queries, truth): Asked<'_>,
) -> Result<Vec<Shown>> {
    let sql = nearest_by_id("items", table, set.metric, K);
    client.batch_execute("SET distillvq.sample_queries = off")?;
    let mut all = Vec::new();
    for target in TARGETS {
        client.batch_execute(&format!("SET distillvq.target_recall = {target}"))?;
        let statement = client.prepare(&sql)?;
        let (mut recalls, mut codes) = (Vec::new(), 0);
        for id in 0..queries.rows() {
            let rows = client.query(&statement, &[&(id as i64)])?;
            let found: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
            recalls.push(truth.recall_of(id, &found));
            let row = client.query_one("SELECT codes FROM distillvq_last_scan()", &[])?;
            codes += row.try_get::<_, i64>(0)?;
        }
        recalls.sort_unstable_by(f64::total_cmp);
        let mean = |recalls: &[f64]| recalls.iter().sum::<f64>() / recalls.len().max(1) as f64;
        let shown = Shown {
            recall: mean(&recalls),
            worst: mean(&recalls[..recalls.len().div_ceil(20)]),
            codes: codes as f64 / queries.rows() as f64,
        };
        eprintln!(
            "{table} {target}: {:.4} {:.3} {:.0}",
            shown.recall, shown.worst, shown.codes
        );
        all.push(shown);
    }
    client.batch_execute("RESET distillvq.target_recall; RESET distillvq.sample_queries")?;
    Ok(all)
}

/// Codes for a recall, interpolated by the logarithm of the recall's shortfall; none beyond what was measured.
fn codes_for(shown: &[Shown], recall: f64) -> Option<f64> {
    let pair = shown
        .windows(2)
        .find(|pair| matches!(pair, [a, b] if a.recall <= recall && recall <= b.recall))?;
    let [from, to] = pair else { return None };
    let lost = |recall: f64| (1.0 - recall).max(1e-4).ln();
    let way = (lost(recall) - lost(from.recall)) / (lost(to.recall) - lost(from.recall));
    let way = if way.is_finite() { way } else { 0.0 };
    Some((from.codes.ln() + way * (to.codes / from.codes).ln()).exp())
}

/// The set's table in Markdown.
fn section(set: &QuerySet, states: &[State], cost: &Cost) -> String {
    let mut text = format!("\n## {}\n", set.name);
    let heads: Vec<&str> = states.iter().map(|state| state.name).collect();
    let _ = writeln!(
        text,
        "\n| target | {} | codes, trained / vacuumed |",
        heads.join(" | ")
    );
    let _ = writeln!(text, "|---|{}---|", "---|".repeat(heads.len()));
    for (i, target) in TARGETS.iter().enumerate() {
        let cells: Vec<String> = states
            .iter()
            .filter_map(|state| state.shown.get(i))
            .map(|it| format!("{:.3} ({:.2}; {:.0})", it.recall, it.worst, it.codes))
            .collect();
        let codes = |name: &str| {
            let state = states.iter().find(|state| state.name == name)?;
            codes_for(&state.shown, *target)
        };
        let ratio = codes("trained").zip(codes("vacuumed"));
        let ratio = ratio.map_or("–".to_owned(), |(a, b)| format!("{:.2}", a / b));
        let _ = writeln!(text, "| {target:.2} | {} | {ratio} |", cells.join(" | "));
    }
    let seconds: Vec<String> = states
        .iter()
        .map(|state| format!("{} {:.1} s", state.name, state.seconds))
        .collect();
    let _ = writeln!(
        text,
        "\nIn brackets: recall of the worst twentieth; codes. Time to reach each state: {}.",
        seconds.join("; ")
    );
    let _ = writeln!(
        text,
        "\nProcessor time of searches, relative to searches without sampling: {:.3} while the sample is filled, {:.3} when it is full \
         (medians of {TURNS} turns of {TURN} searches). WAL after a checkpoint: {:.0} kB per minute.",
        cost.filling,
        cost.full,
        60.0 * cost.wal / cost.seconds / 1e3
    );
    text
}
