//! `distillvq_check` finds every kind of damage, reports none in intact indexes, and does not block other sessions.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use common::{
    Database, SETTINGS, Sql, can_evict, evict, table, verified, wait_for, wait_for_blocked,
};
use distillvq_harness::{Server, Vectors};
use postgres::Client;

/// A database with a table `items` of 2,000 vectors of 12 dimensions and an index `one` over it with these options.
fn items(name: &str, class: &str, options: &str) -> Database {
    let mut db = Database::of_items(name, &Vectors::clustered(2_000, 12, 10, 6));
    db.run(&format!(
        "CREATE INDEX one ON items USING distillvq (embedding {class}) {options}"
    ));
    db
}

/// What is wrong with the index `one`.
#[track_caller]
fn problems(client: &mut Client, heap: bool) -> Vec<String> {
    client.column(&format!(
        "SELECT coalesce('block ' || block || ': ', '') || problem FROM distillvq_check('one', heap => {heap})"
    ))
}

/// The file of the index `one`, all of whose pages are in it and none in the server's memory.
fn file(db: &mut Database) -> PathBuf {
    let path: String = db.one("SELECT pg_relation_filepath('one')");
    evict(db, "one");
    common::server().data().join(path)
}

/// Overwrites a file in place: the server keeps it open.
fn write(file: &PathBuf, bytes: &[u8]) {
    let mut file = OpenOptions::new().write(true).open(file).unwrap();
    file.write_all(bytes).unwrap();
}

/// What a session that has seen nothing yet says after pages of the file were changed; they are put back afterwards.
fn damaged(db: &mut Database, heap: bool, change: Damage) -> Vec<String> {
    let path = file(db);
    let sound = fs::read(&path).unwrap();
    let mut pages: Vec<Vec<u8>> = sound.chunks(8_192).map(<[u8]>::to_vec).collect();
    change(&mut pages);
    write(&path, &pages.concat());
    let mut session = db.session();
    session.run("SET ignore_checksum_failure = on");
    let found = problems(&mut session, heap);
    file(db);
    write(&path, &sound);
    found
}

/// Numbers of the pages of a kind.
fn of_kind(pages: &[Vec<u8>], kind: u8) -> Vec<usize> {
    (0..pages.len()).filter(|&i| pages[i][24] == kind).collect()
}

/// Changes the pages of an index.
type Damage = fn(&mut [Vec<u8>]);

const BLOB: u8 = 2;
const POSTING: u8 = 4;
const REFINE: u8 = 5;

#[test]
fn every_kind_of_damage_is_found() {
    if !can_evict() {
        return;
    }
    let mut db = items(
        "damages",
        "vector_l2_ops",
        "WITH (refine = sq7, lists = 12)",
    );
    db.damaged = true;
    for heap in [false, true] {
        assert_eq!(problems(&mut db, heap), [""; 0]);
        // Pages at large: their heads, their links, their contents.
        for (what, change) in [
            (
                "metapage",
                (|pages: &mut [Vec<u8>]| pages[0][80] ^= 64) as Damage,
            ),
            ("the blob does not have its checksum", |pages| {
                pages[of_kind(pages, BLOB)[0]][100] ^= 1
            }),
            ("unknown kind", |pages| {
                pages[of_kind(pages, POSTING)[0]][24] = 77
            }),
            ("belongs to another list", |pages| {
                pages[of_kind(pages, POSTING)[0]][28] ^= 1
            }),
            ("backwards", |pages| {
                pages[of_kind(pages, POSTING)[3]][32] = 1
            }),
            ("not the side page", |pages| {
                pages[of_kind(pages, REFINE)[0]][32] ^= 1
            }),
            ("more rows than fit", |pages| {
                pages[of_kind(pages, POSTING)[0]][27] = 99
            }),
            ("was never written", |pages| {
                pages[of_kind(pages, POSTING)[0]].fill(0)
            }),
        ] {
            let found = damaged(&mut db, heap, change);
            let named = found
                .iter()
                .any(|problem| problem.contains(what) || what == "metapage");
            assert!(named, "{what}: {found:?}");
        }
    }
    // Rows: only a look at the table tells.
    let rows: [(&str, Damage); 3] = [
        ("has wrong codes", |pages| {
            pages[of_kind(pages, POSTING)[0]][64..80].fill(0)
        }),
        ("has a wrong refine code", |pages| {
            pages[of_kind(pages, REFINE)[0]][64..67].fill(0x55)
        }),
        // The last row of a page is cut off.
        ("is not in the index", |pages| {
            pages[of_kind(pages, POSTING)[0]][26] -= 1
        }),
    ];
    for (what, change) in rows {
        assert_eq!(damaged(&mut db, false, change), [""; 0], "{what}");
        let found = damaged(&mut db, true, change);
        assert!(
            !found.is_empty() && found.iter().all(|it| it.contains(what)),
            "{what}: {found:?}"
        );
    }
    assert_eq!(problems(&mut db, true), [""; 0]);
    let refusal = |db: &mut Database| {
        let path = file(db);
        let sound = fs::read(&path).unwrap();
        write(&path, &vec![0xA5; 8_192]);
        let mut session = db.session();
        let refusal = session.refusal("SET ignore_checksum_failure = on; SET zero_damaged_pages = on; SELECT distillvq_check('one')");
        file(db);
        write(&path, &sound);
        refusal
    };
    let refusal = refusal(&mut db);
    assert_eq!(refusal.state, "XX002", "{refusal:?}");
}

