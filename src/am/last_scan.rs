//! What the session's last scan did.

use crate::am::scan::SearchStats;
use pgrx::pg_sys::Oid;
use std::cell::Cell;

thread_local! {
    static LAST: Cell<Option<(Oid, SearchStats)>> = const { Cell::new(None) };
}

/// The index of the session's last scan, and what that has done so far.
pub fn get() -> Option<(Oid, SearchStats)> {
    LAST.get()
}

/// Records what a scan of an index has done.
pub fn set(index: Oid, stats: SearchStats) {
    LAST.set(Some((index, stats)));
}
