//! Searches leave a sample of their queries in the index, and VACUUM and training learn from it.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::thread;

use common::{
    Database, Sql, by_index, by_table, in_order, recall, search, server, table, undamaged,
    verified, wait_for,
};
use distillvq_harness::query_sets::QuerySet;
use distillvq_harness::{Metric, Server, Stop, Vectors};
use postgres::Client;

/// Searches that fill the sample of a table of [`products`] and more.
const SEARCHES: usize = 400;
const TARGET: f64 = 0.95;

/// A table whose queries are unlike its rows, with an index.
fn products(name: &str, options: &str) -> (Database, QuerySet) {
    let set = QuerySet::named("products", None).unwrap();
    let mut db = Database::of_items(name, &set.rows);
    create(&mut db, options);
    (db, set)
}

fn create(client: &mut Client, options: &str) {
    client.run(&format!(
        "CREATE INDEX one ON items USING distillvq (embedding vector_l2_ops) {options}"
    ));
    client.run("VACUUM ANALYZE items");
}

/// Searches for some of the queries.
#[track_caller]
fn ask(client: &mut Client, queries: &Vectors, numbers: std::ops::Range<usize>) {
    for i in numbers {
        by_index(
            client,
            &search("items", Metric::L2, queries.row(i), "LIMIT 10"),
        );
    }
}

/// A column of `distillvq_index_info`.
fn info<T: postgres::types::FromSqlOwned>(client: &mut Client, column: &str) -> T {
    client.one(&format!("SELECT {column} FROM distillvq_index_info('one')"))
}

fn sampled(client: &mut Client) -> i64 {
    info(client, "sampled_queries")
}

/// Mean recall of the first queries, which are not sampled.
fn measured(client: &mut Client, queries: &Vectors, count: usize) -> f64 {
    client.run("SET distillvq.sample_queries = off");
    let mut sum = 0.0;
    for i in 0..count {
        let sql = search("items", Metric::L2, queries.row(i), "LIMIT 10");
        let (found, truth) = (by_index(client, &sql), by_table(client, &sql));
        in_order(&found);
        sum += recall(&found, &truth);
    }
    client.run("RESET distillvq.sample_queries");
    sum / count as f64
}

#[test]
fn vacuum_calibrates_for_the_queries_of_searches() {
    let (mut db, set) = products("learn", "");
    let before = measured(&mut db, &set.test, 200);
    assert!(before < TARGET - 0.04, "{before}");
    assert_eq!(sampled(&mut db), 0);
    ask(&mut db, &set.log, 0..SEARCHES);
    assert!(sampled(&mut db) >= 150);
    assert_eq!(info::<String>(&mut db, "query_source"), "rows");
    assert_eq!(db.notices("VACUUM items"), "");
    let log = server().log().unwrap();
    let told = [
        "index \"one\" was calibrated again",
        "for a target of 0.95. ",
    ];
    assert!(told.iter().all(|words| log.contains(words)), "{log}");
    assert_eq!(info::<String>(&mut db, "query_source"), "searches");
    let found: f32 = info(&mut db, "recall_before_calibration");
    assert!((f64::from(found) - before).abs() < 0.04, "{found} {before}");
    let after = measured(&mut db, &set.test, 200);
    assert!(after > TARGET - 0.02, "{after}");
    assert_eq!(info::<String>(&mut db, "advice"), "ok");
    // Nothing new, nothing to do.
    let calibration: String = info(&mut db, "calibration::text");
    assert_eq!(db.notices("VACUUM items"), "");
    assert_eq!(info::<String>(&mut db, "calibration::text"), calibration);
}

#[test]
fn queries_of_another_kind_are_noticed() {
    let (mut db, set) = products("change", "");
    ask(&mut db, &set.log, 0..SEARCHES);
    db.run("VACUUM items");
    let codes = |db: &mut Database| {
        let sql = search("items", Metric::L2, set.like_rows.row(0), "LIMIT 10");
        by_index(db, &sql);
        db.one::<i64>("SELECT codes FROM distillvq_last_scan()")
    };
    let before = codes(&mut db);
    ask(&mut db, &set.like_rows, 0..SEARCHES);
    db.run("VACUUM items");
    let found: f32 = info(&mut db, "recall_before_calibration");
    assert!(found > 0.97, "{found}");
    assert!(codes(&mut db) < before);
    // More of the same changes nothing.
    let calibration: String = info(&mut db, "calibration::text");
    ask(&mut db, &set.like_rows, SEARCHES..2 * SEARCHES);
    db.run("VACUUM items");
    assert_eq!(info::<String>(&mut db, "calibration::text"), calibration);
}

