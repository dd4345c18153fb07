//! Cancels every phase at random moments; measures the latency and checks that nothing remains.

use std::collections::BTreeMap;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use distillvq_harness::measure::percentile;
use distillvq_harness::{DataSet, Error, Result, Server, load};
use postgres::{CancelToken, Client, NoTls};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::Plan;
use crate::table_state::{DATABASE, SETTINGS, TableState, checked, claim, healthy, one};

/// A statement that can be canceled, what is done before it, and after it if it was not.
struct Phase {
    name: &'static str,
    before: &'static str,
    statement: &'static str,
    after: &'static str,
}

const PHASES: [Phase; 7] = [
    Phase {
        name: "build",
        before: "",
        statement: "CREATE INDEX two ON items USING distillvq (embedding vector_cosine_ops)",
        after: "DROP INDEX two",
    },
    Phase {
        name: "train",
        before: "",
        statement: "SELECT distillvq_train('items', 'embedding', 'm', metric => 'l2')",
        after: "",
    },
    Phase {
        name: "train again",
        before: "",
        statement: "SELECT distillvq_train('one', seed => (random() * 1000000)::bigint)",
        after: "",
    },
    Phase {
        name: "scan",
        before: "SET enable_seqscan = off; SET enable_sort = off",
        statement: "SELECT count(*) FROM (SELECT id FROM items q LIMIT 40) q, LATERAL
                        (SELECT id FROM items i ORDER BY i.embedding <-> (SELECT embedding FROM pool p
                         WHERE p.id = q.id % 4000) LIMIT 2000) s",
        after: "",
    },
    Phase {
        name: "insert",
        before: "",
        statement: "INSERT INTO items SELECT 2000000000 + id, embedding, 0 FROM pool",
        after: "DELETE FROM items WHERE id >= 2000000000",
    },
    Phase {
        name: "vacuum",
        before: "INSERT INTO items SELECT 3000000000 + id, embedding, 0 FROM pool;
                 DELETE FROM items WHERE id >= 3000000000",
        statement: "VACUUM items",
        after: "",
    },
    Phase {
        name: "reindex",
        before: "",
        statement: "REINDEX INDEX one",
        after: "",
    },
];

/// The same with real embeddings, where each step is longer: every second time.
const WIDE: [Phase; 3] = [
    Phase {
        name: "build, 384 dimensions",
        before: "",
        statement: "CREATE INDEX wide_two ON documents USING distillvq (embedding vector_cosine_ops)",
        after: "DROP INDEX wide_two",
    },
    Phase {
        name: "train, 384 dimensions",
        before: "",
        statement: "SELECT distillvq_train('documents', 'embedding', 'd')",
        after: "",
    },
    Phase {
        name: "train again, 384 dimensions",
        before: "",
        statement: "SELECT distillvq_train('wide', seed => (random() * 1000000)::bigint)",
        after: "",
    },
];

/// Rows of the table of embeddings.
const DOCUMENTS: usize = 4_000;

/// A statement must end this soon after a cancel, but for one in a hundred on a busy machine.
const SOON: Duration = Duration::from_millis(100);

pub fn run(plan: &Plan) -> Result<Value> {
    let table = TableState::new(plan.seed);
    let mut random = ChaCha8Rng::seed_from_u64(plan.seed);
    let server = Server::start_with("soak-cancel", &SETTINGS)?;
    let mut client = table.create(&server)?;
    let mut boss = server.connect_to(DATABASE)?;
    client.batch_execute("CREATE TABLE documents (id bigint, embedding vector(384))")?;
    let documents = DataSet::shipped()?.documents.slice(0..DOCUMENTS);
    load::copy_vectors(&mut client, "documents", &documents)?;
    client.batch_execute(
        "CREATE INDEX wide ON documents USING distillvq (embedding vector_cosine_ops)",
    )?;
    let canceler = Canceler::new(&client);
    // How long each takes undisturbed: moments are drawn from that.
    let mut lasting = Vec::new();
    for phase in PHASES.iter().chain(&WIDE) {
        lasting.push(undisturbed(&mut client, phase)?);
    }
    let mut latencies: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
    let (start, mut asked, mut rounds) = (Instant::now(), 0u64, 0usize);
    while start.elapsed() < plan.time {
        let wide = WIDE.iter().filter(|_| rounds.is_multiple_of(2));
        for (phase, lasting) in PHASES.iter().chain(wide).zip(&lasting) {
            let moment = lasting.mul_f64(random.random_range(0.0..1.0));
            let late = canceled(&mut client, &canceler, phase, moment)?;
            asked += 1;
            latencies.entry(phase.name).or_default().extend(late);
        }
        rounds += 1;
        if rounds.is_multiple_of(10) {
            nothing_is_left(&mut boss, &table, &mut random)?;
            healthy(&server, false)?;
            eprintln!("    {asked} cancels, {:.0?}", start.elapsed());
        }
    }
    nothing_is_left(&mut boss, &table, &mut random)?;
    healthy(&server, false)?;
    let mut all: Vec<Duration> = latencies.values().flatten().copied().collect();
    let whole = distribution(&mut all);
    let p99 = percentile(&all, 99);
    claim(p99 <= SOON, || {
        format!("99 of 100 cancels took up to {p99:?}")
    })?;
    let phases: BTreeMap<_, _> = latencies
        .iter_mut()
        .map(|(name, latencies)| (*name, distribution(latencies)))
        .collect();
    Ok(json!({ "asked": asked, "canceled": all.len(), "latency ms": whole, "phases ms": phases }))
}

