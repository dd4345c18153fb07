//! What the plan says about a scan that the access method is not told: the distance beyond which its rows are not wanted.
//!
//! `WHERE embedding <-> q < r ORDER BY embedding <-> q` reaches an index as an order alone, and the executor throws away what
//! is beyond `r`, row by row. So the start of every query is watched: its index scans over distillvq are remembered until the
//! memory of the query is freed, and a scan that begins looks itself up there. What a condition says is in `condition`.

use crate::pg::compat::planstate_tree_walker;
use crate::pg::condition::{DistanceLimit, items, limit_of};
use crate::pg::relation::access_method;
use distillvq_ivf::distance_range::DistanceRange;
use pgrx::{PgMemoryContexts, pg_guard, pg_sys};
use std::cell::RefCell;
use std::ffi::{c_int, c_void};
use std::sync::OnceLock;

/// An index scan of a query that was started.
struct TrackedScan {
    state: *mut pg_sys::IndexScanState,
    /// The query's memory, where the state lies.
    memory: pg_sys::MemoryContext,
}

thread_local! {
    /// Oldest first.
    static TRACKED_SCANS: RefCell<Vec<TrackedScan>> = const { RefCell::new(Vec::new()) };
}

/// Forgets the scans of a query, when its memory is freed: that happens however it ends.
struct Forget(pg_sys::MemoryContext);

impl Drop for Forget {
    fn drop(&mut self) {
        TRACKED_SCANS.with_borrow_mut(|nodes| nodes.retain(|node| node.memory != self.0));
    }
}

/// A function of PostgreSQL without the guard that pgrx puts around each. The guard rebuilds an error from a part of what it
/// tells, and errors of queries that have nothing to do with us pass here.
mod bare {
    use super::{c_int, pg_sys};

    unsafe extern "C-unwind" {
        pub fn standard_ExecutorStart(query: *mut pg_sys::QueryDesc, flags: c_int);
    }
}

static PREVIOUS: OnceLock<pg_sys::ExecutorStart_hook_type> = OnceLock::new();

/// Begins to watch; called once when the library is loaded.
pub fn install() {
    // SAFETY: the hook is the backend's own, and no query starts meanwhile.
    unsafe {
        if PREVIOUS.set(pg_sys::ExecutorStart_hook).is_ok() {
            pg_sys::ExecutorStart_hook = Some(start);
        }
    }
}

/// Starts a query as it would be started, then looks at its plan. An error of the start passes over this frame, which has
/// nothing to drop.
unsafe extern "C-unwind" fn start(query: *mut pg_sys::QueryDesc, flags: c_int) {
    // SAFETY: the arguments go on as they came; afterwards the query has its state.
    unsafe {
        match PREVIOUS.get() {
            Some(Some(previous)) => previous(query, flags),
            _ => bare::standard_ExecutorStart(query, flags),
        }
        started(query);
    }
}

/// Remembers the scans of a query.
#[pg_guard]
unsafe extern "C-unwind" fn started(query: *mut pg_sys::QueryDesc) {
    let mut found = Vec::new();
    // SAFETY: a query that was started has both; the walk gives the vector to `collect` alone.
    unsafe {
        let (state, executor) = ((*query).planstate, (*query).estate);
        if state.is_null() || executor.is_null() {
            return;
        }
        let out = (&raw mut found).cast::<c_void>();
        pg_sys::ffi::pg_guard_ffi_boundary(|| collect(state, out));
        found.retain(|&state| is_ours(state));
        if found.is_empty() {
            return;
        }
        let memory = (*executor).es_query_cxt;
        PgMemoryContexts::For(memory).leak_and_drop_on_delete(Forget(memory));
        let nodes = found.into_iter().map(|state| TrackedScan { state, memory });
        TRACKED_SCANS.with_borrow_mut(|all| all.extend(nodes));
    }
}

/// Appends the ordered index scans of a plan to the vector that `out` points to.
unsafe extern "C-unwind" fn collect(state: *mut pg_sys::PlanState, out: *mut c_void) -> bool {
    // SAFETY: called for nodes of a plan's state, with the vector of `started`.
    unsafe {
        if (*state).type_ == pg_sys::NodeTag::T_IndexScanState {
            let scan = state.cast::<pg_sys::IndexScanState>();
            if (*scan).iss_NumOrderByKeys == 1 {
                let out = &mut *out.cast::<Vec<*mut pg_sys::IndexScanState>>();
                out.push(scan);
            }
        }
        planstate_tree_walker(state, collect, out)
    }
}

/// Whether a scan is over an index of this access method, and will be run.
///
/// # Safety
/// `state` must be the state of an index scan.
pub unsafe fn is_ours(state: *mut pg_sys::IndexScanState) -> bool {
    // SAFETY: as promised; without a run the index is not even opened.
    unsafe {
        let index = (*state).iss_RelationDesc.as_ref();
        index.is_some_and(|index| (*index.rd_rel).relam == access_method())
    }
}

/// The distances of the rows of a scan that the executor keeps.
///
/// # Safety
/// `scan` must be the descriptor of a running index scan.
pub unsafe fn limit(scan: pg_sys::IndexScanDesc) -> DistanceLimit {
    // SAFETY: nodes are remembered as long as their memory is there.
    let is_it = |node: &&TrackedScan| unsafe { (*node.state).iss_ScanDesc == scan };
    let node =
        TRACKED_SCANS.with_borrow(|nodes| nodes.iter().rev().find(is_it).map(|node| node.state));
    let Some(node) = node else {
        return DistanceLimit::Known(DistanceRange::ALL);
    };
    // SAFETY: the scan runs, so its node and plan are there. The conditions in `qual` are the node's own: all must hold.
    unsafe {
        let state = &(*node).ss.ps;
        let plan = &*state.plan.cast::<pg_sys::IndexScan>();
        let Some(&order) = items(plan.indexorderbyorig).first() else {
            return DistanceLimit::Known(DistanceRange::ALL);
        };
        let limits = items(plan.scan.plan.qual).iter();
        let limits = limits.map(|&clause| limit_of(clause, order, state.ps_ExprContext));
        limits.fold(DistanceLimit::Known(DistanceRange::ALL), DistanceLimit::and)
    }
}
