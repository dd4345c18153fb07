//! Filtered searches: filter columns, filters of the executor, pgvector's hnsw, and btrees compared.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use distillvq_harness::compare::{Built, build, megabytes, seconds};
use distillvq_harness::filters::{
    Filter, Outcome, Tables, WithinOutcome, inserts_per_second, measure, measure_within,
};
use distillvq_harness::report::say;
use distillvq_harness::{DataSet, Error, Metric, Provenance, Result, Server, Vectors, load};
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

/// A title, and conditions with their labels.
type Group = (&'static str, &'static [(&'static str, &'static str)]);

const GROUPS: [Group; 4] = [
    (
        "Ranges of a column that is independent of the vectors",
        &[
            ("no condition", ""),
            ("50 %", "part < 5000"),
            ("10 %", "part < 1000"),
            ("1 %", "part < 100"),
            ("0.1 %", "part < 10"),
            ("0.01 %", "part < 1"),
        ],
    ),
    (
        "Ranges that keep the rows nearest to one row",
        &[
            ("50 %", "place < 5000"),
            ("10 %", "place < 1000"),
            ("1 %", "place < 100"),
            ("0.1 %", "place < 10"),
            ("0.01 %", "place < 1"),
        ],
    ),
    (
        "Other conditions",
        &[
            ("`=`, 10 %", "kind = 3"),
            ("two columns, 1 %", "kind = 3 AND part < 1000"),
            (
                "`= ANY` of 20 values, 0.2 %",
                "part = ANY ('{5,505,1005,1505,2005,2505,3005,3505,4005,4505,5005,5505,6005,6505,7005,7505,8005,8505,9005,9505}')",
            ),
        ],
    ),
    (
        "Tenants, the largest first, by Zipf's law",
        &[
            ("1st", "tenant = 1"),
            ("10th", "tenant = 10"),
            ("100th", "tenant = 100"),
            ("1,000th", "tenant = 1000"),
        ],
    ),
];

const PLAIN: &str = "distillvq without filter columns";
/// The name of the line of searches that return late rows at the end.
const RELAXED: &str = "the same, relaxed order";
const FILTER_COLUMNS: &str = "distillvq with filter columns";
const CHOSEN: &str = "the planner's choice of it, btrees, and table scan";
/// Limit of the distance of the searches without `LIMIT`.
const FARTHEST: f64 = 0.65;
/// Rows inserted to measure the speed of inserts.
const INSERTS: usize = 5_000;

/// The name of a line of the tables, whether the planner must take the index, and what sets the session up.
type Setting = (&'static str, bool, &'static str);

/// An index, how it is built, and settings to measure it with.
const INDEXES: [(&str, &str, &[Setting]); 3] = [
    (
        "filter_columns_idx",
        "USING distillvq (embedding vector_cosine_ops, part, place, kind, tenant) WITH (model = filters)",
        &[(FILTER_COLUMNS, true, ""), (CHOSEN, false, "")],
    ),
    (
        "plain_idx",
        "USING distillvq (embedding vector_cosine_ops) WITH (model = filters)",
        &[
            (PLAIN, true, ""),
            (
                RELAXED,
                true,
                "SET distillvq.iterative_scan = relaxed_order",
            ),
        ],
    ),
    (
        "hnsw_idx",
        "USING hnsw (embedding vector_cosine_ops)",
        &[(
            "pgvector hnsw, relaxed order",
            true,
            "SET hnsw.iterative_scan = relaxed_order",
        )],
    ),
];

/// What is indexed to compare sizes and the speed of inserts.
const WRITTEN: [(&str, &str); 2] = [
    ("none", "embedding vector_cosine_ops"),
    (
        "integer, bigint",
        "embedding vector_cosine_ops, part, tenant",
    ),
];

/// Compares filtered searches with pgvector's hnsw and btrees, and writes a page
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

