//! Searches sample their queries into the index (`distillvq_ivf::query_sample`).
//!
//! A search waits for nobody: where another session writes to the sample, or a page of it is locked, the query is not kept. Once
//! the queries are newer than the last check, one query per second is kept. Nothing is sampled on a standby, which cannot write;
//! read-only transactions write samples as they write hint bits. Queries of calibrations and of `distillvq_recall` are not
//! sampled.

use crate::am::calibration::measure::now;
use crate::am::open_index::OpenIndex;
use crate::pg::relation::{Heap, Index, in_recovery};
use crate::pg::server::{has_snapshot, in_parallel_mode, random_u64};
use crate::pg::sibling_index::for_each_sibling;
use crate::pg::subtransaction::in_subtransaction;
use crate::settings::reloptions::Options;
use crate::settings::samples_queries;
use distillvq_ivf::query_sample::{self, MIN_QUERIES, QuerySample, offer};
use distillvq_ivf::{Draw, Offer};
use std::cell::Cell;

/// Minimum time between two queries that are kept, in microseconds.
const INTERVAL: i64 = 1_000_000;

thread_local! {
    /// A version of a model, and until when its index takes no query.
    static WAITING: Cell<(u64, i64)> = const { Cell::new((0, 0)) };
    static IS_PAUSED: Cell<bool> = const { Cell::new(false) };
}

/// Offers the query of a search to the sample of its index.
pub fn sample(target: &OpenIndex, query: &[f32]) {
    let keeps = target.meta.pages.sample != 0 && samples_queries() && !IS_PAUSED.get();
    if !keeps || in_recovery() || !Options::of(target.index).samples_queries() {
        return;
    }
    let (now, version) = (now(), target.meta.model_version());
    let (waiting, until) = WAITING.get();
    // A clock that was set back does not stop the sample.
    if waiting == version && (until - INTERVAL..until).contains(&now) {
        return;
    }
    let draw = Draw {
        now,
        interval: INTERVAL,
        random: random_u64() as u32,
    };
    // A damaged sample must not fail a search; `distillvq_check` reports it.
    if let Ok(Offer::NotBefore(until)) = offer(target.store(), &target.meta, query, draw) {
        WAITING.set((version, until));
    }
}

/// The queries that searches of another index over the same vectors have left there, as of that which a REINDEX CONCURRENTLY
/// replaces; none if there are too few to calibrate with.
pub fn of_sibling(heap: Heap, index: Index, dim: usize) -> QuerySample {
    let mut newest = QuerySample::default();
    // At the end of a transaction nothing may fail, and an index that cannot be read is no reason not to build another one.
    if !has_snapshot() || in_parallel_mode() {
        return newest;
    }
    let read = || {
        for_each_sibling(heap, index, |other| {
            if let Ok(target) = OpenIndex::open(other.index())
                && target.meta.dim == dim
                && let Ok(sample) = query_sample::read(target.store(), &target.meta)
                && sample.queries.len() > newest.queries.len()
            {
                newest = sample;
            }
        });
    };
    match in_subtransaction(read) {
        Ok(()) if newest.queries.len() >= MIN_QUERIES => newest,
        _ => QuerySample::default(),
    }
}

/// Runs searches whose queries are not sampled.
pub fn paused<T>(work: impl FnOnce() -> T) -> T {
    struct Pause(bool);
    impl Drop for Pause {
        fn drop(&mut self) {
            IS_PAUSED.set(self.0);
        }
    }
    let _pause = Pause(IS_PAUSED.replace(true));
    work()
}