#[test]
fn functions_use_the_sample() {
    let (mut db, set) = products("functions", "");
    ask(&mut db, &set.log, 0..SEARCHES);
    let source: String = db.one(
        "SELECT concat_ws(' ', query_source, queries_used > 60) FROM distillvq_calibrate('one')",
    );
    assert_eq!(source, "searches t");
    assert!(measured(&mut db, &set.test, 200) > TARGET - 0.04);
    assert!(db.one::<i64>("SELECT queries_used FROM distillvq_train('one')") > 60);
    assert_eq!(info::<String>(&mut db, "query_source"), "searches");
    // Training leaves a part of the queries to the calibration: too few to be exact, enough to know that rows would mislead.
    assert!(measured(&mut db, &set.test, 200) > TARGET - 0.06);
    // A log that is named comes first.
    table(&mut db, "log", "vector", &set.log.slice(0..500));
    let source: String = db.one("SELECT query_source FROM distillvq_calibrate('one', 'log')");
    assert_eq!(source, "log");
}

#[test]
fn only_searches_of_users_are_sampled_and_only_where_they_may_be() {
    let (mut db, set) = products("off", "");
    let queries = &set.log;
    db.run("SET distillvq.sample_queries = off");
    ask(&mut db, queries, 0..20);
    db.run("RESET distillvq.sample_queries");
    db.run("SELECT distillvq_recall('one'), distillvq_calibrate('one'), distillvq_train('one')");
    let nowhere = "SELECT id, embedding <-> '[0,0,0,0,0,0,0,0,0,0]' FROM items
                   ORDER BY embedding <-> '[0,0,0,0,0,0,0,0,0,0]' LIMIT 3";
    by_index(&mut db, nowhere);
    assert_eq!(sampled(&mut db), 0);
    db.run("ALTER INDEX one SET (sample_queries = off)");
    ask(&mut db, queries, 0..20);
    assert_eq!(sampled(&mut db), 0);
    let refusal = db.refusal("ALTER INDEX one SET (sample_queries = perhaps)");
    assert!(refusal.message.contains("sample_queries"), "{refusal:?}");
    db.run("ALTER INDEX one RESET (sample_queries)");
    // As hint bits, the sample is written by transactions that write nothing.
    db.run("BEGIN READ ONLY");
    ask(&mut db, queries, 0..20);
    db.run("COMMIT");
    assert_eq!(sampled(&mut db), 20);
    // Too few queries are no reason to measure anything.
    assert_eq!(db.notices("VACUUM items"), "");
    assert_eq!(info::<String>(&mut db, "query_source"), "rows");
    // Without the option, the index has no room for queries.
    db.run("DROP INDEX one");
    create(&mut db, "WITH (sample_queries = off)");
    ask(&mut db, queries, 0..20);
    assert_eq!(sampled(&mut db), 0);
    db.run("ALTER INDEX one RESET (sample_queries)");
    db.run("VACUUM items");
    ask(&mut db, queries, 0..20);
    assert_eq!(sampled(&mut db), 20);
}

#[test]
fn the_sample_can_be_removed_by_those_who_maintain_the_table() {
    let (mut db, set) = products("remove", "");
    ask(&mut db, &set.log, 0..100);
    assert_eq!(sampled(&mut db), 100);
    let remove = "SELECT distillvq_reset_query_sample('one')";
    db.run("GRANT SELECT ON items TO PUBLIC");
    let refusal = db.session_of("sample_reader").refusal(remove);
    assert_eq!(refusal.state, "42501", "{refusal:?}");
    let refusal = db.refusal("SELECT distillvq_reset_query_sample('items')");
    assert_eq!(refusal.state, "42809", "{refusal:?}");
    assert_eq!(db.one::<i64>(remove), 100);
    assert_eq!(sampled(&mut db), 0);
    assert_eq!(db.one::<i64>(remove), 0);
    ask(&mut db, &set.log, 0..10);
    assert_eq!(sampled(&mut db), 10);
}

