//! Crashes: the server is killed at many moments; afterwards the index finds all committed rows.
//!
//! Recovery compares every replayed page with the logged image (`wal_consistency_checking`), so a page change without WAL fails the
//! recovery.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use common::{
    ALL, Sql, all_found, by_index, exact, healthy, mean_recall, search, table, undamaged, verified,
    wait_for,
};
use distillvq_harness::process_tree::{self, Signal};
use distillvq_harness::{Embedding, Metric, Server, Stop, Vectors};
use postgres::Client;

const DIM: usize = 12;

/// A server to be killed, and a session in a database with the extension.
fn server(name: &str) -> (Server, Client) {
    let checked = [
        ("wal_consistency_checking", "Generic"),
        ("max_wal_size", "256MB"),
    ];
    let settings = [&common::SETTINGS[..], &checked].concat();
    let server = Server::start_with(&format!("crash-{name}"), &settings).unwrap();
    let client = server.database("crash").unwrap();
    (server, client)
}

/// Brings a killed server back.
fn back(server: &mut Server) -> Client {
    server.restart().unwrap();
    let log = server.log().unwrap();
    assert!(log.contains("database system was not properly shut down"));
    healthy(&log);
    undamaged(&log, "crash");
    let mut client = server.connect_to("crash").unwrap();
    verified(&mut client);
    client
}

/// The index must show exactly what the table shows, and still find the nearest.
#[track_caller]
fn sound(client: &mut Client, metric: Metric, queries: &Vectors) {
    verified(client);
    for query in queries.slice(0..2).iter() {
        all_found(client, "items", metric, query);
    }
    let recall = mean_recall(client, "items", metric, &queries.slice(0..10), ALL);
    assert!(recall >= 0.99, "{recall}");
}

/// Inserts rows one by one until the connection breaks; returns the ids whose commit was confirmed.
fn insert_until_killed(mut client: Client, first: i64, vectors: &Vectors) -> Vec<i64> {
    let mut committed = Vec::new();
    let Ok(statement) = client.prepare("INSERT INTO items VALUES ($1, $2)") else {
        return committed;
    };
    for id in first.. {
        let vector = vectors.row(id as usize % vectors.rows());
        if client
            .execute(&statement, &[&id, &Embedding(vector)])
            .is_err()
        {
            break;
        }
        committed.push(id);
    }
    committed
}

/// Runs statements again and again until the connection breaks.
fn repeat_until_killed(mut client: Client, statements: &[&str]) {
    while statements
        .iter()
        .all(|sql| client.batch_execute(sql).is_ok())
    {}
}

#[test]
fn committed_rows_survive() {
    let (mut server, mut client) = server("inserts");
    let vectors = Vectors::clustered(3_000, DIM, 20, 31);
    table(&mut client, "items", "vector", &vectors.slice(0..1_500));
    client.run("CREATE INDEX one ON items USING distillvq (embedding)");
    client.run("CREATE INDEX two ON items USING distillvq (embedding vector_cosine_ops) WITH (bits = 8, lists = 9, assignments = 2)");
    for (round, milliseconds) in [150, 400, 650].into_iter().enumerate() {
        let committed = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for writer in 0..3 {
                let session = server.connect_to("crash").unwrap();
                let first = (round as i64 + 1) * 1_000_000 + writer * 100_000;
                let (vectors, committed) = (&vectors, &committed);
                scope.spawn(move || {
                    let ids = insert_until_killed(session, first, vectors);
                    committed.lock().unwrap().extend(ids);
                });
            }
            if round == 1 {
                let session = server.connect_to("crash").unwrap();
                scope.spawn(|| repeat_until_killed(session, &["CHECKPOINT"]));
            }
            thread::sleep(Duration::from_millis(milliseconds));
            server.kill9().unwrap();
        });
        let mut client = back(&mut server);
        let committed = committed.into_inner().unwrap();
        assert!(
            committed.len() > 10,
            "{} rows were inserted",
            committed.len()
        );
        let there: Vec<i64> = client.column("SELECT id FROM items");
        let there: std::collections::HashSet<i64> = there.into_iter().collect();
        assert!(committed.iter().all(|id| there.contains(id)));
        sound(&mut client, Metric::L2, &vectors);
        sound(&mut client, Metric::Cosine, &vectors);
    }
}

