//! Compares the automatic parameters with a sweep over subquantizers, bits, and lists, at the same measured recall: codes scanned,
//! rows compared, size, and speed.
//!
//! `parameters --help` lists the arguments.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use clap::Parser;
use distillvq_harness::affinity::Together;
use distillvq_harness::compare::{self, Built, megabytes};
use distillvq_harness::measure::{find_by_id, nearest_by_id, time_by_id};
use distillvq_harness::report::SectionArguments;
use distillvq_harness::{DataSet, Error, Metric, Result, Server, Truth, Vectors, load};
use postgres::Client;

/// Neighbors asked for.
const K: usize = 10;
/// Recalls at which indexes are compared.
const TARGETS: [f64; 2] = [0.95, 0.98];
/// Queries that are asked, of the rows' distribution or of a query log.
const QUERIES: usize = 200;
/// Queries whose work is counted.
const COUNTED: usize = 50;
/// How much slower than the best of the sweep the automatic parameters may be, and how much larger.
const SLOWER: f64 = 1.3;
const LARGER: f64 = 2.0;
const DATABASE: &str = "parameters";

const INTRODUCTION: &str = "# Automatic parameters compared with a sweep

`make bench-parameters` writes this page. For each data set, indexes are built with the automatic parameters, with other numbers of
subquantizers and bits, and, for the fastest of these, with half and twice as many lists. Each search uses the fewest
`distillvq.probes` that reach the stated recall@10 against exact search. The query vectors are not in the table, and are not test
queries of the data set. The fastest index of the sweep is marked. The automatic parameters should take at most 1.3 times its time and
at most twice its size. Times are of one client on two cores, and vary by a few percent between runs.
";

/// Compares the automatic parameters with a sweep, and writes a page
#[derive(Parser)]
#[command(after_help = "Generated data sets: words, texts-DIM, points-DIM")]
struct Arguments {
    #[command(flatten)]
    section: SectionArguments,
    /// Number of generated vectors
    #[arg(long, default_value_t = 30_000)]
    rows: usize,
}

/// A table and queries.
struct Set {
    title: String,
    metric: Metric,
    rows: Vectors,
    queries: Vectors,
}

impl Set {
    fn named(name: &str, rows: usize, metric: Option<Metric>) -> Result<Self> {
        let number = |text: &str| {
            let wrong = |_| Error::Argument(format!("{text} is no number of dimensions"));
            text.parse::<usize>().map_err(wrong)
        };
        let (kind, metric, all) = if name == "words" {
            let all = Vectors::like_words(rows + QUERIES, 100, 1);
            ("words'", Metric::Cosine, all)
        } else if let Some(dim) = name.strip_prefix("texts-") {
            let all = Vectors::like_texts(rows + QUERIES, number(dim)?, 1, 0);
            ("texts'", Metric::L2, all)
        } else if let Some(dim) = name.strip_prefix("points-") {
            let all = Vectors::clustered(rows + QUERIES, number(dim)?, 300, 1);
            ("points of a mixture", Metric::L2, all)
        } else {
            return Self::on_disk(Path::new(name), metric);
        };
        Ok(Self {
            title: format!(
                "{rows} vectors like {kind} × {}, {}",
                all.dim(),
                metric.name()
            ),
            metric,
            queries: all.slice(rows..all.rows()),
            rows: all.slice(0..rows),
        })
    }

    /// The documents of a data set, and queries of its log, or test queries if it has no log.
    fn on_disk(directory: &Path, metric: Option<Metric>) -> Result<Self> {
        let set = DataSet::open(directory)?;
        let metric = metric.unwrap_or(set.metric);
        let queries = if set.has_log() { &set.log } else { &set.test };
        if queries.rows() < QUERIES {
            let message = format!("data set {} has fewer than {QUERIES} queries", set.name);
            return Err(Error::Argument(message));
        }
        let (rows, dim) = (set.documents.rows(), set.documents.dim());
        Ok(Self {
            title: format!("{}, {rows} rows × {dim}, {}", set.name, metric.name()),
            metric,
            queries: queries.slice(0..QUERIES),
            rows: set.documents,
        })
    }
}

