//! Privileges for training, ownership of models, and no privilege escalation.
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

/// What somebody is told who may not export a model.
#[track_caller]
fn refused(client: &mut Client, model: &str) {
    for call in [
        format!("distillvq_export_model('{model}')"),
        format!("distillvq_drop_model('{model}')"),
        format!("distillvq_train('items', 'embedding', '{model}')"),
    ] {
        let refusal = client.refusal(&format!("SELECT {call}"));
        assert_eq!(refusal.state, "42501", "{call}: {refusal:?}");
    }
}

#[test]
fn models_belong_to_roles_and_not_to_their_names() {
    let mut db = items("renamed");
    db.run("GRANT SELECT ON items TO PUBLIC");
    let mut first = db.session_of("judy");
    train(&mut first, "'items', 'embedding', 'hers'");
    drop(first);
    db.run("ALTER ROLE judy RENAME TO judith");
    let (mut second, mut first) = (db.session_of("judy"), db.session_of("judith"));
    refused(&mut second, "hers");
    train(&mut first, "'items', 'embedding', 'hers', lists => 3");
    assert_eq!(
        db.one::<String>("SELECT owner::text FROM distillvq_models"),
        "judith"
    );
    // A role that owns models is not dropped unnoticed.
    let refusal = db.refusal("DROP ROLE judith");
    assert_eq!(refusal.state, "2BP01", "{refusal:?}");
    drop((first, second));
    db.run("DROP ROLE judy; DROP OWNED BY judith; DROP ROLE judith");
    let mut third = db.session_of("judith");
    refused(&mut third, "hers");
    assert_eq!(
        db.one::<i64>("SELECT count(*) FROM distillvq_models WHERE owner IS NULL"),
        1
    );
    // A superuser is left to do as before.
    train(&mut db, "'items', 'embedding', 'hers'");
    db.run("SELECT distillvq_drop_model('hers')");
    // Who has none left may be dropped.
    train(&mut third, "'items', 'embedding', 'a'");
    train(&mut third, "'items', 'embedding', 'b'");
    third.run("SELECT distillvq_drop_model('a')");
    assert_eq!(db.refusal("DROP ROLE judith").state, "2BP01");
    third.run("SELECT distillvq_drop_model('b')");
    drop(third);
    db.run("DROP ROLE judith");
}

/// A database with an index on the column of a table that hides most of its rows from the role `warden`, who may maintain it.
fn hidden(name: &str, definition: &str) -> Option<(Database, Client)> {
    let mut db = items(name);
    if db.one::<String>("SHOW server_version_num").as_str() < "170000" {
        return None;
    }
    let warden = db.session_of("warden");
    db.run(&format!(
        "CREATE INDEX one ON items USING distillvq {definition};
         ALTER TABLE items ENABLE ROW LEVEL SECURITY; GRANT SELECT, MAINTAIN ON items TO warden;
         GRANT SELECT ON log TO warden; CREATE POLICY part ON items FOR SELECT TO warden USING (id < 250)"
    ));
    Some((db, warden))
}

#[test]
fn who_sees_a_part_of_the_rows_changes_no_index_of_all() {
    for (name, definition) in [
        ("hidden_plain", "(embedding) WITH (lists = 16)"),
        ("hidden_part", "(embedding) WITH (lists = 16) WHERE id > 5"),
        ("hidden_cast", "((embedding::halfvec(16)) halfvec_l2_ops)"),
    ] {
        let Some((mut db, mut warden)) = hidden(name, definition) else {
            return;
        };
        let before: String = db.one("SELECT distillvq_index_info('one')::text");
        for call in [
            "distillvq_train('one')",
            "distillvq_train('one', queries => 'log', query_column => 'embedding')",
            "distillvq_calibrate('one')",
            "distillvq_calibrate('one', queries => 'log', query_column => 'embedding')",
        ] {
            for setting in ["on", "off"] {
                let refusal = warden.refusal(&format!(
                    "SET row_security = {setting}; SELECT * FROM {call}"
                ));
                assert_eq!(refusal.state, "42501", "{call}: {refusal:?}");
                assert!(refusal.hint.contains("row-level security"), "{refusal:?}");
            }
        }
        let after: String = db.one("SELECT distillvq_index_info('one')::text");
        assert_eq!(before, after);
        db.run("ALTER ROLE warden BYPASSRLS");
        warden.run("SELECT distillvq_calibrate('one'); SELECT distillvq_train('one')");
        db.run("ALTER ROLE warden NOBYPASSRLS");
    }
}

/// Creates an index whose expression fails, with the row's contents, once `fuse` has a row; 40 % of the rows are newer than it.
fn with_a_failing_expression(db: &mut Database) {
    db.run(
        "CREATE TABLE fuse (a int); CREATE TABLE calls (who text);
         GRANT SELECT ON fuse TO PUBLIC; GRANT INSERT ON calls TO PUBLIC;
         CREATE FUNCTION shown(secret text, v vector) RETURNS vector(16) IMMUTABLE LANGUAGE plpgsql AS $$
         BEGIN
             IF EXISTS (SELECT FROM public.fuse) THEN
                 RAISE EXCEPTION 'contents: %', secret;
             END IF;
             RETURN v;
         END $$;
         ALTER TABLE items ADD secret text; UPDATE items SET secret = 'classified' || id;
         CREATE TABLE mixed AS SELECT * FROM items;
         CREATE INDEX one ON mixed USING distillvq ((shown(secret, embedding)::vector(16)));
         INSERT INTO mixed SELECT * FROM items LIMIT 800",
    );
}

#[test]
fn figures_of_an_index_tell_nothing_of_rows() {
    let mut db = items("figures");
    with_a_failing_expression(&mut db);
    let drift = "SELECT drift::text FROM distillvq_index_info('one')";
    assert!(
        db.one::<Option<String>>(drift).is_some(),
        "known to who may read"
    );
    db.run("INSERT INTO fuse VALUES (1)");
    let mut monitor = db.session_of("monitor");
    db.run("GRANT pg_monitor TO monitor");
    for client in [&mut monitor, &mut *db] {
        assert_eq!(client.one::<Option<String>>(drift), None);
        let shown: String = client.one(
            "SELECT concat_ws(' ', distillvq_index_info('one')::text, (SELECT string_agg(i::text, ' ') FROM distillvq_indexes i))",
        );
        assert!(
            !shown.contains("classified") && !shown.contains("unknown"),
            "{shown}"
        );
    }
    db.run("DELETE FROM fuse");
}
