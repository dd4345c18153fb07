//! Calibration: targets are met, and the precedence of settings for the number of probed lists.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{Database, Sql, search, table};
use distillvq_harness::measure::{find, nearest};
use distillvq_harness::{DataSet, Metric, Truth, Vectors};
use postgres::Client;

/// What `distillvq_calibrate` tells.
#[derive(Debug)]
struct Measured {
    kind: String,
    queries: i64,
    rows: i64,
    probes: Option<i32>,
}

/// Measures an index anew.
#[track_caller]
fn calibrate(client: &mut Client, arguments: &str) -> Measured {
    let sql = format!("SELECT * FROM distillvq_calibrate({arguments})");
    let row = client.query_one(&sql, &[]).unwrap();
    assert!(row.get::<_, f32>("seconds") > 0.0);
    Measured {
        kind: row.get("query_source"),
        queries: row.get("queries_used"),
        rows: row.get("rows"),
        probes: row.get("probes"),
    }
}

/// What the planner thinks that a search in `items` costs: it rises with the lists that are probed.
#[track_caller]
fn cost(client: &mut Client) -> f64 {
    client.run("SET enable_seqscan = off; SET enable_sort = off");
    let dim: i32 = client.one("SELECT vector_dims(embedding) FROM items LIMIT 1");
    let sql = search("items", Metric::Cosine, &vec![1.0; dim as usize], "LIMIT 1");
    let plan: String = client
        .column::<String>(&format!("EXPLAIN {sql}"))
        .join("\n");
    let scan = plan.lines().find(|line| line.contains("Index Scan using"));
    let (_, costs) = scan
        .unwrap_or_else(|| panic!("{plan}"))
        .split_once("cost=")
        .unwrap();
    client.run("RESET enable_seqscan; RESET enable_sort");
    costs.split_once("..").unwrap().0.parse().unwrap()
}

/// The cost with a target of this session.
#[track_caller]
fn cost_at(client: &mut Client, target: f64) -> f64 {
    client.run(&format!("SET distillvq.target_recall = {target}"));
    let cost = cost(client);
    client.run("RESET distillvq.target_recall");
    cost
}

/// Whether the index over `items` was measured: then targets differ.
#[track_caller]
fn calibrated(client: &mut Client) -> bool {
    cost_at(client, 0.5) < cost_at(client, 0.999)
}

/// Recall@10 of searches in `items` with a target.
fn recall(client: &mut Client, target: f64, queries: &Vectors, truth: &Truth<'_>) -> f64 {
    client.run(&format!("SET distillvq.target_recall = {target}"));
    let found = find(client, &nearest("items", Metric::Cosine, 10), queries).unwrap();
    client.run("RESET distillvq.target_recall");
    truth.recall(&found)
}

/// A database with a table `items` of 4,000 vectors in groups.
fn items(name: &str) -> Database {
    Database::of_items(name, &Vectors::like_texts(4_000, 32, 7, 0))
}

const INDEX: &str = "CREATE INDEX items_idx ON items USING distillvq (embedding vector_cosine_ops)";

#[test]
fn targets_are_met_by_queries_like_the_rows() {
    let mut db = Database::new("recall_rows");
    let rows = Vectors::like_texts(20_000, 64, 3, 0);
    let queries = Vectors::like_texts(400, 64, 3, 1);
    table(&mut db, "items", "vector", &rows);
    db.run(INDEX);
    db.run("ANALYZE items; SET enable_seqscan = off; SET enable_sort = off");
    let truth = Truth::new(Metric::Cosine, &rows, &queries, 10);
    for target in [0.9, 0.95, 0.98] {
        let recall = recall(&mut db, target, &queries, &truth);
        assert!(
            (target - 0.02..target + 0.03).contains(&recall),
            "{target}: {recall}"
        );
    }
    let all = recall(&mut db, 1.0, &queries, &truth);
    assert!(all > 0.99, "{all}");
}

