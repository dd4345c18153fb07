//! Indexes with refine codes: results, changes, and when they are used.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{
    ALL, Database, Sql, all_found, by_index, by_table, in_order, mean_recall, recall, search, table,
};
use distillvq_harness::{Metric, Vectors};

/// A database with an index over `items` whose options are given.
fn items(name: &str, kind: &str, vectors: &Vectors, metric: Metric, options: &str) -> Database {
    let mut db = Database::new(name);
    table(&mut db, "items", kind, vectors);
    db.run(&format!(
        "CREATE INDEX items_idx ON items USING distillvq (embedding {kind}_{}_ops) {options}; ANALYZE items",
        metric.name()
    ));
    db
}

/// Bytes of the index.
fn size(db: &mut Database) -> i64 {
    db.column("SELECT pg_relation_size('items_idx')")[0]
}

#[test]
fn rows_come_in_exact_order_and_none_is_missing() {
    for metric in Metric::ALL {
        for kind in ["vector", "halfvec"] {
            let name = format!("refine_{kind}_{}", metric.name());
            let all = Vectors::clustered(2_020, 40, 10, 3);
            let mut db = items(
                &name,
                kind,
                &all.slice(0..2_000),
                metric,
                "WITH (refine = sq7)",
            );
            db.run(&format!("SET distillvq.probes = {ALL}"));
            for query in all.slice(2_000..2_020).iter() {
                let sql = search("items", metric, query, "LIMIT 50");
                let (found, truth) = (by_index(&mut db, &sql), by_table(&mut db, &sql));
                in_order(&found);
                let recall = recall(&found, &truth);
                assert!(recall >= 0.96, "{name}: {recall}");
            }
            all_found(&mut db, "items", metric, all.row(2_001));
        }
    }
}

#[test]
fn changes_of_the_table_are_followed() {
    let all = Vectors::clustered(4_020, 40, 10, 4);
    let metric = Metric::L2;
    let mut db = items(
        "refine_changes",
        "vector",
        &all.slice(0..2_000),
        metric,
        "WITH (refine = sq7)",
    );
    let built = size(&mut db);
    table(&mut db, "more", "vector", &all.slice(2_000..4_000));
    for round in 0..4 {
        db.run(&format!(
            "INSERT INTO items SELECT 10000 * ({round} + 1) + id, embedding FROM more WHERE id % 4 = {round}"
        ));
        db.run(&format!("DELETE FROM items WHERE id % 4 = {round}"));
        db.run("VACUUM items");
        all_found(&mut db, "items", metric, all.row(4_000 + round));
    }
    // As many rows as at first, in the room of those that went: what is added is the lists' unevenness.
    let changed = size(&mut db);
    assert!(changed <= 2 * built, "{built} {changed}");
    let queries = all.slice(4_000..4_020);
    let recall = mean_recall(&mut db, "items", metric, &queries, ALL);
    assert!(recall >= 0.95, "{recall}");
}

#[test]
fn only_vectors_that_lie_out_of_line_are_refined_by_themselves() {
    let mut db = Database::new("refine_auto");
    for (dim, kinds) in [
        (470, &[("vector", false)][..]),
        (480, &[("vector", true), ("halfvec", false)]),
    ] {
        let vectors = Vectors::clustered(1_000, dim, 10, 5);
        table(&mut db, "items", "vector", &vectors);
        db.run(&format!(
            "SELECT distillvq_train('items', 'embedding', 'm{dim}', lists => 10, subquantizers => 8)"
        ));
        for (kind, refined) in kinds {
            db.run(&format!(
                "DROP INDEX IF EXISTS items_idx; ALTER TABLE items ALTER embedding TYPE {kind}({dim})"
            ));
            let mut of = |refine: &str| {
                db.run(&format!(
                    "DROP INDEX IF EXISTS items_idx;
                     CREATE INDEX items_idx ON items USING distillvq (embedding {kind}_cosine_ops)
                     WITH (model = m{dim}, refine = {refine})"
                ));
                size(&mut db)
            };
            let [auto, none, sq7] = ["auto", "none", "sq7"].map(&mut of);
            // Seven bits a dimension, of which there are 512 with those that fill a block up.
            assert!(sq7 >= none + 1_000 * 448, "{kind} {dim}");
            assert_eq!(auto, if *refined { sq7 } else { none }, "{kind} {dim}");
        }
        db.run("DROP TABLE items");
    }
}

#[test]
fn vectors_too_long_for_a_page_of_codes() {
    let mut db = Database::new("refine_long");
    db.run(
        "CREATE TABLE items (id bigint, embedding vector(9300));
         INSERT INTO items SELECT i, array_fill(i::real, ARRAY[9300])::vector FROM generate_series(1, 5) i",
    );
    let sql = "CREATE INDEX items_idx ON items USING distillvq (embedding)";
    let refusal = db.refusal(&format!("{sql} WITH (refine = sq7)"));
    assert_eq!(refusal.state, "54000", "{refusal:?}");
    assert!(refusal.message.contains("9300"), "{refusal:?}");
    assert!(refusal.hint.contains("refine = none"), "{refusal:?}");
    db.run(sql);
    all_found(&mut db, "items", Metric::L2, &[1.0; 9_300]);
}
