//! Filter columns: conditions on the columns after the vector, evaluated by the index, give the rows of a sequential scan.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{
    ALL, Database, Found, Sql, by_index, by_table, exact, healthy, ids, in_order,
    is_index_condition, literal, recall, table, undamaged, verified, wait_for,
};
use distillvq_harness::{Server, Vectors};
use postgres::Client;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const DIM: usize = 8;
const ROWS: usize = 1_500;

/// A search for the rows that fulfil a condition.
fn search(condition: &str, rest: &str) -> String {
    let query = literal(Vectors::clustered(1, DIM, 10, 77).row(0));
    format!(
        "SELECT id, embedding <-> {query} FROM items WHERE {condition} ORDER BY embedding <-> {query} {rest}"
    )
}

/// Adds a column to `items` and fills it with an expression of `id`, NULL in every ninth row, another one for each column. The
/// table is written anew: chains of updates would keep older transactions from the indexes made afterwards.
fn add_column(client: &mut Client, name: &str, of_type: &str, value: &str) {
    client.run(&format!(
        "ALTER TABLE items ADD COLUMN {name} {of_type};
         ALTER TABLE items ALTER COLUMN {name} TYPE {of_type}
             USING CASE WHEN (id + ascii(right('{name}', 1))) % 9 <> 4 THEN ({value}) END"
    ));
}

/// A database with a table `items` of vectors and their ids.
fn items(name: &str, rows: usize) -> Database {
    let mut db = Database::new(name);
    table(
        &mut db,
        "items",
        "vector",
        &Vectors::clustered(rows, DIM, 20, 5),
    );
    db
}

/// Fails unless the index evaluates a condition and gives the rows that a sequential scan gives.
#[track_caller]
fn same_rows(client: &mut Client, condition: &str) {
    let sql = search(condition, "");
    client.run("SET enable_seqscan = off; SET enable_sort = off; SET enable_bitmapscan = off");
    let plan = client.plan(&sql);
    // Without the plans of subqueries.
    let is_subplan = |line: &&str| line.trim_start().starts_with("InitPlan");
    let plan: Vec<&str> = plan.lines().take_while(|line| !is_subplan(line)).collect();
    let plan = plan.join("\n");
    let by_index_alone = plan.contains("Index Cond") && !plan.contains("Filter");
    assert!(
        plan.contains("Order By") && (by_index_alone || !is_index_condition(client, condition)),
        "{condition}: {plan}"
    );
    client.run("RESET enable_seqscan; RESET enable_sort; RESET enable_bitmapscan");
    client.run("SET distillvq.iterative_scan = relaxed_order");
    let found = by_index(client, &sql);
    client.run("RESET distillvq.iterative_scan");
    let truth = by_table(client, &sql);
    assert_eq!(ids(&found), ids(&truth), "{condition}");
    client.run(&format!("SET distillvq.probes = {ALL}"));
    exact(client, &search(condition, "LIMIT 10"));
    client.run("RESET distillvq.probes");
}

/// A type: its name, the values of rows by their ids, and constants to compare with.
type Kind = (&'static str, &'static str, &'static [&'static str]);

