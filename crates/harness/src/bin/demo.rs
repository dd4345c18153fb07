//! The demo: loads embeddings into a private server, trains a model, with a query log if there is one, builds an index, prints some
//! results, and compares the index with exact search and with pgvector's indexes. The server keeps running.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use distillvq_harness::compare::{self, Built, Figures, Workload, seconds};
use distillvq_harness::measure::{find_by_id, nearest_by_id};
use distillvq_harness::report::say;
use distillvq_harness::{DataSet, Metric, Provenance, Result, Server, Truth, load};
use postgres::Client;

/// Neighbors per query.
const K: usize = 10;
/// Test queries whose results are shown.
const SHOWN: [usize; 3] = [26, 35, 48];
/// Parameters of hnsw for a better graph than the default ones.
const TUNED_HNSW: &str = "m = 32, ef_construction = 200";
const INDEX: &str = "items_embedding_idx";

/// Shows training, building and searching with real embeddings, and compares with pgvector
#[derive(Parser)]
struct Arguments {
    /// Directory of a data set, instead of the shipped one
    directory: Option<PathBuf>,
    /// Metric: cosine, l2, or ip; by default that of the data set's file metric.txt, or cosine
    #[arg(long)]
    metric: Option<Metric>,
    /// Also measures hnsw with m = 32, ef_construction = 200
    #[arg(long)]
    tuned_hnsw: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    say("reading the embeddings");
    let mut set = match &arguments.directory {
        Some(directory) => DataSet::open(directory)?,
        None => DataSet::shipped()?,
    };
    set.metric = arguments.metric.unwrap_or(set.metric);
    say("starting a private PostgreSQL server");
    let server = start(&set)?;
    let mut client = server.database("demo")?;
    load_tables(&mut client, &set)?;

    say("computing the exact neighbors of the test queries");
    let truth = Truth::new(set.metric, &set.documents, &set.test, K);
    let workload = Workload {
        sql: nearest_by_id("items", "test_queries", set.metric, K),
        queries: set.test.rows(),
        truth: &truth,
    };

    let mut lines = exact(&mut client, &workload)?;
    let peers = peers(&mut client, &workload, &set, arguments.tuned_hnsw)?;
    let (training, built) = distillvq(&mut client, &set)?;
    show(&mut client, &workload, &set)?;
    lines.extend(ours(&mut client, &workload, training, &built)?);
    lines.extend(peers);

    println!("\n{}", compare::table(K, &lines));
    println!(
        "{}: {} rows of {} dimensions, {}, {} test queries, one client. Recall is measured against exact search.",
        set.name,
        set.documents.rows(),
        set.documents.dim(),
        set.metric.title(),
        set.test.rows()
    );
    println!("{}", Provenance::now());
    println!(
        "Build of distillvq: {} for the training, {} for the index.\n",
        seconds(training),
        seconds(built.build)
    );
    println!("The server keeps running until `make clean`. To connect:\n");
    println!("    {} -d demo\n", server.psql_command());
    Ok(())
}

/// A server whose buffers hold the table and its largest index.
fn start(set: &DataSet) -> Result<Server> {
    let buffers = if set.documents.rows() > 50_000 {
        "1GB"
    } else {
        "256MB"
    };
    Server::lasting(
        "demo",
        &[
            ("shared_buffers", buffers),
            ("maintenance_work_mem", "512MB"),
        ],
    )
}

fn load_tables(client: &mut Client, set: &DataSet) -> Result<()> {
    say(&format!(
        "loading {} documents and {} queries",
        set.documents.rows(),
        set.log.rows() + set.test.rows()
    ));
    let dim = set.documents.dim();
    if set.titles.is_empty() {
        load::create_table(client, "items", &set.documents)?;
    } else {
        client.batch_execute(&format!(
            "CREATE TABLE items (id bigint, title text, embedding vector({dim}) NOT NULL)"
        ))?;
        load::copy_titled(client, "items", &set.documents, &set.titles)?;
        client.batch_execute("ALTER TABLE items ADD PRIMARY KEY (id)")?;
    }
    if set.has_log() {
        load::create_table(client, "query_log", &set.log)?;
    }
    load::create_table(client, "test_queries", &set.test)?;
    Ok(client.batch_execute("VACUUM ANALYZE")?)
}

fn exact(client: &mut Client, workload: &Workload<'_>) -> Result<Vec<Figures>> {
    say("exact search: scanning the table");
    // Exact search is slow and its recall known: 100 queries suffice.
    let some = Workload {
        sql: workload.sql.clone(),
        queries: workload.queries.min(100),
        truth: workload.truth,
    };
    let figures = compare::measure(client, &some, None, "")?;
    Ok(vec![Figures {
        index: "none (exact)".into(),
        ..figures
    }])
}

