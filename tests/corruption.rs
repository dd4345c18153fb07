//! Damaged bytes are errors with a hint, not crashes.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use common::{Database, Sql, can_evict, evict, items, search, server};
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

/// A page of the file of an index.
struct File(Vec<u8>);

impl File {
    fn number(&self, block: usize, at: usize) -> u32 {
        let at = block * 8_192 + at;
        u32::from_le_bytes(self.0[at..at + 4].try_into().unwrap())
    }

    /// The pages of a kind (`page.rs` of the crate `pages`).
    fn pages(&self, kind: u8) -> Vec<usize> {
        let pages = 0..self.0.len() / 8_192;
        pages
            .filter(|block| self.0[block * 8_192 + 24] == kind)
            .collect()
    }

    fn put(&mut self, block: usize, at: usize, number: usize) {
        let at = block * 8_192 + at;
        self.0[at..at + 4].copy_from_slice(&(number as u32).to_le_bytes());
    }

    /// Where the posting page names the refine page that belongs to it.
    fn link(&self, posting: usize, refine: usize) -> usize {
        let mut places = (64..8_188).rev();
        places
            .find(|&at| self.number(posting, at) == refine as u32)
            .unwrap()
    }
}

const MODEL: u8 = 2;
const DIRECTORY: u8 = 3;
const POSTING: u8 = 4;
const REFINE: u8 = 5;
/// Where a page's head has the next page, or the owner of a refine page.
const NEXT: usize = 32;
/// A block of a second file that is not there.
const FAR: usize = 1 << 18;

#[test]
fn damaged_links_hang_nobody() {
    if !can_evict() {
        return;
    }
    let mut db = items("links");
    db.damaged = true;
    db.run("CREATE INDEX one ON items USING distillvq (embedding) WITH (refine = sq7)");
    type Damage = fn(&mut File);
    let damages: [(&str, Damage); 9] = [
        ("all postings to themselves", |file| {
            file.pages(POSTING)
                .into_iter()
                .for_each(|page| file.put(page, NEXT, page));
        }),
        ("all refine links to the posting pages", |file| {
            for refine in file.pages(REFINE) {
                let owner = file.number(refine, NEXT) as usize;
                let at = file.link(owner, refine);
                file.put(owner, at, owner);
            }
        }),
        ("all refine links to the last page", |file| {
            let last = file.0.len() / 8_192 - 1;
            for refine in file.pages(REFINE) {
                let owner = file.number(refine, NEXT) as usize;
                let at = file.link(owner, refine);
                file.put(owner, at, last);
            }
        }),
        ("all refine links far beyond the end", |file| {
            for refine in file.pages(REFINE) {
                let owner = file.number(refine, NEXT) as usize;
                let at = file.link(owner, refine);
                file.put(owner, at, FAR);
            }
        }),
        ("lists to the directory", |file| {
            lists(file, |directory| directory)
        }),
        ("lists far beyond the end", |file| lists(file, |_| FAR)),
        ("the model to itself", |file| {
            file.pages(MODEL)
                .into_iter()
                .for_each(|page| file.put(page, NEXT, page));
        }),
        ("rows to far beyond the table's end", |file| rows(file, FAR)),
        ("rows to no page at all", |file| {
            rows(file, u32::MAX as usize)
        }),
    ];
    for (what, damage) in damages {
        damaged_so(&mut db, what, damage);
    }
}

/// Has all rows be in one page of the table.
fn rows(file: &mut File, table_page: usize) {
    // The exact list has the addresses at the start of its pages, the others somewhere behind the codes.
    for page in file.pages(POSTING) {
        for at in (64..8_000).step_by(4) {
            if (1..60).contains(&file.number(page, at)) {
                file.put(page, at, table_page);
            }
        }
    }
}

/// Has all lists begin and end at a page.
fn lists(file: &mut File, page: impl Fn(usize) -> usize) {
    for directory in file.pages(DIRECTORY) {
        for at in (64..8_192 - 16).step_by(16) {
            if file.number(directory, at) != 0 {
                file.put(directory, at, page(directory));
                file.put(directory, at + 4, page(directory));
            }
        }
    }
}

