//! `distillvq_index_info` and the view `distillvq_indexes` report correct figures to roles with the privilege, and their advice helps.
//! `distillvq_progress` shows running builds.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::thread;

use common::{Database, Sql, can_evict, evict, server, table, wait_for};
use distillvq_harness::{DataSet, Vectors};
use postgres::Client;

/// Rows of `items`.
const ROWS: usize = 2_000;

/// A database with a table `items` of vectors of 12 dimensions and an index `one` over it, and more such vectors.
fn items(name: &str) -> (Database, Vectors) {
    let mut db = Database::new(name);
    let all = Vectors::clustered(2 * ROWS, 12, 10, 6);
    table(&mut db, "items", "vector", &all.slice(0..ROWS));
    db.run("CREATE INDEX one ON items USING distillvq (embedding) WITH (lists = 20)");
    (db, all.slice(ROWS..2 * ROWS))
}

/// Inserts vectors, with ids from 10,000 on.
fn insert(client: &mut Client, vectors: &Vectors) {
    table(client, "more", "vector", vectors);
    client.run("INSERT INTO items SELECT id + 10000, embedding FROM more; DROP TABLE more");
}

/// A column of what is said about the index `one`.
#[track_caller]
fn said<T: postgres::types::FromSqlOwned>(client: &mut Client, column: &str) -> T {
    client.one(&format!("SELECT {column} FROM distillvq_index_info('one')"))
}

/// The advice about the index `one`.
#[track_caller]
fn advice(client: &mut Client) -> String {
    said(client, "advice")
}

/// Does what an advice says: the statements behind its reason.
#[track_caller]
fn follow(client: &mut Client, advice: &str) {
    for statement in advice.split("; ").skip(1) {
        client.run(statement);
    }
}

#[test]
fn figures_after_each_kind_of_change() {
    let (mut db, more) = items("figures");
    let size: i64 = db.one("SELECT pg_relation_size('one')");
    let counts = "rows || ' ' || lists || ' ' || inserted_rows || ' ' || dead_rows || ' ' || exact_rows || ' ' || model";
    assert_eq!(said::<String>(&mut db, counts), "2000 20 0 0 0 own");
    assert_eq!(said::<i64>(&mut db, "bytes"), size);
    assert!((said::<f32>(&mut db, "bytes_per_row") - size as f32 / 2000.0).abs() < 0.01);
    let balance = "list_min BETWEEN 1 AND list_median AND list_median BETWEEN list_min AND list_max
                   AND list_max BETWEEN 100 AND 1000 AND abs(largest_share - list_max / 2000.0) < 1e-5";
    assert!(said::<bool>(&mut db, balance));
    let lists: (i64, i64, i64) = (
        said(&mut db, "list_min"),
        said(&mut db, "list_median"),
        said(&mut db, "list_max"),
    );
    assert!(
        lists.0 <= lists.1 && lists.1 <= lists.2 && lists.1 <= 2 * 100,
        "{lists:?}"
    );
    insert(&mut db, &more.slice(0..300));
    assert_eq!(said::<String>(&mut db, counts), "2300 20 300 0 0 own");
    // What the codes cannot represent, and NULLs, which are not indexed.
    db.run("INSERT INTO items SELECT 1, array_fill(1e30::real, ARRAY[12])::vector FROM generate_series(1, 3)");
    db.run("INSERT INTO items SELECT 1, NULL FROM generate_series(1, 3)");
    assert_eq!(said::<String>(&mut db, counts), "2303 20 303 0 3 own");
    // An update that changes the vector is an insert, and leaves a dead entry.
    db.run(
        "DELETE FROM items WHERE embedding IS NULL; DELETE FROM items WHERE id < 1000 AND id <> 1",
    );
    let dead: i64 = said(&mut db, "dead_rows");
    assert!((850..=1_150).contains(&dead), "{dead}");
    db.run_each(&["VACUUM items"]);
    assert_eq!(said::<String>(&mut db, counts), "1304 20 303 0 3 own");
    db.run_each(&["REINDEX INDEX one"]);
    assert_eq!(said::<String>(&mut db, counts), "1304 20 0 0 3 own");
    let mut session = db.session();
    session.run("BEGIN; INSERT INTO items SELECT * FROM items WHERE id > 10000 LIMIT 100");
    // Nobody knows yet whether they will come to life.
    assert_eq!(said::<i64>(&mut db, "dead_rows"), 0);
    session.run("ROLLBACK");
    let dead: i64 = said(&mut db, "dead_rows");
    assert!((50..=150).contains(&dead), "{dead}");
}

