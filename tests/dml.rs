//! Changing indexed tables: inserts, updates, deletes, vacuum, many sessions at once, and rows that no code can represent.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use common::{
    ALL, Database, Sql, all_found, by_index, by_table, exact, ids, mean_recall, memory, search,
    table,
};
use distillvq_harness::{DataSet, Embedding, Metric, Vectors, load};
use postgres::Client;

/// A database with a trained index `one` over 2,000 vectors, and further vectors of the same kind.
fn items(name: &str, metric: Metric) -> (Database, Vectors) {
    let mut db = Database::new(name);
    let all = Vectors::clustered(4_000, 12, 20, 21);
    table(&mut db, "items", "vector", &all.slice(0..2_000));
    db.run(&format!(
        "CREATE INDEX one ON items USING distillvq (embedding vector_{}_ops)",
        metric.name()
    ));
    (db, all.slice(2_000..4_000))
}

/// Inserts vectors, numbered from `first`, in a table with a column of that type.
fn insert(client: &mut Client, table: &str, first: i64, vectors: &Vectors) {
    let sql = format!("INSERT INTO {table} VALUES ($1, $2)");
    let statement = client.prepare(&sql).unwrap();
    for (id, vector) in (first..).zip(vectors.iter()) {
        client
            .execute(&statement, &[&id, &Embedding(vector)])
            .unwrap();
    }
}

fn size(client: &mut Client) -> i64 {
    client.one("SELECT pg_relation_size('one')")
}

fn tuples(client: &mut Client, relation: &str) -> f32 {
    client.one(&format!(
        "SELECT reltuples FROM pg_class WHERE relname = '{relation}'"
    ))
}

#[test]
fn changes_are_found_at_once() {
    for metric in Metric::ALL {
        let (mut db, others) = items(&format!("at_once_{}", metric.name()), metric);
        let queries = others.slice(1_000..1_020);
        insert(&mut db, "items", 10_000, &others.slice(0..300));
        db.run(
            "UPDATE items SET embedding = (SELECT embedding FROM items i WHERE i.id = items.id + 500), id = id + 20000
             WHERE id < 250;
             DELETE FROM items WHERE id % 7 = 0",
        );
        for _ in 0..2 {
            all_found(&mut db, "items", metric, queries.row(0));
            let recall = mean_recall(&mut db, "items", metric, &queries, ALL);
            assert!(recall >= 0.99, "{metric:?}: {recall}");
            db.run("VACUUM items");
        }
    }
}

#[test]
fn an_inserted_row_is_its_own_nearest() {
    let (mut db, others) = items("own", Metric::L2);
    insert(&mut db, "items", 10_000, &others.slice(0..200));
    db.run("SET distillvq.probes = 1");
    let mut missed = 0;
    for (id, vector) in (10_000..10_200).zip(others.iter()) {
        let found = by_index(&mut db, &search("items", Metric::L2, vector, "LIMIT 1"));
        missed += usize::from(found != [(id, 0.0)]);
    }
    assert!(
        missed <= 4,
        "{missed} of 200 are not in the list that is probed first"
    );
}

#[test]
fn an_untrained_index_stays_exact() {
    let mut db = Database::new("stays");
    let vectors = Vectors::clustered(1_400, 6, 5, 8);
    db.run(
        "CREATE TABLE items (id bigint, embedding vector(6));
         CREATE INDEX one ON items USING distillvq (embedding)",
    );
    let all = search("items", Metric::L2, vectors.row(0), "");
    assert_eq!(by_index(&mut db, &all), []);
    insert(&mut db, "items", 0, &vectors);
    db.run_each(&["DELETE FROM items WHERE id % 3 = 0", "VACUUM items"]);
    for query in vectors.slice(0..5).iter() {
        exact(&mut db, &search("items", Metric::L2, query, "LIMIT 50"));
        exact(&mut db, &search("items", Metric::L2, query, ""));
    }
    assert_eq!(tuples(&mut db, "one"), tuples(&mut db, "items"));
}

