//! Builds concurrent with writers and readers, and every kind of rebuild.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use common::{
    ALL, Database, Sql, all_found, by_index, exact, in_order, mean_recall, search, table, verified,
    wait_for_blocked,
};
use distillvq_harness::{Metric, Vectors, load};

/// Vectors and queries of the same kind.
fn vectors(rows: usize, dim: usize) -> (Vectors, Vectors) {
    let all = Vectors::clustered(rows + 20, dim, 30, 1);
    (all.slice(0..rows), all.slice(rows..rows + 20))
}

/// A database with a table `items` of that many vectors, and queries.
fn items(name: &str, rows: usize, dim: usize) -> (Database, Vectors) {
    let mut db = Database::new(name);
    let (vectors, queries) = vectors(rows, dim);
    table(&mut db, "items", "vector", &vectors);
    (db, queries)
}

#[test]
fn rows_of_the_same_transaction() {
    let (vectors, queries) = vectors(1_500, 8);
    let mut db = Database::new("same_transaction");
    db.run("BEGIN; CREATE TABLE items (id bigint, embedding vector(8))");
    load::copy_vectors(&mut db, "items", &vectors).unwrap();
    db.run(
        "DELETE FROM items WHERE id % 10 = 0; UPDATE items SET id = id + 10000 WHERE id % 10 = 1;
            CREATE INDEX ON items USING distillvq (embedding)",
    );
    all_found(&mut db, "items", Metric::L2, queries.row(0));
    db.run("INSERT INTO items SELECT id + 20000, embedding FROM items WHERE id < 50");
    all_found(&mut db, "items", Metric::L2, queries.row(0));
    db.run("COMMIT");
    all_found(&mut db, "items", Metric::L2, queries.row(0));
}

#[test]
fn rows_that_only_an_older_snapshot_sees() {
    let (mut db, queries) = items("older", 1_500, 8);
    let mut reader = db.session();
    reader.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM items");
    db.run("DELETE FROM items WHERE id < 500; CREATE INDEX ON items USING distillvq (embedding)");
    all_found(&mut db, "items", Metric::L2, queries.row(0));
    // Rows of broken HOT chains apart, a new index serves old snapshots too: the rows deleted meanwhile are in it.
    all_found(&mut reader, "items", Metric::L2, queries.row(0));
    reader.run("COMMIT");
}

#[test]
fn built_beside_writers() {
    let (mut db, queries) = items("beside", 1_500, 8);
    let mut writer = db.session();
    writer.run(
        "BEGIN; INSERT INTO items SELECT id + 10000, embedding FROM items WHERE id < 50;
                DELETE FROM items WHERE id BETWEEN 50 AND 99",
    );
    let process: i32 = db.one("SELECT pg_backend_pid()");
    let builder = thread::spawn(move || {
        db.run("CREATE INDEX CONCURRENTLY one ON items USING distillvq (embedding)");
        db
    });
    let watched = writer.one::<String>("SELECT current_database()");
    let mut watcher = common::server().connect_to(&watched).unwrap();
    wait_for_blocked(&mut watcher, process);
    writer.run("UPDATE items SET embedding = '[0,0,0,0,0,0,0,0]' WHERE id = 100; COMMIT");
    let mut db = builder.join().unwrap();
    all_found(&mut db, "items", Metric::L2, queries.row(0));
    writer.run("INSERT INTO items SELECT id + 20000, embedding FROM items WHERE id < 50");
    all_found(&mut db, "items", Metric::L2, queries.row(0));
    db.run("REINDEX INDEX CONCURRENTLY one");
    all_found(&mut db, "items", Metric::L2, queries.row(0));
    let invalid: i64 = db.one("SELECT count(*) FROM pg_index WHERE NOT indisvalid");
    assert_eq!(invalid, 0);
}