#[test]
fn deletes_and_vacuums_survive() {
    let (mut server, mut client) = server("vacuum");
    let vectors = Vectors::clustered(3_000, DIM, 20, 32);
    table(&mut client, "items", "vector", &vectors);
    client.run("CREATE INDEX one ON items USING distillvq (embedding vector_ip_ops)");
    for milliseconds in [200, 500] {
        thread::scope(|scope| {
            let vacuum = server.connect_to("crash").unwrap();
            scope.spawn(|| {
                let delete = "DELETE FROM items WHERE id IN (SELECT id FROM items ORDER BY random() LIMIT 60)";
                repeat_until_killed(vacuum, &[delete, "VACUUM items"]);
            });
            let writer = server.connect_to("crash").unwrap();
            let vectors = &vectors;
            scope.spawn(move || {
                insert_until_killed(writer, 10_000_000 * milliseconds as i64, vectors)
            });
            thread::sleep(Duration::from_millis(milliseconds));
            server.kill9().unwrap();
        });
        let mut client = back(&mut server);
        sound(&mut client, Metric::InnerProduct, &vectors);
        client.run("VACUUM items");
        sound(&mut client, Metric::InnerProduct, &vectors);
    }
}

#[test]
fn an_untrained_index_survives_too() {
    let (mut server, mut client) = server("untrained");
    let vectors = Vectors::clustered(2_000, DIM, 20, 33);
    client.run(&format!("CREATE TABLE items (id bigint, embedding vector({DIM})); CREATE INDEX one ON items USING distillvq (embedding)"));
    thread::scope(|scope| {
        for writer in 0..3i64 {
            let session = server.connect_to("crash").unwrap();
            let vectors = &vectors;
            scope.spawn(move || insert_until_killed(session, writer * 100_000, vectors));
        }
        thread::sleep(Duration::from_millis(300));
        server.kill9().unwrap();
    });
    let mut client = back(&mut server);
    exact(
        &mut client,
        &search("items", Metric::L2, vectors.row(0), ""),
    );
    client.run("INSERT INTO items SELECT id + 10000000, embedding FROM items LIMIT 100");
    exact(
        &mut client,
        &search("items", Metric::L2, vectors.row(0), ""),
    );
}

#[test]
fn an_open_transaction_is_forgotten() {
    let (mut server, mut client) = server("open");
    let vectors = Vectors::clustered(1_600, DIM, 20, 34);
    table(&mut client, "items", "vector", &vectors.slice(0..1_500));
    client.run_each(&[
        "CREATE INDEX one ON items USING distillvq (embedding)",
        "BEGIN",
        "INSERT INTO items SELECT id + 10000, embedding FROM items",
        "DELETE FROM items WHERE id < 1000",
    ]);
    server.connect().unwrap().run("CHECKPOINT");
    server.kill9().unwrap();
    let mut client = back(&mut server);
    assert_eq!(client.one::<i64>("SELECT count(*) FROM items"), 1_500);
    sound(&mut client, Metric::L2, &vectors);
    client.run("VACUUM items"); // takes the forgotten rows out
    sound(&mut client, Metric::L2, &vectors);
    assert_eq!(
        client.one::<f32>("SELECT reltuples FROM pg_class WHERE relname = 'one'"),
        1_500.0
    );
}

