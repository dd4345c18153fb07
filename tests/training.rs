//! `distillvq_train`: what it reports and stores, on what, and the indexes that use its models.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{ALL, Database, Sql, all_found, by_index, mean_recall, search, table};
use distillvq_harness::{Metric, Vectors};
use postgres::Client;

/// A database with a table `items` of 2,000 vectors and a table `log` of 500, and queries.
fn items(name: &str) -> (Database, Vectors) {
    let mut db = Database::new(name);
    let all = Vectors::clustered(2_520, 16, 1, 11);
    table(&mut db, "items", "vector", &all.slice(0..2_000));
    table(&mut db, "log", "vector", &all.slice(2_000..2_500));
    (db, all.slice(2_500..2_520))
}

/// What a training returns.
#[derive(Debug)]
struct Report {
    model: String,
    rows: i64,
    queries: i64,
    before: f32,
    after: f32,
    seconds: f32,
}

/// Trains with these arguments.
#[track_caller]
fn train(client: &mut Client, arguments: &str) -> Report {
    let sql = format!("SELECT * FROM distillvq_train({arguments})");
    let row = match client.query_one(&sql, &[]) {
        Ok(row) => row,
        Err(error) => panic!("{sql}: {:?}", distillvq_harness::Error::from(error)),
    };
    let report = Report {
        model: row.get("model"),
        rows: row.get("rows"),
        queries: row.get("queries_used"),
        before: row.get("code_recall_before"),
        after: row.get("code_recall_after"),
        seconds: row.get("seconds"),
    };
    assert!(
        (0.0..=1.0).contains(&report.before) && (0.0..=1.0).contains(&report.after),
        "{report:?}"
    );
    assert!(
        report.after >= report.before && report.seconds > 0.0,
        "{report:?}"
    );
    report
}

/// The body of a model, in short.
fn body(client: &mut Client, model: &str) -> String {
    client.one(&format!(
        "SELECT md5(body) FROM distillvq.model WHERE name = '{model}'"
    ))
}

#[test]
fn the_report_is_kept_with_the_model() {
    let (mut db, _) = items("report");
    for metric in Metric::ALL {
        for bits in [4, 8] {
            let name = format!("{} {bits}", metric.name());
            let arguments = format!(
                "'items', 'embedding', model => '{name}', metric => '{}', bits => {bits}",
                metric.name()
            );
            let report = train(&mut db, &arguments);
            assert_eq!((report.model.as_str(), report.rows), (name.as_str(), 2_000));
            let row = db
                .query_one("SELECT * FROM distillvq_models WHERE name = $1", &[&name])
                .unwrap();
            assert_eq!(row.get::<_, String>("metric"), metric.name());
            assert_eq!(row.get::<_, i32>("bits"), bits);
            assert_eq!(row.get::<_, i32>("dimensions"), 16);
            assert_eq!(row.get::<_, i64>("rows"), report.rows);
            assert_eq!(row.get::<_, i64>("logged_queries"), report.queries);
            assert_eq!(row.get::<_, f32>("code_recall_before"), report.before);
            assert_eq!(row.get::<_, f32>("code_recall_after"), report.after);
            assert!((2..2_000).contains(&row.get::<_, i32>("lists")));
            assert!((1..=16).contains(&row.get::<_, i32>("subquantizers")));
            assert!(row.get::<_, i32>("bytes") > 1_000);
        }
    }
    let fresh: i64 = db.one(
        "SELECT count(*) FROM distillvq_models
         WHERE owner = current_user AND trained_at BETWEEN now() - interval '1 minute' AND now()",
    );
    assert_eq!(fresh, 6);
}

#[test]
fn defaults() {
    let (mut db, _) = items("defaults");
    assert_eq!(
        train(&mut db, "'items', 'embedding'").model,
        "items_embedding"
    );
    let shape: String = db.one("SELECT concat_ws(' ', metric, bits) FROM distillvq_models");
    assert_eq!(shape, "cosine 4");
    train(
        &mut db,
        "'items', 'embedding', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL",
    );
    assert_eq!(db.one::<i64>("SELECT count(*) FROM distillvq_models"), 1);
}

#[test]
fn the_shape_can_be_chosen() {
    let (mut db, _) = items("shape");
    for (lists, subquantizers, bits) in [(20, 5, 4), (1, 1, 4), (100, 16, 8)] {
        let shape = format!("lists => {lists}, subquantizers => {subquantizers}, bits => {bits}");
        train(&mut db, &format!("'items', 'embedding', 'one', {shape}"));
        let kept: String =
            db.one("SELECT concat_ws(' ', lists, subquantizers, bits) FROM distillvq_models");
        assert_eq!(kept, format!("{lists} {subquantizers} {bits}"));
    }
}

