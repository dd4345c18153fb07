//! The planner chooses the fastest plan, and estimates never fail.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{Database, Sql, items, literal, server, table};
use distillvq_harness::Vectors;
use distillvq_harness::plans::{self, Kind, Outcome, RunBudget, Shape};

#[test]
fn the_fastest_plan_is_chosen() {
    let mut db = Database::new("plans");
    let tables = plans::tables(false);
    let outcomes = plans::measure(&mut db, &tables, RunBudget::QUICK).unwrap();
    let report = plans::report(&tables, &outcomes);
    obvious(&outcomes, &report);
    // In peace it is all of them. Others may use this machine too.
    assert!(plans::share_of_good(&outcomes) >= 0.8, "{report}");
}

/// What must be chosen, whatever the times are.
fn obvious(outcomes: &[Outcome], report: &str) {
    let mut count = 0;
    for outcome in outcomes {
        let situation = outcome.situation;
        // Before PostgreSQL 17 the planner takes an index for an order that is all its own, or not at all.
        if situation.shape == Shape::FurtherKey && server().installation().version() < 17 {
            continue;
        }
        let least = situation.filters.iter().map(|&(_, share)| share).min();
        let btree = situation
            .filters
            .iter()
            .any(|&(column, _)| column != "loose");
        if situation.shape == Shape::Within && situation.table != "tiny" {
            count += 1;
            assert_eq!(outcome.chosen.kind, Kind::Search, "{situation:?}\n{report}");
        }
        let is_limited = situation.shape.limits_distance();
        let expected: &[Kind] = match (situation.table, situation.limit, least) {
            (_, None, _) if is_limited => continue,
            // Whichever table is smaller goes first: how good that is, is judged by the times.
            _ if matches!(situation.shape, Shape::Allowed | Shape::Docs) => continue,
            ("tiny", _, _) | (_, None, _) => &[Kind::Sequential, Kind::Parallel],
            ("narrow" | "texts" | "toasted", Some(1..=100), None) => &[Kind::Search],
            ("narrow" | "texts" | "toasted", Some(10), Some(50_000)) => &[Kind::Search],
            (_, _, Some(..=100)) if btree => &[Kind::Btree],
            _ => continue,
        };
        count += 1;
        assert!(
            expected.contains(&outcome.chosen.kind),
            "{situation:?} by {}, not {expected:?}\n{report}",
            outcome.chosen.nodes
        );
    }
    assert!(count >= 30, "{count}");
}

/// First and total cost of a query's plan.
#[track_caller]
fn cost(client: &mut postgres::Client, sql: &str) -> (f64, f64) {
    let first: String = client.column(&format!("EXPLAIN {sql}")).remove(0);
    let costs = first.split_once("(cost=").unwrap().1;
    let (startup, rest) = costs.split_once("..").unwrap();
    let total = rest.split(' ').next().unwrap();
    (startup.parse().unwrap(), total.parse().unwrap())
}

const BY_INDEX: &str =
    "SET enable_seqscan = off; SET enable_sort = off; SET enable_bitmapscan = off";

#[test]
fn more_work_costs_more() {
    let mut db = Database::new("costs");
    table(
        &mut db,
        "items",
        "vector",
        &Vectors::clustered(20_000, 8, 50, 3),
    );
    db.run("CREATE INDEX ON items USING distillvq (embedding)");
    db.run("ANALYZE items");
    db.run(BY_INDEX);
    let mut last = 0.0;
    for probes in [1, 10, 30, 100, common::ALL] {
        db.run(&format!("SET distillvq.probes = {probes}"));
        let (_, total) = cost(&mut db, &nearest("LIMIT 10"));
        assert!(total > last, "{probes} lists cost {total}, fewer {last}");
        last = total;
    }
    db.run("RESET distillvq.probes");
    let mut last = 0.0;
    for limit in [1, 10, 100, 1_000, 10_000, 20_000] {
        let (_, total) = cost(&mut db, &nearest(&format!("LIMIT {limit}")));
        assert!(total > last, "{limit} rows cost {total}, fewer {last}");
        last = total;
    }
    // Rows that a filter drops have to be found too.
    let all = cost(&mut db, &nearest("LIMIT 10")).1;
    let some = cost(
        &mut db,
        &nearest("LIMIT 10").replace("ORDER", "WHERE id < 200 ORDER"),
    );
    assert!(some.1 > 5.0 * all, "{} and {all}", some.1);
}

