//! Installation: what the extension requires of pgvector, and one version in every file that states it.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{Sql, all_found, by_index, items_and_queries, search, server, verified};
use distillvq_harness::Metric;

/// Connects to a new database, where pgvector's extension claims this version.
fn with_pgvector(database: &str, version: &str) -> postgres::Client {
    let mut client = server().connect().unwrap();
    client.run(&format!("CREATE DATABASE {database}"));
    let mut client = server().connect_to(database).unwrap();
    client.run("CREATE EXTENSION vector");
    client.run(&format!(
        "UPDATE pg_extension SET extversion = '{version}' WHERE extname = 'vector'"
    ));
    client
}

#[test]
fn an_old_pgvector_is_refused() {
    for (number, version) in ["0.4.4", "0.6.2", "0.6.10"].iter().enumerate() {
        let mut client = with_pgvector(&format!("old_pgvector_{number}"), version);
        let refusal = client.refusal("CREATE EXTENSION distillvq");
        assert_eq!(refusal.state, "55000", "{refusal:?}");
        assert_eq!(
            refusal.message,
            format!(
                "distillvq requires pgvector 0.7.0 or later, but the extension \"vector\" has version {version}"
            )
        );
        assert_eq!(
            refusal.hint,
            "Install pgvector 0.7.0 or later, then run ALTER EXTENSION vector UPDATE."
        );
    }
}

#[test]
fn newer_versions_of_pgvector_are_accepted() {
    for (number, version) in ["0.7.0", "0.10.0-dev", "1.0.0", "2026"].iter().enumerate() {
        with_pgvector(&format!("new_pgvector_{number}"), version).run("CREATE EXTENSION distillvq");
    }
}

/// An update script in the server's extension directory, which is removed in the end.
struct UpdateScript(PathBuf);

impl UpdateScript {
    fn new(client: &mut postgres::Client, version: &str, sql: &str) -> Self {
        let directory: String =
            client.one("SELECT setting || '/extension' FROM pg_config WHERE name = 'SHAREDIR'");
        let file = format!("distillvq--{}--{version}.sql", env!("CARGO_PKG_VERSION"));
        let path = Path::new(&directory).join(file);
        fs::write(&path, sql).unwrap();
        UpdateScript(path)
    }
}

impl Drop for UpdateScript {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn an_update_keeps_indexes_and_models() {
    let (mut db, queries) = items_and_queries("update", 2_000, 16);
    db.run("SELECT distillvq_train('items', 'embedding', 'm', metric => 'l2')");
    db.run("CREATE INDEX one ON items USING distillvq (embedding) WITH (model = m)");
    let mut used = db.session();
    let sql = search("items", Metric::L2, queries.row(0), "LIMIT 20");
    let before = by_index(&mut used, &sql);
    const VERSION: &str = "99.0.0";
    let _script = UpdateScript::new(
        &mut db,
        VERSION,
        "CREATE FUNCTION @extschema@.distillvq_made_up(text) RETURNS bigint LANGUAGE sql STABLE
             RETURN (SELECT count(*) FROM distillvq.model WHERE name = $1);
         ALTER TABLE distillvq.model ADD COLUMN made_up int NOT NULL DEFAULT 7;",
    );
    db.run(&format!("ALTER EXTENSION distillvq UPDATE TO '{VERSION}'"));
    let installed = "SELECT extversion FROM pg_extension WHERE extname = 'distillvq'";
    assert_eq!(db.one::<String>(installed), VERSION);
    assert_eq!(db.one::<i64>("SELECT distillvq_made_up('m')"), 1);
    assert_eq!(db.one::<i32>("SELECT made_up FROM distillvq.model"), 7);

    // A session that searched before the update, and a new one.
    let mut new = db.session();
    for session in [&mut used, &mut new] {
        assert_eq!(by_index(session, &sql), before);
        session.run("INSERT INTO items SELECT 10000 + id, embedding FROM items LIMIT 20");
        all_found(session, "items", Metric::L2, queries.row(1));
    }
    db.run_each(&[
        "SELECT distillvq_train('one')",
        "SELECT distillvq_train('items', 'embedding', 'n', metric => 'l2')",
        "REINDEX INDEX one",
        "DELETE FROM items WHERE id % 5 = 0",
        "VACUUM items",
    ]);
    all_found(&mut db, "items", Metric::L2, queries.row(2));
    verified(&mut db);
    let models = "SELECT array_agg(name || made_up ORDER BY name) FROM distillvq.model";
    assert_eq!(db.one::<Vec<String>>(models), ["m7", "n7"]);
    db.run("DROP INDEX one; DROP EXTENSION distillvq");
    assert!(!db.one::<bool>("SELECT to_regprocedure('distillvq_made_up(text)') IS NOT NULL"));
}

#[test]
fn the_version_is_the_same_everywhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let read = |name: &str| fs::read_to_string(root.join(name)).unwrap();
    let version = env!("CARGO_PKG_VERSION");
    let control = format!("default_version = '{version}'");
    assert!(read("distillvq.control").contains(&control), "{control}");
    let script = read(&format!("sql/distillvq--{version}.sql"));
    assert!(script.contains(&format!("-- distillvq {version}:")));
    let meta = read("META.json");
    let stated = meta.matches(&format!("\"version\": \"{version}\"")).count();
    assert_eq!(
        stated, 2,
        "META.json states {version} for itself and the extension"
    );
    assert!(meta.contains(&format!("\"file\": \"sql/distillvq--{version}.sql\"")));
    assert!(script.contains("least_pgvector constant text := '0.7.0'"));
    assert!(meta.contains("\"vector\": \"0.7.0\""));
    let heading = format!("## {version} (");
    assert!(read("CHANGELOG.md").contains(&heading), "{heading}");
}
