//! Filters and distance limits: how far a search continues, where it ends, and what its counters report.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::sync::OnceLock;

use common::{
    ALL, Database, Found, Sql, by_index, by_table, ids, in_order, literal, recall, search, server,
    table, verified,
};
use distillvq_harness::{Metric, Vectors};
use postgres::Client;

const ROWS: usize = 20_000;

/// The same rows twice, under an index without refine codes and one with.
const TABLES: [&str; 2] = ["items", "refined"];

/// A session in the database that the tests share, and queries.
fn session() -> (Client, &'static Vectors) {
    static QUERIES: OnceLock<Vectors> = OnceLock::new();
    let queries = QUERIES.get_or_init(|| {
        let all = Vectors::clustered(ROWS + 20, 24, 100, 7);
        let mut client = server().database("filters").unwrap();
        table(&mut client, "items", "vector", &all.slice(0..ROWS));
        client.run(
            "CREATE TABLE refined AS SELECT * FROM items;
             CREATE INDEX items_idx ON items USING distillvq (embedding) WITH (lists = 160, probes = 8);
             CREATE INDEX refined_idx ON refined USING distillvq (embedding)
                 WITH (lists = 160, probes = 8, refine = sq7)",
        );
        client.run_each(&["VACUUM ANALYZE items", "VACUUM ANALYZE refined"]);
        verified(&mut client);
        all.slice(ROWS..ROWS + 20)
    });
    let mut client = server().connect_to("filters").unwrap();
    client.run("SET max_parallel_workers_per_gather = 0");
    (client, queries)
}

/// What `distillvq_last_scan` says.
#[derive(Debug)]
struct Counters {
    index: String,
    lists: i64,
    probed: i64,
    codes: i64,
    refined: i64,
    compared: i64,
    returned: i64,
    dropped: i64,
}

fn last_scan(client: &mut Client) -> Counters {
    let sql = "SELECT index::text, lists, probed, codes, refined, reranked, returned, dropped
               FROM distillvq_last_scan()";
    let row = client.query_one(sql, &[]).unwrap();
    Counters {
        index: row.get(0),
        lists: row.get(1),
        probed: row.get(2),
        codes: row.get(3),
        refined: row.get(4),
        compared: row.get(5),
        returned: row.get(6),
        dropped: row.get(7),
    }
}

fn nearest(table: &str, filter: &str, query: &[f32], rest: &str) -> String {
    search(&format!("{table} WHERE {filter}"), Metric::L2, query, rest)
}

#[test]
fn a_filter_finds_its_limit_of_rows() {
    let (mut client, queries) = session();
    for (divisor, least) in [(2, 0.9), (10, 0.9), (100, 0.9), (1000, 0.9)] {
        for name in TABLES {
            let mut sum = 0.0;
            for query in queries.iter() {
                let filter = format!("id % {divisor} = 1");
                let sql = nearest(name, &filter, query, "LIMIT 10");
                let found = by_index(&mut client, &sql);
                in_order(&found);
                assert_eq!(found.len(), 10, "{name} {divisor}");
                sum += recall(&found, &by_table(&mut client, &sql));
            }
            let recall = sum / queries.rows() as f64;
            assert!(recall >= least, "{name} {divisor}: {recall}");
        }
    }
}

#[test]
fn off_stays_with_the_first_lists() {
    let (mut client, queries) = session();
    for name in TABLES {
        let sql = nearest(name, "id % 1000 = 7", queries.row(0), "LIMIT 10");
        assert_eq!(by_index(&mut client, &sql).len(), 10);
        assert!(last_scan(&mut client).probed > 3);
        client.run("SET distillvq.iterative_scan = off; SET distillvq.probes = 3");
        assert!(by_index(&mut client, &sql).len() < 10);
        let counters = last_scan(&mut client);
        assert_eq!(counters.probed, 3);
        // Nearly all rows of those lists come.
        let (returned, compared) = (counters.returned, counters.compared);
        assert!(returned > 10 && returned <= compared, "{counters:?}");
        assert!(returned * 10 >= compared * 9, "{counters:?}");
        client.run("SET distillvq.max_probes = 50");
        by_index(&mut client, &sql);
        assert_eq!(last_scan(&mut client).probed, 3);
        client.run("RESET ALL");
    }
}