fn nearest(rest: &str) -> String {
    format!("SELECT id FROM items ORDER BY embedding <-> '[1,2,3,4,5,6,7,8]' {rest}")
}

/// Whether a query is planned as a search of an index.
#[track_caller]
fn searches(client: &mut postgres::Client, sql: &str) -> bool {
    client
        .plan(sql)
        .contains("Index Scan using items_embedding_idx")
}

/// A database with a table `items` of 10,000 rows and an index, a vector as SQL, and the distance of its nearest rows by number.
fn ranges(name: &str) -> (Database, String, impl Fn(&mut postgres::Client, i32) -> f64) {
    let all = Vectors::clustered(10_001, 64, 50, 3);
    let mut db = Database::of_items(name, &all.slice(0..10_000));
    db.run("CREATE INDEX ON items USING distillvq (embedding)");
    db.run_each(&["VACUUM ANALYZE items"]);
    let query = literal(all.row(10_000));
    let of = query.clone();
    let nth = move |client: &mut postgres::Client, n: i32| {
        let n = n - 1;
        client.one(&format!(
            "SELECT embedding <-> {of} AS distance FROM items ORDER BY distance OFFSET {n} LIMIT 1"
        ))
    };
    (db, query, nth)
}

#[test]
fn a_limit_of_the_distance_has_a_cost() {
    let (mut db, query, nth) = ranges("ranges");
    let order = format!("embedding <-> {query}");
    let within = |farthest: f64, rest: &str| {
        format!("SELECT id FROM items WHERE {order} <= {farthest} ORDER BY {order} {rest}")
    };
    for (rows, rest, expected) in [
        (1, "", true),
        (20, "", true),
        (20, "LIMIT 10", true),
        (20, "LIMIT 5000", true),
        (9_000, "", false),
        (9_000, "LIMIT 10", true),
        (9_000, "LIMIT 9000", false),
    ] {
        let sql = within(nth(&mut db, rows), rest);
        assert_eq!(searches(&mut db, &sql), expected, "{rows} rows {rest}");
    }
    // The farther it reaches, the more it costs.
    db.run(BY_INDEX);
    let distances = [10, 1_000, 3_000, 9_000].map(|rows| nth(&mut db, rows));
    let costs = distances.map(|farthest| cost(&mut db, &within(farthest, "")).1);
    assert!(costs.is_sorted_by(|a, b| a < b), "{costs:?}");
    db.run("RESET ALL");
    // What is not known is taken for a third of the rows, as the planner does; what a parameter says is known.
    let narrow = nth(&mut db, 20);
    assert!(!searches(
        &mut db,
        &within(narrow, "").replace("<= ", "<= 0.5 * random() + ")
    ));
    db.run(
        "PREPARE near (vector, float8) AS
             SELECT id FROM items WHERE embedding <-> $1 < $2 ORDER BY embedding <-> $1;
         SET plan_cache_mode = force_custom_plan",
    );
    assert!(searches(
        &mut db,
        &format!("EXECUTE near ({query}, {narrow})")
    ));
    // A limit that no row can meet, a condition beside it, and vectors that cannot be compared.
    assert!(searches(&mut db, &within(-1.0, "")));
    assert!(searches(
        &mut db,
        &within(narrow, "").replace("WHERE", "WHERE id % 2 = 0 AND")
    ));
    db.plan("SELECT id FROM items WHERE embedding <-> '[1,2]' < 1 ORDER BY embedding <-> '[1,2]'");
}

