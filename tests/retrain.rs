//! Training in place: what changes, what does not, privileges, and concurrent work.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use common::{
    Database, Sql, all_found, by_index, by_table, ids, in_order, mean_recall, search, server,
    table, wait_for, wait_for_blocked,
};
use distillvq_harness::{DataSet, Embedding, Metric, Vectors};
use postgres::Client;

/// A database with real documents, an index over them, and a query log.
fn documents(name: &str, rows: usize) -> (Database, DataSet) {
    let (mut db, data) = (Database::new(name), DataSet::shipped().unwrap());
    table(&mut db, "items", "vector", &data.documents.slice(0..rows));
    table(&mut db, "log", "vector", &data.log);
    db.run("CREATE INDEX one ON items USING distillvq (embedding vector_cosine_ops)");
    (db, data)
}

/// A database with a table `items` of 2,000 vectors, an index `one` over it, and queries.
fn items(name: &str) -> (Database, Vectors) {
    let mut db = Database::new(name);
    let all = Vectors::clustered(2_520, 16, 1, 11);
    table(&mut db, "items", "vector", &all.slice(0..2_000));
    table(&mut db, "log", "vector", &all.slice(2_000..2_500));
    db.run("CREATE INDEX one ON items USING distillvq (embedding)");
    (db, all.slice(2_500..2_520))
}

/// Trains with these arguments: rows, queries, recall before and after.
#[track_caller]
fn train(client: &mut Client, arguments: &str) -> (i64, i64, f32, f32) {
    let sql = format!("SELECT * FROM distillvq_train({arguments})");
    let row = match client.query_one(&sql, &[]) {
        Ok(row) => row,
        Err(error) => panic!("{sql}: {:?}", distillvq_harness::Error::from(error)),
    };
    assert!(row.get::<_, f32>("seconds") > 0.0);
    let report = (
        row.get("rows"),
        row.get("queries_used"),
        row.get("code_recall_before"),
        row.get("code_recall_after"),
    );
    assert!(0.0 <= report.2 && report.2 <= report.3 && report.3 <= 1.0);
    report
}

/// The pages of an index as they are on disk.
fn pages(client: &mut Client, index: &str) -> Vec<Vec<u8>> {
    client.run("CHECKPOINT");
    let path: String = client.one(&format!("SELECT pg_relation_filepath('{index}')"));
    let file = std::fs::read(server().data().join(path)).unwrap();
    file.chunks(8_192).map(<[u8]>::to_vec).collect()
}

/// Pages with rows of lists, or with the lists' starts.
fn is_of_lists(page: &[u8]) -> bool {
    [3, 4].contains(&page[24])
}

const LOG: &str = "'one', queries => 'log', query_column => 'embedding'";

#[test]
fn recall_rises_and_the_postings_stay() {
    let (mut db, data) = documents("recall", 8_000);
    let test = data.test.slice(0..250);
    // Searches would write their queries.
    db.run("SET distillvq.sample_queries = off");
    let few = |db: &mut Database| {
        [1, 2, 4].map(|probes| mean_recall(db, "items", Metric::Cosine, &test, probes))
    };
    let before = few(&mut db);
    let old = pages(&mut db, "one");
    let (rows, queries, exam_before, exam_after) = train(&mut db, LOG);
    // A fifth of the 3,000 logged ones is kept to measure the index with.
    assert_eq!((rows, queries), (8_000, 2_400));
    assert!(exam_after >= exam_before, "{exam_before} to {exam_after}");
    let after = few(&mut db);
    println!("recall@10 with 1, 2, 4 lists: {before:?} to {after:?}");
    assert!(after.iter().sum::<f64>() > before.iter().sum::<f64>() + 0.003);
    let new = pages(&mut db, "one");
    let changed = old.iter().zip(&new).filter(|(old, new)| old != new);
    let changed: Vec<_> = changed.map(|(old, _)| is_of_lists(old)).collect();
    assert_eq!(
        changed,
        [false],
        "only the metapage and new pages are written"
    );
    assert!(new[old.len()..].iter().all(|page| !is_of_lists(page)));

    // From now on the spare pages are used again.
    let mut sizes = Vec::new();
    for seed in 1..4 {
        let (.., before, after) = train(&mut db, &format!("{LOG}, seed => {seed}"));
        let now = pages(&mut db, "one");
        sizes.push(now.len());
        assert!(after >= before);
        let lists = |pages: &[Vec<u8>]| -> Vec<Vec<u8>> {
            let lists = pages.iter().filter(|page| is_of_lists(page));
            lists.cloned().collect()
        };
        assert!(lists(&now) == lists(&old));
    }
    assert!(
        sizes.windows(2).skip(1).all(|pair| pair[0] == pair[1]),
        "{sizes:?}"
    );
    all_found(&mut db, "items", Metric::Cosine, data.test.row(0));
    // A rebuild forgets the training, and starts small.
    db.run("REINDEX INDEX one");
    assert_eq!(pages(&mut db, "one").len(), old.len());
}

