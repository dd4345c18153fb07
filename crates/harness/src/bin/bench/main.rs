//! Recall, speed, size, and build time of distillvq and pgvector's indexes: one table, one server, one run.
//!
//! `bench --help` lists the arguments. Writes JSON lines, from which `benches/speed/report.py` makes tables and a plot. To add an
//! access method, add an entry to [`methods::methods`].

mod methods;

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use distillvq_harness::compare::{Built, build};
use distillvq_harness::measure::{Latencies, find_by_id, require_index, time_by_id};
use distillvq_harness::process_tree::cpu_time;
use distillvq_harness::report::say;
use distillvq_harness::sessions::joined;
use distillvq_harness::{
    DataSet, Error, Metric, Provenance, Result, Server, Stop, Truth, Vectors, load as tables,
};
use postgres::Client;
use serde_json::{Value, json};

use crate::methods::{K, Method, OURS, STAGES_AT, Shape, methods};

/// Clients of the timed runs. Each queries without a pause, so that neither processor of a small machine becomes idle.
const CLIENTS: usize = 2;
/// Clients of the timed inserts.
const WRITERS: [usize; 2] = [1, 8];
/// Sessions at once whose memory is measured.
const SESSIONS: usize = 200;
/// Queries after a restart.
const COLD: usize = 100;
/// The least that any indexed query costs: what is left of a search without its index.
const LOOK_UP: &str = "SELECT id FROM test_queries WHERE id = $1";
const DATABASE: &str = "bench";
const INDEX: &str = "items_idx";

fn main() -> Result<()> {
    bench(&Task::parse())
}

/// Compares distillvq with pgvector's indexes, and writes JSON lines
#[derive(Parser)]
struct Task {
    /// Directory of a data set, instead of generated text-like vectors
    #[arg(long)]
    data: Option<PathBuf>,
    /// Number of generated vectors
    #[arg(long, default_value_t = 100_000)]
    rows: usize,
    /// Dimensions of generated vectors
    #[arg(long, default_value_t = 768)]
    dim: usize,
    /// Metric: cosine, l2, or ip; by default that of the data set's file metric.txt, or cosine
    #[arg(long)]
    metric: Option<Metric>,
    /// Names of the only methods to measure, separated by semicolons
    #[arg(long, value_delimiter = ';')]
    only: Vec<String>,
    /// File of the JSON lines
    #[arg(long)]
    output: PathBuf,
    /// Seconds that each setting is measured
    #[arg(long = "seconds", default_value = "3", value_parser = |text: &str| text.parse().map(Duration::from_secs))]
    time: Duration,
    /// Library built with the feature timing, to report the time of searches by stage
    #[arg(long)]
    timing: Option<PathBuf>,
}

/// Vectors to index, to ask with, to train with, and to insert.
struct Data {
    name: String,
    metric: Metric,
    documents: Vectors,
    test: Vectors,
    log: Option<Vectors>,
}

impl Data {
    fn new(task: &Task) -> Result<Self> {
        let Some(directory) = &task.data else {
            let (rows, dim) = (task.rows, task.dim);
            return Ok(Self {
                name: format!("generated-{rows}x{dim}"),
                metric: task.metric.unwrap_or(Metric::Cosine),
                documents: Vectors::like_texts(rows, dim, 1, 0),
                test: Vectors::like_texts(500, dim, 1, 1),
                log: None,
            });
        };
        let set = DataSet::open(directory)?;
        Ok(Self {
            metric: task.metric.unwrap_or(set.metric),
            log: set.has_log().then_some(set.log),
            name: set.name,
            documents: set.documents,
            test: set.test,
        })
    }
}