/// Size, speed of inserts and of searches without conditions, with and without filter columns.
struct Written {
    columns: &'static str,
    built: Built,
    inserts: f64,
    search: Outcome,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    say("reading the data");
    let set = DataSet::open(&arguments.data)?;
    if set.metric != Metric::Cosine || set.test.rows() < QUERIES {
        let message =
            format!("filters are measured with cosine distance and at least {QUERIES} queries");
        return Err(Error::Argument(message));
    }
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
    let groups = filters(&mut client, &set.documents, &queries)?;
    let filters: Vec<&Filter<'_>> = groups.iter().flatten().collect();
    say("no index on the vectors, one on each filter column");
    let mut lines = vec![Line {
        name: "btree on the column, or table scan".into(),
        outcomes: measure(&mut client, &TABLES, &filters, None, "")?,
    }];
    say("training");
    let log = if set.has_log() {
        ", queries => 'query_log', query_column => 'embedding'"
    } else {
        ""
    };
    client.batch_execute(&format!(
        "RESET ALL; SET maintenance_work_mem = '2GB'; SELECT distillvq_train('items', 'embedding', 'filters'{log})"
    ))?;
    let written = written(&mut client, &filters)?;
    let (mut builds, mut within) = (Vec::new(), Vec::new());
    for (index, definition, settings) in INDEXES {
        say(&format!("building {index}"));
        client.batch_execute("RESET ALL; SET maintenance_work_mem = '2GB'")?;
        let built = build(&mut client, index, &format!("items {definition}"))?;
        client.batch_execute("ANALYZE items")?;
        let (size, time) = (megabytes(built.bytes), seconds(built.build));
        builds.push(format!("{index} {size} in {time}"));
        for (name, forced, settings) in settings {
            say(name);
            let index = forced.then_some(index);
            lines.push(Line {
                name: (*name).to_owned(),
                outcomes: measure(&mut client, &TABLES, &filters, index, settings)?,
            });
            if [PLAIN, RELAXED].contains(name) {
                let outcome = measure_within(&mut client, "items", &queries, FARTHEST, settings)?;
                within.push((*name, outcome));
            }
        }
        client.batch_execute(&format!("DROP INDEX {index}"))?;
    }
    let about = format!(
        "{}: {} rows of {} dimensions, {QUERIES} test queries, cosine distance, `LIMIT {K}`, one client, one prepared \
         statement. {}. Indexes: {}. {}",
        set.name,
        set.documents.rows(),
        set.documents.dim(),
        if set.has_log() {
            "distillvq was trained with the query log"
        } else {
            "distillvq was trained without a query log"
        },
        builds.join(", "),
        Provenance::now()
    );
    let mut page = introduction(&about);
    comparison(&mut page, &lines, &groups);
    costs(&mut page, &written);
    order(&mut page, &filters, &lines, &within);
    fs::write(&arguments.output, page).map_err(Error::io(&arguments.output))
}

/// `part` and `kind` are independent of the vectors, and `tenant` is with sizes by Zipf's law; `place` tells in ten-thousandths how
/// near a row is to the first one among all.
fn load_tables(client: &mut Client, set: &DataSet) -> Result<()> {
    say("loading the tables");
    load::create_table(client, "loaded", &set.documents)?;
    load::create_table(client, "test_queries", &set.test)?;
    if set.has_log() {
        load::create_table(client, "query_log", &set.log)?;
    }
    client.batch_execute(
        "CREATE TABLE items AS SELECT id, embedding, (id * 7919 % 10000)::int AS part,
             ntile(10000) OVER (ORDER BY embedding <=> (SELECT embedding FROM loaded WHERE id = 0)) - 1 AS place,
             (id * 104729 / 10000 % 10)::smallint AS kind,
             floor(exp(ln(1001) * (id * 7577 % 1000003) / 1000003))::bigint AS tenant
             FROM loaded ORDER BY id;
         DROP TABLE loaded;
         ALTER TABLE items ADD PRIMARY KEY (id);
         CREATE INDEX ON items (part);
         CREATE INDEX ON items (place);
         CREATE INDEX ON items (kind);
         CREATE INDEX ON items (tenant)",
    )?;
    Ok(client.batch_execute("VACUUM ANALYZE")?)
}

fn filters<'a>(
    client: &mut Client,
    documents: &'a Vectors,
    queries: &'a Vectors,
) -> Result<Vec<Vec<Filter<'a>>>> {
    let group = |(_, conditions): &Group| {
        let filter = |(_, condition): &(&str, &str)| {
            Filter::new(client, "items", condition, (documents, queries), K)
        };
        conditions.iter().map(filter).collect()
    };
    GROUPS.iter().map(group).collect()
}

