//! VACUUM trains an index that was created before its rows came, while reads and writes go on, and loses none of the rows
//! whatever happens meanwhile.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use common::{
    ALL, Database, Sql, all_found, by_index, by_table, exact, healthy, ids, in_order,
    is_index_condition, mean_recall, search, undamaged, verified, wait_for,
};
use distillvq_harness::{Metric, Server, Stop, Vectors, load};
use postgres::Client;

const DIM: usize = 24;
const ROWS: usize = 6_000;

fn vectors() -> Vectors {
    Vectors::clustered(ROWS + 2_020, DIM, 30, 17)
}

/// Makes the table and the index as migration tools do, and then fills the table.
fn fill(client: &mut Client, options: &str, rows: &Vectors) {
    client.run(&format!(
        "CREATE TABLE items (id bigint, embedding vector({DIM}));
         CREATE INDEX one ON items USING distillvq (embedding vector_cosine_ops) {options}"
    ));
    load::copy_vectors(client, "items", rows).unwrap();
}

/// A column of `distillvq_index_info`.
fn info<T: postgres::types::FromSqlOwned>(client: &mut Client, column: &str) -> T {
    client.one(&format!("SELECT {column} FROM distillvq_index_info('one')"))
}

/// Fails unless the index has a model, a calibration, and all its rows in lists, and is in no need of anything.
#[track_caller]
fn trained(client: &mut Client) {
    all_in_lists(client);
    assert_eq!(info::<String>(client, "advice"), "ok");
}

/// Fails unless the index has a model, a calibration, and all its rows in lists.
#[track_caller]
fn all_in_lists(client: &mut Client) {
    let told: String = info(
        client,
        "concat_ws(' ', lists > 0, exact_rows, rows, trained_rows > 0, query_source <> 'none')",
    );
    let rows: i64 = client.one("SELECT count(*) FROM items");
    assert_eq!(told, format!("t 0 {rows} t t"));
    verified(client);
}

/// Vacuums until all rows are in lists: rows that a transaction had deleted just then stay for another vacuum.
#[track_caller]
fn vacuum_to_the_end(client: &mut Client) {
    client.run("VACUUM items");
    client.run("VACUUM items");
    all_in_lists(client);
}

#[test]
fn an_index_that_was_there_before_the_rows_is_trained() {
    let mut db = Database::new("first");
    let all = vectors();
    fill(&mut db, "", &all.slice(0..ROWS));
    let queries = all.slice(ROWS..ROWS + 20);
    assert_eq!(info::<i32>(&mut db, "lists"), 0);
    let advice: String = info(&mut db, "advice");
    assert!(
        advice.starts_with("vacuum: ") && advice.ends_with("VACUUM public.items"),
        "{advice}"
    );
    exact(
        &mut db,
        &search("items", Metric::Cosine, queries.row(0), "LIMIT 20"),
    );
    assert_eq!(db.notices("VACUUM items"), "");
    trained(&mut db);
    let tuples = |db: &mut Database, name: &str| {
        db.one::<i64>(&format!(
            "SELECT reltuples::bigint FROM pg_class WHERE relname = '{name}'"
        ))
    };
    assert_eq!(
        (tuples(&mut db, "one"), tuples(&mut db, "items")),
        (ROWS as i64, ROWS as i64)
    );
    // The planner knows it, and what it costs.
    db.run("ANALYZE items");
    let plan = db.plan(&search("items", Metric::Cosine, queries.row(0), "LIMIT 10"));
    assert!(plan.contains("Index Scan using one"), "{plan}");
    let recall: f64 = db.one("SELECT recall::float8 FROM distillvq_recall('one')");
    assert!(recall >= 0.93, "{recall}");
    let all_lists = mean_recall(&mut db, "items", Metric::Cosine, &queries, ALL);
    assert!(all_lists >= 0.98, "{all_lists}");
    all_found(&mut db, "items", Metric::Cosine, queries.row(1));
    // It is as an index that was built over these rows.
    let lists: i32 = info(&mut db, "lists");
    let bytes: i64 = info(&mut db, "bytes");
    db.run("REINDEX INDEX one");
    assert_eq!(info::<i32>(&mut db, "lists"), lists);
    let rebuilt: i64 = info(&mut db, "bytes");
    assert!(bytes < rebuilt + rebuilt / 2, "{bytes} {rebuilt}");
    assert_eq!(db.notices("VACUUM items"), "");
}