#[test]
fn hidden_rows_are_not_counted_for_a_cost() {
    let (mut db, query, nth) = ranges("hidden_ranges");
    let [narrow, wide] = [20, 9_000].map(|rows| {
        let farthest = nth(&mut db, rows);
        format!("SELECT id FROM items WHERE embedding <-> {query} < {farthest} ORDER BY embedding <-> {query}")
    });
    let mut judy = db.session_of("judy_plans");
    db.run(
        "GRANT SELECT ON items TO judy_plans; ALTER TABLE items ENABLE ROW LEVEL SECURITY;
         CREATE POLICY part ON items TO judy_plans USING (id < 100)",
    );
    judy.run(BY_INDEX);
    assert_eq!(cost(&mut judy, &narrow), cost(&mut judy, &wide));
    db.run(BY_INDEX);
    assert!(cost(&mut db, &narrow).1 < cost(&mut db, &wide).1);
}

#[test]
fn a_limit_within_lateral_has_a_cost() {
    let (mut db, query, nth) = ranges("limit_in_lateral");
    db.run("CREATE TABLE asked AS SELECT id, embedding FROM items WHERE id < 5; ANALYZE asked");
    let wide = nth(&mut db, 9_000);
    let lateral = |rest: &str| {
        format!(
            "SELECT asked.id, near.id FROM asked, LATERAL
                 (SELECT id FROM items {rest}) near"
        )
    };
    for (rest, expected) in [
        (
            "ORDER BY embedding <-> asked.embedding LIMIT 5".to_owned(),
            true,
        ),
        (
            format!(
                "WHERE embedding <-> asked.embedding < {wide} ORDER BY embedding <-> asked.embedding LIMIT 5"
            ),
            true,
        ),
        (
            format!("WHERE embedding <-> {query} < {wide} ORDER BY embedding <-> {query} LIMIT 5"),
            true,
        ),
        (
            "ORDER BY embedding <-> asked.embedding LIMIT 9000".to_owned(),
            false,
        ),
        (
            format!("WHERE embedding <-> {query} < {wide} ORDER BY embedding <-> {query} OFFSET 0"),
            false,
        ),
    ] {
        let sql = lateral(&rest);
        assert_eq!(searches(&mut db, &sql), expected, "{sql:.200}");
    }
}

#[test]
fn strange_settings_and_queries_have_a_cost() {
    let mut db = items("strange");
    db.run("CREATE INDEX ON items USING distillvq (embedding)");
    let rests = [
        "",
        "LIMIT 0",
        "LIMIT NULL",
        "LIMIT 10 OFFSET 100000",
        "LIMIT 9223372036854775807",
        "LIMIT (SELECT 5)",
    ];
    for settings in [
        "SET seq_page_cost = 0; SET random_page_cost = 0",
        "SET cpu_tuple_cost = 0; SET cpu_operator_cost = 0; SET cpu_index_tuple_cost = 0",
        "SET seq_page_cost = 0; SET random_page_cost = 0; SET cpu_tuple_cost = 0; SET cpu_operator_cost = 0",
        "SET random_page_cost = 1e300",
        "SET cpu_operator_cost = 1e300; SET seq_page_cost = 1e-300",
        "SET work_mem = '64kB'",
        "SET distillvq.probes = 32768",
    ] {
        db.run(&format!("RESET ALL; {BY_INDEX}; {settings}"));
        for rest in rests {
            let sql = nearest(rest);
            let (startup, total) = cost(&mut db, &sql);
            assert!(startup <= total && startup >= 0.0, "{settings}: {sql}");
            db.run(&sql);
        }
    }
    db.run("RESET ALL; PREPARE few (bigint) AS SELECT id FROM items ORDER BY embedding <-> '[1,2,3,4,5,6,7,8]' LIMIT $1");
    db.run("SET plan_cache_mode = force_generic_plan; EXECUTE few (3); EXPLAIN EXECUTE few (3)");
    db.run(&format!(
        "BEGIN; DECLARE c CURSOR FOR {}; FETCH 3 FROM c; COMMIT",
        nearest("")
    ));
}

