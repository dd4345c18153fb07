//! Filtered searches compared with pgvector's hnsw.
//!
//! Half of the filters are independent of the vectors. The others keep the rows nearest to the first row, so that most
//! queries must probe distant lists.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use distillvq_harness::compare::{build, seconds};
use distillvq_harness::filters::{
    Filter, Outcome, THOUSANDTHS, Tables, WithinOutcome, measure, measure_within,
};
use distillvq_harness::report::say;
use distillvq_harness::{DataSet, Error, Result, Server, load};
use postgres::Client;

/// Rows asked for.
const K: usize = 10;
/// Queries.
const QUERIES: usize = 100;
const TABLES: Tables<'static> = Tables {
    items: "items",
    queries: "test_queries",
    count: QUERIES,
    k: K,
};

/// The name of the line of searches that return late rows at the end.
const RELAXED: &str = "distillvq, relaxed order";
/// Limit of the distance of the searches without `LIMIT`.
const FARTHEST: f64 = 0.65;

/// The name of a line of the tables, and what sets the session up.
type Setting = (&'static str, &'static str);

/// An index, how it is built, and settings to measure it with.
const INDEXES: [(&str, &str, &[Setting]); 2] = [
    (
        "distillvq_idx",
        "USING distillvq (embedding vector_cosine_ops)",
        &[
            ("distillvq", ""),
            (RELAXED, "SET distillvq.iterative_scan = relaxed_order"),
        ],
    ),
    (
        "hnsw_idx",
        "USING hnsw (embedding vector_cosine_ops)",
        &[(
            "pgvector hnsw, relaxed order",
            "SET hnsw.iterative_scan = relaxed_order",
        )],
    ),
];

/// Compares filtered searches with pgvector's hnsw, and writes a page
#[derive(Parser)]
struct Arguments {
    /// Directory of a data set
    data: PathBuf,
    /// File of the page
    output: PathBuf,
}

/// One line of the tables.
struct Line {
    name: String,
    outcomes: Vec<Outcome>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    say("reading the data");
    let set = DataSet::open(&arguments.data)?;
    let queries = set.test.slice(0..QUERIES);
    let buffers = format!(
        "{}MB",
        (set.documents.values().len() / 62_500).clamp(512, 8_000)
    );
    let server = Server::start_with(
        "filters-bench",
        &[("shared_buffers", &buffers), ("max_wal_size", "8GB")],
    )?;
    let mut client = server.database("filters")?;
    load_tables(&mut client, &set)?;
    say("exact neighbors of the test queries");
    let mut filters = Vec::new();
    for column in ["part", "place"] {
        let values = column_values(&mut client, column)?;
        for thousandths in THOUSANDTHS {
            filters.push(Filter::below(
                column,
                &values,
                thousandths,
                &set.documents,
                &queries,
                K,
            ));
        }
    }
    say("no index on the vectors, one on the filter's column");
    let mut lines = vec![Line {
        name: "btree on the filter, or table scan".into(),
        outcomes: measure(&mut client, &TABLES, &filters, None, "")?,
    }];
    let (mut builds, mut within) = (Vec::new(), Vec::new());
    for (index, definition, settings) in INDEXES {
        say(&format!("building {index}"));
        client.batch_execute("RESET ALL; SET maintenance_work_mem = '2GB'")?;
        let built = build(&mut client, index, &format!("items {definition}"))?;
        builds.push(format!("{index} {}", seconds(built.build)));
        for (name, settings) in settings {
            say(name);
            lines.push(Line {
                name: (*name).to_owned(),
                outcomes: measure(&mut client, &TABLES, &filters, Some(index), settings)?,
            });
            if index == "distillvq_idx" {
                let outcome = measure_within(&mut client, "items", &queries, FARTHEST, settings)?;
                within.push((*name, outcome));
            }
        }
        client.batch_execute(&format!("DROP INDEX {index}"))?;
    }
    let about = format!(
        "{}: {} rows of {} dimensions, {QUERIES} test queries, cosine distance, `LIMIT {K}`, one client, one prepared \
         statement. Build times: {}.",
        set.name,
        set.documents.rows(),
        set.documents.dim(),
        builds.join(", ")
    );
    let page = page(&about, &filters, &lines, &within);
    fs::write(&arguments.output, page).map_err(Error::io(&arguments.output))
}

