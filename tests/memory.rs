//! Missing memory is an error of one statement, and sessions do not grow.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{Database, Sql, all_found, memory, server, table};
use distillvq_harness::installation::output;
use distillvq_harness::{Embedding, Metric, Vectors};
use postgres::Client;

const MB: u64 = 1 << 20;

/// A database with a table of 2,000 vectors of 256 dimensions, 2 MB.
fn items(name: &str) -> (Database, Vectors) {
    let mut db = Database::new(name);
    let vectors = Vectors::clustered(2_000, 256, 20, 3);
    table(&mut db, "items", "vector", &vectors);
    (db, vectors)
}

/// Limits the memory that a session's process may map to what it has and so much more; `None` lifts the limit.
fn limit(session: &mut Client, more: Option<u64>) {
    let process: i32 = session.one("SELECT pg_backend_pid()");
    let most = more.map_or("unlimited".to_owned(), |more| {
        let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmSize:"))
            .unwrap();
        let now: u64 = line.split_whitespace().next().unwrap().parse().unwrap();
        (now * 1_024 + more).to_string()
    });
    let process = process.to_string();
    // By the server's own user, who may lower the soft limit and raise it again.
    let mut prlimit = server().installation().server_command("/usr/bin/env");
    prlimit.args(["prlimit", "--pid", &process, &format!("--as={most}:")]);
    output(&mut prlimit).unwrap();
}

/// Runs a statement with little memory more than a fresh session has. The SQLSTATE of the error, if it is one; an end of
/// the session fails.
fn with_only(db: &Database, more: u64, settings: &str, sql: &str) -> Option<String> {
    let mut session = db.session();
    // The libraries first: what they need is not the question.
    session.run(&format!("LOAD 'vector'; LOAD 'distillvq'; {settings}"));
    limit(&mut session, Some(more));
    let outcome = session.batch_execute(sql);
    let state = outcome.err().map(|error| {
        let state = error.code().map(|state| state.code().to_owned());
        state.unwrap_or_else(|| panic!("{sql} with {more} bytes ended the session: {error}"))
    });
    limit(&mut session, None);
    assert_eq!(session.one::<i32>("SELECT 1"), 1);
    state
}

/// Runs a statement with more and more memory: it must fail for want of it first, and succeed in the end.
fn swept(db: &Database, settings: &str, sql: &str, undo: &str) {
    let mut states = Vec::new();
    for more in [1, 8, 24, 48, 128, 1_024] {
        let state = with_only(db, more * MB, settings, sql);
        if state.is_none() {
            db.session().run(undo);
        }
        states.push(state.unwrap_or_default());
    }
    println!("{sql}: {states:?}");
    let scarce = |state: &String| state.starts_with("53");
    assert!(
        states.iter().all(|state| state.is_empty() || scarce(state)),
        "{states:?}"
    );
    assert_eq!(states[0], "53200");
    assert_eq!(states[states.len() - 1], "");
}

#[test]
fn a_build_without_memory_is_an_error() {
    let (mut db, vectors) = items("build");
    let settings = "SET maintenance_work_mem = '1GB'; SET max_parallel_maintenance_workers = 1";
    let build = "CREATE INDEX one ON items USING distillvq (embedding)";
    swept(&db, settings, build, "DROP INDEX one");
    db.run(build);
    all_found(&mut db, "items", Metric::L2, vectors.row(0));
}

#[test]
fn a_training_without_memory_is_an_error() {
    let (mut db, _) = items("training");
    let settings = "SET maintenance_work_mem = '1GB'; SET max_parallel_maintenance_workers = 1";
    let train = "SELECT distillvq_train('items', 'embedding', 'm', metric => 'l2')";
    swept(&db, settings, train, "");
    db.run("CREATE INDEX one ON items USING distillvq (embedding)");
    swept(&db, settings, "SELECT distillvq_train('one')", "");
}

#[test]
fn a_model_without_memory_is_an_error() {
    let (mut db, vectors) = items("model");
    db.run(
        "SELECT distillvq_train('items', 'embedding', 'm', metric => 'l2', lists => 900);
         CREATE TABLE exported AS SELECT distillvq_export_model('m') AS body;
         CREATE INDEX one ON items USING distillvq (embedding) WITH (model = m)",
    );
    let query = common::literal(vectors.row(0));
    let search = format!("SELECT id FROM items ORDER BY embedding <-> {query} LIMIT 5");
    let import = "SELECT distillvq_import_model('n', body, replace => true) FROM exported";
    for (settings, statement) in [("", import), ("SET enable_seqscan = off", &search)] {
        let mut states = Vec::new();
        for more in [1, 2, 3, 4, 6, 8, 12, 16, 24, 512] {
            states.push(with_only(&db, more * MB, settings, statement).unwrap_or_default());
        }
        println!("{}: {states:?}", &statement[..30]);
        let fine = |state: &String| state.is_empty() || state == "53200";
        assert!(states.iter().all(fine), "{states:?}");
        assert_eq!((states[0].as_str(), states[9].as_str()), ("53200", ""));
    }
}