/// Every type with operator classes. Some values differ only behind what the index stores of them.
const KINDS: [&[Kind]; 3] = [
    &[
        ("boolean", "id % 3 = 0", &["true", "false"]),
        (
            "\"char\"",
            "((id % 256) - 128)::int::\"char\"",
            &["'a'::\"char\"", "(-5)::\"char\"", "0::\"char\""],
        ),
        (
            "smallint",
            "(id * 37 % 60000 - 30000)::int2",
            &["7::int2", "-29889", "3000000000", "-40000", "(-32768)::int2"],
        ),
        (
            "integer",
            "(id * 1000003 % 100 - 50)::int",
            &["7", "7::int2", "-3000000000", "49::int8", "3000000000"],
        ),
        (
            "bigint",
            "CASE id % 10 WHEN 0 THEN -9223372036854775808 WHEN 1 THEN 9223372036854775807 ELSE id END",
            &["7", "70::int2", "9223372036854775807", "-9223372036854775808", "600"],
        ),
        (
            "oid",
            "(id * 2863311 % 4294967296)::oid",
            &["0::oid", "3000000000::oid", "2863311::oid"],
        ),
        (
            "real",
            "CASE id % 11 WHEN 0 THEN 'NaN' WHEN 1 THEN 'Infinity' WHEN 2 THEN '-Infinity' WHEN 3 THEN '-0'
             ELSE ((id % 100 - 50) / 10.0)::float4 END",
            &["0::float4", "0.3::float4", "0.3::float8", "'NaN'::float8", "1e300::float8", "'-0'::float8", "-2.5"],
        ),
        (
            "double precision",
            "CASE id % 11 WHEN 0 THEN 'NaN' WHEN 1 THEN 'Infinity' WHEN 2 THEN '-Infinity' WHEN 3 THEN '-0'
             ELSE (id % 100 - 50) / 10.0 END",
            &["0::float8", "0.3::float4", "0.3::float8", "'NaN'::float4", "'Infinity'::float8", "-2.5"],
        ),
    ],
    &[
        (
            "date",
            "CASE id % 13 WHEN 0 THEN 'infinity' WHEN 1 THEN '-infinity' ELSE date '1999-10-01' + (id % 200)::int END",
            &["date '2000-01-01'", "date 'infinity'", "date '1990-01-01'"],
        ),
        (
            "time",
            "time '00:00' + id % 100 * interval '13 minutes'",
            &["time '00:00'", "time '12:00'", "time '24:00'"],
        ),
        (
            "timestamp",
            "CASE id % 13 WHEN 0 THEN 'infinity' WHEN 1 THEN '-infinity' ELSE timestamp '1999-12-31' + id * interval '1 minute' END",
            &["timestamp '2000-01-01'", "timestamp '-infinity'"],
        ),
        (
            "timestamptz",
            "timestamptz '1999-12-31' + id * interval '1 minute'",
            &["timestamptz '2000-01-01'", "timestamptz 'infinity'", "now()"],
        ),
        (
            "numeric",
            "CASE id % 13 WHEN 0 THEN 'NaN' WHEN 1 THEN 1e400 WHEN 2 THEN -1e400 WHEN 3 THEN 1e-400
             WHEN 4 THEN 1 + id % 3 * 1e-25 ELSE (id % 300 - 150) / 7.0 END",
            &["1", "1 + 1e-25", "0", "'NaN'::numeric", "1e400", "-1e401", "-3.5"],
        ),
        (
            "uuid",
            "CASE WHEN id % 2 = 0 THEN md5((id % 50)::text)::uuid
             ELSE ('00112233-4455-6677-8899-aabbccddee' || lpad((id % 10)::text, 2, '0'))::uuid END",
            &[
                "'00112233-4455-6677-8899-aabbccddee05'::uuid",
                "md5('12')::uuid",
                "'00000000-0000-0000-0000-000000000000'::uuid",
            ],
        ),
        (
            "text",
            "CASE WHEN id % 17 = 0 THEN '' ELSE 'Name ' || id % 50 END",
            &["'Name 7'", "''", "'name 7'", "'Zebra'"],
        ),
        (
            "varchar(20)",
            "'long common prefix ' || id % 10",
            &["'long common prefix 3'", "'long common prefix 3'::varchar", "'lo'"],
        ),
    ],
    &[
        (
            "char(12)",
            "'code ' || id % 30",
            &["'code 3'::bpchar", "'code 3   '::char(9)", "'b'::bpchar"],
        ),
        (
            "bytea",
            "CASE WHEN id % 3 = 0 THEN decode(repeat('00', (id % 12)::int), 'hex') ELSE decode(md5((id % 60)::text), 'hex') END",
            &["'\\x0000000000000000'::bytea", "''::bytea", "decode(md5('7'), 'hex')", "'\\x80'::bytea"],
        ),
        (
            "mood",
            "(ARRAY['fine', 'sad', 'elated', 'bored'])[1 + id % 4]::mood",
            &["'sad'::mood", "'fine'::mood", "'elated'::mood"],
        ),
        (
            "inet",
            "('10.0.' || id % 7 || '.' || id % 100 || CASE WHEN id % 2 = 0 THEN '/24' ELSE '' END)::inet",
            &["inet '10.0.3.17'", "inet '10.0.2.2/24'", "cidr '10.0.3.0/24'"],
        ),
        (
            "text COLLATE \"C\"",
            "chr((65 + id % 60)::int)",
            &["'a'", "'Z'"],
        ),
        ("cidr", "('10.' || id % 7 || '.0.0/16')::cidr", &["cidr '10.3.0.0/16'"]),
        ("positive", "id % 20 + 1", &["7", "20::int2", "7::positive"]),
    ],
];