fn bench(task: &Task) -> Result<()> {
    say("making or reading the vectors");
    let data = Data::new(task)?;
    let (rows, dim) = (data.documents.rows(), data.documents.dim());
    let bytes = rows * dim * size_of::<f32>();
    let buffers = format!("{}MB", (4 * bytes / 1_000_000).clamp(512, 8_000));
    let mut server = Server::start_with(
        "bench",
        &[
            ("shared_buffers", &buffers),
            ("max_wal_size", "8GB"),
            ("checkpoint_timeout", "1h"),
            ("max_connections", "250"),
        ],
    )?;
    let mut client = server.database(DATABASE)?;
    load_tables(&mut client, &data)?;
    say("exact neighbors of the test queries");
    let truth = Truth::new(data.metric, &data.documents, &data.test, K);
    let mut output = Output(File::create(&task.output).map_err(Error::io(&task.output))?);
    let mut run = json!({
        "kind": "run", "data": data.name, "rows": rows, "dim": dim, "metric": data.metric.title(), "queries": data.test.rows(), "k": K,
        "log": data.log.as_ref().map_or(0, Vectors::rows), "shared_buffers": buffers,
        "server": client.query_one("SHOW server_version", &[])?.try_get::<_, String>(0)?,
        "pgvector": client.query_one("SELECT extversion FROM pg_extension WHERE extname = 'vector'", &[])?.try_get::<_, String>(0)?,
        "processors": thread::available_parallelism().map_or(0, usize::from),
        "look_up": load(&server, "distillvq.probes = 0", LOOK_UP, data.test.rows(), task.time)?.line(),
    });
    run["provenance"] = Provenance::now().json();
    output.line(&run)?;
    drop(client);
    let methods = methods(&Shape {
        rows,
        dim,
        metric: data.metric,
        log: data.log.is_some(),
    });
    let wanted = |method: &&Method| task.only.is_empty() || task.only.contains(&method.name);
    for method in methods.iter().filter(wanted) {
        measure(&mut server, method, task, &data, &truth, &mut output)?;
    }
    Ok(())
}

/// A file of JSON lines.
struct Output(File);

impl Output {
    fn line(&mut self, line: &Value) -> Result<()> {
        println!("    {line}");
        writeln!(self.0, "{line}").map_err(|error| Error::Argument(error.to_string()))
    }
}

fn load_tables(client: &mut Client, data: &Data) -> Result<()> {
    say("loading the tables");
    tables::create_table(client, "items", &data.documents)?;
    tables::create_table(client, "test_queries", &data.test)?;
    if let Some(log) = &data.log {
        tables::create_table(client, "query_log", log)?;
    }
    Ok(client.batch_execute("VACUUM ANALYZE")?)
}

/// Builds the index of a method, turns its knob, restarts the server, inserts; the index is dropped in the end.
fn measure(
    server: &mut Server,
    method: &Method,
    task: &Task,
    data: &Data,
    truth: &Truth<'_>,
    output: &mut Output,
) -> Result<()> {
    say(&format!("{}: building", method.name));
    let name = method.name.as_str();
    let mut client = server.connect_to(DATABASE)?;
    let (built, training, peak) = with_peak_memory(server, || {
        build_index(
            &mut client,
            method,
            3 * data.documents.values().len() * size_of::<f32>() / 1_000_000,
        )
    })?;
    output.line(&json!({
        "kind": "build", "index": name, "bytes": built.bytes, "build_seconds": built.build.as_secs_f64(),
        "training_seconds": training.as_secs_f64(), "peak_bytes": peak,
    }))?;
    let sql = method.query();
    for value in method.values {
        let setting = format!("{} = {value}", method.setting);
        let mut client = session(server, &setting)?;
        require_index(&mut client, &sql, &built.name)?;
        let recall = truth.recall(&find_by_id(&mut client, &sql, data.test.rows())?);
        let mut line =
            json!({ "kind": "point", "index": name, "setting": setting, "recall": recall });
        if method.setting == OURS {
            line["counters"] = counters(&mut client, &sql, data.test.rows())?;
        }
        drop(client);
        line["load"] = load(server, &setting, &sql, data.test.rows(), task.time)?.line();
        output.line(&line)?;
    }
    if let Some(library) = &task.timing
        && method.setting == OURS
    {
        stages(server, method, library, task, data, output)?;
    }
    sessions(server, method, output)?;
    cold(server, method, data, output)?;
    inserts(server, name, data, task.time, output)?;
    let mut client = server.connect_to(DATABASE)?;
    client.batch_execute(&format!(
        "DROP INDEX {INDEX}; DELETE FROM items WHERE id < 0"
    ))?;
    Ok(client.batch_execute("VACUUM items")?)
}

/// Trains, if the method wants it, and builds: the index, and the time of training.
fn build_index(client: &mut Client, method: &Method, memory: usize) -> Result<(Built, Duration)> {
    // Enough for hnsw to build in memory.
    client.batch_execute(&format!(
        "SET maintenance_work_mem = '{}MB'",
        memory.max(2_048)
    ))?;
    let start = Instant::now();
    if !method.prepare.is_empty() {
        client.batch_execute(&method.prepare)?;
    }
    let training = start.elapsed();
    Ok((
        build(client, INDEX, &format!("items {}", method.definition))?,
        training,
    ))
}

