//! Searches in sessions: cursors, joins, functions, prepared statements, and snapshots.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{
    ALL, Database, Sql, all_found, by_index, by_table, has_module, ids, in_order, literal, recall,
    search, table,
};
use distillvq_harness::{Embedding, Metric, Vectors};

/// A database with a trained index over `items`, and queries.
fn items(name: &str, rows: usize, dim: usize) -> (Database, Vectors) {
    let mut db = Database::new(name);
    let all = Vectors::clustered(rows + 50, dim, 1, 5);
    table(&mut db, "items", "vector", &all.slice(0..rows));
    db.run("CREATE INDEX items_idx ON items USING distillvq (embedding); ANALYZE items");
    (db, all.slice(rows..rows + 50))
}

#[test]
fn cursors_take_up_where_they_stopped() {
    let (mut db, queries) = items("cursors", 3_000, 16);
    let query = queries.row(0);
    let whole = by_index(&mut db, &search("items", Metric::L2, query, "LIMIT 700"));
    let sql = search("items", Metric::L2, query, "");
    db.run("BEGIN; SET enable_seqscan = off; SET enable_sort = off");
    db.run(&format!("DECLARE c NO SCROLL CURSOR FOR {sql}"));
    let mut found: Vec<i64> = Vec::new();
    for (savepoint, count) in [1, 9, 40, 300, 350].into_iter().enumerate() {
        db.run(&format!("SAVEPOINT s{savepoint}"));
        found.extend(db.column::<i64>(&format!("FETCH {count} FROM c")));
        if savepoint == 2 {
            // An open cursor survives the failure of a later subtransaction, and the catalogs' and pages' changes in it.
            // The rows are far away: near ones would be compared with the others, and may bring some of those forward.
            db.run(
                "SAVEPOINT t; INSERT INTO items SELECT 7000 + id, embedding + array_fill(9, ARRAY[16])::vector
                 FROM items LIMIT 100",
            );
            db.refusal("SELECT 1 / 0");
            db.run("ROLLBACK TO t");
        }
    }
    let expected: Vec<i64> = whole.iter().map(|&(id, _)| id).collect();
    assert_eq!(found, expected);
    db.run("CLOSE c; COMMIT");
}

#[test]
fn a_cursor_survives_the_rollback_of_fetches() {
    let (mut db, queries) = items("fetches", 2_000, 16);
    let sql = search("items", Metric::L2, queries.row(0), "");
    db.run("BEGIN; SET enable_seqscan = off; SET enable_sort = off");
    db.run(&format!("DECLARE c NO SCROLL CURSOR FOR {sql}"));
    let first: Vec<i64> = db.column("FETCH 10 FROM c");
    db.run("SAVEPOINT s");
    let second: Vec<i64> = db.column("FETCH 10 FROM c");
    db.run("ROLLBACK TO s");
    // A cursor's position is not transactional: it goes on behind what was fetched.
    let third: Vec<i64> = db.column("FETCH 10 FROM c");
    let mut all = [first, second, third].concat();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 30);
    db.run("COMMIT");
}

#[test]
fn cursors_that_scroll_and_cursors_that_are_held() {
    let (mut db, queries) = items("scroll", 2_000, 16);
    let query = queries.row(0);
    let whole: Vec<i64> = by_index(&mut db, &search("items", Metric::L2, query, "LIMIT 30"))
        .iter()
        .map(|&(id, _)| id)
        .collect();
    let sql = search("items", Metric::L2, query, "");
    db.run("SET enable_seqscan = off; SET enable_sort = off");
    db.run(&format!(
        "BEGIN; DECLARE c SCROLL CURSOR FOR {sql};
         DECLARE held CURSOR WITH HOLD FOR {sql} LIMIT 30"
    ));
    assert_eq!(db.column::<i64>("FETCH 20 FROM c"), whole[..20]);
    let back: Vec<i64> = db.column("FETCH BACKWARD 5 FROM c");
    let mut expected = whole[14..19].to_vec();
    expected.reverse();
    assert_eq!(back, expected);
    assert_eq!(db.column::<i64>("FETCH ABSOLUTE 3 FROM c"), whole[2..3]);
    assert_eq!(db.column::<i64>("FETCH 4 FROM held"), whole[..4]);
    db.run("COMMIT");
    assert_eq!(db.column::<i64>("FETCH 100 FROM held"), whole[4..]);
    db.run("CLOSE held");
}