#[test]
fn tables_without_statistics_have_a_cost() {
    let mut db = Database::new("unknown");
    db.run("CREATE TABLE items (id bigint, embedding vector(8)); CREATE INDEX ON items USING distillvq (embedding)");
    let sql = nearest("LIMIT 3");
    db.run(BY_INDEX);
    assert!(db.plan(&sql).contains("Index Scan"));
    db.run("INSERT INTO items SELECT n, array_fill(random(), '{8}')::vector FROM generate_series(1, 5000) n");
    assert!(cost(&mut db, &sql).1 > 0.0);
    db.run("ANALYZE items; TRUNCATE items");
    assert!(cost(&mut db, &sql).1 > 0.0);
    // A partition is a table whose rows are a part of those wanted.
    db.run(
        "CREATE TABLE parts (id bigint, embedding vector(8)) PARTITION BY HASH (id);
         CREATE TABLE part0 PARTITION OF parts FOR VALUES WITH (MODULUS 2, REMAINDER 0);
         CREATE TABLE part1 PARTITION OF parts FOR VALUES WITH (MODULUS 2, REMAINDER 1);
         INSERT INTO parts SELECT n, array_fill(random(), '{8}')::vector FROM generate_series(1, 20000) n;
         CREATE INDEX ON parts USING distillvq (embedding);
         ANALYZE parts; RESET ALL",
    );
    let plan = db.plan(&sql.replace("items", "parts"));
    assert_eq!(plan.matches("Index Scan").count(), 2, "{plan}");
}

/// Two models of other dimensions in one table, and an index for one of them, as pgvector's documentation has it.
fn mixed(name: &str) -> Database {
    let mut db = Database::new(name);
    db.run(
        "CREATE TABLE items (id bigint, model_id int, kind int, embedding vector);
         INSERT INTO items SELECT n, 123, 1 + n % 5, ARRAY[sin(n), cos(n), n % 7]::vector FROM generate_series(1, 3000) n;
         INSERT INTO items SELECT n, 5, 0, ARRAY[sin(n), cos(n), n % 7, 1, 2]::vector FROM generate_series(3001, 9000) n;
         CREATE INDEX three ON items USING distillvq ((embedding::vector(3))) WHERE model_id = 123",
    );
    db.run_each(&["VACUUM ANALYZE items"]);
    db
}

const THREE: &str = "embedding::vector(3) <-> '[1,2,3]'";

#[test]
fn planning_evaluates_no_expression_and_reads_no_row() {
    let mut db = mixed("mixed");
    for (rest, expected) in [("< 0.9", true), ("< 100", false)] {
        let sql = format!(
            "SELECT id FROM items WHERE model_id = 123 AND {THREE} {rest} ORDER BY {THREE}"
        );
        for settings in ["RESET ALL", "SET enable_indexscan = off"] {
            db.run(settings);
            db.plan(&sql);
            let rows: Vec<i64> = db.column(&sql);
            assert!(rows.iter().all(|id| *id <= 3000), "{rest}");
        }
        db.run("RESET ALL");
        assert_eq!(db.plan(&sql).contains("using three"), expected, "{rest}");
    }
    // An expression that fails for rows without the predicate, and a function that says what it is given.
    db.run(
        "CREATE FUNCTION tell(v vector, kind int) RETURNS public.vector LANGUAGE plpgsql IMMUTABLE AS $$
             BEGIN RAISE NOTICE 'given %', v; RETURN (v::real[])[1:3]::public.vector OPERATOR(public.*) ARRAY[1 / kind, 1, 1]::public.vector; END $$;
         SET client_min_messages = error;
         CREATE INDEX told ON items USING distillvq ((tell(embedding, kind)::vector(3))) WHERE kind > 0;
         CREATE INDEX shares ON items USING distillvq (((embedding::real[] || 1 / kind::real)::vector(4))) WHERE kind > 0;
         ANALYZE items; RESET client_min_messages",
    );
    for distance in [
        "tell(embedding, kind)::vector(3) <-> '[1,2,3]'",
        "(embedding::real[] || 1 / kind::real)::vector(4) <-> '[1,2,3,1]'",
    ] {
        let sql =
            format!("SELECT id FROM items WHERE kind > 0 AND {distance} < 0.5 ORDER BY {distance}");
        for settings in ["", "SET enable_indexscan = off;"] {
            let notices = db.notices(&format!("{settings} EXPLAIN {sql}"));
            assert_eq!(notices, "", "{distance}");
        }
    }
}

