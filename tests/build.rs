//! Building indexes: operator classes, options, dimensions, and tables of every kind.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{
    ALL, Database, Sql, all_found, by_index, exact, items_and_queries, literal, mean_recall,
    search, table, vectors_and_queries,
};
use distillvq_harness::{DataSet, Metric, Vectors, load};

#[test]
fn every_operator_class_finds_the_nearest() {
    let set = DataSet::shipped().unwrap();
    let (documents, queries) = (set.documents.slice(0..5_000), set.test.slice(0..20));
    let mut db = Database::new("classes");
    for kind in ["vector", "halfvec"] {
        let items = format!("items_{kind}");
        table(&mut db, &items, kind, &documents);
        for metric in Metric::ALL {
            let class = format!("{kind}_{}_ops", metric.name());
            db.run(&format!(
                "CREATE INDEX one ON {items} USING distillvq (embedding {class})"
            ));
            let recall = mean_recall(&mut db, &items, metric, &queries, ALL);
            assert!(recall >= 0.99, "{class}: {recall}");
            all_found(&mut db, &items, metric, queries.row(0));
            db.run("DROP INDEX one");
        }
    }
}

#[test]
fn an_untrained_index_is_exact_in_every_operator_class() {
    let (vectors, queries) = vectors_and_queries(300, 24);
    let mut db = Database::new("untrained");
    for kind in ["vector", "halfvec"] {
        let items = format!("items_{kind}");
        table(&mut db, &items, kind, &vectors);
        for metric in Metric::ALL {
            let class = format!("{kind}_{}_ops", metric.name());
            db.run(&format!(
                "CREATE INDEX one ON {items} USING distillvq (embedding {class})"
            ));
            for query in queries.iter() {
                exact(&mut db, &search(&items, metric, query, "LIMIT 20"));
                exact(&mut db, &search(&items, metric, query, ""));
            }
            db.run("DROP INDEX one");
        }
    }
}

#[test]
fn two_indexes_of_one_column_serve_their_own_operators() {
    let (mut db, queries) = items_and_queries("two", 500, 8);
    db.run(
        "CREATE INDEX near ON items USING distillvq (embedding);
            CREATE INDEX turned ON items USING distillvq (embedding vector_cosine_ops);
            SET enable_seqscan = off",
    );
    let l2 = db.plan(&search("items", Metric::L2, queries.row(0), "LIMIT 3"));
    assert!(l2.contains("using near"), "{l2}");
    let cosine = db.plan(&search("items", Metric::Cosine, queries.row(0), "LIMIT 3"));
    assert!(cosine.contains("using turned"), "{cosine}");
}

#[test]
fn options_shape_the_index() {
    let (mut db, queries) = items_and_queries("options", 2_000, 16);
    let shapes = [
        "lists = 10",
        "lists = 1",
        "subquantizers = 5",
        "subquantizers = 16, bits = 8",
        "lists = 20, subquantizers = 4, bits = 4, probes = 3",
        "lists = 0, subquantizers = 0, bits = 0, probes = 0, model = ''",
    ];
    for shape in shapes {
        db.run(&format!(
            "CREATE INDEX one ON items USING distillvq (embedding) WITH ({shape})"
        ));
        let recall = mean_recall(&mut db, "items", Metric::L2, &queries, ALL);
        assert!(recall >= 0.99, "{shape}: {recall}");
        db.run("DROP INDEX one");
    }
}

#[test]
fn longer_codes_make_a_larger_index() {
    let (mut db, _) = items_and_queries("sizes", 5_000, 32);
    let mut size = |shape: &str| {
        db.run(&format!(
            "DROP INDEX IF EXISTS one; CREATE INDEX one ON items USING distillvq (embedding) WITH ({shape})"
        ));
        db.one::<i64>("SELECT pg_relation_size('one')")
    };
    let small = size("lists = 10, subquantizers = 8");
    assert!(small < size("lists = 10, subquantizers = 32"));
    assert!(small < size("lists = 10, subquantizers = 8, bits = 8"));
}

#[test]
fn few_dimensions() {
    for dim in [1, 2, 3] {
        let (mut db, queries) = items_and_queries(&format!("dim{dim}"), 1_500, dim);
        for metric in Metric::ALL {
            db.run(&format!(
                "CREATE INDEX one ON items USING distillvq (embedding vector_{}_ops)",
                metric.name()
            ));
            let recall = mean_recall(&mut db, "items", metric, &queries, ALL);
            // In one dimension a row's code says as good as nothing about the row's place within its list.
            let least = if dim == 1 { 0.97 } else { 0.99 };
            assert!(recall >= least, "{dim} dimensions, {metric:?}: {recall}");
            all_found(&mut db, "items", metric, queries.row(1));
            db.run("DROP INDEX one");
        }
    }
}