#[test]
fn built_and_rebuilt_concurrently_under_load() {
    let (mut db, queries) = items("load", 2_000, 8);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let (done, query) = (&done, queries.row(0));
        for (number, statements) in [
            &["INSERT INTO items SELECT nextval('ids'), embedding FROM items ORDER BY random() LIMIT 5"][..],
            &["UPDATE items SET embedding = embedding + embedding WHERE id IN (SELECT id FROM items ORDER BY random() LIMIT 3)",
              "DELETE FROM items WHERE id >= 100000 AND random() < 0.2"],
            &["VACUUM items"],
        ].into_iter().enumerate() {
            let mut session = db.session();
            if number == 0 {
                session.run("CREATE SEQUENCE ids START 100000");
            }
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    session.run_each(statements);
                }
            });
        }
        let mut reader = db.session();
        scope.spawn(move || {
            while !done.load(Ordering::Relaxed) {
                let sql = search("items", Metric::L2, query, "LIMIT 20");
                let rows = reader.query(&sql, &[]).unwrap();
                let found: Vec<_> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
                in_order(&found);
                assert_eq!(found.len(), 20);
            }
        });
        for round in 0..2 {
            db.run("CREATE INDEX CONCURRENTLY one ON items USING distillvq (embedding)");
            db.run("REINDEX INDEX CONCURRENTLY one");
            db.run("REINDEX TABLE CONCURRENTLY items");
            verified(&mut db);
            if round == 0 {
                db.run("DROP INDEX CONCURRENTLY one");
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    verified(&mut db);
    all_found(&mut db, "items", Metric::L2, queries.row(1));
    assert_eq!(
        db.one::<i64>("SELECT count(*) FROM pg_index WHERE NOT indisvalid"),
        0
    );
    let recall = mean_recall(&mut db, "items", Metric::L2, &queries, ALL);
    assert!(recall >= 0.99, "{recall}");
}

#[test]
fn rebuilt_in_every_way() {
    let (mut db, queries) = items("rebuilt", 1_500, 8);
    db.run("CREATE INDEX one ON items USING distillvq (embedding)");
    for command in [
        "REINDEX INDEX one",
        "REINDEX TABLE CONCURRENTLY items",
        "VACUUM FULL items",
        "ALTER TABLE items ADD stamp timestamptz DEFAULT clock_timestamp()",
        "ALTER TABLE items SET UNLOGGED",
        "ALTER TABLE items SET LOGGED",
    ] {
        db.run(
            "DELETE FROM items WHERE id % 50 = 3;
                INSERT INTO items SELECT id + 10000, embedding FROM items WHERE id < 20",
        );
        db.run(command);
        all_found(&mut db, "items", Metric::L2, queries.row(0));
        let recall = mean_recall(&mut db, "items", Metric::L2, &queries, ALL);
        assert!(recall >= 0.99, "{command}: {recall}");
    }
}

#[test]
fn emptied_and_filled_again() {
    let (mut db, queries) = items("emptied", 1_500, 8);
    db.run(
        "CREATE TABLE spare AS TABLE items;
            CREATE INDEX one ON items USING distillvq (embedding);
            TRUNCATE items",
    );
    assert_eq!(
        by_index(&mut db, &search("items", Metric::L2, queries.row(0), "")),
        []
    );
    db.run("INSERT INTO items TABLE spare");
    for query in queries.iter() {
        exact(&mut db, &search("items", Metric::L2, query, "LIMIT 20"));
    }
    let before: i64 = db.one("SELECT pg_relation_size('one')");
    db.run("REINDEX INDEX one");
    let after: i64 = db.one("SELECT pg_relation_size('one')");
    assert_ne!(before, after, "now it is trained");
    let recall = mean_recall(&mut db, "items", Metric::L2, &queries, ALL);
    assert!(recall >= 0.99, "{recall}");
}

/// What a statement keeps of the index it inserts into is gone when the next one begins, and until then the index cannot be
/// rebuilt, not even by the statement itself.
#[test]
fn rebuilt_between_inserts_of_a_function_and_not_within_one() {
    let (mut db, queries) = items("between", 1_500, 8);
    db.run(
        "CREATE INDEX one ON items USING distillvq (embedding) WITH (lists = 8);
         CREATE TABLE spare AS TABLE items;
         DO $$
         DECLARE command text;
         BEGIN
             FOREACH command IN ARRAY ARRAY[
                 'SELECT 1', 'ALTER INDEX one SET (lists = 20)', 'REINDEX INDEX one', 'TRUNCATE items', 'REINDEX INDEX one'
             ] LOOP
                 EXECUTE command;
                 INSERT INTO items SELECT id, embedding FROM spare;
             END LOOP;
         END $$",
    );
    assert_eq!(db.one::<i64>("SELECT count(*) FROM items"), 3_000);
    all_found(&mut db, "items", Metric::L2, queries.row(0));
    db.run(
        "CREATE FUNCTION rebuild() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             IF new.id = 700 THEN REINDEX INDEX one; END IF;
             RETURN new;
         END $$;
         CREATE TRIGGER rebuild BEFORE INSERT ON items FOR EACH ROW EXECUTE FUNCTION rebuild()",
    );
    let insert = "INSERT INTO items SELECT id, embedding FROM spare";
    assert_eq!(db.refusal(insert).state, "55006");
    all_found(&mut db, "items", Metric::L2, queries.row(0));
}

#[test]
fn a_truncation_undone() {
    let (mut db, queries) = items("truncation", 1_500, 8);
    db.run("CREATE INDEX one ON items USING distillvq (embedding)");
    all_found(&mut db, "items", Metric::L2, queries.row(0));
    db.run("BEGIN; TRUNCATE items; INSERT INTO items VALUES (1, '[1,1,1,1,1,1,1,1]')");
    all_found(&mut db, "items", Metric::L2, queries.row(0));
    db.run("ROLLBACK");
    all_found(&mut db, "items", Metric::L2, queries.row(0));
    let recall = mean_recall(&mut db, "items", Metric::L2, &queries, ALL);
    assert!(recall >= 0.99, "{recall}");
}

#[test]
fn a_column_that_changes_its_type() {
    let (mut db, queries) = items("retyped", 1_500, 8);
    db.run("CREATE INDEX one ON items USING distillvq (embedding)");
    db.run("ALTER TABLE items ALTER embedding TYPE halfvec(8)");
    all_found(&mut db, "items", Metric::L2, queries.row(0));
    db.run(
        "ALTER TABLE items ALTER embedding TYPE vector(4) USING subvector(embedding::vector, 1, 4)",
    );
    let recall = mean_recall(&mut db, "items", Metric::L2, &vectors(1_500, 4).1, ALL);
    assert!(recall >= 0.99, "{recall}");
    // Without dimensions the column could hold anything, but the index keeps to its own.
    db.run(
        "ALTER TABLE items ALTER embedding TYPE vector; INSERT INTO items VALUES (-1, '[1,2,3,4]')",
    );
    all_found(&mut db, "items", Metric::L2, &queries.row(0)[..4]);
    assert_eq!(
        db.refusal("INSERT INTO items VALUES (-2, '[1,2,3]')").state,
        "22000"
    );
    assert_eq!(db.refusal("REINDEX INDEX one").state, "22023");
}

#[test]
fn an_index_that_is_not_valid_is_told_as_that() {
    let mut db = Database::of_items("unfinished", &Vectors::clustered(1_200, 8, 10, 6));
    db.run(
        "CREATE TABLE fuse (a int);
         CREATE FUNCTION same(v vector) RETURNS vector(8) IMMUTABLE LANGUAGE plpgsql AS
             $$ BEGIN IF EXISTS (SELECT FROM public.fuse) THEN RAISE 'blown'; END IF; RETURN v; END $$;
         CREATE INDEX whole ON items USING distillvq ((same(embedding)::vector(8))); INSERT INTO fuse VALUES (1)",
    );
    db.refusal(
        "CREATE INDEX CONCURRENTLY broken ON items USING distillvq ((same(embedding)::vector(8)))",
    );
    db.refusal("REINDEX INDEX CONCURRENTLY whole");
    db.run(
        "TRUNCATE fuse; CREATE INDEX undone ON items USING distillvq (embedding);
         UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'undone'::regclass",
    );
    for (index, remedy) in [
        ("broken", "REINDEX INDEX public.broken"),
        ("whole_ccnew", "DROP INDEX CONCURRENTLY public.whole_ccnew"),
        ("undone", "REINDEX INDEX public.undone"),
    ] {
        for function in [
            "train",
            "calibrate",
            "check",
            "recall",
            "index_info",
            "prewarm",
        ] {
            let refusal = db.refusal(&format!("SELECT distillvq_{function}('{index}')"));
            assert_eq!(refusal.state, "55000", "{index}: {function}: {refusal:?}");
            assert!(refusal.message.contains("not valid"), "{refusal:?}");
            assert!(refusal.hint.contains(remedy), "{refusal:?}");
        }
        let advice: String = db.one(&format!(
            "SELECT advice FROM distillvq_indexes WHERE \"index\" = '{index}'::regclass"
        ));
        assert!(advice.ends_with(remedy), "{advice}");
    }
    db.run_each(&[
        "DROP INDEX CONCURRENTLY whole_ccnew",
        "REINDEX INDEX broken",
        "DROP INDEX undone",
    ]);
    assert_eq!(
        db.one::<i64>("SELECT count(*) FROM pg_index WHERE NOT indisvalid"),
        0
    );
}
