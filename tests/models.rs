//! Models: export, import, drop, and use by several indexes.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{ALL, Database, Found, Sql, all_found, by_index, literal, mean_recall, search, table};
use distillvq_harness::{Metric, Vectors};
use postgres::Client;

/// A database with a table `items` of 2,000 vectors and a model `m` of it, and queries.
fn items(name: &str) -> (Database, Vectors) {
    let mut db = Database::new(name);
    let all = Vectors::clustered(2_020, 16, 1, 11);
    table(&mut db, "items", "vector", &all.slice(0..2_000));
    db.run("SELECT distillvq_train('items', 'embedding', 'm', metric => 'l2')");
    (db, all.slice(2_000..2_020))
}

fn export(client: &mut Client, name: &str) -> Vec<u8> {
    client.one(&format!("SELECT distillvq_export_model('{name}')"))
}

/// Imports and gives the SQLSTATE of a refusal, with its message and hint.
fn import(client: &mut Client, name: &str, body: &[u8]) -> Result<(), (String, String)> {
    let outcome = client.execute("SELECT distillvq_import_model($1, $2)", &[&name, &body]);
    outcome.map(|_| ()).map_err(|error| {
        let db = error.as_db_error().unwrap();
        assert!(!db.hint().unwrap_or_default().is_empty(), "{db:?}");
        (db.code().code().to_owned(), db.message().to_owned())
    })
}

fn answers(client: &mut Client, queries: &Vectors) -> Vec<Found> {
    client.run("SET distillvq.probes = 4");
    let of = |query| by_index(client, &search("items", Metric::L2, query, "LIMIT 20"));
    queries.iter().map(of).collect()
}

#[test]
fn an_imported_model_gives_the_same_answers() {
    let (mut db, queries) = items("export");
    db.run("CREATE INDEX one ON items USING distillvq (embedding) WITH (model = m)");
    let expected = answers(&mut db, &queries);
    let body = export(&mut db, "m");
    let mut other = Database::new("import");
    let all = Vectors::clustered(2_020, 16, 1, 11);
    table(&mut other, "items", "vector", &all.slice(0..2_000));
    import(&mut other, "a model of another name", &body).unwrap();
    let listed = "SELECT concat_ws('|', owner, metric, dimensions, lists, subquantizers, bits, rows, logged_queries,
                         code_recall_before, code_recall_after, bytes) FROM distillvq_models";
    assert_eq!(other.one::<String>(listed), db.one::<String>(listed));
    assert_eq!(export(&mut other, "a model of another name"), body);
    other.run("CREATE INDEX one ON items USING distillvq (embedding) WITH (model = 'a model of another name')");
    assert!(answers(&mut other, &queries) == expected);
}

#[test]
fn a_name_is_taken_over_on_demand_alone() {
    let (mut db, _) = items("replace");
    let body = export(&mut db, "m");
    let (state, message) = import(&mut db, "m", &body).unwrap_err();
    assert_eq!(
        (state.as_str(), message.contains("already exists")),
        ("42710", true)
    );
    db.execute(
        "SELECT distillvq_import_model('m', $1, replace => true)",
        &[&body],
    )
    .unwrap();
    let (state, _) = import(&mut db, "", &body).unwrap_err();
    assert_eq!(state, "22023");
    assert_eq!(db.one::<i64>("SELECT count(*) FROM distillvq_models"), 1);
    for call in [
        "import_model(NULL, '')",
        "import_model('n', NULL)",
        "export_model(NULL)",
        "drop_model(NULL)",
    ] {
        let refusal = db.refusal(&format!("SELECT distillvq_{call}"));
        assert_eq!(refusal.state, "22004", "{call}: {refusal:?}");
    }
}

#[test]
fn bytes_that_are_no_model_are_refused() {
    let (mut db, _) = items("hostile");
    let body = export(&mut db, "m");
    let mut refused = |bytes: &[u8]| {
        let (state, message) = import(&mut db, "new", bytes).unwrap_err();
        assert!(
            message.starts_with("cannot import model \"new\""),
            "{message}"
        );
        state
    };
    // The model's own tests damage every part of it.
    assert_eq!(refused(&body[..body.len() - 1]), "22P03");
    let mut newer = body.clone();
    newer[8] = 9;
    assert_eq!(refused(&newer), "0A000");
    assert_eq!(db.one::<i64>("SELECT count(*) FROM distillvq_models"), 1);
}