/// Vectors of many dimensions that are cheap to send: runs of equal values.
fn wide(rows: usize, dim: usize) -> Vectors {
    let narrow = Vectors::clustered(rows, 50, 10, 3);
    let repeat = dim / narrow.dim();
    let values = narrow
        .values()
        .iter()
        .flat_map(|&value| std::iter::repeat_n(value, repeat));
    Vectors::new(dim, values.collect()).unwrap()
}

#[test]
fn the_most_dimensions() {
    let mut db = Database::new("widest");
    let vectors = wide(30, 16_000);
    table(&mut db, "items", "vector", &vectors);
    db.run("CREATE INDEX ON items USING distillvq (embedding vector_cosine_ops)");
    for query in vectors.slice(0..3).iter() {
        exact(&mut db, &search("items", Metric::Cosine, query, "LIMIT 10"));
    }
}

#[test]
fn the_most_dimensions_trained() {
    let mut db = Database::new("widest_trained");
    let vectors = wide(1_050, 16_000);
    table(&mut db, "items", "halfvec", &vectors);
    db.run("CREATE INDEX ON items USING distillvq (embedding halfvec_l2_ops) WITH (lists = 8)");
    let queries = vectors.slice(0..3);
    let recall = mean_recall(&mut db, "items", Metric::L2, &queries, ALL);
    assert!(recall >= 0.99, "{recall}");
}