#[test]
fn planning_takes_no_predicate_locks() {
    let (mut db, query, nth) = ranges("plan_locks");
    let farthest = nth(&mut db, 50);
    let order = format!("embedding <-> {query}");
    db.run("BEGIN ISOLATION LEVEL SERIALIZABLE");
    let sql = format!("SELECT id FROM items WHERE {order} < {farthest} ORDER BY {order}");
    assert!(searches(&mut db, &sql));
    let locks: i64 = db
        .one("SELECT count(*) FROM pg_locks WHERE mode = 'SIReadLock' AND pid = pg_backend_pid()");
    db.run("COMMIT");
    assert_eq!(locks, 0);
}

#[test]
fn planning_tells_nothing_to_a_role_without_rights() {
    let mut db = mixed("without_rights");
    db.run(
        "CREATE FUNCTION tell(v vector) RETURNS public.vector LANGUAGE plpgsql IMMUTABLE AS $$
             BEGIN RAISE NOTICE 'given %', v; RETURN v::public.vector(3); END $$;
         SET client_min_messages = error;
         CREATE INDEX told ON items USING distillvq ((tell(embedding)::vector(3))) WHERE model_id = 123; ANALYZE items",
    );
    let mut eve = db.session_of("eve_plans");
    let union = "(SELECT * FROM ONLY items UNION ALL SELECT * FROM items) AS twice";
    for distance in [THREE, "tell(embedding)::vector(3) <-> '[1,2,3]'"] {
        for (settings, from) in [
            ("RESET enable_indexscan", "items"),
            ("SET enable_indexscan = off", "items"),
            ("RESET enable_indexscan", union),
        ] {
            eve.run(settings);
            let refusal = eve.refusal(&format!(
                "EXPLAIN SELECT id FROM {from} WHERE model_id = 123 AND {distance} < 1 ORDER BY {distance}"
            ));
            assert_eq!(refusal.state, "42501", "{refusal:?}");
            assert_eq!(refusal.message, "permission denied for table items");
        }
    }
}

#[test]
fn a_damaged_page_costs_an_estimate_and_no_error() {
    if !common::can_evict() {
        return;
    }
    let (mut db, query, nth) = ranges("damaged_plans");
    db.damaged = true;
    let farthest = nth(&mut db, 50);
    let path: String = db.one("SELECT pg_relation_filepath('items_embedding_idx')");
    let file = server().data().join(path);
    db.run("CHECKPOINT");
    let sound = std::fs::read(&file).unwrap();
    let order = format!("embedding <-> {query}");
    let sql = format!("SELECT id FROM items WHERE {order} < {farthest} ORDER BY {order}");
    // From the page's header on, and behind it.
    for start in [0, 24] {
        for settings in [
            "RESET ignore_checksum_failure",
            "SET ignore_checksum_failure = on",
        ] {
            let mut bytes = sound.clone();
            for page in bytes.chunks_mut(8_192) {
                page[start..].fill(0xA5);
            }
            std::fs::write(&file, &bytes).unwrap();
            let mut session = db.session();
            common::evict(&mut session, "items_embedding_idx");
            session.run(settings);
            session.plan(&sql);
            session.plan(&format!("SELECT id FROM items ORDER BY {order} LIMIT 5"));
            std::fs::write(&file, &sound).unwrap();
            common::evict(&mut session, "items_embedding_idx");
        }
    }
    assert!(searches(&mut db.session(), &sql));
}

