//! Indexes whose rows are in two lists: results, changes, figures, and the index parameter.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{
    ALL, Database, Sql, all_found, by_index, ids, in_order, mean_recall, search, table, verified,
};
use distillvq_harness::{Metric, Vectors};

const DIM: usize = 24;

/// A database with an index `one` over `items` with these options.
fn items(name: &str, metric: Metric, options: &str) -> (Database, Vectors) {
    let all = Vectors::clustered(4_020, DIM, 20, 8);
    let mut db = Database::of_items(name, &all.slice(0..3_000));
    db.run(&format!(
        "CREATE INDEX one ON items USING distillvq (embedding vector_{}_ops) WITH ({options}); ANALYZE items",
        metric.name()
    ));
    (db, all)
}

/// A column of `distillvq_index_info`.
fn info(db: &mut Database, column: &str) -> i64 {
    db.one(&format!(
        "SELECT {column}::bigint FROM distillvq_index_info('one')"
    ))
}

/// Bytes of the index.
fn size(db: &mut Database) -> i64 {
    db.one("SELECT pg_relation_size('one')")
}

#[test]
fn a_search_returns_each_row_once() {
    for metric in Metric::ALL {
        for refine in ["none", "sq7"] {
            let name = format!("two_lists_{}_{refine}", metric.name());
            let options = format!("assignments = 2, lists = 30, refine = {refine}");
            let (mut db, all) = items(&name, metric, &options);
            for query in all.slice(4_000..4_003).iter() {
                all_found(&mut db, "items", metric, query);
                for probes in [1, 5, ALL] {
                    db.run(&format!("SET distillvq.probes = {probes}"));
                    let sql = search("items", metric, query, "LIMIT 200");
                    let found = by_index(&mut db, &sql);
                    in_order(&found);
                    assert_eq!(found.len(), 200);
                }
                db.run("RESET distillvq.probes");
            }
            let recall = mean_recall(&mut db, "items", metric, &all.slice(4_000..4_020), ALL);
            assert!(recall >= 0.97, "{name}: {recall}");
        }
    }
}

#[test]
fn little_memory_returns_no_row_twice() {
    let (mut db, all) = items(
        "two_lists_memory",
        Metric::L2,
        "assignments = 2, lists = 30",
    );
    db.run("SET work_mem = '64kB'; SET hash_mem_multiplier = 1");
    for order in ["strict_order", "off"] {
        db.run(&format!("SET distillvq.iterative_scan = {order}"));
        let sql = search("items", Metric::L2, all.row(4_001), "");
        in_order(&by_index(&mut db, &sql));
    }
}

#[test]
fn changes_of_the_table_are_followed() {
    let metric = Metric::Cosine;
    let (mut db, all) = items("two_lists_changes", metric, "assignments = 2, lists = 30");
    assert_eq!(
        (info(&mut db, "rows"), info(&mut db, "inserted_rows")),
        (3_000, 0)
    );
    table(&mut db, "more", "vector", &all.slice(3_000..4_000));
    db.run("INSERT INTO items SELECT 10000 + id, embedding FROM more");
    assert_eq!(
        (info(&mut db, "rows"), info(&mut db, "inserted_rows")),
        (4_000, 1_000)
    );
    all_found(&mut db, "items", metric, all.row(4_000));
    verified(&mut db);
    db.run("DELETE FROM items WHERE id % 3 = 0");
    db.run("VACUUM items");
    let left: i64 = db.one("SELECT count(*) FROM items");
    assert_eq!(info(&mut db, "rows"), left);
    let counted: i64 = db.one("SELECT reltuples::bigint FROM pg_class WHERE relname = 'one'");
    assert_eq!(counted, left);
    all_found(&mut db, "items", metric, all.row(4_001));
    // An aborted insert leaves entries until the next vacuum.
    db.run("BEGIN; INSERT INTO items SELECT 20000 + id, embedding FROM more; ROLLBACK");
    all_found(&mut db, "items", metric, all.row(4_001));
    verified(&mut db);
    assert_eq!(info(&mut db, "rows"), left + 1_000);
    db.run("VACUUM items");
    assert_eq!(info(&mut db, "rows"), left);
    verified(&mut db);
    // A rebuild stores the same rows.
    let sql = search("items", metric, all.row(4_002), "LIMIT 50");
    db.run(&format!("SET distillvq.probes = {ALL}"));
    let before = ids(&by_index(&mut db, &sql));
    db.run("REINDEX INDEX one");
    assert_eq!(info(&mut db, "rows"), left);
    let after = ids(&by_index(&mut db, &sql));
    let same = after.iter().filter(|id| before.contains(id)).count();
    assert!(same >= 48, "{same}");
}

#[test]
fn the_parameter_decides() {
    let (mut db, _) = items(
        "two_lists_parameter",
        Metric::L2,
        "lists = 30, assignments = 1",
    );
    let one = size(&mut db);
    let mut size_with = |options: &str| {
        db.run(&format!(
            "DROP INDEX one; CREATE INDEX one ON items USING distillvq (embedding) WITH (lists = 30, {options})"
        ));
        size(&mut db)
    };
    let two = size_with("assignments = 2");
    assert!(one < two && two < 2 * one, "{one} {two}");
    assert_eq!(size_with("assignments = 0"), two);
    // Refine codes would be stored twice.
    let refined = size_with("refine = sq7");
    assert_eq!(size_with("refine = sq7, assignments = 1"), refined);
    assert!(size_with("refine = sq7, assignments = 2") > refined);
    // A named model has its own number of lists per row.
    for (assignments, bytes) in [(1, one), (2, two), (0, two)] {
        db.run(&format!(
            "SELECT distillvq_train('items', 'embedding', 'm{assignments}', metric => 'l2', lists => 30, assignments => {assignments})"
        ));
        db.run(&format!(
            "DROP INDEX one; CREATE INDEX one ON items USING distillvq (embedding) WITH (model = m{assignments})"
        ));
        assert_eq!(size(&mut db), bytes, "{assignments}");
        let of_model =
            format!("SELECT assignments FROM distillvq_models WHERE name = 'm{assignments}'");
        assert_eq!(
            db.one::<i32>(&of_model),
            if assignments == 1 { 1 } else { 2 }
        );
    }
    let refusal = db.refusal(
        "CREATE INDEX two ON items USING distillvq (embedding) WITH (model = m1, assignments = 2)",
    );
    assert_eq!(refusal.state, "22023");
    assert!(refusal.message.contains("assignments"), "{refusal:?}");
    let refusal = db.refusal("SELECT distillvq_train('items', 'embedding', assignments => 3)");
    assert_eq!(refusal.state, "22023");
    assert!(refusal.message.contains("assignments"), "{refusal:?}");
}

#[test]
fn fewer_lists_reach_the_target() {
    let all = Vectors::like_texts(20_020, 64, 3, 0);
    let mut db = Database::of_items("two_lists_target", &all.slice(0..20_000));
    let mut probes = |assignments: usize| -> i32 {
        db.run(&format!(
            "DROP INDEX IF EXISTS one;
             CREATE INDEX one ON items USING distillvq (embedding vector_cosine_ops) WITH (assignments = {assignments})"
        ));
        db.one("SELECT probes FROM distillvq_calibrate('one')")
    };
    let (one, two) = (probes(1), probes(2));
    assert!(two < one, "{one} {two}");
    let queries = all.slice(20_000..20_020);
    let recall = mean_recall(&mut db, "items", Metric::Cosine, &queries, two);
    assert!(recall >= 0.85, "{recall}");
}
