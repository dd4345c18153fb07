//! Searches sample their queries into the index (`distillvq_ivf::query_sample`).
//!
//! A search waits for nobody: where another session writes to the sample, or a page of it is locked, the query is not kept. Once
//! the queries are newer than the last check, one query per second is kept. Nothing is sampled on a standby, which cannot write;
//! read-only transactions write samples as they write hint bits. Queries of calibrations and of `distillvq_recall` are not
//! sampled.

use crate::am::open_index::OpenIndex;
use crate::pg::former_file::FormerFile;
use crate::pg::page_store::RelationStore;
use crate::pg::relation::{Heap, Index, in_recovery};
use crate::pg::server::{has_snapshot, in_parallel_mode, now, random_u64};
use crate::pg::sibling_index::for_each_sibling;
use crate::pg::subtransaction::in_subtransaction;
use crate::settings::reloptions::Options;
use crate::settings::samples_queries;
use distillvq_ivf::query_sample::{self, MIN_QUERIES, QuerySample, offer};
use distillvq_ivf::{Draw, Meta, Offer, PageStore};
use std::cell::Cell;

/// Minimum time between two queries that are kept, in microseconds.
const INTERVAL: i64 = 1_000_000;
/// After this time at the latest, in microseconds, a session looks at the sample again: a check may have opened it to new queries.
const MAX_WAIT: i64 = 100_000;

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
    if waiting == version && (until - MAX_WAIT..until).contains(&now) {
        return;
    }
    let draw = Draw {
        now,
        interval: INTERVAL,
        random: random_u64() as u32,
    };
    // A damaged sample must not fail a search; `distillvq_check` reports it.
    if let Ok(Offer::NotBefore(until)) = offer(target.store(), &target.meta, query, draw) {
        WAITING.set((version, until.min(now + MAX_WAIT)));
    }
}

/// The queries that searches have left where an index that is built can take them over: in its own former file (REINDEX), or in
/// another index over the same vectors, which it may be going to replace (REINDEX CONCURRENTLY). None if they are too few to
/// calibrate with.
pub fn inherited(heap: Heap, index: Index, dim: usize) -> QuerySample {
    let mut largest = QuerySample::default();
    // At the end of a transaction nothing may fail, and an index that cannot be read is no reason not to build another one.
    if !has_snapshot() || in_parallel_mode() {
        return largest;
    }
    let read = || {
        if let Some(former) = FormerFile::of(index) {
            offer_sample(&mut largest, &former, dim);
        }
        for_each_sibling(heap, index, |other| {
            offer_sample(&mut largest, &RelationStore::new(other.index()), dim);
        });
    };
    match in_subtransaction(read) {
        Ok(()) if largest.queries.len() >= MIN_QUERIES => largest,
        _ => QuerySample::default(),
    }
}

/// Takes the sample of an index if it is larger.
fn offer_sample<S: PageStore>(largest: &mut QuerySample, store: &S, dim: usize) {
    if let Ok(meta) = Meta::read(store)
        && meta.dim == dim
        && let Ok(sample) = query_sample::read(store, &meta)
        && sample.queries.len() > largest.queries.len()
    {
        *largest = sample;
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