#[test]
fn what_does_not_win_leaves_the_model_as_it_was() {
    let mut db = Database::of_items("unchanged", &Vectors::clustered(1_500, 4, 1_500, 3));
    db.run("CREATE INDEX one ON items USING distillvq (embedding)");
    let mut unchanged = 0;
    for seed in 0..5 {
        let before = pages(&mut db, "one");
        let (.., code_recall_before, code_recall_after) =
            train(&mut db, &format!("'one', seed => {seed}"));
        // The metapage tells of the new measurement in any case.
        let same = pages(&mut db, "one")[1..] == before[1..];
        assert_eq!(same, code_recall_after == code_recall_before);
        unchanged += u32::from(same);
    }
    assert!(unchanged > 0);
}

#[test]
fn both_forms_are_told_apart() {
    let (mut db, _) = items("forms");
    let model = |db: &mut Database, arguments: &str| -> String {
        db.one(&format!("SELECT model FROM distillvq_train({arguments})"))
    };
    for arguments in [
        "'one'",
        "'one'::regclass",
        "'public.one'",
        "index => 'one'",
        LOG,
        "'one', 'log'::regclass, 'embedding', 7",
        "'one', NULL::regclass, NULL, NULL",
    ] {
        assert_eq!(model(&mut db, arguments), "one", "{arguments}");
    }
    for arguments in [
        "'items', 'embedding'",
        "'items'::regclass, 'embedding'",
        "'items', 'embedding', queries => 'log', query_column => 'embedding'",
        "\"table\" => 'items', \"column\" => 'embedding'",
    ] {
        assert_eq!(model(&mut db, arguments), "items_embedding", "{arguments}");
    }
}

#[test]
fn what_cannot_be_trained_is_told() {
    let (mut db, _) = items("wrong");
    db.run(
        "CREATE TABLE few AS SELECT * FROM items LIMIT 100;
         CREATE INDEX untrained ON few USING distillvq (embedding);
         CREATE TABLE parts (id bigint, embedding vector(16)) PARTITION BY RANGE (id);
         CREATE INDEX above ON parts USING distillvq (embedding);
         CREATE TABLE narrow AS SELECT id, '[1,2]'::vector(2) AS embedding FROM items",
    );
    let mut expect = |arguments: &str, state: &str, message: &str, hint: &str| {
        let refusal = db.refusal(&format!("SELECT distillvq_train({arguments})"));
        assert_eq!(refusal.state, state, "{refusal:?}");
        assert!(refusal.message.contains(message), "{refusal:?}");
        assert!(refusal.hint.contains(hint), "{refusal:?}");
    };
    expect("'above'", "42809", "partitioned", "Add partitions");
    expect(
        "'untrained'",
        "55000",
        "no model",
        "REINDEX INDEX CONCURRENTLY public.untrained",
    );
    expect(
        "'one', query_column => 'embedding'",
        "22023",
        "query_column",
        "queries",
    );
    let narrow = "'one', queries => 'narrow', query_column => 'embedding'";
    expect(narrow, "22000", "16 and 2", "16");
    db.run("DELETE FROM items WHERE id >= 900");
    let refusal = db.refusal("SELECT distillvq_train('one')");
    assert_eq!(refusal.state, "55000", "{refusal:?}");
    assert!(refusal.message.contains("900"), "{refusal:?}");
    let refusal = db.refusal("BEGIN READ ONLY; SELECT distillvq_train('one')");
    assert_eq!(refusal.state, "25006", "{refusal:?}");
}