#[test]
fn targets_are_met_by_logged_queries_that_are_unlike_the_rows() {
    let set = DataSet::shipped().unwrap();
    let mut db = Database::of_items("recall_log", &set.documents);
    table(&mut db, "log", "vector", &set.log);
    db.run(
        "SELECT distillvq_train('items', 'embedding', queries => 'log', query_column => 'embedding', model => 'm')",
    );
    db.run(&format!("{INDEX} WITH (model = m)"));
    // The searches below are no part of what the index learns.
    db.run("ANALYZE items; SET enable_seqscan = off; SET enable_sort = off; SET distillvq.sample_queries = off");
    let truth = Truth::new(Metric::Cosine, &set.documents, &set.test, 10);
    for target in [0.9, 0.95, 0.98] {
        let recall = recall(&mut db, target, &set.test, &truth);
        assert!(
            (target - 0.02..target + 0.03).contains(&recall),
            "{target}: {recall}"
        );
    }
    // The first ten rows take no more lists than they did without what further rows need.
    let queries = set.test.slice(0..100);
    let mut probed = |mode: &str| -> i64 {
        db.run(&format!("SET distillvq.iterative_scan = {mode}"));
        let one = |query: &[f32]| -> i64 {
            db.run(&search("items", Metric::Cosine, query, "LIMIT 10"));
            db.one("SELECT probed FROM distillvq_last_scan()")
        };
        queries.iter().map(one).sum()
    };
    let (first, all) = (probed("off"), probed("strict_order"));
    assert!(all * 100 <= first * 105, "{all} lists instead of {first}");
    db.run("RESET distillvq.iterative_scan");
    // The model's queries are used again, as long as it is there.
    let measured = calibrate(&mut db, "'items_idx'");
    assert_eq!((measured.kind.as_str(), measured.rows), ("log", 20_000));
    assert!((400..=600).contains(&measured.queries), "{measured:?}");
    db.run("SELECT distillvq_drop_model('m', force => true)");
    let by_rows = calibrate(&mut db, "'items_idx'");
    assert_eq!(by_rows.kind, "rows");
    assert!(by_rows.probes < measured.probes, "{by_rows:?} {measured:?}");
    let by_log = calibrate(&mut db, "'items_idx', 'log', 'embedding'");
    assert_eq!(by_log.kind, "log");
}

/// Ids of the rows of `items` that a statement with the operator, the query and a limit finds for each query.
fn found_by(
    client: &mut Client,
    sql: impl Fn(usize, &str) -> String,
    queries: &Vectors,
) -> Vec<Vec<i64>> {
    let each = queries.iter().enumerate();
    each.map(|(i, query)| client.column(&sql(i, &common::literal(query))))
        .collect()
}

#[test]
fn targets_are_met_at_any_depth() {
    const ROWS: usize = 20_000;
    let mut low = Vec::new();
    let mut check = |what: String, recall: f64| {
        println!("{what}: {recall:.3}");
        if recall < 0.93 {
            low.push(format!("{what}: {recall}"));
        }
    };
    for (metric, ops, dim) in [
        (Metric::L2, "vector_l2_ops", 16),
        (Metric::Cosine, "vector_cosine_ops", 64),
        (Metric::L2, "vector_l2_ops", 384),
    ] {
        // Groups of about twenty rows: what a query wants beyond its group lies in many lists.
        let all = Vectors::clustered(ROWS + 150, dim, 1_000, 3);
        let (rows, queries) = (all.slice(0..ROWS), all.slice(ROWS..ROWS + 150));
        let mut db = Database::of_items(&format!("recall_depth_{dim}_{}", metric.name()), &rows);
        db.run(&format!(
            "CREATE INDEX items_idx ON items USING distillvq (embedding {ops}); ANALYZE items;
             SET enable_seqscan = off; SET enable_sort = off; SET distillvq.target_recall = 0.95"
        ));
        let op = metric.operator();
        for k in [10, 30, 50, 100, 300] {
            let truth = Truth::new(metric, &rows, &queries, k);
            let found = find(&mut db, &nearest("items", metric, k), &queries).unwrap();
            let recall = truth.recall(&found);
            check(format!("{metric:?} {dim}, LIMIT {k}"), recall);
        }
        for of in [5, 10] {
            let truth = Truth::among(metric, &rows, &queries, 10, |row| row % of == 0);
            let sql = |_: usize, query: &str| {
                format!(
                    "SELECT id FROM items WHERE id % {of} = 0 ORDER BY embedding {op} {query} LIMIT 10"
                )
            };
            let recall = truth.recall(&found_by(&mut db, sql, &queries));
            check(format!("{metric:?} {dim}, one of {of} rows"), recall);
        }
        // A limit of the distance finds what is within, without any LIMIT.
        let truth = Truth::new(metric, &rows, &queries, 60);
        let farthest = |i: usize| {
            let last = truth.neighbors(i).last().unwrap();
            let distance = metric.distance(queries.row(i), rows.row(last));
            if metric == Metric::L2 {
                distance.sqrt()
            } else {
                distance
            }
        };
        let sql = |i: usize, query: &str| {
            let limit = farthest(i);
            format!(
                "SELECT id FROM items WHERE embedding {op} {query} <= {limit} ORDER BY embedding {op} {query}"
            )
        };
        let recall = truth.recall(&found_by(&mut db, sql, &queries));
        check(format!("{metric:?} {dim}, within a distance"), recall);
    }
    assert!(low.is_empty(), "{}", low.join("\n"));
}

