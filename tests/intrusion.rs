//! A role without privileges tries to run, read, or break objects of others, through every entry point.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{Database, Sql, all_found, table};
use distillvq_harness::{Metric, Vectors};

/// A database with a table `items` of 1,200 vectors and an index `one` of the superuser, and the role `mallory` with a schema
/// of her own.
fn items(name: &str) -> Database {
    let mut db = Database::of_items(name, &Vectors::clustered(1_200, 8, 10, 2));
    db.run(
        "CREATE INDEX one ON items USING distillvq (embedding) WITH (lists = 8);
         SELECT distillvq_train('items', 'embedding', 'm', metric => 'l2', lists => 8)",
    );
    drop(db.session_of("mallory"));
    db.run("CREATE SCHEMA own AUTHORIZATION mallory");
    db
}

/// Statements that a function tries when it is called by somebody with more rights; each in a subtransaction.
const TRIES: [&str; 9] = [
    "ALTER ROLE mallory SUPERUSER",
    "SET ROLE postgres",
    "RESET ROLE",
    "RESET SESSION AUTHORIZATION",
    "SET SESSION AUTHORIZATION postgres",
    "CREATE TEMP TABLE left_behind (a int)",
    "SET search_path = own",
    "CREATE TABLE public.left_behind (a int)",
    "DROP TABLE public.items",
];

#[test]
fn functions_of_an_index_run_as_its_owner_whoever_maintains_it() {
    let mut db = items("functions");
    let mut mallory = db.session_of("mallory");
    let tries: Vec<String> = TRIES
        .iter()
        .map(|sql| format!("BEGIN EXECUTE '{sql}'; EXCEPTION WHEN OTHERS THEN NULL; END;"))
        .collect();
    mallory.run(&format!(
        "CREATE TABLE own.seen (who text); CREATE TABLE own.armed (a int);
         CREATE FUNCTION own.act() RETURNS void LANGUAGE plpgsql AS
             $$ BEGIN INSERT INTO own.seen VALUES (current_user); {} END $$;
         CREATE FUNCTION own.evil(v public.vector) RETURNS public.vector(8) IMMUTABLE LANGUAGE plpgsql AS $$
         BEGIN
             IF random() < 0.02 AND EXISTS (SELECT FROM own.armed) THEN
                 PERFORM own.act();
             END IF;
             RETURN v;
         END $$;
         CREATE FUNCTION own.likes(id bigint) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS
             $$ BEGIN PERFORM own.evil(NULL); RETURN true; END $$",
        tries.join("\n")
    ));
    table(
        &mut mallory,
        "own.items",
        "vector",
        &Vectors::clustered(1_200, 8, 10, 2),
    );
    mallory.run(
        "CREATE INDEX bad ON own.items USING distillvq ((own.evil(embedding)::public.vector(8))) WHERE own.likes(id);
         INSERT INTO own.items SELECT id + 2000, embedding FROM own.items LIMIT 500; INSERT INTO own.armed VALUES (1)",
    );
    for call in [
        "distillvq_train('own.bad')",
        "distillvq_train('own.bad', queries => 'items')",
        "distillvq_calibrate('own.bad')",
        "distillvq_calibrate('own.bad', queries => 'items')",
        "distillvq_check('own.bad', heap => true)",
        "distillvq_recall('own.bad')",
        "distillvq_recall('own.bad', queries => 'items')",
        "distillvq_index_info('own.bad')",
        "distillvq_prewarm('own.bad')",
    ] {
        db.run(&format!("SELECT * FROM {call}"));
        let who: String =
            db.one("SELECT current_user || session_user || current_setting('search_path')");
        assert_eq!(who, "postgrespostgres\"$user\", public", "{call}");
    }
    db.run("SELECT * FROM distillvq_indexes");
    db.run_each(&["REINDEX INDEX own.bad", "VACUUM ANALYZE own.items"]);
    let seen: Vec<String> = db.column("SELECT DISTINCT who FROM own.seen");
    assert_eq!(seen, ["mallory"]);
    assert!(!db.one::<bool>("SELECT rolsuper FROM pg_roles WHERE rolname = 'mallory'"));
    assert_eq!(
        db.one::<i64>("SELECT count(*) FROM pg_class WHERE relname = 'left_behind'"),
        0
    );
    mallory.run("TRUNCATE own.armed");
}

