//! Does the planner take the fastest plan? Situations, the plan that it chooses in each, and how long that and the other
//! possible plans really take.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use postgres::Client;

use crate::error::{Error, Result};
use crate::load::copy_vectors;
use crate::vectors::Vectors;

/// Settings of a server that plans are measured on: all tables fit its buffers, and nobody interferes.
pub const SETTINGS: [(&str, &str); 3] = [
    ("shared_buffers", "768MB"),
    ("maintenance_work_mem", "256MB"),
    ("autovacuum_naptime", "1d"),
];

/// A chosen plan is good if it takes at most this many times as long as the fastest one.
pub const TOLERANCE: f64 = 1.5;

/// Values of the columns that filters look at are below this, evenly spread.
const SHARES: u32 = 100_000;
/// Queries that a situation is measured with.
const QUERIES: usize = 8;

/// How well plans are timed.
#[derive(Clone, Copy, Debug)]
pub struct Care {
    /// Executions of a plan that count, at most; one more before them warms up.
    pub runs: usize,
    /// No further execution begins after this time, if there are some already.
    pub patience: Duration,
    /// Whether what looks bad is measured once more, with full care: it may have been somebody else's load.
    pub again: bool,
}

impl Care {
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
const FEWEST_RUNS: usize = 3;

/// A table `(id, embedding, bucket, loose, spot, kind)` with an index on `embedding`. For filters: `bucket` and `loose` have
/// nothing to do with the order of the rows, `spot` follows it, and a btree is on `bucket` and on `spot`. `kind` is one of 8.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// Its name.
    pub name: &'static str,
    /// Its rows.
    pub rows: usize,
    /// Dimensions of its vectors; those of more than 500 lie out of line.
    pub dim: usize,
    /// The type of its vectors.
    pub element: &'static str,
    /// What follows in the definition of the index on `embedding`: parameters, a predicate.
    pub rest: &'static str,
}

/// What is asked besides the nearest rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Nothing.
    Plain,
    /// All columns instead of the id.
    Wide,
    /// Ties in the order of their ids.
    FurtherKey,
    /// The neighbours of each of several rows.
    Lateral,
    /// Each row's line of another table too.
    Join,
}

/// A query in its surroundings.
#[derive(Clone, Copy, Debug)]
pub struct Situation {
    /// The table's name.
    pub table: &'static str,
    /// Rows asked for, all without one.
    pub limit: Option<usize>,
    /// The filters: a column, and how many rows of 100,000 it keeps.
    pub filters: &'static [(&'static str, u32)],
    /// `distillvq.probes`; 0 is the default.
    pub probes: u32,
    /// What else is asked.
    pub shape: Shape,
}

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

/// The ways, and the settings that leave the planner no other.
const WAYS: [(Kind, &str); 4] = [
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

/// A situation and its plans.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The situation.
    pub situation: Situation,
    /// The plan of default settings.
    pub chosen: Plan,
    /// All plans that were measured, the chosen one among them.
    pub plans: Vec<Plan>,
}

impl Outcome {
    /// How many times as long as the fastest plan the chosen one takes.
    #[must_use]
    pub fn loss(&self) -> f64 {
        let times = self.plans.iter().map(|plan| plan.time);
        self.chosen.time
            / times
                .fold(self.chosen.time, f64::min)
                .max(f64::MIN_POSITIVE)
    }

    /// Whether the chosen plan is good enough.
    #[must_use]
    pub fn good(&self) -> bool {
        self.loss() <= TOLERANCE
    }
}

/// The share of situations whose plan is good enough.
#[must_use]
pub fn share_of_good(outcomes: &[Outcome]) -> f64 {
    let good = outcomes.iter().filter(|outcome| outcome.good()).count();
    good as f64 / outcomes.len().max(1) as f64
}

impl Table {
    /// Rows, and behind them queries.
    fn vectors(&self) -> Vectors {
        let rows = self.rows + QUERIES;
        if self.dim < 64 {
            Vectors::clustered(rows, self.dim, 200, 5)
        } else {
            Vectors::like_texts(rows, self.dim, 5, 0)
        }
    }

