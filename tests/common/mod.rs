//! Shared by the server tests: one server per test binary, one database per test, searches with and without the index.
#![allow(dead_code)] // each test binary uses its part

use std::ops::{Deref, DerefMut};
use std::process::Output;
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use distillvq_harness::process_tree::private_memory;
use distillvq_harness::server::complaints;
use distillvq_harness::{Error, Metric, Server, Vectors, load};
use postgres::Client;
use postgres::types::FromSqlOwned;

/// Settings of a test's server: errors are logged with their SQLSTATE, which [`undamaged`] looks for; autovacuum does not
/// interfere, but is on, because without it CREATE INDEX leaves a table's statistics alone; nothing waits for ever.
pub const SETTINGS: [(&str, &str); 2] = [
    ("log_line_prefix", "%m [%p] %e %q%d "),
    ("autovacuum_naptime", "1d"),
];

/// `distillvq.probes` that means all lists.
pub const ALL: i32 = 32_768;

/// The server that all tests of a binary share.
pub fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| Server::start_with(env!("CARGO_CRATE_NAME"), &SETTINGS).unwrap())
}

/// A test's database, with the extension. Its end checks that the server is [`healthy`], the database [`undamaged`], and
/// every index [`verified`].
pub struct Database {
    /// Its name.
    pub name: String,
    /// Whether the test damages something itself, so that the log may say so.
    pub damaged: bool,
    client: Client,
}

impl Database {
    /// Makes it on the shared server.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            damaged: false,
            client: server().database(name).unwrap(),
        }
    }

    /// Makes it with this encoding.
    pub fn of_encoding(name: &str, encoding: &str) -> Self {
        server().connect().unwrap().run(&format!(
            "CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0"
        ));
        let mut client = server().connect_to(name).unwrap();
        client.run("CREATE EXTENSION distillvq CASCADE");
        Self {
            name: name.into(),
            damaged: false,
            client,
        }
    }

    /// Makes it with a table `items` of vectors.
    pub fn of_items(name: &str, vectors: &Vectors) -> Self {
        let mut db = Self::new(name);
        table(&mut db, "items", "vector", vectors);
        db
    }

    /// Another session.
    pub fn session(&self) -> Client {
        server().connect_to(&self.name).unwrap()
    }

    /// A session of another role, which is made if need be; it has no rights but those of everybody.
    pub fn session_of(&mut self, role: &str) -> Client {
        self.run(&format!(
            "DO $$ BEGIN CREATE ROLE {role} LOGIN; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$"
        ));
        let mut session = self.session();
        session.run(&format!("SET SESSION AUTHORIZATION {role}"));
        session
    }

    /// Runs statements in `psql` and returns the notices and warnings.
    pub fn notices(&self, sql: &str) -> String {
        let mut psql = server().command("psql");
        psql.env("PGCLIENTENCODING", "UTF8").args([
            "-XAtq",
            "-v",
            "ON_ERROR_STOP=1",
            "-d",
            &self.name,
            "-c",
            sql,
        ]);
        let Output { status, stderr, .. } = psql.output().unwrap();
        let stderr = String::from_utf8(stderr).unwrap();
        assert!(status.success(), "{sql}: {stderr}");
        stderr
    }
}

impl Deref for Database {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl DerefMut for Database {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if !thread::panicking() {
            let log = server().log().unwrap();
            healthy(&log);
            if !self.damaged {
                verified(&mut self.session());
                undamaged(&server().log().unwrap(), &self.name);
            }
        }
    }
}

/// Whether the server can be made to forget pages, so that what is done to a file behind its back is seen.
pub fn can_evict() -> bool {
    server().installation().version() >= 17
}

/// Whether the server has a contrib module. A server of the newest version must have it; for an older one without it, says so.
pub fn has_module(name: &str) -> bool {
    let sql = format!("SELECT count(*) > 0 FROM pg_available_extensions WHERE name = '{name}'");
    let newest = server().installation().version() >= 18;
    let has = newest || server().connect().unwrap().one(&sql);
    if !has {
        eprintln!("not tested: this server has no {name}");
    }
    has
}

/// Takes the pages of an index out of the server's memory.
#[track_caller]
pub fn evict(client: &mut Client, index: &str) {
    client.run(&format!(
        "CREATE EXTENSION IF NOT EXISTS pg_buffercache; CHECKPOINT;
         SELECT pg_buffercache_evict(bufferid) FROM pg_buffercache WHERE relfilenode = pg_relation_filenode('{index}')"
    ));
}