fn undisturbed(client: &mut Client, phase: &Phase) -> Result<Duration> {
    client.batch_execute(phase.before)?;
    let start = Instant::now();
    client.batch_execute(phase.statement)?;
    let elapsed = start.elapsed();
    client.batch_execute(phase.after)?;
    Ok(elapsed)
}

/// Runs a phase's statement and cancels it at a moment. Returns how long it ran on, or none if it was done before.
fn canceled(
    client: &mut Client,
    canceler: &Canceler,
    phase: &Phase,
    moment: Duration,
) -> Result<Option<Duration>> {
    client.batch_execute(phase.before)?;
    canceler.after(moment);
    let outcome = client.batch_execute(phase.statement).map_err(Error::from);
    let end = Instant::now();
    // Also when the statement was quicker: the cancel must not hit what follows.
    let asked = canceler.sent()?;
    let late = match outcome {
        Ok(()) => {
            settle_down(client)?;
            client.batch_execute(phase.after)?;
            None
        }
        Err(error) if error.sqlstate() == Some("57014") => {
            Some(end.saturating_duration_since(asked))
        }
        Err(error) => return Err(error),
    };
    client.batch_execute("RESET ALL")?;
    Ok(late)
}

/// Takes a cancel that came after the end of what it was for.
fn settle_down(client: &mut Client) -> Result<()> {
    match client
        .batch_execute("SELECT pg_sleep(0.02)")
        .map_err(Error::from)
    {
        Err(error) if error.sqlstate() != Some("57014") => Err(error),
        _ => Ok(()),
    }
}

/// A thread that sends cancels at the moments it is given.
struct Canceler {
    moments: mpsc::Sender<Duration>,
    sent: mpsc::Receiver<Option<Instant>>,
}

impl Canceler {
    fn new(client: &Client) -> Self {
        let token: CancelToken = client.cancel_token();
        let (moments, orders) = mpsc::channel::<Duration>();
        let (reports, sent) = mpsc::channel();
        thread::spawn(move || {
            for moment in orders {
                thread::sleep(moment);
                let asked = Instant::now();
                let done = token.cancel_query(NoTls).is_ok();
                if reports.send(done.then_some(asked)).is_err() {
                    return;
                }
            }
        });
        Self { moments, sent }
    }

    fn after(&self, moment: Duration) {
        // A thread that is gone shows itself in `sent`.
        let _ = self.moments.send(moment);
    }

    /// When the last cancel was asked for.
    fn sent(&self) -> Result<Instant> {
        let sent = self.sent.recv().ok().flatten();
        sent.ok_or_else(|| Error::Broken("a cancel could not be sent".into()))
    }
}

/// Fails if the canceled statement left a lock, a report of progress, an index or a row, or if the index is damaged.
fn nothing_is_left(boss: &mut Client, table: &TableState, random: &mut ChaCha8Rng) -> Result<()> {
    for (what, sql) in [
        (
            "locks",
            "SELECT count(*) FROM pg_locks WHERE relation IN ('items'::regclass, 'one'::regclass,
                 'documents'::regclass, 'wide'::regclass)",
        ),
        (
            "reports of progress",
            "SELECT count(*) FROM pg_stat_progress_create_index",
        ),
        (
            "indexes",
            "SELECT count(*) - 3 FROM pg_index WHERE indrelid IN ('items'::regclass, 'documents'::regclass)",
        ),
        (
            "rows",
            "SELECT count(*) FROM items WHERE id >= 2000000000 AND version = 0",
        ),
    ] {
        let left: i64 = one(boss, sql)?;
        claim(left == 0, || format!("{left} {what} are left"))?;
    }
    checked(boss, "wide")?;
    table.check_index(boss, random)
}

/// Sorts, and tells the median, the 99th percentile and the maximum in milliseconds.
fn distribution(latencies: &mut [Duration]) -> Value {
    latencies.sort_unstable();
    let of = |percent| (percentile(latencies, percent).as_secs_f64() * 1e4).round() / 10.0;
    json!({ "n": latencies.len(), "p50": of(50), "p99": of(99), "max": of(100) })
}
