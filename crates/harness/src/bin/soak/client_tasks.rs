//! Clients that work until they are stopped.

use std::sync::atomic::{AtomicBool, Ordering};

use distillvq_harness::{Error, Result};
use postgres::Client;
use rand::seq::IndexedRandom as _;
use rand_chacha::ChaCha8Rng;

use crate::table_state::{Ledger, TableState, Writer, by_index, nearest};

/// Maintenance of the index, or what makes much of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ClientTask {
    Vacuum,
    Build,
    BuildConcurrently,
    Reindex,
    ReindexConcurrently,
    Train,
    TrainAgain,
    Checkpoint,
}

impl ClientTask {
    pub const ALL: [Self; 8] = [
        Self::Vacuum,
        Self::Build,
        Self::BuildConcurrently,
        Self::Reindex,
        Self::ReindexConcurrently,
        Self::Train,
        Self::TrainAgain,
        Self::Checkpoint,
    ];

    /// What it is called in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vacuum => "vacuum",
            Self::Build => "build",
            Self::BuildConcurrently => "build concurrently",
            Self::Reindex => "reindex",
            Self::ReindexConcurrently => "reindex concurrently",
            Self::Train => "train",
            Self::TrainAgain => "train again",
            Self::Checkpoint => "checkpoint",
        }
    }

    /// Its statements, each a transaction of its own.
    pub fn statements(self) -> &'static [&'static str] {
        match self {
            Self::Vacuum => &["VACUUM items"],
            Self::Build => &[
                "CREATE INDEX two ON items USING distillvq (embedding vector_cosine_ops)",
                "DROP INDEX two",
            ],
            Self::BuildConcurrently => &[
                "CREATE INDEX CONCURRENTLY two ON items USING distillvq (embedding vector_ip_ops)",
                "DROP INDEX CONCURRENTLY two",
            ],
            Self::Reindex => &["REINDEX INDEX one"],
            Self::ReindexConcurrently => &["REINDEX INDEX CONCURRENTLY one"],
            Self::Train => &[
                "SELECT distillvq_train('items', 'embedding', 'm', metric => 'l2',
                                        seed => (random() * 1000000)::bigint)",
            ],
            Self::TrainAgain => {
                &["SELECT distillvq_train('one', seed => (random() * 1000000)::bigint)"]
            }
            Self::Checkpoint => &["CHECKPOINT"],
        }
    }

    /// Any of some.
    pub fn any(of: &[Self], random: &mut ChaCha8Rng) -> Self {
        of.choose(random).copied().unwrap_or(Self::Vacuum)
    }
}

/// Runs one of some kinds of work after the other until told to stop. Returns how many were done.
pub fn maintain(
    client: &mut Client,
    kinds: &[ClientTask],
    done: &AtomicBool,
    random: &mut ChaCha8Rng,
) -> Result<u64> {
    let mut count = 0;
    while !done.load(Ordering::Relaxed) {
        for statement in ClientTask::any(kinds, random).statements() {
            client.batch_execute(statement)?;
        }
        count += 1;
    }
    Ok(count)
}

/// Writes until told to stop.
pub fn write(
    client: Client,
    ledger: &mut Ledger,
    done: &AtomicBool,
    random: &mut ChaCha8Rng,
) -> Result<u64> {
    let mut writer = Writer::new(client)?;
    let before = ledger.confirmed;
    while !done.load(Ordering::Relaxed) {
        writer.step(ledger, random)?;
    }
    Ok(ledger.confirmed - before)
}

/// Searches until told to stop; every answer is looked at. Returns how many there were.
pub fn read(
    client: &mut Client,
    table: &TableState,
    done: &AtomicBool,
    random: &mut ChaCha8Rng,
) -> Result<u64> {
    by_index(client)?;
    let mut count = 0;
    while !done.load(Ordering::Relaxed) {
        let query = table.query(random);
        let rows = nearest(client, query, 10)?;
        table.check_answer(query, &rows)?;
        if rows.len() < 10 {
            return Err(Error::Broken(format!("{} rows of 10 came", rows.len())));
        }
        count += 1;
    }
    Ok(count)
}

/// Whether an error only tells that the server, or the session's process, was killed.
pub fn was_killed(error: &Error) -> bool {
    let lost = |error: &postgres::Error| error.is_closed() || error.as_db_error().is_none();
    match error {
        Error::Database(database) => {
            lost(database)
                || error
                    .sqlstate()
                    .is_some_and(|state| state.starts_with("57P"))
        }
        _ => false,
    }
}