#[test]
fn all_types_and_operators() {
    let mut db = items("filter_types", ROWS);
    // The order of the labels is not that in which they were made.
    db.run(
        "CREATE TYPE mood AS ENUM ('sad', 'fine');
         CREATE DOMAIN positive AS integer CHECK (VALUE > 0)",
    );
    db.run("ALTER TYPE mood ADD VALUE 'elated' BEFORE 'fine'");
    db.run("ALTER TYPE mood ADD VALUE 'bored' BEFORE 'sad'");
    for kinds in KINDS {
        let names: Vec<String> = (0..kinds.len()).map(|i| format!("c{i}")).collect();
        for (name, (of_type, value, _)) in names.iter().zip(kinds) {
            add_column(&mut db, name, of_type, value);
        }
        db.run(&format!(
            "CREATE INDEX one ON items USING distillvq (embedding, {}) WITH (lists = 20)",
            names.join(", ")
        ));
        for (name, (of_type, _, constants)) in names.iter().zip(kinds) {
            same_rows(&mut db, &format!("{name} IS NULL"));
            same_rows(&mut db, &format!("{name} IS NOT NULL"));
            for constant in *constants {
                for operator in ["<", "<=", "=", ">=", ">"] {
                    same_rows(&mut db, &format!("{name} {operator} {constant}"));
                }
                same_rows(&mut db, &format!("{constant} < {name}"));
            }
            let array = format!("ARRAY[{}, NULL]::{}[]", constants.join(", "), base(of_type));
            for operator in ["=", "<", ">="] {
                if fits(of_type) {
                    same_rows(&mut db, &format!("{name} {operator} ANY ({array})"));
                }
            }
        }
        same_rows(&mut db, "c0 IS NOT NULL AND c1 IS NOT NULL AND c2 IS NULL");
        if kinds[0].0 == "boolean" {
            for condition in ["c0", "NOT c0", "c0 IS TRUE", "c0 IS FALSE AND c3 > 0"] {
                same_rows(&mut db, condition);
            }
        }
        same_rows(
            &mut db,
            &format!("c1 >= {0} AND c1 <= {0} AND c0 IS NOT NULL", kinds[1].2[0]),
        );
        db.run("DROP INDEX one");
        for name in names {
            db.run(&format!("ALTER TABLE items DROP COLUMN {name}"));
        }
    }
}

/// The type of the elements of an array for a column of a type.
fn base(of_type: &str) -> &str {
    match of_type {
        "smallint" | "integer" => "bigint",
        "real" => "float8",
        "text COLLATE \"C\"" => "text",
        "cidr" => "inet",
        "positive" => "integer",
        "varchar(20)" => "text",
        "char(12)" => "bpchar",
        other => other,
    }
}

/// Whether all constants of a type fit an array.
fn fits(of_type: &str) -> bool {
    of_type != "double precision"
}

#[test]
fn labels() {
    let mut db = items("filter_labels", ROWS);
    db.run("CREATE DOMAIN tags AS text[]");
    for (name, of_type, value) in [
        (
            "numbers",
            "int[]",
            "CASE WHEN id % 11 = 0 THEN '{}' WHEN id % 11 = 1 THEN ARRAY[NULL, id % 7] ELSE ARRAY[id % 40, id % 13, 500] END::int[]",
        ),
        (
            "names",
            "tags",
            "ARRAY['n' || id % 60, repeat('long name ', 1000) || id % 5]",
        ),
        (
            "ids",
            "uuid[]",
            "ARRAY[[md5((id % 30)::text)::uuid], [md5((id % 4)::text)::uuid]]",
        ),
    ] {
        add_column(&mut db, name, of_type, value);
    }
    for options in ["lists = 20", "lists = 20, assignments = 2"] {
        db.run(&format!(
            "CREATE INDEX one ON items USING distillvq (embedding, numbers, names, ids) WITH ({options})"
        ));
        for operator in ["&&", "@>", "<@", "="] {
            for labels in [
                "numbers OP '{12}'",
                "numbers OP '{5,12,NULL}'",
                "numbers OP '{3,3,500}'",
                "numbers OP '{0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,500}'",
                "numbers OP '{}'",
                "numbers OP '{NULL}'",
                "numbers OP '{{12,12},{500,12}}'",
                "numbers OP (SELECT numbers FROM items WHERE id = 83)",
                "names OP ARRAY['n7']",
                "names OP ARRAY['n7', repeat('long name ', 1000) || 2]",
                "ids OP ARRAY[md5('7')::uuid, md5('2')::uuid, md5('3')::uuid]",
                "ids OP (SELECT ids FROM items WHERE id = 44)",
                "names OP NULL::text[]",
            ] {
                let condition = labels.replace("OP", operator);
                if labels.contains("NULL::") {
                    let found: Vec<i64> = db.column(&format!("{} LIMIT 3", search(&condition, "")));
                    assert_eq!(found, [0i64; 0]);
                } else {
                    same_rows(&mut db, &condition);
                }
            }
        }
        same_rows(&mut db, "numbers IS NULL");
        same_rows(
            &mut db,
            "names && '{n5}' AND numbers @> '{500}' AND ids IS NOT NULL",
        );
        db.run("DROP INDEX one");
    }
    // Rows whose labels rule them out are excluded before their codes are scored.
    db.run("CREATE INDEX one ON items USING distillvq (embedding, names) WITH (lists = 20)");
    by_index(&mut db, &search("names @> '{n7}'", ""));
    let (codes, excluded): (i64, i64) = {
        let row = db
            .query_one("SELECT codes, excluded FROM distillvq_last_scan()", &[])
            .unwrap();
        (row.get(0), row.get(1))
    };
    assert!(excluded > codes * 9 / 10, "{excluded} of {codes}");
    let refusal = db.refusal(
        "ALTER TABLE items ADD COLUMN places point[]; CREATE INDEX ON items USING distillvq (embedding, places)",
    );
    assert_eq!(refusal.state, "42804", "{refusal:?}");
    assert!(refusal.message.contains("type point[]"), "{refusal:?}");
}

