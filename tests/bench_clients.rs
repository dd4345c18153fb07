//! The algorithm for ann-benchmarks and the client for VectorDBBench in `benches/` run on small data.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{Database, server};

/// A file of the checkout.
fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(name)
}

#[test]
fn clients_of_other_benchmarks() {
    let database = Database::new("bench_clients");
    let tool = Command::new(file("tools/clients-python.sh"))
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(tool.status.success());
    let packages = String::from_utf8(tool.stdout).unwrap();
    let mut python = Command::new("python3");
    for (name, value) in server().command("psql").get_envs() {
        match value {
            Some(value) => python.env(name, value),
            None => python.env_remove(name),
        };
    }
    let output = python
        .arg(file("benches/check_clients.py"))
        .env("PGDATABASE", &database.name)
        .env("PYTHONPATH", packages.trim_end())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}