/// What an index did at a target.
struct Point {
    probes: usize,
    per_second: f64,
    codes: f64,
    compared: f64,
}

/// An index of the sweep.
struct Tried {
    options: String,
    built: Built,
    lists: i32,
    /// None where no number of lists reaches the target.
    points: Vec<Option<Point>>,
}

impl Tried {
    /// Seconds that a query at each of the targets takes on the whole; infinite if one is not reached.
    fn seconds(&self) -> f64 {
        let of =
            |point: &Option<Point>| point.as_ref().map_or(f64::INFINITY, |p| 1.0 / p.per_second);
        self.points.iter().map(of).sum()
    }
}

fn main() -> Result<()> {
    let Arguments {
        section: arguments,
        rows,
    } = Arguments::parse();
    let server = Server::start("parameters")?;
    let mut client = server.database(DATABASE)?;
    let set = Set::named(&arguments.set, rows, arguments.metric)?;
    eprintln!("==> {}", set.title);
    let section = sweep(&server, &mut client, &set)?;
    arguments.page.write(INTRODUCTION, &arguments.set, &section)
}

/// Tries the automatic parameters, then the others.
fn sweep(server: &Server, client: &mut Client, set: &Set) -> Result<String> {
    let dim = set.rows.dim();
    client.batch_execute("SET maintenance_work_mem = '512MB'")?;
    load::create_table(client, "items", &set.rows)?;
    load::create_table(client, "asked", &set.queries)?;
    client.batch_execute("VACUUM ANALYZE items")?;
    client.batch_execute("ANALYZE asked")?;
    let truth = Truth::new(set.metric, &set.rows, &set.queries, K);
    let mut session = server.connect_to(DATABASE)?;
    let mut attempt = |options: &str| tried(client, &mut session, set, &truth, options);
    let automatic = attempt("")?;
    let mut others = Vec::new();
    for bits in [4, 8] {
        let mut shares: Vec<usize> = [8, 4, 2, 1]
            .iter()
            .map(|part| dim.div_ceil(*part))
            .collect();
        shares.dedup();
        let most = if bits == 8 { 239 } else { 478 };
        for subquantizers in shares.into_iter().filter(|m| *m <= most) {
            others.push(attempt(&format!(
                "subquantizers = {subquantizers}, bits = {bits}"
            ))?);
        }
    }
    let fastest = |tried: &[Tried]| {
        let by = |a: &&Tried, b: &&Tried| a.seconds().total_cmp(&b.seconds());
        tried
            .iter()
            .min_by(by)
            .map(|it| (it.options.clone(), it.lists))
    };
    if let Some((options, lists)) = fastest(&others) {
        for lists in [lists / 2, 2 * lists] {
            others.push(attempt(&format!("{options}, lists = {}", lists.max(1)))?);
        }
    }
    Ok(section(set, &automatic, &others))
}

/// Builds an index and measures it.
fn tried(
    client: &mut Client,
    session: &mut Client,
    set: &Set,
    truth: &Truth<'_>,
    options: &str,
) -> Result<Tried> {
    let with = if options.is_empty() {
        String::new()
    } else {
        format!("WITH ({options})")
    };
    client.batch_execute("DROP INDEX IF EXISTS items_idx")?;
    let built = compare::build(
        client,
        "items_idx",
        &format!(
            "items USING distillvq (embedding vector_{}_ops) {with}",
            set.metric.name()
        ),
    )?;
    let lists: i32 = client
        .query_one("SELECT lists FROM distillvq_index_info('items_idx')", &[])?
        .try_get(0)?;
    session.batch_execute("SET enable_seqscan = off; SET enable_sort = off")?;
    let sql = nearest_by_id("items", "asked", set.metric, K);
    let mut points = Vec::new();
    for target in TARGETS {
        let probes = fewest(session, &sql, truth, target, lists as usize)?;
        points.push(match probes {
            Some(probes) => Some(point(session, &sql, probes)?),
            None => None,
        });
    }
    let tried = Tried {
        options: options.to_owned(),
        built,
        lists,
        points,
    };
    eprint!("{}", line(&tried, ""));
    Ok(tried)
}