#[test]
fn a_calibration_runs_the_search_that_users_run() {
    let mut off = Vec::new();
    // Coordinates: most of the table's rows that are near are as near as others.
    for (rows, dim, seed) in [(3_000, 2, 1), (4_000, 3, 2), (5_500, 2, 3)] {
        let mut db = Database::new(&format!("recall_coordinates_{rows}_{dim}"));
        db.run(&format!(
            "SELECT setseed(0.{seed});
             CREATE TABLE items AS SELECT i AS id, (SELECT array_agg(trunc(random() * 1000)) FROM generate_series(1, {dim}) j WHERE j + i > 0)::vector({dim}) AS embedding
                 FROM generate_series(1, {rows}) i;
             CREATE TABLE log AS SELECT i AS id, (SELECT array_agg(trunc(random() * 1000)) FROM generate_series(1, {dim}) j WHERE j + i > 0)::vector({dim}) AS embedding
                 FROM generate_series(1, 2000) i;
             CREATE INDEX items_idx ON items USING distillvq (embedding);
             SET distillvq.probes = 1"
        ));
        let curve: f64 = db.one(
            "SELECT (calibration->0->>'recall')::float8 FROM distillvq_index_info('items_idx')
             WHERE (calibration->0->>'probes')::int = 1",
        );
        let recall: f32 = db.one(
            "SELECT recall FROM distillvq_recall('items_idx', 10, 2000, queries => 'log', query_column => 'embedding')",
        );
        let difference = curve - f64::from(recall);
        if difference.abs() > 0.015 {
            off.push(format!("{rows} x {dim}: {curve} {recall}"));
        }
    }
    assert!(off.is_empty(), "{}", off.join("\n"));
}

#[test]
fn a_calibration_ends_where_every_search_compares_everything() {
    let mut db = Database::of_items("recall_time", &Vectors::noise(60_000, 32, 5));
    let start = std::time::Instant::now();
    let told = db.notices(
        "CREATE INDEX items_idx ON items USING distillvq (embedding) WITH (lists = 16, subquantizers = 1, refine = sq7)",
    );
    let seconds = start.elapsed().as_secs();
    assert!(told.contains("was measured with"), "{told}");
    assert!(seconds < 60, "{seconds}");
    // What was measured is there.
    db.run("ANALYZE items");
    let points: i32 =
        db.one("SELECT json_array_length(calibration) FROM distillvq_index_info('items_idx')");
    assert!(points > 3, "{points}");
}

#[test]
fn searches_go_deeper_where_near_rows_share_their_codes_errors() {
    // Groups in lists that hold several: the first rows compared are of one group, as far off as each other. Queries lie
    // between two groups.
    let all = Vectors::clustered(20_000 + 301 + 301, 128, 400, 1);
    let rows = all.slice(0..20_000);
    let (log, queries) = (all.slice(20_000..20_301), all.slice(20_301..20_602));
    let (log, queries) = (log.midway(), queries.midway());
    let mut db = Database::of_items("recall_depth", &rows);
    table(&mut db, "log", "vector", &log);
    db.run("CREATE INDEX items_idx ON items USING distillvq (embedding) WITH (lists = 20)");
    let measured = calibrate(&mut db, "'items_idx', 'log', 'embedding'");
    assert!(measured.probes.is_some(), "{measured:?}");
    db.run(
        "ANALYZE items; SET enable_seqscan = off; SET enable_sort = off; SET distillvq.target_recall = 1",
    );
    let truth = Truth::new(Metric::L2, &rows, &queries, 10);
    let found = find(&mut db, &nearest("items", Metric::L2, 10), &queries).unwrap();
    let recall = truth.recall(&found);
    assert!(recall > 0.99, "{recall}");
}