/// What `work` gives, and the most memory that the processes of the server used meanwhile, beyond what they had and the
/// server's own shared memory.
fn with_peak_memory<A, B>(
    server: &Server,
    work: impl FnOnce() -> Result<(A, B)>,
) -> Result<(A, B, u64)> {
    let (before, done) = (server.working_memory(), AtomicBool::new(false));
    thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut most = before;
            while !done.load(Ordering::Relaxed) {
                most = most.max(server.working_memory());
                thread::sleep(Duration::from_millis(20));
            }
            Ok(most)
        });
        let result = work();
        done.store(true, Ordering::Relaxed);
        let most = joined(watcher)?;
        result.map(|(a, b)| (a, b, most - before))
    })
}

fn session(server: &Server, setting: &str) -> Result<Client> {
    let mut client = server.connect_to(DATABASE)?;
    client.batch_execute(&format!(
        "SET max_parallel_workers_per_gather = 0; SET enable_seqscan = off; SET {setting}"
    ))?;
    Ok(client)
}

/// What the searches of all queries do, by the counters of distillvq: means per search.
fn counters(client: &mut Client, sql: &str, queries: usize) -> Result<Value> {
    let search = client.prepare(sql)?;
    let done = client.prepare("SELECT probed, codes, reranked FROM distillvq_last_scan()")?;
    let mut sums = [0i64; 3];
    for query in (0i64..).take(queries) {
        client.query(&search, &[&query])?;
        let row = client.query_one(&done, &[])?;
        for (column, sum) in sums.iter_mut().enumerate() {
            *sum += row.try_get::<_, i64>(column)?;
        }
    }
    let [probed, codes, reranked] = sums.map(|sum| sum as f64 / queries.max(1) as f64);
    Ok(json!({ "probed": probed, "codes": codes, "reranked": reranked }))
}

/// What [`CLIENTS`] busy clients together got, and what it took.
#[derive(Default)]
struct Load {
    per_second: f64,
    queries: usize,
    latencies: Latencies,
    /// Processor time of their backends; 0 where the system does not tell.
    cpu: Duration,
}

impl Load {
    fn line(&self) -> Value {
        let each = self.cpu.as_secs_f64() / self.queries.max(1) as f64;
        json!({ "cpu_us": 1e6 * each, "per_second": self.per_second, "latency_us": self.latencies.json() })
    }
}

/// Runs a statement by all clients at once, on whichever processors the system chooses.
fn load(server: &Server, setting: &str, sql: &str, queries: usize, time: Duration) -> Result<Load> {
    let run = || {
        let mut client = session(server, setting)?;
        let backend: i32 = client
            .query_one("SELECT pg_backend_pid()", &[])?
            .try_get(0)?;
        time_by_id(&mut client, sql, queries, Duration::ZERO, time / 10)?;
        let before = cpu_time(backend.cast_unsigned());
        let timing = time_by_id(&mut client, sql, queries, time, time)?;
        Ok::<_, Error>(Load {
            per_second: timing.per_second,
            queries: timing.queries,
            latencies: timing.latencies,
            cpu: cpu_time(backend.cast_unsigned()).saturating_sub(before),
        })
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(run)).collect();
        threads
            .into_iter()
            .map(joined)
            .try_fold(Load::default(), |all, one| {
                let one = one?;
                Ok(Load {
                    per_second: all.per_second + one.per_second,
                    queries: all.queries + one.queries,
                    latencies: all.latencies.merged(one.latencies),
                    cpu: all.cpu + one.cpu,
                })
            })
    })
}

/// Where the time of searches goes, by the library that measures it, which takes the other one's place in this database.
fn stages(
    server: &Server,
    method: &Method,
    library: &Path,
    task: &Task,
    data: &Data,
    output: &mut Output,
) -> Result<()> {
    let copy = server.data().join("timing.so");
    fs::copy(library, &copy).map_err(Error::io(&copy))?;
    let use_library = |from: &str, to: &str| {
        let mut client = server.connect_to(DATABASE)?;
        let sql = "UPDATE pg_proc SET probin = $2 WHERE probin = $1";
        client.execute(sql, &[&from, &to]).map_err(Error::from)
    };
    let (usual, timing) = ("$libdir/distillvq", copy.to_string_lossy());
    use_library(usual, &timing)?;
    for target in STAGES_AT {
        let setting = format!("{} = {target}", method.setting);
        let before = server.log()?.len();
        load(
            server,
            &setting,
            &method.query(),
            data.test.rows(),
            task.time,
        )?;
        let log = || Ok::<_, Error>(server.log()?.split_off(before));
        let found = wait_for(|| Ok(timing_line(&log()?)))?;
        output.line(&json!({
            "kind": "stages", "index": method.name, "setting": setting, "stages": found,
        }))?;
    }
    use_library(&timing, usual)?;
    Ok(())
}