/// Fails if the extension finds a problem in any valid index of a database, or in what it has of its table's rows. Tests drop
/// models that indexes name.
#[track_caller]
pub fn verified(client: &mut Client) {
    let schemas: Vec<String> = client.column(
        "SELECT extnamespace::regnamespace::text FROM pg_extension WHERE extname = 'distillvq'",
    );
    client.run("SET lock_timeout = '20s'");
    for schema in schemas {
        let problems: Vec<String> = client.column(&format!(
            "SELECT format('%s, block %s: %s', c.oid::regclass, found.block, found.problem)
             FROM pg_class c JOIN pg_am a ON a.oid = c.relam JOIN pg_index i ON i.indexrelid = c.oid,
                 LATERAL {schema}.distillvq_check(c.oid, heap => true) found
             WHERE a.amname = 'distillvq' AND c.relkind = 'i' AND i.indisvalid AND c.relpersistence <> 't'
                 AND found.problem NOT LIKE 'model %does not exist%'"
        ));
        assert!(problems.is_empty(), "{}", problems.join("\n"));
    }
    client.run("RESET lock_timeout");
}

/// Fails if a server's log tells of a crash or of something that was not released.
pub fn healthy(log: &str) {
    undamaged(log, "-");
}

/// Fails if a server's log tells of that, or of an internal error or a damaged index in a database.
pub fn undamaged(log: &str, database: &str) {
    let mut lines = complaints(log, database);
    lines.truncate(20);
    assert!(
        lines.is_empty(),
        "the server's log says:\n{}",
        lines.join("\n")
    );
}

/// What the server says when it refuses a statement.
#[derive(Debug)]
pub struct Refusal {
    /// SQLSTATE.
    pub state: String,
    /// The message.
    pub message: String,
    /// The hint, empty if there is none.
    pub hint: String,
}

/// Statements in few words. They fail with the server's message at the line of the test.
pub trait Sql {
    /// Runs statements, in one transaction as far as they do not say otherwise.
    #[track_caller]
    fn run(&mut self, sql: &str);

    /// Runs statements one by one, each in a transaction of its own: VACUUM insists.
    #[track_caller]
    fn run_each(&mut self, statements: &[&str]);

    /// The first column of a query's rows.
    #[track_caller]
    fn column<T: FromSqlOwned>(&mut self, sql: &str) -> Vec<T>;

    /// The only value of a query.
    #[track_caller]
    fn one<T: FromSqlOwned>(&mut self, sql: &str) -> T;

    /// Runs statements of which the last must be refused.
    #[track_caller]
    fn refusal(&mut self, sql: &str) -> Refusal;

    /// The plan of a query, without costs; long lines are cut.
    #[track_caller]
    fn plan(&mut self, sql: &str) -> String;
}

impl Sql for Client {
    fn run(&mut self, sql: &str) {
        if let Err(error) = self.batch_execute(sql) {
            panic!("{}: {:?}", short(sql), Error::from(error));
        }
    }

    fn run_each(&mut self, statements: &[&str]) {
        for statement in statements {
            self.run(statement);
        }
    }

    fn column<T: FromSqlOwned>(&mut self, sql: &str) -> Vec<T> {
        match self.query(sql, &[]) {
            Ok(rows) => rows.iter().map(|row| row.get(0)).collect(),
            Err(error) => panic!("{}: {:?}", short(sql), Error::from(error)),
        }
    }

    fn one<T: FromSqlOwned>(&mut self, sql: &str) -> T {
        let mut values = self.column(sql);
        assert_eq!(values.len(), 1, "rows of {}", short(sql));
        values.remove(0)
    }

    fn refusal(&mut self, sql: &str) -> Refusal {
        let Err(error) = self.batch_execute(sql) else {
            panic!("was not refused: {}", short(sql));
        };
        match error.as_db_error() {
            Some(db) => Refusal {
                state: db.code().code().into(),
                message: db.message().into(),
                hint: db.hint().unwrap_or_default().into(),
            },
            None => panic!("{}: {:?}", short(sql), Error::from(error)),
        }
    }

    fn plan(&mut self, sql: &str) -> String {
        let lines: Vec<String> = self.column(&format!("EXPLAIN (COSTS OFF) {sql}"));
        let cut: Vec<String> = lines.iter().map(|line| short(line)).collect();
        cut.join("\n")
    }
}

