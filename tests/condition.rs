//! Conditions on the distance: every monotone form ends the search at the limit, and none loses a row.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{ALL, Database, Found, Sql, by_index, by_table, ids, in_order, literal, table};
use distillvq_harness::{Metric, Vectors};
use postgres::Client;

const ROWS: usize = 6_000;

/// A database with an index for a metric that probes all lists, and queries.
fn indexed(name: &str, metric: Metric) -> (Database, Vectors) {
    let mut db = Database::new(name);
    let all = Vectors::clustered(ROWS + 5, 24, 60, 7);
    table(&mut db, "items", "vector", &all.slice(0..ROWS));
    db.run(&format!(
        "CREATE INDEX items_idx ON items USING distillvq (embedding {}); ANALYZE items;
         SET max_parallel_workers_per_gather = 0; SET distillvq.probes = {ALL}",
        format_args!("vector_{}_ops", metric.name())
    ));
    (db, all.slice(ROWS..ROWS + 5))
}

/// Rows that the session's last search compared.
fn compared(client: &mut Client) -> i64 {
    client.one("SELECT reranked FROM distillvq_last_scan()")
}

fn sql(distance: &str, filter: &str) -> String {
    format!("SELECT id, {distance} FROM items WHERE {filter} ORDER BY {distance}")
}

/// Runs a search by the index and without it, and fails unless both give the same rows in order.
#[track_caller]
fn agrees(client: &mut Client, sql: &str) -> usize {
    let found = same_rows(client, sql);
    in_order(&found);
    found.len()
}

/// As [`agrees`], in any order.
#[track_caller]
fn same_rows(client: &mut Client, sql: &str) -> Found {
    let (found, truth) = (by_index(client, sql), by_table(client, sql));
    assert_eq!(ids(&found), ids(&truth), "{sql:.400}");
    found
}

/// The distance of the `n`-th nearest row.
fn nth(client: &mut Client, distance: &str, n: usize) -> f64 {
    let sql = format!("SELECT id, {distance} FROM items ORDER BY {distance} LIMIT {n}");
    by_table(client, &sql)[n - 1].1
}

#[test]
fn monotone_forms_end_the_search() {
    for (metric, forms) in [
        (
            Metric::Cosine,
            &[
                "1 - (@d) > 1 - @r",
                "1 - @r < 1 - (@d)",
                "1.0::float8 - (@d) >= 1 - @r",
                "(1 - (@d))::real > (1 - @r)::real",
                "(1 - (@d))::numeric > (1 - @r)::numeric",
                "round((1 - (@d))::numeric, 4) >= round((1 - @r)::numeric, 4)",
                "(1 - (@d))::numeric(6, 4) > (1 - @r)::numeric",
                "100 * (1 - (@d)) > 100 * (1 - @r)",
                "(2 - (@d)) / 2 > (2 - @r) / 2",
                "(@d) - 0.25 < @r - 0.25",
                "(@d) + 0.25 <= @r + 0.25",
                "(@d) * 3 < 3 * @r",
                "(@d) / 3 < @r / 3",
                "(@d) / -3 > @r / -3",
                "-(@d) > -(@r)",
                "(@d)::real < (@r)::real",
                "(@d)::numeric < (@r)::numeric",
                "(@d)::numeric * 2 - 1 < (@r)::numeric * 2 - 1",
                "(@d) BETWEEN @r / 4 AND @r",
                "(@d) > @r / 4 AND (@d) < @r",
                "1 - (@d) BETWEEN 1 - @r AND 1",
                "NOT (@d) > @r",
                "NOT (1 - (@d) <= 1 - @r)",
                "(id % 2 = 0 AND (@d) < @r) OR 1 - (@d) > 1 - @r / 2",
                "(@d) = @r / 2 OR (@d) < @r",
                "cosine_distance(embedding, @q) < @r",
                "(@d) < @r AND (@d) < 1e6 AND id % 2 = 0",
            ][..],
        ),
        (
            Metric::InnerProduct,
            &[
                "(@d) * -1 > @r * -1",
                "-(@d) > -(@r)",
                "-1 * (@d) >= -1 * (@r)",
                "(@d) < @r",
            ][..],
        ),
        (
            Metric::L2,
            &[
                "(@d) * (@d) * 0 < 1 AND (@d) < @r",
                "1 / (1 + (@d)) > 0 AND (@d) < @r",
                "(@d) < @r",
            ][..],
        ),
    ] {
        let (mut db, queries) = indexed(&format!("forms_{}", metric.name()), metric);
        for query in queries.iter() {
            let q = literal(query);
            let distance = format!("embedding {} {q}", metric.operator());
            let r = nth(&mut db, &distance, 40);
            for form in forms {
                let filter = form
                    .replace("@q", &q)
                    .replace("@r", &format!("({r}::float8)"));
                let sql = sql(&distance, &filter.replace("@d", &distance));
                let found = agrees(&mut db, &sql);
                let compared = compared(&mut db);
                assert!(
                    compared < (ROWS / 10) as i64,
                    "{form}: {found} of {compared}"
                );
                assert!((1..=60).contains(&found), "{form}: {found}");
            }
        }
    }
}