/// Builds and measures both indexes of [`WRITTEN`], each on a copy of the table without other indexes.
fn written(client: &mut Client, filters: &[&Filter<'_>]) -> Result<Vec<Written>> {
    let mut all = Vec::new();
    for (columns, definition) in WRITTEN {
        say(&format!("size and inserts, filter columns: {columns}"));
        client.batch_execute(
            "RESET ALL; SET maintenance_work_mem = '2GB'; CREATE TABLE copied AS SELECT * FROM items",
        )?;
        client.batch_execute("VACUUM ANALYZE copied")?;
        let definition = format!("copied USING distillvq ({definition}) WITH (model = filters)");
        let built = build(client, "copied_idx", &definition)?;
        let tables = Tables {
            items: "copied",
            ..TABLES
        };
        let unfiltered = filters.get(..1).unwrap_or_default();
        let search = measure(client, &tables, unfiltered, Some("copied_idx"), "")?;
        let inserts = inserts_per_second(client, "items", "copied", INSERTS)?;
        client.batch_execute("DROP TABLE copied")?;
        all.extend(search.first().map(|search| Written {
            columns,
            built,
            inserts,
            search: *search,
        }));
    }
    Ok(all)
}

fn introduction(about: &str) -> String {
    format!(
        "<!-- Generated by `make bench-filters`; do not edit. -->\n\n# Filtered searches\n\n{about}\n\n\
         Each cell shows recall@{K} against exact search among the rows that the condition keeps, the mean query time, and the \
         number of the {QUERIES} queries that returned fewer rows than there are, if any. The first line is PostgreSQL without a \
         vector index. The target recall of distillvq is 0.95. hnsw stops after \
         `hnsw.max_scan_tuples` rows, 20,000 by default.\n"
    )
}

fn comparison(page: &mut String, lines: &[Line], groups: &[Vec<Filter<'_>>]) {
    let mut first = 0;
    for ((title, conditions), filters) in GROUPS.iter().zip(groups) {
        let _ = write!(page, "\n## {title}\n\n| |");
        for (label, _) in *conditions {
            let _ = write!(page, " {label} |");
        }
        let _ = write!(page, "\n|---|{}\n| rows |", "--:|".repeat(conditions.len()));
        for filter in filters {
            let _ = write!(page, " {} |", filter.kept);
        }
        let _ = writeln!(page);
        for line in lines {
            let cells = line.outcomes.get(first..first + conditions.len());
            let cells: Vec<String> = cells.into_iter().flatten().map(cell).collect();
            let _ = writeln!(page, "| {} | {} |", line.name, cells.join(" | "));
        }
        first += conditions.len();
    }
}

fn costs(page: &mut String, written: &[Written]) {
    let _ = write!(
        page,
        "\n## What filter columns cost\n\nThe same model and table; {INSERTS} rows inserted one by one, by one client.\n\n\
         | filter columns | index | build | inserts | search without a condition |\n|---|--:|--:|--:|--:|\n"
    );
    for it in written {
        let _ = writeln!(
            page,
            "| {} | {} | {} | {:.0}/s | {} |",
            it.columns,
            megabytes(it.built.bytes),
            seconds(it.built.build),
            it.inserts,
            cell(&it.search)
        );
    }
}

fn order(
    page: &mut String,
    filters: &[&Filter<'_>],
    lines: &[Line],
    within: &[(&str, WithinOutcome)],
) {
    let _ = write!(
        page,
        "\n## What the order costs\n\nBy default, a row found after a farther row was returned is dropped. With \
         `distillvq.iterative_scan = relaxed_order` it is returned last, out of order. The table shows the rows that all {QUERIES} \
         queries should return, the number of them that is missing, and the mean query time, without filter columns. The last lines are \
         searches for all rows within a distance, without a `LIMIT`.\n\n\
         | | rows | missing | time | missing, relaxed | time, relaxed |\n|---|--:|--:|--:|--:|--:|\n"
    );
    let line = |name: &str| lines.iter().find(|line| line.name == name);
    let pairs = line(PLAIN).zip(line(RELAXED));
    let outcomes = pairs.map(|(strict, relaxed)| strict.outcomes.iter().zip(&relaxed.outcomes));
    for (filter, (strict, relaxed)) in filters.iter().zip(outcomes.into_iter().flatten()) {
        let condition = match filter.condition.as_str() {
            "" => "no condition".to_owned(),
            long if long.len() > 40 => "`part = ANY (…)`".to_owned(),
            condition => format!("`{condition}`"),
        };
        let _ = writeln!(
            page,
            "| {condition} | {} | {} | {} | {} | {} |",
            filter.rows * QUERIES,
            strict.missing,
            milliseconds(strict.mean),
            relaxed.missing,
            milliseconds(relaxed.mean)
        );
    }
    for (name, outcome) in within {
        let _ = writeln!(
            page,
            "\n{name}, within {FARTHEST}: {} of {} rows missing, {} of {QUERIES} queries out of order, {}.",
            outcome.missing,
            outcome.rows,
            outcome.unordered,
            milliseconds(outcome.mean)
        );
    }
}

fn milliseconds(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1e3)
}

fn cell(outcome: &Outcome) -> String {
    let mut text = format!("{:.3}, {}", outcome.recall, milliseconds(outcome.mean));
    if outcome.short > 0 {
        let _ = write!(text, ", {} short", outcome.short);
    }
    text
}