#[test]
fn rows_that_are_gone_are_a_reason_to_calibrate() {
    let mut db = Database::of_items("gone", &Vectors::clustered(20_000, 16, 1_000, 3));
    db.run("CREATE INDEX one ON items USING distillvq (embedding)");
    assert_eq!(advice(&mut db), "ok");
    db.run("DELETE FROM items WHERE id % 10 > 0");
    db.run_each(&["VACUUM items"]);
    let told = advice(&mut db);
    assert!(
        told.starts_with("calibrate: 90 % of the rows were deleted since the calibration; "),
        "{told}"
    );
    follow(&mut db, &told);
    assert_eq!(advice(&mut db), "ok");
}

#[test]
fn rows_without_codes_are_a_reason_to_reindex() {
    let mut db = Database::of_items("unquantized", &Vectors::like_texts(5_000, 64, 3, 0));
    db.run("CREATE INDEX one ON items USING distillvq (embedding)");
    // Of a model that does not normalize: too long for the codes of unit vectors.
    db.run(
        "INSERT INTO items SELECT id + 10000, l2_normalize(embedding) * array_fill(n::real, ARRAY[64])::vector
         FROM items, (VALUES (300), (400)) AS long (n)",
    );
    assert!(said::<i64>(&mut db, "exact_rows") > 9_000);
    let told = advice(&mut db);
    assert!(
        told.starts_with("reindex: 10000 of 15000 rows have no code"),
        "{told}"
    );
    // Measuring again does not help.
    db.run("SELECT distillvq_calibrate('one')");
    assert_eq!(advice(&mut db), told);
    db.run_each(&[told.split("; ").last().unwrap()]);
    assert!(said::<i64>(&mut db, "exact_rows") < 1_000);
    assert!(!advice(&mut db).contains("have no code"));
}

#[test]
fn a_model_that_is_missing_is_told() {
    let (mut db, _) = items("missing");
    let refusal = db.refusal("ALTER INDEX one SET (model = 'nope')");
    assert_eq!(refusal.state, "42704", "{refusal:?}");
    assert!(refusal.message.contains("nope"), "{refusal:?}");
    let other = "CREATE INDEX two ON items USING distillvq (embedding) WITH (model = 'nope')";
    assert_eq!(db.refusal(other).state, "42704");
    assert_eq!(advice(&mut db), "ok");
    db.run("SELECT distillvq_train('items', 'embedding', 'm', metric => 'l2'); ALTER INDEX one SET (model = 'm')");
    assert_eq!(advice(&mut db), "ok");
    let problems = "SELECT count(*) FROM distillvq_check('one')";
    assert_eq!(db.one::<i64>(problems), 0);
    db.run("SELECT distillvq_drop_model('m', force => true)");
    let told = advice(&mut db);
    assert!(told.contains("\"m\" does not exist"), "{told}");
    assert_eq!(
        db.one::<String>("SELECT problem FROM distillvq_check('one')"),
        "model \"m\" does not exist, so the index cannot be rebuilt or restored"
    );
    // Other options can be changed all the same.
    db.run("ALTER INDEX one SET (probes = 3); ALTER INDEX one RESET (probes)");
    follow(&mut db, &told);
    assert_eq!(advice(&mut db), "ok");
    // Of another metric.
    db.run("SELECT distillvq_train('items', 'embedding', 'm', metric => 'cosine')");
    db.run("ALTER INDEX one SET (model = 'm')");
    let told = advice(&mut db);
    assert!(
        told.contains("\"m\" is for 12 dimensions and cosine"),
        "{told}"
    );
    db.run("ALTER INDEX one RESET (model)");
}

