//! Errors have the right SQLSTATE, name the value, and have a hint.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{Sql, items, table};
use distillvq_harness::Vectors;
use postgres::Client;

/// A statement, its SQLSTATE, and words of the message and of the hint.
type Case<'a> = (&'a str, &'a str, &'a [&'a str], &'a [&'a str]);

/// Fails unless every statement is refused as expected, with a hint.
#[track_caller]
fn refused(client: &mut Client, cases: &[Case<'_>]) {
    for &(sql, state, words, hints) in cases {
        let refusal = client.refusal(sql);
        assert_eq!(refusal.state, state, "{sql}: {refusal:?}");
        for word in words {
            assert!(
                refusal.message.contains(word),
                "{word:?} in the message of {sql}: {refusal:?}"
            );
        }
        for word in hints {
            assert!(
                refusal.hint.contains(word),
                "{word:?} in the hint of {sql}: {refusal:?}"
            );
        }
        assert!(!refusal.hint.is_empty(), "{sql}: {refusal:?}");
    }
}

#[test]
fn options_of_an_index() {
    let mut db = items("options");
    let with =
        |option: &str| format!("CREATE INDEX ON items USING distillvq (embedding) WITH ({option})");
    let cases = [
        (
            "list = 10",
            &["\"list\""][..],
            &[
                "lists",
                "subquantizers",
                "bits",
                "assignments",
                "probes",
                "model",
            ][..],
        ),
        ("fillfactor = 50", &["\"fillfactor\""], &["lists"]),
        ("refine = pq", &["\"pq\"", "\"refine\""], &["sq7", "none"]),
        ("lists = -1", &["\"-1\"", "\"lists\""], &["0", "32768"]),
        ("lists = 32769", &["\"32769\"", "\"lists\""], &["32768"]),
        ("lists = 99999999999", &["99999999999"], &["32768"]),
        ("lists = many", &["\"many\"", "\"lists\""], &["32768"]),
        ("lists = 1.5", &["\"1.5\"", "\"lists\""], &["32768"]),
        ("lists", &["\"true\"", "\"lists\""], &["32768"]),
        (
            "subquantizers = 479",
            &["\"479\"", "\"subquantizers\""],
            &["478"],
        ),
        (
            "subquantizers = 9",
            &["9", "subquantizers"],
            &["subquantizers"],
        ),
        (
            "subquantizers = -2",
            &["\"-2\"", "\"subquantizers\""],
            &["478"],
        ),
        ("bits = 5", &["5", "\"bits\""], &["4", "8"]),
        ("bits = 16", &["16", "\"bits\""], &["8"]),
        ("assignments = 3", &["\"3\"", "\"assignments\""], &["2"]),
        ("probes = -1", &["\"-1\"", "\"probes\""], &["32768"]),
        ("probes = 40000", &["\"40000\"", "\"probes\""], &["32768"]),
    ];
    for (option, words, hints) in cases {
        refused(&mut db, &[(&with(option), "22023", words, hints)]);
    }
    db.run("CREATE INDEX one ON items USING distillvq (embedding)");
    refused(
        &mut db,
        &[
            (
                "ALTER INDEX one SET (probes = -1)",
                "22023",
                &["\"-1\"", "probes"],
                &["32768"],
            ),
            (
                "ALTER INDEX one SET (probe = 1)",
                "22023",
                &["\"probe\""],
                &["probes"],
            ),
            (
                "ALTER INDEX one SET (bits = 3)",
                "22023",
                &["3", "bits"],
                &["4"],
            ),
        ],
    );
    assert_eq!(db.one::<i64>("SELECT count(*) FROM pg_class WHERE relkind = 'i' AND relnamespace = 'public'::regnamespace"), 1);
}

#[test]
fn more_lists_than_rows_are_as_many_as_rows() {
    let mut db = items("lists");
    db.run("SELECT distillvq_train('items', 'embedding', lists => 32768)");
    assert_eq!(db.one::<i32>("SELECT lists FROM distillvq_models"), 1_200);
}

#[test]
fn settings() {
    let mut db = items("settings");
    for (value, state) in [("-1", "22023"), ("32769", "22023"), ("'few'", "22023")] {
        assert_eq!(
            db.refusal(&format!("SET distillvq.probes = {value}")).state,
            state,
            "{value}"
        );
    }
    assert_eq!(db.one::<String>("SHOW distillvq.probes"), "0");
    let refusal = db.refusal("SET distillvq.probe = 3"); // the prefix is reserved: a slip of the pen is no setting
    assert_eq!(refusal.state, "42602", "{refusal:?}");
}

#[test]
fn models() {
    let mut db = items("models");
    db.run("SELECT distillvq_train('items', 'embedding', 'eight', metric => 'l2', lists => 5, subquantizers => 4, bits => 8)");
    table(&mut db, "wide", "vector", &Vectors::clustered(10, 9, 1, 1));
    let with = |options: &str| {
        format!("CREATE INDEX ON items USING distillvq (embedding) WITH ({options})")
    };
    refused(
        &mut db,
        &[
            (
                &with("model = none"),
                "42704",
                &["\"none\""],
                &["distillvq_models", "distillvq_train"],
            ),
            (
                "CREATE INDEX ON wide USING distillvq (embedding) WITH (model = eight)",
                "22023",
                &["\"eight\"", "8", "9"],
                &["distillvq_train"],
            ),
            (
                "CREATE INDEX ON items USING distillvq (embedding vector_cosine_ops) WITH (model = eight)",
                "22023",
                &["\"eight\"", "l2", "cosine"],
                &["distillvq_train", "metric"],
            ),
            (
                &with("model = eight, lists = 6"),
                "22023",
                &["lists", "6", "5", "\"eight\""],
                &["lists"],
            ),
            (
                &with("model = eight, subquantizers = 8"),
                "22023",
                &["subquantizers", "8", "4"],
                &["subquantizers"],
            ),
            (
                &with("model = eight, bits = 4"),
                "22023",
                &["bits", "4", "8"],
                &["bits"],
            ),
        ],
    );
    db.run("CREATE INDEX ON items USING distillvq (embedding) WITH (model = eight, lists = 5, subquantizers = 4, bits = 8)");
}

#[test]
fn columns() {
    let mut db = items("columns");
    db.run(
        "CREATE TABLE other (free vector, half halfvec, sparse sparsevec(4), number int, list real[], bits bit(8), wide halfvec(4));
         CREATE VIEW seen AS TABLE items",
    );
    refused(
        &mut db,
        &[
            (
                "CREATE INDEX ON other USING distillvq (free)",
                "22023",
                &["dimensions"],
                &["vector("],
            ),
            (
                "CREATE INDEX ON other USING distillvq (half halfvec_l2_ops)",
                "22023",
                &["dimensions"],
                &["vector("],
            ),
            (
                "CREATE INDEX ON other USING distillvq (number)",
                "42804",
                &["integer", "first column"],
                &["vector column first"],
            ),
            (
                "CREATE INDEX ON other USING distillvq (sparse)",
                "42704",
                &["sparsevec", "distillvq"],
                &["operator class"],
            ),
        ],
    );
    for sql in [
        "CREATE INDEX ON other USING distillvq (free, half)",
        "CREATE UNIQUE INDEX ON items USING distillvq (embedding)",
        "CREATE INDEX ON items USING distillvq (embedding) INCLUDE (id)",
        "CREATE INDEX ON items USING distillvq (embedding DESC)",
        "ALTER TABLE items ADD EXCLUDE USING distillvq (embedding WITH <->)",
    ] {
        let refusal = db.refusal(sql);
        assert!(
            ["0A000", "42809", "42804"].contains(&refusal.state.as_str()),
            "{sql}: {refusal:?}"
        );
    }
    assert_eq!(
        db.refusal("CREATE INDEX ON items USING distillvq (embedding halfvec_l2_ops)")
            .state,
        "42804"
    );
    assert_eq!(
        db.refusal("CREATE INDEX ON seen USING distillvq (embedding)")
            .state,
        "42809"
    );
}

#[test]
fn parameters_of_a_training() {
    let mut db = items("parameters");
    let train =
        |arguments: &str| format!("SELECT distillvq_train('items', 'embedding', {arguments})");
    refused(
        &mut db,
        &[
            (
                &train("metric => 'euclid'"),
                "22023",
                &["\"euclid\""],
                &["l2", "ip", "cosine"],
            ),
            (
                &train("metric => ''"),
                "22023",
                &["\"\""],
                &["l2", "ip", "cosine"],
            ),
            (
                &train("lists => -1"),
                "22023",
                &["\"-1\"", "lists"],
                &["32768"],
            ),
            (
                &train("lists => 32769"),
                "22023",
                &["\"32769\"", "lists"],
                &["32768"],
            ),
            (
                &train("subquantizers => 479"),
                "22023",
                &["\"479\"", "subquantizers"],
                &["478"],
            ),
            (
                &train("subquantizers => 240, bits => 8"),
                "22023",
                &["\"240\"", "subquantizers"],
                &["239"],
            ),
            (
                &train("subquantizers => 9"),
                "22023",
                &["9", "subquantizers"],
                &["subquantizers"],
            ),
            (&train("bits => 5"), "22023", &["5", "bits"], &["4", "8"]),
            (
                &train("query_column => 'embedding'"),
                "22023",
                &["queries", "query_column"],
                &["queries"],
            ),
            (
                &train("queries => 'items', query_column => 'embed'"),
                "42703",
                &["\"embed\"", "items"],
                &["column"],
            ),
            (
                &train("queries => 'items', query_column => 'id'"),
                "42804",
                &["\"id\"", "items", "bigint"],
                &["vector"],
            ),
        ],
    );
    assert_eq!(db.one::<i64>("SELECT count(*) FROM distillvq_models"), 0);
}

#[test]
fn sources_of_a_training() {
    let mut db = items("sources");
    db.run(
        "CREATE TABLE empty (embedding vector(8)); CREATE TABLE nulls (embedding vector(8)); INSERT INTO nulls VALUES (NULL);
         CREATE TABLE free (embedding vector); CREATE TABLE few AS SELECT * FROM items WHERE id < 999;
         CREATE TABLE zeros AS SELECT array_fill(0, ARRAY[8])::vector(8) AS embedding FROM generate_series(1, 2000);
         CREATE TABLE lists (embedding real[])",
    );
    refused(
        &mut db,
        &[
            (
                "SELECT distillvq_train('empty', 'embedding')",
                "55000",
                &["empty", "0", "1000"],
                &["table"],
            ),
            (
                "SELECT distillvq_train('nulls', 'embedding')",
                "55000",
                &["nulls", "1000"],
                &["table"],
            ),
            (
                "SELECT distillvq_train('free', 'embedding')",
                "55000",
                &["free", "1000"],
                &["table"],
            ),
            (
                "SELECT distillvq_train('few', 'embedding')",
                "55000",
                &["few", "999", "1000"],
                &["table"],
            ),
            (
                "SELECT distillvq_train('zeros', 'embedding')",
                "55000",
                &["zeros", "0 of 2000", "1000"],
                &["table"],
            ),
            (
                "SELECT distillvq_train('items', 'embed')",
                "42703",
                &["\"embed\"", "items"],
                &["column"],
            ),
            (
                "SELECT distillvq_train('items', 'ctid')",
                "42703",
                &["\"ctid\"", "items"],
                &["column"],
            ),
            (
                "SELECT distillvq_train('items', '')",
                "42703",
                &["\"\"", "items"],
                &["column"],
            ),
            (
                "SELECT distillvq_train('items', 'id')",
                "42804",
                &["\"id\"", "items"],
                &["vector", "halfvec"],
            ),
            (
                "SELECT distillvq_train('lists', 'embedding')",
                "42804",
                &["embedding", "lists"],
                &["vector"],
            ),
        ],
    );
    assert_eq!(
        db.refusal("SELECT distillvq_train('missing', 'embedding')")
            .state,
        "42P01"
    );
    db.run("ALTER TABLE items DROP COLUMN id");
    assert_eq!(
        db.refusal("SELECT distillvq_train('items', 'id')").state,
        "42703"
    );
    let unknown = db.refusal("SELECT distillvq_train(1::oid::regclass, 'embedding')");
    assert!(
        ["42703", "42P01"].contains(&unknown.state.as_str()),
        "{unknown:?}"
    );
    let index = "CREATE INDEX one ON items USING distillvq (embedding); SELECT distillvq_train('one', 'embedding')";
    assert_eq!(db.refusal(index).state, "42809");
    // Nothing is done in silence: where a job names what is not there any more, it is to fail.
    for call in [
        "distillvq_train(NULL, 'embedding')",
        "distillvq_train('items', NULL::name)",
        "distillvq_train(NULL::regclass)",
        "distillvq_calibrate(NULL)",
    ] {
        let refusal = db.refusal(&format!("SELECT {call}"));
        assert_eq!(refusal.state, "22004", "{call}: {refusal:?}");
        assert!(!refusal.hint.is_empty(), "{call}: {refusal:?}");
    }
}

#[test]
fn relations_that_functions_do_not_take() {
    let mut db = items("relations");
    db.run(
        "CREATE INDEX tree ON items (id);
         CREATE VIEW seen AS SELECT * FROM items;
         CREATE TABLE parts (id bigint, embedding vector(8)) PARTITION BY RANGE (id);
         CREATE TABLE part PARTITION OF parts DEFAULT;
         CREATE INDEX above ON parts USING distillvq (embedding)",
    );
    let functions = [
        ("train", "another access method", "'items', 'embedding'"),
        ("check", "another access method", "distillvq_check("),
        ("recall", "", "Specify an index"),
    ];
    for (function, other_index, hint_for_table) in functions {
        let call = |argument: &str| format!("SELECT distillvq_{function}({argument})");
        let [table, index, view, above] = ["'items'", "'tree'", "'seen'", "'above'"].map(&call);
        let (number, null) = (call("999999::regclass"), call("NULL::regclass"));
        refused(
            &mut db,
            &[
                (
                    &table,
                    "42809",
                    &["\"items\" is a table"],
                    &[hint_for_table],
                ),
                (&index, "42809", &[other_index], &[]),
                (&view, "42809", &["\"seen\" is neither"], &["index"]),
                (&above, "42809", &["partitioned"], &["part_embedding_idx"]),
                (&number, "42809", &["no relation"], &["index"]),
                (&null, "22004", &[], &["index"]),
            ],
        );
    }
}

#[test]
fn vectors_of_other_dimensions() {
    let mut db = items("dimensions");
    db.run(
        "CREATE INDEX ON items USING distillvq (embedding);
         CREATE INDEX ON items USING distillvq ((embedding::halfvec(8)) halfvec_cosine_ops);
         SET enable_seqscan = off",
    );
    let insert = db.refusal("INSERT INTO items VALUES (1, '[1,2,3]')");
    assert_eq!(insert.state, "22000", "{insert:?}");
    refused(
        &mut db,
        &[
            (
                "SELECT id FROM items ORDER BY embedding <-> '[1,2,3]' LIMIT 1",
                "22000",
                &["different vector dimensions 8 and 3"],
                &["8"],
            ),
            (
                "SELECT id FROM items ORDER BY embedding::halfvec(8) <=> '[1,2,3]' LIMIT 1",
                "22000",
                &["different vector dimensions 8 and 3"],
                &["8"],
            ),
        ],
    );
    // A typmod says what a cast lets through; a lie in an expression does not reach the index.
    db.run("CREATE FUNCTION lie(vector) RETURNS vector IMMUTABLE LANGUAGE sql AS 'SELECT $1'");
    assert_eq!(
        db.refusal("CREATE INDEX ON items USING distillvq (lie(embedding))")
            .state,
        "22023"
    );
}

#[test]
fn what_a_hint_says_works_as_it_stands() {
    let mut db = items("literal");
    db.run(
        "CREATE SCHEMA \"My schema\";
         CREATE TABLE \"My schema\".few (embedding vector(8));
         CREATE INDEX \"The index\" ON \"My schema\".few USING distillvq (embedding)",
    );
    let untrained = db.refusal("SELECT distillvq_train('\"My schema\".\"The index\"')");
    assert_eq!(untrained.state, "55000", "{untrained:?}");
    let statement = untrained.hint.find("REINDEX").unwrap();
    let (reindex, _) = untrained.hint[statement..].split_once(" to train").unwrap();
    db.run(reindex);
    // The operator class decides the metric; it is forgotten more often than the metric is meant.
    db.run("SELECT distillvq_train('items', 'embedding', 'by_angle', metric => 'cosine')");
    for (element, column) in [
        ("vector", "embedding"),
        ("halfvec", "(embedding::halfvec(8))"),
    ] {
        let create = |class: &str| {
            format!(
                "CREATE INDEX ON items USING distillvq ({column} {class}) WITH (model = by_angle)"
            )
        };
        let refusal = db.refusal(&create(""));
        assert_eq!(refusal.state, "22023", "{refusal:?}");
        let class = format!("{element}_cosine_ops");
        assert!(
            refusal.hint.contains(&format!("operator class {class}")),
            "{refusal:?}"
        );
        assert!(refusal.hint.contains("metric => 'l2'"), "{refusal:?}");
        db.run(&create(&class));
    }
}

#[test]
fn a_training_that_cannot_be_stored_does_not_begin() {
    let mut db = items("stored");
    // No row is read: that would be an error.
    db.run("CREATE VIEW costly AS SELECT (1 / (id - id))::text::vector(8) AS embedding FROM items");
    for name in ["''", "repeat('m', 256)", "repeat('é', 128)"] {
        let refusal = db.refusal(&format!(
            "SELECT distillvq_train('costly', 'embedding', {name})"
        ));
        assert_eq!(refusal.state, "22023", "{name}: {refusal:?}");
        assert!(refusal.hint.contains("1 to 255 bytes"), "{refusal:?}");
    }
    db.run("SELECT distillvq_train('items', 'embedding', repeat('m', 255))");
    let copy =
        "SELECT distillvq_import_model(repeat('n', 256), distillvq_export_model(repeat('m', 255)))";
    assert_eq!(db.refusal(copy).state, "22023");
    let read_only =
        db.refusal("BEGIN READ ONLY; SELECT distillvq_train('costly', 'embedding', 'm')");
    assert_eq!(read_only.state, "25006", "{read_only:?}");
}

#[test]
fn the_hint_about_a_table_names_its_indexes() {
    let mut db = items("indexes_of");
    db.run(
        "CREATE SCHEMA \"s p\"; CREATE TABLE \"s p\".bare (embedding vector(8)); CREATE INDEX tree ON items (id);
         CREATE INDEX one ON items USING distillvq (embedding);
         CREATE INDEX two ON items USING distillvq (embedding vector_cosine_ops);
         CREATE TABLE \"s p\".parts (id bigint, embedding vector(8)) PARTITION BY LIST (id);
         CREATE TABLE \"s p\".first PARTITION OF \"s p\".parts FOR VALUES IN (1) PARTITION BY LIST (id);
         CREATE TABLE \"s p\".leaf PARTITION OF \"s p\".first DEFAULT;
         CREATE INDEX above ON \"s p\".parts USING distillvq (embedding)",
    );
    for function in [
        "recall",
        "index_info",
        "prewarm",
        "calibrate",
        "check",
        "train",
    ] {
        let mut hint = |relation: &str| {
            let refusal = db.refusal(&format!("SELECT distillvq_{function}('{relation}')"));
            assert_eq!(refusal.state, "42809", "{refusal:?}");
            refusal.hint
        };
        let of_items = hint("items");
        let example = format!("as in distillvq_{function}('public.one')");
        assert!(of_items.contains(&example), "{of_items}");
        assert!(
            of_items.ends_with("Indexes of the table: public.one, public.two."),
            "{of_items}"
        );
        let of_parts = hint("\"s p\".parts");
        assert!(
            of_parts.ends_with("Indexes of the table: \"s p\".leaf_embedding_idx."),
            "{of_parts}"
        );
        let of_bare = hint("\"s p\".bare");
        assert!(
            of_bare.contains("('items_embedding_idx')") && !of_bare.contains("Indexes of"),
            "{of_bare}"
        );
    }
}

#[test]
fn an_empty_log_of_queries_is_an_error() {
    // As an unlogged table is after a crash: a weekly job must not forget by it what queries have taught.
    let mut db = items("no_queries");
    db.run(
        "CREATE INDEX one ON items USING distillvq (embedding);
         CREATE TABLE log (embedding vector(8)); INSERT INTO log VALUES (NULL)",
    );
    let queries = "queries => 'log', query_column => 'embedding'";
    for call in [
        "train('items', 'embedding'",
        "train('one'",
        "calibrate('one'",
    ] {
        let refusal = db.refusal(&format!("SELECT distillvq_{call}, {queries})"));
        assert_eq!(refusal.state, "55000", "{call}: {refusal:?}");
        assert!(refusal.message.contains("log"), "{call}: {refusal:?}");
        assert!(refusal.hint.contains("\"queries\""), "{call}: {refusal:?}");
    }
}

#[test]
fn a_parameter_of_a_function_is_not_called_one_of_an_index() {
    let mut db = items("function_parameter");
    db.run("CREATE INDEX one ON items USING distillvq (embedding)");
    let refusal = db.refusal("SELECT distillvq_recall('one', k => 10001)");
    assert_eq!(
        refusal.message,
        "value \"10001\" is out of range for parameter \"k\""
    );
    // Whoever may not drop a model is not told to name a parameter of another function.
    db.run("SELECT distillvq_train('items', 'embedding', 'm')");
    let mut guest = db.session_of("guest_of_models");
    let refusal = guest.refusal("SELECT distillvq_drop_model('m')");
    assert_eq!(refusal.state, "42501", "{refusal:?}");
    assert!(!refusal.hint.contains("parameter"), "{refusal:?}");
}

/// What a server tells of an error beside its message: SQLSTATE, detail, hint, context.
fn told(client: &mut Client, sql: &str) -> [String; 4] {
    let error = client.batch_execute(sql).unwrap_err();
    let error = error.as_db_error().unwrap();
    let text = |part: Option<&str>| part.unwrap_or_default().to_owned();
    [
        error.code().code().to_owned(),
        text(error.detail()),
        text(error.hint()),
        text(error.where_()),
    ]
}

/// A function for an index's definition, which fails while a setting is on.
const PICKY: &str = "CREATE FUNCTION picky(v vector, OUT same vector) LANGUAGE plpgsql IMMUTABLE AS $$
    BEGIN
        IF current_setting('test.picky', true) = 'on' THEN
            RAISE EXCEPTION 'no such vector' USING ERRCODE = 'P0042', DETAIL = 'a detail', HINT = 'a hint';
        END IF;
        same := v;
    END $$";

#[test]
fn errors_of_an_expression_stay_what_they_are() {
    let mut db = items("expression");
    db.run(PICKY);
    let create = |method: &str, class: &str| {
        format!(
            "CREATE INDEX {method} ON items USING {method} ((picky(embedding)::vector(8)) {class})"
        )
    };
    db.run("SET test.picky = 'on'");
    let expected = told(&mut db, &create("hnsw", "vector_l2_ops"));
    let parts = [&expected[0], &expected[1], &expected[2]];
    assert_eq!(parts, ["P0042", "a detail", "a hint"]);
    assert!(expected[3].contains("PL/pgSQL function"), "{}", expected[3]);
    assert_eq!(told(&mut db, &create("distillvq", "")), expected);
    // The function is met by the pass over the table as well as by the sample.
    db.run("SELECT distillvq_train('items', 'embedding', 'named', metric => 'l2')");
    let with_model = format!("{} WITH (model = named)", create("distillvq", ""));
    assert_eq!(told(&mut db, &with_model), expected);
    db.run(&format!(
        "SET test.picky = 'off'; {}; SET test.picky = 'on'",
        create("distillvq", "")
    ));
    assert_eq!(told(&mut db, "REINDEX INDEX distillvq"), expected);
    let search =
        "SELECT id FROM items ORDER BY picky(embedding)::vector(8) <-> '[1,1,1,1,1,1,1,1]' LIMIT 3";
    db.run("SET enable_seqscan = off");
    let [state, .., context] = told(&mut db, search);
    assert_eq!(state, "P0042");
    assert!(context.contains("PL/pgSQL function"), "{context}");
    // With the context of what surrounds the statement, once.
    let around = format!("DO $$ DECLARE nearest bigint; BEGIN {search} INTO nearest; END $$");
    let [state, .., context] = told(&mut db, &around);
    assert_eq!(state, "P0042");
    let blocks = context.matches("inline_code_block").count();
    assert_eq!(blocks, 1, "{context}");
    db.run("SET test.picky = 'off'");
}

#[test]
fn errors_under_an_sql_function_stay_what_they_are() {
    let mut db = items("functions");
    db.run(&format!(
        "{PICKY};
         CREATE INDEX picked ON items USING distillvq ((picky(embedding)::vector(8)));
         CREATE VIEW log AS SELECT picky(embedding)::vector(8) AS q FROM items"
    ));
    let calls = [
        "distillvq_train('items', 'embedding', queries => 'log')",
        "distillvq_train('picked')",
        "distillvq_calibrate('picked')",
        "distillvq_calibrate('picked', queries => 'log')",
        "distillvq_recall('picked')",
        "distillvq_recall('picked', queries => 'log')",
        "distillvq_check('picked', heap => true)",
    ];
    for call in calls {
        let sql = format!("SELECT * FROM {call}");
        db.run("SET test.picky = 'on'");
        let [state, detail, hint, context] = told(&mut db, &sql);
        assert_eq!(
            [&*state, &*detail, &*hint],
            ["P0042", "a detail", "a hint"],
            "{call}"
        );
        let within = context.matches("PL/pgSQL function picky").count();
        assert_eq!(within, 1, "{call}: {context}");
        // Caught, it leaves nothing behind that the next call meets.
        let caught =
            format!("BEGIN PERFORM * FROM {call}; EXCEPTION WHEN SQLSTATE 'P0042' THEN NULL; END");
        db.run(&format!("DO $$ BEGIN FOR i IN 1 .. 3 LOOP {caught}; END LOOP; END $$; SET test.picky = 'off'; {sql}"));
    }
}