#[test]
fn conditions_that_are_no_limit_lose_no_row() {
    let (mut db, queries) = indexed("no_limit", Metric::Cosine);
    let q = literal(queries.row(0));
    let distance = format!("embedding <=> {q}");
    let r = nth(&mut db, &distance, 40);
    db.run("SET distillvq.iterative_scan = relaxed_order");
    for form in [
        "1 - (@d) < 1 - @r",
        "(@d) > @r",
        "-(@d) < -@r",
        "(@d) * -1 < @r",
        "(@d) * 0 < @r",
        "@r / (@d) > 1",
        "(@d) - (@d) < @r",
        "(@d) < @r OR id % 100 = 7",
        "(@d) * id < @r * 100",
        "1 - (@d) > 1 - @r + random() * 0",
        "((@d) < @r) IS NOT TRUE",
        "(@d) < 'NaN'",
        "(@d) < 'Infinity'::float8 - 1",
        "1 - (@d) > '-Infinity'",
    ] {
        let filter = form.replace("@r", &format!("({r}::float8)"));
        same_rows(&mut db, &sql(&distance, &filter.replace("@d", &distance)));
    }
    for form in ["1 - (@d) > 'NaN'", "(@d) < -'Infinity'::float8"] {
        assert_eq!(
            agrees(&mut db, &sql(&distance, &form.replace("@d", &distance))),
            0,
            "{form}"
        );
    }
}

#[test]
fn distances_of_nan_are_beyond_no_negated_limit() {
    let (mut db, _) = indexed("nan", Metric::Cosine);
    let zeros = literal(&[0.0; 24]);
    let distance = format!("embedding <=> {zeros}");
    for (form, rows) in [
        ("(@d) < 0.5", 0),
        ("1 - (@d) > 0.5", ROWS),
        ("(@d) * -1 > 0 * -1", ROWS),
        ("-(@d) > 0", ROWS),
        ("-(@d) > -2", ROWS),
        ("NOT (@d) < 0.1", ROWS),
    ] {
        for mode in ["off", "relaxed_order", "strict_order"] {
            db.run(&format!("SET distillvq.iterative_scan = {mode}"));
            let found = same_rows(&mut db, &sql(&distance, &form.replace("@d", &distance)));
            assert_eq!(found.len(), rows, "{form}");
        }
    }
}