#[test]
fn who_decides() {
    let mut db = items("recall_order");
    db.run(&format!("{INDEX}; ANALYZE items"));
    assert_eq!(db.one::<String>("SHOW distillvq.target_recall"), "0.95");
    let [low, usual, high] = [0.6, 0.95, 0.99].map(|target| cost_at(&mut db, target));
    assert!(low < usual && usual < high, "{low} {usual} {high}");
    assert_eq!(cost(&mut db), usual);
    db.run("ALTER INDEX items_idx SET (target_recall = 0.99)");
    assert_eq!(cost(&mut db), high, "the index's own target");
    assert_eq!(cost_at(&mut db, 0.6), low, "the session's");
    assert_eq!(
        cost_at(&mut db, 0.95),
        usual,
        "also if it is the default's value"
    );
    assert_eq!(cost(&mut db), high, "after RESET");
    db.run("BEGIN; SET LOCAL distillvq.target_recall = 0.6");
    assert_eq!(cost(&mut db), low);
    db.run("ROLLBACK");
    assert_eq!(cost(&mut db), high);
    db.run("ALTER ROLE CURRENT_USER IN DATABASE recall_order SET distillvq.target_recall = 0.6");
    let mut other = db.session();
    assert_eq!(cost(&mut other), low, "the role's");
    other.run("SET distillvq.probes = 1");
    let one = cost(&mut other);
    assert!(one < low, "probes before all targets");
    other.run("RESET distillvq.probes; ALTER INDEX items_idx SET (probes = 1)");
    assert_eq!(cost(&mut other), one);
    db.run("SELECT distillvq_train('items', 'embedding')");
    let all: i32 = db.one("SELECT lists FROM distillvq_models");
    db.run(&format!(
        "ALTER INDEX items_idx RESET (probes, target_recall); SET distillvq.probes = {all}"
    ));
    let most = cost(&mut db);
    db.run("RESET distillvq.probes");
    assert_eq!(cost_at(&mut db, 1.0), most);
}

#[test]
fn targets_out_of_range_are_refused() {
    let mut db = items("recall_range");
    for target in ["0.4", "1.1", "NaN", "high"] {
        let refusal = db.refusal(&format!("SET distillvq.target_recall = '{target}'"));
        assert_eq!(refusal.state, "22023", "{refusal:?}");
        let refusal = db.refusal(&format!("{INDEX} WITH (target_recall = '{target}')"));
        assert_eq!(refusal.state, "22023", "{refusal:?}");
        assert!(
            refusal.message.contains(target) && refusal.hint.contains("0.5"),
            "{refusal:?}"
        );
    }
    db.run(&format!("{INDEX} WITH (target_recall = 1.0)"));
}

#[test]
fn every_way_to_build_an_index_measures_it() {
    let mut db = items("recall_builds");
    let concurrently = INDEX.replace("INDEX", "INDEX CONCURRENTLY");
    let ways = [
        (&concurrently[..], ""),
        (
            "REINDEX INDEX CONCURRENTLY items_idx",
            "DROP INDEX items_idx",
        ),
        (INDEX, ""),
        ("REINDEX TABLE items", ""),
        (
            "VACUUM FULL items",
            "DROP INDEX items_idx; ALTER TABLE items SET UNLOGGED",
        ),
        (INDEX, "DROP INDEX items_idx"),
        (
            "CREATE INDEX items_idx ON items USING distillvq (embedding vector_cosine_ops) WHERE id % 2 = 0",
            "DROP INDEX items_idx",
        ),
        (
            "CREATE INDEX items_idx ON items USING distillvq ((embedding::halfvec(32)) halfvec_cosine_ops)",
            "",
        ),
    ];
    for (way, afterwards) in ways {
        db.run(way);
        db.run("ANALYZE items");
        let measured = calibrate(&mut db, "'items_idx'");
        let half = way.contains("WHERE");
        assert_eq!(measured.rows, if half { 2_000 } else { 4_000 }, "{way}");
        if !half && !way.contains("half") {
            assert!(calibrated(&mut db), "{way}");
        }
        db.run(afterwards);
    }
}

#[test]
fn a_build_among_dead_and_unseen_rows() {
    let mut db = items("recall_dead");
    let mut other = db.session();
    other.run("BEGIN ISOLATION LEVEL REPEATABLE READ");
    other.one::<i64>("SELECT count(*) FROM items");
    db.run("DELETE FROM items WHERE id % 4 = 0; UPDATE items SET id = id + 10000 WHERE id % 4 = 1");
    // Also the rows of this very transaction.
    db.run(&format!(
        "BEGIN; INSERT INTO items SELECT id + 50000, embedding FROM items WHERE id % 4 = 2; {INDEX}; COMMIT; ANALYZE items"
    ));
    assert!(calibrated(&mut db));
    other.run("COMMIT");
    assert_eq!(calibrate(&mut db, "'items_idx'").kind, "rows");
}

