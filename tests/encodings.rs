//! Databases whose encoding is not UTF-8, with names that are not ASCII.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{Database, Sql, all_found, table};
use distillvq_harness::{Metric, Vectors};

/// Encodings, and names with characters of theirs.
const ENCODINGS: [(&str, &str); 7] = [
    ("LATIN1", "Bücher é"),
    ("LATIN9", "Œuvre 5 €"),
    ("EUC_JP", "表の\"名前"),
    ("EUC_KR", "한국 표"),
    ("WIN1251", "Таблица"),
    ("SQL_ASCII", "Bücher ☃"),
    ("UTF8", "Bücher ☃ 𝕏"),
];

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A database of this encoding where a schema, a table of 1,100 vectors, their column, an index, a log, and a model have one
/// name.
fn named(encoding: &str, name: &str, suffix: &str) -> Database {
    let database = format!("{}_{suffix}", encoding.to_lowercase());
    let mut db = Database::of_encoding(&database, encoding);
    let vectors = Vectors::clustered(1_100, 8, 10, 2);
    table(&mut db, "plain", "vector", &vectors);
    let (n, index, log) = (
        quoted(name),
        quoted(&format!("{name} i")),
        quoted(&format!("{name} l")),
    );
    db.run(&format!(
        "CREATE SCHEMA {n}; CREATE TABLE {n}.{n} (id bigint, {n} vector(8)); INSERT INTO {n}.{n} SELECT * FROM plain;
         CREATE TABLE {n}.{log} (q vector(8)); INSERT INTO {n}.{log} SELECT embedding FROM plain LIMIT 300;
         SELECT distillvq_train('{n}.{n}', '{name}', model => '{name}', metric => 'l2', lists => 8,
                                queries => '{n}.{log}', query_column => 'q');
         CREATE INDEX {index} ON {n}.{n} USING distillvq ({n}) WITH (model = {n})"
    ));
    db
}

