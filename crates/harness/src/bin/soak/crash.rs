//! Kills the server or one of its processes at random moments. After each crash, all committed rows must be present and correct, the
//! index must be consistent, and searches must return correct rows.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use distillvq_harness::process_tree::{self, Signal};
use distillvq_harness::sessions::StopAtEnd;
use distillvq_harness::{Error, Result, Server};
use postgres::Client;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::Plan;
use crate::client_tasks::{ClientTask, maintain, read, was_killed, write};
use crate::table_state::{DATABASE, Ledger, SETTINGS, TableState, healthy, one, settle};

/// Sessions that write.
const WRITERS: usize = 2;

pub fn run(plan: &Plan) -> Result<Value> {
    let table = TableState::new(plan.seed);
    let mut random = ChaCha8Rng::seed_from_u64(plan.seed);
    let mut server = Server::start_with("soak-crash", &SETTINGS)?;
    table.create(&server)?;
    let mut ledgers: Vec<Ledger> = (0..WRITERS as i64).map(Ledger::new).collect();
    let (mut counts, mut whole, mut rows, mut slowest) = (BTreeMap::new(), 0, 0, 0.0f64);
    let (start, mut rounds) = (Instant::now(), 0u64);
    while start.elapsed() < plan.time {
        // Every kind of work comes first once, and then by chance.
        let work = match ClientTask::ALL.get(rounds as usize) {
            Some(&work) => work,
            None => ClientTask::any(&ClientTask::ALL, &mut random),
        };
        let all = random.random_bool(0.5);
        crash(&mut server, &table, work, all, &mut ledgers, &mut random)?;
        let back = Instant::now();
        server = recovered(server, all)?;
        slowest = slowest.max(back.elapsed().as_secs_f64());
        rows += verify(&server, &table, &mut ledgers, &mut random)? as u64;
        rounds += 1;
        whole += u64::from(all);
        *counts.entry(work.name()).or_insert(0u64) += 1;
        if rounds.is_multiple_of(10) {
            eprintln!("    {rounds} crashes, {:.0?}", start.elapsed());
        }
    }
    let confirmed: u64 = ledgers.iter().map(|ledger| ledger.confirmed).sum();
    Ok(json!({
        "crashes": rounds, "of the server": whole, "of a backend": rounds - whole, "during": counts,
        "changes confirmed": confirmed, "rows compared": rows, "slowest recovery s": round(slowest),
    }))
}

fn round(seconds: f64) -> f64 {
    (seconds * 100.0).round() / 100.0
}

/// Lets sessions work, and kills all or one of them at a random moment.
fn crash(
    server: &mut Server,
    table: &TableState,
    work: ClientTask,
    all: bool,
    ledgers: &mut [Ledger],
    random: &mut ChaCha8Rng,
) -> Result<()> {
    let never = AtomicBool::new(false);
    let moment = Duration::from_millis(random.random_range(5..500));
    let mut seed = || ChaCha8Rng::seed_from_u64(random.random());
    let (mut victims, mut sessions) = (Vec::new(), Vec::new());
    for _ in 0..ledgers.len() + 2 {
        let mut client = server.connect_to(DATABASE)?;
        victims.push(one::<i32>(&mut client, "SELECT pg_backend_pid()")? as u32);
        sessions.push((client, seed()));
    }
    let (Some((mut reader, mut of_reader)), Some((mut keeper, mut of_keeper))) =
        (sessions.pop(), sessions.pop())
    else {
        return Err(Error::Broken("no sessions".into()));
    };
    // The one that maintains is killed half of the time.
    let victim = match random.random_bool(0.5) {
        true => victims[ledgers.len()],
        false => victims[random.random_range(0..victims.len())],
    };
    thread::scope(|scope| {
        let never = &never;
        let _working_on = StopAtEnd(never);
        let mut working = vec![
            scope.spawn(move || read(&mut reader, table, never, &mut of_reader)),
            scope.spawn(move || maintain(&mut keeper, &[work], never, &mut of_keeper)),
        ];
        for (ledger, (client, mut random)) in ledgers.iter_mut().zip(sessions) {
            working.push(scope.spawn(move || write(client, ledger, never, &mut random)));
        }
        thread::sleep(moment);
        if all {
            server.kill9()?;
        } else {
            process_tree::send(Signal::KILL, &[victim]);
        }
        for session in working {
            match session.join() {
                Ok(Err(error)) if was_killed(&error) => {}
                Ok(Err(error)) => return Err(error),
                _ => return Err(Error::Broken("a session ended by itself".into())),
            }
        }
        Ok(())
    })
}

/// Brings the server back.
fn recovered(mut server: Server, all: bool) -> Result<Server> {
    if all {
        server.restart()?;
    } else {
        server.await_recovery()?;
    }
    healthy(&server, true)?;
    Ok(server)
}

/// Proves that nothing was lost. Returns the number of rows.
fn verify(
    server: &Server,
    table: &TableState,
    ledgers: &mut [Ledger],
    random: &mut ChaCha8Rng,
) -> Result<usize> {
    let mut client = server.connect_to(DATABASE)?;
    let rows = settle(&mut client, ledgers)?;
    remove_remains(&mut client)?;
    table.check_index(&mut client, random)?;
    healthy(server, true)?;
    Ok(rows)
}

/// Drops what a crash during a concurrent build leaves, as with any index: an invalid one.
fn remove_remains(client: &mut Client) -> Result<()> {
    let remains = client.query(
        "SELECT indexrelid::regclass::text FROM pg_index
         WHERE indrelid = 'items'::regclass AND (NOT indisvalid OR indexrelid::regclass::text = 'two')",
        &[],
    )?;
    for row in remains {
        client.batch_execute(&format!("DROP INDEX {}", row.get::<_, String>(0)))?;
    }
    Ok(())
}
