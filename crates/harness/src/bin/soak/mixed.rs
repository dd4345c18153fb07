//! Reads, inserts, updates, deletes, vacuums, trainings, and rebuilds by eight concurrent clients: no error, a consistent index, and
//! the recall of a new index with the same model.

use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use distillvq_harness::sessions::{StopAtEnd, joined};
use distillvq_harness::{Result, Server};
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::Plan;
use crate::client_tasks::{ClientTask, maintain, read, write};
use crate::table_state::{
    DATABASE, Ledger, SETTINGS, TableState, claim, healthy, mean_recall, settle,
};

/// Sessions of each kind; a vacuum and another one make eight.
const READERS: u64 = 3;
const WRITERS: i64 = 3;
/// What the eighth does.
const TASKS: [ClientTask; 4] = [
    ClientTask::TrainAgain,
    ClientTask::ReindexConcurrently,
    ClientTask::BuildConcurrently,
    ClientTask::Checkpoint,
];
/// What it does in the last part of the time: a rebuild shortly before the end would leave nothing worn to measure.
const LAST_TASKS: [ClientTask; 2] = [ClientTask::TrainAgain, ClientTask::BuildConcurrently];
/// The last part of the time.
const LAST: f64 = 0.25;
/// What recall is compared at.
const PROBES: &str = "SET distillvq.probes = 3";
/// How much less than an index just built with the same model a used one may find. They have the same lists, so that
/// chance has little part in it: all runs so far found the same.
const WEAR: f64 = 0.002;
/// How much more an index may find that was just trained on the very rows it holds: its lists fit them, 75 rows each, better
/// than any others. `docs/reliability.md` has figures.
const FIT: f64 = 0.1;

pub fn run(plan: &Plan) -> Result<Value> {
    let table = TableState::new(plan.seed);
    let mut random = ChaCha8Rng::seed_from_u64(plan.seed);
    let server = Server::start_with("soak-mixed", &SETTINGS)?;
    let mut client = table.create(&server)?;
    table.train_elsewhere(&mut client)?;
    let mut ledgers: Vec<Ledger> = (0..WRITERS).map(Ledger::new).collect();
    let mut counts = [0; 8];
    for (number, kinds, share) in [(0, &TASKS[..], 1.0 - LAST), (1, &LAST_TASKS[..], LAST)] {
        let load = Load {
            table: &table,
            server: &server,
            kinds,
            time: plan.time.mul_f64(share),
            seed: plan.seed * 1_000 + number * 100,
        };
        let done = load.run(&mut ledgers)?;
        counts.iter_mut().zip(done).for_each(|(sum, n)| *sum += n);
    }
    let rows = settle(&mut client, &mut ledgers)?;
    table.check_index(&mut client, &mut random)?;
    // With all lists there would be nothing to miss.
    client.batch_execute(PROBES)?;
    let used = mean_recall(&mut client, table.queries())?;
    client.batch_execute("REINDEX INDEX one")?;
    let fresh = mean_recall(&mut client, table.queries())?;
    claim(used >= fresh - WEAR, || {
        format!("recall wears out: {used}, and {fresh} after REINDEX with the same model")
    })?;
    client.batch_execute("ALTER INDEX one RESET (model)")?;
    client.batch_execute("REINDEX INDEX one")?;
    let fitted = mean_recall(&mut client, table.queries())?;
    claim(used >= fitted - FIT, || {
        format!("recall is low: {used}, and {fitted} after training on the very rows")
    })?;
    healthy(&server, false)?;
    let sum = |range: std::ops::Range<usize>| counts[range].iter().sum::<u64>();
    let thousandths = |recall: f64| (recall * 1e3).round() / 1e3;
    let (readers, writers) = (READERS as usize, READERS as usize + WRITERS as usize);
    Ok(json!({
        "clients": counts.len(), "reads": sum(0..readers), "changes": sum(readers..writers),
        "vacuums": counts[writers], "trainings and rebuilds": counts[writers + 1], "rows": rows,
        "recall": thousandths(used), "recall of a fresh index": thousandths(fresh),
        "recall of an index trained on its rows": thousandths(fitted),
    }))
}

/// The clients' work for a while.
struct Load<'a> {
    table: &'a TableState,
    server: &'a Server,
    /// What the eighth does.
    kinds: &'a [ClientTask],
    time: Duration,
    seed: u64,
}

impl Load<'_> {
    /// Works until the time is over, or something fails. Returns what each client did: readers, writers, vacuum, the eighth.
    fn run(&self, ledgers: &mut [Ledger]) -> Result<Vec<u64>> {
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let (table, done) = (self.table, &stop);
            let working_on = StopAtEnd(done);
            let seeded = |number: u64| ChaCha8Rng::seed_from_u64(self.seed + number);
            let connect = || self.server.connect_to(DATABASE);
            let mut working = Vec::new();
            for number in 0..READERS {
                let (mut client, mut random) = (connect()?, seeded(number));
                working.push(scope.spawn(move || read(&mut client, table, done, &mut random)));
            }
            for (number, ledger) in (10..).zip(ledgers) {
                let (client, mut random) = (connect()?, seeded(number));
                working.push(scope.spawn(move || write(client, ledger, done, &mut random)));
            }
            for (number, kinds) in [(20, &[ClientTask::Vacuum][..]), (21, self.kinds)] {
                let (mut client, mut random) = (connect()?, seeded(number));
                working.push(scope.spawn(move || maintain(&mut client, kinds, done, &mut random)));
            }
            let start = Instant::now();
            while start.elapsed() < self.time
                && !working.iter().any(|session| session.is_finished())
            {
                thread::sleep(Duration::from_millis(100));
            }
            drop(working_on);
            working.into_iter().map(joined).collect()
        })
    }
}
