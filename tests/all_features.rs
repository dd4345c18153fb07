//! All features once, in a few seconds, for `make test-valgrind`.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{
    ALL, Database, Sql, all_found, by_index, exact, in_order, mean_recall, search, table,
};
use distillvq_harness::{Metric, Vectors};

#[test]
fn everything_once() {
    let mut db = Database::new("all_features");
    let all = Vectors::clustered(1_220, 12, 10, 8);
    let queries = all.slice(1_200..1_205);
    for (kind, metric, options) in [
        ("vector", Metric::L2, "lists = 6"),
        (
            "halfvec",
            Metric::Cosine,
            "lists = 6, bits = 8, refine = sq7",
        ),
    ] {
        db.run("DROP TABLE IF EXISTS items");
        table(&mut db, "items", kind, &all.slice(0..1_200));
        let name = metric.name();
        db.run(&format!(
            "SELECT distillvq_train('items', 'embedding', 'm', metric => '{name}', lists => 6);
             CREATE INDEX one ON items USING distillvq (embedding {kind}_{name}_ops) WITH ({options})"
        ));
        let recall = mean_recall(&mut db, "items", metric, &queries, ALL);
        assert!(recall >= 0.98, "{recall}");
        // Enough searches for VACUUM to measure their recall.
        let operator = metric.operator();
        db.run(&format!(
            "SET enable_seqscan = off;
             SELECT (SELECT i.id FROM items i ORDER BY i.embedding {operator} q.embedding LIMIT 1)
             FROM items q WHERE q.id < 100;
             RESET enable_seqscan"
        ));
        db.run_each(&[
            "INSERT INTO items SELECT id + 5000, embedding FROM items WHERE id < 60",
            "UPDATE items SET id = -id WHERE id BETWEEN 100 AND 120",
            "DELETE FROM items WHERE id % 5 = 0",
            "VACUUM items",
            "INSERT INTO items SELECT id + 9000, embedding FROM items WHERE id < 90",
            "SELECT distillvq_train('one', queries => 'items', query_column => 'embedding')",
            "SELECT distillvq_import_model('n', distillvq_export_model('m'), replace => true)",
            "REINDEX INDEX CONCURRENTLY one",
        ]);
        assert!(db.one::<i64>("SELECT distillvq_reset_query_sample('one')") >= 64);
        all_found(&mut db, "items", metric, queries.row(0));
        let sql = search(
            "items WHERE id % 3 = 0",
            metric,
            queries.row(1),
            "LIMIT 300",
        );
        in_order(&by_index(&mut db, &sql));
        db.refusal("CREATE INDEX two ON items USING distillvq (embedding) WITH (model = missing)");
        db.refusal("SELECT distillvq_import_model('o', '\\x00')");
        db.refusal("INSERT INTO items SELECT 1, '[1]'");
    }
    db.run("CREATE TABLE few AS SELECT * FROM items LIMIT 50; CREATE INDEX ON few USING distillvq (embedding halfvec_l2_ops)");
    exact(&mut db, &search("few", Metric::L2, queries.row(2), ""));
}
