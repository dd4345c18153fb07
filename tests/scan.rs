//! Searching: plans, order, completeness, filters, cursors, joins, settings, and what a snapshot may see.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::sync::OnceLock;

use common::{
    ALL, Database, Sql, all_found, by_index, by_table, exact, ids, in_order, literal, mean_recall,
    memory, recall, search, server, table,
};
use distillvq_harness::{DataSet, Embedding, Metric, Vectors};
use postgres::Client;

/// A database with a trained index over `items`, and queries.
fn items(name: &str, rows: usize, dim: usize, metric: Metric) -> (Database, Vectors) {
    let mut db = Database::new(name);
    let all = Vectors::clustered(rows + 50, dim, 1, 5);
    table(&mut db, "items", "vector", &all.slice(0..rows));
    db.run(&format!(
        "CREATE INDEX items_idx ON items USING distillvq (embedding vector_{}_ops); ANALYZE items",
        metric.name()
    ));
    (db, all.slice(rows..rows + 50))
}

/// A session in a database that some tests share: the 20,000 shipped documents, indexed for the cosine.
fn documents() -> (Client, &'static DataSet) {
    static SET: OnceLock<DataSet> = OnceLock::new();
    let set = SET.get_or_init(|| {
        let set = DataSet::shipped().unwrap();
        let mut client = server().database("documents").unwrap();
        table(&mut client, "items", "vector", &set.documents);
        client.run(
            "CREATE INDEX items_idx ON items USING distillvq (embedding vector_cosine_ops); ANALYZE items",
        );
        set
    });
    (server().connect_to("documents").unwrap(), set)
}

#[test]
fn the_planner_takes_the_index() {
    let (mut client, set) = documents();
    for rest in ["LIMIT 1", "LIMIT 10", "LIMIT 100"] {
        let plan = client.plan(&search("items", Metric::Cosine, set.test.row(0), rest));
        assert!(
            plan.contains("Index Scan using items_idx"),
            "{rest}: {plan}"
        );
    }
    client.run(
        "SET plan_cache_mode = force_generic_plan;
         PREPARE near(vector) AS SELECT id FROM items ORDER BY embedding <=> $1 LIMIT 10",
    );
    let plan = client.plan(&format!("EXECUTE near({})", literal(set.test.row(0))));
    assert!(plan.contains("Index Scan using items_idx"), "{plan}");
    assert!(plan.contains("$1"), "{plan}");
}

#[test]
fn the_planner_takes_the_index_where_only_it_helps() {
    let (mut client, set) = documents();
    let query = literal(set.test.row(0));
    for sql in [
        format!("SELECT id FROM items ORDER BY embedding <=> {query} DESC LIMIT 10"),
        format!("SELECT id FROM items ORDER BY embedding <-> {query} LIMIT 10"),
        format!("SELECT id FROM items ORDER BY embedding <#> {query} LIMIT 10"),
        format!("SELECT id FROM items ORDER BY id, embedding <=> {query} LIMIT 10"),
        format!("SELECT id FROM items WHERE embedding <=> {query} < 0.2"),
        "SELECT count(*) FROM items".into(),
        "SELECT id FROM items WHERE embedding IS NOT NULL LIMIT 10".into(),
        "SELECT embedding FROM items LIMIT 10".into(),
    ] {
        client.run("SET enable_seqscan = off; SET enable_sort = off");
        let plan = client.plan(&sql);
        assert!(!plan.contains("items_idx"), "{plan}");
    }
}

#[test]
fn an_order_by_more_than_the_distance_sorts_its_ties() {
    let (mut client, set) = documents();
    let query = literal(set.test.row(0));
    let sql = format!(
        "SELECT id, embedding <=> {query} FROM items ORDER BY embedding <=> {query}, id LIMIT 10"
    );
    client.run("SET distillvq.probes = 32768; SET enable_seqscan = off");
    let plan = client.plan(&sql);
    assert!(
        plan.contains("Incremental Sort") && plan.contains("items_idx"),
        "{plan}"
    );
    let found: Vec<i64> = client.column(&sql);
    client.run("RESET enable_seqscan");
    let truth = by_table(&mut client, &sql);
    let hits = truth.iter().filter(|(id, _)| found.contains(id)).count();
    assert!(hits >= 9, "{hits}");
}