#[test]
fn training_and_calibration_are_told() {
    let (mut db, more) = items("training");
    table(&mut db, "log", "vector", &more.slice(0..400));
    let trained = "trained_rows BETWEEN 1000 AND 2000 AND logged_queries = 0
                   AND trained_at BETWEEN now() - interval '1 hour' AND now() + interval '1 minute'
                   AND code_recall_before BETWEEN 0.1 AND 1 AND code_recall_after >= code_recall_before";
    assert!(said::<bool>(&mut db, trained));
    assert_eq!(said::<String>(&mut db, "query_source"), "rows");
    let points: Vec<(i32, f64)> = db
        .query(
            "SELECT (p->>'probes')::int, (p->>'recall')::float8 FROM distillvq_index_info('one'),
                 json_array_elements(calibration) p",
            &[],
        )
        .unwrap()
        .iter()
        .map(|row| (row.get(0), row.get(1)))
        .collect();
    assert!(points.len() >= 3, "{points:?}");
    assert!(
        points.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1),
        "{points:?}"
    );
    assert!(
        points.iter().all(|it| (0.0..=1.0).contains(&it.1)),
        "{points:?}"
    );
    assert_eq!(advice(&mut db), "ok");
    db.run(
        "SELECT distillvq_train('items', 'embedding', 'm', metric => 'l2', lists => 20,
                                queries => 'log', query_column => 'embedding');
         CREATE INDEX two ON items USING distillvq (embedding) WITH (model = m)",
    );
    let two: String =
        db.one("SELECT model || ' ' || logged_queries || ' ' || query_source FROM distillvq_index_info('two')");
    assert!(two.starts_with("m ") && two.ends_with(" log"), "{two}");
    let before: f64 = said(&mut db, "extract(epoch FROM trained_at)::float8");
    db.run("SELECT distillvq_train('one', queries => 'log', query_column => 'embedding')");
    assert!(said::<f64>(&mut db, "extract(epoch FROM trained_at)::float8") >= before);
}

#[test]
fn an_index_over_too_few_rows_is_to_be_vacuumed_once_there_are_enough() {
    let mut db = Database::new("untrained");
    let all = Vectors::clustered(1_200, 12, 10, 6);
    table(&mut db, "items", "vector", &all.slice(0..900));
    db.run("CREATE INDEX one ON items USING distillvq (embedding)");
    assert_eq!(advice(&mut db), "ok");
    let told = "lists = 0 AND exact_rows = 900 AND list_min IS NULL AND largest_share IS NULL AND model IS NULL
                AND trained_at IS NULL AND trained_rows IS NULL AND drift IS NULL AND query_source = 'none'";
    assert!(said::<bool>(&mut db, told));
    insert(&mut db, &all.slice(900..1_200));
    let told = advice(&mut db);
    assert!(
        told.starts_with("vacuum: ") && told.contains("public.items"),
        "{told}"
    );
    db.run("ALTER INDEX one SET (auto_train = off)");
    let told = advice(&mut db);
    assert!(
        told.starts_with("reindex: ") && told.contains("public.one"),
        "{told}"
    );
    follow(&mut db, &told);
    assert_eq!(advice(&mut db), "ok");
}

#[test]
fn dead_entries_are_to_be_vacuumed() {
    let (mut db, _) = items("dead");
    db.run("DELETE FROM items WHERE id % 5 < 1");
    assert_eq!(advice(&mut db), "ok");
    db.run("DELETE FROM items WHERE id % 5 < 2");
    let told = advice(&mut db);
    assert!(
        told.starts_with("vacuum: ") && told.ends_with("VACUUM public.items"),
        "{told}"
    );
    follow(&mut db, &told);
    assert_eq!(advice(&mut db), "ok");
}

#[test]
fn an_index_that_has_grown_is_to_be_trained_again() {
    let (mut db, more) = items("grown");
    insert(&mut db, &more.slice(0..900));
    assert_eq!(advice(&mut db), "ok");
    insert(&mut db, &more.slice(900..1_200));
    let told = advice(&mut db);
    assert!(
        told.starts_with("retrain: ") && told.contains("60 %"),
        "{told}"
    );
    follow(&mut db, &told);
    assert_eq!(advice(&mut db), "ok");
}

/// Follows the advice about the index `one` until that is "ok". Returns each advice, the last one included.
#[track_caller]
fn follow_all(client: &mut Client) -> Vec<String> {
    let mut all = Vec::new();
    while all.last().is_none_or(|it| it != "ok") {
        assert!(all.len() < 6, "{all:?}");
        let told = advice(client);
        follow(client, &told);
        all.push(told);
    }
    all
}

#[test]
fn a_doubled_index_keeps_its_promise_or_is_told_how() {
    let dim = 32;
    let all = Vectors::clustered(2 * ROWS, dim, 40, 6);
    let keeps = |db: &mut Client| {
        let measured =
            "SELECT recall_high >= 0.95 FROM distillvq_recall('one', query_count => 400)";
        db.one::<bool>(measured)
    };
    for (kind, more) in [
        ("like", all.slice(ROWS..2 * ROWS)),
        ("elsewhere", Vectors::clustered(ROWS, dim, 40, 77)),
        ("everywhere", Vectors::noise(ROWS, dim, 5)),
    ] {
        let mut db = Database::of_items(&format!("doubled_{kind}"), &all.slice(0..ROWS));
        db.run("CREATE INDEX one ON items USING distillvq (embedding) WITH (lists = 100)");
        insert(&mut db, &more);
        // Otherwise nothing would be mended here.
        assert!(kind != "everywhere" || advice(&mut db) != "ok");
        let told = follow_all(&mut db);
        assert!(keeps(&mut db), "{kind}: {told:?}");
    }
}