#[test]
fn later_rows_go_to_lists() {
    let mut db = Database::new("later");
    let all = vectors();
    fill(&mut db, "", &all.slice(0..ROWS));
    let mut writer = db.session();
    // A statement that began before: its session knows the index without a model.
    writer.run("INSERT INTO items SELECT 100000 + id, embedding FROM items WHERE id < 50");
    db.run("VACUUM items");
    writer.run("INSERT INTO items SELECT 200000 + id, embedding FROM items WHERE id < 50");
    trained(&mut db);
    db.run("DELETE FROM items WHERE id % 2 = 0; ");
    db.run("VACUUM items");
    trained(&mut db);
    all_found(&mut db, "items", Metric::Cosine, all.row(ROWS));
    db.run("SELECT distillvq_train('one')");
    db.run("SELECT distillvq_calibrate('one')");
    verified(&mut db);
    all_found(&mut db, "items", Metric::Cosine, all.row(ROWS + 1));
}

#[test]
fn the_statement_of_vacuum_may_have_parallel_workers() {
    let mut db = Database::new("parallel");
    fill(&mut db, "", &vectors().slice(0..ROWS));
    db.run(
        "CREATE INDEX two ON items (id); CREATE INDEX three ON items (id DESC);
         SET min_parallel_index_scan_size = 0; SET max_parallel_maintenance_workers = 2",
    );
    db.run("DELETE FROM items WHERE id % 50 = 0");
    db.run("VACUUM (PARALLEL 2) items");
    trained(&mut db);
}

#[test]
fn refine_codes_two_lists_and_a_named_model() {
    let all = vectors();
    let model = "SELECT distillvq_train('items', 'embedding', 'mine', lists => 25)";
    for (name, options) in [
        ("refined", "WITH (refine = sq7, assignments = 1)"),
        ("twice", "WITH (assignments = 2, lists = 33, bits = 8)"),
        ("refined_twice", "WITH (assignments = 2, refine = sq7)"),
    ] {
        let mut db = Database::new(name);
        fill(&mut db, options, &all.slice(0..3_000));
        assert_eq!(db.notices("VACUUM items"), "");
        trained(&mut db);
        all_found(&mut db, "items", Metric::Cosine, all.row(ROWS));
        db.run(model);
    }
}

#[test]
fn partial_and_expression_indexes_are_trained_with_the_owners_rights() {
    let mut db = Database::new("owner");
    let all = vectors();
    db.session_of("carol");
    db.run(&format!(
        "GRANT CREATE ON SCHEMA public TO carol;
         CREATE FUNCTION half(v vector) RETURNS vector({DIM}) IMMUTABLE PARALLEL SAFE LANGUAGE plpgsql AS $$
         BEGIN
             IF current_user <> 'carol' THEN
                 RAISE EXCEPTION 'called as %', current_user;
             END IF;
             RETURN v;
         END $$;
         SET ROLE carol;
         CREATE TABLE items (id bigint, embedding vector({DIM}));
         CREATE INDEX one ON items USING distillvq ((half(embedding)::vector({DIM})) vector_l2_ops) WHERE id % 3 = 0"
    ));
    load::copy_vectors(&mut db, "items", &all.slice(0..ROWS)).unwrap();
    db.run("RESET ROLE");
    db.run("VACUUM items");
    let told: String = info(
        &mut db,
        "concat_ws(' ', lists > 0, exact_rows, rows, query_source, advice)",
    );
    assert_eq!(told, format!("t 0 {} rows ok", ROWS / 3));
    db.run("SET ROLE carol");
    let query = common::literal(all.row(ROWS));
    let sql = |table: &str| {
        format!(
            "SELECT id, half(embedding)::vector({DIM}) <-> {query} FROM {table} WHERE id % 3 = 0 ORDER BY half(embedding)::vector({DIM}) <-> {query}"
        )
    };
    db.run("SET distillvq.iterative_scan = relaxed_order");
    let found = ids(&by_index(&mut db, &sql("items")));
    assert_eq!(found, (0..ROWS as i64).step_by(3).collect::<Vec<_>>());
    db.run("RESET ROLE; DROP TABLE items");
}