#[test]
fn default_settings_find_the_documents() {
    let (mut client, set) = documents();
    let recall = mean_recall(
        &mut client,
        "items",
        Metric::Cosine,
        &set.test.slice(0..50),
        0,
    );
    assert!(recall >= 0.9, "{recall}");
}

#[test]
fn long_results_are_in_order() {
    let (mut client, set) = documents();
    client.run(&format!("SET distillvq.probes = {ALL}"));
    for query in set.test.slice(0..5).iter() {
        let sql = search("items", Metric::Cosine, query, "LIMIT 1000");
        let (found, truth) = (by_index(&mut client, &sql), by_table(&mut client, &sql));
        in_order(&found);
        assert_eq!(found.len(), 1_000);
        let recall = recall(&found, &truth);
        assert!(recall >= 0.98, "{recall}");
    }
    client.run("RESET distillvq.probes");
    let sql = search("items", Metric::Cosine, set.test.row(0), "LIMIT 1000");
    let found = by_index(&mut client, &sql);
    in_order(&found);
    assert_eq!(found.len(), 1_000);
}

#[test]
fn a_filtered_query_does_not_come_back_short() {
    let (mut client, set) = documents();
    let mut sum = 0.0;
    for query in set.test.slice(0..20).iter() {
        let sql = search(
            "items WHERE id % 100 = 7",
            Metric::Cosine,
            query,
            "LIMIT 10",
        );
        let (found, truth) = (by_index(&mut client, &sql), by_table(&mut client, &sql));
        in_order(&found);
        assert_eq!(found.len(), 10);
        assert!(found.iter().all(|(id, _)| id % 100 == 7));
        sum += recall(&found, &truth);
    }
    assert!(sum / 20.0 >= 0.9, "{sum} of 20");
}

#[test]
fn a_filter_that_hardly_anything_passes() {
    let (mut client, set) = documents();
    let query = set.test.row(3);
    for (filter, rows) in [("id = 77", 1), ("id IN (3, 4, 19999)", 3), ("id < 0", 0)] {
        let sql = search(
            &format!("items WHERE {filter}"),
            Metric::Cosine,
            query,
            "LIMIT 10",
        );
        let found = by_index(&mut client, &sql);
        assert_eq!(found.len(), rows, "{filter}");
        let mut truth = by_table(&mut client, &sql);
        truth.sort_by_key(|&(id, _)| id);
        let mut found = found;
        found.sort_by_key(|&(id, _)| id);
        assert_eq!(found, truth);
    }
}

#[test]
fn a_limit_on_the_distance() {
    let (mut client, set) = documents();
    client.run(&format!("SET distillvq.probes = {ALL}"));
    let query = set.test.row(5);
    let sql = search("items", Metric::Cosine, query, "LIMIT 30");
    let radius = by_table(&mut client, &sql)[20].1;
    let near = format!("items WHERE embedding <=> {} <= {radius}", literal(query));
    let sql = search(&near, Metric::Cosine, query, "LIMIT 30");
    let found = by_index(&mut client, &sql);
    in_order(&found[..15]);
    assert!(recall(&found, &by_table(&mut client, &sql)) >= 0.95);
}

#[test]
fn without_limit_every_row_comes_once() {
    for metric in Metric::ALL {
        let (mut db, queries) = items(&format!("all_{}", metric.name()), 3_000, 16, metric);
        db.run("INSERT INTO items SELECT -i, NULL FROM generate_series(1, 50) i");
        for (probes, query) in [0, 1, 7, ALL].into_iter().zip(queries.iter()) {
            db.run(&format!("SET distillvq.probes = {probes}"));
            all_found(&mut db, "items", metric, query);
        }
    }
}

