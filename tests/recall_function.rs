//! `distillvq_recall` reports the recall of searches in SQL with the named index, and only to roles with the privilege.
//! `distillvq_prewarm` reads a whole index into memory.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::time::{Duration, Instant};

use common::{Database, Sql, by_index, by_table, can_evict, evict, recall, search, table};
use distillvq_harness::{DataSet, Metric, Vectors};
use postgres::Client;

/// A database with a table `items` of 1,500 vectors of 16 dimensions, a table `log` of 60 others, and an index `one` on the
/// first that probes one of its lists.
fn items(name: &str) -> Database {
    let mut db = Database::new(name);
    let all = Vectors::clustered(1_560, 16, 3, 21);
    table(&mut db, "items", "vector", &all.slice(0..1_500));
    table(&mut db, "log", "vector", &all.slice(1_500..1_560));
    db.run("CREATE INDEX one ON items USING distillvq (embedding) WITH (lists = 30, probes = 1)");
    db
}

/// What `distillvq_recall` says with these arguments.
#[derive(Debug)]
struct Said {
    k: i32,
    queries: i32,
    recall: Option<f32>,
    low: Option<f32>,
    high: Option<f32>,
    index_ms: Option<f32>,
    exact_ms: Option<f32>,
    setting: Option<String>,
    source: String,
}

#[track_caller]
fn measured(client: &mut Client, arguments: &str) -> Said {
    let sql = format!("SELECT * FROM distillvq_recall({arguments})");
    let row = client.query_one(&sql, &[]).unwrap();
    Said {
        k: row.get("k"),
        queries: row.get("queries_used"),
        recall: row.get("recall"),
        low: row.get("recall_low"),
        high: row.get("recall_high"),
        index_ms: row.get("index_ms"),
        exact_ms: row.get("exact_ms"),
        setting: row.get("setting"),
        source: row.get("query_source"),
    }
}

/// The recall alone.
#[track_caller]
fn recall_of(client: &mut Client, arguments: &str) -> f64 {
    measured(client, arguments).recall.unwrap().into()
}

const LOGGED: &str = "queries => 'log', query_column => 'embedding'";

#[test]
fn recall_is_what_sql_finds_for_the_same_queries() {
    let mut db = items("sql");
    let queries: Vec<String> = db.column("SELECT embedding::text FROM log");
    for (k, probes) in [(10, 1), (10, 3), (1, 1), (25, 2)] {
        db.run(&format!("SET distillvq.probes = {probes}"));
        let said = measured(&mut db, &format!("'one', {k}, 60, {LOGGED}"));
        let mut sum = 0.0;
        for query in &queries {
            let query: Vec<f32> = elements(query);
            let sql = search("items", Metric::L2, &query, &format!("LIMIT {k}"));
            sum += recall(&by_index(&mut db, &sql), &by_table(&mut db, &sql));
        }
        let found = f64::from(said.recall.unwrap());
        assert!(
            (found - sum / 60.0).abs() < 1e-6,
            "{k} {probes}: {found} {}",
            sum / 60.0
        );
        assert_eq!((said.k, said.queries, said.source.as_str()), (k, 60, "log"));
        assert_eq!(
            said.setting.as_deref(),
            Some(format!("distillvq.probes = {probes}").as_str())
        );
        assert!(said.low < said.recall && said.recall <= said.high && said.high <= Some(1.0));
        assert!(
            said.index_ms.unwrap() > 0.0 && said.exact_ms.unwrap() > 0.0,
            "{said:?}"
        );
    }
    db.run("SET distillvq.probes = 1");
    let few = recall_of(&mut db, &format!("'one', 10, 60, {LOGGED}"));
    assert!((0.2..0.95).contains(&few), "{few}");
    db.run("SET distillvq.probes = 30");
    let all = measured(&mut db, &format!("'one', 10, 60, {LOGGED}"));
    assert!(all.recall > Some(0.99) && all.low > Some(0.9), "{all:?}");
}

/// The elements of a vector as text.
fn elements(text: &str) -> Vec<f32> {
    let inner = text.trim_matches(['[', ']']);
    inner.split(',').map(|x| x.parse().unwrap()).collect()
}