#[test]
fn vacuum_counts() {
    let (mut db, others) = items("counts", Metric::L2);
    db.run_each(&["DELETE FROM items WHERE id < 700", "VACUUM items"]);
    assert_eq!(
        (tuples(&mut db, "items"), tuples(&mut db, "one")),
        (1_300.0, 1_300.0)
    );
    insert(&mut db, "items", 10_000, &others.slice(0..100));
    db.run_each(&[
        "DELETE FROM items WHERE id = 1999",
        "VACUUM (INDEX_CLEANUP ON) items",
    ]);
    assert_eq!(
        (tuples(&mut db, "items"), tuples(&mut db, "one")),
        (1_399.0, 1_399.0)
    );
    let pages: i32 = db.one("SELECT relpages FROM pg_class WHERE relname = 'one'");
    assert_eq!(i64::from(pages) * 8_192, size(&mut db));
    db.run_each(&["VACUUM items", "ANALYZE items"]); // with nothing to do
    assert_eq!(tuples(&mut db, "one"), 1_399.0);
    let noise = db.notices("VACUUM (VERBOSE) items");
    assert!(!noise.contains("WARNING"), "{noise}");
}

#[test]
fn deleted_everything() {
    let (mut db, others) = items("everything", Metric::L2);
    let query = others.row(0);
    let before = size(&mut db);
    db.run_each(&["DELETE FROM items", "VACUUM items"]);
    assert_eq!(
        by_index(&mut db, &search("items", Metric::L2, query, "")),
        []
    );
    assert_eq!(tuples(&mut db, "one"), 0.0);
    load::copy_vectors(&mut db, "items", &others).unwrap();
    all_found(&mut db, "items", Metric::L2, query);
    let recall = mean_recall(&mut db, "items", Metric::L2, &others.slice(0..20), ALL);
    assert!(recall >= 0.99, "{recall}");
    let after = size(&mut db);
    assert!(
        after <= before + before / 4,
        "{before} bytes became {after}"
    );
}

#[test]
fn space_is_used_again() {
    let (mut db, others) = items("again", Metric::Cosine);
    let rounds: Vec<i64> = (0..6)
        .map(|_| {
            db.run_each(&["DELETE FROM items", "VACUUM items"]);
            load::copy_vectors(&mut db, "items", &others).unwrap();
            size(&mut db)
        })
        .collect();
    assert_eq!(rounds[1], rounds[5], "{rounds:?}");
    db.run_each(&["UPDATE items SET id = id + 1", "VACUUM items"]);
    let updated = size(&mut db);
    for _ in 0..4 {
        db.run_each(&["UPDATE items SET embedding = embedding", "VACUUM items"]);
    }
    let grown = size(&mut db);
    assert!(
        grown <= updated + updated / 4,
        "{updated} bytes became {grown}"
    );
    all_found(&mut db, "items", Metric::Cosine, others.row(0));
}