#[test]
fn more_probes_find_more() {
    let (mut db, queries) = items("probes", 5_000, 16, Metric::L2);
    let mut at = |probes| mean_recall(&mut db, "items", Metric::L2, &queries, probes);
    let (one, some, automatic, all) = (at(1), at(8), at(0), at(ALL));
    assert!(one < some && some < all, "{one} {some} {all}");
    assert!(
        one < automatic && automatic < all,
        "{one} {automatic} {all}"
    );
    assert!(one < 0.7 && all >= 0.99, "{one} {all}");
}

#[test]
fn the_setting_beats_the_index_parameter() {
    let (mut db, queries) = items("parameter", 5_000, 16, Metric::L2);
    let sql = search("items", Metric::L2, queries.row(0), "LIMIT 50");
    let mut with = |statements: &str| {
        db.run(statements);
        by_index(&mut db, &sql)
    };
    let few = with("SET distillvq.probes = 2");
    let many = with("SET distillvq.probes = 40");
    assert_ne!(few, many);
    assert_eq!(
        with("RESET distillvq.probes; ALTER INDEX items_idx SET (probes = 2)"),
        few
    );
    assert_eq!(with("ALTER INDEX items_idx SET (probes = 40)"), many);
    assert_eq!(with("SET distillvq.probes = 2"), few);
    let automatic = with("RESET distillvq.probes; ALTER INDEX items_idx RESET (probes)");
    assert_eq!(with("SET distillvq.probes = 0"), automatic);
    assert_eq!(
        with("SET distillvq.probes = 71"), // the square root of the rows: all lists
        with("SET distillvq.probes = 32768"),
        "above the number of lists: all of them"
    );
}

#[test]
fn a_setting_for_one_transaction() {
    let (mut db, queries) = items("local", 3_000, 16, Metric::L2);
    let sql = search("items", Metric::L2, queries.row(0), "LIMIT 50");
    let before = by_index(&mut db, &sql);
    db.run("BEGIN; SET LOCAL distillvq.probes = 1");
    assert_ne!(by_index(&mut db, &sql), before);
    db.run("ROLLBACK");
    assert_eq!(by_index(&mut db, &sql), before);
}