#[test]
fn an_error_of_the_training_is_no_error_of_vacuum() {
    let mut db = Database::new("fails");
    db.run(&format!(
        "CREATE TABLE fuse (a int);
         CREATE FUNCTION risky(v vector) RETURNS vector({DIM}) IMMUTABLE LANGUAGE plpgsql AS $$
         BEGIN
             IF EXISTS (SELECT FROM public.fuse) THEN RAISE EXCEPTION 'the fuse has blown'; END IF;
             RETURN v;
         END $$;
         CREATE TABLE items (id bigint, embedding vector({DIM}));
         CREATE INDEX one ON items USING distillvq ((risky(embedding)::vector({DIM})) vector_cosine_ops)"
    ));
    load::copy_vectors(&mut db, "items", &vectors().slice(0..2_000)).unwrap();
    db.run("INSERT INTO fuse VALUES (1)");
    let notices = db.notices("VACUUM items");
    for words in [
        "WARNING",
        "the fuse has blown",
        "REINDEX INDEX CONCURRENTLY public.one",
    ] {
        assert!(notices.contains(words), "{words} in {notices}");
    }
    assert_eq!(info::<i32>(&mut db, "lists"), 0);
    let vacuums: i64 = db.one("SELECT relpages::bigint FROM pg_class WHERE relname = 'items'");
    assert!(vacuums > 0, "VACUUM has come to its end");
    db.run("TRUNCATE fuse");
    assert_eq!(db.notices("VACUUM items"), "");
    trained(&mut db);
}

#[test]
fn auto_train_turns_it_off() {
    let mut db = Database::new("off");
    fill(&mut db, "WITH (auto_train = off)", &vectors().slice(0..900));
    assert_eq!(db.notices("VACUUM items"), "");
    db.run("INSERT INTO items SELECT id + 10000, embedding FROM items");
    let notices = db.notices("VACUUM items");
    let statement = "REINDEX INDEX CONCURRENTLY public.one";
    for words in ["WARNING", "1800 rows", "auto_train", statement] {
        assert!(notices.contains(words), "{words} in {notices}");
    }
    assert_eq!(info::<i32>(&mut db, "lists"), 0);
    let advice: String = info(&mut db, "advice");
    assert!(
        advice.starts_with("reindex: ") && advice.ends_with(statement),
        "{advice}"
    );
    db.run("ALTER INDEX one SET (auto_train = on)");
    assert_eq!(db.notices("VACUUM items"), "");
    trained(&mut db);
    assert_eq!(
        db.refusal("ALTER INDEX one SET (auto_train = perhaps)")
            .state,
        "22023"
    );
}

#[test]
fn with_fewer_rows_nothing_happens() {
    let mut db = Database::new("few");
    let all = vectors();
    fill(&mut db, "", &all.slice(0..999));
    let before: i64 = db.one("SELECT pg_relation_size('one')");
    assert_eq!(db.notices("VACUUM items"), "");
    assert_eq!(db.notices("VACUUM ANALYZE items"), "");
    assert_eq!(db.one::<i64>("SELECT pg_relation_size('one')"), before);
    assert_eq!(
        (
            info::<i32>(&mut db, "lists"),
            info::<String>(&mut db, "advice")
        ),
        (0, "ok".into())
    );
    // Rows that cannot be trained on do not count.
    db.run(&format!(
        "INSERT INTO items SELECT 2000 + i, array_fill(3e38, ARRAY[{DIM}])::vector FROM generate_series(1, 500) i"
    ));
    assert_eq!(db.notices("VACUUM items"), "");
    db.run("DELETE FROM items WHERE id >= 2000");
    db.run("VACUUM items");
    verified(&mut db);
}

/// Rows whose number is below this one never change.
const STABLE: i64 = 4_000;

/// Fails unless a search finds each row that never changes, in order.
#[track_caller]
fn stable_rows_found(client: &mut Client, query: &[f32]) {
    client.run("SET distillvq.iterative_scan = relaxed_order");
    let found = by_index(client, &search("items", Metric::Cosine, query, ""));
    let mut found: Vec<i64> = ids(&found);
    let all = found.len();
    found.dedup();
    assert_eq!(found.len(), all, "ids come twice");
    found.retain(|id| *id < STABLE);
    assert_eq!(found, (0..STABLE).collect::<Vec<_>>());
}

