//! Types named like pgvector's, created by an unprivileged role in its own schema.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{Database, Sql, all_found, exact, literal, search, table};
use distillvq_harness::{Metric, Vectors};
use postgres::Client;

/// Rows of the tables of false vectors.
const ROWS: usize = 1_200;

/// Kinds of types that anybody may create: statements that make the type `{t}` in the schema `{s}`, and a value of it.
const KINDS: [(&str, &str, &str); 8] = [
    ("enum", "CREATE TYPE {s}.{t} AS ENUM ('a')", "'a'"),
    (
        "composite",
        "CREATE TYPE {s}.{t} AS (a int, b text)",
        "'(1,x)'",
    ),
    (
        "range",
        "CREATE TYPE {s}.{t} AS RANGE (subtype = float8)",
        "'[1,2)'",
    ),
    (
        "multirange",
        "CREATE TYPE {s}.other AS RANGE (subtype = float8, multirange_type_name = {s}.{t})",
        "'{[1,2)}'",
    ),
    (
        "domain over enum",
        "CREATE TYPE {s}.other AS ENUM ('a'); CREATE DOMAIN {s}.{t} AS {s}.other",
        "'a'",
    ),
    (
        "domain over bytes",
        "CREATE DOMAIN {s}.{t} AS bytea",
        "'\\x20000000080000000000'",
    ),
    ("domain over integer", "CREATE DOMAIN {s}.{t} AS int", "'1'"),
    (
        "array of domain",
        "CREATE DOMAIN {s}.{t} AS public.vector(8)[]",
        "'{\"[1,2,3,4,5,6,7,8]\"}'",
    ),
];

/// A database with a table of true vectors and an index, both of the role `mallory`, and a session of hers.
fn of_mallory(name: &str) -> (Database, Client) {
    let mut db = Database::new(name);
    let mut mallory = db.session_of("mallory");
    db.run("CREATE SCHEMA own AUTHORIZATION mallory");
    let vectors = Vectors::clustered(1_100, 8, 10, 2);
    table(&mut mallory, "own.items", "vector", &vectors);
    mallory.run("CREATE INDEX one ON own.items USING distillvq (embedding) WITH (lists = 8)");
    (db, mallory)
}

/// Refuses a column of a table in every place where vectors are expected.
#[track_caller]
fn is_refused(client: &mut Client, relation: &str, what: &str) {
    for call in [
        format!("distillvq_train('{relation}', 'c')"),
        format!(
            "distillvq_train('own.items', 'embedding', queries => '{relation}', query_column => 'c')"
        ),
        format!("distillvq_train('own.one', queries => '{relation}', query_column => 'c')"),
        format!("distillvq_calibrate('own.one', queries => '{relation}', query_column => 'c')"),
        format!("distillvq_recall('own.one', queries => '{relation}', query_column => 'c')"),
        format!("distillvq_recall('own.one', queries => '{relation}')"),
    ] {
        let refusal = client.refusal(&format!("SELECT * FROM {call}"));
        assert_eq!(refusal.state, "42804", "{what}: {call}: {refusal:?}");
    }
    for class in ["", "public.vector_l2_ops", "public.halfvec_l2_ops"] {
        let refusal = client.refusal(&format!(
            "CREATE INDEX ON {relation} USING distillvq (c {class})"
        ));
        assert!(
            ["42804", "42704", "42809"].contains(&&*refusal.state),
            "{what}: {class}: {refusal:?}"
        );
    }
}

#[test]
fn names_make_no_vectors() {
    let (mut db, mut mallory) = of_mallory("names");
    for (kind, create, value) in KINDS {
        for (schema, name) in [
            ("own", "vector"),
            ("own", "halfvec"),
            ("pg_temp", "vector"),
            ("pg_temp", "halfvec"),
        ] {
            let what = format!("{kind} {schema}.{name}");
            let create = create.replace("{s}", schema).replace("{t}", name);
            mallory.run(&format!(
                "{create}; CREATE TEMP TABLE fake (c {schema}.{name});
                 INSERT INTO fake SELECT {value} FROM generate_series(1, {ROWS});
                 CREATE TEMP VIEW seen AS TABLE fake"
            ));
            is_refused(&mut mallory, "fake", &what);
            is_refused(&mut mallory, "seen", &what);
            mallory.run(
                "DROP TABLE fake CASCADE; DROP TYPE IF EXISTS own.other, pg_temp.other CASCADE",
            );
            mallory.run(&format!("DROP TYPE IF EXISTS {schema}.{name} CASCADE"));
        }
    }
    mallory.run(&format!(
        "CREATE TEMP TABLE many (c public.vector(8)[]); INSERT INTO many SELECT '{{\"[1,2,3,4,5,6,7,8]\"}}' FROM generate_series(1, {ROWS})"
    ));
    is_refused(&mut mallory, "many", "array");
    // Nothing else has happened.
    assert!(db.one::<i64>("SELECT count(*) FROM distillvq_indexes") == 1);
}

#[test]
fn an_extension_makes_no_vectors_of_what_is_added_to_it() {
    let (mut db, mut mallory) = of_mallory("added");
    // Where pgvector is trusted, who may create objects in the database owns it, and may add to it.
    mallory.run("CREATE TYPE own.vector AS ENUM ('a'); CREATE DOMAIN own.halfvec AS bytea");
    db.run(
        "ALTER EXTENSION vector ADD TYPE own.vector; ALTER EXTENSION vector ADD DOMAIN own.halfvec",
    );
    mallory.run(&format!(
        "CREATE TABLE own.fake (c own.vector); INSERT INTO own.fake SELECT 'a' FROM generate_series(1, {ROWS});
         CREATE TABLE own.bytes (c own.halfvec); INSERT INTO own.bytes SELECT '\\x08' FROM generate_series(1, {ROWS})"
    ));
    is_refused(&mut mallory, "own.fake", "enum in the extension");
    is_refused(&mut mallory, "own.bytes", "domain in the extension");
}

