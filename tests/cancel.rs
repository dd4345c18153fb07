//! Builds, trainings, searches, and changes can be canceled, soon and without leftovers.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use common::{Database, Sql, all_found, server, wait_for};
use distillvq_harness::{DataSet, Metric, Vectors};
use postgres::Client;

/// The most that a statement may run on after its end was asked for.
const LATEST: Duration = Duration::from_millis(500);

/// Sets a time limit and runs a statement; returns how late it stopped, or none if it was done before.
#[track_caller]
fn late(client: &mut Client, limit: Duration, sql: &str) -> Option<Duration> {
    client.run(&format!(
        "SET statement_timeout = '{}ms'",
        limit.as_millis()
    ));
    let start = Instant::now();
    let outcome = client.batch_execute(&format!("BEGIN; {sql}"));
    let elapsed = start.elapsed();
    client.run("ROLLBACK; RESET statement_timeout");
    let error = outcome.err()?;
    assert_eq!(
        error.code().map(|state| state.code()),
        Some("57014"),
        "{sql} after {elapsed:?}: {error}"
    );
    Some(elapsed.saturating_sub(limit))
}

/// A database with documents enough to take seconds.
fn documents(name: &str) -> Database {
    Database::of_items(name, &DataSet::shipped().unwrap().documents.slice(0..3_000))
}

/// Relation files of the database.
fn files(client: &mut Client) -> BTreeSet<String> {
    client.run("CHECKPOINT");
    let oid: u32 = client.one("SELECT oid FROM pg_database WHERE datname = current_database()");
    let directory = server().data().join(format!("base/{oid}"));
    fs::read_dir(directory)
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().into_string().ok())
        .filter(|name| !name.contains('_')) // free-space and visibility maps come with time
        .collect()
}

/// Threads of a session's process.
fn threads(process: i32) -> usize {
    fs::read_dir(format!("/proc/{process}/task")).map_or(1, Iterator::count)
}

#[test]
fn a_build_stops_in_time_and_leaves_nothing() {
    let mut db = documents("timeout");
    let build = "CREATE INDEX one ON items USING distillvq (embedding vector_cosine_ops)";
    let before = files(&mut db);
    let process: i32 = db.one("SELECT pg_backend_pid()");
    let single = threads(process);
    stops_in_time(&mut db, build);
    wait_for("the end of all threads", || threads(process) == single);
    assert_eq!(
        db.one::<i64>("SELECT count(*) FROM pg_class WHERE relname = 'one'"),
        0
    );
    assert_eq!(files(&mut db), before, "no file is left");
    db.run(&format!("{build} WITH (lists = 10, subquantizers = 8)"));
}

#[test]
fn a_training_stops_in_time_and_leaves_nothing() {
    let mut db = documents("training");
    stops_in_time(&mut db, "SELECT distillvq_train('items', 'embedding', 'm')");
    assert_eq!(db.one::<i64>("SELECT count(*) FROM distillvq_models"), 0);
}

#[test]
fn a_training_in_place_stops_in_time_and_leaves_a_sound_index() {
    let mut db = documents("in_place");
    db.run("CREATE INDEX one ON items USING distillvq (embedding vector_cosine_ops)");
    let query = DataSet::shipped().unwrap().test.slice(0..1);
    stops_in_time(&mut db, "SELECT distillvq_train('one')");
    all_found(&mut db, "items", Metric::Cosine, query.row(0));
    db.run("SELECT distillvq_train('one', seed => 9)");
}

#[test]
fn a_calibration_stops_in_time() {
    let mut db = documents("calibrated");
    db.run("CREATE INDEX one ON items USING distillvq (embedding vector_cosine_ops)");
    stops_in_time(&mut db, "SELECT distillvq_calibrate('one')");
}

#[test]
fn a_check_stops_in_time() {
    let mut db = documents("checked");
    db.run("CREATE INDEX one ON items USING distillvq (embedding vector_cosine_ops)");
    stops_in_time(&mut db, "SELECT distillvq_check('one', heap => true)");
}

/// Runs a statement to its end once, and then into time limits all over that time.
#[track_caller]
fn stops_in_time(client: &mut Client, sql: &str) {
    let start = Instant::now();
    client.run(&format!("BEGIN; {sql}; ROLLBACK"));
    let whole = start.elapsed();
    let shares = [1, 3, 8, 15, 30, 50, 80];
    let stopped = shares.iter().filter(|&&share| {
        let limit = (whole * share / 100).max(Duration::from_millis(5));
        let late = late(client, limit, sql);
        assert!(
            late.is_none_or(|late| late <= LATEST),
            "{late:?} after {limit:?} of {whole:?}"
        );
        late.is_some()
    });
    let stopped = stopped.count();
    assert!(stopped >= 4, "{stopped}");
}