#[test]
fn a_query_log_that_changes_what_is_trained_does_no_harm() {
    let mut db = items("nested");
    let mut mallory = db.session_of("mallory");
    table(
        &mut mallory,
        "own.items",
        "vector",
        &Vectors::clustered(1_200, 8, 10, 2),
    );
    mallory.run("CREATE INDEX two ON own.items USING distillvq (embedding) WITH (lists = 8)");
    for (number, act) in [
        "PERFORM distillvq_train('own.two')",
        "PERFORM distillvq_calibrate('own.two')",
        "DROP INDEX own.two",
        "REINDEX INDEX own.two",
        "TRUNCATE own.items",
        "DROP TABLE own.items",
        "ALTER TABLE own.items ALTER embedding TYPE public.halfvec(8)",
        "ALTER INDEX own.two SET (probes = 3)",
        "DELETE FROM own.items WHERE id < 100",
        "INSERT INTO own.items SELECT id + 5000, embedding FROM own.items LIMIT 100",
    ]
    .into_iter()
    .enumerate()
    {
        mallory.run(&format!(
            "CREATE FUNCTION own.act{number}(of_row bigint, v public.vector) RETURNS public.vector(8) LANGUAGE plpgsql AS $$
             BEGIN IF of_row = 300 THEN {act}; END IF; RETURN v; END $$;
             CREATE VIEW own.log{number} AS SELECT own.act{number}(id, embedding)::public.vector(8) AS q FROM own.items"
        ));
        for call in ["train", "calibrate", "recall"] {
            let sql =
                format!("SELECT * FROM distillvq_{call}('own.two', queries => 'own.log{number}')");
            if let Err(error) = mallory.batch_execute(&sql) {
                let state = error.code().unwrap().code().to_owned();
                assert!(
                    ["55006", "42501", "2BP01", "0A000"].contains(&&*state),
                    "{act}: {call}: {error:?}"
                );
            }
        }
    }
    mallory.run("SELECT distillvq_train('own.two')");
    all_found(&mut db, "own.items", Metric::L2, &[0.0; 8]);
}

