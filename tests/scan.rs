//! Searching: plans, order, completeness, filters, settings, and queries of every kind.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::sync::OnceLock;

use common::{
    ALL, Database, Sql, all_found, by_index, by_table, exact, in_order, literal, mean_recall,
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
    // Before PostgreSQL 17 the planner takes an index for an order that is all its own, or not at all.
    if server().installation().version() >= 17 {
        let plan = client.plan(&sql);
        assert!(
            plan.contains("Incremental Sort") && plan.contains("items_idx"),
            "{plan}"
        );
    }
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
        &set.test.slice(0..300),
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

#[test]
fn rows_that_their_codes_nearly_cancel_do_not_hide_others() {
    // Lengths over six magnitudes. Of the tiny rows some are reconstructed as a thousandth of what they are, which the
    // correction of lengths must not make up for at the cost of all others.
    let mut db = Database::new("canceled");
    db.run(&format!(
        "SELECT setseed(0.57); CREATE TABLE items (id bigint, a float8, b float8, embedding vector(1));
         INSERT INTO items SELECT i, random(), random(), CASE WHEN i % 37 = 3 THEN NULL WHEN i % 41 = 5 THEN ARRAY[0]
             ELSE ARRAY[(random() - 0.5) * power(10, i % 6 - 3)] END::real[]::vector FROM generate_series(0, 2773) i;
         CREATE INDEX one ON items USING distillvq (embedding vector_ip_ops) WITH (lists = 54);
         SET distillvq.probes = {ALL}"
    ));
    for query in [-50.0, -0.01, 0.01, 50.0] {
        let sql = search(
            "items WHERE embedding IS NOT NULL",
            Metric::InnerProduct,
            &[query],
            "LIMIT 50",
        );
        let recall = recall(&by_index(&mut db, &sql), &by_table(&mut db, &sql));
        assert!(recall >= 0.95, "{query}: {recall}");
    }
}