/// Ends a build while it trains, by this function, and returns how long that took.
#[track_caller]
fn end_a_build(db: &Database, boss: &mut Client, order: &str, state: &str) -> Duration {
    let mut session = db.session();
    let process: i32 = session.one("SELECT pg_backend_pid()");
    let build = thread::spawn(move || {
        session.batch_execute("CREATE INDEX one ON items USING distillvq (embedding vector_ip_ops)")
    });
    let progress =
        "SELECT count(*) FROM pg_stat_progress_create_index WHERE phase LIKE '%training%'";
    wait_for("a training", || boss.one::<i64>(progress) == 1);
    let start = Instant::now();
    boss.run(&format!("SELECT {order}({process})"));
    let error = build.join().unwrap().unwrap_err();
    let late = start.elapsed();
    let code = error.code().map(|state| state.code());
    // A client may notice that the session is over before it has read why.
    let over = state == "57P01" && code.is_none() && error.is_closed();
    assert!(over || code == Some(state), "{error:?}");
    late
}

#[test]
fn a_build_can_be_canceled_and_its_session_ended() {
    let db = documents("canceled");
    let mut boss = db.session();
    for (order, state) in [
        ("pg_cancel_backend", "57014"),
        ("pg_terminate_backend", "57P01"),
    ] {
        // Other load only ever adds to the time: the best of some rounds counts.
        let late = (0..3)
            .map(|_| end_a_build(&db, &mut boss, order, state))
            .find(|late| *late <= LATEST);
        assert!(late.is_some(), "{order}");
    }
    assert_eq!(
        boss.one::<i64>("SELECT count(*) FROM pg_class WHERE relname = 'one'"),
        0
    );
}

#[test]
fn a_search_can_be_canceled() {
    let mut db = documents("search");
    db.run("CREATE INDEX one ON items USING distillvq (embedding) WITH (lists = 20, subquantizers = 16)");
    db.run("SET enable_seqscan = off; SET enable_sort = off");
    let distance = "embedding <-> (SELECT embedding FROM items LIMIT 1)";
    let all = format!(
        "SELECT count(*) FROM (SELECT a.id FROM generate_series(1, 1000) n,
                       LATERAL (SELECT id FROM items ORDER BY {distance}, n OFFSET 0) a) s"
    );
    let late = late(&mut db, Duration::from_millis(100), &all);
    assert!(late.is_some_and(|late| late <= LATEST), "{late:?}");
    all_found(&mut db, "items", Metric::L2, &[0.5; 384]);
}

#[test]
fn errors_caught_in_a_loop_leave_nothing() {
    let mut db = Database::of_items("caught", &Vectors::clustered(1_200, 8, 10, 6));
    db.run("CREATE INDEX one ON items USING distillvq (embedding); SET enable_seqscan = off");
    db.run(
        "DO $$ DECLARE found record; BEGIN
             FOR i IN 1..300 LOOP
                 BEGIN
                     FOR found IN SELECT id FROM items ORDER BY embedding <-> '[1,2,3,4,5,6,7,8]' LOOP
                         PERFORM id FROM items ORDER BY embedding <-> '[1,2,3]' LIMIT 1;
                     END LOOP;
                     RAISE 'not reached';
                 EXCEPTION WHEN data_exception THEN
                     INSERT INTO items VALUES (10000 + i, '[1,2,3,4,5,6,7,8]');
                 END;
             END LOOP;
         END $$",
    );
    all_found(&mut db, "items", Metric::L2, &[0.0; 8]);
    assert_eq!(
        db.one::<i64>("SELECT count(*) FROM items WHERE id >= 10000"),
        300
    );
}

#[test]
fn inserts_and_vacuums_can_be_canceled() {
    let mut db = documents("changes");
    db.run("CREATE INDEX one ON items USING distillvq (embedding) WITH (lists = 30, subquantizers = 32)");
    db.run("CREATE TABLE spare AS SELECT id + 10000 AS id, embedding FROM items");
    let mut interrupted = 0;
    for limit in [5, 15, 40, 80, 150] {
        let limit = Duration::from_millis(limit);
        let late = late(&mut db, limit, "INSERT INTO items TABLE spare");
        assert!(
            late.is_none_or(|late| late <= LATEST),
            "{late:?} after {limit:?}"
        );
        interrupted += usize::from(late.is_some());
        db.run("DELETE FROM items WHERE id IN (SELECT id FROM items WHERE id < 10000 ORDER BY random() LIMIT 300)");
        db.run(&format!(
            "SET statement_timeout = '{}ms'",
            limit.as_millis()
        ));
        let _ = db.batch_execute("VACUUM items"); // done or canceled
        db.run("RESET statement_timeout");
        all_found(&mut db, "items", Metric::L2, &[0.1; 384]);
    }
    assert!(interrupted >= 2, "{interrupted}");
    db.run("VACUUM items");
    let counts = "SELECT count(DISTINCT reltuples) FROM pg_class WHERE relname IN ('one', 'items')";
    assert_eq!(db.one::<i64>(counts), 1);
}

#[test]
fn a_cancel_tells_no_backtrace() {
    let mut db = documents("backtrace");
    db.run("SET statement_timeout = '50ms'");
    for sql in [
        "SELECT distillvq_train('items', 'embedding', 'm')",
        "CREATE INDEX one ON items USING distillvq (embedding)",
    ] {
        let error = db.batch_execute(sql).unwrap_err();
        let error = error.as_db_error().unwrap();
        assert_eq!(
            (error.code().code(), error.detail()),
            ("57014", None),
            "{sql}"
        );
    }
}