    /// Makes the table, its indexes, and a table of queries, which are returned.
    ///
    /// # Errors
    /// If a statement fails.
    pub fn make(&self, client: &mut Client) -> Result<Vectors> {
        let Self {
            name,
            rows,
            dim,
            element,
            rest,
        } = self;
        client.batch_execute(&format!(
            "CREATE TABLE {name}_queries (id bigint, embedding {element}({dim}));
             CREATE TABLE {name} (id bigint, embedding {element}({dim}),
                bucket int GENERATED ALWAYS AS (id * 7919 % {SHARES}) STORED,
                loose int GENERATED ALWAYS AS (id * 104729 % {SHARES}) STORED,
                spot int GENERATED ALWAYS AS (id * {SHARES} / {rows}) STORED,
                kind int GENERATED ALWAYS AS (id % {QUERIES}) STORED)"
        ))?;
        let vectors = self.vectors();
        let queries = vectors.slice(*rows..vectors.rows());
        copy_vectors(client, name, &vectors.slice(0..*rows))?;
        copy_vectors(client, &format!("{name}_queries"), &queries)?;
        client.batch_execute(&format!(
            "CREATE INDEX {name}_embedding ON {name} USING distillvq (embedding {element}_l2_ops) {rest};
             CREATE INDEX {name}_bucket ON {name} (bucket);
             CREATE INDEX {name}_spot ON {name} (spot)"
        ))?;
        client.batch_execute(&format!("VACUUM ANALYZE {name}"))?;
        client.batch_execute(&format!("VACUUM ANALYZE {name}_queries"))?;
        Ok(queries)
    }
}

impl Situation {
    /// The nearest rows of a table, with defaults for everything else.
    #[must_use]
    pub fn nearest(table: &'static str, limit: usize) -> Self {
        Self {
            table,
            limit: Some(limit),
            filters: &[],
            probes: 0,
            shape: Shape::Plain,
        }
    }

    /// The query for a vector.
    fn sql(&self, query: &[f32]) -> String {
        let Self { table, .. } = self;
        let conditions: Vec<String> = self
            .filters
            .iter()
            .map(|(column, share)| format!("t.{column} < {share}"))
            .collect();
        let filter = match conditions.join(" AND ") {
            none if none.is_empty() => none,
            all => format!("WHERE {all}"),
        };
        let limit = self
            .limit
            .map_or(String::new(), |limit| format!("LIMIT {limit}"));
        let values: Vec<String> = query.iter().map(f32::to_string).collect();
        let query = format!("'[{}]'", values.join(","));
        let of = |tables: &str, columns: &str, query: &str, key: &str| {
            format!(
                "SELECT {columns} FROM {tables} {filter} ORDER BY t.embedding <-> {query}{key} {limit}"
            )
        };
        let search =
            |columns: &str, query: &str, key: &str| of(&format!("{table} t"), columns, query, key);
        match self.shape {
            Shape::Plain => search("t.id", &query, ""),
            Shape::Wide => search("t.*", &query, ""),
            Shape::FurtherKey => search("t.id", &query, ", t.id"),
            Shape::Lateral => format!(
                "SELECT n.id FROM {table}_queries q, LATERAL ({}) n",
                search("t.id", "q.embedding", "")
            ),
            Shape::Join => {
                let tables = format!("{table} t JOIN {table}_queries q ON q.id = t.kind");
                of(&tables, "t.id, q.id", &query, "")
            }
        }
    }

    /// Lets the planner choose, and measures that plan and all others there are.
    ///
    /// # Errors
    /// If a query fails.
    pub fn measure(&self, client: &mut Client, queries: &Vectors, care: Care) -> Result<Outcome> {
        let sqls: Vec<String> = queries.iter().map(|query| self.sql(query)).collect();
        let first = sqls.first().map_or("", String::as_str);
        let base = format!("RESET ALL; SET distillvq.probes = {}", self.probes);
        client.batch_execute(&base)?;
        let mut chosen = explain(client, first)?;
        let mut ways = vec![(base.clone(), chosen.clone())];
        for (kind, settings) in WAYS {
            let settings = format!("{base}; {settings}");
            client.batch_execute(&settings)?;
            let plan = explain(client, first)?;
            let known = ways.iter().any(|(_, other)| other.nodes == plan.nodes);
            if plan.kind == kind && !known {
                ways.push((settings, plan));
            }
        }
        let mut plans = Vec::new();
        for (settings, plan) in ways {
            client.batch_execute(&settings)?;
            let time = median_time(client, &sqls, care)?;
            plans.push(Plan { time, ..plan });
        }
        client.batch_execute("RESET ALL")?;
        chosen.time = plans.first().map_or(0.0, |plan| plan.time);
        Ok(Outcome {
            situation: *self,
            chosen,
            plans,
        })
    }
}

