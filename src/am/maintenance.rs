//! What VACUUM does for an index beside removing dead rows: it trains an index that was built over too few rows
//! ([`self_training`]), and checks the recall of others ([`recall_check`]).
//!
//! VACUUM holds a lock on the table that keeps away other maintenance: another VACUUM, REINDEX, `distillvq_train`. This work runs
//! as the owner of the table, with restricted rights, and so do the functions in the index's definition.
//!
//! Nothing keeps rows that VACUUM's own snapshots see from being removed. So rows are looked up by their addresses, as they are at
//! that moment.
//!
//! An error here is no error of VACUUM, which has more important work to finish: it becomes a warning, but while VACUUM has parallel
//! workers, errors of the server cannot be caught.

use crate::am::{recall_check, self_training};
use crate::error::Result;
use crate::pg::page_store::RelationStore;
use crate::pg::relation::{Index, VacuumedTable};
use crate::pg::report::{log_event, warning};
use crate::pg::role::as_role;
use crate::pg::server::in_parallel_mode;
use crate::pg::subtransaction::in_subtransaction;
use crate::settings::reloptions::Options;
use distillvq_ivf::{self as ivf, Calibration, FoundRecall, Meta, count_rows, query_sample};
use distillvq_model::MIN_TRAIN_ROWS;

/// What VACUUM has to do for an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Task {
    /// Nothing.
    Nothing,
    /// To tell that the index is untrained though it has so many rows.
    Warn(u64),
    /// To train it, or to go on where an earlier attempt ended.
    Train,
    /// To check the recall of its searches.
    CheckRecall,
}

/// Does what is to be done for an index.
pub fn maintain(index: Index, store: &RelationStore) {
    // What damages an index is told by those who read all of it.
    let task = if index.is_valid() {
        task(index, store).unwrap_or(Task::Nothing)
    } else {
        Task::Nothing
    };
    let name = || index.name();
    match task {
        Task::Nothing => {}
        Task::Warn(rows) => warning(
            &format!("index \"{}\" has no quantizer", name()),
            &format!(
                "Searches compare each of its {rows} rows, and VACUUM does not train the index because auto_train is off."
            ),
            &format!("Run {}.", index.named().reindex()),
        ),
        Task::Train => {
            let done = attempt(index, |table| {
                self_training::train(index, table.heap(), store)
            });
            if let Err(message) = done {
                warning(
                    &format!("VACUUM cannot train index \"{}\": {message}", name()),
                    "Searches are right, but may be slow.",
                    &format!("Run {}.", index.named().reindex()),
                );
            }
        }
        Task::CheckRecall => {
            let checked = attempt(index, |table| {
                recall_check::check(index, table.heap(), store)
            });
            match checked {
                Ok(None) => {}
                Ok(Some((before, after))) => log_recall(index, before, &after),
                Err(message) => warning(
                    &format!(
                        "VACUUM cannot check the recall of index \"{}\": {message}",
                        name()
                    ),
                    "Searches go on as calibrated before.",
                    &format!(
                        "To measure with rows as queries only, run ALTER INDEX {} SET (sample_queries = off).",
                        index.quoted_name()
                    ),
                ),
            }
        }
    }
}

fn task(index: Index, store: &RelationStore) -> std::result::Result<Task, ivf::Error> {
    let meta = Meta::read(store)?;
    if meta.has_model() {
        let is_calibrated = !meta.got_lists_later() || meta.calibration.is_some();
        if meta.has_rows_to_move() || !is_calibrated {
            return Ok(Task::Train);
        }
        if Options::of(index).samples_queries() {
            let meta = query_sample::make_room(store, &meta, meta.pages.rows_at_build)?;
            if recall_check::is_due(index, store, &meta)? {
                return Ok(Task::CheckRecall);
            }
        }
        return Ok(Task::Nothing);
    }
    let rows = count_rows(store)?;
    Ok(if rows < MIN_TRAIN_ROWS as u64 {
        Task::Nothing
    } else if Options::of(index).trains_itself() {
        Task::Train
    } else {
        Task::Warn(rows)
    })
}

/// Runs a task as the owner of the table; the error is a message.
fn attempt<T>(
    index: Index,
    work: impl FnOnce(&VacuumedTable) -> Result<T>,
) -> std::result::Result<T, String> {
    let attempt = || {
        let table = VacuumedTable::of(index);
        as_role(index.owner(), || work(&table))
    };
    let outcome = if in_parallel_mode() {
        attempt()
    } else {
        in_subtransaction(attempt).map_err(|error| error.message)?
    };
    crate::pg::memory::trim_malloc();
    outcome.map_err(|error| error.to_string())
}

fn log_recall(index: Index, before: FoundRecall, after: &Calibration) {
    log_event(
        &format!("index \"{}\" was calibrated again", index.name()),
        &format!(
            "Searches had a recall of {:.3}, measured with a sample of their queries, for a target of {}. {} queries were used.",
            before.recall, before.target, after.queries
        ),
    );
}