#[test]
fn the_planner_is_told_what_is_there() {
    let mut db = Database::new("told");
    let all = Vectors::clustered(3_000, 12, 20, 47);
    table(&mut db, "items", "vector", &all.slice(0..2_000));
    db.run(
        "CREATE INDEX one ON items USING distillvq (embedding);
         CREATE INDEX part ON items USING distillvq (embedding) WHERE id % 4 = 0;
         CREATE INDEX fine ON items USING distillvq (embedding) WITH (refine = sq7)",
    );
    let told = |db: &mut Database, rows: &[f32]| {
        for (index, rows) in ["one", "fine", "part"].into_iter().zip(rows) {
            assert_eq!(tuples(db, index), *rows, "{index}");
            let right = format!(
                "SELECT relpages = pg_relation_size(oid) / 8192 FROM pg_class WHERE relname = '{index}'"
            );
            assert!(db.one::<bool>(&right), "{index}");
        }
    };
    told(&mut db, &[2_000.0, 2_000.0, 500.0]);
    // A vacuum that has nothing to remove tells how many there should be now.
    insert(&mut db, "items", 2_000, &all.slice(2_000..2_800));
    db.run("VACUUM items");
    told(&mut db, &[2_800.0, 2_800.0, 700.0]);
    db.run_each(&[
        "VACUUM items",
        "INSERT INTO items VALUES (1, NULL)",
        "DELETE FROM items WHERE id % 4 = 0 AND id < 800",
        "VACUUM items",
    ]);
    told(&mut db, &[2_600.0, 2_600.0, 500.0]);
    // Rows that others still see, or that nobody sees yet, are there too.
    let mut other = db.session();
    other.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM items");
    db.run_each(&[
        "DELETE FROM items WHERE id BETWEEN 1001 AND 1004",
        "VACUUM items",
    ]);
    told(&mut db, &[2_601.0, 2_601.0, 500.0]); // one of them is NULL
    other.run("COMMIT");
    db.run("VACUUM (PARALLEL 2) items");
    told(&mut db, &[2_596.0, 2_596.0, 499.0]);
    // Holes among refine codes are no rows.
    db.run_each(&[
        "INSERT INTO items SELECT id + 5000, embedding FROM items WHERE id BETWEEN 1100 AND 1139",
        "DELETE FROM items WHERE id = 2003",
        "VACUUM items",
    ]);
    told(&mut db, &[2_635.0, 2_635.0, 509.0]);
    db.run("ANALYZE items");
    assert!(tuples(&mut db, "one") >= 2_600.0);
    db.run("REINDEX TABLE items");
    assert_eq!(tuples(&mut db, "fine"), tuples(&mut db, "one"));
}

#[test]
fn a_vacuum_that_has_nothing_to_remove_reads_few_pages() {
    let (mut db, others) = items("nothing", Metric::L2);
    db.run(
        "CREATE INDEX fine ON items USING distillvq (embedding) WITH (refine = sq7);
         CREATE INDEX part ON items USING distillvq (embedding) WHERE id % 4 = 0",
    );
    db.run("VACUUM items");
    insert(&mut db, "items", 10_000, &others.slice(0..50));
    let accesses = |db: &Database| {
        let sql = "SELECT sum(idx_blks_read + idx_blks_hit)::bigint FROM pg_statio_user_indexes";
        db.session().one::<i64>(sql)
    };
    let vacuumed = |db: &mut Database| {
        db.run("SELECT pg_stat_force_next_flush()");
        let before = accesses(db);
        db.run_each(&["VACUUM items", "SELECT pg_stat_force_next_flush()"]);
        accesses(db) - before
    };
    // The three metapages, the rows of the index that is too small to train, and twice the first page of the others' samples.
    assert_eq!(vacuumed(&mut db), 10);
    // With something to remove it does, so accesses are seen.
    db.run("DELETE FROM items WHERE id < 100");
    assert!(vacuumed(&mut db) > 10);
}

#[test]
fn a_partial_index_of_which_nothing_is_known_is_counted() {
    let mut db = Database::new("grown");
    let all = Vectors::clustered(4_000, 12, 20, 47);
    table(&mut db, "items", "vector", &all.slice(0..0));
    db.run(
        "CREATE INDEX part ON items USING distillvq (embedding) WHERE id % 4 = 0;
         CREATE INDEX fine ON items USING distillvq (embedding) WITH (refine = sq7) WHERE id % 2 = 0",
    );
    load::copy_vectors(&mut db, "items", &all).unwrap();
    db.run("VACUUM items");
    assert_eq!(tuples(&mut db, "part"), 1_000.0);
    db.run_each(&[
        "REINDEX INDEX fine",
        "DELETE FROM items WHERE id < 8",
        "VACUUM items",
    ]);
    load::copy_vectors(&mut db, "items", &all).unwrap();
    db.run("VACUUM items");
    // Of a table that is not read whole its own number is an estimate.
    let fine = tuples(&mut db, "fine");
    assert!((3_800.0..4_200.0).contains(&fine), "{fine}");
}

