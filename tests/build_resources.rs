//! Resources of a build: identical pages with any number of threads, progress, cancellation, runs, memory.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::thread;
use std::time::Duration;

use common::{
    ALL, Database, Sql, by_index, in_order, items_and_queries, literal, memory_of, search, table,
    wait_for,
};
use distillvq_harness::{DataSet, Metric, Vectors};
use postgres::Client;

/// The index file, page by page.
fn pages(db: &mut Database, index: &str) -> Vec<Vec<u8>> {
    db.run("CHECKPOINT");
    let path = format!("pg_relation_filepath('{index}')");
    let bytes: Vec<u8> = db.one(&format!("SELECT pg_read_binary_file({path})"));
    bytes.chunks(8_192).map(<[u8]>::to_vec).collect()
}

/// Rows of each list, the exact list last, from the directory (`crates/pages/src/metapage.rs` and `directory.rs` draw the pages).
fn rows_of_lists(pages: &[Vec<u8>]) -> Vec<u64> {
    let word = |at: usize| u32::from_le_bytes(pages[0][at..at + 4].try_into().unwrap()) as usize;
    let (lists, start, blocks) = (word(80), word(84), word(88));
    let entries = pages[start..start + blocks].iter();
    let entries = entries.flat_map(|page| page[64..].chunks_exact(16));
    let rows = entries.map(|entry| u64::from_le_bytes(entry[8..].try_into().unwrap()));
    rows.take(lists + 1).collect()
}

#[test]
fn the_same_table_gives_the_same_index() {
    let (mut db, _) = items_and_queries("same", 12_000, 48);
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
    let (mut db, queries) = items_and_queries(name, 6_000, 8);
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
    // All rows are counted, also those that are found too late to be returned in order.
    db.run("SET enable_seqscan = off; SET enable_sort = off; SET distillvq.iterative_scan = relaxed_order");
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
    let (in_one_run, pages_in_one_run, most_of_one_run) = build("1GB");
    // 14 to 17 MB less, of the 22 MB by which the runs differ: what both have beside it varies.
    assert!(
        most + (10 << 20) <= most_of_one_run,
        "{most} and {most_of_one_run} bytes"
    );
    assert_eq!(lists.iter().sum::<u64>(), 1_000_000, "two entries per row");
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