#[test]
fn names_come_through_whole() {
    for (encoding, name) in ENCODINGS {
        let mut db = named(encoding, name, "whole");
        let (n, index, log) = (
            quoted(name),
            quoted(&format!("{name} i")),
            quoted(&format!("{name} l")),
        );
        let whole = format!("{n}.{index}");
        assert_eq!(
            db.column::<String>("SELECT name FROM distillvq_models"),
            [name]
        );
        assert_eq!(
            db.one::<String>(&format!(
                "SELECT model FROM distillvq_train('{n}.{n}', '{name}', lists => 8)"
            )),
            format!("{name}_{name}")
        );
        assert_eq!(
            db.one::<String>(&format!(
                "SELECT model FROM distillvq_index_info('{whole}')"
            )),
            name
        );
        for call in [
            format!("distillvq_train('{whole}')"),
            format!("distillvq_train('{whole}', queries => '{n}.{log}', query_column => 'q')"),
            format!("distillvq_calibrate('{whole}', queries => '{n}.{log}')"),
            format!("distillvq_calibrate('{whole}')"),
            format!("distillvq_check('{whole}', heap => true)"),
            format!("distillvq_recall('{whole}', queries => '{n}.{log}')"),
            format!("distillvq_prewarm('{whole}')"),
            format!("distillvq_import_model('{name} 2', distillvq_export_model('{name}'))"),
            format!("distillvq_drop_model('{name} 2')"),
        ] {
            db.run(&format!("SELECT * FROM {call}"));
        }
        db.run(&format!(
            "REINDEX INDEX {whole}; INSERT INTO {n}.{n} SELECT id + 5000, {n} FROM {n}.{n} LIMIT 20;
             CREATE TABLE again AS SELECT id, {n} AS embedding FROM {n}.{n};
             CREATE INDEX ON again USING distillvq (embedding) WITH (model = {n})"
        ));
        all_found(&mut db, "again", Metric::L2, &[0.0; 8]);
        // What messages and advice name can be used.
        let refusal = db.refusal(&format!("SELECT distillvq_drop_model('{name}')"));
        assert_eq!(refusal.state, "2BP01", "{encoding}: {refusal:?}");
        assert!(refusal.message.contains(name), "{encoding}: {refusal:?}");
        let refusal = db.refusal(&format!("SELECT distillvq_train('{n}.{n}', '{name} no')"));
        assert_eq!(refusal.state, "42703", "{encoding}: {refusal:?}");
        assert!(
            refusal.message.contains(&format!("{name} no")) && refusal.message.contains(&n),
            "{encoding}: {refusal:?}"
        );
        let refusal = db.refusal(&format!("SELECT distillvq_train('{n}.{n}')"));
        assert!(refusal.hint.contains(&index), "{encoding}: {refusal:?}");
        db.run(&format!(
            "CREATE TABLE few (v vector(8)); INSERT INTO few SELECT embedding FROM plain LIMIT 5;
             CREATE INDEX {index} ON few USING distillvq (v) WITH (auto_train = off);
             INSERT INTO few SELECT embedding FROM plain"
        ));
        let advice: String = db.one(&format!(
            "SELECT advice FROM distillvq_indexes WHERE \"index\" = '{index}'::regclass"
        ));
        let reindex = format!("REINDEX INDEX CONCURRENTLY public.{index}");
        assert!(advice.contains(&reindex), "{encoding}: {advice}");
        db.run(&reindex);
        let notices = db.notices(&format!(
            "CREATE TABLE none (v vector(8)); CREATE INDEX {} ON none USING distillvq (v)",
            quoted(&format!("{name} n"))
        ));
        assert!(
            notices.contains(&format!("{name} n")),
            "{encoding}: {notices}"
        );
        let option = db.refusal(&format!(
            "CREATE INDEX ON few USING distillvq (v) WITH (refine = '{name}')"
        ));
        assert!(option.message.contains(name), "{encoding}: {option:?}");
        let option = db.refusal(&format!(
            "CREATE INDEX ON few USING distillvq (v) WITH (model = '{name} x')"
        ));
        assert!(
            option.message.contains(&format!("{name} x")),
            "{encoding}: {option:?}"
        );
        // What is said of a model that is missing names it.
        db.run(&format!(
            "SELECT distillvq_drop_model('{name}', force => true)"
        ));
        let problem: String = db.one("SELECT problem FROM distillvq_check('again_embedding_idx')");
        assert!(problem.contains(name), "{encoding}: {problem}");
        let advice: String =
            db.one("SELECT advice FROM distillvq_index_info('again_embedding_idx')");
        assert!(advice.contains(name), "{encoding}: {advice}");
    }
}

#[test]
fn a_damaged_name_leads_to_nobody_elses_functions() {
    for (encoding, name) in ENCODINGS {
        let mut db = named(encoding, name, "spoilt");
        let n = quoted(name);
        let mut mallory = db.session_of("mallory");
        db.run(&format!("GRANT ALL ON SCHEMA {n}, public TO mallory"));
        // The names that come of decoding the bytes as UTF-8 with replacement characters, and as Latin-1.
        mallory.run(&format!(
            "CREATE TABLE public.caught (who text); GRANT ALL ON public.caught TO PUBLIC;
             CREATE FUNCTION public.caught(public.vector) RETURNS public.vector LANGUAGE plpgsql AS $$
             BEGIN INSERT INTO public.caught VALUES (current_user); RETURN $1; END $$;
             CREATE TABLE public.bait AS SELECT 1 AS id, array_fill(1, ARRAY[8])::public.vector(8) AS v
                 FROM generate_series(1, 1500);
             DO $$ DECLARE bytes bytea := convert_to('{name}', getdatabaseencoding()); lost bytea := ''; b int; name text;
             BEGIN
                 FOR i IN 0 .. length(bytes) - 1 LOOP
                     b := get_byte(bytes, i);
                     lost := lost || CASE WHEN b < 128 THEN substr(bytes, i + 1, 1) ELSE '\\xefbfbd'::bytea END;
                 END LOOP;
                 FOREACH name IN ARRAY ARRAY[encode(lost, 'escape'), encode(bytes, 'escape')] LOOP
                     BEGIN
                         EXECUTE format('CREATE VIEW %I.%I AS SELECT id, public.caught(v) AS %I FROM public.bait',
                                        '{name}', name, '{name}');
                     EXCEPTION WHEN others THEN NULL;
                     END;
                 END LOOP;
                 BEGIN
                     name := convert_from(lost, getdatabaseencoding());
                     EXECUTE format('CREATE VIEW %I.%I AS SELECT id, public.caught(v) AS %I, public.caught(v) AS %I FROM public.bait',
                                    '{name}', name, '{name}', name);
                 EXCEPTION WHEN untranslatable_character OR character_not_in_repertoire THEN NULL;
                 END;
             END $$"
        ));
        for call in [
            format!("distillvq_train('{n}.{n}', '{name}', lists => 8)"),
            format!(
                "distillvq_train('plain', 'embedding', lists => 8, queries => '{n}.{n}', query_column => '{name}')"
            ),
            format!("distillvq_train('{n}.{}')", quoted(&format!("{name} i"))),
        ] {
            let rows: i64 = db.one(&format!("SELECT rows FROM {call}"));
            assert_eq!(rows, 1_100, "{encoding}: {call}");
        }
        let caught: Vec<String> = db.column("SELECT DISTINCT who FROM caught");
        assert_eq!(caught, [""; 0], "{encoding}");
    }
}