#[test]
fn the_rows_are_those_of_the_index() {
    let (mut db, queries) = items("rows");
    db.run(
        "INSERT INTO items (id) VALUES (-1), (-2);
         CREATE INDEX part ON items USING distillvq (embedding) WHERE id < 1200 AND id <> 7;
         CREATE INDEX half ON items USING distillvq ((embedding::halfvec(16)) halfvec_l2_ops);
         CREATE SCHEMA \"Odd schema\"; CREATE TABLE \"Odd schema\".\"T\" (\"Odd column\" vector(16));
         INSERT INTO \"Odd schema\".\"T\" SELECT embedding FROM items;
         CREATE INDEX \"Odd index\" ON \"Odd schema\".\"T\" USING distillvq (\"Odd column\")",
    );
    for (index, rows) in [
        ("one", 2_000),
        ("part", 1_199),
        ("half", 2_000),
        ("\"Odd schema\".\"Odd index\"", 2_000),
    ] {
        let report = train(&mut db, &format!("'{index}'"));
        assert_eq!(report.0, rows, "{index}");
    }
    let sql = search(
        "items WHERE id < 1200 AND id <> 7 AND embedding IS NOT NULL",
        Metric::L2,
        queries.row(0),
        "",
    );
    db.run("DROP INDEX one; SET distillvq.probes = 32768");
    // All rows to the last: one that comes late is in its place by distance all the same.
    let distances = |mut found: Vec<(i64, f64)>| {
        found.sort_by(|a, b| a.1.total_cmp(&b.1));
        found.into_iter().map(|(_, d)| d).collect::<Vec<_>>()
    };
    let found = distances(by_index(&mut db, &sql));
    assert_eq!(found, distances(by_table(&mut db, &sql)));
}

#[test]
fn an_open_cursor_goes_on() {
    let (mut db, data) = documents("cursor", 3_000);
    let mut reader = db.session();
    let sql = search("items", Metric::Cosine, data.test.row(0), "");
    // All rows are to come, also those that are found too late to be returned in order.
    reader.run(
        "SET enable_seqscan = off; SET enable_sort = off; SET distillvq.iterative_scan = relaxed_order; BEGIN",
    );
    reader.run(&format!("DECLARE c CURSOR FOR {sql}"));
    let mut found = Vec::new();
    let mut fetch = |reader: &mut Client, rows: usize| {
        let rows = reader.query(&format!("FETCH {rows} FROM c"), &[]).unwrap();
        found.extend(rows.iter().map(|row| (row.get(0), row.get(1))));
    };
    fetch(&mut reader, 50);
    for seed in 0..3 {
        train(&mut db, &format!("{LOG}, seed => {seed}"));
        fetch(&mut reader, 50);
    }
    fetch(&mut reader, 10_000);
    in_order(&found[..200]);
    assert_eq!(ids(&found), (0..3_000).collect::<Vec<i64>>());
}

#[test]
fn reads_and_writes_go_on_meanwhile() {
    let (mut db, data) = documents("meanwhile", 3_000);
    let done = AtomicBool::new(false);
    let counts: Vec<usize> = thread::scope(|scope| {
        let (data, done) = (&data, &done);
        let mut writer = db.session();
        let readers = [db.session(), db.session()];
        let writes = scope.spawn(move || {
            let statement = writer.prepare("INSERT INTO items VALUES ($1, $2)").unwrap();
            let mut n = 0;
            // So many that a search in relaxed order finds room for the addresses of all rows.
            while !done.load(Ordering::Relaxed) && n < 20_000 {
                let vector = Embedding(data.documents.row(3_000 + n % 5_000));
                writer
                    .execute(&statement, &[&(3_000 + n as i64), &vector])
                    .unwrap();
                n += 1;
            }
            n
        });
        let reads = readers.map(|mut reader| {
            scope.spawn(move || {
                let mut n = 0;
                while !done.load(Ordering::Relaxed) {
                    let query = data.test.row(n % 100);
                    let sql = search("items", Metric::Cosine, query, "LIMIT 20");
                    let found = by_index(&mut reader, &sql);
                    in_order(&found);
                    assert_eq!(found.len(), 20);
                    n += 1;
                }
                n
            })
        });
        for seed in 0..3 {
            train(&mut db, &format!("{LOG}, seed => {seed}"));
        }
        done.store(true, Ordering::Relaxed);
        let mut counts = vec![writes.join().unwrap()];
        counts.extend(reads.map(|reads| reads.join().unwrap()));
        counts
    });
    println!("rows inserted and searches meanwhile: {counts:?}");
    assert!(counts.iter().all(|&count| count > 20), "{counts:?}");
    all_found(&mut db, "items", Metric::Cosine, data.test.row(0));
}

