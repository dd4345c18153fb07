//! A streaming replica returns the results of its primary during writes, and after promotion.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::sync::RwLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use common::{
    ALL, Found, Sql, all_found, by_index, in_order, mean_recall, search, table, undamaged,
    verified, wait_for,
};
use distillvq_harness::{Metric, Server, Stop, Vectors};
use postgres::Client;

/// Waits until the replica has replayed all that the primary has done.
fn catch_up(primary: &mut Client, replica: &mut Client) {
    // The message is a commit of its own, so that everything before it is sent.
    primary.run("SELECT pg_logical_emit_message(true, 'test', '')");
    let until: String = primary.one("SELECT pg_current_wal_flush_lsn()::text");
    let replayed = format!("SELECT pg_last_wal_replay_lsn() >= '{until}'");
    wait_for("the replica", || replica.one(&replayed));
}

/// Ends the sessions that look at the flag, however its owner ends.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn answers(client: &mut Client, queries: &Vectors) -> Vec<Found> {
    let mut found = Vec::new();
    for (query, probes) in queries.iter().zip([1, 3, ALL].into_iter().cycle()) {
        client.run(&format!("SET distillvq.probes = {probes}"));
        let sql = search("items", Metric::Cosine, query, "LIMIT 25");
        found.push(by_index(client, &sql));
    }
    client.run("RESET distillvq.probes");
    found
}

#[test]
fn a_replica_answers_as_its_primary_and_takes_its_place() {
    let checked = [("wal_consistency_checking", "all")];
    let settings = [&common::SETTINGS[..], &checked].concat();
    let mut primary = Server::start_with("replica-primary", &settings).unwrap();
    let mut client = primary.database("replica").unwrap();
    let vectors = Vectors::clustered(2_012, 16, 20, 9);
    let queries = vectors.slice(2_000..2_012);
    table(&mut client, "items", "vector", &vectors.slice(0..2_000));
    client.run(
        "CREATE INDEX one ON items USING distillvq (embedding vector_cosine_ops);
         CREATE SEQUENCE ids START 10000",
    );
    let replica = primary.standby("replica-standby").unwrap();
    let mut there = replica.connect_to("replica").unwrap();
    // While the gate is closed nobody writes.
    let (gate, done) = (RwLock::new(()), AtomicBool::new(false));
    thread::scope(|scope| {
        let (gate, done, query) = (&gate, &done, queries.row(0));
        let _ending = Ending(done);
        for statements in [
            &[
                "INSERT INTO items SELECT nextval('ids'), embedding FROM items ORDER BY random() LIMIT 20",
                "UPDATE items SET embedding = embedding + (SELECT embedding FROM items LIMIT 1)
               WHERE id IN (SELECT id FROM items WHERE id < 2000 ORDER BY random() LIMIT 10)",
            ][..],
            &[
                "DELETE FROM items WHERE id > 2000 AND random() < 0.5",
                "VACUUM items",
            ][..],
            &[
                "SELECT distillvq_train('one', seed => (random() * 1000)::bigint)",
                "CHECKPOINT",
            ][..],
        ] {
            let mut session = primary.connect_to("replica").unwrap();
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    for statement in statements {
                        let _open = gate.read().unwrap();
                        session.run(statement);
                    }
                }
            });
        }
        let mut reader = replica.connect_to("replica").unwrap();
        scope.spawn(move || {
            while !done.load(Ordering::Relaxed) {
                in_order(&by_index(
                    &mut reader,
                    &search("items", Metric::Cosine, query, "LIMIT 30"),
                ));
            }
        });
        for _ in 0..10 {
            thread::sleep(std::time::Duration::from_millis(150));
            let _closed = gate.write().unwrap();
            catch_up(&mut client, &mut there);
            let [here, there] = [&mut client, &mut there].map(|c| answers(c, &queries));
            assert!(here == there, "the replica answers otherwise");
        }
    });
    catch_up(&mut client, &mut there);
    let before = answers(&mut client, &queries);
    drop(client);
    primary.stop(Stop::Immediate).unwrap();
    there.run("SELECT pg_promote()");
    assert!(answers(&mut there, &queries) == before);
    there.run_each(&[
        "INSERT INTO items SELECT -1 - id, embedding FROM items WHERE id < 300",
        "DELETE FROM items WHERE id % 9 = 1",
        "VACUUM items",
    ]);
    verified(&mut there);
    all_found(&mut there, "items", Metric::Cosine, queries.row(1));
    // Ten neighbors of twelve queries, after changes that differ from run to run: one or two may be missed.
    let recall = mean_recall(&mut there, "items", Metric::Cosine, &queries, ALL);
    assert!(recall >= 0.95, "{recall}");
    for server in [&primary, &replica] {
        undamaged(&server.log().unwrap(), "replica");
    }
}