#[test]
fn recall_does_not_wear_out() {
    let mut db = Database::new("wear");
    let set = DataSet::shipped().unwrap();
    table(
        &mut db,
        "documents",
        "vector",
        &set.documents.slice(0..10_000),
    );
    db.run_each(&[
        "CREATE TABLE items AS SELECT * FROM documents WHERE id % 2 = 0",
        "SELECT distillvq_train('items', 'embedding', 'before', seed => 1)",
        "CREATE INDEX one ON items USING distillvq (embedding vector_cosine_ops) WITH (model = before)",
        "INSERT INTO items SELECT * FROM documents WHERE id % 2 = 1",
        "DELETE FROM items WHERE id % 2 = 0",
        "VACUUM items",
    ]);
    let queries = set.test.slice(0..60);
    let recalls = |db: &mut Database| {
        [5, 15, ALL].map(|probes| mean_recall(db, "items", Metric::Cosine, &queries, probes))
    };
    let worn = recalls(&mut db);
    db.run("REINDEX INDEX one");
    let rebuilt = recalls(&mut db);
    db.run("ALTER INDEX one RESET (model); REINDEX INDEX one");
    let trained = recalls(&mut db);
    let loss = |than: [f64; 3]| {
        worn.iter()
            .zip(than)
            .map(|(worn, fresh)| fresh - worn)
            .fold(0.0, f64::max)
    };
    // Three of the 600 neighbors.
    assert!(
        loss(rebuilt) < 3.5 / 600.0,
        "{worn:?}, rebuilt with the same model {rebuilt:?}"
    );
    // Models of other seeds lose between one point and eight.
    assert!(
        loss(trained) <= 0.06,
        "{worn:?}, trained on the very rows {trained:?}"
    );
}

#[test]
fn what_is_rolled_back_is_not_there() {
    let (mut db, others) = items("rolled_back", Metric::L2);
    let query = others.row(0);
    db.run("BEGIN");
    insert(&mut db, "items", 10_000, &others.slice(0..200));
    db.run("SAVEPOINT s");
    insert(&mut db, "items", 20_000, &others.slice(200..300));
    db.run("ROLLBACK TO s");
    all_found(&mut db, "items", Metric::L2, query);
    db.run("ROLLBACK");
    all_found(&mut db, "items", Metric::L2, query);
    db.run("VACUUM items");
    all_found(&mut db, "items", Metric::L2, query);
    assert_eq!(tuples(&mut db, "one"), 2_000.0);
    insert(&mut db, "items", 30_000, &others.slice(300..400)); // may take the places of the dead
    all_found(&mut db, "items", Metric::L2, query);
}

#[test]
fn nulls_and_zeros() {
    for metric in Metric::ALL {
        let (mut db, others) = items(&format!("nulls_{}", metric.name()), metric);
        db.run(
            "INSERT INTO items VALUES (-1, NULL), (-2, array_fill(0, ARRAY[12])::vector);
             UPDATE items SET embedding = NULL WHERE id BETWEEN 0 AND 99;
             UPDATE items SET embedding = array_fill(0, ARRAY[12])::vector WHERE id BETWEEN 100 AND 149",
        );
        db.run("SET distillvq.iterative_scan = relaxed_order");
        let zeros = |db: &mut Database| {
            let found = ids(&by_index(db, &search("items", metric, others.row(0), "")));
            let truth = "SELECT count(*) FROM items WHERE embedding IS NOT NULL";
            let zeros = db.one::<i64>(truth) - found.len() as i64;
            assert!(!found.contains(&-1) && !found.contains(&7));
            zeros
        };
        let expected = if metric == Metric::Cosine { 51 } else { 0 }; // as pgvector: no direction, no cosine
        assert_eq!(zeros(&mut db), expected, "{metric:?}");
        db.run("VACUUM items");
        assert_eq!(zeros(&mut db), expected, "{metric:?}");
        db.run("REINDEX INDEX one");
        assert_eq!(zeros(&mut db), expected, "{metric:?}");
        db.run("UPDATE items SET embedding = array_fill(1, ARRAY[12])::vector WHERE embedding IS NULL OR id < 150");
        all_found(&mut db, "items", metric, others.row(0));
    }
}