#[test]
fn a_row_is_no_neighbor_of_itself() {
    let mut db = items("rows");
    db.run("DELETE FROM items WHERE id >= 300");
    db.run("SET distillvq.probes = 1");
    let said = measured(&mut db, "'one', 5, 1000");
    assert_eq!((said.queries, said.source.as_str()), (300, "rows"));
    let mut sum = 0.0;
    for id in 0..300 {
        let query: String = db.one(&format!(
            "SELECT embedding::text FROM items WHERE id = {id}"
        ));
        let others = format!("(SELECT * FROM items WHERE id <> {id} OFFSET 0) others");
        let truth = by_table(
            &mut db,
            &search(&others, Metric::L2, &elements(&query), "LIMIT 5"),
        );
        let rest = search("items", Metric::L2, &elements(&query), "LIMIT 5");
        let sql = rest.replace("ORDER BY", &format!("WHERE id <> {id} ORDER BY"));
        sum += recall(&by_index(&mut db, &sql), &truth);
    }
    let found = f64::from(said.recall.unwrap());
    assert!(
        (found - sum / 300.0).abs() < 1e-6,
        "{found} {}",
        sum / 300.0
    );
    assert!(found < 0.999, "too easy: {found}");
}

#[test]
fn the_named_index_is_searched_of_whatever_access_method() {
    let mut db = items("methods");
    db.run(
        "CREATE INDEX graph ON items USING hnsw (embedding vector_l2_ops);
         CREATE INDEX flat ON items USING ivfflat (embedding vector_l2_ops) WITH (lists = 30);
         CREATE INDEX other ON items USING distillvq (embedding vector_cosine_ops) WITH (lists = 30);
         SET distillvq.probes = 1",
    );
    let mut of = |index: &str| measured(&mut db, &format!("'{index}', 10, 60, {LOGGED}"));
    let (one, graph, flat) = (of("one"), of("graph"), of("flat"));
    assert!(one.recall < Some(0.95), "{one:?}");
    // Its graph differs from build to build.
    assert!(graph.recall > Some(0.9), "{graph:?}");
    assert!(flat.recall < Some(0.95), "{flat:?}");
    let settings = [&one, &graph, &flat].map(|it| it.setting.clone().unwrap_or_default());
    assert_eq!(
        settings,
        [
            "distillvq.probes = 1",
            "hnsw.ef_search = 40",
            "ivfflat.probes = 1"
        ]
    );
    db.run("SET distillvq.probes = 30; SET ivfflat.probes = 30; SET hnsw.ef_search = 5");
    let mut of = |index: &str| recall_of(&mut db, &format!("'{index}', 10, 60, {LOGGED}"));
    assert!(of("one") > 0.99 && of("flat") > 0.99 && of("other") > 0.99);
    // It returns no more than that many rows.
    assert!(of("graph") <= 0.5);
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let mut db = items("refused");
    db.run("CREATE TABLE points (p point); CREATE INDEX gist ON points USING gist (p)");
    for (arguments, state, hint) in [
        ("'gist'", "42809", "hnsw"),
        ("'one', 0", "22023", "1"),
        ("'one', 10, -1", "22023", "1"),
        ("'one', query_column => 'embedding'", "22023", "queries"),
        (
            "'one', queries => 'log', query_column => 'id'",
            "42804",
            "vector or halfvec",
        ),
        (
            "'one', queries => 'log', query_column => 'none'",
            "42703",
            "name",
        ),
    ] {
        let refusal = db.refusal(&format!("SELECT distillvq_recall({arguments})"));
        assert_eq!(refusal.state, state, "{arguments}: {refusal:?}");
        assert!(refusal.hint.contains(hint), "{arguments}: {refusal:?}");
    }
    db.run("CREATE TABLE short (q vector(3)); INSERT INTO short VALUES ('[1,2,3]')");
    let refusal =
        db.refusal("SELECT distillvq_recall('one', queries => 'short', query_column => 'q')");
    assert_eq!(refusal.state, "22000", "{refusal:?}");
    db.run("SET maintenance_work_mem = '1MB'");
    let refusal = db.refusal("SELECT distillvq_recall('one', 10000, 100000)");
    assert_eq!(refusal.state, "53400", "{refusal:?}");
    assert!(refusal.hint.contains("maintenance_work_mem"), "{refusal:?}");
}