#[test]
fn a_model_in_use_is_dropped_by_force_alone() {
    let (mut db, queries) = items("drop");
    db.run(
        "CREATE SCHEMA s; CREATE TABLE s.items AS SELECT * FROM items;
         CREATE INDEX one ON items USING distillvq (embedding) WITH (model = m);
         CREATE INDEX \"Two\" ON s.items USING distillvq (embedding) WITH (model = 'm');
         CREATE INDEX three ON items USING distillvq (embedding)",
    );
    let refusal = db.refusal("SELECT distillvq_drop_model('m')");
    assert_eq!(refusal.state, "2BP01", "{refusal:?}");
    assert!(refusal.hint.contains("force"), "{refusal:?}");
    let error = db
        .batch_execute("SELECT distillvq_drop_model('m')")
        .unwrap_err();
    let detail = error.as_db_error().unwrap().detail().unwrap().to_owned();
    assert!(
        detail.contains("public.one, s.\"Two\"") && !detail.contains("three"),
        "{detail}"
    );
    db.run("DROP INDEX three; SELECT distillvq_drop_model('m', force => true)");
    assert_eq!(db.one::<i64>("SELECT count(*) FROM distillvq_models"), 0);
    let recall = mean_recall(&mut db, "items", Metric::L2, &queries, ALL);
    assert!(recall >= 0.99, "{recall}");
    db.run("INSERT INTO items SELECT id + 5000, embedding FROM items LIMIT 10");
    all_found(&mut db, "items", Metric::L2, queries.row(0));
    db.run("SELECT distillvq_train('one')");
    assert_eq!(db.refusal("REINDEX INDEX one").state, "42704");
    assert_eq!(
        db.refusal("SELECT distillvq_drop_model('m')").state,
        "42704"
    );
    assert_eq!(
        db.refusal("SELECT distillvq_export_model('m')").state,
        "42704"
    );

    db.run("SELECT distillvq_train('items', 'embedding', 'unused'); SELECT distillvq_drop_model('unused')");
    assert_eq!(db.one::<i64>("SELECT count(*) FROM distillvq_models"), 0);
}

#[test]
fn models_are_their_owners() {
    let (mut db, _) = items("model_owner");
    let (mut anna, mut ben) = (db.session_of("anna"), db.session_of("ben"));
    let body = export(&mut db, "m");
    import(&mut anna, "annas", &body).unwrap();
    let owner = "SELECT owner::text FROM distillvq_models WHERE name = 'annas'";
    assert_eq!(db.one::<String>(owner), "anna");
    for statement in [
        "SELECT distillvq_export_model('annas')",
        "SELECT distillvq_drop_model('annas', true)",
        "SELECT distillvq_import_model('annas', '', true)",
        "SELECT distillvq_export_model('m')",
    ] {
        let refusal = ben.refusal(statement);
        assert_eq!(refusal.state, "42501", "{statement}: {refusal:?}");
    }
    assert_eq!(export(&mut anna, "annas"), body);
    // The extension's owner replaces it and leaves it hers.
    db.execute("SELECT distillvq_import_model('annas', $1, true)", &[&body])
        .unwrap();
    assert_eq!(db.one::<String>(owner), "anna");
    db.run("GRANT anna TO ben");
    ben.run("SELECT distillvq_drop_model('annas')");
    assert_eq!(db.one::<i64>("SELECT count(*) FROM distillvq_models"), 1);
}

#[test]
fn one_model_serves_all_partitions() {
    let (mut db, queries) = items("partitions");
    db.run(
        "CREATE TABLE parts (id bigint, embedding vector(16)) PARTITION BY RANGE (id);
         CREATE TABLE p1 PARTITION OF parts FOR VALUES FROM (0) TO (1000);
         CREATE TABLE p2 PARTITION OF parts FOR VALUES FROM (1000) TO (1020);
         INSERT INTO parts SELECT * FROM items WHERE id < 1020;
         CREATE INDEX whole ON parts USING distillvq (embedding) WITH (model = m);
         CREATE TABLE p3 PARTITION OF parts FOR VALUES FROM (1020) TO (2000);
         INSERT INTO parts SELECT * FROM items WHERE id >= 1020",
    );
    for part in ["p1", "p2", "p3"] {
        let recall = mean_recall(&mut db, part, Metric::L2, &queries, ALL);
        assert!(recall >= 0.99, "{part}: {recall}");
        all_found(&mut db, part, Metric::L2, queries.row(0));
    }
    let refusal = db.refusal("SELECT distillvq_drop_model('m')");
    assert_eq!(refusal.state, "2BP01");
    // The index of a partition is trained alone; one with few rows has a model too, but too few rows to go on with.
    let refusal = db.refusal("SELECT distillvq_train('whole')");
    assert!(
        refusal
            .hint
            .contains("p1_embedding_idx, p2_embedding_idx, p3"),
        "{refusal:?}"
    );
    db.run("SELECT distillvq_train('p1_embedding_idx')");
    let refusal = db.refusal("SELECT distillvq_train('p2_embedding_idx')");
    assert_eq!(refusal.state, "55000", "{refusal:?}");
}