/// Measures pgvector's indexes one at a time, so that the planner has no choice.
fn peers(
    client: &mut Client,
    workload: &Workload<'_>,
    set: &DataSet,
    tuned: bool,
) -> Result<Vec<Figures>> {
    // The square root of the rows is what its documentation advises for larger tables.
    let lists = (set.documents.rows() as f64).sqrt().round();
    let column = format!("(embedding vector_{}_ops)", set.metric.name());
    let ivfflat = format!("items USING ivfflat {column} WITH (lists = {lists})");
    let hnsw = format!("items USING hnsw {column}");
    let tuned_hnsw = format!("{hnsw} WITH ({TUNED_HNSW})");
    let mut lines = peer(
        client,
        workload,
        "pgvector ivfflat",
        &ivfflat,
        "ivfflat.probes",
        &["4", "8", "16", "32"],
    )?;
    let mut graphs = vec![("pgvector hnsw".to_owned(), hnsw)];
    if tuned {
        graphs.push((format!("pgvector hnsw, {TUNED_HNSW}"), tuned_hnsw));
    }
    for (name, definition) in graphs {
        lines.extend(peer(
            client,
            workload,
            &name,
            &definition,
            "hnsw.ef_search",
            &["10", "20", "40", "80", "200", "400", "1000"],
        )?);
    }
    Ok(lines)
}

fn peer(
    client: &mut Client,
    workload: &Workload<'_>,
    name: &str,
    definition: &str,
    setting: &str,
    values: &[&str],
) -> Result<Vec<Figures>> {
    say(&format!("{name}: building the index"));
    let built = compare::build(client, "peer_idx", definition)?;
    say(&format!("{name}: running the test queries"));
    let lines = at_settings(client, workload, name, &built, setting, values)?;
    client.batch_execute("DROP INDEX peer_idx")?;
    Ok(lines)
}

/// Trains a model, with the query log if there is one, and builds an index with it; returns the time of the training and the
/// index.
fn distillvq(client: &mut Client, set: &DataSet) -> Result<(Duration, Built)> {
    let (with, queries) = if set.has_log() {
        (
            "with the query log",
            ", queries => 'query_log', query_column => 'embedding'",
        )
    } else {
        ("without a query log", "")
    };
    say(&format!("distillvq: training a model {with}"));
    let metric = set.metric.name();
    let row = client.query_one(
        &format!(
            "SELECT rows, queries_used, code_recall_before, code_recall_after, seconds
             FROM distillvq_train('items', 'embedding', model => 'demo', metric => '{metric}'{queries})"
        ),
        &[],
    )?;
    let (rows, queries): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
    let (before, after, time): (f32, f32, f32) =
        (row.try_get(2)?, row.try_get(3)?, row.try_get(4)?);
    say(&format!(
        "distillvq: trained on {rows} rows and {queries} queries in {time:.1} s; \
         code recall on held-out queries {before:.3} before distillation, {after:.3} after"
    ));
    say("distillvq: building the index");
    let definition =
        format!("items USING distillvq (embedding vector_{metric}_ops) WITH (model = 'demo')");
    let built = compare::build(client, INDEX, &definition)?;
    Ok((Duration::from_secs_f32(time.max(0.0)), built))
}

fn ours(
    client: &mut Client,
    workload: &Workload<'_>,
    training: Duration,
    built: &Built,
) -> Result<Vec<Figures>> {
    say("distillvq: running the test queries");
    let mut lines = at_settings(
        client,
        workload,
        "distillvq",
        built,
        "distillvq.target_recall",
        &["0.9", "0.95", "0.98", "0.99"],
    )?;
    for line in &mut lines {
        line.build = Some(training + built.build);
    }
    Ok(lines)
}

fn at_settings(
    client: &mut Client,
    workload: &Workload<'_>,
    name: &str,
    built: &Built,
    setting: &str,
    values: &[&str],
) -> Result<Vec<Figures>> {
    values
        .iter()
        .map(|value| {
            let figures = compare::measure(
                client,
                workload,
                Some(built),
                &format!("{setting} = {value}"),
            )?;
            Ok(Figures {
                index: name.to_owned(),
                ..figures
            })
        })
        .collect()
}

/// Prints the titles, if there are any, of the nearest documents of some test queries; `*` marks the document that the query is
/// about.
fn show(client: &mut Client, workload: &Workload<'_>, set: &DataSet) -> Result<()> {
    if set.titles.is_empty() {
        return Ok(());
    }
    let last = SHOWN.into_iter().max().map_or(0, |query| query + 1);
    let found = find_by_id(client, &workload.sql, last.min(workload.queries))?;
    for query in SHOWN {
        let (Some(ids), Some(&label)) = (found.get(query), set.labels.get(query)) else {
            continue;
        };
        println!(
            "\n    nearest to a sentence with \"{}\":",
            title(set, label)
        );
        for id in ids
            .iter()
            .take(5)
            .filter_map(|&id| usize::try_from(id).ok())
        {
            let mark = if id == label { '*' } else { ' ' };
            println!("     {mark} {}", title(set, id));
        }
    }
    println!();
    Ok(())
}

fn title(set: &DataSet, document: usize) -> String {
    let words = set.titles.get(document).map_or("", String::as_str);
    words.chars().take(60).collect()
}