#[test]
fn the_sample_outlives_maintenance() {
    let (mut db, set) = products("keep", "");
    ask(&mut db, &set.log, 0..SEARCHES);
    let count = sampled(&mut db);
    for statement in [
        "DELETE FROM items WHERE id < 500",
        "VACUUM items",
        "SELECT distillvq_train('one')",
        "REINDEX INDEX CONCURRENTLY one",
        "REINDEX INDEX one",
        "VACUUM FULL items",
    ] {
        db.run(statement);
        assert_eq!(sampled(&mut db), count, "{statement}");
    }
    // The new index was measured with them at once.
    assert_eq!(info::<String>(&mut db, "query_source"), "searches");
    assert!(measured(&mut db, &set.test, 200) > TARGET - 0.04);
    // Of an index over other vectors nothing is taken over.
    db.run("CREATE INDEX two ON items USING distillvq (embedding vector_ip_ops)");
    let other: i64 = db.one("SELECT sampled_queries FROM distillvq_index_info('two')");
    assert_eq!(other, 0);
}

#[test]
fn sessions_sample_at_the_same_time() {
    let (mut db, set) = products("together", "");
    thread::scope(|scope| {
        for part in 0..4 {
            let (mut session, queries) = (db.session(), &set.log);
            scope.spawn(move || ask(&mut session, queries, part * 60..part * 60 + 60));
        }
        for _ in 0..5 {
            db.run("VACUUM items");
        }
    });
    assert!(sampled(&mut db) > 60);
    verified(&mut db);
}

#[test]
fn vectors_that_are_too_long_for_a_page_are_not_sampled() {
    let mut db = Database::new("long");
    db.run(
        "CREATE TABLE items (id bigint, embedding halfvec(4100));
         INSERT INTO items SELECT i, array_agg(random() + 0 * i)::real[]::halfvec
         FROM generate_series(1, 1050) i, generate_series(1, 4100) GROUP BY i;
         CREATE INDEX one ON items USING distillvq (embedding halfvec_l2_ops)",
    );
    db.run("VACUUM items");
    db.run("SET enable_seqscan = off; SELECT id FROM items ORDER BY embedding <-> (SELECT embedding FROM items LIMIT 1) LIMIT 5");
    assert_eq!(sampled(&mut db), 0);
}

#[test]
fn a_crash_and_a_standby_are_no_trouble() {
    let checked = [("wal_consistency_checking", "all")];
    let settings = [&common::SETTINGS[..], &checked].concat();
    let mut primary = Server::start_with("sample-primary", &settings).unwrap();
    let mut client = primary.database("sample").unwrap();
    let set = QuerySet::named("products", None).unwrap();
    table(&mut client, "items", "vector", &set.rows);
    create(&mut client, "");
    let replica = primary.standby("sample-standby").unwrap();
    let mut there = replica.connect_to("sample").unwrap();
    ask(&mut client, &set.log, 0..SEARCHES);
    client.run("CHECKPOINT");
    ask(&mut client, &set.log, SEARCHES..2 * SEARCHES);
    client.run("VACUUM items");
    client.run("SELECT distillvq_reset_query_sample('one')");
    ask(&mut client, &set.log, 0..100);
    // A standby searches, and keeps no queries of its own.
    let until: String = client.one("SELECT pg_current_wal_flush_lsn()::text");
    wait_for("the standby", || {
        there.one(&format!("SELECT pg_last_wal_replay_lsn() >= '{until}'"))
    });
    let before = sampled(&mut there);
    ask(&mut there, &set.log, 0..100);
    assert_eq!(sampled(&mut there), before);
    verified(&mut there);
    drop(client);
    primary.kill9().unwrap();
    primary.restart().unwrap();
    let mut client = primary.connect_to("sample").unwrap();
    assert!(sampled(&mut client) <= 100);
    ask(&mut client, &set.log, 0..SEARCHES);
    assert!(sampled(&mut client) > 0);
    client.run("VACUUM items");
    verified(&mut client);
    drop(client);
    primary.stop(Stop::Fast).unwrap();
    let log = primary.log().unwrap();
    undamaged(&log, "sample");
}