/// Ends the sessions that look at the flag, however its owner ends.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn reads_and_writes_go_on_meanwhile() {
    let mut db = Database::new("busy");
    let all = vectors();
    fill(&mut db, "", &all.slice(0..ROWS));
    let done = AtomicBool::new(false);
    let mut searches = 0;
    thread::scope(|scope| {
        let done = &done;
        let _ending = Ending(done);
        for number in 1..3i64 {
            let mut session = db.session();
            scope.spawn(move || {
                let first = 1_000_000 * number;
                for i in 0.. {
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                    session.run_each(&[
                        &format!("INSERT INTO items SELECT {first} + {i} * 100 + id, embedding FROM items WHERE id BETWEEN 10 AND 29"),
                        &format!("UPDATE items SET embedding = embedding WHERE id BETWEEN {STABLE} + {number} * 100 AND {STABLE} + {number} * 100 + 20"),
                        &format!("DELETE FROM items WHERE id BETWEEN {first} AND {first} + {i} * 50"),
                    ]);
                }
            });
        }
        let mut old = db.session();
        // A cursor that began before.
        old.run("SET enable_seqscan = off; SET enable_sort = off; SET distillvq.iterative_scan = relaxed_order; BEGIN");
        let sql = search("items", Metric::Cosine, all.row(ROWS), "");
        old.run(&format!("DECLARE c CURSOR FOR {sql}"));
        let mut vacuum = db.session();
        vacuum.run("SET vacuum_cost_delay = 1; SET vacuum_cost_limit = 300");
        let vacuumed = scope.spawn(move || vacuum.run("VACUUM items"));
        let mut reader = db.session();
        while !vacuumed.is_finished() {
            stable_rows_found(&mut reader, all.row(ROWS + searches % 20));
            searches += 1;
        }
        vacuumed.join().unwrap();
        stable_rows_found(&mut reader, all.row(ROWS));
        let found = old.query("FETCH ALL FROM c", &[]).unwrap();
        let mut found: Vec<i64> = found.iter().map(|row| row.get(0)).collect();
        found.sort_unstable();
        let all = found.len();
        found.dedup();
        assert_eq!(found.len(), all, "ids come twice");
        assert!((0..STABLE).all(|id| found.binary_search(&id).is_ok()));
    });
    assert!(searches > 1, "{searches}");
    vacuum_to_the_end(&mut db);
    all_found(&mut db, "items", Metric::Cosine, all.row(ROWS));
}

/// Makes the table with columns to filter by, and an index on them before the rows come.
fn fill_filtered(client: &mut Client, options: &str, rows: &Vectors) {
    client.run(&format!(
        "CREATE TABLE items (id bigint, embedding vector({DIM}), tenant int, label text);
         CREATE INDEX one ON items USING distillvq (embedding vector_cosine_ops, tenant, (upper(label))) {options}"
    ));
    common::table(client, "raw", "vector", rows);
    client.run(
        "INSERT INTO items SELECT id, embedding, nullif(id % 31, 30), CASE WHEN id % 5 > 0 THEN 'l' || id % 7 END FROM raw;
         ANALYZE items",
    );
}

/// Conditions on the filter columns, the last of which no row fulfills.
const CONDITIONS: [&str; 7] = [
    "tenant = 7",
    "tenant IS NULL",
    "tenant >= 20 AND upper(label) = 'L3'",
    "upper(label) = 'L2'",
    "upper(label) IS NULL AND tenant < 9",
    "tenant = ANY ('{3, 11}')",
    "tenant > 100",
];

/// A search for the rows that fulfill a condition.
fn search_where(condition: &str, query: &[f32]) -> String {
    search(
        &format!("items WHERE {condition}"),
        Metric::Cosine,
        query,
        "",
    )
}