#[test]
fn a_row_that_bypassed_the_index_is_missed() {
    let mut db = items("bypassed", "vector_cosine_ops", "");
    db.damaged = true;
    db.run(
        "UPDATE pg_index SET indisready = false, indislive = false WHERE indexrelid = 'one'::regclass;
         INSERT INTO items SELECT id + 10000, embedding FROM items WHERE id < 3;
         INSERT INTO items VALUES (-1, NULL), (-2, array_fill(0, ARRAY[12])::vector);
         UPDATE pg_index SET indisready = true, indislive = true WHERE indexrelid = 'one'::regclass",
    );
    assert_eq!(problems(&mut db, false), [""; 0]);
    let found = problems(&mut db, true);
    let missing =
        |it: &&String| it.starts_with("row (") && it.ends_with(" of the table is not in the index");
    assert_eq!(
        (found.len(), found.iter().filter(missing).count()),
        (3, 3),
        "{found:?}"
    );
    db.run("DELETE FROM items WHERE id >= 10000");
    assert_eq!(problems(&mut db, true), [""; 0]);
}

#[test]
fn sound_indexes_of_all_kinds_are_sound() {
    let mut db = items("kinds", "vector_l2_ops", "");
    db.run(
        "CREATE INDEX part ON items USING distillvq (embedding vector_ip_ops) WHERE id % 3 = 0;
         CREATE FUNCTION twice(vector) RETURNS vector(12) LANGUAGE sql IMMUTABLE RETURN $1 + $1;
         CREATE INDEX expr ON items USING distillvq ((twice(embedding)::vector(12)) vector_cosine_ops) WHERE id > 5;
         CREATE INDEX fine ON items USING distillvq (embedding) WITH (refine = sq7);
         CREATE TABLE few AS TABLE items; DELETE FROM few WHERE id > 500;
         CREATE INDEX untrained ON few USING distillvq ((embedding::vector(12)) vector_cosine_ops);
         CREATE UNLOGGED TABLE quick AS TABLE items; ALTER TABLE quick ALTER COLUMN embedding TYPE vector(12);
         CREATE INDEX quick_idx ON quick USING distillvq (embedding);
         CREATE INDEX half ON quick USING distillvq ((embedding::halfvec(12)) halfvec_l2_ops) WITH (bits = 8);
         CREATE TEMPORARY TABLE brief AS TABLE items; ALTER TABLE brief ALTER COLUMN embedding TYPE vector(12);
         CREATE INDEX brief_idx ON brief USING distillvq (embedding)",
    );
    // Chains of updates in place, rows without a vector, without a direction, too long for the codes, dead, not committed.
    db.run_each(&[
        "UPDATE items SET id = id WHERE id % 7 = 0",
        "UPDATE items SET id = id WHERE id % 14 = 0",
        "INSERT INTO items SELECT -id, NULL FROM items WHERE id BETWEEN 1 AND 20",
        "INSERT INTO items SELECT 5000 + i, array_fill(0, ARRAY[12])::vector FROM generate_series(1, 20) i",
        "UPDATE items SET embedding = array_fill(1e18, ARRAY[12])::vector WHERE id BETWEEN 30 AND 60",
        "UPDATE items SET embedding = NULL WHERE id BETWEEN 90 AND 99",
        "DELETE FROM items WHERE id % 11 = 0",
        "INSERT INTO few SELECT id, embedding FROM items WHERE id < 900",
        "UPDATE quick SET embedding = embedding WHERE id < 100",
        "BEGIN; INSERT INTO items SELECT 9000 + id, embedding FROM items WHERE id < 300; ROLLBACK",
    ]);
    let mut other = db.session();
    other.run("BEGIN; INSERT INTO items SELECT 8000 + id, embedding FROM items WHERE id < 300; DELETE FROM items WHERE id > 1900");
    verified(&mut db);
    assert_eq!(
        db.column::<String>("SELECT problem FROM distillvq_check('brief_idx', true)"),
        [""; 0]
    );
    // An own change that is not committed is visible to the check.
    db.run(
        "BEGIN; UPDATE items SET embedding = embedding + embedding WHERE id BETWEEN 100 AND 400",
    );
    verified(&mut db);
    db.run("COMMIT");
    other.run("COMMIT");
    db.run("VACUUM items");
    verified(&mut db);
    db.run("REINDEX TABLE items");
    verified(&mut db);
}