#[test]
fn logged_queries_are_used() {
    let (mut db, _) = items("queries");
    db.run("INSERT INTO log VALUES (-1, NULL)");
    let with = "'items', 'embedding', queries => 'log', query_column => 'embedding'";
    let report = train(&mut db, &format!("{with}, model => 'with'"));
    assert!((1..=500).contains(&report.queries), "{report:?}");
    db.run("ALTER TABLE log ALTER embedding TYPE halfvec(16)");
    let half = train(&mut db, &format!("{with}, model => 'half', metric => 'l2'"));
    assert_eq!(
        half.queries, report.queries,
        "halfvec queries for a vector column"
    );
    db.run("TRUNCATE log");
    let refusal = db.refusal(&format!("SELECT distillvq_train({with})"));
    assert_eq!(refusal.state, "55000", "{refusal:?}");
    db.run("ALTER TABLE log ALTER embedding TYPE vector; INSERT INTO log VALUES (1, '[1,2,3]')");
    let refusal = db.refusal(&format!("SELECT distillvq_train({with})"));
    assert_eq!(refusal.state, "22000", "{refusal:?}");
    assert!(refusal.message.contains("16 and 3"), "{refusal:?}");
}

#[test]
fn the_seed_decides_the_model() {
    let (mut db, _) = items("seed");
    let mut with = |setting: &str, arguments: &str| {
        db.run(setting);
        train(
            &mut db,
            &format!("'items', 'embedding', 'one', {arguments}"),
        );
        body(&mut db, "one")
    };
    let alone = "SET max_parallel_maintenance_workers = 0";
    let first = with(alone, "seed => 7");
    assert_eq!(with(alone, "seed => 7"), first);
    let threads = "SET max_parallel_maintenance_workers = 3";
    assert_eq!(
        with(threads, "seed => 7"),
        first,
        "whatever the number of threads"
    );
    assert_ne!(with(threads, "seed => 8"), first);
    assert_ne!(with(threads, "seed => -7"), first);
}

#[test]
fn an_index_takes_the_named_model() {
    let (mut db, queries) = items("named");
    train(
        &mut db,
        "'items', 'embedding', 'wide', metric => 'l2', lists => 33",
    );
    let notices =
        db.notices("CREATE INDEX one ON items USING distillvq (embedding) WITH (model = wide)");
    assert_eq!(notices, "");
    let recall = mean_recall(&mut db, "items", Metric::L2, &queries, ALL);
    assert!(recall >= 0.99, "{recall}");
    all_found(&mut db, "items", Metric::L2, queries.row(0));

    // A model serves tables that are too small to train on.
    db.run("CREATE TABLE few (LIKE items); INSERT INTO few SELECT * FROM items WHERE id < 100");
    let create = "CREATE INDEX two ON few USING distillvq (embedding vector_l2_ops)";
    assert_eq!(
        db.notices(&format!("{create} WITH (model = 'wide', lists = 33)")),
        ""
    );
    all_found(&mut db, "few", Metric::L2, queries.row(0));
    db.run("INSERT INTO few SELECT * FROM items WHERE id >= 100");
    let recall = mean_recall(&mut db, "few", Metric::L2, &queries, ALL);
    assert!(recall >= 0.99, "{recall}");
    all_found(&mut db, "few", Metric::L2, queries.row(0));
}

#[test]
fn an_index_outlives_its_model() {
    let (mut db, queries) = items("outlives");
    train(&mut db, "'items', 'embedding', 'gone', metric => 'ip'");
    db.run(
        "CREATE INDEX one ON items USING distillvq (embedding vector_ip_ops) WITH (model = gone)",
    );
    db.run("DELETE FROM distillvq.model");
    let mut other = db.session();
    db.run("INSERT INTO items SELECT id + 10000, embedding FROM items WHERE id < 100");
    all_found(&mut other, "items", Metric::InnerProduct, queries.row(0));
    assert_eq!(db.refusal("REINDEX INDEX one").state, "42704");
    all_found(&mut db, "items", Metric::InnerProduct, queries.row(0));
    db.run("ALTER INDEX one RESET (model); REINDEX INDEX one");
    all_found(&mut db, "items", Metric::InnerProduct, queries.row(0));
}

#[test]
fn an_index_takes_the_new_model_when_it_is_rebuilt() {
    let (mut db, queries) = items("rebuilt");
    let sql = search("items", Metric::L2, queries.row(0), "LIMIT 50");
    let arguments = "'items', 'embedding', 'm', metric => 'l2', lists";
    train(&mut db, &format!("{arguments} => 40"));
    db.run("CREATE INDEX one ON items USING distillvq (embedding) WITH (model = m, probes = 2)");
    let found = by_index(&mut db, &sql);
    train(&mut db, &format!("{arguments} => 3, seed => 5"));
    assert_eq!(by_index(&mut db, &sql), found, "training changes no index");
    let mut other = db.session();
    assert_eq!(by_index(&mut other, &sql), found);
    db.run("REINDEX INDEX one");
    let rebuilt = by_index(&mut db, &sql);
    assert!(rebuilt != found);
    assert_eq!(
        by_index(&mut other, &sql),
        rebuilt,
        "another session notices too"
    );
}