/// The rows that never change among those that a search by the index finds under a condition.
#[track_caller]
fn stable_rows_where(client: &mut Client, condition: &str, query: &[f32]) -> Vec<i64> {
    let sql = search_where(condition, query);
    client.run("SET enable_seqscan = off; SET enable_sort = off; SET enable_bitmapscan = off");
    let plan = client.plan(&sql);
    let by_index_alone = plan.contains("Index Cond") && !plan.contains("Filter");
    assert!(
        by_index_alone || !is_index_condition(client, condition),
        "{condition}: {plan}"
    );
    client.run("SET distillvq.iterative_scan = relaxed_order");
    let mut found = ids(&by_index(client, &sql));
    let all = found.len();
    found.dedup();
    assert_eq!(found.len(), all, "ids come twice: {condition}");
    found.retain(|id| *id < STABLE);
    found
}

#[test]
fn conditions_on_filter_columns_hold_before_during_and_after() {
    for (name, options) in [
        ("filtered", ""),
        ("filtered_twice", "WITH (assignments = 2, refine = sq7)"),
    ] {
        let mut db = Database::new(name);
        let all = vectors();
        let query = all.row(ROWS);
        fill_filtered(&mut db, options, &all.slice(0..ROWS));
        let truth: [Vec<i64>; 7] = CONDITIONS.map(|condition| {
            let found = ids(&by_table(&mut db, &search_where(condition, query)));
            found.into_iter().filter(|id| *id < STABLE).collect()
        });
        let sizes = truth.each_ref().map(Vec::len);
        assert!(
            sizes[..6].iter().all(|size| *size > 50) && sizes[6] == 0,
            "{sizes:?}"
        );
        let expect = |client: &mut Client| {
            for (condition, truth) in CONDITIONS.iter().zip(&truth) {
                let found = stable_rows_where(client, condition, query);
                assert_eq!(found, *truth, "{condition}");
            }
        };
        expect(&mut db);
        verified(&mut db);
        let done = AtomicBool::new(false);
        let mut rounds = 0;
        thread::scope(|scope| {
            let done = &done;
            let _ending = Ending(done);
            let mut writer = db.session();
            scope.spawn(move || {
                for i in 0.. {
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                    writer.run_each(&[
                        &format!("INSERT INTO items SELECT 1000000 + {i} * 100 + id, embedding, tenant, label FROM items WHERE id < 60"),
                        &format!("UPDATE items SET tenant = (tenant + 1) % 30 WHERE id BETWEEN {STABLE} AND {STABLE} + 99"),
                        &format!("DELETE FROM items WHERE id BETWEEN 1000000 AND 1000000 + {i} * 50"),
                    ]);
                }
            });
            // Searches that began before, one of which has returned rows.
            let mut old = db.session();
            old.run("SET enable_seqscan = off; SET enable_sort = off; SET distillvq.iterative_scan = relaxed_order; BEGIN");
            for (number, condition) in CONDITIONS.iter().enumerate() {
                let sql = search_where(condition, query);
                old.run(&format!("DECLARE c{number} CURSOR FOR {sql}"));
            }
            let mut first: Vec<i64> = old.column("FETCH 3 FROM c0");
            let mut vacuum = db.session();
            slow_vacuum(&mut vacuum);
            let vacuumed = scope.spawn(move || vacuum.run("VACUUM items"));
            let mut reader = db.session();
            while !vacuumed.is_finished() {
                expect(&mut reader);
                rounds += 1;
            }
            vacuumed.join().unwrap();
            expect(&mut reader);
            for (number, truth) in truth.iter().enumerate() {
                let mut found = std::mem::take(&mut first);
                found.extend(old.column::<i64>(&format!("FETCH ALL FROM c{number}")));
                found.retain(|id| *id < STABLE);
                found.sort_unstable();
                assert_eq!(found, *truth, "{}", CONDITIONS[number]);
            }
        });
        assert!(rounds > 1, "{rounds}");
        vacuum_to_the_end(&mut db);
        expect(&mut db);
        db.run(&format!(
            "UPDATE items SET tenant = 40 WHERE id % 50 = 3 AND id >= {STABLE};
             INSERT INTO items SELECT 5000000 + id, embedding, 40, 'l3' FROM raw WHERE id < 200"
        ));
        verified(&mut db);
        expect(&mut db);
        for condition in CONDITIONS
            .iter()
            .chain(&["tenant = 40", "tenant = 40 AND upper(label) = 'L3'"])
        {
            let sql = search_where(condition, query);
            db.run("SET distillvq.iterative_scan = relaxed_order");
            let (found, truth) = (ids(&by_index(&mut db, &sql)), ids(&by_table(&mut db, &sql)));
            assert_eq!(found, truth, "{condition}");
        }
    }
}

