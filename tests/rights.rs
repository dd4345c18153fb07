//! Who may train on what, whose models they are, and that nobody gets the extension's rights.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::thread;

use common::{Database, Sql, table, wait_for_blocked};
use distillvq_harness::Vectors;
use postgres::Client;

/// A database with a table `items` of 2,000 vectors and a table `log` of 500.
fn items(name: &str) -> Database {
    let mut db = Database::new(name);
    let all = Vectors::clustered(2_500, 16, 1, 11);
    table(&mut db, "items", "vector", &all.slice(0..2_000));
    table(&mut db, "log", "vector", &all.slice(2_000..2_500));
    db
}

/// Trains with these arguments; returns the number of rows that were seen.
#[track_caller]
fn train(client: &mut Client, arguments: &str) -> i64 {
    client.one(&format!("SELECT rows FROM distillvq_train({arguments})"))
}

#[test]
fn a_model_is_trained_anew_by_its_owner_alone() {
    let mut db = items("owner");
    let (mut alice, mut bob) = (db.session_of("alice"), db.session_of("bob"));
    db.run("GRANT SELECT ON items TO alice, bob");
    let (two, three) = (
        "'items', 'embedding', 'm', lists => 2",
        "'items', 'embedding', 'm', lists => 3",
    );
    train(&mut alice, two);
    let refusal = bob.refusal(&format!("SELECT distillvq_train({three})"));
    assert_eq!(refusal.state, "42501", "{refusal:?}");
    assert!(
        refusal.message.contains("\"m\"") && refusal.message.contains("alice"),
        "{refusal:?}"
    );
    assert!(!refusal.hint.is_empty());
    train(&mut alice, three);
    assert_eq!(
        db.one::<String>("SELECT lists || owner FROM distillvq_models"),
        "3alice"
    );
    train(&mut db, two);
    assert_eq!(
        db.one::<String>("SELECT lists || owner FROM distillvq_models"),
        "2alice"
    );
    db.run("GRANT alice TO bob");
    train(&mut bob, three);
    assert_eq!(
        db.one::<String>("SELECT lists || owner FROM distillvq_models"),
        "3alice"
    );
    // The role that Bob takes on counts, not the one he came as.
    bob.run("SET ROLE alice");
    train(&mut bob, "'items', 'embedding', 'as alice'");
    assert_eq!(
        db.one::<String>("SELECT owner::text FROM distillvq_models WHERE name = 'as alice'"),
        "alice"
    );
}

#[test]
fn two_roles_at_once_do_not_replace_each_other() {
    let mut db = items("race");
    let (mut carol, mut dave) = (db.session_of("carol"), db.session_of("dave"));
    db.run("GRANT SELECT ON items TO carol, dave");
    carol.run("BEGIN");
    train(&mut carol, "'items', 'embedding', 'm', lists => 2");
    let process: i32 = dave.one("SELECT pg_backend_pid()");
    let late = thread::spawn(move || {
        dave.batch_execute("SELECT distillvq_train('items', 'embedding', 'm', lists => 3)")
    });
    wait_for_blocked(&mut db, process);
    carol.run("COMMIT");
    let late = late.join().unwrap();
    assert_eq!(
        db.one::<String>("SELECT lists || owner FROM distillvq_models"),
        "2carol"
    );
    let state = late
        .unwrap_err()
        .code()
        .map(|state| state.code().to_owned());
    assert_eq!(state.as_deref(), Some("42501"));
}

#[test]
fn the_right_to_read_the_column_is_needed_and_enough() {
    let mut db = items("rights");
    let mut erin = db.session_of("erin");
    let both = "SELECT distillvq_train('items', 'embedding', queries => 'log', query_column => 'embedding')";
    let refusal = erin.refusal("SELECT distillvq_train('items', 'embedding')");
    assert_eq!(refusal.state, "42501", "{refusal:?}");
    db.run("GRANT SELECT (id) ON items TO erin");
    assert_eq!(
        erin.refusal("SELECT distillvq_train('items', 'embedding')")
            .state,
        "42501"
    );
    db.run("GRANT SELECT (embedding) ON items TO erin");
    train(&mut erin, "'items', 'embedding'");
    assert_eq!(erin.refusal(both).state, "42501", "queries need it too");
    db.run("GRANT SELECT (embedding) ON log TO erin");
    erin.run(both);
    db.run("REVOKE ALL ON items FROM erin; CREATE VIEW shown AS TABLE items; GRANT SELECT ON shown TO erin");
    train(&mut erin, "'shown', 'embedding'");
}

