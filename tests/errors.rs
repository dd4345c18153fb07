//! What is refused: with the right SQLSTATE, the offending value in the message, and a hint; and what can be stopped.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use common::{Database, Sql, all_found, search, server, table, wait_for};
use distillvq_harness::{DataSet, Metric, Vectors};
use postgres::Client;

/// A statement, its SQLSTATE, and words of the message and of the hint.
type Case<'a> = (&'a str, &'a str, &'a [&'a str], &'a [&'a str]);

/// Fails unless every statement is refused as expected, with a hint.
#[track_caller]
fn refused(client: &mut Client, cases: &[Case<'_>]) {
    for &(sql, state, words, hints) in cases {
        let refusal = client.refusal(sql);
        assert_eq!(refusal.state, state, "{sql}: {refusal:?}");
        for word in words {
            assert!(
                refusal.message.contains(word),
                "{word:?} in the message of {sql}: {refusal:?}"
            );
        }
        for word in hints {
            assert!(
                refusal.hint.contains(word),
                "{word:?} in the hint of {sql}: {refusal:?}"
            );
        }
        assert!(!refusal.hint.is_empty(), "{sql}: {refusal:?}");
    }
}

/// A database with a table `items` of 1,200 vectors of 8 dimensions.
fn items(name: &str) -> Database {
    let mut db = Database::new(name);
    table(
        &mut db,
        "items",
        "vector",
        &Vectors::clustered(1_200, 8, 10, 6),
    );
    db
}

#[test]
fn options_of_an_index() {
    let mut db = items("options");
    let with =
        |option: &str| format!("CREATE INDEX ON items USING distillvq (embedding) WITH ({option})");
    let cases = [
        (
            "list = 10",
            &["\"list\""][..],
            &["lists", "subquantizers", "bits", "probes", "model"][..],
        ),
        ("fillfactor = 50", &["\"fillfactor\""], &["lists"]),
        ("lists = -1", &["\"-1\"", "\"lists\""], &["0", "32768"]),
        ("lists = 32769", &["\"32769\"", "\"lists\""], &["32768"]),
        ("lists = 99999999999", &["99999999999"], &["32768"]),
        ("lists = many", &["\"many\"", "\"lists\""], &["32768"]),
        ("lists = 1.5", &["\"1.5\"", "\"lists\""], &["32768"]),
        ("lists", &["\"true\"", "\"lists\""], &["32768"]),
        (
            "subquantizers = 481",
            &["\"481\"", "\"subquantizers\""],
            &["480"],
        ),
        (
            "subquantizers = 9",
            &["9", "subquantizers"],
            &["subquantizers"],
        ),
        (
            "subquantizers = -2",
            &["\"-2\"", "\"subquantizers\""],
            &["480"],
        ),
        ("bits = 5", &["5", "\"bits\""], &["4", "8"]),
        ("bits = 16", &["16", "\"bits\""], &["8"]),
        ("probes = -1", &["\"-1\"", "\"probes\""], &["32768"]),
        ("probes = 40000", &["\"40000\"", "\"probes\""], &["32768"]),
    ];
    for (option, words, hints) in cases {
        refused(&mut db, &[(&with(option), "22023", words, hints)]);
    }
    db.run("CREATE INDEX one ON items USING distillvq (embedding)");
    refused(
        &mut db,
        &[
            (
                "ALTER INDEX one SET (probes = -1)",
                "22023",
                &["\"-1\"", "probes"],
                &["32768"],
            ),
            (
                "ALTER INDEX one SET (probe = 1)",
                "22023",
                &["\"probe\""],
                &["probes"],
            ),
            (
                "ALTER INDEX one SET (bits = 3)",
                "22023",
                &["3", "bits"],
                &["4"],
            ),
        ],
    );
    assert_eq!(db.one::<i64>("SELECT count(*) FROM pg_class WHERE relkind = 'i' AND relnamespace = 'public'::regnamespace"), 1);
}

#[test]
fn more_lists_than_rows_are_as_many_as_rows() {
    let mut db = items("lists");
    db.run("SELECT distillvq_train('items', 'embedding', lists => 32768)");
    assert_eq!(db.one::<i32>("SELECT lists FROM distillvq_models"), 1_200);
}

#[test]
fn settings() {
    let mut db = items("settings");
    for (value, state) in [("-1", "22023"), ("32769", "22023"), ("'few'", "22023")] {
        assert_eq!(
            db.refusal(&format!("SET distillvq.probes = {value}")).state,
            state,
            "{value}"
        );
    }
    assert_eq!(db.one::<String>("SHOW distillvq.probes"), "0");
    let refusal = db.refusal("SET distillvq.probe = 3"); // the prefix is reserved: a slip of the pen is no setting
    assert_eq!(refusal.state, "42602", "{refusal:?}");
}

#[test]
fn models() {
    let mut db = items("models");
    db.run("SELECT distillvq_train('items', 'embedding', 'eight', metric => 'l2', lists => 5, subquantizers => 4, bits => 8)");
    table(&mut db, "wide", "vector", &Vectors::clustered(10, 9, 1, 1));
    let with = |options: &str| {
        format!("CREATE INDEX ON items USING distillvq (embedding) WITH ({options})")
    };
    refused(
        &mut db,
        &[
            (
                &with("model = none"),
                "42704",
                &["\"none\""],
                &["distillvq_models", "distillvq_train"],
            ),
            (
                "CREATE INDEX ON wide USING distillvq (embedding) WITH (model = eight)",
                "22023",
                &["\"eight\"", "8", "9"],
                &["distillvq_train"],
            ),
            (
                "CREATE INDEX ON items USING distillvq (embedding vector_cosine_ops) WITH (model = eight)",
                "22023",
                &["\"eight\"", "l2", "cosine"],
                &["distillvq_train", "metric"],
            ),
            (
                &with("model = eight, lists = 6"),
                "22023",
                &["lists", "6", "5", "\"eight\""],
                &["lists"],
            ),
            (
                &with("model = eight, subquantizers = 8"),
                "22023",
                &["subquantizers", "8", "4"],
                &["subquantizers"],
            ),
            (
                &with("model = eight, bits = 4"),
                "22023",
                &["bits", "4", "8"],
                &["bits"],
            ),
        ],
    );
    db.run("CREATE INDEX ON items USING distillvq (embedding) WITH (model = eight, lists = 5, subquantizers = 4, bits = 8)");
}

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
fn columns() {
    let mut db = items("columns");
    db.run(
        "CREATE TABLE other (free vector, half halfvec, sparse sparsevec(4), number int, list real[], bits bit(8), wide halfvec(4));
         CREATE VIEW seen AS TABLE items",
    );
    refused(
        &mut db,
        &[
            (
                "CREATE INDEX ON other USING distillvq (free)",
                "22023",
                &["dimensions"],
                &["vector("],
            ),
            (
                "CREATE INDEX ON other USING distillvq (half halfvec_l2_ops)",
                "22023",
                &["dimensions"],
                &["vector("],
            ),
            (
                "CREATE INDEX ON other USING distillvq (number)",
                "42704",
                &["integer", "distillvq"],
                &["operator class"],
            ),
            (
                "CREATE INDEX ON other USING distillvq (sparse)",
                "42704",
                &["sparsevec", "distillvq"],
                &["operator class"],
            ),
        ],
    );
    for sql in [
        "CREATE INDEX ON other USING distillvq (free, half)",
        "CREATE UNIQUE INDEX ON items USING distillvq (embedding)",
        "CREATE INDEX ON items USING distillvq (embedding) INCLUDE (id)",
        "CREATE INDEX ON items USING distillvq (embedding DESC)",
        "ALTER TABLE items ADD EXCLUDE USING distillvq (embedding WITH <->)",
    ] {
        let refusal = db.refusal(sql);
        assert!(
            ["0A000", "42809", "42804"].contains(&refusal.state.as_str()),
            "{sql}: {refusal:?}"
        );
    }
    assert_eq!(
        db.refusal("CREATE INDEX ON items USING distillvq (embedding halfvec_l2_ops)")
            .state,
        "42804"
    );
    assert_eq!(
        db.refusal("CREATE INDEX ON seen USING distillvq (embedding)")
            .state,
        "42809"
    );
}

#[test]
fn parameters_of_a_training() {
    let mut db = items("parameters");
    let train =
        |arguments: &str| format!("SELECT distillvq_train('items', 'embedding', {arguments})");
    refused(
        &mut db,
        &[
            (
                &train("metric => 'euclid'"),
                "22023",
                &["\"euclid\""],
                &["l2", "ip", "cosine"],
            ),
            (
                &train("metric => ''"),
                "22023",
                &["\"\""],
                &["l2", "ip", "cosine"],
            ),
            (
                &train("lists => -1"),
                "22023",
                &["\"-1\"", "lists"],
                &["32768"],
            ),
            (
                &train("lists => 32769"),
                "22023",
                &["\"32769\"", "lists"],
                &["32768"],
            ),
            (
                &train("subquantizers => 481"),
                "22023",
                &["\"481\"", "subquantizers"],
                &["480"],
            ),
            (
                &train("subquantizers => 241, bits => 8"),
                "22023",
                &["\"241\"", "subquantizers"],
                &["240"],
            ),
            (
                &train("subquantizers => 9"),
                "22023",
                &["9", "subquantizers"],
                &["subquantizers"],
            ),
            (&train("bits => 5"), "22023", &["5", "bits"], &["4", "8"]),
            (&train("bits => 0"), "22023", &["0", "bits"], &["4", "8"]),
            (
                &train("queries => 'items'"),
                "22023",
                &["queries", "query_column"],
                &["query_column"],
            ),
            (
                &train("query_column => 'embedding'"),
                "22023",
                &["queries", "query_column"],
                &["query_column"],
            ),
            (
                &train("queries => 'items', query_column => 'embed'"),
                "42703",
                &["\"embed\"", "items"],
                &["column"],
            ),
            (
                &train("queries => 'items', query_column => 'id'"),
                "42804",
                &["\"id\"", "items", "int8"],
                &["vector"],
            ),
        ],
    );
    assert_eq!(db.one::<i64>("SELECT count(*) FROM distillvq_models"), 0);
}

#[test]
fn sources_of_a_training() {
    let mut db = items("sources");
    db.run(
        "CREATE TABLE empty (embedding vector(8)); CREATE TABLE nulls (embedding vector(8)); INSERT INTO nulls VALUES (NULL);
         CREATE TABLE free (embedding vector); CREATE TABLE few AS SELECT * FROM items WHERE id < 999;
         CREATE TABLE zeros AS SELECT array_fill(0, ARRAY[8])::vector(8) AS embedding FROM generate_series(1, 2000);
         CREATE TABLE lists (embedding real[])",
    );
    refused(
        &mut db,
        &[
            (
                "SELECT distillvq_train('empty', 'embedding')",
                "55000",
                &["empty", "0", "1000"],
                &["table"],
            ),
            (
                "SELECT distillvq_train('nulls', 'embedding')",
                "55000",
                &["nulls", "1000"],
                &["table"],
            ),
            (
                "SELECT distillvq_train('free', 'embedding')",
                "55000",
                &["free", "1000"],
                &["table"],
            ),
            (
                "SELECT distillvq_train('few', 'embedding')",
                "55000",
                &["few", "999", "1000"],
                &["table"],
            ),
            (
                "SELECT distillvq_train('zeros', 'embedding')",
                "55000",
                &["zeros", "0 of 2000", "1000"],
                &["table"],
            ),
            (
                "SELECT distillvq_train('items', 'embed')",
                "42703",
                &["\"embed\"", "items"],
                &["column"],
            ),
            (
                "SELECT distillvq_train('items', 'ctid')",
                "42703",
                &["\"ctid\"", "items"],
                &["column"],
            ),
            (
                "SELECT distillvq_train('items', '')",
                "42703",
                &["\"\"", "items"],
                &["column"],
            ),
            (
                "SELECT distillvq_train('items', 'id')",
                "42804",
                &["\"id\"", "items"],
                &["vector", "halfvec"],
            ),
            (
                "SELECT distillvq_train('lists', 'embedding')",
                "42804",
                &["embedding", "lists"],
                &["vector"],
            ),
        ],
    );
    assert_eq!(
        db.refusal("SELECT distillvq_train('missing', 'embedding')")
            .state,
        "42P01"
    );
    db.run("ALTER TABLE items DROP COLUMN id");
    assert_eq!(
        db.refusal("SELECT distillvq_train('items', 'id')").state,
        "42703"
    );
    let unknown = db.refusal("SELECT distillvq_train(1::oid::regclass, 'embedding')");
    assert!(
        ["42703", "42P01"].contains(&unknown.state.as_str()),
        "{unknown:?}"
    );
    let index = "CREATE INDEX one ON items USING distillvq (embedding); SELECT distillvq_train('one', 'embedding')";
    assert_eq!(db.refusal(index).state, "42809");
    assert_eq!(
        db.one::<i64>("SELECT count(*) FROM distillvq_train(NULL, 'embedding')"),
        0
    );
}

#[test]
fn vectors_of_other_dimensions() {
    let mut db = items("dimensions");
    db.run(
        "CREATE INDEX ON items USING distillvq (embedding);
         CREATE INDEX ON items USING distillvq ((embedding::halfvec(8)) halfvec_cosine_ops);
         SET enable_seqscan = off",
    );
    let insert = db.refusal("INSERT INTO items VALUES (1, '[1,2,3]')");
    assert_eq!(insert.state, "22000", "{insert:?}");
    refused(
        &mut db,
        &[
            (
                "SELECT id FROM items ORDER BY embedding <-> '[1,2,3]' LIMIT 1",
                "22000",
                &["different vector dimensions 8 and 3"],
                &["8"],
            ),
            (
                "SELECT id FROM items ORDER BY embedding::halfvec(8) <=> '[1,2,3]' LIMIT 1",
                "22000",
                &["different vector dimensions 8 and 3"],
                &["8"],
            ),
        ],
    );
    // A typmod says what a cast lets through; a lie in an expression does not reach the index.
    db.run("CREATE FUNCTION lie(vector) RETURNS vector IMMUTABLE LANGUAGE sql AS 'SELECT $1'");
    assert_eq!(
        db.refusal("CREATE INDEX ON items USING distillvq (lie(embedding))")
            .state,
        "22023"
    );
}

/// Sets a time limit and runs a statement; returns how late it stopped, or none if it was done before.
#[track_caller]
fn late(client: &mut Client, limit: Duration, sql: &str) -> Option<Duration> {
    client.run(&format!(
        "SET statement_timeout = '{}ms'",
        limit.as_millis()
    ));
    let start = Instant::now();
    let outcome = client.batch_execute(&format!("BEGIN; {sql}"));
    let elapsed = start.elapsed();
    client.run("ROLLBACK; RESET statement_timeout");
    let error = outcome.err()?;
    assert_eq!(
        error.code().map(|state| state.code()),
        Some("57014"),
        "{sql} after {elapsed:?}: {error}"
    );
    Some(elapsed.saturating_sub(limit))
}

/// The most that a statement may run on after its end was asked for.
const LATEST: Duration = Duration::from_millis(500);

/// A database with documents enough to take seconds.
fn documents(name: &str) -> Database {
    let mut db = Database::new(name);
    table(
        &mut db,
        "items",
        "vector",
        &DataSet::shipped().unwrap().documents.slice(0..6_000),
    );
    db
}

/// Relation files of the database.
fn files(client: &mut Client) -> BTreeSet<String> {
    client.run("CHECKPOINT");
    let oid: u32 = client.one("SELECT oid FROM pg_database WHERE datname = current_database()");
    let directory = server().data().join(format!("base/{oid}"));
    fs::read_dir(directory)
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().into_string().ok())
        .filter(|name| !name.contains('_')) // free-space and visibility maps come with time
        .collect()
}

/// Threads of a session's process.
fn threads(process: i32) -> usize {
    fs::read_dir(format!("/proc/{process}/task")).map_or(1, Iterator::count)
}

#[test]
fn a_build_stops_in_time_and_leaves_nothing() {
    let mut db = documents("timeout");
    let build = "CREATE INDEX one ON items USING distillvq (embedding vector_cosine_ops)";
    let before = files(&mut db);
    let process: i32 = db.one("SELECT pg_backend_pid()");
    let single = threads(process);
    stops_in_time(&mut db, build);
    wait_for("the end of all threads", || threads(process) == single);
    assert_eq!(
        db.one::<i64>("SELECT count(*) FROM pg_class WHERE relname = 'one'"),
        0
    );
    assert_eq!(files(&mut db), before, "no file is left");
    db.run(&format!("{build} WITH (lists = 10, subquantizers = 8)"));
}

#[test]
fn a_training_stops_in_time_and_leaves_nothing() {
    let mut db = documents("training");
    stops_in_time(&mut db, "SELECT distillvq_train('items', 'embedding', 'm')");
    assert_eq!(db.one::<i64>("SELECT count(*) FROM distillvq_models"), 0);
}

/// Runs a statement to its end once, and then into time limits all over that time.
#[track_caller]
fn stops_in_time(client: &mut Client, sql: &str) {
    let start = Instant::now();
    client.run(&format!("BEGIN; {sql}; ROLLBACK"));
    let whole = start.elapsed();
    let shares = [1, 3, 8, 15, 30, 50, 80];
    let stopped = shares.iter().filter(|&&share| {
        let limit = (whole * share / 100).max(Duration::from_millis(5));
        let late = late(client, limit, sql);
        assert!(
            late.is_none_or(|late| late <= LATEST),
            "{late:?} after {limit:?} of {whole:?}"
        );
        late.is_some()
    });
    let stopped = stopped.count();
    assert!(stopped >= 4, "{stopped}");
}

#[test]
fn a_build_can_be_cancelled_and_its_session_ended() {
    let db = documents("cancelled");
    let mut boss = db.session();
    for (order, state) in [
        ("pg_cancel_backend", "57014"),
        ("pg_terminate_backend", "57P01"),
    ] {
        let mut session = db.session();
        let process: i32 = session.one("SELECT pg_backend_pid()");
        let build = thread::spawn(move || {
            session.batch_execute(
                "CREATE INDEX one ON items USING distillvq (embedding vector_ip_ops)",
            )
        });
        let progress =
            "SELECT count(*) FROM pg_stat_progress_create_index WHERE phase LIKE '%training%'";
        wait_for("a training", || boss.one::<i64>(progress) == 1);
        let start = Instant::now();
        boss.run(&format!("SELECT {order}({process})"));
        let error = build.join().unwrap().unwrap_err();
        let late = start.elapsed();
        assert_eq!(error.code().map(|state| state.code()), Some(state));
        assert!(late <= LATEST, "{late:?}");
    }
    assert_eq!(
        boss.one::<i64>("SELECT count(*) FROM pg_class WHERE relname = 'one'"),
        0
    );
}

#[test]
fn a_search_can_be_cancelled() {
    let mut db = documents("search");
    db.run("CREATE INDEX one ON items USING distillvq (embedding) WITH (lists = 20, subquantizers = 16)");
    db.run("SET enable_seqscan = off; SET enable_sort = off");
    let distance = "embedding <-> (SELECT embedding FROM items LIMIT 1)";
    let all = format!(
        "SELECT count(*) FROM (SELECT a.id FROM generate_series(1, 1000) n,
                       LATERAL (SELECT id FROM items ORDER BY {distance}, n OFFSET 0) a) s"
    );
    let late = late(&mut db, Duration::from_millis(100), &all);
    assert!(late.is_some_and(|late| late <= LATEST), "{late:?}");
    all_found(&mut db, "items", Metric::L2, &[0.5; 384]);
}

#[test]
fn errors_caught_in_a_loop_leave_nothing() {
    let mut db = items("caught");
    db.run("CREATE INDEX one ON items USING distillvq (embedding); SET enable_seqscan = off");
    db.run(
        "DO $$ DECLARE found record; BEGIN
             FOR i IN 1..300 LOOP
                 BEGIN
                     FOR found IN SELECT id FROM items ORDER BY embedding <-> '[1,2,3,4,5,6,7,8]' LOOP
                         PERFORM id FROM items ORDER BY embedding <-> '[1,2,3]' LIMIT 1;
                     END LOOP;
                     RAISE 'not reached';
                 EXCEPTION WHEN data_exception THEN
                     INSERT INTO items VALUES (10000 + i, '[1,2,3,4,5,6,7,8]');
                 END;
             END LOOP;
         END $$",
    );
    all_found(&mut db, "items", Metric::L2, &[0.0; 8]);
    assert_eq!(
        db.one::<i64>("SELECT count(*) FROM items WHERE id >= 10000"),
        300
    );
}

#[test]
fn inserts_and_vacuums_can_be_cancelled() {
    let mut db = documents("changes");
    db.run("CREATE INDEX one ON items USING distillvq (embedding) WITH (lists = 30, subquantizers = 32)");
    db.run("CREATE TABLE spare AS SELECT id + 10000 AS id, embedding FROM items");
    let mut interrupted = 0;
    for limit in [5, 15, 40, 80, 150] {
        let limit = Duration::from_millis(limit);
        let late = late(&mut db, limit, "INSERT INTO items TABLE spare");
        assert!(
            late.is_none_or(|late| late <= LATEST),
            "{late:?} after {limit:?}"
        );
        interrupted += usize::from(late.is_some());
        db.run("DELETE FROM items WHERE id IN (SELECT id FROM items WHERE id < 10000 ORDER BY random() LIMIT 300)");
        db.run(&format!(
            "SET statement_timeout = '{}ms'",
            limit.as_millis()
        ));
        let _ = db.batch_execute("VACUUM items"); // done or cancelled
        db.run("RESET statement_timeout");
        all_found(&mut db, "items", Metric::L2, &[0.1; 384]);
    }
    assert!(interrupted >= 2, "{interrupted}");
    db.run("VACUUM items");
    let counts = "SELECT count(DISTINCT reltuples) FROM pg_class WHERE relname IN ('one', 'items')";
    assert_eq!(db.one::<i64>(counts), 1);
}

#[test]
fn damaged_pages_are_told() {
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
        evict(&mut session);
        session.run("SET enable_seqscan = off; SET distillvq.probes = 32768; SET ignore_checksum_failure = on");
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
        evict(&mut session);
        write(&file, &sound);
    }
}

/// Overwrites a file in place: the server keeps it open.
fn write(file: &std::path::Path, bytes: &[u8]) {
    use std::io::Write;
    let mut file = fs::OpenOptions::new().write(true).open(file).unwrap();
    file.write_all(bytes).unwrap();
}

/// Takes the index's pages out of the server's memory.
fn evict(client: &mut Client) {
    client.run(
        "CREATE EXTENSION IF NOT EXISTS pg_buffercache; CHECKPOINT;
         SELECT pg_buffercache_evict(bufferid) FROM pg_buffercache WHERE relfilenode = pg_relation_filenode('one')",
    );
}