#[test]
fn codes_that_miss_the_target_are_to_be_finer() {
    let mut db = Database::of_items("coarse", &Vectors::noise(2_000, 32, 3));
    db.run(
        "CREATE INDEX one ON items USING distillvq (embedding)
         WITH (lists = 10, subquantizers = 3, target_recall = 0.9999)",
    );
    let told = follow_all(&mut db);
    let expected = [
        "reindex: with all lists, recall is ",
        "ALTER INDEX public.one SET (subquantizers = 6); REINDEX INDEX CONCURRENTLY public.one",
    ];
    assert!(
        told[0].starts_with(expected[0]) && told[0].ends_with(expected[1]),
        "{told:?}"
    );
    let reached = "(calibration->-1->>'recall')::float8";
    assert!(said::<f64>(&mut db, reached) >= 0.9999);
    // What a model decides, it is to be trained for.
    db.run(
        "SELECT distillvq_train('items', 'embedding', 'm', metric => 'l2', lists => 10, subquantizers => 3);
         DROP INDEX one;
         CREATE INDEX one ON items USING distillvq (embedding) WITH (model = m, target_recall = 0.9999)",
    );
    let told = advice(&mut db);
    let expected = "train 'm' with subquantizers => 6, then REINDEX INDEX CONCURRENTLY public.one";
    assert!(told.ends_with(expected), "{told}");
}

#[test]
fn a_target_that_no_codes_reach_is_to_be_lowered() {
    let (rows, dim) = (12_000, 16);
    // Most rows are nearly alike, far nearer to each other than codes of all rows can tell.
    let (spread, centers) = (Vectors::noise(rows, dim, 5), Vectors::noise(100, dim, 6));
    let row = |i: usize| {
        let (center, scale) = if i % 10 < 8 {
            (0, 1e-3)
        } else {
            (i % 100, 1.0)
        };
        let both = centers.row(center).iter().zip(spread.row(i));
        both.map(|(c, s)| c + scale * s).collect::<Vec<f32>>()
    };
    let vectors = Vectors::new(dim, (0..rows).flat_map(row).collect()).unwrap();
    let mut db = Database::of_items("unreached", &vectors);
    db.run(
        "CREATE INDEX one ON items USING distillvq (embedding)
         WITH (lists = 4, subquantizers = 16, bits = 8, target_recall = 0.9999)",
    );
    let mut session = db.session();
    session.run("SET distillvq.target_recall = 0.9998");
    let told = follow_all(&mut db);
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].starts_with("lower target_recall: "), "{told:?}");
    // Where the index's own target does not count, it does not help to lower that one.
    let told = follow_all(&mut session);
    assert!(
        told[0].contains("; SET distillvq.target_recall = "),
        "{told:?}"
    );
}

#[test]
fn rows_of_another_kind_make_the_codes_err() {
    let (mut db, more) = items("drift");
    insert(&mut db, &more.slice(0..600));
    let same: f32 = said(&mut db, "drift");
    assert!((0.8..1.5).contains(&same), "{same}");
    assert_eq!(advice(&mut db), "ok");
    // Around other centers.
    let mut db = items("drifted").0;
    insert(&mut db, &Vectors::clustered(600, 12, 10, 77));
    let other: f32 = said(&mut db, "drift");
    assert!(other > 1.75, "{other}");
    let told = advice(&mut db);
    assert!(
        told.starts_with("reindex: the distribution of the inserted rows differs"),
        "{told}"
    );
    follow(&mut db, &told);
    assert_eq!(advice(&mut db), "ok");
    assert_eq!(said::<Option<f32>>(&mut db, "drift"), None);
}