/// The fewest lists, of steps of a seventh, with which searches reach a recall.
fn fewest(
    client: &mut Client,
    sql: &str,
    truth: &Truth<'_>,
    target: f64,
    lists: usize,
) -> Result<Option<usize>> {
    let mut probes = 1;
    loop {
        client.batch_execute(&format!("SET distillvq.probes = {probes}"))?;
        if truth.recall(&find_by_id(client, sql, QUERIES)?) >= target {
            return Ok(Some(probes));
        }
        if probes >= lists {
            return Ok(None);
        }
        probes = (probes + 1).max(probes * 8 / 7).min(lists);
    }
}

/// Time and work of searches of so many lists.
fn point(client: &mut Client, sql: &str, probes: usize) -> Result<Point> {
    let _together = Together::on(0, client)?;
    let (shortest, longest) = (Duration::from_millis(700), Duration::from_secs(3));
    let timing = time_by_id(client, sql, QUERIES, shortest, longest)?;
    let (mut codes, mut compared) = (0, 0);
    let statement = client.prepare(sql)?;
    for id in 0..COUNTED as i64 {
        client.query(&statement, &[&id])?;
        let row = client.query_one("SELECT codes, reranked FROM distillvq_last_scan()", &[])?;
        codes += row.try_get::<_, i64>(0)?;
        compared += row.try_get::<_, i64>(1)?;
    }
    Ok(Point {
        probes,
        per_second: timing.per_second,
        codes: codes as f64 / COUNTED as f64,
        compared: compared as f64 / COUNTED as f64,
    })
}

fn line(tried: &Tried, mark: &str) -> String {
    let options = match tried.options.as_str() {
        "" => "automatic",
        options => options,
    };
    let mut text = format!(
        "| {options}{mark} | {} | {} | {:.1} s |",
        tried.lists,
        megabytes(tried.built.bytes),
        tried.built.build.as_secs_f64()
    );
    for point in &tried.points {
        let cell = point.as_ref().map_or("not reached | | |".to_owned(), |it| {
            format!(
                "{:.0} ({}) | {:.0} | {:.0} |",
                it.per_second, it.probes, it.codes, it.compared
            )
        });
        let _ = write!(text, " {cell}");
    }
    text + "\n"
}

fn section(set: &Set, automatic: &Tried, others: &[Tried]) -> String {
    let mut text = format!(
        "\n## {}\n\n| parameters | lists | size | build |",
        set.title
    );
    for target in TARGETS {
        let _ = write!(
            text,
            " queries/s at {target:.2} (probes) | codes | rows compared |"
        );
    }
    let _ = writeln!(
        text,
        "\n|---|---|---|---|{}",
        "---|---|---|".repeat(TARGETS.len())
    );
    let best = others
        .iter()
        .map(Tried::seconds)
        .fold(f64::INFINITY, f64::min);
    text.push_str(&line(automatic, ""));
    for tried in others {
        let mark = if tried.seconds() <= best {
            " (fastest)"
        } else {
            ""
        };
        text.push_str(&line(tried, mark));
    }
    let fastest = others.iter().find(|tried| tried.seconds() <= best);
    if let Some(fastest) = fastest {
        let slower = automatic.seconds() / best;
        let larger = automatic.built.bytes as f64 / fastest.built.bytes as f64;
        let held = if slower <= SLOWER && larger <= LARGER {
            "within"
        } else {
            "outside"
        };
        let _ = writeln!(
            text,
            "\nThe automatic parameters take {slower:.2} times the time and {larger:.2} times the size of the fastest: {held} the bounds."
        );
    }
    text
}
