//! `pg_upgrade` from an older PostgreSQL: indexes and models are unchanged and work.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{Found, SETTINGS, Sql, all_found, by_index, search, table, undamaged, verified};
use distillvq_harness::installation::Installation;
use distillvq_harness::{Metric, Server, Vectors};
use postgres::Client;

/// The indexes, and the tables that they are over.
const INDEXES: [(&str, &str, &str); 3] = [
    ("trained", "items", "WITH (lists = 20)"),
    ("modeled", "others", "WITH (model = m)"),
    ("untrained", "few", ""),
];

/// What searches of all tables find.
fn answers(client: &mut Client, queries: &Vectors) -> Vec<Found> {
    client.run("SET distillvq.probes = 3");
    let mut found = Vec::new();
    for (_, table, _) in INDEXES {
        for query in queries.iter() {
            found.push(by_index(
                client,
                &search(table, Metric::L2, query, "LIMIT 20"),
            ));
        }
    }
    client.run("RESET distillvq.probes");
    found
}

#[test]
#[ignore = "needs two servers: make test-upgrade"]
fn a_used_index_goes_on_after_pg_upgrade() {
    let installation = Installation::named_by("OLD_PG_CONFIG").unwrap();
    let versions = [
        installation.version(),
        Installation::from_environment().unwrap().version(),
    ];
    assert!(versions[0] < versions[1], "{versions:?}");
    let old = Server::start_on(installation, "upgrade-old", &SETTINGS).unwrap();
    let mut client = old.database("upgrade").unwrap();
    let all = Vectors::clustered(3_020, 24, 30, 17);
    let queries = all.slice(3_000..3_020);
    table(&mut client, "items", "vector", &all.slice(0..2_000));
    table(&mut client, "others", "vector", &all.slice(1_000..3_000));
    table(&mut client, "few", "vector", &all.slice(0..200));
    client.run("SELECT distillvq_train('items', 'embedding', 'm', metric => 'l2')");
    for (index, table, options) in INDEXES {
        client.run(&format!(
            "CREATE INDEX {index} ON {table} USING distillvq (embedding) {options}"
        ));
    }
    // Used: holes, later rows, another student.
    client.run_each(&[
        "DELETE FROM items WHERE id % 7 = 0",
        "VACUUM items",
        "INSERT INTO items SELECT id + 10000, embedding FROM others WHERE id % 5 = 0",
        "SELECT distillvq_train('trained', seed => 5)",
    ]);
    let before = answers(&mut client, &queries);
    drop(client);

    let new = Server::upgraded(old, "upgrade-new", &SETTINGS).unwrap();
    let mut client = new.connect_to("upgrade").unwrap();
    assert!(
        answers(&mut client, &queries) == before,
        "the same pages give the same answers"
    );
    verified(&mut client);
    for (_, table, _) in INDEXES {
        client.run(&format!(
            "INSERT INTO {table} SELECT id + 50000, embedding FROM others WHERE id < 100"
        ));
        all_found(&mut client, table, Metric::L2, queries.row(0));
    }
    client.run_each(&["DELETE FROM items WHERE id % 3 = 0", "VACUUM items"]);
    all_found(&mut client, "items", Metric::L2, queries.row(1));
    client.run("SELECT distillvq_train('trained', seed => 6); REINDEX TABLE others");
    let models: Vec<String> = client.column("SELECT name FROM distillvq_models");
    assert_eq!(models, ["m"]);
    all_found(&mut client, "others", Metric::L2, queries.row(2));
    undamaged(&new.log().unwrap(), "upgrade");
}
