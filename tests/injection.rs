//! SQL injection: names and texts that contain statements, and objects that shadow those of PostgreSQL.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{Database, Sql};
use distillvq_harness::Vectors;
use postgres::Client;

/// What has worked elsewhere.
const WORDS: [&str; 9] = [
    "'; DROP TABLE canary; --",
    "\"; DROP TABLE canary; --",
    "x'); DROP TABLE canary; --",
    "x\"); DROP TABLE canary; --",
    "\\'; DROP TABLE canary; --",
    "$$; DROP TABLE canary; $$",
    "%s%n%I%L{}{0}",
    "two\nlines\tand\u{1}more",
    "é☃ 𝕏",
];

/// A database with a table `items`, an index `one`, a model `m`, and something to lose.
fn items(name: &str) -> Database {
    let mut db = Database::of_items(name, &Vectors::clustered(1_100, 8, 10, 2));
    db.run(
        "CREATE TABLE canary AS SELECT 1 AS alive;
         CREATE INDEX one ON items USING distillvq (embedding) WITH (lists = 8);
         SELECT distillvq_train('items', 'embedding', 'm', metric => 'l2', lists => 8)",
    );
    db
}

/// Text arguments of all functions, each as a parameter of the statement.
const ARGUMENTS: [&str; 11] = [
    "SELECT distillvq_train('items', $1::text::name)",
    "SELECT distillvq_train('items', 'embedding', model => $1, lists => 8)",
    "SELECT distillvq_train('items', 'embedding', metric => $1)",
    "SELECT distillvq_train('items', 'embedding', loss => $1)",
    "SELECT distillvq_train('items', 'embedding', queries => 'items', query_column => $1::text::name)",
    "SELECT distillvq_train('one', loss => $1)",
    "SELECT distillvq_train('one', queries => 'items', query_column => $1::text::name)",
    "SELECT distillvq_import_model($1, distillvq_export_model('m'), replace => true)",
    "SELECT distillvq_export_model($1)",
    "SELECT distillvq_drop_model($1)",
    "SELECT distillvq_recall('one', queries => 'items', query_column => $1::text::name)",
];