#[test]
fn a_cursor_that_does_not_scroll_refuses_to_go_back() {
    let (mut db, queries) = items("backward", 1_200, 16);
    let sql = search("items", Metric::L2, queries.row(0), "");
    for kind in ["", "NO SCROLL"] {
        db.run("BEGIN; SET LOCAL enable_seqscan = off; SET LOCAL enable_sort = off");
        db.run(&format!(
            "DECLARE c {kind} CURSOR FOR {sql}; FETCH 5 FROM c"
        ));
        assert_eq!(db.refusal("FETCH BACKWARD 2 FROM c").state, "55000");
        db.run("ROLLBACK");
    }
}

#[test]
fn cursors_within_subtransactions() {
    let (mut db, queries) = items("subtransactions", 2_000, 16);
    let sql = search("items", Metric::L2, queries.row(0), "");
    let whole = by_index(&mut db, &format!("{sql} LIMIT 60"));
    let whole: Vec<i64> = whole.iter().map(|&(id, _)| id).collect();
    db.run("BEGIN; SET enable_seqscan = off; SET enable_sort = off; SAVEPOINT a");
    db.run(&format!("DECLARE kept NO SCROLL CURSOR FOR {sql}"));
    assert_eq!(db.column::<i64>("FETCH 20 FROM kept"), whole[..20]);
    // One that goes with its subtransaction, in the midst of its search; the other goes on with the one above.
    db.run(&format!(
        "SAVEPOINT b; DECLARE lost NO SCROLL CURSOR FOR {sql}; FETCH 7 FROM lost"
    ));
    assert_eq!(db.column::<i64>("FETCH 20 FROM kept"), whole[20..40]);
    db.run("ROLLBACK TO b");
    assert_eq!(db.refusal("FETCH 1 FROM lost").state, "34000");
    db.run("ROLLBACK TO b; RELEASE a");
    assert_eq!(db.column::<i64>("FETCH 20 FROM kept"), whole[40..]);
    db.run("COMMIT");
}

#[test]
fn two_cursors_at_once() {
    let (mut db, queries) = items("pair", 2_000, 16);
    db.run("BEGIN; SET enable_seqscan = off; SET enable_sort = off");
    let mut whole = Vec::new();
    for (name, query) in ["a", "b"].into_iter().zip(queries.iter()) {
        let sql = search("items", Metric::L2, query, "");
        whole.push(db.column::<i64>(&format!("{sql} LIMIT 60")));
        db.run(&format!("DECLARE {name} NO SCROLL CURSOR FOR {sql}"));
    }
    for piece in 0..3 {
        let rows = piece * 20..piece * 20 + 20;
        assert_eq!(db.column::<i64>("FETCH 20 FROM a"), whole[0][rows.clone()]);
        assert_eq!(db.column::<i64>("FETCH 20 FROM b"), whole[1][rows]);
    }
    db.run("COMMIT");
}

