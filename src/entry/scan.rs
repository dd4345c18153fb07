//! The executor's side of an index scan.

use crate::am::last_scan;
use crate::am::open_index::OpenIndex;
use crate::am::scan::{IndexSearch, SearchStats};
use crate::am::stage_timer::{self, Stage};
use crate::entry::executor_hook::limit;
use crate::error::{Error, Result};
use crate::pg::compat::check_age;
use crate::pg::condition::DistanceLimit;
use crate::pg::heap::{HeapDistances, item_pointer};
use crate::pg::relation::{Heap, Index};
use crate::pg::vector_datum::OwnedVector;
use pgrx::{PgMemoryContexts, pg_sys};

/// What a scan keeps between calls: Rust memory only, so that it may be dropped at any time, also by an abort.
#[derive(Default)]
pub struct State {
    /// The search that runs.
    running: Option<IndexSearch>,
    /// Whether the distance that limits it is still to be found out.
    seeks_limit: bool,
    /// What the searches before the last rescan did.
    before: SearchStats,
}

impl State {
    fn counters(&self) -> SearchStats {
        let now = self.running.as_ref().map(IndexSearch::counters);
        now.unwrap_or_default().after(self.before)
    }
}

/// What the searches of a scan have done; none if there was no scan.
///
/// # Safety
/// `scan` must be null or come from [`begin`].
#[cfg_attr(not(feature = "pg18"), allow(dead_code))]
pub unsafe fn counters(scan: pg_sys::IndexScanDesc) -> Option<SearchStats> {
    // SAFETY: as promised.
    unsafe { scan.as_mut().map(|scan| state_of(scan).counters()) }
}

/// `ambeginscan`: makes the scan's descriptor. The state dies with the current memory context at the latest.
///
/// # Safety
/// `index` must be an open distillvq index.
pub unsafe fn begin(index: pg_sys::Relation, keys: i32, orders: i32) -> pg_sys::IndexScanDesc {
    let state = PgMemoryContexts::CurrentMemoryContext.leak_and_drop_on_delete(State::default());
    // SAFETY: the relation is open; the server frees the descriptor.
    unsafe {
        let scan = pg_sys::RelationGetIndexScan(index, keys, orders);
        (*scan).opaque = state.cast();
        scan
    }
}

/// `amrescan`: takes the new keys and forgets everything found so far.
///
/// # Safety
/// `scan` must come from [`begin`]; the arrays must hold as many keys as it was begun with.
pub unsafe fn rescan(scan: pg_sys::IndexScanDesc, keys: pg_sys::ScanKey, orders: pg_sys::ScanKey) {
    // SAFETY: as promised; the arrays may be the scan's own, hence `copy`.
    unsafe {
        let scan = &mut *scan;
        if !keys.is_null() && scan.numberOfKeys > 0 {
            std::ptr::copy(keys, scan.keyData, scan.numberOfKeys as usize);
        }
        if !orders.is_null() && scan.numberOfOrderBys > 0 {
            std::ptr::copy(orders, scan.orderByData, scan.numberOfOrderBys as usize);
        }
        let state = state_of(scan);
        state.before = state.counters();
        state.running = None;
    }
}

/// `amendscan`: drops what the scan holds; the memory context takes the rest.
///
/// # Safety
/// `scan` must come from [`begin`].
pub unsafe fn end(scan: pg_sys::IndexScanDesc) {
    // SAFETY: as promised.
    unsafe { state_of(&mut *scan).running = None };
}

/// `amgettuple`: puts the next row's TID into the descriptor, or tells that there is none.
///
/// # Safety
/// `scan` must come from [`begin`] and have been rescanned.
pub unsafe fn next(scan: pg_sys::IndexScanDesc) -> Result<bool> {
    let descriptor = scan;
    // SAFETY: as promised.
    let scan = unsafe { &mut *scan };
    // SAFETY: the relation is open during the scan.
    let index = unsafe { Index::new(scan.indexRelation) };
    // SAFETY: a descriptor of ours, with its state, which outlives the call.
    let state = unsafe { &mut *scan.opaque.cast::<State>() };
    // An error leaves the state empty: the scan cannot be continued anyway.
    let mut running = match state.running.take() {
        Some(running) => running,
        None => {
            state.seeks_limit = true;
            start(scan, index)?
        }
    };
    // SAFETY: the executor keeps the snapshot registered.
    unsafe { check_age(scan.xs_snapshot, index.as_ptr()) };
    // SAFETY: an index scan that returns rows has its table open.
    let heap = unsafe { Heap::new(scan.heapRelation) };
    let (query, search) = running.parts();
    if state.seeks_limit {
        // SAFETY: the descriptor of the running scan.
        let limit = unsafe { limit(descriptor) };
        state.seeks_limit = limit == DistanceLimit::Pending;
        if let DistanceLimit::Known(range) = limit {
            search.within(&range);
        }
    }
    let exact = HeapDistances {
        heap,
        index,
        snapshot: scan.xs_snapshot,
        query,
    };
    let found = search.next(index, &mut |rows, out| {
        stage_timer::count(0, rows.len() as u64);
        stage_timer::stage(Stage::Compare, || exact.distances(rows, out))
    })?;
    state.running = Some(running);
    last_scan::set(index.oid(), state.counters());
    if let Some(hit) = found {
        scan.xs_heaptid = item_pointer(hit.tid);
        scan.xs_recheck = false;
        scan.xs_recheckorderby = false;
    }
    Ok(found.is_some())
}

/// # Safety
/// `scan` must come from [`begin`].
unsafe fn state_of(scan: &mut pg_sys::IndexScanDescData) -> &mut State {
    // SAFETY: `begin` put it there; it lives as long as the descriptor.
    unsafe { &mut *scan.opaque.cast::<State>() }
}

/// Begins a search with the descriptor's query.
fn start(scan: &mut pg_sys::IndexScanDescData, index: Index) -> Result<IndexSearch> {
    if scan.numberOfOrderBys != 1 {
        return Err(Error::NoOrder);
    }
    // SAFETY: the executor sets the snapshot before it asks for rows; one ORDER BY key is there.
    let key = unsafe {
        let snapshot = scan.xs_snapshot;
        if snapshot.is_null() || (*snapshot).snapshot_type != pg_sys::SnapshotType::SNAPSHOT_MVCC {
            return Err(Error::Snapshot);
        }
        &*scan.orderByData
    };
    crate::pg::compat::count_search(scan);
    crate::pg::compat::count_index_scan(index.as_ptr());
    stage_timer::count(1, 0);
    let query = if key.sk_flags & pg_sys::SK_ISNULL as i32 != 0 {
        None
    } else {
        let element = index.element()?;
        // SAFETY: a non-null value of the operator class's type.
        Some(unsafe { OwnedVector::copy(key.sk_argument, element) })
    };
    stage_timer::stage(Stage::Open, || {
        IndexSearch::start(&OpenIndex::open(index)?, query)
    })
}