#[test]
fn texts_are_values_and_never_statements() {
    let mut db = items("texts");
    let long = "x'".repeat(5_000);
    for statement in ARGUMENTS {
        for word in WORDS.into_iter().chain(["", " ", &long]) {
            let Err(error) = db.execute(statement, &[&word]) else {
                continue;
            };
            let state = error.code().map_or("", |state| state.code());
            // A syntax error would mean that somebody read it.
            let expected = ["22023", "42703", "42704", "22P02"];
            assert!(expected.contains(&state), "{statement} {word:?}: {error:?}");
        }
    }
    assert_eq!(db.one::<i32>("SELECT alive FROM canary"), 1);
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[test]
fn names_are_names_and_never_statements() {
    let mut db = items("names");
    for word in WORDS {
        let name = quoted(word);
        let relation = format!("{name}.{name}");
        let index = quoted(&format!("{word} index"));
        db.run(&format!(
            "CREATE ROLE {name} LOGIN; CREATE SCHEMA {name}; GRANT ALL ON SCHEMA {name} TO {name};
             CREATE TABLE {relation} ({name} vector(8)); ALTER TABLE {relation} OWNER TO {name};
             INSERT INTO {relation} SELECT embedding FROM items"
        ));
        let mut session = db.session();
        session.run(&format!("SET SESSION AUTHORIZATION {name}"));
        let literal = word.replace('\'', "''");
        session
            .execute(
                "SELECT distillvq_train($1::text::regclass, $2::text::name, model => $2, metric => 'l2', lists => 8)",
                &[&relation, &word],
            )
            .unwrap_or_else(|error| panic!("{word}: {error:?}"));
        session
            .execute(
                "SELECT distillvq_train($1::text::regclass, $2::text::name, lists => 8)",
                &[&relation, &word],
            )
            .unwrap();
        session.run(&format!(
            "CREATE INDEX {index} ON {relation} USING distillvq ({name}) WITH (model = '{literal}')"
        ));
        let qualified = format!("{name}.{index}");
        for statement in [
            "SELECT distillvq_train($1::text::regclass)",
            "SELECT distillvq_train($1::text::regclass, queries => 'items', query_column => 'embedding')",
            "SELECT distillvq_check($1::text::regclass, true)",
            "SELECT distillvq_recall($1::text::regclass)",
            "SELECT distillvq_index_info($1::text::regclass)",
            "SELECT distillvq_prewarm($1::text::regclass)",
        ] {
            match session.execute(statement, &[&qualified]) {
                Ok(_) => {}
                // No right to the queries.
                Err(error) => assert_eq!(error.code().unwrap().code(), "42501", "{statement}"),
            }
        }
        session
            .execute("SELECT distillvq_export_model($1)", &[&word])
            .unwrap();
        // In use, so refused, and the message names the index.
        let dropped = session.execute("SELECT distillvq_drop_model($1)", &[&word]);
        let error = dropped.unwrap_err();
        let state = error.code().unwrap().code();
        assert!(["2BP01", "42501"].contains(&state), "{word}: {error:?}");
        session
            .execute("SELECT distillvq_drop_model($1, force => true)", &[&word])
            .unwrap();
        drop(session);
        db.run(&format!("DROP SCHEMA {name} CASCADE; SELECT distillvq_drop_model(name) FROM distillvq_models WHERE name <> 'm'"));
        db.run(&format!("DROP OWNED BY {name}; DROP ROLE {name}"));
    }
    assert_eq!(db.one::<i32>("SELECT alive FROM canary"), 1);
}

/// Hides operators and functions that statements of an extension may use; each notes who calls it.
fn set_trap(session: &mut Client) {
    session.run(
        "CREATE SCHEMA trap; CREATE TABLE trap.caught (what text, who text);
         GRANT USAGE ON SCHEMA trap TO PUBLIC; GRANT INSERT ON trap.caught TO PUBLIC;
         CREATE FUNCTION trap.caught(text) RETURNS int LANGUAGE sql AS
             'INSERT INTO trap.caught VALUES ($1, current_user) RETURNING 1';
         DO $$ DECLARE kind text; BEGIN
             FOREACH kind IN ARRAY ARRAY['text', 'name', 'oid', '\"char\"', 'int', 'bigint', 'real', 'bool'] LOOP
                 EXECUTE format('CREATE FUNCTION trap.same(%1$s, %1$s) RETURNS boolean LANGUAGE plpgsql AS
                     ''BEGIN PERFORM trap.caught(''''= %1$s''''); RETURN $1 OPERATOR(pg_catalog.=) $2; END''', kind);
                 EXECUTE format('CREATE OPERATOR trap.= (LEFTARG = %1$s, RIGHTARG = %1$s, FUNCTION = trap.same)', kind);
             END LOOP;
         END $$;
         CREATE FUNCTION trap.joined(text, text) RETURNS text LANGUAGE plpgsql AS
             $$ BEGIN PERFORM trap.caught('||'); RETURN concat($1, $2); END $$;
         CREATE OPERATOR trap.|| (LEFTARG = text, RIGHTARG = text, FUNCTION = trap.joined);
         CREATE FUNCTION trap.now() RETURNS timestamptz LANGUAGE plpgsql AS
             $$ BEGIN PERFORM trap.caught('now'); RETURN pg_catalog.now(); END $$;
         CREATE FUNCTION trap.format(text, name, name) RETURNS text LANGUAGE plpgsql AS
             $$ BEGIN PERFORM trap.caught('format'); RETURN 'x'; END $$;
         CREATE FUNCTION trap.pg_has_role(name, oid, text) RETURNS boolean LANGUAGE plpgsql AS
             $$ BEGIN PERFORM trap.caught('pg_has_role'); RETURN true; END $$;
         CREATE FUNCTION trap.octet_length(bytea) RETURNS int LANGUAGE plpgsql AS
             $$ BEGIN PERFORM trap.caught('octet_length'); RETURN 1; END $$;
         CREATE FUNCTION trap.l2_distance(public.vector, public.vector) RETURNS float8 LANGUAGE plpgsql AS
             $$ BEGIN PERFORM trap.caught('l2_distance'); RETURN 0; END $$;
         CREATE VIEW trap.pg_roles AS SELECT trap.caught('pg_roles'), * FROM pg_catalog.pg_roles;
         CREATE VIEW trap.pg_class AS SELECT trap.caught('pg_class'), * FROM pg_catalog.pg_class;
         CREATE VIEW trap.pg_am AS SELECT trap.caught('pg_am'), * FROM pg_catalog.pg_am;
         CREATE VIEW trap.pg_namespace AS SELECT trap.caught('pg_namespace'), * FROM pg_catalog.pg_namespace",
    );
}

#[test]
fn nothing_in_the_search_path_takes_the_place_of_the_systems_own() {
    let mut db = items("path");
    set_trap(&mut db);
    let mut session = db.session();
    session.run("SET search_path = trap, pg_catalog, public");
    session.run_each(&[
        "SELECT distillvq_train('items', 'embedding', 'n', metric => 'l2', lists => 8)",
        "SELECT distillvq_train('items', 'embedding', 'n', metric => 'l2', lists => 8)",
        "SELECT distillvq_train('one', queries => 'items', query_column => 'embedding')",
        "SELECT distillvq_import_model('o', distillvq_export_model('n'))",
        "SELECT distillvq_import_model('o', distillvq_export_model('n'), replace => true)",
        "CREATE INDEX two ON items USING distillvq (embedding) WITH (model = n)",
        "SELECT distillvq_check('two', heap => true)",
        "SELECT distillvq_recall('two', queries => 'items', query_column => 'embedding')",
        "SELECT distillvq_recall('two')",
        "SELECT distillvq_index_info('two')",
        "SELECT * FROM distillvq_indexes",
        "SELECT distillvq_prewarm('two')",
        "SELECT * FROM distillvq_progress",
        "INSERT INTO items SELECT -id, embedding FROM items LIMIT 5",
        "REINDEX INDEX two",
        "VACUUM items",
        "SELECT distillvq_drop_model('o')",
        "SET enable_seqscan = off",
        "SELECT id FROM items ORDER BY embedding <-> '[1,2,3,4,5,6,7,8]' LIMIT 5",
        "SELECT * FROM distillvq_models",
        "CREATE TABLE parts (id bigint, embedding public.vector(8)) PARTITION BY RANGE (id)",
        "CREATE INDEX above ON parts USING distillvq (embedding)",
        "CREATE TABLE part PARTITION OF parts DEFAULT",
    ]);
    let refusal = session.refusal("SELECT distillvq_train('above')");
    assert!(refusal.hint.contains("part_embedding_idx"), "{refusal:?}");
    assert_eq!(
        session.refusal("SELECT distillvq_drop_model('n')").state,
        "2BP01"
    );
    assert_eq!(
        session
            .refusal("SELECT distillvq_train('one', loss => 'x')")
            .state,
        "22023"
    );
    let caught: Vec<String> = db.column("SELECT DISTINCT what || ' as ' || who FROM trap.caught");
    assert_eq!(caught, [""; 0]);
    // The trap works.
    session.run("SELECT now(), 'a'::text = 'b'::text");
    assert_eq!(db.one::<i64>("SELECT count(*) FROM trap.caught"), 2);
}

#[test]
fn no_function_runs_with_other_rights_than_its_callers() {
    let mut db = items("definers");
    let functions = "SELECT proname::text FROM pg_proc p JOIN pg_depend d ON d.objid = p.oid AND d.classid = 'pg_proc'::regclass
                     JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'distillvq'";
    let all: Vec<String> = db.column(functions);
    assert!(all.len() >= 9, "{all:?}");
    let definers: Vec<String> = db.column(&format!("{functions} WHERE prosecdef"));
    assert_eq!(definers, [""; 0]);
    // Each one is called by somebody without any right.
    let mut nobody = db.session_of("nobody_at_all");
    for (statement, state) in [
        ("SELECT distillvq_train('items', 'embedding')", "42501"),
        ("SELECT distillvq_train('one')", "42501"),
        ("SELECT distillvq_export_model('m')", "42501"),
        ("SELECT distillvq_import_model('m', '', true)", "42501"),
        ("SELECT distillvq_drop_model('m')", "42501"),
        ("SELECT distillvq_check('one')", "42501"),
        ("SELECT distillvq_recall('one')", "42501"),
        ("SELECT distillvq_index_info('one')", "42501"),
        ("SELECT distillvq_prewarm('one')", "42501"),
    ] {
        let refusal = nobody.refusal(statement);
        assert_eq!(refusal.state, state, "{statement}: {refusal:?}");
    }
}