#[test]
fn a_join_searches_for_every_outer_row() {
    let (mut db, queries) = items("outer_rows", 2_000, 16);
    table(&mut db, "queries", "vector", &queries.slice(0..10));
    db.run("INSERT INTO queries VALUES (10, NULL); SET distillvq.probes = 32768");
    let sql = "SELECT q.id * 100000 + i.id, i.distance FROM queries q, LATERAL (
                   SELECT id, embedding <-> q.embedding AS distance FROM items
                   ORDER BY embedding <-> q.embedding LIMIT 5) i
               WHERE q.id < 10 ORDER BY q.id";
    db.run("SET enable_seqscan = off");
    let plan = db.plan(sql);
    assert!(plan.contains("Index Scan using items_idx"), "{plan}");
    let found = db.query(sql, &[]).unwrap();
    db.run("RESET enable_seqscan; SET enable_indexscan = off");
    let truth = db.query(sql, &[]).unwrap();
    assert_eq!((found.len(), truth.len()), (50, 50));
    let rows = |rows: &[postgres::Row]| -> Vec<i64> {
        let mut ids: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
        ids.sort_unstable();
        ids
    };
    let (found, truth) = (rows(&found), rows(&truth));
    let hits = truth.iter().filter(|id| found.contains(id)).count();
    assert!(hits >= 49, "{hits} of 50");
}

#[test]
fn a_subquery_and_a_function() {
    let (mut db, queries) = items("functions", 2_000, 16);
    table(&mut db, "queries", "vector", &queries);
    db.run(
        "SET distillvq.probes = 32768; SET enable_seqscan = off;
         CREATE FUNCTION nearest(vector) RETURNS bigint LANGUAGE plpgsql AS $$
         DECLARE result bigint; BEGIN
             SELECT id INTO result FROM items ORDER BY embedding <-> $1 LIMIT 1; RETURN result;
         END $$;
         CREATE FUNCTION nearest_sql(vector) RETURNS bigint LANGUAGE sql AS
             'SELECT id FROM items ORDER BY embedding <-> $1 LIMIT 1';
         CREATE FUNCTION loop_over(vector) RETURNS SETOF bigint LANGUAGE plpgsql AS $$
         DECLARE one record; BEGIN
             FOR one IN SELECT id FROM items ORDER BY embedding <-> $1 LOOP
                 RETURN NEXT one.id; EXIT WHEN one.id % 10 = 0;
             END LOOP;
         END $$",
    );
    let scans = "SELECT pg_stat_get_xact_numscans('items_idx'::regclass)";
    db.run("BEGIN");
    let nearest: Vec<i64> = db.column("SELECT nearest(embedding) FROM queries ORDER BY id");
    assert!(db.one::<i64>(scans) >= 50, "the index was used");
    assert_eq!(
        nearest,
        db.column::<i64>("SELECT nearest_sql(embedding) FROM queries ORDER BY id")
    );
    let subquery = "SELECT (SELECT i.id FROM items i ORDER BY i.embedding <-> q.embedding LIMIT 1)
                    FROM queries q ORDER BY q.id";
    assert_eq!(nearest, db.column::<i64>(subquery));
    let looped: Vec<i64> = db.column("SELECT loop_over(embedding) FROM queries WHERE id = 0");
    assert_eq!(looped[0], nearest[0]);
    assert_eq!(looped.iter().filter(|&id| id % 10 == 0).count(), 1);
    db.run("COMMIT");
}

#[test]
fn prepared_statements() {
    let (mut db, queries) = items("prepared", 2_000, 16);
    db.run("SET enable_sort = off; SET distillvq.probes = 32768");
    for mode in ["auto", "force_generic_plan"] {
        db.run(&format!("SET plan_cache_mode = {mode}"));
        let statement = db
            .prepare("SELECT id, embedding <-> $1 FROM items WHERE id % 2 = 0 ORDER BY embedding <-> $1 LIMIT $2")
            .unwrap();
        for (round, query) in queries.slice(0..12).iter().enumerate() {
            let limit = 1 + round as i64;
            db.run("SET enable_seqscan = off");
            let rows = db.query(&statement, &[&Embedding(query), &limit]).unwrap();
            let found: Vec<_> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
            assert_eq!(found.len(), limit as usize);
            in_order(&found);
            let rest = format!("LIMIT {limit}");
            let sql = search("items WHERE id % 2 = 0", Metric::L2, query, &rest);
            assert!(recall(&found, &by_table(&mut db, &sql)) >= 0.9);
            if round == 8 {
                db.run("REINDEX INDEX items_idx"); // the plan and the model in memory are of the past
            }
        }
    }
}

