//! A million queries in one session, whose memory must not grow.

use std::time::Instant;

use distillvq_harness::process_tree::private_memory;
use distillvq_harness::{Embedding, Result, Server};
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::Plan;
use crate::table_state::{NEAREST, SETTINGS, TableState, by_index, claim, healthy, one};

/// Queries of a full run.
const QUERIES: f64 = 1e6;
/// Queries before memory is looked at for the first time.
const WARM: u64 = 2_000;
/// What memory may grow by.
const GROWTH: u64 = 2 << 20;

pub fn run(plan: &Plan) -> Result<Value> {
    let table = TableState::new(plan.seed);
    let mut random = ChaCha8Rng::seed_from_u64(plan.seed);
    let server = Server::start_with("soak-session", &SETTINGS)?;
    table.create(&server)?;
    // The session that built the index has held more than a search needs.
    let mut client = server.connect_to(crate::table_state::DATABASE)?;
    by_index(&mut client)?;
    let process = one::<i32>(&mut client, "SELECT pg_backend_pid()")? as u32;
    let statement = client.prepare(NEAREST)?;
    let count = ((QUERIES * plan.scale) as u64).max(2 * WARM);
    let (start, mut before, mut most) = (Instant::now(), 0, 0);
    for number in 0..count {
        let query = table.query(&mut random);
        let rows = client.query(&statement, &[&Embedding(query), &10i64])?;
        claim(rows.len() == 10, || {
            format!("{} rows of 10 came", rows.len())
        })?;
        if number == WARM {
            before = private_memory(process);
        }
        if number.is_multiple_of(1_000) {
            most = most.max(private_memory(process));
        }
        if number.is_multiple_of(100_000) {
            eprintln!("    {number} queries, {:.0?}", start.elapsed());
        }
    }
    let after = private_memory(process);
    claim(after <= before + GROWTH, || {
        format!("memory grew from {before} to {after} bytes")
    })?;
    healthy(&server, false)?;
    Ok(json!({
        "queries": count, "RSS at the start kB": before >> 10, "RSS at the end kB": after >> 10, "most kB": most >> 10,
        "seconds": start.elapsed().as_secs(),
    }))
}