#[test]
fn relations_of_all_kinds_are_refused_or_read_as_sql_reads_them() {
    let mut db = items("kinds");
    let mut other = db.session();
    other.run("CREATE TEMP TABLE theirs AS TABLE items; CREATE INDEX of_theirs ON theirs USING distillvq (embedding)");
    let theirs: String = db.one("SELECT oid::text FROM pg_class WHERE relname = 'theirs'");
    let of_theirs: String = db.one("SELECT oid::text FROM pg_class WHERE relname = 'of_theirs'");
    let toast: String = db
        .one("SELECT reltoastrelid::text FROM pg_class WHERE relname = 'model' AND relkind = 'r'");
    db.run(
        "CREATE SEQUENCE own.counter; CREATE TYPE own.pair AS (v vector(8)); CREATE MATERIALIZED VIEW own.kept AS TABLE items;
         CREATE MATERIALIZED VIEW own.empty AS TABLE items WITH NO DATA;
         CREATE TABLE own.parts (id bigint, embedding vector(8)) PARTITION BY RANGE (id);
         CREATE TABLE own.part PARTITION OF own.parts DEFAULT; CREATE INDEX above ON own.parts USING distillvq (embedding);
         CREATE VIEW own.secret AS TABLE items; CREATE FOREIGN DATA WRAPPER none; CREATE SERVER s FOREIGN DATA WRAPPER none;
         CREATE FOREIGN TABLE own.far (embedding vector(8)) SERVER s; GRANT ALL ON ALL TABLES IN SCHEMA own TO mallory;
         REVOKE ALL ON own.secret FROM mallory",
    );
    let mut mallory = db.session_of("mallory");
    for relation in [
        "own.counter",
        "own.pair",
        "own.kept",
        "own.empty",
        "own.parts",
        "own.part",
        "own.secret",
        "own.far",
        "items",
        "one",
        "own.above",
        &theirs,
        &of_theirs,
        &toast,
        "pg_statistic",
        "pg_authid",
        "distillvq.model",
        "0",
        "4294967295",
    ] {
        for call in [
            format!("distillvq_train('{relation}', 'embedding', 'x{relation}')"),
            format!("distillvq_train('own.kept', 'embedding', 'y', queries => '{relation}')"),
            format!(
                "distillvq_train('own.kept', 'embedding', 'y', queries => '{relation}', query_column => 'v')"
            ),
            format!("distillvq_train('{relation}')"),
            format!("distillvq_train('{relation}', queries => '{relation}')"),
            format!("distillvq_calibrate('{relation}')"),
            format!("distillvq_recall('{relation}', queries => '{relation}')"),
            format!("distillvq_check('{relation}', heap => true)"),
            format!("distillvq_index_info('{relation}')"),
            format!("distillvq_prewarm('{relation}')"),
        ] {
            if let Err(error) = mallory.batch_execute(&format!("SELECT * FROM {call}")) {
                let state = error.code().unwrap().code().to_owned();
                assert!(!state.starts_with("XX"), "{call}: {error:?}");
            }
        }
    }
    // What could be read was hers to read.
    let made: Vec<String> =
        db.column("SELECT name FROM distillvq_models WHERE owner = 'mallory' ORDER BY name");
    assert_eq!(made, ["xown.kept", "y"]);
    drop(other);
}

#[test]
fn arguments_of_any_size_are_refused() {
    let mut db = items("sizes");
    for call in [
        "distillvq_train('items', 'embedding', lists => 2147483647)",
        "distillvq_train('items', 'embedding', lists => -1)",
        "distillvq_train('items', 'embedding', subquantizers => 2147483647)",
        "distillvq_train('items', 'embedding', bits => -2147483648)",
        "distillvq_train('items', 'embedding', metric => repeat('x', 10000000))",
        "distillvq_train('items', 'embedding', loss => repeat('x', 10000000))",
        "distillvq_train('items', 'embedding', model => repeat('x', 10000000))",
        "distillvq_export_model(repeat('x', 10000000))",
        "distillvq_drop_model(repeat('x', 10000000))",
        "distillvq_import_model('n', decode(repeat('00', 10000000), 'hex'))",
        "distillvq_recall('one', k => 2147483647)",
        "distillvq_recall('one', k => 0)",
        "distillvq_recall('one', query_count => 2147483647)",
        "distillvq_recall('one', query_count => -1)",
    ] {
        let refusal = db.refusal(&format!("SELECT * FROM {call}"));
        let expected = ["22023", "42704", "22P03"];
        assert!(expected.contains(&&*refusal.state), "{call}: {refusal:?}");
    }
    db.run("SELECT distillvq_train('one', seed => -9223372036854775808); SELECT distillvq_recall('one', k => 10000, query_count => 2)");
    for setting in [
        "distillvq.target_recall = 'NaN'",
        "distillvq.target_recall = 'Infinity'",
        "distillvq.probes = 2147483648",
        "distillvq.probes = -1",
        "distillvq.unknown = 1",
    ] {
        let refusal = db.refusal(&format!("SET {setting}"));
        assert!(
            ["22023", "42602"].contains(&&*refusal.state),
            "{setting}: {refusal:?}"
        );
    }
    for option in [
        "target_recall = 'NaN'",
        "target_recall = 'inf'",
        "lists = 1e300",
        "probes = '0x7fffffffff'",
        "bits = '4 '",
    ] {
        let refused = db.batch_execute(&format!(
            "CREATE INDEX bad ON items USING distillvq (embedding) WITH ({option})"
        ));
        if let Err(error) = refused {
            assert_eq!(error.code().unwrap().code(), "22023", "{option}: {error:?}");
        }
    }
}