/// A statement reads metapage and model at its first row alone: the file of the index stays until it ends, and of the model
/// only what searches use is replaced.
#[test]
fn a_statement_goes_on_inserting_after_a_training() {
    let (mut db, data) = documents("statement", 3_000);
    table(
        &mut db,
        "spare",
        "vector",
        &data.documents.slice(3_000..3_400),
    );
    db.run(
        "CREATE FUNCTION gate(id bigint) RETURNS bigint LANGUAGE plpgsql AS $$
         BEGIN
             IF id = 200 THEN PERFORM pg_advisory_xact_lock(1); END IF;
             RETURN id + 3000;
         END $$;
         SELECT pg_advisory_lock(1)",
    );
    let mut writer = db.session();
    let process: i32 = writer.one("SELECT pg_backend_pid()");
    let statement = thread::spawn(move || {
        writer.run("INSERT INTO items SELECT gate(id), embedding FROM spare");
        writer
    });
    wait_for_blocked(&mut db, process);
    let (.., before, after) = train(&mut db, LOG);
    assert!(after > before, "the model is replaced");
    let mut other = db.session();
    other.run("SET lock_timeout = '100ms'");
    for command in ["REINDEX INDEX one", "TRUNCATE items"] {
        assert_eq!(other.refusal(command).state, "55P03", "{command}");
    }
    db.run("SELECT pg_advisory_unlock(1)");
    let mut writer = statement.join().unwrap();
    assert_eq!(writer.one::<i64>("SELECT count(*) FROM items"), 3_400);
    for client in [&mut db, &mut writer] {
        all_found(client, "items", Metric::Cosine, data.test.row(0));
    }
}

#[test]
fn other_maintenance_waits_and_nothing_else() {
    let (mut db, _) = items("locks");
    let mut other = db.session();
    other.run("BEGIN; LOCK TABLE items IN ROW EXCLUSIVE MODE");
    train(&mut db, "'one'");
    other.run("COMMIT; BEGIN; LOCK TABLE items IN SHARE UPDATE EXCLUSIVE MODE");
    let mut waiting = db.session();
    let process: i32 = waiting.one("SELECT pg_backend_pid()");
    let late = thread::spawn(move || train(&mut waiting, "'one'"));
    wait_for_blocked(&mut db, process);
    other.run("COMMIT");
    late.join().unwrap();
    // Nothing stays locked to the end of the transaction but what reading takes.
    db.run("BEGIN; SELECT distillvq_train('one')");
    other.run("SET lock_timeout = '5s'");
    other.run("VACUUM items");
    db.run("COMMIT");
}

/// How many sessions of this database report progress.
const REPORTS: &str =
    "SELECT count(*) FROM pg_stat_progress_create_index WHERE datname = current_database()";

/// Phases that the view shows while a statement runs, and the relations that they are about.
fn phases(db: &mut Database, sql: &'static str) -> Vec<String> {
    let mut worker = db.session();
    let work = thread::spawn(move || worker.run(sql));
    let mut seen: Vec<String> = Vec::new();
    while !work.is_finished() {
        let now: Vec<String> = db.column(
            "SELECT concat_ws(' ', relid::regclass, nullif(index_relid, 0)::regclass, phase)
             FROM pg_stat_progress_create_index WHERE datname = current_database()",
        );
        seen.extend(
            now.into_iter()
                .filter(|phase| !seen.contains(phase))
                .collect::<Vec<_>>(),
        );
        thread::sleep(std::time::Duration::from_millis(2));
    }
    work.join().unwrap();
    let left =
        "SELECT count(*) FROM pg_stat_progress_create_index WHERE datname = current_database()";
    wait_for("the end of the report", || db.one::<i64>(left) == 0);
    seen
}

#[test]
fn progress_is_shown() {
    let (mut db, _) = documents("progress", 4_000);
    let live = phases(&mut db, "SELECT distillvq_train('one')");
    let named = phases(&mut db, "SELECT distillvq_train('items', 'embedding')");
    for (seen, relations) in [(live, "items one"), (named, "items")] {
        for phase in ["teacher", "distillation"] {
            let expected = format!("{relations} building index: training: {phase}");
            assert!(seen.contains(&expected), "{seen:?}");
        }
    }
    // After an error the session reports nothing more.
    let mut session = db.session();
    session.run("SET statement_timeout = '300ms'");
    assert_eq!(
        session.refusal("SELECT distillvq_train('one')").state,
        "57014"
    );
    session.run("RESET statement_timeout");
    assert_eq!(db.one::<i64>(REPORTS), 0);
}