#[test]
fn unbalanced_lists_are_a_reason_to_reindex() {
    let mut db = Database::new("crowd");
    let all = Vectors::clustered(1_500, 12, 100, 6);
    table(&mut db, "items", "vector", &all);
    db.run("CREATE INDEX one ON items USING distillvq (embedding) WITH (lists = 100)");
    // The same few places again and again: no new kind of rows.
    for _ in 0..7 {
        db.run("INSERT INTO items SELECT 7, embedding FROM items WHERE id < 8 AND id > 6");
    }
    db.run("INSERT INTO items SELECT 7, embedding FROM items, generate_series(1, 20) WHERE id = 7");
    let told = advice(&mut db);
    assert!(told.starts_with("reindex: lists are unbalanced"), "{told}");
}

#[test]
fn indexes_are_shown_to_those_who_may_know_them() {
    let (mut db, _) = items("shown");
    let mut judy = db.session_of("judy_looks");
    let one = "SELECT rows FROM distillvq_index_info('one')";
    let view = "SELECT count(*) FROM distillvq_indexes";
    let refusal = judy.refusal(one);
    assert_eq!(refusal.state, "42501", "{refusal:?}");
    assert!(refusal.hint.contains("pg_monitor"), "{refusal:?}");
    assert_eq!(judy.one::<i64>(view), 0);
    let ways = [
        (
            "GRANT SELECT ON items TO judy_looks",
            "REVOKE SELECT ON items FROM judy_looks",
        ),
        (
            "GRANT SELECT (embedding) ON items TO judy_looks",
            "REVOKE SELECT (embedding) ON items FROM judy_looks",
        ),
        (
            "GRANT pg_monitor TO judy_looks",
            "REVOKE pg_monitor FROM judy_looks",
        ),
        (
            "GRANT pg_read_all_stats TO judy_looks",
            "REVOKE pg_read_all_stats FROM judy_looks",
        ),
        (
            "ALTER TABLE items OWNER TO judy_looks",
            "ALTER TABLE items OWNER TO CURRENT_USER",
        ),
    ];
    for (grant, revoke) in ways {
        db.run(grant);
        assert_eq!(judy.one::<i64>(one), 2_000, "{grant}");
        assert_eq!(judy.one::<i64>(view), 1, "{grant}");
        db.run(revoke);
        assert_eq!(judy.refusal(one).state, "42501", "{revoke}");
        assert_eq!(judy.one::<i64>(view), 0, "{revoke}");
    }
    db.run("GRANT SELECT (id) ON items TO judy_looks");
    assert_eq!(judy.refusal(one).state, "42501");
    for (argument, state) in [("'items'", "42809"), ("NULL", "22004"), ("0", "42809")] {
        let refusal = db.refusal(&format!("SELECT distillvq_index_info({argument})"));
        assert_eq!(refusal.state, state, "{refusal:?}");
    }
}

/// Index and advice of all rows of the view.
fn shown(client: &mut Client) -> Vec<(String, Option<i64>, String)> {
    let rows = client.query(
        "SELECT \"index\"::text, rows, advice FROM distillvq_indexes ORDER BY 1",
        &[],
    );
    rows.unwrap()
        .iter()
        .map(|row| (row.get(0), row.get(1), row.get(2)))
        .collect()
}

