//! Building indexes: operator classes, options, dimensions, and tables of every kind.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::thread;
use std::time::Duration;

use common::{
    ALL, Database, Sql, all_found, by_index, exact, in_order, literal, mean_recall, memory_of,
    search, table, wait_for,
};
use distillvq_harness::{DataSet, Metric, Vectors, load};
use postgres::Client;

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
    let (vectors, queries) = vectors(300, 24);
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
    let (mut db, queries) = items("two", 500, 8);
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
    let (mut db, queries) = items("options", 2_000, 16);
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
    let (mut db, _) = items("sizes", 5_000, 32);
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
        let (mut db, queries) = items(&format!("dim{dim}"), 1_500, dim);
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
    let (mut db, queries) = items("expression", 1_500, 16);
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
    let (mut db, queries) = items("partial", 3_000, 8);
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
    let found = common::ids(&by_index(&mut db, &all));
    let truth: Vec<i64> = db.column("SELECT id FROM items WHERE id % 2 = 0 ORDER BY id");
    assert_eq!(found, truth);
    db.run("SET enable_seqscan = off");
    let plan = db.plan(&search("items", Metric::L2, query, "LIMIT 3"));
    assert!(!plan.contains("Index Scan"), "{plan}");
}

#[test]
fn a_partial_index_counts_its_own_rows_for_training() {
    let (mut db, queries) = items("partial_small", 1_500, 8);
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
    let (mut db, queries) = items("kinds", 1_500, 8);
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
    let (vectors, queries) = vectors(3_000, 8);
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
fn an_empty_table_filled_later_is_searched_exactly() {
    let (vectors, queries) = vectors(700, 12);
    let mut db = Database::new("empty");
    db.run(
        "CREATE TABLE items (id bigint, embedding vector(12));
            CREATE INDEX ON items USING distillvq (embedding vector_cosine_ops)",
    );
    assert_eq!(
        by_index(
            &mut db,
            &search("items", Metric::Cosine, queries.row(0), "")
        ),
        []
    );
    load::copy_vectors(&mut db, "items", &vectors).unwrap();
    for query in queries.iter() {
        exact(&mut db, &search("items", Metric::Cosine, query, "LIMIT 10"));
        exact(&mut db, &search("items", Metric::Cosine, query, ""));
    }
}

#[test]
fn a_thousand_rows_are_enough_to_train() {
    let (mut db, queries) = items("thousand", 999, 8);
    db.run("INSERT INTO items VALUES (-1, NULL)"); // counts for nothing
    let notices = db.notices("CREATE INDEX one ON items USING distillvq (embedding)");
    for words in ["NOTICE", "999 rows", "1000", "HINT", "REINDEX INDEX one"] {
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
    let (mut db, _) = items("short_sample", 4_000, 64);
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
    let (mut db, _) = items("catalogs", 1_500, 8);
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

/// The index file, page by page.
fn pages(db: &mut Database, index: &str) -> Vec<Vec<u8>> {
    db.run("CHECKPOINT");
    let path = format!("pg_relation_filepath('{index}')");
    let bytes: Vec<u8> = db.one(&format!("SELECT pg_read_binary_file({path})"));
    bytes.chunks(8_192).map(<[u8]>::to_vec).collect()
}

/// Rows of each list, the exact list last, from the directory (`crates/ivf/src/meta.rs` draws the pages).
fn rows_of_lists(pages: &[Vec<u8>]) -> Vec<u64> {
    let word = |at: usize| u32::from_le_bytes(pages[0][at..at + 4].try_into().unwrap()) as usize;
    let (lists, start, blocks) = (word(84), word(92), word(96));
    let entries = pages[start..start + blocks].iter();
    let entries = entries.flat_map(|page| page[64..].chunks_exact(16));
    let rows = entries.map(|entry| u64::from_le_bytes(entry[8..].try_into().unwrap()));
    rows.take(lists + 1).collect()
}

#[test]
fn the_same_table_gives_the_same_index() {
    let (mut db, _) = items("same", 12_000, 48);
    let mut built = |workers: usize| {
        db.run(&format!(
            "SET maintenance_work_mem = '1MB'; SET max_parallel_maintenance_workers = {workers};
             DROP INDEX IF EXISTS one;
             CREATE INDEX one ON items USING distillvq (embedding) WITH (lists = 40)"
        ));
        // The metapage marks each build with a number of its own, and a page's header has its place in the WAL.
        let pages = pages(&mut db, "one").into_iter().skip(1);
        pages.map(|page| page[24..].to_vec()).collect::<Vec<_>>()
    };
    let alone = built(0);
    assert!(alone.len() > 50, "{} pages", alone.len());
    assert!(alone == built(8));
}

/// A function `gate(id, vector)` that returns the vector, but first waits at one row until nobody else holds the advisory
/// lock 1, and fails at another.
const GATE: &str = "
    CREATE FUNCTION gate(id bigint, v vector) RETURNS vector IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN
        IF id = 3000 THEN PERFORM pg_advisory_xact_lock_shared(1); END IF;
        IF id = 4000 AND current_setting('application_name') = 'fails' THEN RAISE division_by_zero; END IF;
        RETURN v;
    END $$";
/// An index through the gate, with a model that was trained before.
const GATED: &str =
    "USING distillvq ((gate(id, embedding)::vector(8)) vector_cosine_ops) WITH (model = m)";

/// A database with 6,000 rows, a model, and the gate.
fn gated(name: &str) -> (Database, Vectors) {
    let (mut db, queries) = items(name, 6_000, 8);
    db.run(GATE);
    db.run("SELECT distillvq_train('items', 'embedding', 'm')");
    (db, queries)
}

/// What `pg_stat_progress_create_index` says of the only build: the phase, and done and total of tuples and of blocks.
fn progress(boss: &mut Client) -> Option<(String, [i64; 4])> {
    let sql = "SELECT phase, tuples_done, tuples_total, blocks_done, blocks_total
               FROM pg_stat_progress_create_index WHERE datname = current_database()";
    let row = boss.query_opt(sql, &[]).unwrap()?;
    Some((row.get(0), [1, 2, 3, 4].map(|i| row.get(i))))
}

/// Waits until the build is in a phase with this in its name, and returns its numbers.
#[track_caller]
fn wait_for_phase(boss: &mut Client, name: &str) -> [i64; 4] {
    let mut numbers = [0; 4];
    wait_for(name, || {
        let now = progress(boss);
        now.is_some_and(|(phase, now)| {
            numbers = now;
            phase.contains(name)
        })
    });
    numbers
}

#[test]
fn a_concurrent_build_tells_its_progress_and_finds_rows_inserted_meanwhile() {
    let (mut db, queries) = gated("meanwhile");
    let (mut boss, mut writer, mut builder) = (db.session(), db.session(), db.session());
    boss.run("SELECT pg_advisory_lock(1)");
    let process: i32 = builder.one("SELECT pg_backend_pid()");
    let build = thread::spawn(move || {
        builder.run(&format!("CREATE INDEX CONCURRENTLY one ON items {GATED}"));
    });
    common::wait_for_blocked(&mut boss, process);
    let [tuples, _, blocks, all_blocks] = wait_for_phase(&mut boss, "loading rows");
    assert!(tuples <= 3_000, "{tuples}");
    assert!(blocks < all_blocks, "{blocks} of {all_blocks}");
    writer.run("BEGIN; INSERT INTO items SELECT 10000 + id, embedding FROM items WHERE id < 500");
    boss.run("SELECT pg_advisory_unlock(1)");
    // The build waits for the writer, so that its last numbers can be read.
    let [tuples, all_tuples, blocks, all_blocks] =
        wait_for_phase(&mut boss, "waiting for writers before validation");
    assert_eq!((tuples, all_tuples), (6_000, 6_000));
    assert_eq!(blocks, all_blocks);
    writer.run("DELETE FROM items WHERE id = 10100; COMMIT");
    build.join().unwrap();
    let near = format!(
        "gate(id, embedding)::vector(8) <=> {}",
        literal(queries.row(0))
    );
    let sql = format!("SELECT id, {near} FROM items ORDER BY {near}");
    let found = common::ids(&by_index(&mut db, &sql));
    assert_eq!(found, db.column::<i64>("SELECT id FROM items ORDER BY id"));
    assert_eq!(found.len(), 6_499);
}

#[test]
fn a_build_that_ends_early_leaves_no_thread() {
    let (mut db, _) = gated("early");
    let threads = |process: i32| {
        let tasks = std::fs::read_dir(format!("/proc/{process}/task"));
        tasks.map_or(0, Iterator::count)
    };
    let build = format!("CREATE INDEX one ON items {GATED}");
    let process: i32 = db.one("SELECT pg_backend_pid()");
    let single = threads(process);
    db.run("SET application_name = 'fails'; SET maintenance_work_mem = '1MB'");
    assert_eq!(db.refusal(&build).state, "22012");
    // The kernel lists a thread for a moment after it was joined.
    wait_for("the end of all threads", || threads(process) == single);
    db.run("RESET application_name");
    let mut boss = db.session();
    boss.run("SELECT pg_advisory_lock(1)");
    for (order, state) in [
        ("pg_cancel_backend", "57014"),
        ("pg_terminate_backend", "57P01"),
    ] {
        let mut session = db.session();
        let process: i32 = session.one("SELECT pg_backend_pid()");
        let build = build.clone();
        let build = thread::spawn(move || {
            let error = session.batch_execute(&build).unwrap_err();
            (session, error)
        });
        common::wait_for_blocked(&mut boss, process);
        assert!(threads(process) > 1, "workers wait beside the scan");
        boss.run(&format!("SELECT {order}({process})"));
        let (_session, error) = build.join().unwrap();
        let code = error.code().map(|state| state.code());
        assert!(code == Some(state) || error.is_closed(), "{error:?}");
        wait_for("the end of all threads", || threads(process) <= 1);
    }
    boss.run("SELECT pg_advisory_unlock(1)");
    db.run(&build);
}

#[test]
fn a_build_in_several_runs() {
    // With the least memory a run of encoded rows is written when it exceeds 8 MB: two runs here.
    let mut db = Database::new("runs");
    db.run("SET maintenance_work_mem = '1MB'; SELECT setseed(0.5);
            CREATE TABLE items (id bigint, embedding vector(8));
            INSERT INTO items SELECT i, ARRAY(SELECT random() + i * 0 FROM generate_series(1, 8))::vector
            FROM generate_series(1, 300000) i;
            CREATE INDEX ON items USING distillvq (embedding) WITH (lists = 50, subquantizers = 8)");
    let query = [0.5, 0.1, 0.9, 0.5, 0.3, 0.2, 0.7, 0.4];
    db.run(&format!("SET distillvq.probes = {ALL}"));
    let sql = search("items", Metric::L2, &query, "LIMIT 100");
    let (found, truth) = (by_index(&mut db, &sql), common::by_table(&mut db, &sql));
    in_order(&found);
    assert!(common::recall(&found, &truth) >= 0.98);
    db.run("SET enable_seqscan = off; SET enable_sort = off");
    let distance = format!("embedding <-> {}", literal(&query));
    let counts: String = db.one(&format!(
        "SELECT format('%s %s', count(*), count(DISTINCT id)) FROM (SELECT id FROM items ORDER BY {distance} OFFSET 0) s"
    ));
    assert_eq!(counts, "300000 300000");
}

/// Runs a statement in a session of its own, and returns the most memory that its process had beyond what it began with.
fn peak_memory(db: &Database, settings: &str, command: &str) -> i64 {
    let mut session = db.session();
    session.run(&format!(
        "{settings}; SELECT count(*) FROM distillvq_models"
    ));
    let process: i32 = session.one("SELECT pg_backend_pid()");
    let before = memory_of(process);
    let command = command.to_owned();
    let work = thread::spawn(move || {
        session.run(&command);
        session
    });
    let mut most = 0;
    while !work.is_finished() {
        most = most.max(memory_of(process) - before);
        thread::sleep(Duration::from_millis(5));
    }
    work.join().unwrap();
    most
}

#[test]
fn little_memory_gives_the_same_lists() {
    let mut db = Database::new("little");
    db.run(
        "CREATE TABLE items (id bigint, embedding vector(32)); SELECT setseed(0.5);
         INSERT INTO items SELECT i, ARRAY(SELECT random() + i * 0 FROM generate_series(1, 32))::vector
         FROM generate_series(1, 2000) i;
         SELECT distillvq_train('items', 'embedding', 'm', metric => 'l2', lists => 100);
         INSERT INTO items SELECT n * 2000 + id, embedding FROM items, generate_series(1, 249) n",
    );
    // A row takes 60 bytes until it is written: three runs of 8 MB and a rest, and one run.
    let mut build = |memory: &str| {
        let set = format!("SET maintenance_work_mem = '{memory}'");
        db.run("DROP INDEX IF EXISTS one");
        let build = "CREATE INDEX one ON items USING distillvq (embedding) WITH (model = m)";
        let most = peak_memory(&db, &set, build);
        let pages = pages(&mut db, "one");
        (rows_of_lists(&pages), pages.len(), most)
    };
    let (lists, pages, most) = build("1MB");
    assert!(most <= 24 << 20, "{most} bytes");
    let (in_one_run, pages_in_one_run, _) = build("1GB");
    assert_eq!(lists.iter().sum::<u64>(), 500_000);
    assert_eq!(lists, in_one_run);
    assert_eq!(pages, pages_in_one_run);
}

#[test]
fn a_build_keeps_to_its_memory() {
    let mut db = Database::new("limits");
    let data = DataSet::shipped().unwrap();
    table(&mut db, "items", "vector", &data.documents.slice(0..12_000));
    table(&mut db, "log", "vector", &data.log);
    for command in [
        "CREATE INDEX one ON items USING distillvq (embedding vector_cosine_ops)",
        "SELECT distillvq_train('items', 'embedding', 'm')",
        "SELECT distillvq_train('items', 'embedding', 'm', queries => 'log', query_column => 'embedding')",
        "CREATE INDEX two ON items USING distillvq (embedding vector_cosine_ops) WITH (model = m)",
    ] {
        let most = peak_memory(&db, "SET maintenance_work_mem = '32MB'", command);
        // Stacks of the threads and the decoded model come on top.
        assert!(most <= 40 << 20, "{command}: {most} bytes");
    }
}