#[test]
fn an_unlogged_index_is_empty_and_usable() {
    let (mut server, mut client) = server("unlogged");
    let vectors = Vectors::clustered(1_600, DIM, 20, 35);
    client.run(&format!("CREATE UNLOGGED TABLE items (id bigint, embedding vector({DIM}));
                         CREATE UNLOGGED TABLE few (LIKE items); CREATE INDEX ON few USING distillvq (embedding)"));
    distillvq_harness::load::copy_vectors(&mut client, "items", &vectors).unwrap();
    client.run("CREATE INDEX one ON items USING distillvq (embedding); INSERT INTO few SELECT * FROM items LIMIT 50");
    sound(&mut client, Metric::L2, &vectors);
    for round in 0..2 {
        server.kill9().unwrap();
        client = back(&mut server);
        for name in ["items", "few"] {
            assert_eq!(
                by_index(&mut client, &search(name, Metric::L2, vectors.row(0), "")),
                []
            );
            distillvq_harness::load::copy_vectors(&mut client, name, &vectors).unwrap();
            all_found(&mut client, name, Metric::L2, vectors.row(round));
            client.run("SET enable_seqscan = off");
        }
        exact(
            &mut client,
            &search("few", Metric::L2, vectors.row(0), "LIMIT 100"),
        );
        sound(&mut client, Metric::L2, &vectors);
    }
    server.stop(Stop::Fast).unwrap();
    server.restart().unwrap();
    client = server.connect_to("crash").unwrap();
    assert_eq!(
        client.one::<i64>("SELECT count(*) FROM items"),
        1_600,
        "a clean stop loses nothing"
    );
    sound(&mut client, Metric::L2, &vectors);
}

#[test]
fn a_build_that_was_killed_leaves_nothing_broken() {
    let (mut server, mut client) = server("build");
    let vectors = Vectors::clustered(6_000, 32, 20, 36);
    table(&mut client, "items", "vector", &vectors);
    // A model of many lists makes the loading last.
    client.run(
        "SELECT distillvq_train('items', 'embedding', 'm', metric => 'l2', lists => 1000);
         INSERT INTO items SELECT id + 10000 * n, embedding FROM items, generate_series(1, 11) n",
    );
    let rows: i64 = client.one("SELECT count(*) FROM items");
    for (phase, model) in [("training", ""), ("loading", "WITH (model = m)")] {
        let mut session = server.connect_to("crash").unwrap();
        let build = format!("CREATE INDEX one ON items USING distillvq (embedding) {model}");
        let progress = format!(
            "SELECT count(*) FROM pg_stat_progress_create_index WHERE phase LIKE '%{phase}%'"
        );
        thread::scope(|scope| {
            scope.spawn(move || session.batch_execute(&build).unwrap_err());
            wait_for(phase, || client.one::<i64>(&progress) == 1);
            server.kill9().unwrap();
        });
        client = back(&mut server);
        let built = "SELECT count(*) FROM pg_class WHERE relname = 'one'";
        assert_eq!(client.one::<i64>(built), 0);
        assert_eq!(client.one::<i64>("SELECT count(*) FROM items"), rows);
    }
    client.run("DELETE FROM items WHERE id >= 10000; CREATE INDEX one ON items USING distillvq (embedding) WITH (lists = 20)");
    sound(&mut client, Metric::L2, &vectors);
}

#[test]
fn a_build_beside_writers_that_was_killed_can_be_mended() {
    let (mut server, mut client) = server("concurrently");
    let vectors = Vectors::clustered(4_000, DIM, 20, 37);
    table(&mut client, "items", "vector", &vectors);
    let mut session = server.connect_to("crash").unwrap();
    thread::scope(|scope| {
        scope.spawn(move || {
            session
                .batch_execute("CREATE INDEX CONCURRENTLY one ON items USING distillvq (embedding)")
                .unwrap_err()
        });
        wait_for("a build", || {
            client.one::<i64>(
                "SELECT count(*) FROM pg_stat_progress_create_index WHERE phase LIKE '%training%'",
            ) == 1
        });
        server.kill9().unwrap();
    });
    client = back(&mut server);
    let state = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'one'::regclass";
    assert_eq!(client.column::<bool>(state), [false], "as with any index");
    client.run("INSERT INTO items SELECT id + 10000, embedding FROM items WHERE id < 100");
    client.run("REINDEX INDEX CONCURRENTLY one");
    assert_eq!(client.column::<bool>(state), [true]);
    sound(&mut client, Metric::L2, &vectors);
}

#[test]
fn an_index_just_built_survives() {
    // wal_level = minimal skips the WAL of what a transaction creates: its files must be complete at commit.
    for level in ["replica", "minimal"] {
        let settings = [
            ("wal_level", level),
            ("max_wal_senders", "0"),
            ("wal_skip_threshold", "0"),
        ];
        let settings = [&common::SETTINGS[..], &settings].concat();
        let mut server = Server::start_with(&format!("crash-{level}"), &settings).unwrap();
        let mut client = server.database("crash").unwrap();
        let vectors = Vectors::clustered(1_600, DIM, 20, 38);
        client.run("BEGIN");
        table(&mut client, "items", "vector", &vectors.slice(0..1_500));
        client.run("CREATE INDEX one ON items USING distillvq (embedding);
                    INSERT INTO items SELECT id + 10000, embedding FROM items WHERE id < 200; COMMIT");
        client.run(
            "INSERT INTO items SELECT id + 20000, embedding FROM items WHERE id < 200;
                    CREATE INDEX two ON items USING distillvq (embedding vector_ip_ops)",
        );
        client.run("INSERT INTO items SELECT id + 30000, embedding FROM items WHERE id < 200");
        server.kill9().unwrap();
        client = back(&mut server);
        sound(&mut client, Metric::L2, &vectors);
        sound(&mut client, Metric::InnerProduct, &vectors);
    }
}

#[test]
fn a_killed_session_takes_only_itself_along() {
    // One session killed makes the server restart all: the others' committed rows are there when it is back.
    let (server, mut client) = server("backend");
    let vectors = Vectors::clustered(2_000, DIM, 20, 39);
    table(&mut client, "items", "vector", &vectors);
    client.run("CREATE INDEX one ON items USING distillvq (embedding)");
    let session = server.connect_to("crash").unwrap();
    let mut victim = server.connect_to("crash").unwrap();
    let process: i32 = victim.one("SELECT pg_backend_pid()");
    thread::scope(|scope| {
        let writer = scope.spawn(|| insert_until_killed(session, 10_000, &vectors));
        scope.spawn(move || {
            repeat_until_killed(victim, &["UPDATE items SET id = id WHERE id < 500"])
        });
        thread::sleep(Duration::from_millis(300));
        let killed = std::process::Command::new("kill")
            .args(["-KILL", &process.to_string()])
            .status();
        assert!(killed.unwrap().success());
        let committed = writer.join().unwrap();
        let mut back = None;
        wait_for("the server", || {
            back = server.connect_to("crash").ok();
            back.is_some()
        });
        let mut client = back.unwrap();
        let count =
            format!("SELECT count(*) FROM items WHERE id = ANY (ARRAY{committed:?}::bigint[])");
        assert_eq!(client.one::<i64>(&count), committed.len() as i64);
        sound(&mut client, Metric::L2, &vectors);
    });
}

#[test]
fn a_session_killed_at_its_work_loses_nothing() {
    // Builds, inserts, vacuums and trainings end by a kill of their own process, at several moments each.
    let (mut server, mut client) = server("work");
    let vectors = Vectors::clustered(2_500, DIM, 20, 40);
    table(&mut client, "items", "vector", &vectors.slice(0..2_000));
    client.run(
        "CREATE INDEX one ON items USING distillvq (embedding); CREATE SEQUENCE ids START 2000000",
    );
    let mut first = 10_000;
    for statements in [
        &[
            "CREATE INDEX two ON items USING distillvq (embedding)",
            "DROP INDEX two",
        ][..],
        &["REINDEX INDEX CONCURRENTLY one"],
        &["INSERT INTO items SELECT nextval('ids'), embedding FROM items LIMIT 200"],
        &["DELETE FROM items WHERE id > 1000000", "VACUUM items"],
        &[
            "SELECT distillvq_train('items', 'embedding', 'm', metric => 'l2', seed => (random() * 99)::int)",
        ],
        &["SELECT distillvq_train('one', seed => (random() * 99)::int)"],
    ] {
        for milliseconds in [40, 250] {
            let mut victim = server.connect_to("crash").unwrap();
            let process = victim.one::<i32>("SELECT pg_backend_pid()") as u32;
            let writer = server.connect_to("crash").unwrap();
            let committed = thread::scope(|scope| {
                let vectors = &vectors;
                let writing = scope.spawn(move || insert_until_killed(writer, first, vectors));
                scope.spawn(|| repeat_until_killed(victim, statements));
                thread::sleep(Duration::from_millis(milliseconds));
                process_tree::send(Signal::KILL, &[process]);
                writing.join().unwrap()
            });
            server.await_recovery().unwrap();
            client = server.connect_to("crash").unwrap();
            let there = format!(
                "SELECT count(*) FROM items WHERE id BETWEEN {first} AND {}",
                first + 9_999
            );
            // The last insert may have been committed without a word of it.
            let there: i64 = client.one(&there);
            let known = committed.len() as i64;
            assert!(
                (known..=known + 1).contains(&there),
                "{there} of {known} rows"
            );
            client.run("DROP INDEX IF EXISTS two; DROP INDEX IF EXISTS one_ccnew");
            verified(&mut client);
            first += 10_000;
        }
        sound(&mut client, Metric::L2, &vectors);
    }
    undamaged(
        &server
            .log()
            .unwrap()
            .replace("was terminated by signal 9", ""),
        "crash",
    );
}

/// Trains an index again and again, with another seed each time, until the connection breaks.
fn train_until_killed(mut client: Client) {
    for seed in 0.. {
        let sql = format!(
            "SELECT distillvq_train('one', queries => 'log', query_column => 'embedding', seed => {seed})"
        );
        if client.batch_execute(&sql).is_err() {
            return;
        }
    }
}

#[test]
fn a_training_in_place_survives_or_never_was() {
    let (mut server, mut client) = server("student");
    let vectors = Vectors::clustered(3_000, DIM, 20, 31);
    table(&mut client, "items", "vector", &vectors.slice(0..1_500));
    table(&mut client, "log", "vector", &vectors.slice(1_500..2_000));
    client.run("CREATE INDEX one ON items USING distillvq (embedding) WITH (lists = 12, subquantizers = 4)");
    let query = search("items", Metric::L2, vectors.row(2_100), "LIMIT 500");
    for milliseconds in [300, 700, 1_100, 1_600] {
        thread::scope(|scope| {
            let (trainer, writer) = (
                server.connect_to("crash").unwrap(),
                server.connect_to("crash").unwrap(),
            );
            let vectors = &vectors;
            scope.spawn(|| train_until_killed(trainer));
            scope.spawn(move || {
                insert_until_killed(writer, 1_000_000 + milliseconds * 10_000, vectors)
            });
            thread::sleep(Duration::from_millis(milliseconds as u64));
            server.kill9().unwrap();
        });
        sound(&mut back(&mut server), Metric::L2, &vectors);
    }
    // What a finished training has written is there without a checkpoint.
    let mut client = server.connect_to("crash").unwrap();
    client.run("SELECT distillvq_train('one', seed => 77)");
    let before = by_index(&mut client, &query);
    client.run("SELECT txid_current()");
    server.kill9().unwrap();
    assert!(by_index(&mut back(&mut server), &query) == before);
}