/// `part` is independent of the vectors; `place` tells in thousandths how near a row is to the first one among all.
fn load_tables(client: &mut Client, set: &DataSet) -> Result<()> {
    say("loading the tables");
    load::create_table(client, "loaded", &set.documents)?;
    load::create_table(client, "test_queries", &set.test)?;
    client.batch_execute(
        "CREATE TABLE items AS SELECT id, embedding, (id * 7919 % 1000)::int AS part,
             ntile(1000) OVER (ORDER BY embedding <=> (SELECT embedding FROM loaded WHERE id = 0)) - 1 AS place
             FROM loaded ORDER BY id;
         DROP TABLE loaded;
         ALTER TABLE items ADD PRIMARY KEY (id);
         CREATE INDEX ON items (part);
         CREATE INDEX ON items (place)",
    )?;
    Ok(client.batch_execute("VACUUM ANALYZE")?)
}

fn column_values(client: &mut Client, column: &str) -> Result<Vec<i32>> {
    let rows = client.query(&format!("SELECT {column} FROM items ORDER BY id"), &[])?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

fn page(
    about: &str,
    filters: &[Filter<'_>],
    lines: &[Line],
    within: &[(&str, WithinOutcome)],
) -> String {
    let mut text = format!(
        "<!-- Generated by `make bench-filters`; do not edit. -->\n\n# Filtered searches\n\n{about}\n\n\
         Each cell shows recall@{K} against exact search among the rows that the filter keeps, the mean query time, and the \
         number of the {QUERIES} queries that returned fewer than {K} rows, if any. The first line is PostgreSQL without a vector \
         index. hnsw stops after `hnsw.max_scan_tuples` rows, 20,000 by default.\n"
    );
    let halves = filters.len() / 2;
    for (title, range) in [
        ("Filters independent of the vectors", 0..halves),
        (
            "Filters that keep the rows nearest to one row",
            halves..filters.len(),
        ),
    ] {
        let _ = write!(text, "\n## {title}\n\n| |");
        for filter in filters.get(range.clone()).unwrap_or_default() {
            let _ = write!(text, " {} % |", f64::from(filter.thousandths) / 10.0);
        }
        let _ = writeln!(text, "\n|---|{}", "--:|".repeat(range.len()));
        for line in lines {
            let cells: Vec<String> = line.outcomes.iter().map(cell).collect();
            let cells = cells.get(range.clone()).unwrap_or_default();
            let _ = writeln!(text, "| {} | {} |", line.name, cells.join(" | "));
        }
    }
    let _ = write!(
        text,
        "\n## What the order costs\n\nBy default, a row found after a farther row was returned is dropped. With \
         `distillvq.iterative_scan = relaxed_order` it is returned last, out of order. The table shows the rows that all {QUERIES} \
         queries should return, the number of them that is missing, and the mean query time. The last lines are searches for \
         all rows within a distance, without a `LIMIT`.\n\n| | rows | missing | time | missing, relaxed | time, relaxed |\n|---|--:|--:|--:|--:|--:|\n"
    );
    let line = |name: &str| lines.iter().find(|line| line.name == name);
    let pairs = line("distillvq").zip(line(RELAXED));
    let outcomes = pairs.map(|(strict, relaxed)| strict.outcomes.iter().zip(&relaxed.outcomes));
    for (filter, (strict, relaxed)) in filters.iter().zip(outcomes.into_iter().flatten()) {
        let _ = writeln!(
            text,
            "| `{}` | {} | {} | {} | {} | {} |",
            filter.condition,
            filter.rows * QUERIES,
            strict.missing,
            milliseconds(strict.mean),
            relaxed.missing,
            milliseconds(relaxed.mean)
        );
    }
    for (name, outcome) in within {
        let _ = writeln!(
            text,
            "\n{name}, within {FARTHEST}: {} of {} rows missing, {} of {QUERIES} queries out of order, {}.",
            outcome.missing,
            outcome.rows,
            outcome.unordered,
            milliseconds(outcome.mean)
        );
    }
    text
}

fn milliseconds(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1e3)
}

fn cell(outcome: &Outcome) -> String {
    let mut text = format!(
        "{:.3}, {:.2} ms",
        outcome.recall,
        outcome.mean.as_secs_f64() * 1e3
    );
    if outcome.short > 0 {
        let _ = write!(text, ", {} short", outcome.short);
    }
    text
}