#[test]
fn by_default_late_rows_are_dropped() {
    let (mut client, queries) = session();
    for name in TABLES {
        client.run("SET distillvq.probes = 1");
        let sql = search(name, Metric::L2, queries.row(1), "");
        let found = by_index(&mut client, &sql);
        in_order(&found);
        let (rows, counters) = (found.len(), last_scan(&mut client));
        assert!((ROWS * 9 / 10..=ROWS).contains(&rows), "{name}: {rows}");
        assert_eq!(counters.dropped, (ROWS - rows) as i64, "{counters:?}");
        client.run("SET distillvq.iterative_scan = relaxed_order");
        assert_eq!(by_index(&mut client, &sql).len(), ROWS);
        assert_eq!(last_scan(&mut client).dropped, 0);
        client.run("RESET ALL");
    }
}

/// Runs a statement as the planner likes it, and by sequential scans.
fn by_default_and_by_table<T>(client: &mut Client, sql: &str) -> [Vec<T>; 2]
where
    T: for<'a> postgres::types::FromSql<'a>,
{
    client.run("SET enable_seqscan = off; SET enable_sort = off; SET enable_hashagg = off");
    let plan = client.plan(sql);
    assert!(plan.contains("Index Scan using"), "{plan}");
    let found = client.column(sql);
    client.run("RESET ALL; SET enable_indexscan = off");
    let truth = client.column(sql);
    client.run("RESET ALL");
    [found, truth]
}

#[test]
fn what_is_computed_from_the_order_is_right() {
    let mut db = Database::new("computed_from_order");
    db.run(
        "SELECT setseed(0.5);
         CREATE TABLE items AS SELECT id, (SELECT array_agg(trunc(random() * 4)) FROM generate_series(1, 8) WHERE id > 0)::vector(8)
             AS embedding FROM generate_series(1, 20000) AS id;
         CREATE INDEX ON items USING distillvq (embedding)",
    );
    db.run_each(&["VACUUM ANALYZE items"]);
    for q in [
        "'[1,2,0,3,1,1,2,0]'",
        "'[0,0,3,1,2,3,0,1]'",
        "'[3,1,1,1,0,2,2,2]'",
    ] {
        let near = format!(
            "(SELECT id, embedding <-> {q} AS d FROM items WHERE embedding <-> {q} < 3 ORDER BY embedding <-> {q}) near"
        );
        let distances = [
            format!("SELECT DISTINCT d FROM {near} ORDER BY d"),
            format!("SELECT d FROM {near} GROUP BY d ORDER BY d"),
            format!(
                "SELECT DISTINCT embedding <-> {q} AS d FROM items WHERE embedding <-> {q} < 3 ORDER BY d"
            ),
        ];
        for sql in distances {
            let [found, truth] = by_default_and_by_table::<f64>(&mut db, &sql);
            assert!(found.is_sorted_by(|a, b| a < b), "{sql}: {found:?}");
            assert!(found.iter().all(|d| truth.contains(d)), "{sql}: {found:?}");
            assert!(found.len() + 1 >= truth.len(), "{sql}: {found:?}");
        }
        // Windows and sorted aggregates: no distance is less than the one before.
        for sql in [
            format!(
                "SELECT count(*) FROM (SELECT d - lag(d) OVER (ORDER BY d) AS step FROM {near}) steps WHERE step < 0"
            ),
            format!("SELECT count(*) - count(DISTINCT d) FROM (SELECT DISTINCT d FROM {near}) one"),
        ] {
            let [found, truth] = by_default_and_by_table::<i64>(&mut db, &sql);
            assert_eq!((found, truth), (vec![0], vec![0]), "{sql}");
        }
        let sql = format!("SELECT array_agg(d ORDER BY d) FROM {near}");
        let [found, _] = by_default_and_by_table::<Vec<f64>>(&mut db, &sql);
        assert!(found.iter().all(|all| all.is_sorted()), "{sql}");
    }
}

