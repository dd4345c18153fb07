//! Reads, inserts, updates, deletes, vacuums, trainings and rebuilds by eight clients at once: no error, a sound index,
//! and recall as a fresh index has it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use distillvq_harness::{Error, Result, Server};
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::Plan;
use crate::work::{Work, maintain, read, write};
use crate::world::{DATABASE, Ledger, SETTINGS, World, claim, healthy, mean_recall, settle};

/// Sessions of each kind; a vacuum and another one make eight.
const READERS: u64 = 3;
const WRITERS: i64 = 3;
/// What the eighth does.
const WORK: [Work; 4] = [
    Work::TrainAgain,
    Work::ReindexConcurrently,
    Work::BuildConcurrently,
    Work::Checkpoint,
];
/// What recall is compared at.
const PROBES: &str = "SET distillvq.probes = 3";
/// How much worse than a fresh index a used one may find.
const WEAR: f64 = 0.02;

pub fn run(plan: &Plan) -> Result<Value> {
    let world = World::new(plan.seed);
    let mut random = ChaCha8Rng::seed_from_u64(plan.seed);
    let server = Server::start_with("soak-mixed", &SETTINGS)?;
    let mut client = world.create(&server)?;
    let mut ledgers: Vec<Ledger> = (0..WRITERS).map(Ledger::new).collect();
    let done = AtomicBool::new(false);
    let counts = thread::scope(|scope| {
        let (world, done) = (&world, &done);
        let seeded = |number: u64| ChaCha8Rng::seed_from_u64(plan.seed * 100 + number);
        let connect = || server.connect_to(DATABASE);
        let mut working = Vec::new();
        for number in 0..READERS {
            let (mut client, mut random) = (connect()?, seeded(number));
            working.push(scope.spawn(move || read(&mut client, world, done, &mut random)));
        }
        for (number, ledger) in (10..).zip(&mut ledgers) {
            let (client, mut random) = (connect()?, seeded(number));
            working.push(scope.spawn(move || write(client, ledger, done, &mut random)));
        }
        for (number, kinds) in [(20, &[Work::Vacuum][..]), (21, &WORK[..])] {
            let (mut client, mut random) = (connect()?, seeded(number));
            working.push(scope.spawn(move || maintain(&mut client, kinds, done, &mut random)));
        }
        let start = Instant::now();
        while start.elapsed() < plan.time && !working.iter().any(|session| session.is_finished()) {
            thread::sleep(Duration::from_millis(100));
        }
        done.store(true, Ordering::Relaxed);
        let counts = working.into_iter().map(|session| match session.join() {
            Ok(count) => count,
            Err(_) => Err(Error::Broken("a session panicked".into())),
        });
        counts.collect::<Result<Vec<u64>>>()
    })?;
    let rows = settle(&mut client, &mut ledgers)?;
    world.check_index(&mut client, &mut random)?;
    // With all lists there would be nothing to miss.
    client.batch_execute(PROBES)?;
    let used = mean_recall(&mut client, world.queries())?;
    client.batch_execute("REINDEX INDEX one")?;
    let fresh = mean_recall(&mut client, world.queries())?;
    claim(used >= fresh - WEAR, || {
        format!("recall wears out: {used}, and {fresh} after REINDEX")
    })?;
    healthy(&server, false)?;
    let sum = |range: std::ops::Range<usize>| counts[range].iter().sum::<u64>();
    let (readers, writers) = (READERS as usize, READERS as usize + WRITERS as usize);
    Ok(json!({
        "clients": counts.len(), "reads": sum(0..readers), "changes": sum(readers..writers),
        "vacuums": counts[writers], "trainings and rebuilds": counts[writers + 1], "rows": rows,
        "recall": (used * 1e3).round() / 1e3, "recall of a fresh index": (fresh * 1e3).round() / 1e3,
    }))
}