#[test]
fn arrays_parameters_and_joins() {
    let mut db = items("filter_params", ROWS);
    add_column(&mut db, "tenant", "bigint", "id % 40");
    add_column(&mut db, "name", "text", "'n' || id % 25");
    db.run(
        "CREATE INDEX one ON items USING distillvq (embedding, tenant, name) WITH (lists = 20);
         CREATE TABLE wanted (tenant int, name text);
         INSERT INTO wanted VALUES (3, 'n3'), (7, NULL), (NULL, 'n1'), (39, 'n24'), (100, 'x');
         ANALYZE items, wanted",
    );
    let many: Vec<String> = (0..30).map(|i| (i * 3).to_string()).collect();
    for condition in [
        "tenant = ANY ('{3,5,NULL,900}')".to_owned(),
        format!("tenant IN ({})", many.join(",")),
        "tenant = ANY ('{}'::bigint[])".into(),
        "name = ANY ('{n1,n2,x}') AND tenant > 10".into(),
        "tenant = (SELECT max(tenant) FROM wanted WHERE tenant < 10)".into(),
        "name IN ('n3', 'n4') AND tenant = 3".into(),
        "tenant > 3 AND tenant < 3".into(),
        "tenant > 5 AND tenant <= 9 AND name IS NOT NULL".into(),
    ] {
        same_rows(&mut db, &condition);
    }
    // Generic plans, whose values come with each execution; NULL selects nothing.
    let query = literal(Vectors::clustered(1, DIM, 10, 77).row(0));
    let statement = |name: &str, types: &str, condition: &str| {
        format!(
            "PREPARE {name} ({types}) AS SELECT id, embedding <-> {query} FROM items
             WHERE {condition} ORDER BY embedding <-> {query}"
        )
    };
    db.run(&statement(
        "one_of",
        "bigint[], text",
        "tenant = ANY ($1) AND name >= $2",
    ));
    db.run(&statement("equal", "int", "tenant = $1"));
    let setup =
        "SET plan_cache_mode = force_generic_plan; SET distillvq.iterative_scan = relaxed_order;";
    for (call, condition) in [
        (
            "one_of ('{1,2}', 'n1')",
            "tenant IN (1, 2) AND name >= 'n1'",
        ),
        ("one_of (NULL, 'n1')", "false"),
        ("one_of ('{1,2}', NULL)", "false"),
        ("one_of ('{}', 'n1')", "false"),
        ("equal (12)", "tenant = 12"),
        ("equal (NULL)", "false"),
        ("equal (-1)", "false"),
    ] {
        db.run(&format!(
            "{setup} SET enable_seqscan = off; SET enable_sort = off"
        ));
        let plan = db.plan(&format!("EXECUTE {call}"));
        assert!(plan.contains("Index Cond"), "{plan}");
        let found: Vec<i64> = db.column(&format!("EXECUTE {call}"));
        db.run("RESET ALL");
        let mut found = found;
        found.sort_unstable();
        let truth: Vec<i64> = db.column(&format!(
            "SELECT id FROM items WHERE {condition} ORDER BY id"
        ));
        assert_eq!(found, truth, "{call}");
    }
    // A join supplies the values, with a rescan for each.
    let lateral = format!(
        "SELECT w.tenant * 1000000::bigint + n.id FROM wanted w, LATERAL
             (SELECT id FROM items i WHERE i.tenant = w.tenant AND i.name = coalesce(w.name, 'n7')
              ORDER BY embedding <-> {query} LIMIT 5) n ORDER BY 1"
    );
    db.run("SET enable_seqscan = off; SET enable_sort = off");
    let plan = db.plan(&lateral);
    assert!(plan.contains("Index Cond: ((tenant = w.tenant)"), "{plan}");
    let found: Vec<i64> = db.column(&lateral);
    db.run("RESET ALL; SET enable_indexscan = off");
    let truth: Vec<i64> = db.column(&lateral);
    assert!(!truth.is_empty());
    assert_eq!(found, truth);
    db.run("RESET ALL");
}