#[test]
fn limits_end_the_probing() {
    let (mut client, queries) = session();
    for name in TABLES {
        let sql = search(name, Metric::L2, queries.row(2), "");
        client.run("SET distillvq.probes = 4; SET distillvq.max_probes = 9");
        let rows = by_index(&mut client, &sql).len();
        assert_eq!(last_scan(&mut client).probed, 9);
        assert!(rows < ROWS / 4, "{rows}");
        client.run("SET distillvq.probes = 12");
        by_index(&mut client, &sql);
        assert_eq!(
            last_scan(&mut client).probed,
            12,
            "the first ones in any case"
        );
        client.run("RESET distillvq.max_probes; SET distillvq.probes = 4");
        client.run("SET distillvq.max_scan_tuples = 300");
        let rows = by_index(&mut client, &sql).len();
        let counters = last_scan(&mut client);
        assert!((4..100).contains(&counters.probed), "{counters:?}");
        assert!(
            rows > 300 && counters.returned as usize == rows && rows < ROWS,
            "{counters:?}"
        );
        client.run("RESET ALL");
    }
    assert_eq!(
        client.refusal("SET distillvq.max_probes = -1").state,
        "22023"
    );
    assert_eq!(
        client.refusal("SET distillvq.iterative_scan = 'on'").state,
        "22023"
    );
}

/// Runs a limited search by the index and without it; fails unless both give the same and the index compared few rows.
#[track_caller]
fn ends_by_itself(client: &mut Client, sql: &str) -> Found {
    let (found, truth) = (by_index(client, sql), by_table(client, sql));
    let counters = last_scan(client);
    in_order(&found);
    assert_eq!(ids(&found), ids(&truth), "{sql}");
    assert!(
        counters.compared < (ROWS / 10) as i64,
        "{} rows: {counters:?}",
        truth.len()
    );
    found
}

#[test]
fn a_distance_ends_the_search_in_all_forms() {
    let (mut client, queries) = session();
    client.run(&format!("SET distillvq.probes = {ALL}"));
    for name in TABLES {
        for query in queries.slice(0..5).iter() {
            let near = by_table(&mut client, &search(name, Metric::L2, query, "LIMIT 41"));
            let (r, q) = (near[40].1, literal(query));
            for (filter, rows) in [
                (format!("embedding <-> {q} < {r}"), 40),
                (format!("embedding <-> {q} <= {r}"), 41),
                (format!("{r} > embedding <-> {q}"), 40),
                (format!("{r} >= embedding <-> {q}"), 41),
                (format!("{q} <-> embedding < {r}"), 40),
                (format!("embedding <-> {q} BETWEEN 0 AND {r}"), 41),
                (
                    format!("embedding <-> {q} < {r} AND id % 2 = 0 AND embedding <-> {q} < 1e6"),
                    -1,
                ),
                (format!("embedding <-> {q} < 0"), 0),
                (format!("embedding <-> {q} < -1"), 0),
                (format!("embedding <-> {q} < '-Infinity'"), 0),
            ] {
                let found = ends_by_itself(&mut client, &nearest(name, &filter, query, ""));
                assert!(rows < 0 || found.len() == rows as usize, "{filter}");
            }
            let filter = format!("embedding <-> {q} < {r}");
            let sql = nearest(name, &filter, query, "LIMIT 30");
            assert_eq!(ends_by_itself(&mut client, &sql).len(), 30);
            // A vector on the other side of the order.
            let sql = format!(
                "SELECT id, embedding <-> {q} FROM {name} WHERE embedding <-> {q} < {r} ORDER BY {q} <-> embedding"
            );
            assert_eq!(ends_by_itself(&mut client, &sql).len(), 40);
        }
    }
}

#[test]
fn a_distance_that_is_no_limit_of_the_scan() {
    let (mut client, queries) = session();
    client.run(&format!(
        "SET distillvq.probes = {ALL}; SET distillvq.iterative_scan = relaxed_order"
    ));
    let (q, other) = (literal(queries.row(0)), literal(queries.row(1)));
    let near = by_table(
        &mut client,
        &search("items", Metric::L2, queries.row(0), "LIMIT 9"),
    );
    let r = near[8].1;
    let beyond: i64 = client.one(&format!(
        "SELECT id FROM items ORDER BY embedding <-> {q} OFFSET 5000 LIMIT 1"
    ));
    for (filter, least) in [
        (format!("embedding <-> {q} < {r} OR id = {beyond}"), 9),
        (format!("NOT embedding <-> {q} < {r}"), ROWS - 9),
        (format!("embedding <-> {q} > {r}"), ROWS - 10),
        (format!("embedding <-> {other} < 4"), 1),
        (format!("embedding <-> {q} < 'NaN'"), ROWS),
        (format!("embedding <-> {q} < 'Infinity'"), ROWS),
        (format!("embedding <-> {q} < {r} + id"), 9),
        (format!("embedding <-> {q} < NULL::float8"), 0),
    ] {
        let sql = nearest("items", &filter, queries.row(0), "");
        let truth = by_table(&mut client, &sql);
        assert!(truth.len() >= least, "{filter}: {}", truth.len());
        client.run("SET enable_seqscan = off; SET enable_sort = off; SET enable_bitmapscan = off");
        let found: Vec<i64> = client.column(&sql);
        client.run("RESET enable_seqscan; RESET enable_sort; RESET enable_bitmapscan");
        let mut found = found;
        found.sort_unstable();
        assert_eq!(found, ids(&truth), "{filter}");
    }
}