#[test]
fn halfvec_and_domains_and_columns_without_dimensions() {
    let (mut db, queries) = items("types");
    db.run(
        "CREATE DOMAIN feature AS vector(16);
         CREATE TABLE typed (half halfvec(16), free vector, freehalf halfvec, domain feature);
         INSERT INTO typed SELECT embedding, embedding, embedding, embedding FROM items",
    );
    for column in ["half", "free", "freehalf", "domain"] {
        let report = train(&mut db, &format!("'typed', '{column}', metric => 'l2'"));
        assert_eq!(report.rows, 2_000, "{column}");
    }
    assert_eq!(body(&mut db, "typed_half"), body(&mut db, "typed_freehalf"));
    assert_eq!(body(&mut db, "typed_free"), body(&mut db, "typed_domain"));
    // A model knows vectors, not types: one of halfvecs serves a column of vectors.
    db.run("CREATE INDEX ON items USING distillvq (embedding) WITH (model = typed_half)");
    let recall = mean_recall(&mut db, "items", Metric::L2, &queries, ALL);
    assert!(recall >= 0.99, "{recall}");
    db.run("INSERT INTO typed (free) VALUES ('[1,2,3]')");
    let refusal = db.refusal("SELECT distillvq_train('typed', 'free')");
    assert_eq!(refusal.state, "22000", "{refusal:?}");
    assert!(refusal.message.contains("16 and 3"), "{refusal:?}");
}

#[test]
fn views_partitions_and_other_relations() {
    let (mut db, _) = items("relations");
    db.run(
        "CREATE VIEW recent AS SELECT id, embedding AS e FROM items WHERE id >= 500;
         CREATE MATERIALIZED VIEW seen AS SELECT * FROM items WHERE id >= 400;
         CREATE TEMPORARY TABLE brief AS SELECT * FROM items WHERE id >= 300;
         CREATE TABLE split (id bigint, embedding vector(16)) PARTITION BY RANGE (id);
         CREATE TABLE low PARTITION OF split FOR VALUES FROM (0) TO (900);
         CREATE TABLE high PARTITION OF split FOR VALUES FROM (900) TO (2000);
         INSERT INTO split SELECT * FROM items;
         CREATE TABLE child () INHERITS (items); INSERT INTO child SELECT 5000 + id, embedding FROM items WHERE id < 50;
         CREATE SCHEMA \"Odd one\"; CREATE TABLE \"Odd one\".\"It's\" (\"a \"\"b\" vector(16));
         INSERT INTO \"Odd one\".\"It's\" SELECT embedding FROM items WHERE id < 1100",
    );
    for (source, rows) in [
        ("'recent', 'e'", 1_550),
        ("'seen', 'embedding'", 1_600),
        ("'brief', 'embedding'", 1_700),
        ("'split', 'embedding'", 2_000),
        ("'items', 'embedding'", 2_050),
        (r#"'"Odd one"."It''s"', 'a "b'"#, 1_100),
    ] {
        assert_eq!(
            train(&mut db, &format!("{source}, metric => 'l2'")).rows,
            rows,
            "{source}"
        );
    }
    assert_eq!(
        db.one::<i64>(r#"SELECT count(*) FROM distillvq_models WHERE name = 'It''s_a "b'"#),
        1
    );
}

#[test]
fn rows_without_use_are_left_out() {
    let (mut db, _) = items("useless");
    db.run(
        "INSERT INTO items SELECT -i, NULL FROM generate_series(1, 100) i;
         INSERT INTO items SELECT -i, array_fill(0, ARRAY[16])::vector FROM generate_series(1, 70) i",
    );
    assert_eq!(
        train(&mut db, "'items', 'embedding', metric => 'cosine'").rows,
        2_000
    );
    assert_eq!(
        train(&mut db, "'items', 'embedding', metric => 'l2'").rows,
        2_070
    );
}

#[test]
fn a_large_table_is_sampled() {
    let mut db = Database::of_items("sampled", &Vectors::clustered(12_000, 16, 40, 3));
    db.run("SET maintenance_work_mem = '1MB'");
    let report = train(&mut db, "'items', 'embedding'");
    assert!(
        (1_000..=8_192).contains(&report.rows),
        "1 MB holds 2 × 8,192 rows of 64 bytes: {report:?}"
    );
    let lists: i32 = db.one("SELECT lists FROM distillvq_models");
    assert!(
        (80..=120).contains(&lists),
        "meant for the whole table: {lists}"
    );
}

#[test]
fn a_training_belongs_to_its_transaction() {
    let (mut db, _) = items("transaction");
    db.run("BEGIN");
    train(&mut db, "'items', 'embedding', 'm', metric => 'l2'");
    db.run("CREATE INDEX ON items USING distillvq (embedding) WITH (model = m)");
    db.run("ROLLBACK");
    assert_eq!(db.one::<i64>("SELECT count(*) FROM distillvq_models"), 0);
    db.run("BEGIN READ ONLY");
    assert_eq!(
        db.refusal("SELECT distillvq_train('items', 'embedding')")
            .state,
        "25006"
    );
    db.run("ROLLBACK");
    assert_eq!(db.one::<i64>("SELECT count(*) FROM distillvq_models"), 0);
}