#[test]
fn rows_updated_in_place_are_at_the_root_of_their_chain() {
    let mut db = items("chains", "vector_l2_ops", "");
    db.run(
        "CREATE TABLE hot (id bigint, n int, embedding vector(12)) WITH (fillfactor = 40);
         INSERT INTO hot SELECT id, 0, embedding FROM items LIMIT 1500;
         CREATE INDEX before ON hot USING distillvq (embedding)",
    );
    db.run_each(&[
        "UPDATE hot SET n = 1 WHERE id % 2 = 0",
        "UPDATE hot SET n = 2 WHERE id % 4 = 0",
        "SELECT pg_stat_force_next_flush()",
        "CREATE INDEX after ON hot USING distillvq (embedding vector_cosine_ops) WITH (bits = 8)",
    ]);
    let updated = "SELECT n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'hot'";
    assert!(db.one::<i64>(updated) > 1_000);
    verified(&mut db);
    db.run_each(&["UPDATE hot SET n = 3 WHERE id % 6 = 0", "VACUUM hot"]);
    verified(&mut db);
}

#[test]
fn a_check_under_an_older_snapshot_looks_at_the_rows_of_now() {
    let mut db = items("snapshots", "vector_l2_ops", "");
    let mut old = db.session();
    old.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM items");
    db.run("DELETE FROM items WHERE id < 500; INSERT INTO items SELECT id + 10000, embedding FROM items");
    assert_eq!(problems(&mut old, true), [""; 0]);
    old.run("COMMIT");
    // A version of a row that an index leaves out, because it was overwritten in place before the index was made.
    db.run("DROP INDEX one; CREATE TABLE chain (id int, k int, embedding vector(12)) WITH (fillfactor = 50)");
    db.run("INSERT INTO chain SELECT id, 0, embedding FROM items LIMIT 100");
    old.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM chain");
    db.run("UPDATE chain SET embedding = embedding + embedding");
    db.run("CREATE INDEX one ON chain USING distillvq (embedding)");
    assert!(db.one::<bool>("SELECT indcheckxmin FROM pg_index WHERE indexrelid = 'one'::regclass"));
    assert_eq!(problems(&mut old, true), [""; 0]);
    old.run("ROLLBACK");
    assert_eq!(problems(&mut db, true), [""; 0]);
}

#[test]
fn what_is_no_index_to_check_is_refused() {
    let mut db = items("refused", "vector_l2_ops", "");
    db.run("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'one'::regclass");
    let refusal = db.refusal("SELECT distillvq_check('one')");
    assert_eq!(refusal.state, "55000", "{refusal:?}");
    assert!(
        refusal.hint.contains("REINDEX INDEX public.one"),
        "{refusal:?}"
    );
    db.run("UPDATE pg_index SET indisvalid = true WHERE indexrelid = 'one'::regclass");
    // Who may maintain the table may check its indexes.
    let mut judy = db.session_of("judy");
    let refusal = judy.refusal("SELECT distillvq_check('one', true)");
    assert_eq!(refusal.state, "42501", "{refusal:?}");
    if common::server().installation().version() >= 17 {
        db.run("GRANT MAINTAIN ON items TO judy");
        assert_eq!(problems(&mut judy, true), [""; 0]);
    }
    let mut other = db.session();
    other.run("CREATE TEMPORARY TABLE t (embedding vector(3)); CREATE INDEX brief ON t USING distillvq (embedding)");
    let refusal = db.refusal("SELECT distillvq_check(oid) FROM pg_class WHERE relname = 'brief'");
    assert_eq!(refusal.state, "0A000", "{refusal:?}");
}