#[test]
fn rows_beyond_all_measure() {
    for metric in Metric::ALL {
        for kind in ["vector", "halfvec"] {
            let mut db = Database::new(&format!("beyond_{kind}_{}", metric.name()));
            let vectors = Vectors::clustered(2_000, 4, 20, 2);
            table(&mut db, "items", kind, &vectors);
            let strange = |db: &mut Database, first: i32| {
                let sizes: &[&str] = if kind == "vector" {
                    &[
                        "1e30", "1e20", "3.4e38", "-1e19", "1e15", "-1e6", "1e-20", "1e-38",
                        "1e-45",
                    ]
                } else {
                    &[
                        "65504", "-65504", "3e4", "6e-5", "6e-8", "1e-7", "-1e3", "1e4", "2e-4",
                    ]
                };
                for (id, size) in (first..).zip(sizes) {
                    db.run(&format!(
                        "INSERT INTO items VALUES ({id}, '[{size},0,{size},1]')"
                    ));
                    db.run(&format!(
                        "INSERT INTO items VALUES ({}, '[0,{size},0,0]')",
                        id + 100
                    ));
                }
            };
            strange(&mut db, 10_000); // there before the build
            db.run(&format!(
                "CREATE INDEX one ON items USING distillvq (embedding {kind}_{}_ops)",
                metric.name()
            ));
            strange(&mut db, 20_000); // inserted
            db.run(&format!("SET distillvq.probes = {ALL}"));
            let far = [
                [1e15, 0.0, 1e15, 1.0],
                [0.0, 1e6, 0.0, 0.0],
                [0.0, -1.0, 0.0, 0.0],
                [6e4, 0.0, 0.0, 0.0],
            ];
            for query in vectors.slice(0..4).iter().chain(far.iter().map(|q| &q[..])) {
                if kind == "halfvec" && query.iter().any(|x| x.abs() > 65_504.0) {
                    continue;
                }
                let sql = search("items", metric, query, "LIMIT 60");
                let (found, truth) = (by_index(&mut db, &sql), by_table(&mut db, &sql));
                let recall = common::recall(&found, &truth);
                assert!(recall >= 0.98, "{kind} {metric:?} {query:?}: {recall}");
            }
            all_found(&mut db, "items", metric, vectors.row(0));
            db.run("VACUUM items");
            all_found(&mut db, "items", metric, vectors.row(1));
        }
    }
}

#[test]
fn a_table_of_outliers_alone() {
    // One direction, lengths over many magnitudes: nothing that a quantizer of few bits could keep apart.
    let mut db = Database::new("outliers");
    db.run(
        "CREATE TABLE items (id bigint, embedding vector(3));
         INSERT INTO items SELECT i, ARRAY[10 ^ (i / 100.0), 1, i]::real[]::vector FROM generate_series(-1500, 1500) i",
    );
    for metric in Metric::ALL {
        db.run(&format!(
            "CREATE INDEX one ON items USING distillvq (embedding vector_{}_ops)",
            metric.name()
        ));
        db.run(&format!("SET distillvq.probes = {ALL}"));
        for query in [[1.0, 0.0, 0.0], [1e10, 1.0, 0.0], [0.0, 0.0, -700.0]] {
            let sql = search("items", metric, &query, "LIMIT 20");
            let recall = common::recall(&by_index(&mut db, &sql), &by_table(&mut db, &sql));
            assert!(recall >= 0.95, "{metric:?} {query:?}: {recall}");
            all_found(&mut db, "items", metric, &query);
        }
        db.run("DROP INDEX one");
    }
}