#[test]
fn an_expression_can_be_indexed() {
    let (mut db, queries) = items_and_queries("expression", 1_500, 16);
    db.run("CREATE INDEX ON items USING distillvq ((embedding::halfvec(16)) halfvec_l2_ops);
            CREATE INDEX ON items USING distillvq ((subvector(embedding, 1, 4)::vector(4)) vector_cosine_ops);
            INSERT INTO items SELECT 10000 + id, embedding FROM items LIMIT 100");
    db.run(&format!("SET distillvq.probes = {ALL}"));
    for query in queries.slice(0..5).iter() {
        let distance = format!("embedding::halfvec(16) <-> {}::halfvec(16)", literal(query));
        let sql = format!("SELECT id, {distance} FROM items ORDER BY {distance} LIMIT 10");
        exact(&mut db, &sql);
        let part = literal(&query[..4]);
        let distance = format!("subvector(embedding, 1, 4)::vector(4) <=> {part}::vector(4)");
        let sql = format!("SELECT id, {distance} FROM items ORDER BY {distance} LIMIT 10");
        exact(&mut db, &sql);
    }
}

#[test]
fn a_partial_index_holds_its_rows_alone() {
    let (mut db, queries) = items_and_queries("partial", 3_000, 8);
    db.run(
        "CREATE INDEX one ON items USING distillvq (embedding) WHERE id % 2 = 0;
            INSERT INTO items SELECT 10000 + id, embedding FROM items WHERE id < 100;
            ANALYZE items",
    );
    assert_eq!(
        db.one::<f32>("SELECT reltuples FROM pg_class WHERE relname = 'one'"),
        1_550.0
    );
    let query = queries.row(0);
    let all = search("items WHERE id % 2 = 0", Metric::L2, query, "");
    db.run("SET distillvq.iterative_scan = relaxed_order");
    let found = common::ids(&by_index(&mut db, &all));
    let truth: Vec<i64> = db.column("SELECT id FROM items WHERE id % 2 = 0 ORDER BY id");
    assert_eq!(found, truth);
    db.run("SET enable_seqscan = off");
    let plan = db.plan(&search("items", Metric::L2, query, "LIMIT 3"));
    assert!(!plan.contains("Index Scan"), "{plan}");
}

#[test]
fn a_partial_index_counts_its_own_rows_for_training() {
    let (mut db, queries) = items_and_queries("partial_small", 1_500, 8);
    let notices = db.notices("CREATE INDEX ON items USING distillvq (embedding) WHERE id < 900");
    assert!(notices.contains("900 rows"), "{notices}");
    exact(
        &mut db,
        &search(
            "items WHERE id < 900",
            Metric::L2,
            queries.row(0),
            "LIMIT 20",
        ),
    );
}

#[test]
fn unlogged_temporary_and_materialized() {
    let (mut db, queries) = items_and_queries("kinds", 1_500, 8);
    db.run(
        "CREATE UNLOGGED TABLE fast AS TABLE items;
            CREATE TEMPORARY TABLE brief AS TABLE items;
            CREATE MATERIALIZED VIEW seen AS TABLE items",
    );
    for name in ["fast", "brief", "seen"] {
        db.run(&format!(
            "CREATE INDEX ON {name} USING distillvq (embedding)"
        ));
        let recall = mean_recall(&mut db, name, Metric::L2, &queries, ALL);
        assert!(recall >= 0.99, "{name}: {recall}");
        all_found(&mut db, name, Metric::L2, queries.row(0));
    }
    db.run("DELETE FROM items WHERE id >= 1200; REFRESH MATERIALIZED VIEW seen");
    all_found(&mut db, "seen", Metric::L2, queries.row(0));
}

#[test]
fn a_partitioned_table() {
    let (vectors, queries) = vectors_and_queries(3_000, 8);
    let mut db = Database::new("partitioned");
    db.run(
        "CREATE TABLE items (id bigint, embedding vector(8)) PARTITION BY RANGE (id);
            CREATE TABLE low PARTITION OF items FOR VALUES FROM (0) TO (1100);
            CREATE TABLE high PARTITION OF items FOR VALUES FROM (1100) TO (2500);
            CREATE INDEX ON items USING distillvq (embedding)",
    );
    db.run("CREATE TABLE rest PARTITION OF items DEFAULT");
    load::copy_vectors(&mut db, "items", &vectors).unwrap();
    for query in queries.slice(0..3).iter() {
        exact(&mut db, &search("items", Metric::L2, query, "LIMIT 50"));
    }
    db.run("REINDEX TABLE items");
    let recall = mean_recall(&mut db, "items", Metric::L2, &queries, ALL);
    assert!(recall >= 0.99, "{recall}");
    all_found(&mut db, "items", Metric::L2, queries.row(0));
}

#[test]
fn equal_rows() {
    let mut db = Database::new("equal");
    db.run(
        "CREATE TABLE items (id bigint, embedding vector(6));
            INSERT INTO items SELECT i, '[1,2,3,4,5,6]' FROM generate_series(1, 2000) i",
    );
    for metric in Metric::ALL {
        db.run(&format!(
            "CREATE INDEX one ON items USING distillvq (embedding vector_{}_ops)",
            metric.name()
        ));
        for query in [
            [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
            [-1.0, 0.0, 0.0, 0.0, 0.0, 9.0],
        ] {
            exact(&mut db, &search("items", metric, &query, "LIMIT 10"));
            exact(&mut db, &search("items", metric, &query, ""));
        }
        db.run("DROP INDEX one");
    }
}

#[test]
fn many_equal_distances() {
    let mut db = Database::new("corners");
    db.run(
        "CREATE TABLE items (id bigint, embedding vector(4));
            INSERT INTO items SELECT i, ARRAY[i & 1, i >> 1 & 1, i >> 2 & 1, i >> 3 & 1]::vector
            FROM generate_series(1, 3200) i;
            CREATE INDEX ON items USING distillvq (embedding)",
    );
    db.run(&format!("SET distillvq.probes = {ALL}"));
    for query in [
        [0.0, 0.0, 0.0, 0.0],
        [1.0, 0.0, 1.0, 0.0],
        [0.5, 0.5, 0.5, 0.5],
    ] {
        for limit in [10, 200, 1_000] {
            let rest = format!("LIMIT {limit}");
            exact(&mut db, &search("items", Metric::L2, &query, &rest));
        }
        all_found(&mut db, "items", Metric::L2, &query);
    }
}

#[test]
fn a_thousand_rows_are_enough_to_train() {
    let (mut db, queries) = items_and_queries("thousand", 999, 8);
    db.run("INSERT INTO items VALUES (-1, NULL)"); // counts for nothing
    let notices = db.notices("CREATE INDEX one ON items USING distillvq (embedding)");
    for words in [
        "NOTICE",
        "999 rows",
        "1000",
        "HINT",
        "VACUUM",
        "REINDEX INDEX CONCURRENTLY public.one",
    ] {
        assert!(notices.contains(words), "{words} in {notices}");
    }
    for query in queries.iter() {
        exact(&mut db, &search("items", Metric::L2, query, "LIMIT 20"));
    }
    db.run("INSERT INTO items SELECT 999, embedding FROM items WHERE id = 5");
    assert_eq!(db.notices("REINDEX INDEX one"), "");
    let recall = mean_recall(&mut db, "items", Metric::L2, &queries, ALL);
    assert!(recall >= 0.99, "{recall}");
}

#[test]
fn a_sample_that_memory_cut_short_is_told() {
    let (mut db, _) = items_and_queries("short_sample", 4_000, 64);
    let build = "CREATE INDEX one ON items USING distillvq (embedding)";
    let train = "SELECT distillvq_train('items', 'embedding', 'm', lists => 40, queries => 'items', query_column => 'embedding')";
    let with = |memory: &str, sql: &str| format!("SET maintenance_work_mem = '{memory}'; {sql}");
    for sql in [build, train] {
        let notices = db.notices(&with("1MB", sql));
        for words in ["NOTICE", "1000 of 4000", "maintenance_work_mem"] {
            assert!(notices.contains(words), "{words} in {notices}");
        }
        let enough = notices.split('\'').nth(1).unwrap().to_owned();
        db.run("DROP INDEX IF EXISTS one");
        assert_eq!(db.notices(&with(&enough, &sql.replace("'m'", "'n'"))), "");
    }
}

#[test]
fn the_catalogs_count_the_rows() {
    let (mut db, _) = items_and_queries("catalogs", 1_500, 8);
    db.run(
        "INSERT INTO items SELECT -i, NULL FROM generate_series(1, 100) i;
            INSERT INTO items SELECT -1000 - i, '[0,0,0,0,0,0,0,0]' FROM generate_series(1, 30) i",
    );
    let mut counted = |class: &str| {
        db.run(&format!(
            "DROP INDEX IF EXISTS one; CREATE INDEX one ON items USING distillvq (embedding {class})"
        ));
        let tuples = |db: &mut Database, name: &str| {
            db.one::<f32>(&format!(
                "SELECT reltuples FROM pg_class WHERE relname = '{name}'"
            ))
        };
        (tuples(&mut db, "items"), tuples(&mut db, "one"))
    };
    assert_eq!(counted("vector_l2_ops"), (1_630.0, 1_530.0));
    assert_eq!(counted("vector_ip_ops"), (1_630.0, 1_530.0));
    assert_eq!(counted("vector_cosine_ops"), (1_630.0, 1_500.0));
    let pages: i32 = db.one("SELECT relpages FROM pg_class WHERE relname = 'one'");
    assert_eq!(
        i64::from(pages) * 8_192,
        db.one::<i64>("SELECT pg_relation_size('one')")
    );
}

/// Refine codes of more than 4,608 dimensions lie one a page, those of more than 9,280 on none; the longest vectors have the
/// most sub-quantizers.
#[test]
fn every_length_at_which_a_layout_changes_can_be_indexed() {
    let mut db = Database::new("lengths");
    for (kind, dim) in [
        ("vector", 4_608),
        ("vector", 4_609),
        ("halfvec", 9_280),
        ("vector", 9_281),
        ("halfvec", 16_000),
    ] {
        let vectors = Vectors::clustered(1_003, dim, 10, 1);
        table(&mut db, "items", kind, &vectors.slice(0..1_000));
        db.run(&format!(
            "CREATE INDEX one ON items USING distillvq (embedding {kind}_l2_ops) WITH (lists = 4)"
        ));
        let queries = vectors.slice(1_000..1_003);
        let recall = mean_recall(&mut db, "items", Metric::L2, &queries, ALL);
        assert!(recall >= 0.9, "{kind} {dim}: {recall}");
        db.run("DROP TABLE items");
    }
}

#[test]
fn options_that_fit_no_index_are_refused_however_few_the_rows() {
    let mut db = Database::new("unfit");
    db.run(
        "CREATE TABLE long (id bigint, embedding vector(4700));
         INSERT INTO long SELECT i, array_fill(i, ARRAY[4700])::vector FROM generate_series(1, 3) i;
         CREATE TABLE short (id bigint, embedding vector(8)); INSERT INTO short VALUES (1, '[1,2,3,4,5,6,7,8]')",
    );
    for (table, options, most) in [
        ("long", "subquantizers = 479", "478"),
        ("long", "subquantizers = 240, bits = 8", "239"),
        ("short", "subquantizers = 9", "8"),
    ] {
        let refusal = db.refusal(&format!(
            "CREATE INDEX one ON {table} USING distillvq (embedding) WITH ({options})"
        ));
        assert_eq!(refusal.state, "22023", "{options}: {refusal:?}");
        assert!(refusal.hint.contains("subquantizers"), "{refusal:?}");
        let told = format!("{} {}", refusal.message, refusal.hint);
        assert!(told.contains(most), "{options}: {refusal:?}");
    }
}

/// A table pays for a matrix of all dimensions, and for the learning of it, or has none.
#[test]
fn the_model_of_a_small_table_is_small() {
    let mut db = Database::new("small_models");
    for (dim, options) in [
        (768, "bits = 4"),
        (1_024, "bits = 4"),
        (1_024, "bits = 8"),
        (2_000, "bits = 8"),
    ] {
        let vectors = Vectors::clustered(1_100, dim, 10, 1);
        table(&mut db, "items", "vector", &vectors);
        db.run(&format!(
            "CREATE INDEX one ON items USING distillvq (embedding)
             WITH (refine = none, assignments = 1, sample_queries = off, {options})"
        ));
        let size: i64 = db.one("SELECT pg_relation_size('one')");
        let vectors = 1_100 * 4 * dim as i64;
        // Each list has a page of its own. Codebooks of 256 words are large for so few rows.
        let rest = size - 40 * 8_192;
        let most = if options == "bits = 8" { 0.25 } else { 0.125 };
        assert!(
            (rest as f64) < most * vectors as f64,
            "{dim} {options}: {size} of {vectors}"
        );
        db.run("DROP TABLE items");
    }
}

#[test]
fn a_search_of_short_vectors_compares_few_rows() {
    let all = Vectors::like_words(6_020, 100, 1);
    let mut db = Database::of_items("short_vectors", &all.slice(0..6_000));
    db.run(
        "CREATE INDEX one ON items USING distillvq (embedding vector_cosine_ops);
         SET enable_seqscan = off",
    );
    let mut compared = 0;
    for query in all.slice(6_000..6_020).iter() {
        db.run(&search("items", Metric::Cosine, query, "LIMIT 10"));
        compared += db.one::<i64>("SELECT reranked FROM distillvq_last_scan()");
    }
    assert!(compared < 20 * 60, "{compared} rows for 20 searches");
}

#[test]
fn temporary_tables_are_emptied_at_commits() {
    let (mut db, _) = items_and_queries("emptied", 1_500, 8);
    db.run("SELECT distillvq_train('items', 'embedding', 'm', metric => 'l2')");
    let create = |options: &str| {
        format!(
            "CREATE TEMPORARY TABLE brief (id bigint, embedding vector(8)) ON COMMIT DELETE ROWS;
             CREATE INDEX one ON brief USING distillvq (embedding) {options};"
        )
    };
    let fill = "BEGIN; INSERT INTO brief SELECT * FROM items; SET LOCAL enable_seqscan = off;
        SELECT 'nearest ' || id FROM brief ORDER BY embedding <-> (SELECT embedding FROM items WHERE id = 7) LIMIT 1;
        COMMIT;";
    for options in ["", "WITH (model = m)"] {
        let sql = format!("SET client_min_messages = warning; {}", create(options));
        let sql =
            format!("{sql} RESET client_min_messages; {fill} {fill} SELECT count(*) FROM brief");
        let said = db.notices(&sql);
        assert_eq!(said, "", "{options}");
    }
    // The index still has its model; where that is gone, commits go on.
    let mut session = db.session();
    session.run(&create("WITH (model = m)"));
    session.run("BEGIN; INSERT INTO brief SELECT * FROM items");
    let trained = "SELECT lists > 0 FROM distillvq_index_info('one')";
    assert!(session.one::<bool>(trained));
    session.run("COMMIT");
    db.run("SELECT distillvq_drop_model('m', force => true)");
    session.run("BEGIN; INSERT INTO brief SELECT * FROM items");
    session.run("COMMIT");
    session.run("BEGIN; INSERT INTO brief SELECT * FROM items");
    assert!(!session.one::<bool>(trained));
    session.run("COMMIT");
}

#[test]
fn a_build_under_an_old_snapshot_learns_from_the_rows_that_it_indexes() {
    let mut db = Database::new("old_snapshot");
    let (vectors, queries) = vectors_and_queries(2_000, 8);
    db.run("CREATE TABLE items (id bigint, embedding vector(8))");
    let mut old = db.session();
    old.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1");
    load::copy_vectors(&mut db, "items", &vectors).unwrap();
    old.run("CREATE INDEX one ON items USING distillvq (embedding); COMMIT");
    let trained: bool =
        db.one("SELECT lists > 1 AND calibration IS NOT NULL FROM distillvq_index_info('one')");
    assert!(trained);
    let recall = mean_recall(&mut db, "items", Metric::L2, &queries, ALL);
    assert!(recall >= 0.99, "{recall}");
}
