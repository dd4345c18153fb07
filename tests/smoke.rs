//! Smoke test: the extension can be created, and its server crashes and recovers.
#![allow(clippy::unwrap_used)]

use distillvq_harness::{Server, Vectors, load};

#[test]
fn the_extension_can_be_created_and_dropped() {
    let server = Server::start("smoke").unwrap();
    let mut client = server.database("smoke").unwrap();
    let version: String = client
        .query_one(
            "SELECT extversion FROM pg_extension WHERE extname = 'distillvq'",
            &[],
        )
        .unwrap()
        .get(0);
    assert_eq!(version, env!("CARGO_PKG_VERSION"));
    client.batch_execute("DROP EXTENSION distillvq").unwrap();
}

#[test]
fn committed_rows_survive_a_kill() {
    let mut server = Server::start("smoke-kill").unwrap();
    let mut client = server.connect().unwrap();
    client
        .batch_execute(
            "CREATE EXTENSION vector; CREATE TABLE items (id bigint, embedding vector(8))",
        )
        .unwrap();
    let vectors = Vectors::clustered(1_000, 8, 10, 1);
    assert_eq!(
        load::copy_vectors(&mut client, "items", &vectors).unwrap(),
        1_000
    );
    server.kill9().unwrap();
    assert!(client.simple_query("SELECT 1").is_err());
    server.restart().unwrap();
    assert_eq!(
        server
            .psql("postgres", "SELECT count(*) FROM items")
            .unwrap()
            .trim(),
        "1000"
    );
    assert!(
        server
            .log()
            .unwrap()
            .contains("database system was not properly shut down")
    );
}
