//! A streaming replica returns the results of its primary during writes, and after promotion.

use std::sync::RwLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use distillvq_harness::sessions::{StopAtEnd, joined};
use distillvq_harness::{Error, Result, Server, Stop};
use postgres::Client;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::Plan;
use crate::client_tasks::{ClientTask, read};
use crate::table_state::{
    DATABASE, Ledger, SETTINGS, SearchResult, TableState, Writer, by_index, claim, healthy,
    nearest, one, settle,
};

/// What changes the index beside the writers.
const TASKS: [ClientTask; 4] = [
    ClientTask::Vacuum,
    ClientTask::TrainAgain,
    ClientTask::Reindex,
    ClientTask::Checkpoint,
];
/// How long a replica may lag.
const LAG: Duration = Duration::from_secs(60);

pub fn run(plan: &Plan) -> Result<Value> {
    let table = TableState::new(plan.seed);
    let mut random = ChaCha8Rng::seed_from_u64(plan.seed);
    let mut primary = Server::start_with("soak-primary", &SETTINGS)?;
    let mut client = table.create(&primary)?;
    let replica = primary.standby("soak-replica")?;
    let mut there = replica.connect_to(DATABASE)?;
    let mut ledgers = [Ledger::new(0), Ledger::new(1)];
    let (done, gate) = (AtomicBool::new(false), RwLock::new(()));
    let mut comparisons = 0u64;
    let answers = thread::scope(|scope| {
        let (table, done, gate) = (&table, &done, &gate);
        let working_on = StopAtEnd(done);
        let mut working = Vec::new();
        for (number, ledger) in (0u64..).zip(&mut ledgers) {
            let client = primary.connect_to(DATABASE)?;
            let mut random = ChaCha8Rng::seed_from_u64(plan.seed + number);
            working.push(scope.spawn(move || {
                let mut writer = Writer::new(client)?;
                gated(gate, done, || writer.step(ledger, &mut random))
            }));
        }
        let mut keeper = primary.connect_to(DATABASE)?;
        let mut of_keeper = ChaCha8Rng::seed_from_u64(plan.seed + 9);
        working.push(scope.spawn(move || {
            gated(gate, done, || {
                let work = ClientTask::any(&TASKS, &mut of_keeper);
                for statement in work.statements() {
                    keeper.batch_execute(statement)?;
                }
                Ok(())
            })
        }));
        let mut reader = replica.connect_to(DATABASE)?;
        let mut of_reader = ChaCha8Rng::seed_from_u64(plan.seed + 10);
        let reading = scope.spawn(move || read(&mut reader, table, done, &mut of_reader));
        let start = Instant::now();
        let compared = loop {
            if start.elapsed() >= plan.time || working.iter().any(|work| work.is_finished()) {
                break Ok(());
            }
            thread::sleep(Duration::from_millis(20));
            let _closed = gate.write().map_err(|_| poisoned())?;
            if let Err(error) = compare(&mut client, &mut there, table, &mut random) {
                break Err(error);
            }
            comparisons += 1;
            if comparisons.is_multiple_of(50) {
                eprintln!("    {comparisons} comparisons, {:.0?}", start.elapsed());
            }
        };
        drop(working_on);
        for session in working {
            joined(session)?;
        }
        let answers = joined(reading)?;
        compared.map(|()| answers)
    })?;
    catch_up(&mut client, &mut there)?;
    drop(client);
    primary.stop(Stop::Immediate)?;
    there.batch_execute("SELECT pg_promote()")?;
    settle(&mut there, &mut ledgers)?;
    table.check_index(&mut there, &mut random)?;
    let mut writer = Writer::new(replica.connect_to(DATABASE)?)?;
    for _ in 0..50 {
        writer.step(&mut ledgers[0], &mut random)?;
    }
    there.batch_execute("VACUUM items")?;
    let rows = settle(&mut there, &mut ledgers)?;
    table.check_index(&mut there, &mut random)?;
    healthy(&primary, false)?;
    healthy(&replica, false)?;
    let confirmed: u64 = ledgers.iter().map(|ledger| ledger.confirmed).sum();
    Ok(json!({
        "comparisons": comparisons, "changes": confirmed, "searches on the replica": answers,
        "rows after promotion": rows,
    }))
}

fn poisoned() -> Error {
    Error::Broken("a session panicked".into())
}

/// Does something again and again, but not while the gate is closed.
fn gated(
    gate: &RwLock<()>,
    done: &AtomicBool,
    mut step: impl FnMut() -> Result<()>,
) -> Result<u64> {
    let mut count = 0;
    while !done.load(Ordering::Relaxed) {
        {
            let _open = gate.read().map_err(|_| poisoned())?;
            step()?;
        }
        count += 1;
        // Or nobody could close the gate.
        thread::yield_now();
    }
    Ok(count)
}

/// Waits until the replica has all that the primary has.
fn catch_up(primary: &mut Client, replica: &mut Client) -> Result<()> {
    // A commit, so that all WAL before it is sent.
    let logged: String = one(
        primary,
        "SELECT pg_logical_emit_message(true, 'soak', '')::text",
    )?;
    let until: String = one(
        primary,
        &format!("SELECT greatest('{logged}', pg_current_wal_flush_lsn())::text"),
    )?;
    let sql = format!("SELECT pg_last_wal_replay_lsn() >= '{until}'");
    let start = Instant::now();
    while !one::<bool>(replica, &sql)? {
        claim(start.elapsed() < LAG, || {
            "the replica does not catch up".into()
        })?;
        thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// Fails unless both give the same rows in the same order.
fn compare(
    primary: &mut Client,
    replica: &mut Client,
    table: &TableState,
    random: &mut ChaCha8Rng,
) -> Result<()> {
    catch_up(primary, replica)?;
    for probes in [1, 3, 32_768] {
        let query = table.query(random);
        let answer = |client: &mut Client| {
            by_index(client)?;
            client.batch_execute(&format!("SET distillvq.probes = {probes}"))?;
            let rows = nearest(client, query, 50)?;
            table.check_answer(query, &rows)?;
            Ok::<_, Error>(rows)
        };
        let (here, there) = (answer(primary)?, answer(replica)?);
        let plain = |rows: &[SearchResult]| -> Vec<(i64, i32)> {
            rows.iter().map(|row| (row.id, row.version)).collect()
        };
        claim(plain(&here) == plain(&there), || {
            format!("the replica answers otherwise: {here:?} and {there:?}")
        })?;
    }
    Ok(())
}