#[test]
fn rows_that_change() {
    let mut db = items("filter_dml", ROWS);
    add_column(&mut db, "tenant", "int", "id % 30");
    add_column(
        &mut db,
        "made",
        "timestamptz",
        "timestamptz '2024-01-01' + id * interval '1 hour'",
    );
    let conditions = [
        "tenant = 7",
        "tenant IS NULL",
        "made > '2024-02-01' AND tenant < 5",
        "tenant >= 28",
    ];
    for (persistence, options) in [
        ("", "lists = 20"),
        ("", "lists = 20, refine = sq7"),
        ("", "lists = 20, assignments = 2"),
        ("UNLOGGED", "lists = 20"),
    ] {
        db.run(&format!(
            "CREATE {persistence} TABLE copy AS SELECT * FROM items;
             ALTER TABLE items RENAME TO kept; ALTER TABLE copy RENAME TO items;
             CREATE INDEX one ON items USING distillvq (embedding, tenant, made) WITH ({options})"
        ));
        let expect = |db: &mut Database| {
            verified(db);
            conditions.iter().for_each(|condition| {
                same_rows(db, &format!("{condition} AND embedding IS NOT NULL"));
            });
        };
        expect(&mut db);
        db.run(
            "UPDATE items SET tenant = 7 WHERE id % 50 = 3; UPDATE items SET tenant = NULL WHERE id % 50 = 4;
             DELETE FROM items WHERE id % 5 = 1;
             INSERT INTO items SELECT id + 10000, embedding, tenant + 1, made FROM items WHERE id % 3 = 0;
             INSERT INTO items (id, tenant) VALUES (-1, 7)",
        );
        expect(&mut db);
        db.run_each(&["VACUUM items"]);
        expect(&mut db);
        db.run("INSERT INTO items SELECT id + 20000, embedding, tenant, made FROM items WHERE id % 7 = 0");
        expect(&mut db);
        db.run("BEGIN; UPDATE items SET tenant = 99; ROLLBACK");
        expect(&mut db);
        db.run_each(&["VACUUM items", "REINDEX INDEX one"]);
        expect(&mut db);
        db.run("SELECT count(*) FROM distillvq_train('one')");
        expect(&mut db);
        db.run_each(&["REINDEX INDEX CONCURRENTLY one"]);
        expect(&mut db);
        db.run("DROP TABLE items; ALTER TABLE kept RENAME TO items");
    }
}

#[test]
fn without_a_model() {
    let mut db = items("filter_untrained", 600);
    add_column(&mut db, "tenant", "int", "id % 10");
    add_column(&mut db, "label", "text", "'l' || id % 4");
    db.run("CREATE INDEX one ON items USING distillvq (embedding, tenant, label)");
    assert_eq!(
        db.one::<i32>("SELECT lists FROM distillvq_index_info('one')"),
        0
    );
    for condition in [
        "tenant = 3",
        "tenant > 5 AND label = 'l1'",
        "label IS NULL",
        "label < 'l2'",
    ] {
        same_rows(&mut db, condition);
    }
    db.run("INSERT INTO items SELECT id + 1000, embedding, 3, 'new' FROM items; DELETE FROM items WHERE id < 100");
    db.run_each(&["VACUUM items"]);
    same_rows(&mut db, "label = 'new' AND tenant = 3");
    same_rows(&mut db, "tenant = 3");
}

#[test]
fn results_are_never_short_and_recall_holds() {
    let rows = 12_000;
    let mut db = Database::new("filter_recall");
    let vectors = Vectors::clustered(rows + 20, 32, 60, 9);
    table(&mut db, "items", "vector", &vectors.slice(0..rows));
    add_column(&mut db, "part", "int", "id * 7919 % 10000");
    // Correlated with the vectors: the side of a plane.
    db.run(
        "ALTER TABLE items ADD COLUMN side real
             GENERATED ALWAYS AS ((embedding::real[])[1] + (embedding::real[])[2]) STORED;
         CREATE INDEX one ON items USING distillvq (embedding, part, side); ANALYZE items",
    );
    let sides: Vec<f32> = db.column(
        "SELECT percentile_disc(p) WITHIN GROUP (ORDER BY side) FROM items, unnest(ARRAY[0.5, 0.1, 0.01]) p
         GROUP BY p ORDER BY p DESC",
    );
    let parts = [5_000, 1_000, 100, 10].map(|most| format!("part < {most}"));
    let sides = sides.iter().map(|most| format!("side < {most}::float8"));
    for condition in parts.into_iter().chain(sides) {
        let mut sum = 0.0;
        for query in vectors.slice(rows..rows + 20).iter() {
            let sql = format!(
                "SELECT id, embedding <-> {0} FROM items WHERE {condition} ORDER BY embedding <-> {0} LIMIT 10",
                literal(query)
            );
            let (found, truth): (Found, Found) = (by_index(&mut db, &sql), by_table(&mut db, &sql));
            in_order(&found);
            assert_eq!(found.len(), truth.len(), "{condition}");
            sum += recall(&found, &truth);
        }
        assert!(sum / 20.0 >= 0.94, "{condition}: {}", sum / 20.0);
    }
}

