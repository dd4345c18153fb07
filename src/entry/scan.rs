//! The executor's side of an index scan.

use crate::am::last_scan;
use crate::am::open_index::OpenIndex;
use crate::am::scan::{IndexSearch, SearchStats};
use crate::am::stage_timer::{self, Stage};
use crate::entry::executor_hook::limit;
use crate::error::{Error, Result};
use crate::pg::compat::{check_age, count_index_scan, count_search};
use crate::pg::condition::DistanceLimit;
use crate::pg::filter_columns::Conditions;
use crate::pg::heap::{HeapDistances, item_pointer};
use crate::pg::memory::with_temporary_memory;
use crate::pg::relation::{Heap, Index};
use crate::pg::vector_datum::OwnedVector;
use pgrx::{PgMemoryContexts, pg_sys};

/// What a scan keeps between calls. An abort drops it with the memory context that it belongs to.
struct State {
    /// That memory context.
    memory: PgMemoryContexts,
    /// The index, as it was when the first row was asked for.
    open: Option<OpenIndex>,
    /// The search that runs.
    running: Option<IndexSearch>,
    /// Objects of the server's, which the scan's end releases.
    distances: Option<HeapDistances>,
    /// Whether rows of the running search may not fulfil the conditions.
    recheck: bool,
    /// Whether the distance that limits it is still to be found out.
    seeks_limit: bool,
    /// What the searches before the last rescan did.
    before: SearchStats,
}

impl State {
    fn counters(&self) -> SearchStats {
        let now = self.running.as_ref().map(IndexSearch::counters);
        now.unwrap_or_default().plus(self.before)
    }
}

impl Drop for State {
    fn drop(&mut self) {
        // Still there only after an abort.
        if let Some(distances) = self.distances.take() {
            distances.abandon();
        }
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
    let mut memory = PgMemoryContexts::CurrentMemoryContext;
    let state = memory.leak_and_drop_on_delete(State {
        memory: PgMemoryContexts::For(memory.value()),
        open: None,
        running: None,
        distances: None,
        recheck: false,
        seeks_limit: false,
        before: SearchStats::default(),
    });
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
    unsafe {
        let state = state_of(&mut *scan);
        (state.running, state.distances, state.open) = (None, None, None);
    }
}

/// `amgettuple`: puts the next row's TID into the descriptor, or tells that there is none.
///
/// # Safety
/// `scan` must come from [`begin`] and have been rescanned.
pub unsafe fn next(scan: pg_sys::IndexScanDesc) -> Result<bool> {
    let descriptor = scan;
    // SAFETY: as promised.
    let scan = unsafe { &mut *scan };
    // SAFETY: a descriptor of ours, with its state, which outlives the call.
    let state = unsafe { &mut *scan.opaque.cast::<State>() };
    let running = match &mut state.running {
        Some(running) => running,
        none => {
            state.seeks_limit = true;
            let (search, recheck) = start(scan, &mut state.open)?;
            state.recheck = recheck;
            none.insert(search)
        }
    };
    // SAFETY: the executor keeps the snapshot registered, and the relations open, during the scan; an index scan that returns
    // rows has its table open.
    let distances = state.distances.get_or_insert_with(|| unsafe {
        state.memory.switch_to(|_| {
            let (heap, index) = (Heap::new(scan.heapRelation), Index::new(scan.indexRelation));
            HeapDistances::new(heap, index, scan.xs_snapshot)
        })
    });
    // SAFETY: as above.
    unsafe { check_age(scan.xs_snapshot, scan.indexRelation) };
    if state.seeks_limit {
        // SAFETY: the descriptor of the running scan.
        let limit = unsafe { limit(descriptor) };
        state.seeks_limit = limit == DistanceLimit::Pending;
        if let DistanceLimit::Known(range) = limit {
            running.set_max_distance(&range);
        }
    }
    let open = match &mut state.open {
        Some(open) => open,
        // SAFETY: the relation is open during the scan.
        none => none.insert(OpenIndex::open(unsafe { Index::new(scan.indexRelation) })?),
    };
    let found = running.next(open, distances)?;
    // SAFETY: the relation is open during the scan.
    last_scan::set(unsafe { (*scan.indexRelation).rd_id }, state.counters());
    if let Some(hit) = found {
        scan.xs_heaptid = item_pointer(hit.tid);
        scan.xs_recheck = state.recheck;
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

/// Begins a search with the descriptor's query and conditions, in the index that is opened for the scan's first one. Tells whether
/// the conditions must be checked again.
fn start(
    scan: &pg_sys::IndexScanDescData,
    open: &mut Option<OpenIndex>,
) -> Result<(IndexSearch, bool)> {
    if scan.numberOfOrderBys != 1 {
        return Err(Error::NoOrder);
    }
    // SAFETY: the executor sets the snapshot before it asks for rows; one ORDER BY key is there; the relation is open during
    // the scan.
    let (key, index) = unsafe {
        let snapshot = scan.xs_snapshot;
        if snapshot.is_null() || (*snapshot).snapshot_type != pg_sys::SnapshotType::SNAPSHOT_MVCC {
            return Err(Error::Snapshot);
        }
        (&*scan.orderByData, Index::new(scan.indexRelation))
    };
    count_search(scan);
    // SAFETY: as above.
    unsafe { count_index_scan(index.as_ptr()) };
    stage_timer::count(1, 0);
    let query = if key.sk_flags & pg_sys::SK_ISNULL as i32 != 0 {
        None
    } else {
        let element = index.element()?;
        // SAFETY: a non-null value of the operator class's type.
        Some(unsafe { OwnedVector::copy(key.sk_argument, element) })
    };
    stage_timer::stage(Stage::Open, || {
        let open = match open {
            Some(open) => open,
            none => none.insert(OpenIndex::open(index)?),
        };
        // SAFETY: as above; the descriptor has its keys since the rescan.
        let Conditions { tests, recheck } = unsafe { conditions(scan, open)? };
        Ok((IndexSearch::start(open, query, tests)?, recheck))
    })
}

/// The conditions of a scan.
///
/// # Safety
/// The descriptor must have been rescanned, and the index be that of the scan.
unsafe fn conditions(scan: &pg_sys::IndexScanDescData, open: &OpenIndex) -> Result<Conditions> {
    if scan.numberOfKeys <= 0 {
        return Ok(Conditions::default());
    }
    let filters = open.filters()?;
    // SAFETY: as promised.
    unsafe {
        let keys = std::slice::from_raw_parts(scan.keyData, scan.numberOfKeys as usize);
        with_temporary_memory(|| filters.conditions(open.index, keys))
    }
}