/// Lets VACUUM take so long that it can be stopped in the midst of the moves.
fn slow_vacuum(client: &mut Client) {
    client.run("SET vacuum_cost_delay = 2; SET vacuum_cost_limit = 100");
}

/// Rows of the exact list of an index, none if it has no lists yet.
fn rows_left(client: &mut Client) -> Option<i64> {
    info(client, "CASE WHEN lists > 0 THEN exact_rows END")
}

/// Waits until the index has lists, if it is to be stopped after that, and then so long.
fn wait_to_stop(client: &mut Client, has_lists: bool, milliseconds: u64) {
    if has_lists {
        wait_for("the lists", || rows_left(client).is_some());
    }
    thread::sleep(Duration::from_millis(milliseconds));
}

/// Whether attempts are to be stopped after the index has lists, and after how many milliseconds.
const STOPS: [(bool, u64); 6] = [
    (false, 400),
    (true, 0),
    (true, 150),
    (true, 300),
    (true, 500),
    (true, 800),
];

/// Fails unless an attempt was stopped before, in the midst of, and after some of the moves.
#[track_caller]
fn stopped_everywhere(states: &[Option<i64>]) {
    println!("rows of the exact list after each attempt: {states:?}");
    assert_eq!(states[0], None);
    let is_midst = |state: &Option<i64>| state.is_some_and(|left| left > 0);
    assert!(states.iter().any(is_midst), "{states:?}");
}

#[test]
fn an_attempt_that_is_canceled_is_taken_up_again() {
    let mut db = Database::new("canceled");
    let all = vectors();
    fill(&mut db, "", &all.slice(0..ROWS));
    let mut states = Vec::new();
    for (has_lists, milliseconds) in STOPS {
        let mut vacuum = db.session();
        slow_vacuum(&mut vacuum);
        let process: i32 = vacuum.one("SELECT pg_backend_pid()");
        thread::scope(|scope| {
            let vacuumed = scope.spawn(move || vacuum.batch_execute("VACUUM items"));
            wait_to_stop(&mut db, has_lists, milliseconds);
            db.run(&format!("SELECT pg_cancel_backend({process})"));
            if let Err(error) = vacuumed.join().unwrap() {
                assert_eq!(error.code().map(|it| it.code()), Some("57014"), "{error}");
            }
        });
        states.push(rows_left(&mut db));
        verified(&mut db);
        all_found(&mut db, "items", Metric::Cosine, all.row(ROWS));
    }
    stopped_everywhere(&states);
    vacuum_to_the_end(&mut db);
    let recall = mean_recall(
        &mut db,
        "items",
        Metric::Cosine,
        &all.slice(ROWS..ROWS + 10),
        ALL,
    );
    assert!(recall >= 0.98, "{recall}");
}

#[test]
fn a_killed_server_loses_no_row() {
    let checked = [
        ("wal_consistency_checking", "Generic"),
        ("max_wal_size", "256MB"),
    ];
    let settings = [&common::SETTINGS[..], &checked].concat();
    let mut server = Server::start_with("self-training-crash", &settings).unwrap();
    let mut client = server.database("crash").unwrap();
    let all = vectors();
    fill(&mut client, "WITH (assignments = 2)", &all.slice(0..ROWS));
    let mut states = Vec::new();
    for (round, (has_lists, milliseconds)) in (0i64..).zip(STOPS) {
        thread::scope(|scope| {
            let mut vacuum = server.connect_to("crash").unwrap();
            slow_vacuum(&mut vacuum);
            scope.spawn(move || vacuum.batch_execute("VACUUM items"));
            let mut writer = server.connect_to("crash").unwrap();
            scope.spawn(move || {
                let insert = format!("INSERT INTO items SELECT 10000 + {round} * 1000 + id, embedding FROM items WHERE id < 300");
                writer.batch_execute(&insert)
            });
            let mut watcher = server.connect_to("crash").unwrap();
            wait_to_stop(&mut watcher, has_lists, milliseconds);
            server.kill9().unwrap();
        });
        server.restart().unwrap();
        let log = server.log().unwrap();
        healthy(&log);
        undamaged(&log, "crash");
        let mut client = server.connect_to("crash").unwrap();
        states.push(rows_left(&mut client));
        verified(&mut client);
        all_found(&mut client, "items", Metric::Cosine, all.row(ROWS));
    }
    stopped_everywhere(&states);
    let mut client = server.connect_to("crash").unwrap();
    vacuum_to_the_end(&mut client);
    all_found(&mut client, "items", Metric::Cosine, all.row(ROWS));
    let recall = mean_recall(
        &mut client,
        "items",
        Metric::Cosine,
        &all.slice(ROWS..ROWS + 10),
        ALL,
    );
    assert!(recall >= 0.98, "{recall}");
}