#[test]
fn plans() {
    let mut db = items("filter_plans", 20_000);
    add_column(&mut db, "tenant", "int", "id % 10");
    add_column(&mut db, "rare", "int", "id % 5000");
    db.run(
        "CREATE INDEX one ON items USING distillvq (embedding, tenant, rare) WITH (lists = 40);
         CREATE INDEX by_rare ON items (rare)",
    );
    db.run_each(&["VACUUM ANALYZE items"]);
    let plan = db.plan(&search("tenant = 7", "LIMIT 10"));
    assert!(
        plan.contains("Index Cond: (tenant = 7)") && plan.contains("Order By"),
        "{plan}"
    );
    let plan = db.plan(&search("tenant = 7 AND id > 5", "LIMIT 10"));
    assert!(
        plan.contains("Index Cond: (tenant = 7)") && plan.contains("Filter: (id > 5)"),
        "{plan}"
    );
    // Four rows: a btree finds them at once.
    let plan = db.plan(&search("rare = 77", "LIMIT 10"));
    assert!(plan.contains("by_rare") && plan.contains("Sort"), "{plan}");
    // Without an order the index cannot be used.
    let plan = db.plan("SELECT id FROM items WHERE tenant = 7");
    assert!(!plan.contains("using one"), "{plan}");
    db.run("INSERT INTO items (id, tenant) SELECT -i, 7 FROM generate_series(1, 5) i");
    let sql = search("embedding IS NULL AND tenant = 7", "");
    db.run("SET enable_seqscan = off; SET enable_sort = off; SET enable_bitmapscan = off");
    assert_eq!(db.column::<i64>(&sql).len(), 5);
    db.run("RESET ALL");
    same_rows(&mut db, "embedding IS NOT NULL AND tenant = 7");
}

#[test]
fn row_level_security_becomes_an_index_condition() {
    let mut db = items("filter_rls", 4_000);
    add_column(&mut db, "tenant", "int", "id % 10");
    db.run(
        "CREATE INDEX one ON items USING distillvq (embedding, tenant) WITH (lists = 20); ANALYZE items;
         ALTER TABLE items ENABLE ROW LEVEL SECURITY;
         CREATE POLICY own ON items USING (tenant = current_setting('app.tenant')::int);
         GRANT SELECT ON items TO public",
    );
    let mut session = db.session_of("filter_user");
    session.run("SET app.tenant = '3'");
    let sql = search("true", "LIMIT 10");
    let plan = session.plan(&sql);
    assert!(
        plan.contains("Index Cond: (tenant = ") && !plan.contains("Filter"),
        "{plan}"
    );
    let found = by_index(&mut session, &sql);
    let truth = by_table(&mut db, &search("tenant = 3", "LIMIT 10"));
    assert_eq!(found.len(), 10);
    assert!(recall(&found, &truth) >= 0.9);
}

