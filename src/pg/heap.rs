//! Rows of the table. Which way they are come by decides where code belongs:
//!
//! * [`sample`](mod@sample): rows drawn at random;
//! * [`table_scan`]: all rows, in the order of the table's blocks;
//! * [`fetch`]: rows by their addresses;
//! * [`values`]: what the index takes from a row, whichever way that came.
//!
//! What all ways share is here: snapshots, addresses, scans of blocks.

mod fetch;
mod sample;
mod table_scan;
mod values;

pub(super) use fetch::HeapFetcher;
pub use fetch::{HeapDistances, count_dead, fetch_live};
pub use sample::{SampledRows, sample, sample_blocks};
pub use table_scan::{RowFn, VisibleRows, build_scan};
pub use values::IndexInfo;

use crate::pg::relation::Heap;
use distillvq_ivf::Tid;
use pgrx::pg_sys;
use std::ops::Range;

/// What is visible now, until it is dropped.
pub struct Snapshot(pg_sys::Snapshot);

impl Snapshot {
    /// Takes one that sees what has been committed by now, whatever the transaction's isolation level: what a build indexes.
    pub fn latest() -> Self {
        // SAFETY: inside a transaction; released in Drop, or by the abort after an error. A VACUUM with parallel workers may not take
        // the first kind; the second is as new, and copied as it is registered.
        Self(unsafe {
            let latest = if pg_sys::IsInParallelMode() {
                pg_sys::GetCatalogSnapshot(pg_sys::InvalidOid)
            } else {
                pg_sys::GetLatestSnapshot()
            };
            pg_sys::RegisterSnapshot(latest)
        })
    }

    /// Takes that of the running statement.
    fn of_statement() -> Self {
        // SAFETY: functions are called under an active snapshot; released in Drop, or by the abort after an error.
        Self(unsafe { pg_sys::RegisterSnapshot(pg_sys::GetActiveSnapshot()) })
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: registered when it was taken, released once.
            unsafe { pg_sys::UnregisterSnapshot(self.0) };
        }
    }
}

/// A TID in our representation.
pub fn tid_of(pointer: &pg_sys::ItemPointerData) -> Tid {
    let block = (u32::from(pointer.ip_blkid.bi_hi) << 16) | u32::from(pointer.ip_blkid.bi_lo);
    Tid {
        block,
        offset: pointer.ip_posid,
    }
}

/// A TID in PostgreSQL's representation.
pub fn item_pointer(tid: Tid) -> pg_sys::ItemPointerData {
    let block = pg_sys::BlockIdData {
        bi_hi: (tid.block >> 16) as u16,
        bi_lo: tid.block as u16,
    };
    pg_sys::ItemPointerData {
        ip_blkid: block,
        ip_posid: tid.offset,
    }
}

/// Begins a scan of the blocks, as far as they exist; of the whole table, if that is not kept as PostgreSQL keeps tables.
/// It begins with the first block, not where another scan happens to be: the same table gives the same rows in the same order.
fn begin_scan(
    heap: Heap,
    snapshot: &Snapshot,
    blocks: &Range<u32>,
) -> Option<pg_sys::TableScanDesc> {
    let (plain, end) = (heap.is_heap_am(), heap.blocks());
    if plain && blocks.start >= end {
        return None;
    }
    // SAFETY: the relation is open, the snapshot registered; limits are set before the first row is asked for.
    unsafe {
        let (no_keys, ring, synchronized) = (std::ptr::null_mut(), true, false);
        let scan = pg_sys::table_beginscan_strat(
            heap.as_ptr(),
            snapshot.0,
            0,
            no_keys,
            ring,
            synchronized,
        );
        if plain {
            let count = blocks.end.min(end) - blocks.start;
            pg_sys::heap_setscanlimits(scan, blocks.start, count);
        }
        Some(scan)
    }
}