#[test]
fn many_sessions_at_once() {
    const ROWS: i64 = 300;
    let (mut db, others) = items("sessions", Metric::L2);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let writers: Vec<_> = (0i64..4)
            .map(|writer| {
                let mut session = db.session();
                let part = others.slice(writer as usize * 300..writer as usize * 300 + 300);
                scope.spawn(move || insert(&mut session, "items", 10_000 + writer * ROWS, &part))
            })
            .collect();
        let (mut reader, mut deleter, done, query) =
            (db.session(), db.session(), &done, others.row(1_500));
        scope.spawn(move || {
            reader.run("SET distillvq.iterative_scan = relaxed_order");
            while !done.load(Ordering::Relaxed) {
                // A row that was there all the time is always found, and none twice.
                let found = ids(&by_index(
                    &mut reader,
                    &search("items", Metric::L2, query, ""),
                ));
                assert!(
                    found.windows(2).all(|pair| pair[0] < pair[1]),
                    "rows come twice"
                );
                assert_eq!(
                    found
                        .iter()
                        .filter(|&&id| (1_000..2_000).contains(&id))
                        .count(),
                    1_000
                );
            }
        });
        scope.spawn(move || {
            let mut first = 0;
            while !done.load(Ordering::Relaxed) {
                deleter.run(&format!(
                    "DELETE FROM items WHERE id BETWEEN {first} AND {}",
                    first + 49
                ));
                deleter.run("VACUUM items");
                first = (first + 50).min(950);
                thread::sleep(Duration::from_millis(20));
            }
        });
        for writer in writers {
            writer.join().unwrap();
        }
        thread::sleep(Duration::from_millis(300));
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(
        db.one::<i64>("SELECT count(*) FROM items WHERE id >= 10000"),
        4 * ROWS
    );
    all_found(&mut db, "items", Metric::L2, others.row(0));
    // Rows are counted anew only where there is something to remove, and only on the pages that are looked at.
    db.run("DELETE FROM items WHERE id = 10000");
    db.run("VACUUM (DISABLE_PAGE_SKIPPING, INDEX_CLEANUP) items");
    all_found(&mut db, "items", Metric::L2, others.row(0));
    assert_eq!(tuples(&mut db, "one"), tuples(&mut db, "items"));
}

#[test]
fn many_sessions_fill_an_empty_index() {
    let mut db = Database::new("fill");
    let vectors = Vectors::clustered(1_200, 12, 20, 21);
    db.run(
        "CREATE TABLE items (id bigint, embedding vector(12));
         CREATE INDEX one ON items USING distillvq (embedding)",
    );
    thread::scope(|scope| {
        for part in 0..4 {
            let (mut session, rows) = (db.session(), vectors.slice(part * 300..part * 300 + 300));
            scope.spawn(move || insert(&mut session, "items", part as i64 * 300, &rows));
        }
    });
    exact(&mut db, &search("items", Metric::L2, vectors.row(0), ""));
    assert_eq!(db.one::<i64>("SELECT count(*) FROM items"), 1_200);
}

#[test]
fn a_vacuum_of_several_indexes_in_parallel() {
    let (mut db, others) = items("parallel", Metric::L2);
    db.run(
        "CREATE INDEX two ON items USING distillvq (embedding vector_cosine_ops);
         CREATE INDEX three ON items USING distillvq (embedding vector_ip_ops) WITH (bits = 8)",
    );
    db.run_each(&[
        "SET min_parallel_index_scan_size = 0",
        "DELETE FROM items WHERE id % 2 = 0",
        "VACUUM (PARALLEL 2) items",
    ]);
    for metric in Metric::ALL {
        all_found(&mut db, "items", metric, others.row(0));
    }
    for index in ["one", "two", "three"] {
        assert_eq!(tuples(&mut db, index), 1_000.0, "{index}");
    }
}