#[test]
fn mistakes_are_refused() {
    let mut db = items("filter_errors", ROWS);
    db.run(
        "ALTER TABLE items ADD COLUMN tenant int, ADD COLUMN place point,
             ADD COLUMN other vector(3), ADD COLUMN name text;
         ALTER TABLE items ADD COLUMN a1 int, ADD COLUMN a2 int, ADD COLUMN a3 int, ADD COLUMN a4 int,
             ADD COLUMN a5 int, ADD COLUMN a6 int, ADD COLUMN a7 int, ADD COLUMN a8 int, ADD COLUMN a9 int",
    );
    for (columns, state, message) in [
        (
            "tenant",
            "42804",
            "first column of index \"items_tenant_idx\" is of type integer, not vector or halfvec",
        ),
        (
            "tenant, embedding",
            "42804",
            "first column of index \"items_tenant_embedding_idx\" is of type integer, not vector or halfvec",
        ),
        (
            "embedding, other",
            "0A000",
            "index \"items_embedding_other_idx\" has more than one vector column",
        ),
        (
            "embedding, a1, a2, a3, a4, a5, a6, a7, a8, a9",
            "54011",
            "has 9 filter columns, more than 8",
        ),
        (
            "embedding, place",
            "42704",
            "data type point has no default operator class",
        ),
        (
            "embedding) INCLUDE (tenant",
            "0A000",
            "does not support included columns",
        ),
    ] {
        let refusal = db.refusal(&format!(
            "CREATE INDEX ON items USING distillvq ({columns})"
        ));
        assert_eq!(refusal.state, state, "{columns}: {refusal:?}");
        assert!(refusal.message.contains(message), "{columns}: {refusal:?}");
        assert!(
            state == "0A000" && columns.contains("INCLUDE") || !refusal.hint.is_empty(),
            "{columns}: {refusal:?}"
        );
    }
    // Classes that nobody should make.
    db.run(
        "CREATE OPERATOR CLASS point_ops FOR TYPE point USING distillvq AS OPERATOR 1 ~= (point, point);
         CREATE OPERATOR CLASS few_ops FOR TYPE int4 USING distillvq AS OPERATOR 3 = (int4, int4)",
    );
    let refusal = db.refusal("CREATE INDEX ON items USING distillvq (embedding, place point_ops)");
    assert_eq!(refusal.state, "42804");
    assert!(
        refusal
            .message
            .contains("cannot filter by a column of type point"),
        "{refusal:?}"
    );
    let is_valid = |db: &mut Database, class: &str| {
        db.one::<bool>(&format!(
            "SELECT amvalidate(o.oid) FROM pg_opclass o JOIN pg_am a ON a.oid = opcmethod
             WHERE opcname = '{class}' AND amname = 'distillvq'"
        ))
    };
    assert!(!is_valid(&mut db, "few_ops") && !is_valid(&mut db, "point_ops"));
    let valid: Vec<bool> = db.column(
        "SELECT amvalidate(o.oid) FROM pg_opclass o JOIN pg_am a ON a.oid = opcmethod
         WHERE amname = 'distillvq' AND opcname NOT IN ('few_ops', 'point_ops')",
    );
    assert!(
        valid.len() == 26 && valid.iter().all(|is_valid| *is_valid),
        "{valid:?}"
    );
    db.run("DROP OPERATOR CLASS point_ops USING distillvq; DROP OPERATOR CLASS few_ops USING distillvq");
}

#[test]
fn codes_leave_room_for_filter_columns() {
    let mut db = Database::new("filter_room");
    let vectors = Vectors::clustered(1_100, 1_000, 10, 3);
    table(&mut db, "items", "vector", &vectors);
    add_column(&mut db, "made", "timestamptz", "now()");
    add_column(&mut db, "tenant", "bigint", "id % 5");
    let refusal = db.refusal(
        "CREATE INDEX ON items USING distillvq (embedding, tenant, made) WITH (lists = 8, bits = 4, subquantizers = 478)",
    );
    assert_eq!(refusal.state, "54000");
    assert!(
        refusal.message.contains("478 subquantizers") && refusal.hint.contains("at most"),
        "{refusal:?}"
    );
    db.run("CREATE INDEX one ON items USING distillvq (embedding, tenant, made) WITH (lists = 8, bits = 4, refine = none)");
    let query = literal(vectors.row(0));
    let sql =
        format!("SELECT id, embedding <-> {query} FROM items WHERE tenant = 3 ORDER BY 2 LIMIT 5");
    exact(
        &mut db,
        &sql.replace("ORDER BY 2", &format!("ORDER BY embedding <-> {query}")),
    );
}