#[test]
fn errors_of_others_come_through_whole() {
    for (encoding, name) in ENCODINGS {
        let database = format!("{}_told", encoding.to_lowercase());
        let mut db = Database::of_encoding(&database, encoding);
        table(
            &mut db,
            "plain",
            "vector",
            &Vectors::clustered(1_100, 8, 10, 2),
        );
        db.run(&format!(
            "CREATE FUNCTION picky(v vector, OUT same vector) LANGUAGE plpgsql IMMUTABLE AS $$
             BEGIN
                 IF current_setting('test.picky', true) = 'on' THEN
                     RAISE EXCEPTION 'no: {name}' USING HINT = 'try: {name}';
                 END IF;
                 same := v;
             END $$;
             CREATE INDEX picked ON plain USING distillvq ((picky(embedding)::vector(8)));
             SET test.picky = 'on'"
        ));
        for call in [
            "distillvq_train('picked')",
            "distillvq_calibrate('picked')",
            "distillvq_recall('picked')",
            "distillvq_check('picked', heap => true)",
        ] {
            let refusal = db.refusal(&format!("SELECT * FROM {call}"));
            let told = [refusal.message, refusal.hint];
            let expected = [format!("no: {name}"), format!("try: {name}")];
            assert_eq!(told, expected, "{encoding}: {call}");
        }
    }
}

#[test]
fn bytes_that_are_no_characters_are_a_name_too() {
    let mut db = Database::of_encoding("bare_bytes", "SQL_ASCII");
    table(
        &mut db,
        "plain",
        "vector",
        &Vectors::clustered(1_100, 8, 10, 2),
    );
    db.run(
        "DO $$ BEGIN EXECUTE E'CREATE TABLE \"B\\xfccher\" AS TABLE plain'; EXECUTE E'CREATE TABLE \"B\\xef\\xbf\\xbdcher\" AS TABLE plain LIMIT 5';
                EXECUTE E'CREATE INDEX \"\\xff i\" ON \"B\\xfccher\" USING distillvq (embedding)'; END $$",
    );
    let relation = "(SELECT oid::regclass FROM pg_class WHERE relname = E'B\\xfccher'::name)";
    assert_eq!(
        db.one::<i64>(&format!(
            "SELECT rows FROM distillvq_train({relation}, 'embedding')"
        )),
        1_100
    );
    assert!(db.one::<bool>("SELECT name = E'B\\xfccher_embedding' FROM distillvq_models"));
    let index = "(SELECT oid::regclass FROM pg_class WHERE relname = E'\\xff i'::name)";
    db.run(&format!("SELECT rows FROM distillvq_train({index}); SELECT distillvq_drop_model(name) FROM distillvq_models"));
}