#[test]
fn a_vacuum_in_several_passes() {
    // Before PostgreSQL 17 the least memory is too much for that.
    if common::server().installation().version() < 17 {
        return;
    }
    // With the least memory VACUUM keeps so few dead rows in mind that it visits the index several times.
    let mut db = Database::new("passes");
    db.run(
        "CREATE TABLE items (id bigint, embedding vector(4)) WITH (fillfactor = 10); SELECT setseed(0.3);
         INSERT INTO items SELECT i, ARRAY(SELECT random() + i * 0 FROM generate_series(1, 4))::vector
         FROM generate_series(1, 60000) i;
         CREATE INDEX one ON items USING distillvq (embedding) WITH (lists = 20)",
    );
    db.run_each(&[
        "SET maintenance_work_mem = '64kB'",
        "DELETE FROM items WHERE id % 2 = 0",
    ]);
    db.run("VACUUM items");
    let query = [0.5, 0.1, 0.9, 0.2];
    db.run(
        "SET enable_seqscan = off; SET enable_sort = off;
         SET distillvq.iterative_scan = relaxed_order",
    );
    let distance = format!("embedding <-> {}", common::literal(&query));
    let counts: String = db.one(&format!(
        "SELECT format('%s %s %s', count(*), count(DISTINCT id), sum(id % 2))
         FROM (SELECT id FROM items ORDER BY {distance} OFFSET 0) s"
    ));
    assert_eq!(counts, "30000 30000 30000");
    assert_eq!(tuples(&mut db, "one"), 30_000.0);
}

#[test]
fn copy_and_merge_and_upsert() {
    let (mut db, others) = items("statements", Metric::L2);
    load::copy_vectors(&mut db, "items", &others.slice(0..10)).unwrap(); // ids come twice: the index does not care
    db.run(
        "DELETE FROM items WHERE id < 10; ALTER TABLE items ADD PRIMARY KEY (id);
         INSERT INTO items SELECT id, embedding FROM items WHERE id < 500
             ON CONFLICT (id) DO UPDATE SET embedding = excluded.embedding + excluded.embedding;
         MERGE INTO items USING (SELECT id + 400 AS id, embedding FROM items WHERE id > 1800) s ON items.id = s.id
             WHEN MATCHED THEN UPDATE SET embedding = s.embedding
             WHEN NOT MATCHED THEN INSERT VALUES (s.id, s.embedding)",
    );
    all_found(&mut db, "items", Metric::L2, others.row(0));
    let recall = mean_recall(&mut db, "items", Metric::L2, &others.slice(100..110), ALL);
    assert!(recall >= 0.99, "{recall}");
}

#[test]
fn changes_do_not_use_up_memory() {
    let (mut db, others) = items("memory", Metric::L2);
    insert(&mut db, "items", 10_000, &others.slice(0..100));
    let before = memory(&mut db);
    db.run("BEGIN");
    insert(&mut db, "items", 20_000, &others);
    db.run("INSERT INTO items SELECT id + 100000, embedding FROM items; COMMIT");
    let inserted = memory(&mut db) - before;
    assert!(
        inserted < 8 << 20,
        "{inserted} bytes more after 6,000 inserts"
    );
    for _ in 0..3 {
        db.run_each(&[
            "UPDATE items SET embedding = embedding",
            "VACUUM items",
            "REINDEX INDEX one",
        ]);
    }
    let before = memory(&mut db);
    for _ in 0..3 {
        db.run_each(&[
            "UPDATE items SET embedding = embedding",
            "VACUUM items",
            "REINDEX INDEX one",
        ]);
    }
    let rebuilt = memory(&mut db) - before;
    assert!(
        rebuilt < 16 << 20,
        "{rebuilt} bytes more after three further builds"
    );
}