#[test]
fn row_level_security_limits_the_rows() {
    let mut db = items("security");
    let mut frank = db.session_of("frank");
    db.run(
        "GRANT SELECT ON items TO frank; ALTER TABLE items ENABLE ROW LEVEL SECURITY;
         CREATE POLICY part ON items FOR SELECT TO frank USING (id < 1234)",
    );
    assert_eq!(train(&mut frank, "'items', 'embedding', 'his'"), 1_234);
    assert_eq!(train(&mut db, "'items', 'embedding', 'all'"), 2_000);
    frank.run("SET row_security = off");
    assert_eq!(
        frank
            .refusal("SELECT distillvq_train('items', 'embedding')")
            .state,
        "42501"
    );
}

#[test]
fn models_are_listed_but_not_shown() {
    let mut db = items("shown");
    train(&mut db, "'items', 'embedding', 'm'");
    let mut grace = db.session_of("grace");
    assert_eq!(
        grace.column::<String>("SELECT name FROM distillvq_models"),
        ["m"]
    );
    for sql in [
        "SELECT * FROM distillvq.model",
        "SELECT body FROM distillvq.model",
        "DELETE FROM distillvq.model",
        "INSERT INTO distillvq.model SELECT * FROM distillvq.model",
        "UPDATE distillvq.model SET owner = 'grace'",
        "DELETE FROM distillvq_models",
    ] {
        assert_eq!(grace.refusal(sql).state, "42501", "{sql}");
    }
    // Any role may build with any model, though.
    db.run("CREATE SCHEMA hers AUTHORIZATION grace");
    grace.run(
        "CREATE TABLE hers.own (embedding vector(16));
         CREATE INDEX ON hers.own USING distillvq (embedding vector_cosine_ops) WITH (model = m)",
    );
}

#[test]
fn nothing_of_the_callers_runs_with_the_rights_of_the_extension() {
    let mut db = items("escalation");
    let mut mallory = db.session_of("mallory");
    db.run("GRANT SELECT ON items TO mallory; CREATE SCHEMA trap AUTHORIZATION mallory");
    // Operators and functions that hide those of pg_catalog and note who calls them.
    mallory.run(
        "CREATE TABLE trap.caught (who text); GRANT INSERT ON trap.caught TO PUBLIC;
         CREATE FUNCTION trap.same(text, text) RETURNS boolean LANGUAGE plpgsql AS $$
             BEGIN INSERT INTO trap.caught VALUES (current_user); RETURN $1 OPERATOR(pg_catalog.=) $2; END $$;
         CREATE FUNCTION trap.same(name, name) RETURNS boolean LANGUAGE plpgsql AS $$
             BEGIN INSERT INTO trap.caught VALUES (current_user); RETURN $1 OPERATOR(pg_catalog.=) $2; END $$;
         CREATE FUNCTION trap.same(oid, regclass) RETURNS boolean LANGUAGE plpgsql AS $$
             BEGIN INSERT INTO trap.caught VALUES (current_user); RETURN $1 OPERATOR(pg_catalog.=) $2; END $$;
         CREATE OPERATOR trap.= (LEFTARG = text, RIGHTARG = text, FUNCTION = trap.same);
         CREATE OPERATOR trap.= (LEFTARG = name, RIGHTARG = name, FUNCTION = trap.same);
         CREATE OPERATOR trap.= (LEFTARG = oid, RIGHTARG = regclass, FUNCTION = trap.same);
         SET search_path = trap, pg_catalog, public",
    );
    train(&mut mallory, "'items', 'embedding', 'm'");
    train(&mut mallory, "'items', 'embedding', 'm'");
    mallory.run(
        "CREATE TABLE trap.own (embedding vector(16));
         CREATE INDEX ON trap.own USING distillvq (embedding vector_cosine_ops) WITH (model = m)",
    );
    let caught: Vec<String> = db.column("SELECT who FROM trap.caught WHERE who <> 'mallory'");
    assert!(caught.is_empty(), "{} calls as {}", caught.len(), caught[0]);
}

#[test]
fn training_leaves_the_caller_as_it_was() {
    let mut db = items("caller");
    let mut heidi = db.session_of("heidi");
    db.run("GRANT SELECT ON items TO heidi");
    train(&mut heidi, "'items', 'embedding', 'm'");
    assert_eq!(
        heidi.one::<String>("SELECT current_user::text || session_user"),
        "heidiheidi"
    );
    db.run("CREATE ROLE ivan; GRANT ALL ON SCHEMA public TO heidi");
    // An error while the model is stored.
    db.run("ALTER TABLE distillvq.model ADD CHECK (name <> 'unwanted')");
    let refusal = heidi.refusal("SELECT distillvq_train('items', 'embedding', 'unwanted')");
    assert_eq!(refusal.state, "23514", "{refusal:?}");
    assert_eq!(heidi.one::<String>("SELECT current_user::text"), "heidi");
    assert_eq!(
        heidi.refusal("SELECT * FROM distillvq.model").state,
        "42501"
    );
    heidi.run("CREATE TEMPORARY TABLE mine (a int)"); // not in a restricted operation any more
}