#[test]
fn values_survive_a_crash() {
    let checked = [
        ("wal_consistency_checking", "Generic"),
        ("max_wal_size", "256MB"),
    ];
    let settings = [&common::SETTINGS[..], &checked].concat();
    let mut server = Server::start_with("filter-crash", &settings).unwrap();
    let mut client = server.database("crash").unwrap();
    table(
        &mut client,
        "items",
        "vector",
        &Vectors::clustered(ROWS, DIM, 20, 5),
    );
    add_column(&mut client, "tenant", "int", "id % 30");
    add_column(&mut client, "name", "text", "'n' || id % 12");
    client.run(
        "CREATE INDEX one ON items USING distillvq (embedding, tenant, name) WITH (lists = 20)",
    );
    client.run("CREATE SEQUENCE new_id START 100000");
    let mut writer = server.connect_to("crash").unwrap();
    let thread = std::thread::spawn(move || {
        let statements = [
            "INSERT INTO items SELECT nextval('new_id'), embedding, tenant, 'new' FROM items WHERE id % 11 = 1 AND id < 5000",
            "UPDATE items SET tenant = tenant + 1, name = NULL WHERE id % 13 = 5",
            "DELETE FROM items WHERE id > 100000 AND id % 2 = 0",
            "VACUUM items",
        ];
        while statements
            .iter()
            .all(|sql| writer.batch_execute(sql).is_ok())
        {}
    });
    wait_for("changes", || {
        client.one::<i64>("SELECT count(*) FROM items WHERE name = 'new'") > 200
    });
    server.kill9().unwrap();
    thread.join().unwrap();
    server.restart().unwrap();
    let log = server.log().unwrap();
    healthy(&log);
    undamaged(&log, "crash");
    let mut client = server.connect_to("crash").unwrap();
    verified(&mut client);
    for condition in [
        "tenant = 7",
        "name = 'new'",
        "name IS NULL AND tenant > 3",
        "tenant IS NULL",
    ] {
        same_rows(&mut client, condition);
    }
}

#[test]
fn a_check_compares_values_with_the_table() {
    let mut db = items("filter_check", ROWS);
    add_column(&mut db, "tenant", "int", "id % 30");
    // The result of the function changes behind the index's back.
    db.run(
        "CREATE FUNCTION of_row(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN $1; END';
         CREATE INDEX one ON items USING distillvq (embedding, of_row(tenant)) WITH (lists = 20)",
    );
    let problems = "SELECT count(*) FROM distillvq_check('one', heap => true)";
    assert_eq!(db.one::<i64>(problems), 0);
    db.run("CREATE OR REPLACE FUNCTION of_row(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN CASE WHEN $1 = 7 THEN 8 ELSE $1 END; END'");
    let wrong = db.one::<i64>("SELECT count(*) FROM items WHERE tenant = 7");
    let found: Vec<String> = db.column("SELECT problem FROM distillvq_check('one', heap => true)");
    assert_eq!(found.len() as i64, wrong);
    assert!(
        found
            .iter()
            .all(|what| what.contains("wrong values of filter columns")),
        "{found:?}"
    );
    db.run("REINDEX INDEX one");
    assert_eq!(db.one::<i64>(problems), 0);
}

#[test]
fn random_conditions() {
    let mut db = items("filter_random", ROWS);
    let columns = [
        ("flag", "boolean", "id % 3 = 0"),
        ("small", "smallint", "(id * 37 % 200 - 100)::int2"),
        ("tenant", "integer", "id % 40"),
        ("price", "real", "(id % 90) / 4.0"),
        (
            "made",
            "timestamp",
            "timestamp '2024-01-01' + id * interval '1 hour'",
        ),
        ("amount", "numeric", "(id % 70) / 3.0"),
        ("code", "uuid", "md5((id % 30)::text)::uuid"),
        ("name", "text", "'n' || id % 20"),
    ];
    for (name, of_type, value) in columns {
        add_column(&mut db, name, of_type, value);
    }
    db.run(
        "CREATE INDEX one ON items USING distillvq (embedding, flag, small, tenant, price, made, amount, code, name)
             WITH (lists = 20);
         DELETE FROM items WHERE id % 10 = 2;
         INSERT INTO items SELECT id + 5000, embedding, flag, small, tenant + 1, price, made, amount, code, name
             FROM items WHERE id % 6 = 1",
    );
    db.run_each(&["VACUUM items"]);
    let mut rng = ChaCha8Rng::seed_from_u64(24);
    for _ in 0..250 {
        let conditions = (0..rng.random_range(1..4)).map(|_| {
            let (name, of_type, _) = columns[rng.random_range(0..columns.len())];
            // A value of some row, NULL in some.
            let value = |rng: &mut ChaCha8Rng| {
                let id = rng.random_range(0..ROWS);
                format!("(SELECT min({name}::text)::{of_type} FROM items WHERE id = {id})")
            };
            let operator = ["<", "<=", "=", ">=", ">"][rng.random_range(0..5)];
            match rng.random_range(0..8) {
                0 => format!("{name} IS NULL"),
                1 => format!("{name} IS NOT NULL"),
                2 | 3 => {
                    let values: Vec<String> = (0..rng.random_range(1..12))
                        .map(|_| value(&mut rng))
                        .collect();
                    format!("{name} {operator} ANY (ARRAY[{}])", values.join(", "))
                }
                _ => format!("{name} {operator} {}", value(&mut rng)),
            }
        });
        let conditions: Vec<String> = conditions.collect();
        same_rows(&mut db, &conditions.join(" AND "));
    }
}