#[test]
fn a_distance_for_the_other_metrics() {
    for metric in [Metric::InnerProduct, Metric::Cosine] {
        let mut db = Database::new(&format!("range_{}", metric.name()));
        let all = Vectors::clustered(5_010, 16, 30, 3);
        table(&mut db, "items", "vector", &all.slice(0..5_000));
        db.run(&format!(
            "CREATE INDEX ON items USING distillvq (embedding vector_{}_ops); SET distillvq.probes = {ALL}",
            metric.name()
        ));
        for query in all.slice(5_000..5_010).iter() {
            let near = by_table(&mut db, &search("items", metric, query, "LIMIT 21"));
            let (q, r) = (literal(query), near[20].1);
            let filtered = format!("items WHERE embedding {} {q} < {r}", metric.operator());
            let found = ends_by_itself(&mut db, &search(&filtered, metric, query, ""));
            assert_eq!(found.len(), 20);
        }
    }
}

#[test]
fn the_distance_of_a_prepared_statement() {
    let (mut client, queries) = session();
    client.run(&format!(
        "SET distillvq.probes = {ALL}; SET distillvq.iterative_scan = relaxed_order"
    ));
    let q = literal(queries.row(3));
    let near = by_table(
        &mut client,
        &search("items", Metric::L2, queries.row(3), "LIMIT 21"),
    );
    let r = near[20].1;
    for mode in ["force_generic_plan", "force_custom_plan"] {
        client.run(&format!(
            "SET plan_cache_mode = {mode}; DEALLOCATE ALL;
             PREPARE near(vector, float8) AS SELECT id FROM items WHERE embedding <-> $1 < $2 ORDER BY embedding <-> $1;
             SET enable_seqscan = off; SET enable_sort = off"
        ));
        let plan = client.plan(&format!("EXECUTE near({q}, {r})"));
        assert!(plan.contains("Index Scan using items_idx"), "{plan}");
        for (limit, rows, most) in [
            (r.to_string(), 20, 1500),
            ("-1".into(), 0, 1500),
            ("'NaN'".into(), ROWS, ROWS),
            (r.to_string(), 20, 1500),
        ] {
            let found: Vec<i64> = client.column(&format!("EXECUTE near({q}, {limit})"));
            assert_eq!(found.len(), rows, "{mode} {limit}");
            let compared = last_scan(&mut client).compared;
            assert!(compared <= most as i64, "{mode} {limit}: {compared}");
        }
        let found: Vec<i64> = client.column(&format!("EXECUTE near({q}, NULL)"));
        assert!(found.is_empty());
    }
}