/// What a backend of the timing library has written to the log as it went.
fn timing_line(log: &str) -> Option<Value> {
    let (_, line) = log.rsplit_once("distillvq timing: ")?;
    serde_json::from_str(line.lines().next()?).ok()
}

/// What `look` finds within some seconds.
fn wait_for<T>(look: impl Fn() -> Result<Option<T>>) -> Result<T> {
    for _ in 0..100 {
        if let Some(found) = look()? {
            return Ok(found);
        }
        thread::sleep(Duration::from_millis(50));
    }
    Err(Error::Argument("the server's log tells no times".into()))
}

/// Memory that a session keeps for itself, of many that have searched.
fn sessions(server: &Server, method: &Method, output: &mut Output) -> Result<()> {
    let middle = method.values[method.values.len() / 2];
    let before = server.private_memory();
    let mut clients = Vec::with_capacity(SESSIONS);
    for _ in 0..SESSIONS {
        let mut client = session(server, &format!("{} = {middle}", method.setting))?;
        find_by_id(&mut client, &method.query(), 3)?;
        clients.push(client);
    }
    let each = server.private_memory().saturating_sub(before) / SESSIONS as u64;
    output.line(&json!({
        "kind": "sessions", "index": method.name, "sessions": SESSIONS, "private_bytes": each,
    }))
}

/// The first queries after a restart of the server; the files may still be in the operating system's cache.
fn cold(server: &mut Server, method: &Method, data: &Data, output: &mut Output) -> Result<()> {
    let middle = method.values[method.values.len() / 2];
    server.stop(Stop::Fast)?;
    server.restart()?;
    let mut client = session(server, &format!("{} = {middle}", method.setting))?;
    let sql = method.query();
    let start = Instant::now();
    find_by_id(&mut client, &sql, 1)?;
    let first = start.elapsed();
    let count = COLD.min(data.test.rows());
    find_by_id(&mut client, &sql, count)?;
    let mean = start.elapsed().as_secs_f64() / (count + 1) as f64;
    output.line(&json!({
        "kind": "cold", "index": method.name, "setting": middle, "first_ms": first.as_secs_f64() * 1e3,
        "mean_ms": mean * 1e3,
    }))
}

/// Rows a second that clients insert one by one, each in a transaction of its own.
fn inserts(
    server: &Server,
    name: &str,
    data: &Data,
    time: Duration,
    output: &mut Output,
) -> Result<()> {
    let next = AtomicI64::new(1);
    for writers in WRITERS {
        let before = next.load(Ordering::Relaxed);
        let start = Instant::now();
        let run = || -> Result<()> {
            let mut client = server.connect_to(DATABASE)?;
            // A row of the table, moved a little: queries of other kinds would all go to a few lists.
            let sql = "INSERT INTO items SELECT -$1::bigint, embedding + (SELECT embedding FROM test_queries WHERE id = $2) * \
                       array_fill(0.1, ARRAY[vector_dims(embedding)])::vector FROM items WHERE id = $3";
            let insert = client.prepare(sql)?;
            while start.elapsed() < time {
                let id = next.fetch_add(1, Ordering::Relaxed);
                let query = id % data.test.rows() as i64;
                let row = id * 7919 % data.documents.rows() as i64;
                client.execute(&insert, &[&id, &query, &row])?;
            }
            Ok(())
        };
        thread::scope(|scope| {
            let threads: Vec<_> = (0..writers).map(|_| scope.spawn(run)).collect();
            threads.into_iter().try_for_each(joined)
        })?;
        let rows = (next.load(Ordering::Relaxed) - before) as f64;
        output.line(&json!({
            "kind": "inserts", "index": name, "clients": writers, "per_second": rows / start.elapsed().as_secs_f64(),
        }))?;
    }
    Ok(())
}