#[test]
fn rows_of_other_sessions_count_when_they_are_committed() {
    let (mut db, queries) = items("visibility", 2_000, 8);
    let query = queries.row(0);
    let mut other = db.session();
    other.run(
        "BEGIN; DELETE FROM items WHERE id % 3 = 0;
               UPDATE items SET id = id + 10000 WHERE id % 3 = 1;
               INSERT INTO items SELECT id + 20000, embedding FROM items WHERE id < 100",
    );
    all_found(&mut db, "items", Metric::L2, query);
    all_found(&mut other, "items", Metric::L2, query);
    other.run("SAVEPOINT s; DELETE FROM items; ROLLBACK TO s");
    all_found(&mut other, "items", Metric::L2, query);
    other.run("COMMIT");
    all_found(&mut db, "items", Metric::L2, query);
    other.run(
        "BEGIN; DELETE FROM items; INSERT INTO items VALUES (-1, '[1,2,3,4,5,6,7,8]'); ROLLBACK",
    );
    all_found(&mut db, "items", Metric::L2, query);
    db.run("VACUUM items");
    all_found(&mut db, "items", Metric::L2, query);
}

#[test]
fn a_snapshot_stays_as_it_was() {
    let (mut db, queries) = items("snapshot", 2_000, 8);
    let query = queries.row(0);
    let sql = search("items", Metric::L2, query, "LIMIT 100");
    let all = search("items", Metric::L2, query, "");
    let mut reader = db.session();
    // Of all lists: what a search of some finds depends on the rows that others insert and delete.
    reader.run("SET distillvq.probes = 32768; BEGIN ISOLATION LEVEL REPEATABLE READ");
    let before = by_index(&mut reader, &sql);
    db.run_each(&[
        "DELETE FROM items WHERE id % 2 = 0",
        "UPDATE items SET embedding = '[9,9,9,9,9,9,9,9]' WHERE id % 4 = 1",
        "INSERT INTO items SELECT id + 10000, embedding FROM items",
        "VACUUM items",
        "VACUUM items",
    ]);
    assert_eq!(ids(&by_index(&mut reader, &sql)), ids(&before));
    reader.run("SET distillvq.iterative_scan = relaxed_order");
    assert!(ids(&by_index(&mut reader, &all)).into_iter().eq(0..2_000));
    reader.run("COMMIT");
    all_found(&mut reader, "items", Metric::L2, query);
    all_found(&mut db, "items", Metric::L2, query);
}

#[test]
fn a_cursor_outlives_deletes_and_vacuums() {
    let (mut db, queries) = items("vacuumed", 2_000, 8);
    let sql = search("items", Metric::L2, queries.row(0), "");
    let mut reader = db.session();
    reader.run(&format!(
        "SET enable_seqscan = off; SET enable_sort = off; SET distillvq.iterative_scan = relaxed_order;
         BEGIN; DECLARE c NO SCROLL CURSOR FOR {sql}"
    ));
    let mut found: Vec<i64> = reader.column("FETCH 5 FROM c");
    db.run_each(&[
        "DELETE FROM items WHERE id % 2 = 0",
        "VACUUM items",
        "INSERT INTO items SELECT id + 10000, embedding FROM items",
        "VACUUM items",
    ]);
    found.extend(reader.column::<i64>("FETCH ALL FROM c"));
    found.sort_unstable();
    assert!(found.into_iter().eq(0..2_000));
    reader.run("COMMIT");
}