#[test]
fn distances_of_rescans_and_of_nested_queries() {
    let (mut client, queries) = session();
    client.run(&format!(
        "SET distillvq.probes = {ALL}; CREATE TEMP TABLE asked (n int, q vector(24), r float8)"
    ));
    for (n, query) in queries.slice(0..6).iter().enumerate() {
        let near = by_table(&mut client, &search("items", Metric::L2, query, "LIMIT 31"));
        let radius = ["NULL", "'NaN'", "-1", "0"]
            .get(n)
            .map_or(near[30].1.to_string(), |r| r.to_string());
        client.run(&format!(
            "INSERT INTO asked VALUES ({n}, {}, {radius})",
            literal(query)
        ));
    }
    client.run(
        "CREATE FUNCTION pg_temp.near(q vector, r float8) RETURNS bigint LANGUAGE plpgsql AS $$
             BEGIN RETURN (SELECT count(*) FROM
                 (SELECT FROM items WHERE embedding <-> q < r ORDER BY embedding <-> q LIMIT 50) found); END $$",
    );
    for sql in [
        "SELECT count(id) FROM asked LEFT JOIN LATERAL (SELECT id FROM items WHERE embedding <-> q < r
             ORDER BY embedding <-> q LIMIT 50) near ON true GROUP BY n ORDER BY n",
        "SELECT pg_temp.near(q, r) FROM asked ORDER BY n",
        // A search within each row of another.
        "SELECT pg_temp.near(embedding, 1.2) FROM
             (SELECT embedding FROM items ORDER BY embedding <-> (SELECT q FROM asked WHERE n = 5) LIMIT 5) nearby",
        // A limit that is known only when the first row is looked at.
        "SELECT id FROM items WHERE embedding <-> (SELECT q FROM asked WHERE n = 5) < 1
             ORDER BY embedding <-> (SELECT q FROM asked WHERE n = 5)",
    ] {
        client.run("SET enable_seqscan = off; SET enable_sort = off");
        let found: Vec<i64> = client.column(sql);
        client.run("RESET enable_seqscan; RESET enable_sort; SET enable_indexscan = off");
        let truth: Vec<i64> = client.column(sql);
        client.run("RESET enable_indexscan");
        assert_eq!(found, truth, "{sql}");
        assert!(!found.is_empty());
    }
    let q = literal(queries.row(5));
    let sql = nearest(
        "items",
        &format!("embedding <-> {q} < (SELECT r FROM asked WHERE n = 5)"),
        queries.row(5),
        "",
    );
    assert_eq!(ends_by_itself(&mut client, &sql).len(), 30);
}

#[test]
fn a_distance_in_partitions() {
    let mut db = Database::new("range_partitions");
    let all = Vectors::clustered(6_001, 16, 30, 3);
    db.run(
        "CREATE TABLE items (id bigint, embedding vector(16)) PARTITION BY HASH (id);
         CREATE TABLE odd PARTITION OF items FOR VALUES WITH (MODULUS 2, REMAINDER 0);
         CREATE TABLE even (embedding vector(16), id bigint);
         ALTER TABLE items ATTACH PARTITION even FOR VALUES WITH (MODULUS 2, REMAINDER 1)",
    );
    distillvq_harness::load::copy_vectors(&mut db, "items", &all.slice(0..6_000)).unwrap();
    db.run(&format!(
        "CREATE INDEX ON items USING distillvq (embedding); SET distillvq.probes = {ALL}"
    ));
    let query = all.row(6_000);
    let near = by_table(&mut db, &search("items", Metric::L2, query, "LIMIT 31"));
    let (q, r) = (literal(query), near[30].1);
    let sql = nearest("items", &format!("embedding <-> {q} < {r}"), query, "");
    let found = ends_by_itself(&mut db, &sql);
    assert_eq!(found.len(), 30);
    if db.one::<i32>("SELECT current_setting('server_version_num')::int") >= 180_000 {
        db.run("SET enable_seqscan = off; SET enable_sort = off");
        let text = db.column::<String>(&format!("EXPLAIN (ANALYZE) {sql}"));
        let compared = numbers(&text, "Rows Reranked");
        assert_eq!(compared.len(), 2, "{text:?}");
        assert!(compared.iter().all(|&n| (1..1000).contains(&n)), "{text:?}");
    }
}

#[test]
fn errors_and_cursors_do_not_mislead_a_search() {
    let (mut client, queries) = session();
    client.run(&format!("SET distillvq.probes = {ALL}"));
    let query = queries.row(4);
    let near = by_table(&mut client, &search("items", Metric::L2, query, "LIMIT 31"));
    let (q, r) = (literal(query), near[30].1);
    let sql = nearest("items", &format!("embedding <-> {q} < {r}"), query, "");
    client.run(&format!(
        "SET enable_seqscan = off; SET enable_sort = off; BEGIN; DECLARE found CURSOR FOR {sql}"
    ));
    let mut found: Vec<i64> = client.column("FETCH 7 FROM found");
    for _ in 0..3 {
        client.run("SAVEPOINT before");
        let failing = nearest("items", "1 / (id - id) = 1", query, "LIMIT 5");
        assert_eq!(client.refusal(&failing).state, "22012");
        client.run("ROLLBACK TO before");
        client.run(&format!(
            "DO $$ BEGIN PERFORM * FROM ({failing}) failing; EXCEPTION WHEN division_by_zero THEN NULL; END $$"
        ));
        found.extend(client.column::<i64>("FETCH 5 FROM found"));
    }
    found.extend(client.column::<i64>("FETCH ALL FROM found"));
    client.run("COMMIT; RESET enable_seqscan; RESET enable_sort");
    found.sort_unstable();
    assert_eq!(found, ids(&near[..30]));
    ends_by_itself(&mut client, &sql);
}