#[test]
fn limits_that_are_not_known_yet_are_supposed_to_be_narrow() {
    let (mut db, query, nth) = ranges("unknown_limits");
    let narrow = nth(&mut db, 20);
    db.run(
        "CREATE TABLE asked AS SELECT id, embedding FROM items WHERE id < 50; ANALYZE asked;
         PREPARE near (vector, float8) AS
             SELECT id FROM items WHERE 1 - (embedding <-> $1) > 1 - $2 ORDER BY embedding <-> $1;
         SET plan_cache_mode = force_generic_plan",
    );
    for sql in [
        format!("EXECUTE near ({query}, {narrow})"),
        format!(
            "SELECT count(near.id) FROM asked, LATERAL (SELECT id FROM items
                 WHERE embedding <-> asked.embedding < {narrow} ORDER BY embedding <-> asked.embedding) near"
        ),
        format!(
            "SELECT id FROM items WHERE embedding <-> {query} < (SELECT min(id) FROM asked) ORDER BY embedding <-> {query}"
        ),
    ] {
        assert!(searches(&mut db, &sql), "{sql:.300}");
    }
    // Between two distances, and from one on.
    let order = format!("embedding <-> {query}");
    let [near, far, all] = [20, 60, 9_000].map(|n| nth(&mut db, n));
    for (condition, expected) in [
        (format!("{order} > {near} AND {order} < {far}"), true),
        (format!("{order} BETWEEN {near} AND {far}"), true),
        (
            format!("1 - ({order}) BETWEEN 1 - {far} AND 1 - {near}"),
            true,
        ),
        (format!("{order} BETWEEN {near} AND {all}"), false),
    ] {
        let sql = format!("SELECT id FROM items WHERE {condition} ORDER BY {order}");
        assert_eq!(searches(&mut db, &sql), expected, "{condition:.60}");
    }
    db.run(BY_INDEX);
    let from =
        |n: f64| format!("SELECT id FROM items WHERE {order} > {n} ORDER BY {order} LIMIT 10");
    let costs = [near, far, all].map(|n| cost(&mut db, &from(n)).1);
    assert!(costs[2] > 3.0 * costs[0], "{costs:?}");
}

#[test]
fn joins_that_keep_few_rows_are_counted() {
    let mut db = Database::new("joins");
    let all = Vectors::clustered(30_001, 32, 50, 3);
    table(&mut db, "chunks", "vector", &all.slice(0..30_000));
    let query = literal(all.row(30_000));
    db.run(
        "ALTER TABLE chunks ADD COLUMN doc int GENERATED ALWAYS AS (id / 5) STORED;
         CREATE TABLE docs AS SELECT doc, doc * 7919 % 6000 AS x FROM generate_series(0, 5999) doc;
         CREATE TABLE allowed AS SELECT id::bigint FROM generate_series(0, 29999, 100) id;
         CREATE TABLE pages AS SELECT doc, page FROM docs, generate_series(1, 4) page;
         CREATE INDEX ON chunks USING distillvq (embedding);
         CREATE INDEX ON chunks (doc); CREATE UNIQUE INDEX ON chunks (id); CREATE UNIQUE INDEX ON docs (doc);
         CREATE INDEX ON docs (x); CREATE INDEX ON pages (doc)",
    );
    db.run_each(&[
        "VACUUM ANALYZE chunks",
        "ANALYZE docs",
        "ANALYZE allowed",
        "ANALYZE pages",
    ]);
    for (rest, expected) in [
        (
            "JOIN docs USING (doc) WHERE docs.x < 30 ORDER BY @ LIMIT 10",
            false,
        ),
        (
            "JOIN docs USING (doc) WHERE docs.x < 3000 ORDER BY @ LIMIT 10",
            true,
        ),
        ("JOIN docs USING (doc) ORDER BY @ LIMIT 10", true),
        ("JOIN pages USING (doc) ORDER BY @ LIMIT 10", true),
        ("LEFT JOIN docs USING (doc) ORDER BY @ LIMIT 10", true),
        (
            "WHERE chunks.id IN (SELECT id FROM allowed) ORDER BY @ LIMIT 10",
            false,
        ),
        (
            "WHERE NOT EXISTS (SELECT FROM allowed WHERE allowed.id = chunks.id) ORDER BY @ LIMIT 10",
            true,
        ),
    ] {
        let sql = format!(
            "SELECT chunks.id FROM chunks {}",
            rest.replace('@', &format!("chunks.embedding <-> {query}"))
        );
        let plan = db.plan(&sql);
        assert_eq!(
            plan.contains("Index Scan using chunks_embedding_idx"),
            expected,
            "{rest}\n{plan}"
        );
    }
}