#[test]
fn cursors_take_up_where_they_stopped() {
    let (mut db, queries) = items("cursors", 3_000, 16, Metric::L2);
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
            db.run(
                "SAVEPOINT t; INSERT INTO items SELECT 7000 + id, embedding FROM items LIMIT 100",
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
    let (mut db, queries) = items("fetches", 2_000, 16, Metric::L2);
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
    let (mut db, queries) = items("scroll", 2_000, 16, Metric::L2);
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
fn two_cursors_at_once() {
    let (mut db, queries) = items("pair", 2_000, 16, Metric::L2);
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
    let (mut db, queries) = items("outer_rows", 2_000, 16, Metric::L2);
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
    let (mut db, queries) = items("functions", 2_000, 16, Metric::L2);
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
    let (mut db, queries) = items("prepared", 2_000, 16, Metric::L2);
    db.run("SET enable_seqscan = off; SET distillvq.probes = 32768");
    let statement = db
        .prepare("SELECT id, embedding <-> $1 FROM items ORDER BY embedding <-> $1 LIMIT $2")
        .unwrap();
    for (round, query) in queries.slice(0..12).iter().enumerate() {
        let limit = 1 + round as i64;
        let rows = db.query(&statement, &[&Embedding(query), &limit]).unwrap();
        let found: Vec<_> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        in_order(&found);
        let sql = search("items", Metric::L2, query, &format!("LIMIT {limit}"));
        assert!(recall(&found, &by_table(&mut db, &sql)) >= 0.9);
        db.run("SET enable_seqscan = off");
        if round == 8 {
            db.run("REINDEX INDEX items_idx"); // the plan and the model in memory are of the past
        }
    }
}

#[test]
fn a_null_query_is_as_far_from_everything() {
    let (mut db, _) = items("null_query", 2_000, 8, Metric::L2);
    db.run(
        "INSERT INTO items VALUES (-1, NULL); SET enable_seqscan = off; SET enable_sort = off;
         SET plan_cache_mode = force_generic_plan;
         PREPARE near(vector) AS SELECT id FROM items ORDER BY embedding <-> $1 LIMIT 10;
         PREPARE everything(vector) AS SELECT id FROM items ORDER BY embedding <-> $1",
    );
    let plan = db.plan("EXECUTE near(NULL)");
    assert!(plan.contains("Index Scan using items_idx"), "{plan}");
    assert_eq!(db.column::<i64>("EXECUTE near(NULL)").len(), 10);
    let mut all: Vec<i64> = db.column("EXECUTE everything(NULL)");
    all.sort_unstable();
    assert!(all.into_iter().eq(0..2_000));
    assert_eq!(
        db.column::<i64>("SELECT id FROM items ORDER BY embedding <-> NULL LIMIT 10")
            .len(),
        10
    );
}

#[test]
fn a_zero_query_under_the_cosine() {
    let (mut db, _) = items("zero_query", 2_000, 8, Metric::Cosine);
    let found = by_index(
        &mut db,
        &search("items", Metric::Cosine, &[0.0; 8], "LIMIT 10"),
    );
    assert_eq!(found.len(), 10);
    assert!(
        found.iter().all(|(_, distance)| distance.is_nan()),
        "as pgvector says"
    );
    all_found(&mut db, "items", Metric::Cosine, &[0.0; 8]);
}

#[test]
fn queries_far_away_and_tiny() {
    for metric in Metric::ALL {
        let (mut db, _) = items(&format!("far_{}", metric.name()), 2_000, 8, metric);
        db.run(&format!("SET distillvq.probes = {ALL}"));
        for size in [1e-30, 1e-10, 1e10, 1e18, 1e30] {
            let query = [size, -size, size, 0.0, size, size, -size, 0.0];
            let sql = search("items", metric, &query, "LIMIT 10");
            let (found, truth) = (by_index(&mut db, &sql), by_table(&mut db, &sql));
            let recall = recall(&found, &truth);
            assert_eq!(found.len(), 10, "{metric:?} {size}");
            let defined = truth.iter().all(|(_, distance)| distance.is_finite());
            assert!(!defined || recall >= 0.9, "{metric:?} {size}: {recall}");
            all_found(&mut db, "items", metric, &query);
        }
    }
}

#[test]
fn a_query_of_other_dimensions() {
    let (mut db, _) = items("dimensions", 1_200, 8, Metric::L2);
    db.run("SET enable_seqscan = off");
    let refusal = db.refusal("SELECT id FROM items ORDER BY embedding <-> '[1,2,3]' LIMIT 1");
    assert_eq!(refusal.state, "22000", "{refusal:?}");
    assert!(
        refusal
            .message
            .contains("different vector dimensions 8 and 3"),
        "{refusal:?}"
    );
    assert!(refusal.hint.contains('8'), "{refusal:?}");
}

#[test]
fn toasted_vectors() {
    let mut db = Database::new("toasted");
    let all = Vectors::clustered(1_210, 2_000, 10, 9);
    db.run(
        "CREATE TABLE items (id bigint, embedding vector(2000));
            ALTER TABLE items ALTER embedding SET STORAGE EXTERNAL",
    );
    distillvq_harness::load::copy_vectors(&mut db, "items", &all.slice(0..1_200)).unwrap();
    db.run("CREATE INDEX ON items USING distillvq (embedding vector_cosine_ops) WITH (lists = 10)");
    let queries = all.slice(1_200..1_210);
    let recall = mean_recall(&mut db, "items", Metric::Cosine, &queries, ALL);
    assert!(recall >= 0.99, "{recall}");
    all_found(&mut db, "items", Metric::Cosine, queries.row(0));
}

#[test]
fn rows_of_other_sessions_count_when_they_are_committed() {
    let (mut db, queries) = items("visibility", 2_000, 8, Metric::L2);
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
    let (mut db, queries) = items("snapshot", 2_000, 8, Metric::L2);
    let query = queries.row(0);
    let sql = search("items", Metric::L2, query, "LIMIT 100");
    let all = search("items", Metric::L2, query, "");
    let mut reader = db.session();
    reader.run("BEGIN ISOLATION LEVEL REPEATABLE READ");
    let before = by_index(&mut reader, &sql);
    db.run_each(&[
        "DELETE FROM items WHERE id % 2 = 0",
        "UPDATE items SET embedding = '[9,9,9,9,9,9,9,9]' WHERE id % 4 = 1",
        "INSERT INTO items SELECT id + 10000, embedding FROM items",
        "VACUUM items",
        "VACUUM items",
    ]);
    assert_eq!(ids(&by_index(&mut reader, &sql)), ids(&before));
    assert!(ids(&by_index(&mut reader, &all)).into_iter().eq(0..2_000));
    reader.run("COMMIT");
    all_found(&mut reader, "items", Metric::L2, query);
    all_found(&mut db, "items", Metric::L2, query);
}

#[test]
fn a_cursor_outlives_deletes_and_vacuums() {
    let (mut db, queries) = items("vacuumed", 2_000, 8, Metric::L2);
    let sql = search("items", Metric::L2, queries.row(0), "");
    let mut reader = db.session();
    reader.run(&format!(
        "SET enable_seqscan = off; SET enable_sort = off; BEGIN; DECLARE c NO SCROLL CURSOR FOR {sql}"
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
    let (mut db, queries) = items("hot", 1_500, 8, Metric::L2);
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
    let (mut db, queries) = items("locked", 2_000, 8, Metric::L2);
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
    let (mut db, queries) = items("serializable", 1_200, 8, Metric::L2);
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
fn scans_are_counted_and_explained() {
    let (mut db, queries) = items("counted", 2_000, 8, Metric::L2);
    let sql = search("items", Metric::L2, queries.row(0), "LIMIT 5");
    db.run("BEGIN; SET enable_seqscan = off");
    by_index(&mut db, &sql);
    by_index(&mut db, &sql);
    assert_eq!(
        db.one::<i64>("SELECT pg_stat_get_xact_numscans('items_idx'::regclass)"),
        2
    );
    db.run("SET enable_seqscan = off");
    let lines: Vec<String> = db.column(&format!("EXPLAIN (ANALYZE, BUFFERS, TIMING OFF) {sql}"));
    let text = lines.join("\n");
    assert!(
        text.contains("Index Scan using items_idx") && text.contains("Buffers"),
        "{text}"
    );
    if server().installation().version() >= 18 {
        assert!(text.contains("Index Searches: 1"), "{text}");
    }
    db.run("COMMIT");
}

#[test]
fn a_search_ends_where_its_limit_is() {
    // The LIMIT is all that stops an index scan: what it touches must not grow to the table.
    let (mut client, set) = documents();
    client.run("SET distillvq.probes = 1");
    let sql = search("items", Metric::Cosine, set.test.row(0), "LIMIT 1");
    let lines: Vec<String> =
        client.column(&format!("EXPLAIN (ANALYZE, BUFFERS, TIMING OFF) {sql}"));
    let touched: usize = lines
        .iter()
        .filter(|line| line.contains("Buffers"))
        .flat_map(|line| line.split(['=', ' ']))
        .filter_map(|word| word.parse::<usize>().ok())
        .sum();
    assert!(
        touched < 2_500,
        "{touched} of some 20,000 buffers: {lines:?}"
    );
}

#[test]
fn no_dead_rows_are_needed_for_order() {
    // Deleted rows are candidates until a vacuum: they must not push live ones out of the result.
    let (mut db, queries) = items("dead", 3_000, 8, Metric::L2);
    db.run("DELETE FROM items WHERE id % 10 <> 0");
    let recall = mean_recall(&mut db, "items", Metric::L2, &queries, ALL);
    assert!(recall >= 0.99, "{recall}");
    db.run(&format!("SET distillvq.probes = {ALL}"));
    for query in queries.slice(0..5).iter() {
        exact(
            &mut db,
            &search("items WHERE id % 100 = 0", Metric::L2, query, "LIMIT 30"),
        );
    }
}

#[test]
fn searches_do_not_use_up_memory() {
    let (mut db, _) = items("memory", 2_000, 32, Metric::L2);
    db.run("SET enable_seqscan = off");
    let one = "SELECT count(*) FROM items q, LATERAL
                   (SELECT id FROM items i ORDER BY i.embedding <-> q.embedding LIMIT 20) s WHERE q.id <";
    db.run(&format!("{one} 100"));
    let before = memory(&mut db);
    db.run(&format!("{one} 1500"));
    let within = memory(&mut db) - before;
    assert!(
        within < 8 << 20,
        "{within} bytes more after 1,500 searches of one statement"
    );
    let statement = db
        .prepare("SELECT id FROM items ORDER BY embedding <-> $1 LIMIT 20")
        .unwrap();
    for id in 0..1_000 {
        let query = [id as f32 / 1_000.0; 32];
        db.query(&statement, &[&Embedding(&query)]).unwrap();
    }
    let after = memory(&mut db) - before;
    assert!(after < 8 << 20, "{after} bytes more after 1,000 statements");
}

#[test]
fn a_parallel_worker_can_search() {
    let (mut db, queries) = items("worker", 2_000, 8, Metric::L2);
    let sql = search("items", Metric::L2, queries.row(0), "LIMIT 20");
    let found = by_index(&mut db, &sql);
    db.run(if server().installation().version() >= 16 {
        "SET debug_parallel_query = on"
    } else {
        "SET force_parallel_mode = on"
    });
    db.run("SET enable_seqscan = off");
    let plan = db.plan(&sql);
    assert!(
        plan.contains("Gather") && plan.contains("items_idx"),
        "{plan}"
    );
    assert_eq!(by_index(&mut db, &sql), found);
}

#[test]
fn columns_dropped_added_and_generated() {
    let (mut db, queries) = items("columns", 1_200, 8, Metric::L2);
    db.run(
        "CREATE TABLE odd (gone int, id bigint, also text, half halfvec(4) GENERATED ALWAYS AS
             (subvector(embedding, 1, 4)::halfvec) STORED, embedding vector(8));
         INSERT INTO odd (gone, id, also, embedding) SELECT 1, id, repeat('x', id::int % 50), embedding FROM items;
         ALTER TABLE odd DROP COLUMN gone, DROP COLUMN also;
         ALTER TABLE odd ADD later vector(8) DEFAULT '[1,2,3,4,5,6,7,8]';
         INSERT INTO odd (id, embedding, later) SELECT id + 5000, embedding, embedding FROM items WHERE id < 1100;
         CREATE INDEX ON odd USING distillvq (embedding); CREATE INDEX ON odd USING distillvq (half);
         CREATE INDEX ON odd USING distillvq (later)",
    );
    db.run("SET distillvq.probes = 32768");
    all_found(&mut db, "odd", Metric::L2, queries.row(0));
    for (column, query) in [
        ("embedding", queries.row(0)),
        ("half", &queries.row(0)[..4]),
        ("later", queries.row(1)),
    ] {
        let distance = format!("{column} <-> {}", literal(query));
        let sql = format!("SELECT id, {distance} FROM odd ORDER BY {distance} LIMIT 40");
        exact(&mut db, &sql);
    }
}