#[test]
fn the_owner_trains_what_he_may_read() {
    let (mut db, _) = items("owners");
    let (mut oona, mut pete) = (db.session_of("oona"), db.session_of("pete"));
    let refusal = pete.refusal("SELECT distillvq_train('one')");
    assert_eq!(refusal.state, "42501", "{refusal:?}");
    assert!(
        refusal.message.contains("owner of index \"one\""),
        "{refusal:?}"
    );
    db.run("GRANT ALL ON items TO pete");
    // Older versions have no such right.
    if server().installation().version() >= 17 {
        db.run("REVOKE MAINTAIN ON items FROM pete");
        assert_eq!(pete.refusal("SELECT distillvq_train('one')").state, "42501");
        db.run("GRANT MAINTAIN ON items TO pete");
        assert_eq!(train(&mut pete, "'one'").0, 2_000);
    }
    db.run("REVOKE SELECT ON items FROM pete");
    assert_eq!(pete.refusal("SELECT distillvq_train('one')").state, "42501");

    db.run("ALTER TABLE items OWNER TO oona");
    assert_eq!(train(&mut oona, "'one'").0, 2_000);
    assert_eq!(
        oona.refusal(&format!("SELECT distillvq_train({LOG})"))
            .state,
        "42501"
    );
    db.run("GRANT SELECT (embedding) ON log TO oona");
    assert!(train(&mut oona, LOG).1 > 0);
    // Who sees a part of the rows, be it the owner, does not train for all.
    db.run(
        "ALTER TABLE items ENABLE ROW LEVEL SECURITY; ALTER TABLE items FORCE ROW LEVEL SECURITY;
         CREATE POLICY most ON items USING (id < 1500)",
    );
    assert_eq!(oona.refusal("SELECT distillvq_train('one')").state, "42501");
    assert_eq!(train(&mut db, "'one'").0, 2_000);
}

#[test]
fn unlogged_and_temporary_indexes_are_trained_too() {
    let (mut db, queries) = items("kinds");
    db.run("CREATE TEMPORARY TABLE mine AS SELECT * FROM items; CREATE UNLOGGED TABLE quick AS SELECT * FROM items");
    for name in ["mine", "quick"] {
        db.run(&format!(
            "CREATE INDEX {name}_one ON {name} USING distillvq (embedding)"
        ));
        train(
            &mut db,
            &format!("'{name}_one', queries => 'log', query_column => 'embedding'"),
        );
        all_found(&mut db, name, Metric::L2, queries.row(0));
    }
    let mut other = db.session();
    let name: String = db.one("SELECT 'mine_one'::regclass::oid::text");
    let refusal = other.refusal(&format!("SELECT distillvq_train({name}::regclass)"));
    assert_eq!(refusal.state, "0A000", "{refusal:?}");
}

#[test]
fn a_standby_searches_with_the_new_student() {
    let (mut db, data) = documents("standby", 3_000);
    let standby = server().standby("live-standby").unwrap();
    let mut reader = standby.connect_to("standby").unwrap();
    let test = data.test.slice(0..30);
    let answers = |client: &mut Client| -> Vec<Vec<(i64, f64)>> {
        client.run("SET distillvq.probes = 3");
        let of = |query| by_index(client, &search("items", Metric::Cosine, query, "LIMIT 10"));
        test.iter().map(of).collect()
    };
    let before = answers(&mut reader);
    assert!(train(&mut db, LOG).3 > 0.0);
    let lsn: String = db.one("SELECT pg_current_wal_lsn()::text");
    let replayed = format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'");
    wait_for("the standby", || reader.one(&replayed));
    let after = answers(&mut reader);
    assert!(after == answers(&mut db));
    assert!(after != before);
    let refusal = reader.refusal("SELECT distillvq_train('one')");
    assert_eq!(refusal.state, "25006", "{refusal:?}");
    let sql = search("items", Metric::Cosine, data.test.row(0), "LIMIT 10");
    assert_eq!(by_table(&mut reader, &sql), by_table(&mut db, &sql));
}