#[test]
fn a_relation_that_changes_meanwhile_is_not_read_as_vectors() {
    let (db, mut mallory) = of_mallory("meanwhile");
    mallory.run(
        "CREATE TYPE own.vector AS ENUM ('a');
         CREATE TABLE own.log (c public.vector(8)); INSERT INTO own.log SELECT embedding FROM own.items;
         CREATE FUNCTION own.change(bigint, v public.vector) RETURNS public.vector(8) LANGUAGE plpgsql AS $$
         BEGIN
             IF $1 = 500 THEN
                 DROP TABLE own.log; CREATE TABLE own.log (c own.vector);
                 INSERT INTO own.log SELECT 'a' FROM generate_series(1, 1000);
             END IF;
             RETURN v;
         END $$;
         CREATE VIEW own.changing AS SELECT own.change(id, embedding)::public.vector(8) AS c FROM own.items;
         CREATE FUNCTION own.alter(bigint, v public.vector) RETURNS public.vector(8) LANGUAGE plpgsql AS $$
         BEGIN
             IF $1 = 500 THEN
                 ALTER TABLE own.log ALTER c TYPE own.vector USING 'a';
             END IF;
             RETURN v;
         END $$;
         CREATE VIEW own.altering AS SELECT own.alter(id, embedding)::public.vector(8) AS c FROM own.items",
    );
    for view in ["changing", "altering"] {
        let refusal = mallory.refusal(&format!(
            "SELECT distillvq_train('own.{view}', 'c', queries => 'own.log', query_column => 'c')"
        ));
        assert!(
            ["42P01", "55006"].contains(&&*refusal.state),
            "{view}: {refusal:?}"
        );
    }
    drop(db);
}

#[test]
fn domains_over_vectors_are_vectors() {
    let mut db = Database::new("domains");
    let vectors = Vectors::clustered(1_200, 8, 10, 2);
    table(&mut db, "plain", "vector", &vectors);
    db.run(
        "CREATE DOMAIN eight AS vector(8); CREATE DOMAIN again AS eight CHECK (vector_dims(VALUE) = 8);
         CREATE DOMAIN half AS halfvec(8); CREATE DOMAIN bare AS vector;
         CREATE TABLE items (id bigint, embedding again, h half, b bare);
         INSERT INTO items SELECT id, embedding, embedding::halfvec(8), embedding FROM plain;
         SELECT distillvq_train('items', 'embedding', 'm', metric => 'l2', queries => 'plain');
         CREATE INDEX one ON items USING distillvq (embedding) WITH (model = m);
         CREATE INDEX two ON items USING distillvq (h halfvec_l2_ops)",
    );
    let refusal = db.refusal("CREATE INDEX ON items USING distillvq (b)");
    assert_eq!(refusal.state, "22023", "{refusal:?}");
    let sql = search("items", Metric::L2, vectors.row(3), "LIMIT 10");
    db.run("SET distillvq.probes = 32768");
    exact(&mut db, &sql);
    db.run("INSERT INTO items SELECT -id, embedding, h, b FROM items LIMIT 10");
    all_found(&mut db, "items", Metric::L2, vectors.row(0));
    let query = literal(vectors.row(1));
    assert_eq!(
        db.refusal(&format!(
            "INSERT INTO items VALUES (1, {query}::vector || '[1]')"
        ))
        .state,
        "22000"
    );
}

#[test]
fn a_log_with_one_column_of_vectors_needs_no_name() {
    let (_db, mut mallory) = of_mallory("logs");
    mallory.run(
        "CREATE TABLE own.log (at timestamptz, q public.vector(8), gone public.vector(8)); ALTER TABLE own.log DROP gone;
         INSERT INTO own.log SELECT now(), embedding FROM own.items LIMIT 300;
         CREATE TABLE own.two (a public.vector(8), b public.halfvec(8)); CREATE TABLE own.none (a int)",
    );
    mallory.run("SELECT distillvq_calibrate('own.one', queries => 'own.log')");
    mallory.run("SELECT distillvq_train('own.one', queries => 'own.log')");
    assert_eq!(
        mallory.one::<String>(
            "SELECT query_source FROM distillvq_recall('own.one', queries => 'own.log')"
        ),
        "log"
    );
    let two = mallory.refusal("SELECT distillvq_calibrate('own.one', queries => 'own.two')");
    assert_eq!(two.state, "42702", "{two:?}");
    assert!(two.hint.contains("a, b"), "{two:?}");
    let none = mallory.refusal("SELECT distillvq_calibrate('own.one', queries => 'own.none')");
    assert_eq!(none.state, "42804", "{none:?}");
    let half = mallory.refusal("SELECT distillvq_calibrate('own.one', query_column => 'q')");
    assert_eq!(half.state, "22023", "{half:?}");
    // Column and type that do not fit are told as what they are.
    let index = mallory.refusal("SELECT distillvq_train('own.one', 'items', 'embedding')");
    assert_eq!(index.state, "42809", "{index:?}");
    let column = mallory
        .refusal("SELECT distillvq_recall('own.one', queries => 'own.log', query_column => 'at')");
    assert_eq!(column.state, "42804", "{column:?}");
    assert!(!column.hint.contains("Train"), "{column:?}");
}