#[test]
fn bounds_are_exact_to_the_last_row() {
    let (mut db, queries) = indexed("exact_bounds", Metric::Cosine);
    for query in queries.iter() {
        let distance = format!("embedding <=> {}", literal(query));
        for n in [1, 2, 17] {
            // The very value that the server computes for a row: equal on both sides.
            let r = nth(&mut db, &distance, n);
            for (value, form) in [
                ("1 - @r", "1 - (@d) >= @v"),
                ("@r * 0.1", "(@d) * 0.1 <= @v"),
                ("@r / 7", "(@d) / 7 <= @v"),
                ("@r - 0.7", "(@d) - 0.7 <= @v"),
                ("(1 - @r)::real::float8", "(1 - (@d))::real >= @v"),
            ] {
                let value = value.replace("@r", &format!("{r}::float8"));
                let value: f64 = db.one(&format!("SELECT {value}"));
                let filter = form
                    .replace("@v", &format!("{value}::float8"))
                    .replace("@d", &distance);
                assert!(agrees(&mut db, &sql(&distance, &filter)) >= n, "{form}");
            }
        }
    }
}

#[test]
fn parameters_of_generic_plans_end_the_search() {
    let (mut db, queries) = indexed("generic", Metric::Cosine);
    let q = literal(queries.row(1));
    let r = nth(&mut db, &format!("embedding <=> {q}"), 40);
    db.run(
        "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET enable_sort = off",
    );
    for (number, (types, condition, order, arguments)) in [
        (
            "vector, float8",
            "embedding <=> $1 < $2",
            "embedding <=> $1",
            format!("{q}, {r}"),
        ),
        (
            "vector, float8",
            "embedding <=> $1 < 1 - $2",
            "embedding <=> $1",
            format!("{q}, 1 - {r}"),
        ),
        (
            "vector, float8",
            "1 - (embedding <=> $1) > $2",
            "embedding <=> $1",
            format!("{q}, 1 - {r}"),
        ),
        (
            "vector, float4",
            "1 - (embedding <=> $1) > $2",
            "embedding <=> $1",
            format!("{q}, 1 - {r}"),
        ),
        (
            "vector, numeric",
            "1 - (embedding <=> $1) > $2",
            "embedding <=> $1",
            format!("{q}, 1 - {r}"),
        ),
        (
            "vector, numeric",
            "1 - (embedding <=> $1) > 1 - $2",
            "embedding <=> $1",
            format!("{q}, {r}"),
        ),
        (
            "vector, integer",
            "100 * (embedding <=> $1) < $2",
            "embedding <=> $1",
            format!("{q}, ceil(100 * {r})::integer"),
        ),
        (
            "vector, float8, vector",
            "embedding <=> $1 < $2",
            "embedding <=> $3",
            format!("{q}, {r}, {q}"),
        ),
        (
            "vector, float8, vector",
            "1 - (embedding <=> $3::vector(24)) > 1 - $2",
            "embedding <=> $1::vector(24)",
            format!("{q}, {r}, {q}"),
        ),
        (
            "vector, float8",
            "(embedding <=> $1) - $2 < 0",
            "embedding <=> $1",
            format!("{q}, {r}"),
        ),
    ]
    .into_iter()
    .enumerate()
    {
        db.run(&format!(
            "PREPARE p{number} ({types}) AS SELECT id FROM items WHERE {condition} ORDER BY {order}"
        ));
        let mut run = |arguments: &str| {
            let found: Vec<i64> = db
                .simple_query(&format!("EXECUTE p{number} ({arguments})"))
                .unwrap()
                .iter()
                .filter_map(|message| match message {
                    postgres::SimpleQueryMessage::Row(row) => row.get(0)?.parse().ok(),
                    _ => None,
                })
                .collect();
            (found.len(), compared(&mut db))
        };
        let (rows, compared) = run(&arguments);
        assert!(rows >= 39, "{condition}: {rows}");
        assert!(compared < (ROWS / 10) as i64, "{condition}: {compared}");
        // Without a value nothing is found; with another vector nothing ends.
        let parts: Vec<&str> = arguments.rsplitn(2, ", ").collect();
        if !types.ends_with(", vector") {
            assert_eq!(run(&format!("{}, NULL", parts[1])).0, 0, "{condition}");
        } else {
            let other = literal(queries.row(2));
            let (_, compared) = run(&format!("{}, {other}", parts[1]));
            assert!(compared > (ROWS / 2) as i64, "{condition}: {compared}");
        }
    }
}