#[test]
fn it_goes_on_beside_writers_and_holds_off_vacuum() {
    let mut db = items("beside", "vector_l2_ops", "WITH (refine = sq7)");
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for writer in 0..2i64 {
            let (mut session, stop) = (db.session(), &stop);
            scope.spawn(move || {
                for id in (1 + writer) * 100_000.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    session.run(&format!(
                        "INSERT INTO items SELECT {id}, embedding FROM items WHERE id = {};
                         UPDATE items SET embedding = embedding + embedding WHERE id = {};
                         DELETE FROM items WHERE id = {}",
                        id % 1_000,
                        id - 7,
                        id - 14,
                    ));
                }
            });
        }
        let (mut vacuum, stopped) = (db.session(), &stop);
        scope.spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                vacuum.run("VACUUM items");
            }
        });
        let mut found = Vec::new();
        for _ in 0..15 {
            found.extend(problems(&mut db, true));
        }
        stop.store(true, Ordering::Relaxed);
        assert_eq!(found, [""; 0]);
    });
    // It waits for VACUUM, not for writers.
    let mut other = db.session();
    db.run("BEGIN; LOCK TABLE items IN ROW EXCLUSIVE MODE");
    assert_eq!(problems(&mut other, true), [""; 0]);
    db.run("LOCK TABLE items IN SHARE UPDATE EXCLUSIVE MODE");
    let process: i32 = other.one("SELECT pg_backend_pid()");
    let waiting = thread::spawn(move || problems(&mut other, false));
    wait_for_blocked(&mut db, process);
    db.run("COMMIT");
    assert_eq!(waiting.join().unwrap(), [""; 0]);
}

#[test]
fn a_standby_is_checked_too() {
    let primary = Server::start_with(
        "check-primary",
        &[&SETTINGS[..], &[("wal_level", "replica")]].concat(),
    )
    .unwrap();
    let mut db = primary.database("checked").unwrap();
    table(
        &mut db,
        "items",
        "vector",
        &Vectors::clustered(2_000, 12, 10, 6),
    );
    db.run(
        "CREATE INDEX one ON items USING distillvq (embedding) WITH (refine = sq7);
         CREATE UNLOGGED TABLE quick (embedding vector(3)); CREATE INDEX quick_idx ON quick USING distillvq (embedding)",
    );
    let standby = primary.standby("check-standby").unwrap();
    let mut reader = standby.connect_to("checked").unwrap();
    assert_eq!(problems(&mut reader, true), [""; 0]);
    let refusal = reader.refusal("SELECT distillvq_check('quick_idx')");
    assert_eq!(refusal.state, "55000", "{refusal:?}");
    for round in 0..4 {
        db.run_each(&[
            &format!(
                "INSERT INTO items SELECT id + 10000 * {round}, embedding FROM items WHERE id < 500"
            ),
            &format!("DELETE FROM items WHERE id % 7 = {round}"),
            "VACUUM items",
            "SELECT distillvq_train('one')",
        ]);
        assert_eq!(problems(&mut reader, true), [""; 0]);
    }
    let position: String = db.one("SELECT pg_current_wal_lsn()::text");
    wait_for("the standby", || {
        reader.one(&format!("SELECT pg_last_wal_replay_lsn() >= '{position}'"))
    });
    assert_eq!(problems(&mut reader, true), [""; 0]);
    assert_eq!(problems(&mut db, true), [""; 0]);
}

/// Up to PostgreSQL 16, CREATE INDEX and REINDEX look names up by the session's `search_path`; so does what runs an index's
/// functions later.
#[test]
fn an_expression_that_needs_a_search_path() {
    if common::server().installation().version() >= 17 {
        return;
    }
    let mut db = items("search_path", "vector_l2_ops", "");
    db.run(
        "ALTER DATABASE search_path SET search_path = public, inner_part;
         SET search_path = public, inner_part;
         CREATE SCHEMA inner_part;
         CREATE FUNCTION inner_part.part(v vector) RETURNS vector LANGUAGE sql IMMUTABLE AS 'SELECT v';
         CREATE FUNCTION outer_part(v vector) RETURNS vector LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN part(v); END';
         DROP INDEX one;
         CREATE INDEX one ON items USING distillvq ((outer_part(embedding)::vector(12)))",
    );
    assert_eq!(problems(&mut db, true), [""; 0]);
    db.run("SELECT distillvq_calibrate('one'); SELECT * FROM distillvq_index_info('one')");
}