#[test]
fn partial_and_expression_indexes_are_measured_by_what_they_hold() {
    let mut db = items("partial");
    db.run(
        "CREATE INDEX part ON items USING distillvq (embedding) WITH (lists = 4) WHERE id % 3 = 0;
         CREATE INDEX half ON items USING distillvq ((embedding::halfvec(16)) halfvec_cosine_ops) WITH (lists = 8);
         CREATE INDEX graph ON items USING hnsw ((embedding::halfvec(16)) halfvec_cosine_ops);
         UPDATE items SET embedding = NULL WHERE id < 50;
         SET distillvq.probes = 30; SET hnsw.ef_search = 400",
    );
    for index in ["part", "half", "graph"] {
        for queries in [LOGGED, "NULL"] {
            let arguments = format!("'{index}', 10, 60, {queries}");
            let said = measured(&mut db, &arguments);
            assert!(said.recall > Some(0.97), "{arguments}: {said:?}");
        }
    }
    db.run("SET distillvq.probes = 1");
    assert!(recall_of(&mut db, &format!("'half', 10, 60, {LOGGED}")) < 0.97);
}

#[test]
fn few_rows_or_none_are_no_trouble() {
    let mut db = items("few");
    let own = "BEGIN; DELETE FROM items WHERE id >= 7";
    db.run(own);
    // Seen by this transaction alone: six others for each row.
    let said = measured(&mut db, "'one', 10, 100");
    assert_eq!((said.queries, said.recall), (7, Some(1.0)), "{said:?}");
    assert!(said.low < Some(0.8) && said.high == Some(1.0), "{said:?}");
    db.run("TRUNCATE items");
    let said = measured(&mut db, "'one'");
    assert_eq!(
        (said.queries, said.recall, said.low, said.index_ms),
        (0, None, None, None)
    );
    let said = measured(&mut db, &format!("'one', 10, 100, {LOGGED}"));
    assert_eq!((said.queries, said.recall), (0, None), "{said:?}");
    db.run("INSERT INTO items VALUES (1, NULL)");
    assert_eq!(measured(&mut db, "'one'").queries, 0);
    db.run("ROLLBACK");
    assert_eq!(measured(&mut db, "'one'").queries, 100);
}

#[test]
fn recall_is_told_to_those_who_may_read_every_row() {
    let mut db = items("rights");
    db.run("CREATE INDEX part ON items USING distillvq (embedding) WHERE id > 10");
    let mut erin = db.session_of("erin_measures");
    let one = "SELECT distillvq_recall('one', 5, 10)";
    let logged = format!("SELECT distillvq_recall('one', 5, 10, {LOGGED})");
    assert_eq!(erin.refusal(one).state, "42501");
    db.run("GRANT SELECT (id) ON items TO erin_measures");
    assert_eq!(erin.refusal(one).state, "42501");
    assert_eq!(
        erin.refusal("SELECT distillvq_prewarm('one')").state,
        "42501"
    );
    db.run("GRANT SELECT (embedding) ON items TO erin_measures");
    erin.run(one);
    erin.run("SELECT distillvq_prewarm('one')");
    assert_eq!(erin.refusal(&logged).state, "42501", "queries need it too");
    // The predicate is of another column.
    let refusal = erin.refusal("SELECT distillvq_recall('part', 5, 10)");
    assert_eq!(refusal.state, "42501", "{refusal:?}");
    db.run("GRANT SELECT ON items, log TO erin_measures");
    erin.run(&logged);
    erin.run("SELECT distillvq_recall('part', 5, 10)");
    db.run(
        "ALTER TABLE items ENABLE ROW LEVEL SECURITY; CREATE POLICY few ON items USING (id < 100)",
    );
    let refusal = erin.refusal(one);
    assert_eq!(refusal.state, "42501", "{refusal:?}");
    assert!(refusal.message.contains("row-level security") && !refusal.hint.is_empty());
    db.run(one);
    // Queries that are hidden are no queries.
    db.run(
        "ALTER TABLE items DISABLE ROW LEVEL SECURITY;
         ALTER TABLE log ENABLE ROW LEVEL SECURITY; CREATE POLICY few ON log USING (id < 9)",
    );
    let said = measured(&mut erin, &format!("'one', 5, 100, {LOGGED}"));
    assert_eq!(said.queries, 9, "{said:?}");
}

