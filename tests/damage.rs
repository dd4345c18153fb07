//! Damage: bytes changed behind the server's back are an error with a way out, never a crash.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;

use common::{Sql, can_evict, evict, items, search, server};
use distillvq_harness::Metric;

#[test]
fn a_model_that_was_tampered_with() {
    let mut db = items("tampered");
    db.damaged = true;
    db.run("SELECT distillvq_train('items', 'embedding', 'm', metric => 'l2')");
    let create = "CREATE INDEX ON items USING distillvq (embedding) WITH (model = m)";
    for change in [
        "set_byte(body, 200, get_byte(body, 200) # 1)",
        "set_byte(body, octet_length(body) - 1, get_byte(body, octet_length(body) - 1) # 128)",
        "substr(body, 1, octet_length(body) / 2)",
        "body || body",
        "substr(body, 2)",
        "''::bytea",
        "decode(repeat('00', 1000), 'hex')",
    ] {
        db.run(&format!(
            "BEGIN; UPDATE distillvq.model SET body = {change}"
        ));
        let refusal = db.refusal(create);
        assert_eq!(refusal.state, "XX001", "{change}: {refusal:?}");
        assert!(
            refusal.message.contains("\"m\"") && refusal.hint.contains("distillvq_train"),
            "{refusal:?}"
        );
        db.run("ROLLBACK");
    }
    db.run(create);
}

#[test]
fn damaged_pages_are_told() {
    if !can_evict() {
        return;
    }
    let mut db = items("damaged");
    db.damaged = true;
    db.run("CREATE INDEX one ON items USING distillvq (embedding)");
    let path: String = db.one("SELECT pg_relation_filepath('one')");
    let pages: i64 = db.one("SELECT pg_relation_size('one') / 8192");
    let file = server().data().join(path);
    let sql = search("items", Metric::L2, &[0.1; 8], "LIMIT 5");
    for page in [0, 1, pages / 2, pages - 1] {
        db.run("CHECKPOINT");
        let sound = fs::read(&file).unwrap();
        let mut bytes = sound.clone();
        let start = page as usize * 8_192;
        bytes[start + 24..start + 8_192].fill(0xA5);
        write(&file, &bytes);
        // Neither this session's memory nor the server's holds the sound page.
        let mut session = db.session();
        evict(&mut session, "one");
        session.run("SET enable_seqscan = off; SET distillvq.probes = 32768; SET ignore_checksum_failure = on");
        // The planner can still say what a search costs: another plan may do without the index.
        session.run(&format!("EXPLAIN {sql}"));
        for statement in [
            sql.as_str(),
            "INSERT INTO items SELECT * FROM items LIMIT 20",
        ] {
            let Err(error) = session.batch_execute(statement) else {
                continue; // the damage was not met
            };
            let error = error
                .as_db_error()
                .unwrap_or_else(|| panic!("page {page}: {error}"))
                .clone();
            let hint = error.hint().unwrap_or_default();
            assert_eq!(error.code().code(), "XX002", "page {page}: {error:?}");
            assert!(
                error.message().contains("\"one\"") && hint.contains("REINDEX"),
                "{error:?}"
            );
        }
        session.run("SET enable_indexscan = off; SELECT count(*) FROM items");
        evict(&mut session, "one");
        write(&file, &sound);
    }
}

/// Overwrites a file in place: the server keeps it open.
fn write(file: &Path, bytes: &[u8]) {
    let mut file = OpenOptions::new().write(true).open(file).unwrap();
    file.write_all(bytes).unwrap();
}
