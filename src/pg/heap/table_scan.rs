//! All rows of the table with their addresses, in the order of its blocks: for a build, and for whoever compares an index
//! with what a snapshot sees.

use super::{IndexInfo, Snapshot, begin_scan, tid_of};
use crate::error::{Error, Operation, Result};
use crate::pg::filter_columns::{FilterColumns, RowValues};
use crate::pg::guard::guard;
use crate::pg::memory::with_temporary_memory;
use crate::pg::relation::{Heap, Index};
use crate::pg::report::or_raise;
use crate::pg::role::as_role;
use distillvq_ivf::Tid;
use pgrx::pg_sys;
use std::ops::Range;

/// What is done with each row: its TID, and the values of the index's columns, which are alive during the call.
pub type RowFn<'a> = dyn FnMut(Tid, RowValues<'_>) -> Result<()> + 'a;

/// The same with the vector.
pub(in crate::pg) type ValueFn<'a> = dyn FnMut(Tid, pg_sys::Datum) -> Result<()> + 'a;

/// What the build's callback gets back from the server.
struct BuildState<'a, 'b> {
    each: &'a mut RowFn<'b>,
    /// Columns that are looked at.
    columns: usize,
}

/// Passes every row that a build must index to `each` (those without a vector left out), in the order of the table; returns the
/// number of rows of the table. Reports the blocks scanned.
pub fn build_scan(
    heap: Heap,
    index: Index,
    info: &IndexInfo,
    filters: &FilterColumns,
    each: &mut RowFn<'_>,
) -> f64 {
    let columns = filters.index_columns();
    let mut state = BuildState { each, columns };
    let state = (&raw mut state).cast::<std::ffi::c_void>();
    let (synchronized, progress, no_scan) = (false, true, std::ptr::null_mut());
    // SAFETY: the relations are open; the callback gets back the pointer to the state, which outlives the scan.
    unsafe {
        let (heap, index) = (heap.as_ptr(), index.as_ptr());
        pg_sys::table_index_build_scan(
            heap,
            index,
            info.0,
            synchronized,
            progress,
            Some(build_row),
            state,
            no_scan,
        )
    }
}

unsafe extern "C-unwind" fn build_row(
    _index: pg_sys::Relation,
    tid: pg_sys::ItemPointer,
    values: *mut pg_sys::Datum,
    nulls: *mut bool,
    _alive: bool,
    state: *mut std::ffi::c_void,
) {
    // SAFETY: called by the server for `build_scan` and `for_each_row` only, with their own state and the values of all columns,
    // which are alive during the call.
    guard(|| unsafe {
        let state = &mut *state.cast::<BuildState<'_, '_>>();
        let row = RowValues::new(values, nulls, state.columns);
        if !row.lacks_vector() {
            or_raise((state.each)(tid_of(&*tid), row));
        }
    });
}

/// The rows that are visible, of a table whose index is checked or measured: the snapshot stays the same until it is dropped.
pub struct VisibleRows {
    heap: Heap,
    index: Index,
    snapshot: Snapshot,
}

impl VisibleRows {
    /// Those visible now, whatever the transaction's isolation level. Whoever looks at the index afterwards finds all of these rows
    /// there.
    pub fn new(heap: Heap, index: Index) -> Result<Self> {
        index.element()?;
        Ok(Self::with(heap, index, Snapshot::latest()))
    }

    /// Those that the running statement sees.
    pub fn of_statement(heap: Heap, index: Index) -> Result<Self> {
        index.element()?;
        let rows = Self::with(heap, index, Snapshot::of_statement());
        if rows.may_be_older_than_the_index() {
            return Err(Error::OldSnapshot {
                operation: Operation::Measure,
                index: index.name(),
            });
        }
        Ok(rows)
    }

    fn with(heap: Heap, index: Index, snapshot: Snapshot) -> Self {
        Self {
            heap,
            index,
            snapshot,
        }
    }

    /// Whether the snapshot is an older one of the transaction, which may see versions of rows that the index, made over a
    /// table with chains of updates, leaves out until its `indcheckxmin` has passed.
    fn may_be_older_than_the_index(&self) -> bool {
        // SAFETY: an open index has its catalog row; the snapshot is registered.
        unsafe {
            let index = &*self.index.as_ptr();
            let made =
                pg_sys::submodules::htup::HeapTupleHeaderGetXmin((*index.rd_indextuple).t_data);
            pg_sys::XactIsoLevel >= pg_sys::XACT_REPEATABLE_READ as i32
                && (*index.rd_index).indcheckxmin
                && !pg_sys::TransactionIdPrecedes(made, (*self.snapshot.0).xmin)
        }
    }

    /// As [`VisibleRows::for_each`], with the vectors alone, and for an index of whatever access method.
    pub(in crate::pg) fn for_each_value(&self, blocks: Range<u32>, each: &mut ValueFn<'_>) {
        let filters = FilterColumns::default();
        self.for_each(blocks, &filters, &mut |tid, row| each(tid, row.vector()));
    }

    /// Passes all rows that must be in the index (those without a vector left out) and lie in these blocks of the table to `each`,
    /// with the addresses that the index has of them. Functions in the index's definition run as the owner of the table.
    pub fn for_each(&self, blocks: Range<u32>, filters: &FilterColumns, each: &mut RowFn<'_>) {
        let mut inside = |tid: Tid, row: RowValues<'_>| {
            if blocks.contains(&tid.block) {
                each(tid, row)
            } else {
                Ok(())
            }
        };
        let mut state = BuildState {
            each: &mut inside,
            columns: filters.index_columns(),
        };
        let state = (&raw mut state).cast::<std::ffi::c_void>();
        let scan = || {
            // SAFETY: the relations are open; the callback gets back the pointer to the state, which outlives the scan,
            // and the server ends the scan.
            unsafe {
                let info = pg_sys::BuildIndexInfo(self.index.as_ptr());
                // Not a build: rows by the snapshot alone.
                (*info).ii_Concurrent = true;
                if let Some(scan) = begin_scan(self.heap, &self.snapshot, &blocks) {
                    pg_sys::table_index_build_scan(
                        self.heap.as_ptr(),
                        self.index.as_ptr(),
                        info,
                        true,
                        false,
                        Some(build_row),
                        state,
                        scan,
                    );
                }
            }
        };
        let owner = self.index.owner();
        with_temporary_memory(|| as_role(owner, scan));
    }

    /// The snapshot, registered.
    pub(in crate::pg) fn snapshot(&self) -> pg_sys::Snapshot {
        self.snapshot.0
    }
}
