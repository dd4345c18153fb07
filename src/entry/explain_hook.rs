//! What `EXPLAIN (ANALYZE)` shows of searches, from PostgreSQL 18 on.

#[cfg(feature = "pg18")]
use pgrx::pg_sys;

/// Has `EXPLAIN (ANALYZE)` show what the searches of a node have done, if it ran in this process.
#[cfg(feature = "pg18")]
pub fn install() {
    use crate::entry::{executor_hook, scan};
    use std::ffi::{CStr, c_char};
    use std::sync::OnceLock;

    static PREVIOUS: OnceLock<pg_sys::explain_per_node_hook_type> = OnceLock::new();

    #[pgrx::pg_guard]
    unsafe extern "C-unwind" fn show(
        node: *mut pg_sys::PlanState,
        ancestors: *mut pg_sys::List,
        relationship: *const c_char,
        plan: *const c_char,
        explain: *mut pg_sys::ExplainState,
    ) {
        // SAFETY: the server's own structures, alive during the call; the node's tag says what it is.
        unsafe {
            if let Some(Some(previous)) = PREVIOUS.get() {
                pg_sys::ffi::pg_guard_ffi_boundary(|| {
                    previous(node, ancestors, relationship, plan, explain);
                });
            }
            let scan = node.cast::<pg_sys::IndexScanState>();
            if !(*explain).analyze
                || (*node).type_ != pg_sys::NodeTag::T_IndexScanState
                || !executor_hook::is_ours(scan)
            {
                return;
            }
            let Some(counters) = scan::counters((*scan).iss_ScanDesc) else {
                return;
            };
            let line = |label: &CStr, value: u64| {
                let value = i64::try_from(value).unwrap_or(i64::MAX);
                pg_sys::ExplainPropertyInteger(label.as_ptr(), std::ptr::null(), value, explain);
            };
            line(c"Lists Probed", counters.probed);
            line(c"Codes Scanned", counters.codes);
            if counters.excluded > 0 {
                line(c"Rows Excluded by Filter Columns", counters.excluded);
            }
            if counters.refined > 0 {
                line(c"Refine Codes Compared", counters.refined);
            }
            line(c"Rows Reranked", counters.reranked);
            if counters.dropped > 0 {
                line(c"Late Rows Dropped", counters.dropped);
            }
        }
    }

    // SAFETY: the hook is the backend's own, and nothing is explained meanwhile.
    unsafe {
        if PREVIOUS.set(pg_sys::explain_per_node_hook).is_ok() {
            pg_sys::explain_per_node_hook = Some(show);
        }
    }
}

/// Has `EXPLAIN (ANALYZE)` show what searches have done, where it can be made to.
#[cfg(not(feature = "pg18"))]
pub fn install() {}
