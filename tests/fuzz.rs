//! Random options and vectors are accepted or rejected with a specific error, and the session continues.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{ALL, Database, Sql, by_index, by_table, literal, search, table};
use distillvq_harness::{Metric, Vectors};
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// Integer options and their largest values.
const INTEGERS: [(&str, i64); 5] = [
    ("lists", 32_768),
    ("subquantizers", 478),
    ("bits", 8),
    ("assignments", 2),
    ("probes", 32_768),
];
/// Other names: two that are options as well, and some that are none.
const NAMES: [&str; 9] = [
    "model",
    "refine",
    "list",
    "Lists",
    "",
    " lists",
    "lists ",
    "fillfactor",
    "größe",
];
/// Values that are no ordinary numbers.
const VALUES: [&str; 28] = [
    "",
    " ",
    "on",
    "true",
    "auto",
    "none",
    "sq7",
    "SQ8",
    "0x10",
    "1e3",
    "4.0",
    "NaN",
    "-0",
    "+4",
    " 8 ",
    "\t8\n",
    "\u{a0}8",
    "8;",
    "8'",
    "8\"",
    "8=8",
    "=8",
    "\\",
    "$1",
    "%s%n",
    "{8}",
    "٨",
    "9223372036854775808",
];

/// A name and a value.
fn option(random: &mut ChaCha8Rng) -> (String, String) {
    let integer = INTEGERS.choose(random).unwrap();
    let name = match random.random_range(0..4) {
        0 => NAMES.choose(random).unwrap(),
        _ => integer.0,
    };
    let value = match random.random_range(0..6) {
        0 | 1 => VALUES.choose(random).unwrap().to_string(),
        2 => [4, 8].choose(random).unwrap().to_string(),
        3 => (integer.1 + random.random_range(-2..=2)).to_string(),
        4 => random.random_range(-2..=integer.1).to_string(),
        _ => random.random::<i64>().to_string(),
    };
    (name.to_owned(), value)
}

/// Whether an option is one, and may have the value.
fn valid(name: &str, value: &str) -> bool {
    let number: Option<i64> = value.trim_ascii().parse().ok();
    let within = |most: i64| number.is_some_and(|n| (0..=most).contains(&n));
    match name {
        "model" => true,
        "refine" => ["auto", "none", "sq7"].contains(&value),
        "bits" => [Some(0), Some(4), Some(8)].contains(&number),
        _ => INTEGERS
            .iter()
            .any(|(known, most)| *known == name && within(*most)),
    }
}

/// `WITH` or `SET`, with any quotes doubled.
fn list(options: &[(String, String)]) -> String {
    let quoted = |(name, value): &(String, String)| {
        format!(
            "\"{}\" = '{}'",
            name.replace('"', "\"\""),
            value.replace('\'', "''")
        )
    };
    options.iter().map(quoted).collect::<Vec<_>>().join(", ")
}

#[test]
fn options_at_random() {
    let mut db = Database::new("options");
    let mut random = ChaCha8Rng::seed_from_u64(1);
    table(&mut db, "items", "vector", &Vectors::clustered(40, 8, 3, 1));
    db.run("CREATE INDEX one ON items USING distillvq (embedding)");
    let (mut taken, mut refused) = (0, 0);
    for i in 0..600 {
        let options: Vec<_> = (0..random.random_range(1..=2))
            .map(|_| option(&mut random))
            .collect();
        let twice = options.len() == 2 && options[0].0 == options[1].0;
        let unnamed = options.iter().any(|(name, _)| name.is_empty());
        let modeled = options
            .iter()
            .any(|(name, value)| name == "model" && !value.is_empty());
        let fine = options.iter().any(|(name, value)| {
            let number = value.trim().parse::<i64>();
            name == "subquantizers" && number.is_ok_and(|it| it > 8)
        });
        let sql = if i % 2 == 0 {
            format!("ALTER INDEX one SET ({})", list(&options))
        } else {
            format!(
                "CREATE INDEX two ON items USING distillvq (embedding) WITH ({})",
                list(&options)
            )
        };
        let sound = options.iter().all(|(name, value)| valid(name, value));
        let expected = match (unnamed, twice, sound) {
            (true, ..) => "42601",
            (_, true, _) | (_, _, false) => "22023",
            _ if modeled => "42704",
            // More than the vectors have dimensions.
            _ if fine && i % 2 == 1 => "22023",
            _ => {
                taken += 1;
                db.run(&sql);
                db.run("DROP INDEX IF EXISTS two; ALTER INDEX one RESET (lists, subquantizers, bits, assignments, probes, model, refine)");
                continue;
            }
        };
        refused += 1;
        let refusal = db.refusal(&sql);
        assert_eq!(refusal.state, expected, "{sql}: {refusal:?}");
    }
    assert!(
        taken > 50 && refused > 200,
        "{taken} taken, {refused} refused"
    );
}

/// Any finite number, of any size that the square of a distance leaves finite.
fn number(random: &mut ChaCha8Rng) -> f32 {
    loop {
        let x = f32::from_bits(random.random());
        if x.abs() < 1e15 && (x == 0.0 || x.is_normal()) {
            return x;
        }
    }
}

#[test]
fn vectors_at_random() {
    let mut random = ChaCha8Rng::seed_from_u64(2);
    for metric in Metric::ALL {
        let mut db = Database::new(&format!("vectors_{}", metric.name()));
        let mut any = |n: usize| -> Vec<Vec<f32>> {
            let vector = |_| (0..8).map(|_| number(&mut random)).collect();
            (0..n).map(vector).collect()
        };
        let (before, after, queries) = (any(100), any(100), any(10));
        table(
            &mut db,
            "items",
            "vector",
            &Vectors::clustered(1_200, 8, 5, 1),
        );
        let insert = |db: &mut Database, rows: &[Vec<f32>], first: usize| {
            let rows = (first..)
                .zip(rows)
                .map(|(id, row)| format!("({id}, {})", literal(row)));
            db.run(&format!(
                "INSERT INTO items VALUES {}",
                rows.collect::<Vec<_>>().join(",")
            ));
        };
        insert(&mut db, &before, 2_000);
        db.run(&format!(
            "CREATE INDEX one ON items USING distillvq (embedding vector_{}_ops)",
            metric.name()
        ));
        insert(&mut db, &after, 3_000);
        db.run(&format!("SET distillvq.probes = {ALL}"));
        for query in &queries {
            let sql = search("items", metric, query, "LIMIT 100");
            let (found, truth) = (by_index(&mut db, &sql), by_table(&mut db, &sql));
            let recall = common::recall(&found, &truth);
            assert!(recall >= 0.95, "{metric:?} {query:?}: {recall}");
            common::in_order(&found);
        }
    }
}