#[test]
fn heap_only_updates() {
    let (mut db, queries) = items("hot", 1_500, 8);
    db.run_each(&[
        "ALTER TABLE items ADD note int, SET (fillfactor = 40)",
        "VACUUM FULL items",
        "BEGIN",
        "UPDATE items SET note = 1",
    ]);
    let hot: i64 = db.one("SELECT pg_stat_get_xact_tuples_hot_updated('items'::regclass)");
    assert!(hot > 1_000, "{hot} of 1500 updates were heap-only");
    db.run("COMMIT; UPDATE items SET note = note + 1 WHERE id < 700");
    let size: i64 = db.one("SELECT pg_relation_size('items_idx')");
    let query = queries.row(0);
    all_found(&mut db, "items", Metric::L2, query);
    let sql = search("items WHERE note = 2", Metric::L2, query, "LIMIT 40");
    assert_eq!(ids(&by_index(&mut db, &sql)).len(), 40);
    db.run_each(&["VACUUM items", "UPDATE items SET note = 7", "VACUUM items"]);
    all_found(&mut db, "items", Metric::L2, query);
    assert_eq!(
        db.one::<i64>("SELECT pg_relation_size('items_idx')"),
        size,
        "no new entries"
    );
}

#[test]
fn rows_can_be_locked_updated_and_deleted_through_the_index() {
    let (mut db, queries) = items("locked", 2_000, 8);
    let nearest = format!(
        "SELECT id FROM items ORDER BY embedding <-> {} LIMIT 5",
        literal(queries.row(0))
    );
    db.run("SET enable_seqscan = off; SET distillvq.probes = 32768");
    let first: Vec<i64> = db.column(&nearest);
    let mut other = db.session();
    db.run("BEGIN");
    assert_eq!(db.column::<i64>(&format!("{nearest} FOR UPDATE")), first);
    other.run("SET enable_seqscan = off; SET distillvq.probes = 32768");
    let next: Vec<i64> = other.column(&format!("{nearest} FOR UPDATE SKIP LOCKED"));
    assert_eq!(next.len(), 5);
    assert!(next.iter().all(|id| !first.contains(id)));
    db.run("COMMIT");
    db.run(&format!(
        "UPDATE items SET id = -id - 1 WHERE id IN ({nearest})"
    ));
    let renamed: Vec<i64> = first.iter().map(|id| -id - 1).collect();
    assert_eq!(db.column::<i64>(&nearest), renamed);
    db.run(&format!("DELETE FROM items WHERE id IN ({nearest})"));
    assert_eq!(db.column::<i64>(&nearest), next);
}

#[test]
fn serializable_transactions_notice_each_other() {
    let (mut db, queries) = items("serializable", 1_200, 8);
    let sql = search("items", Metric::L2, queries.row(0), "LIMIT 5");
    let mut other = db.session();
    for (session, id) in [(&mut *db, -1), (&mut other, -2)] {
        session.run("BEGIN ISOLATION LEVEL SERIALIZABLE");
        by_index(session, &sql);
        let insert = format!(
            "INSERT INTO items VALUES ({id}, {})",
            literal(queries.row(0))
        );
        session.run(&insert);
    }
    db.run("COMMIT");
    assert_eq!(other.refusal("COMMIT").state, "40001");
}

#[test]
fn pages_in_use_are_the_last_to_be_evicted() {
    if !has_module("pg_buffercache") {
        return;
    }
    let (mut db, queries) = items("in_use", 4_000, 24);
    db.run("CREATE EXTENSION pg_buffercache");
    let mut session = db.session();
    session.run("SET enable_seqscan = off");
    session.run(&format!("SET distillvq.probes = {ALL}"));
    for _ in 0..10 {
        by_index(
            &mut session,
            &search("items", Metric::L2, queries.row(0), "LIMIT 10"),
        );
    }
    // Every search reads all pages of the index but those of encoder and metapage.
    let hot: f64 = db.one(
        "SELECT (count(*) FILTER (WHERE usagecount = 5))::float8 / count(*) FROM pg_buffercache
         WHERE relfilenode = pg_relation_filenode('items_idx') AND relforknumber = 0
         AND reldatabase = (SELECT oid FROM pg_database WHERE datname = current_database())",
    );
    assert!(hot >= 0.9, "{hot} of the index are counted as used often");
}