#[test]
fn a_replica_follows() {
    let checked = [("wal_consistency_checking", "all")];
    let settings = [&common::SETTINGS[..], &checked].concat();
    let mut primary = Server::start_with("self-training-primary", &settings).unwrap();
    let mut client = primary.database("replica").unwrap();
    let all = vectors();
    fill(&mut client, "", &all.slice(0..STABLE as usize));
    let replica = primary.standby("self-training-standby").unwrap();
    let mut there = replica.connect_to("replica").unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let (done, query) = (&done, all.row(ROWS));
        let _ending = Ending(done);
        let mut reader = replica.connect_to("replica").unwrap();
        let reads = scope.spawn(move || {
            let mut reads = 0;
            while !done.load(Ordering::Relaxed) {
                stable_rows_found(&mut reader, query);
                reads += 1;
            }
            reads
        });
        slow_vacuum(&mut client);
        client.run("VACUUM items");
        client.run("SELECT pg_logical_emit_message(true, 'test', '')");
        let until: String = client.one("SELECT pg_current_wal_flush_lsn()::text");
        let replayed = format!("SELECT pg_last_wal_replay_lsn() >= '{until}'");
        wait_for("the replica", || there.one(&replayed));
        done.store(true, Ordering::Relaxed);
        assert!(reads.join().unwrap() > 0);
    });
    trained(&mut client);
    for query in all.slice(ROWS..ROWS + 5).iter() {
        let sql = search("items", Metric::Cosine, query, "LIMIT 20");
        let (here, there) = (by_index(&mut client, &sql), by_index(&mut there, &sql));
        in_order(&here);
        assert!(here == there);
    }
    drop(client);
    primary.stop(Stop::Immediate).unwrap();
    there.run("SELECT pg_promote()");
    wait_for("the promotion", || {
        !there.one::<bool>("SELECT pg_is_in_recovery()")
    });
    there.run("INSERT INTO items SELECT -1 - id, embedding FROM items WHERE id < 300");
    there.run("VACUUM items");
    trained(&mut there);
    all_found(&mut there, "items", Metric::Cosine, all.row(ROWS));
}

#[test]
fn autovacuum_is_enough() {
    let settings = [
        ("log_line_prefix", "%m [%p] %e %q%d "),
        ("autovacuum_naptime", "1s"),
        ("autovacuum_work_mem", "32MB"),
    ];
    let server = Server::start_with("self-training-auto", &settings).unwrap();
    let mut client = server.database("auto").unwrap();
    let all = vectors();
    fill(&mut client, "", &all.slice(0..ROWS));
    let start = std::time::Instant::now();
    while info::<String>(
        &mut client,
        "concat_ws(' ', lists > 0, exact_rows, query_source)",
    ) != "t 0 rows"
    {
        assert!(
            start.elapsed() < Duration::from_secs(90),
            "not trained by autovacuum"
        );
        thread::sleep(Duration::from_millis(200));
    }
    trained(&mut client);
    let sql = search("items", Metric::Cosine, all.row(ROWS), "LIMIT 10");
    assert_eq!(
        by_index(&mut client, &sql).len(),
        by_table(&mut client, &sql).len()
    );
    undamaged(&server.log().unwrap(), "auto");
}