fn short(sql: &str) -> String {
    let text: String = sql.chars().take(160).collect();
    if text.len() < sql.len() {
        text + "…"
    } else {
        text
    }
}

/// A vector as SQL text, with its quotes.
pub fn literal(vector: &[f32]) -> String {
    let values: Vec<String> = vector.iter().map(f32::to_string).collect();
    format!("'[{}]'", values.join(","))
}

/// Makes a table `(id bigint, embedding KIND(dim))` with these vectors; a row's number is its id.
#[track_caller]
pub fn table(client: &mut Client, name: &str, kind: &str, vectors: &Vectors) {
    let dim = vectors.dim();
    client.run(&format!(
        "CREATE TABLE {name} (id bigint, embedding {kind}({dim}))"
    ));
    load::copy_vectors(client, name, vectors).unwrap();
}

/// A search: the ids and distances of the rows of a table in the order of the distance. `rest` may hold a LIMIT.
pub fn search(table: &str, metric: Metric, query: &[f32], rest: &str) -> String {
    let (operator, query) = (metric.operator(), literal(query));
    format!(
        "SELECT id, embedding {operator} {query} FROM {table} ORDER BY embedding {operator} {query} {rest}"
    )
}

/// Ids and distances.
pub type Found = Vec<(i64, f64)>;

/// Runs a search that must use an index, whatever the planner would prefer.
#[track_caller]
pub fn by_index(client: &mut Client, sql: &str) -> Found {
    client.run("SET enable_seqscan = off; SET enable_sort = off; SET enable_bitmapscan = off");
    let plan = client.plan(sql);
    let sorts = plan
        .lines()
        .any(|line| line.trim_start_matches([' ', '-', '>']).eq("Sort"));
    assert!(plan.contains("Index Scan using") && !sorts, "{plan}");
    let found = found(client, sql);
    client.run("RESET enable_seqscan; RESET enable_sort; RESET enable_bitmapscan");
    found
}

/// Runs a search without any index: the truth.
#[track_caller]
pub fn by_table(client: &mut Client, sql: &str) -> Found {
    client.run("RESET enable_seqscan; SET enable_indexscan = off; SET enable_bitmapscan = off");
    let plan = client.plan(sql);
    assert!(!plan.contains("Index Scan"), "{plan}");
    let found = found(client, sql);
    client.run("RESET enable_indexscan; RESET enable_bitmapscan");
    found
}

#[track_caller]
fn found(client: &mut Client, sql: &str) -> Found {
    match client.query(sql, &[]) {
        Ok(rows) => rows.iter().map(|row| (row.get(0), row.get(1))).collect(),
        Err(error) => panic!("{}: {:?}", short(sql), Error::from(error)),
    }
}

/// The ids in ascending order.
pub fn ids(found: &[(i64, f64)]) -> Vec<i64> {
    let mut ids: Vec<i64> = found.iter().map(|&(id, _)| id).collect();
    ids.sort_unstable();
    ids
}

/// Fails unless the distances never decrease and no id comes twice.
#[track_caller]
pub fn in_order(found: &[(i64, f64)]) {
    for pair in found.windows(2) {
        assert!(pair[0].1 <= pair[1].1, "out of order: {pair:?}");
    }
    let mut once = ids(found);
    once.dedup();
    assert_eq!(once.len(), found.len(), "ids come twice");
}

/// Whether the server evaluates all of a condition on filter columns by the index. PostgreSQL 15 and 16 do not combine ANY with an
/// ordered scan of an index, and 15 does not recognize the columns of other access methods in conditions that are a boolean.
pub fn is_index_condition(client: &mut Client, condition: &str) -> bool {
    let version: i32 = client.one("SELECT current_setting('server_version_num')::int");
    let has_array = condition.contains("ANY (") || condition.contains(" IN (");
    let is_boolean = ["c0", "NOT c0", "c0 = true", "c0 = false"].contains(&condition)
        || condition.starts_with("c0 IS TRUE")
        || condition.starts_with("c0 IS FALSE");
    (version >= 170_000 || !has_array) && (version >= 160_000 || !is_boolean)
}