/// The plan of a query, without its time.
fn explain(client: &mut Client, sql: &str) -> Result<Plan> {
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
    } else if has("_bucket") || has("_spot") {
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
fn median_time(client: &mut Client, sqls: &[String], care: Care) -> Result<f64> {
    let mut times = Vec::new();
    let start = Instant::now();
    for (run, sql) in sqls.iter().cycle().take(care.runs + 1).enumerate() {
        let time = execute(client, sql)?;
        if run > 0 {
            times.push(time);
        }
        if times.len() >= FEWEST_RUNS && start.elapsed() > care.patience {
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

/// Makes the tables and measures their situations.
///
/// # Errors
/// If a statement fails.
pub fn measure(client: &mut Client, tables: &[Table], care: Care) -> Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    for table in tables {
        let queries = table.make(client)?;
        for situation in situations_of(table) {
            let mut outcome = situation.measure(client, &queries, care)?;
            if care.again && !outcome.good() {
                outcome = situation.measure(client, &queries, Care::FULL)?;
            }
            outcomes.push(outcome);
        }
    }
    Ok(outcomes)
}

/// The tables: of a few seconds, or of full size and of more kinds.
#[must_use]
pub fn tables(full: bool) -> Vec<Table> {
    let table = |name, rows, dim| Table {
        name,
        rows,
        dim,
        element: "vector",
        rest: "",
    };
    let mut tables = vec![
        table("tiny", 50, 8),
        table("small", 2_000, 128),
        table("narrow", 100_000, 16),
        table("texts", if full { 20_000 } else { 8_000 }, 384),
        table("toasted", if full { 20_000 } else { 5_000 }, 768),
        Table {
            rest: "WHERE bucket < 10000",
            ..table("partial", 20_000, 16)
        },
    ];
    if full {
        tables.extend([
            table("many", 100_000, 384),
            table("flat", 30_000, 3),
            table("long", 6_000, 1_536),
            Table {
                element: "halfvec",
                ..table("half", 20_000, 200)
            },
            Table {
                rest: "WITH (bits = 8)",
                ..table("wide_codes", 50_000, 64)
            },
            Table {
                rest: "WITH (refine = none)",
                ..table("unrefined", 5_000, 768)
            },
        ]);
    }
    tables
}

/// A tenth of the rows by each of two columns.
const BOTH: &[(&str, u32)] = &[("bucket", 10_000), ("loose", 10_000)];

fn situations_of(table: &Table) -> Vec<Situation> {
    let plain = |limit| Situation::nearest(table.name, limit);
    let filtered = |limit, filters| Situation {
        filters,
        ..plain(limit)
    };
    let probing = |probes, limit| Situation {
        probes,
        ..plain(limit)
    };
    let shaped = |limit, shape| Situation {
        shape,
        ..plain(limit)
    };
    let endless = Situation {
        limit: None,
        ..plain(1)
    };
    match table.name {
        "tiny" => vec![plain(10), endless],
        "partial" => vec![
            filtered(10, &[("bucket", 10_000)]),
            filtered(100, &[("bucket", 5_000)]),
        ],
        _ => vec![
            plain(1),
            plain(10),
            plain(100),
            plain(1_000),
            plain(table.rows / 10),
            plain(2 * table.rows),
            endless,
            probing(2, 10),
            probing(32_768, 10),
            filtered(10, &[("bucket", 50_000)]),
            filtered(10, &[("bucket", 10_000)]),
            filtered(10, &[("bucket", 1_000)]),
            filtered(10, &[("bucket", 100)]),
            filtered(10, &[("bucket", 10)]),
            filtered(100, &[("bucket", 10_000)]),
            filtered(10, &[("loose", 10_000)]),
            filtered(10, &[("loose", 1_000)]),
            filtered(10, &[("spot", 10_000)]),
            filtered(10, &[("spot", 1_000)]),
            filtered(10, BOTH),
            shaped(100, Shape::Wide),
            shaped(10, Shape::FurtherKey),
            shaped(5, Shape::Lateral),
            shaped(10, Shape::Join),
        ],
    }
}

/// The outcomes as a table in Markdown.
#[must_use]
pub fn report(tables: &[Table], outcomes: &[Outcome]) -> String {
    let mut text = String::from(
        "| rows × dimensions | query | filter keeps | probes | chosen | distillvq | btree | seq. scan | parallel | chosen / fastest |\n\
         | --- | --- | --: | --: | --- | --: | --: | --: | --: | --: |\n",
    );
    for outcome in outcomes {
        let Outcome {
            situation, chosen, ..
        } = outcome;
        let found = tables.iter().find(|table| table.name == situation.table);
        let kind = found.map_or_else(String::new, Table::words);
        let cells: Vec<String> = WAYS.iter().map(|&(kind, _)| cell(outcome, kind)).collect();
        let _ = writeln!(
            text,
            "| {kind} | {} | {} | {} | {} | {} | {:.2}{} |",
            situation.words(),
            situation.filter_words(),
            match situation.probes {
                0 => "default".to_owned(),
                32_768 => "all".to_owned(),
                some => some.to_string(),
            },
            chosen.kind.word(),
            cells.join(" | "),
            outcome.loss(),
            if outcome.good() { "" } else { " **!**" },
        );
    }
    text
}

/// Time and cost of the fastest plan of a kind.
fn cell(outcome: &Outcome, kind: Kind) -> String {
    let plans = outcome.plans.iter().filter(|plan| plan.kind == kind);
    let fastest = plans.min_by(|a, b| a.time.total_cmp(&b.time));
    fastest.map_or_else(
        || "–".into(),
        |plan| format!("{:.3} ms ({:.0})", plan.time / 1000.0, plan.cost),
    )
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Kind::Search => "distillvq",
            Kind::Btree => "btree",
            Kind::Sequential => "seq. scan",
            Kind::Parallel => "parallel",
        }
    }
}

impl Situation {
    fn words(&self) -> String {
        let limit = self
            .limit
            .map_or_else(|| "all rows".into(), |limit| format!("LIMIT {limit}"));
        let shape = match self.shape {
            Shape::Plain => "",
            Shape::Wide => ", all columns",
            Shape::FurtherKey => ", a further key",
            Shape::Lateral => ", of 8 rows by LATERAL",
            Shape::Join => ", joined with 8 rows",
        };
        limit + shape
    }

    fn filter_words(&self) -> String {
        let words: Vec<String> = self
            .filters
            .iter()
            .map(|&(column, share)| {
                let what = match column {
                    "loose" => ", no btree",
                    "spot" => ", in the table's order",
                    _ => "",
                };
                format!("{} %{what}", f64::from(share) * 100.0 / f64::from(SHARES))
            })
            .collect();
        words.join("; ")
    }
}

impl Table {
    fn words(&self) -> String {
        let Self {
            rows, dim, rest, ..
        } = self;
        let element = match self.element {
            "halfvec" => " `halfvec`",
            _ => "",
        };
        let rest = match *rest {
            "" => String::new(),
            rest => format!(" `{rest}`"),
        };
        format!("{rows} × {dim}{element}{rest}")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn plan(kind: Kind, time: f64) -> Plan {
        Plan {
            kind,
            nodes: String::new(),
            cost: 7.0,
            time,
        }
    }

    #[test]
    fn the_loss_is_against_the_fastest() {
        let outcome = |chosen: f64, other: f64| Outcome {
            situation: Situation::nearest("tiny", 10),
            chosen: plan(Kind::Search, chosen),
            plans: vec![plan(Kind::Search, chosen), plan(Kind::Btree, other)],
        };
        assert_eq!(outcome(30.0, 15.0).loss(), 2.0);
        assert_eq!(outcome(30.0, 60.0).loss(), 1.0);
        let outcomes = [outcome(30.0, 15.0), outcome(30.0, 25.0)];
        assert_eq!(share_of_good(&outcomes), 0.5);
        let text = report(&tables(false), &outcomes);
        assert!(text.contains("| 50 × 8 | LIMIT 10 |"), "{text}");
        assert!(
            text.contains("0.030 ms (7) | 0.015 ms (7) | – | – | 2.00 **!** |"),
            "{text}"
        );
    }

    #[test]
    fn there_are_enough_situations() {
        for full in [false, true] {
            let count: usize = tables(full).iter().map(|t| situations_of(t).len()).sum();
            assert!(count >= 24, "{count}");
        }
    }
}