#[test]
fn functions_of_a_definition_run_as_its_owner() {
    let mut db = items("definition");
    let mut mallory = db.session_of("mallory_measures");
    db.run("CREATE SCHEMA hers AUTHORIZATION mallory_measures");
    mallory.run(
        "CREATE FUNCTION hers.same(vector) RETURNS vector LANGUAGE plpgsql IMMUTABLE AS
             $$ BEGIN RAISE NOTICE 'as %', current_user; RETURN $1; END $$;
         CREATE TABLE hers.own (embedding vector(3));
         INSERT INTO hers.own SELECT ARRAY[i, i * i % 17, i % 5]::vector FROM generate_series(1, 1200) i;
         CREATE INDEX his ON hers.own USING distillvq ((hers.same(embedding)::vector(3)))",
    );
    for (statement, evaluates) in [
        (
            "SELECT recall FROM distillvq_recall('hers.his', 5, 10)",
            true,
        ),
        ("SELECT distillvq_check('hers.his', heap => true)", true),
        ("SELECT distillvq_check('hers.his')", false),
        ("SELECT distillvq_train('hers.his')", true),
        ("SELECT rows FROM distillvq_index_info('hers.his')", false),
        ("SELECT rows FROM distillvq_indexes", false),
    ] {
        let notices = db.notices(statement);
        let as_whom = |role: &str| notices.contains(&format!("as {role}\n"));
        assert_eq!(
            as_whom("mallory_measures"),
            evaluates,
            "{statement}: {notices}"
        );
        let me: String = db.one("SELECT current_user::text");
        assert!(!as_whom(&me), "{statement}: {notices}");
    }
}

#[test]
fn a_measurement_can_be_stopped() {
    let mut db = Database::new("stopped");
    let documents = DataSet::shipped().unwrap().documents.slice(0..3_000);
    table(&mut db, "items", "vector", &documents);
    // Nothing is to be trained for this.
    db.run(
        "CREATE INDEX graph ON items USING hnsw (embedding vector_cosine_ops) WITH (m = 4, ef_construction = 16);
         SET statement_timeout = '150ms'",
    );
    let start = Instant::now();
    let refusal = db.refusal("SELECT distillvq_recall('graph', 10, 3000)");
    let late = start.elapsed().saturating_sub(Duration::from_millis(150));
    assert_eq!(refusal.state, "57014", "{refusal:?}");
    assert!(late < Duration::from_millis(500), "{late:?}");
    db.run("RESET statement_timeout");
    assert!(recall_of(&mut db, "'graph', 10, 20") > 0.3);
}

#[test]
fn prewarming_reads_every_block() {
    if !can_evict() {
        return;
    }
    let mut db = items("prewarm");
    evict(&mut db, "one");
    let cached =
        "SELECT count(*) FROM pg_buffercache WHERE relfilenode = pg_relation_filenode('one')";
    let blocks: i64 = db.one("SELECT pg_relation_size('one') / 8192");
    assert!(blocks > 30 && db.one::<i64>(cached) < blocks / 2);
    let read: i64 = db.session().one("SELECT distillvq_prewarm('one')");
    assert_eq!((read, db.one::<i64>(cached)), (blocks, blocks));
    for (argument, state) in [("'items'", "42809"), ("NULL", "22004"), ("'log'", "42809")] {
        let refusal = db.refusal(&format!("SELECT distillvq_prewarm({argument})"));
        assert_eq!(refusal.state, state, "{refusal:?}");
    }
}

#[test]
fn queries_may_be_of_the_other_type() {
    let mut db = items("types");
    db.run(
        "CREATE TABLE halves AS SELECT embedding::halfvec(16) AS q FROM log;
         CREATE INDEX half ON items USING distillvq ((embedding::halfvec(16)) halfvec_l2_ops) WITH (lists = 8);
         SET distillvq.probes = 30; SET hnsw.ef_search = 400",
    );
    for index in ["one", "half"] {
        let said = measured(
            &mut db,
            &format!("'{index}', 10, 60, queries => 'halves', query_column => 'q'"),
        );
        assert!(said.recall > Some(0.97), "{said:?}");
    }
    db.run("INSERT INTO log SELECT 100, array_fill(1e6::real, ARRAY[16])::vector");
    let refusal = db.refusal(&format!(
        "SELECT distillvq_recall('half', 10, 61, {LOGGED})"
    ));
    assert_eq!(refusal.state, "22003", "{refusal:?}");
}