/// The share of the true results among those found. A row as near as the last true one counts: ties are no misses.
pub fn recall(found: &[(i64, f64)], truth: &[(i64, f64)]) -> f64 {
    let Some(&(_, radius)) = truth.last() else {
        return 1.0;
    };
    let hits = found
        .iter()
        .filter(|&&(_, distance)| distance <= radius)
        .count();
    hits.min(truth.len()) as f64 / truth.len() as f64
}

/// Mean recall@10 over some queries, with `distillvq.probes` set; fails if any result is out of order or short.
#[track_caller]
pub fn mean_recall(
    client: &mut Client,
    table: &str,
    metric: Metric,
    queries: &Vectors,
    probes: i32,
) -> f64 {
    client.run(&format!("SET distillvq.probes = {probes}"));
    let mut sum = 0.0;
    for query in queries.iter() {
        let sql = search(table, metric, query, "LIMIT 10");
        let (found, truth) = (by_index(client, &sql), by_table(client, &sql));
        in_order(&found);
        assert_eq!(found.len(), truth.len());
        sum += recall(&found, &truth);
    }
    client.run("RESET distillvq.probes");
    sum / queries.rows() as f64
}

/// Fails unless the index returns every row of the table that has a vector exactly once.
#[track_caller]
pub fn all_found(client: &mut Client, table: &str, metric: Metric, query: &[f32]) {
    let sql = search(table, metric, query, "");
    client.run("SET distillvq.iterative_scan = relaxed_order");
    let found = ids(&by_index(client, &sql));
    client.run("RESET distillvq.iterative_scan");
    let truth = client.column::<i64>(&format!(
        "SELECT id FROM {table} WHERE embedding IS NOT NULL ORDER BY id"
    ));
    assert!(found == truth, "{}", difference(&found, &truth));
}

/// Says how two ordered lists of ids differ.
fn difference(found: &[i64], truth: &[i64]) -> String {
    let missing: Vec<_> = truth
        .iter()
        .filter(|id| !found.contains(id))
        .take(10)
        .collect();
    let foreign: Vec<_> = found
        .iter()
        .filter(|id| !truth.contains(id))
        .take(10)
        .collect();
    let (n, m) = (found.len(), truth.len());
    format!("{n} rows found, {m} there; missing: {missing:?}, too many: {foreign:?}")
}

/// Fails unless a search by the index gives the very distances that exact search gives, in order.
#[track_caller]
pub fn exact(client: &mut Client, sql: &str) {
    let (found, truth) = (by_index(client, sql), by_table(client, sql));
    in_order(&found);
    let distances = |found: &[(i64, f64)]| found.iter().map(|&(_, d)| d).collect::<Vec<_>>();
    assert_eq!(distances(&found), distances(&truth), "{}", short(sql));
}

/// Waits until something is so.
#[track_caller]
pub fn wait_for(what: &str, mut so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !so() {
        assert!(
            start.elapsed() < Duration::from_secs(30),
            "waited for {what}"
        );
        thread::sleep(Duration::from_millis(5));
    }
}

/// Clustered vectors, and twenty queries of the same kind.
pub fn vectors_and_queries(rows: usize, dim: usize) -> (Vectors, Vectors) {
    let all = Vectors::clustered(rows + 20, dim, 30, 1);
    (all.slice(0..rows), all.slice(rows..rows + 20))
}

/// A database with a table `items` of that many vectors, and queries.
pub fn items_and_queries(name: &str, rows: usize, dim: usize) -> (Database, Vectors) {
    let mut db = Database::new(name);
    let (vectors, queries) = vectors_and_queries(rows, dim);
    table(&mut db, "items", "vector", &vectors);
    (db, queries)
}

/// A database with a table `items` of 1,200 vectors of 8 dimensions.
pub fn items(name: &str) -> Database {
    Database::of_items(name, &Vectors::clustered(1_200, 8, 10, 6))
}

/// Waits until another session waits for a lock.
#[track_caller]
pub fn wait_for_blocked(client: &mut Client, process: i32) {
    let sql = format!("SELECT cardinality(pg_blocking_pids({process})) > 0");
    wait_for("a blocked session", || client.one(&sql));
}

/// Memory of its own that a session's process has, in bytes.
pub fn memory(client: &mut Client) -> i64 {
    memory_of(client.one("SELECT pg_backend_pid()"))
}

/// Memory of its own that a process has, in bytes; 0 where there is no `/proc`.
pub fn memory_of(process: i32) -> i64 {
    private_memory(process as u32) as i64
}