#[test]
fn the_view_fails_over_no_index() {
    if !can_evict() {
        return;
    }
    let (mut db, _) = items("view");
    db.damaged = true;
    db.run(
        "CREATE INDEX damaged ON items USING distillvq (embedding);
         CREATE INDEX unfinished ON items USING distillvq (embedding);
         CREATE INDEX torn ON items USING distillvq (embedding);
         CREATE INDEX tree ON items (id);
         CREATE TABLE parts (id bigint, embedding vector(12)) PARTITION BY RANGE (id);
         CREATE INDEX above ON parts USING distillvq (embedding);
         CREATE TABLE part PARTITION OF parts DEFAULT;
         CREATE TABLE busy (embedding vector(12)); CREATE INDEX busy_one ON busy USING distillvq (embedding);
         UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'unfinished'::regclass;
         CHECKPOINT",
    );
    let mut other = db.session();
    other.run(
        "CREATE TEMPORARY TABLE mine (embedding vector(12)); INSERT INTO mine SELECT embedding FROM items LIMIT 50;
         CREATE INDEX mine_one ON mine USING distillvq (embedding)",
    );
    let mut locker = db.session();
    locker.run("BEGIN; LOCK TABLE busy IN ACCESS EXCLUSIVE MODE");
    damage(&mut db, "damaged", |bytes| {
        bytes[8_192 + 24..2 * 8_192].fill(0xA5)
    });
    // Not even PostgreSQL takes this for a page.
    damage(&mut db, "torn", |bytes| {
        bytes[3 * 8_192..3 * 8_192 + 24].fill(0x5A)
    });
    let mut session = db.session();
    session.run("SET ignore_checksum_failure = on");
    let all = shown(&mut session);
    let names: Vec<&str> = all.iter().map(|row| row.0.as_str()).collect();
    assert_eq!(
        names,
        [
            "busy_one",
            "damaged",
            "one",
            "part_embedding_idx",
            "torn",
            "unfinished"
        ]
    );
    let of = |name: &str| {
        all.iter()
            .find(|row| row.0 == name)
            .map(|row| (row.1, row.2.as_str()))
            .unwrap()
    };
    assert_eq!(of("one").0, Some(2_000));
    assert_eq!(of("part_embedding_idx"), (Some(0), "ok"));
    for (name, advice) in [
        ("busy_one", "unknown: it is locked"),
        ("damaged", "reindex: index \"damaged\": block "),
        ("torn", "reindex: invalid page in block 3"),
        ("unfinished", "reindex: the build is running or has failed"),
    ] {
        assert_eq!(of(name).0, None, "{all:?}");
        assert!(of(name).1.starts_with(advice), "{name}: {}", of(name).1);
    }
    // The session that has the temporary table sees it.
    assert!(
        shown(&mut other)
            .iter()
            .any(|row| row.0 == "mine_one" && row.1 == Some(50))
    );
    let refusal = db.refusal(&format!(
        "SELECT distillvq_index_info({})",
        other.one::<u32>("SELECT 'mine_one'::regclass::oid")
    ));
    assert_eq!(refusal.state, "0A000", "{refusal:?}");
    let refusal = db.refusal("SELECT distillvq_index_info('unfinished')");
    assert_eq!(refusal.state, "55000", "{refusal:?}");
    let refusal = db
        .session()
        .refusal("SELECT distillvq_index_info('damaged')");
    assert!(refusal.state.starts_with("XX00"), "{refusal:?}");
    // Nothing of all that is left behind: the session goes on, and what it does is kept.
    let mut session = db.session();
    session.run("BEGIN; CREATE TABLE kept AS SELECT 1 AS a");
    assert_eq!(shown(&mut session).len(), 6);
    session.run("INSERT INTO kept VALUES (2); COMMIT");
    assert_eq!(db.one::<i64>("SELECT count(*) FROM kept"), 2);
    db.run("DROP INDEX damaged, torn");
}

/// Changes an index's file behind the server's back.
fn damage(db: &mut Database, index: &str, change: impl FnOnce(&mut [u8])) {
    let path: String = db.one(&format!("SELECT pg_relation_filepath('{index}')"));
    evict(db, index);
    let path = server().data().join(path);
    let mut bytes = fs::read(&path).unwrap();
    change(&mut bytes);
    let mut file = OpenOptions::new().write(true).open(path).unwrap();
    file.write_all(&bytes).unwrap();
}

#[test]
fn progress_shows_builds_and_trainings() {
    let mut db = Database::of_items(
        "progress",
        &DataSet::shipped().unwrap().documents.slice(0..4_000),
    );
    db.run("CREATE INDEX tree ON items (id)");
    assert_eq!(db.one::<i64>("SELECT count(*) FROM distillvq_progress"), 0);
    let mut session = db.session();
    let process: i32 = session.one("SELECT pg_backend_pid()");
    let build = thread::spawn(move || {
        session.run("CREATE INDEX one ON items USING distillvq (embedding vector_cosine_ops)");
    });
    let mut phases: Vec<String> = Vec::new();
    wait_for("the end of the build", || {
        let rows = db.query("SELECT pid, \"table\"::text, \"index\"::text, phase, done, total, percent::float8 FROM distillvq_progress", &[]);
        for row in rows.unwrap() {
            assert_eq!(
                (row.get::<_, i32>(0), row.get::<_, &str>(1)),
                (process, "items")
            );
            let percent: Option<f64> = row.get(6);
            assert!(
                percent.is_none_or(|it| (0.0..=100.0).contains(&it)),
                "{row:?}"
            );
            let phase: String = row.get(3);
            if phases.last() != Some(&phase) {
                phases.push(phase);
            }
        }
        build.is_finished()
    });
    build.join().unwrap();
    assert!(
        phases.iter().any(|it| it.starts_with("training: ")),
        "{phases:?}"
    );
    assert_eq!(db.one::<i64>("SELECT count(*) FROM distillvq_progress"), 0);
}