/// Damages the index, and does everything with it; the last thing makes it anew.
fn damaged_so(db: &mut Database, what: &str, damage: fn(&mut File)) {
    db.run("CHECKPOINT");
    let path: String = db.one("SELECT pg_relation_filepath('one')");
    let path = server().data().join(path);
    let mut file = File(fs::read(&path).unwrap());
    evict(db, "one");
    damage(&mut file);
    write(&path, &file.0);
    for statement in [
        search("items", Metric::L2, &[0.1; 8], "LIMIT 5"),
        search("items", Metric::L2, &[0.1; 8], ""),
        "INSERT INTO items SELECT * FROM items LIMIT 20".into(),
        "SELECT * FROM distillvq_check('one', heap => true)".into(),
        "SELECT * FROM distillvq_index_info('one')".into(),
        "SELECT distillvq_calibrate('one')".into(),
        "SELECT distillvq_train('one')".into(),
        "SELECT distillvq_prewarm('one')".into(),
        "DELETE FROM items WHERE id % 100 = 1".into(),
        "VACUUM items".into(),
        "INSERT INTO items SELECT id + 1, embedding FROM items LIMIT 20".into(),
        "REINDEX INDEX one".into(),
    ] {
        let mut session = db.session();
        let (done, ended) = mpsc::channel();
        let sql = statement.clone();
        thread::spawn(move || {
            session.run("SET statement_timeout = '20s'; SET ignore_checksum_failure = on; SET enable_seqscan = off");
            let outcome = session.batch_execute(&sql);
            let state = |error: postgres::Error| error.code().map(|state| state.code().to_owned());
            let _ = done.send(outcome.map_err(state));
        });
        let outcome = ended.recv_timeout(Duration::from_secs(30));
        match outcome.unwrap_or_else(|_| panic!("{what}: {statement} does not end")) {
            Ok(()) => {}
            Err(Some(state)) => assert_eq!(state, "XX002", "{what}: {statement}"),
            Err(None) => panic!("{what}: {statement}: the session is gone"),
        }
    }
}

#[test]
fn filter_columns_of_another_width_are_told() {
    if !can_evict() {
        return;
    }
    let mut db = Database::new("filter_width");
    db.damaged = true;
    db.run(
        "CREATE TABLE items (part bigint, embedding vector(8));
         CREATE INDEX one ON items USING distillvq (embedding vector_l2_ops, part);
         INSERT INTO items SELECT i, ARRAY[i, i % 7, i % 11, i % 13, 1, 1, 1, 1]::vector(8) FROM generate_series(1, 3000) i;
         CHECKPOINT;
         ALTER DATABASE filter_width SET ignore_checksum_failure = on",
    );
    let path: String = db.one("SELECT pg_relation_filepath('one')");
    let path = server().data().join(path);
    let sound = File(fs::read(&path).unwrap());
    // The first column of the metapage, the keys of `part`: one plane of 32 bits instead of two.
    let (mut file, planes) = (File(sound.0.clone()), 184 + 4);
    assert_eq!(file.0[planes], 2);
    file.0[planes] = 1;
    evict(&mut db, "one");
    write(&path, &file.0);
    let notices = db.notices("VACUUM items");
    for words in ["filter columns", "REINDEX INDEX"] {
        assert!(notices.contains(words), "{words} in {notices}");
    }
    evict(&mut db, "one");
    write(&path, &sound.0);
    assert_eq!(db.notices("VACUUM items"), "");
    assert!(db.one::<bool>("SELECT lists > 0 FROM distillvq_index_info('one')"));
}

/// Overwrites a file in place: the server keeps it open.
fn write(file: &Path, bytes: &[u8]) {
    let mut file = OpenOptions::new().write(true).open(file).unwrap();
    file.write_all(bytes).unwrap();
}