/// The numbers behind a label in lines of a plan.
fn numbers(plan: &[String], label: &str) -> Vec<i64> {
    let numbers = plan.iter().filter_map(|line| {
        let (before, number) = line.split_once(label)?;
        before
            .trim()
            .is_empty()
            .then(|| number.trim_start_matches(':').trim().parse().unwrap())
    });
    numbers.collect()
}

#[test]
fn a_plan_shows_what_its_searches_did() {
    let (mut client, queries) = session();
    client.run("SET enable_seqscan = off; SET enable_sort = off");
    let sql = search("refined", Metric::L2, queries.row(0), "LIMIT 10");
    let plain: Vec<String> = client.column(&format!("EXPLAIN {sql}"));
    assert!(!plain.join("\n").contains("Probed"), "{plain:?}");
    let text: Vec<String> = client.column(&format!("EXPLAIN (ANALYZE) {sql}"));
    if client.one::<i32>("SELECT current_setting('server_version_num')::int") < 180_000 {
        return;
    }
    let counters = last_scan(&mut client);
    for (label, value) in [
        ("Lists Probed", counters.probed),
        ("Codes Scanned", counters.codes),
        ("Refine Codes Compared", counters.refined),
        ("Rows Reranked", counters.compared),
    ] {
        assert!(value > 0);
        assert_eq!(numbers(&text, label), [value], "{label}: {text:?}");
    }
    client.run(
        "CREATE FUNCTION pg_temp.explain(sql text) RETURNS jsonb LANGUAGE plpgsql AS $$
             DECLARE plan jsonb; BEGIN EXECUTE 'EXPLAIN (ANALYZE, FORMAT JSON) ' || sql INTO plan; RETURN plan; END $$",
    );
    let plan: String = client.one(&format!(
        "SELECT jsonb_path_query_first(pg_temp.explain($sql${sql}$sql$), '$.**.\"Lists Probed\"')::text"
    ));
    assert_eq!(plan, counters.probed.to_string());
    // Every search of a node counts.
    let sql = "SELECT (SELECT id FROM items ORDER BY embedding <-> q.embedding LIMIT 1) FROM
               (SELECT embedding FROM refined WHERE id < 7 OFFSET 0) q";
    let text: Vec<String> = client.column(&format!("EXPLAIN (ANALYZE) {sql}"));
    assert_eq!(numbers(&text, "Lists Probed"), [7 * 8], "{text:?}");
}

#[test]
fn the_last_scan_tells_what_it_did() {
    let (mut client, queries) = session();
    let none: i64 = client.one("SELECT count(*) FROM distillvq_last_scan()");
    assert_eq!(none, 0);
    by_index(
        &mut client,
        &search("items", Metric::L2, queries.row(0), "LIMIT 10"),
    );
    let counters = last_scan(&mut client);
    assert_eq!(counters.index, "items_idx");
    assert_eq!(
        (counters.lists, counters.probed, counters.returned),
        (160, 8, 10)
    );
    assert_eq!(counters.refined, 0);
    assert!(
        (100..ROWS as i64 / 4).contains(&counters.codes),
        "{counters:?}"
    );
    assert!((10..1000).contains(&counters.compared), "{counters:?}");

    client.run(&format!(
        "SET enable_seqscan = off; SET enable_sort = off; BEGIN; DECLARE found CURSOR FOR {}",
        search("refined", Metric::L2, queries.row(0), "")
    ));
    for returned in [3, 6] {
        client.run("MOVE 3 FROM found");
        let counters = last_scan(&mut client);
        assert_eq!(
            (counters.index.as_str(), counters.returned),
            ("refined_idx", returned)
        );
        assert!(counters.refined >= counters.compared, "{counters:?}");
    }
    client.run("COMMIT");
}
