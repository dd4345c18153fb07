//! Installation: what the extension requires of pgvector, and one version in every file that states it.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::fs;
use std::path::Path;

use common::{Sql, server};

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