#[test]
fn where_there_is_nothing_to_measure() {
    let mut db = items("recall_empty");
    db.run(&format!(
        "CREATE TABLE few AS SELECT * FROM items LIMIT 10; {}",
        INDEX.replace("items", "few")
    ));
    let refusal = db.refusal("SELECT distillvq_calibrate('few_idx')");
    assert_eq!(refusal.state, "55000", "{refusal:?}");
    db.run("SELECT distillvq_train('items', 'embedding', 'm')");
    db.run(&format!(
        "CREATE TABLE fresh (LIKE items); {} WITH (model = m)",
        INDEX.replace("items", "fresh")
    ));
    assert!(
        db.query("SELECT * FROM distillvq_calibrate('fresh_idx')", &[])
            .unwrap()
            .is_empty()
    );
    db.run("INSERT INTO fresh SELECT * FROM items");
    let measured = calibrate(&mut db, "'fresh_idx'");
    assert_eq!((measured.kind.as_str(), measured.rows), ("rows", 4_000));
    db.run("TRUNCATE fresh; INSERT INTO fresh SELECT * FROM items LIMIT 3");
    let sql = search("fresh", Metric::Cosine, &[1.0; 32], "LIMIT 10");
    assert_eq!(common::by_index(&mut db, &sql).len(), 3);
}

#[test]
fn a_training_measures_again() {
    let mut db = items("recall_train");
    table(
        &mut db,
        "log",
        "vector",
        &Vectors::like_texts(1_000, 32, 7, 1),
    );
    db.run(&format!("{INDEX}; ANALYZE items"));
    let before = cost(&mut db);
    db.run("DELETE FROM items WHERE id >= 2000");
    db.run_each(&["VACUUM items"]);
    db.run("SELECT distillvq_train('items_idx', queries => 'log', query_column => 'embedding')");
    assert!(calibrated(&mut db));
    assert!(cost(&mut db) != before);
    // What was measured with a log stays when a training has none.
    let calibration = "SELECT query_source || calibration FROM distillvq_index_info('items_idx')";
    let by_log: String = db.one(calibration);
    assert!(by_log.starts_with("log["), "{by_log}");
    db.run("SELECT distillvq_train('items_idx')");
    assert_eq!(db.one::<String>(calibration), by_log);
}

#[test]
fn whose_right_it_is() {
    let mut db = items("recall_rights");
    db.run(INDEX);
    let mut other = db.session_of("recall_other");
    let refusal = other.refusal("SELECT distillvq_calibrate('items_idx')");
    assert_eq!(refusal.state, "42501", "{refusal:?}");
    let refusal = db.refusal("SELECT distillvq_calibrate('items')");
    assert_eq!(refusal.state, "42809", "{refusal:?}");
    assert!(refusal.hint.contains("distillvq_calibrate"), "{refusal:?}");
    db.run("CREATE TABLE secret AS SELECT * FROM items; ALTER TABLE items OWNER TO recall_other");
    let refusal = other.refusal("SELECT distillvq_calibrate('items_idx', 'secret', 'embedding')");
    assert_eq!(refusal.state, "42501", "{refusal:?}");
    assert_eq!(calibrate(&mut other, "'items_idx'").kind, "rows");
    let refusal = db.refusal("BEGIN READ ONLY; SELECT distillvq_calibrate('items_idx')");
    assert_eq!(refusal.state, "25006", "{refusal:?}");
    db.run("ROLLBACK");
}

#[test]
fn a_target_beyond_reach_is_told() {
    let mut db = Database::new("recall_notice");
    // One sub-quantizer for vectors that differ in all dimensions: the codes hardly tell rows apart.
    db.run(
        "SELECT setseed(0.5);
         CREATE TABLE items (id bigint, embedding vector(32));
         INSERT INTO items SELECT i, (SELECT array_agg(random() - 0.5) FROM generate_series(1, 32) j WHERE j + i > 0)::vector
         FROM generate_series(1, 4000) i",
    );
    let told = db.notices(&format!(
        "{INDEX} WITH (subquantizers = 1, assignments = 1, target_recall = 0.999)"
    ));
    let quiet =
        db.notices("ALTER INDEX items_idx SET (target_recall = 0.5); REINDEX INDEX items_idx");
    assert!(
        told.contains("below the target of 0.999") && told.contains("subquantizers"),
        "{told}"
    );
    // On a slow machine the calibration may end at its time limit, which it reports.
    assert!(!quiet.contains("below the target"), "{quiet}");
}