/// Pages that a statement looks at.
fn pages(client: &mut Client, sql: &str) -> usize {
    let lines: Vec<String> =
        client.column(&format!("EXPLAIN (ANALYZE, BUFFERS, TIMING OFF) {sql}"));
    let counts = lines
        .iter()
        .filter_map(|line| line.trim().strip_prefix("Buffers: shared "))
        .flat_map(|counts| counts.split(' '))
        .filter(|count| count.starts_with("hit=") || count.starts_with("read="));
    let numbers = counts.filter_map(|count| count.split_once('=')?.1.parse::<usize>().ok());
    numbers.max().unwrap_or_default()
}

/// Pages that the cheapest of many inserts of a row into one partition, then into the other, look at.
fn pages_of_inserts(client: &mut Client, row: &[f32]) -> usize {
    let row = literal(row);
    let two = |i: i32| format!("INSERT INTO items VALUES (0, {row}), (1, {row}) -- {i}");
    (0..4).map(|i| pages(client, &two(i))).min().unwrap()
}

/// A table of two partitions whose indexes have one model of some 100 pages, and a row.
fn partitions(name: &str, models: [&str; 2]) -> (Database, Vec<f32>) {
    let mut db = Database::new(name);
    let vectors = Vectors::clustered(1_200, 128, 30, 1);
    table(&mut db, "rows", "vector", &vectors);
    for model in ["a", "b"] {
        db.run(&format!(
            "SELECT distillvq_train('rows', 'embedding', '{model}', metric => 'l2', lists => 1000, seed => {})",
            model.len() + usize::from(model == "b")
        ));
    }
    db.run("CREATE TABLE items (id bigint, embedding vector(128)) PARTITION BY LIST ((id % 2))");
    for (i, model) in models.iter().enumerate() {
        db.run(&format!(
            "CREATE TABLE items_{i} PARTITION OF items FOR VALUES IN ({i});
             INSERT INTO items_{i} SELECT 2 * id + {i}, embedding FROM rows LIMIT 100;
             CREATE INDEX ON items_{i} USING distillvq (embedding) WITH (model = {model})"
        ));
    }
    (db, vectors.row(7).to_vec())
}

#[test]
fn indexes_of_one_model_share_what_is_decoded() {
    let (db, row) = partitions("shared", ["a", "a"]);
    let mut session = db.session();
    // Room for one encoder, of half a megabyte, not for two.
    session.run("SET distillvq.model_cache = '1500kB'");
    let looked_at = pages_of_inserts(&mut session, &row);
    assert!(looked_at < 40, "{looked_at}");
    // A model that is not the same is not taken for it.
    let (db, row) = partitions("unshared", ["a", "b"]);
    let mut session = db.session();
    pages_of_inserts(&mut session, &row);
    session.run("SET distillvq.probes = 1000");
    all_found(&mut session, "items", Metric::L2, &row);
}

#[test]
fn a_model_larger_than_the_cache_is_kept_and_takes_no_room_from_others() {
    let (mut db, row) = partitions("large", ["a", "a"]);
    db.run(
        "CREATE TABLE few (id bigint, embedding vector(128));
         INSERT INTO few SELECT * FROM rows LIMIT 1100;
         CREATE INDEX ON few USING distillvq (embedding) WITH (lists = 40)",
    );
    let search = |table: &str| {
        let row = literal(&row);
        format!("SELECT * FROM {table} ORDER BY embedding <-> {row} LIMIT 1")
    };
    let insert = |table: &str| format!("INSERT INTO {table} VALUES (0, {})", literal(&row));
    let statements = [
        search("items_0"),
        search("few"),
        insert("few"),
        insert("items_0"),
    ];
    // Pages that each statement looks at when all have been run before.
    let looked_at = |memory: &str| {
        let mut session = db.session();
        session.run(&format!(
            "SET distillvq.model_cache = '{memory}'; SET enable_seqscan = off; SET distillvq.probes = 4"
        ));
        for statement in statements.iter().cycle().take(2 * statements.len()) {
            session.run(statement);
        }
        statements
            .iter()
            .map(|sql| pages(&mut session, sql))
            .collect::<Vec<_>>()
    };
    let (roomy, tight) = (looked_at("64MB"), looked_at("200kB"));
    for (tight, roomy) in tight.iter().zip(&roomy) {
        // The parts of the large model, of more than sixty pages, do not fit into 200 kB; those of the small one do together.
        assert!(tight <= &(roomy + 3), "{tight} {roomy}");
    }
}