#[test]
fn a_check_without_memory_is_an_error() {
    let (mut db, _) = items("verification");
    db.run("CREATE INDEX one ON items USING distillvq (embedding) WITH (lists = 900)");
    let check = "SELECT * FROM distillvq_check('one', heap => true)";
    for more in [1, 2, 4, 8, 16, 32, 256] {
        let state = with_only(&db, more * MB, "", check);
        println!("check with {more} MB: {state:?}");
        assert!(state.is_none_or(|state| state == "53200"));
    }
}

#[test]
fn very_many_queries_leave_a_session_as_it_was() {
    let mut db = Database::new("queries");
    let vectors = Vectors::clustered(2_000, 16, 20, 4);
    table(&mut db, "items", "vector", &vectors);
    db.run("CREATE INDEX one ON items USING distillvq (embedding)");
    let mut session = db.session();
    session.run("SET enable_seqscan = off; SET enable_sort = off");
    let statement = session
        .prepare("SELECT id FROM items ORDER BY embedding <-> $1 LIMIT 10")
        .unwrap();
    let run = |session: &mut Client, count: usize| {
        for number in 0..count {
            let query = Embedding(vectors.row(number % vectors.rows()));
            assert_eq!(session.query(&statement, &[&query]).unwrap().len(), 10);
        }
    };
    run(&mut session, 1_000);
    let before = memory(&mut session);
    run(&mut session, 20_000);
    let grown = memory(&mut session) - before;
    assert!(grown < 1 << 20, "{grown} bytes more after 20,000 queries");
    // Rescans of one statement: what each of them kept would only be given back at its end.
    let rescans = |session: &mut Client, outer: usize| {
        session.run(&format!(
            "DO $$ BEGIN PERFORM count(*) FROM (SELECT * FROM items LIMIT {outer}) q, LATERAL
                 (SELECT id FROM items i ORDER BY i.embedding <-> q.embedding LIMIT 5) s; END $$"
        ));
        memory(session)
    };
    let few = rescans(&mut session, 50);
    let many = rescans(&mut session, 2_000);
    assert!(
        many - few < 1 << 20,
        "{few} bytes after 50 rescans, {many} after 2,000"
    );
}

/// A search that has to look at all rows, by codes or without, takes as much memory as the settings say and no more.
#[test]
fn searches_keep_within_work_mem() {
    let mut db = Database::new("search_memory");
    db.run(
        "CREATE TABLE plain (id bigint, embedding vector(4)); CREATE INDEX plain_idx ON plain USING distillvq (embedding)
             WITH (auto_train = off);
         SELECT setseed(0.5);
         INSERT INTO plain SELECT id, ARRAY[random(), random(), random(), random()]::vector FROM generate_series(1, 300000) AS id;
         CREATE TABLE coarse AS SELECT * FROM plain;
         CREATE INDEX coarse_idx ON coarse USING distillvq (embedding) WITH (lists = 8, subquantizers = 1)",
    );
    db.run_each(&["VACUUM ANALYZE plain", "VACUUM ANALYZE coarse"]);
    let little = "SET enable_seqscan = off; SET enable_sort = off; SET work_mem = '64kB'";
    let order = "ORDER BY embedding <-> '[0.5,0.2,0.4,0.7]'";
    for name in ["plain", "coarse"] {
        let ten = format!("SELECT id FROM {name} {order} LIMIT 10");
        assert_eq!(with_only(&db, 4 * MB, little, &ten), None, "{name}");
        // A filter that no row passes.
        let none = format!("SELECT id FROM {name} WHERE id < 0 {order} LIMIT 10");
        let more = little.replace("64kB", "4MB");
        assert_eq!(with_only(&db, 16 * MB, &more, &none), None, "{name}");
    }
    let none = format!("SELECT id FROM plain WHERE id < 0 {order}");
    let state = with_only(&db, 4 * MB, little, &none);
    assert_eq!(state.as_deref(), Some("53200"));
    // More rows than there is room for are still all returned, in order, by further passes over them.
    let unordered = format!(
        "SELECT format('%s %s', count(*), count(*) FILTER (WHERE d < before)) FROM
         (SELECT d, lag(d) OVER () AS before FROM
          (SELECT embedding <-> '[0.5,0.2,0.4,0.7]' AS d FROM plain {order} LIMIT 20000) near OFFSET 0) near"
    );
    db.run(little);
    assert_eq!(db.one::<String>(&unordered), "20000 0");
    db.run("SET distillvq.iterative_scan = relaxed_order; SET distillvq.probes = 1");
    let refusal = db.refusal(&format!(
        "SELECT count(*) FROM (SELECT id FROM coarse {order} OFFSET 0) all_rows"
    ));
    assert_eq!(refusal.state, "53200", "{refusal:?}");
    assert!(refusal.hint.contains("work_mem"), "{refusal:?}");
}
