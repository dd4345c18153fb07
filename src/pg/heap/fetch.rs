//! Rows by their addresses: the exact distances of a search, and the rows that an index names looked up. How a row is fetched,
//! and what makes that quick, is in [`HeapFetcher`].

use super::values::Values;
use super::{Snapshot, item_pointer};
use crate::error::{Error, Result};
use crate::pg::filter_columns::{FilterColumns, RowValues};
use crate::pg::memory::{TemporaryMemory, with_temporary_memory};
use crate::pg::recent_buffers::RecentBuffers;
use crate::pg::relation::{Heap, Index};
use crate::pg::role::as_role;
use crate::pg::vector_datum::OwnedVector;
use distillvq_ivf::{Candidate, Tid};
use pgrx::pg_sys;
use std::mem::ManuallyDrop;

/// Exact distances of rows for the searches of a scan, as the executor would compute them. Lives in the memory context where it
/// was made, and must be dropped before the relations are closed.
pub struct HeapDistances {
    rows: HeapFetcher,
    /// The index, for its definition.
    index: Index,
    /// Rows that it does not see have no distance.
    snapshot: pg_sys::Snapshot,
    /// The same, if it is not the executor's.
    _owned: Option<OwnedSnapshot>,
    /// For what distance functions leave behind.
    memory: TemporaryMemory,
}

impl HeapDistances {
    /// The distances of rows of a table that a snapshot sees.
    ///
    /// # Safety
    /// The snapshot must stay registered for as long as distances are asked for.
    pub unsafe fn new(heap: Heap, index: Index, snapshot: pg_sys::Snapshot) -> Self {
        Self {
            rows: HeapFetcher::new(index, heap),
            index,
            snapshot,
            _owned: None,
            memory: TemporaryMemory::new(),
        }
    }

    /// The distances of rows that have been committed by now.
    pub fn of_latest(heap: Heap, index: Index) -> Self {
        let snapshot = Snapshot::latest();
        // SAFETY: it is registered until it is dropped, with the rest.
        let distances = unsafe { Self::new(heap, index, snapshot.0) };
        Self {
            _owned: Some(OwnedSnapshot::Latest(snapshot)),
            ..distances
        }
    }

    /// The distances of rows that are alive when they are asked for: nothing keeps those of an older snapshot from being removed
    /// while VACUUM runs.
    pub fn of_live(heap: Heap, index: Index) -> Self {
        let mut snapshot = Box::new(dirty());
        // SAFETY: such a snapshot is not registered; it is kept with the rest.
        let distances = unsafe { Self::new(heap, index, &raw mut *snapshot) };
        Self {
            _owned: Some(OwnedSnapshot::Dirty(snapshot)),
            ..distances
        }
    }

    /// Appends the distance of each row from the query to `out`, none for rows that the snapshot does not see; without a query,
    /// which was NULL, every distance counts as zero. The rows should come in the order of their blocks; nothing stays pinned.
    pub fn distances(
        &mut self,
        query: Option<&OwnedVector>,
        candidates: &[Candidate],
        out: &mut Vec<Option<f64>>,
    ) -> Result<()> {
        pgrx::check_for_interrupts!();
        if let Some(block) = self.rows.prefetch(candidates) {
            let index = self.index.named();
            return Err(Error::NoSuchRow { index, block });
        }
        let Self { rows, snapshot, .. } = self;
        let distance = self.index.distance();
        self.memory.run(|| {
            for (i, candidate) in candidates.iter().enumerate() {
                rows.prefetch_cache_lines(candidates, i);
                let value = rows.fetch(candidate.tid, *snapshot);
                out.push(value.map(|value| match query {
                    // SAFETY: a value of the index's type, valid until the next row, and the query, which is another one.
                    Some(query) => unsafe { distance.call(value, query.datum()) },
                    None => 0.0,
                }));
            }
        });
        rows.unpin();
        Ok(())
    }

    /// Drops it after an abort, which has released everything of the server's.
    pub fn abandon(self) {
        let mut left = ManuallyDrop::new(self);
        left.rows.recent = None;
    }
}

/// What keeps the snapshot of [`HeapDistances`].
#[allow(dead_code)]
enum OwnedSnapshot {
    Latest(Snapshot),
    Dirty(Box<pg_sys::SnapshotData>),
}

/// What is done with each of the rows that are alive and have a vector: its place among those looked up, and the values of the
/// index's columns, which are alive during the call.
type LiveRowFn<'a> = dyn FnMut(usize, RowValues<'_>) + 'a;

/// A snapshot that sees what was not deleted for good, and whose insertion did not fail.
fn dirty() -> pg_sys::SnapshotData {
    pg_sys::SnapshotData {
        snapshot_type: pg_sys::SnapshotType::SNAPSHOT_DIRTY,
        ..Default::default()
    }
}

/// Looks rows up by the addresses that an index has of them, best in the order of their blocks; with the values of filter columns
/// if these are given. Functions in the index's definition run as the owner of the table.
pub fn fetch_live(
    heap: Heap,
    index: Index,
    filters: &FilterColumns,
    tids: &[Tid],
    each: &mut LiveRowFn<'_>,
) -> Result<()> {
    index.element()?;
    let (mut snapshot, end) = (dirty(), heap.blocks());
    let look = || {
        let mut rows = HeapFetcher::of_columns(index, heap, filters.index_columns());
        for (i, tid) in tids.iter().enumerate().filter(|(_, tid)| tid.block < end) {
            pgrx::check_for_interrupts!();
            if rows.find(*tid, &raw mut snapshot)
                && let Some(row) = rows.values.row()
            {
                each(i, row);
            }
        }
    };
    with_temporary_memory(|| as_role(index.owner(), look));
    Ok(())
}

/// Counts the rows that are dead among those of these addresses. Nothing of the index's definition is evaluated.
pub fn count_dead(heap: Heap, index: Index, tids: &[Tid]) -> usize {
    let (mut snapshot, end) = (dirty(), heap.blocks());
    with_temporary_memory(|| {
        let mut rows = HeapFetcher::new(index, heap);
        let mut alive = |tid: &&Tid| {
            pgrx::check_for_interrupts!();
            tid.block < end && rows.find(**tid, &raw mut snapshot)
        };
        tids.len() - tids.iter().filter(&mut alive).count()
    })
}

/// Rows ahead of the one being compared that the processor is asked for, in two steps: what leads to the row, and the row.
const PREFETCH_DISTANCE: [usize; 2] = [8, 4];

/// Fetches rows by their TIDs. Lives in the memory context where it was made.
pub(in crate::pg) struct HeapFetcher {
    heap: Heap,
    values: Values,
    fetch: *mut pg_sys::IndexFetchTableData,
    /// Where pages of the table were found before, if it is kept as PostgreSQL keeps tables.
    recent: Option<RecentBuffers>,
}

impl HeapFetcher {
    pub(in crate::pg) fn new(index: Index, heap: Heap) -> Self {
        Self::of_columns(index, heap, 1)
    }

    /// The same, for the values of the first `columns` columns of the index.
    fn of_columns(index: Index, heap: Heap, columns: usize) -> Self {
        // SAFETY: the relation is open; the fetch is ended in Drop, or released by the abort after an error.
        let fetch = unsafe { pg_sys::table_index_fetch_begin(heap.as_ptr()) };
        Self {
            heap,
            values: Values::of_columns(index, heap, columns),
            fetch,
            recent: heap.is_heap_am().then(|| RecentBuffers::of(heap.data())),
        }
    }

    /// Has pages that were not met before brought from disk, all at once instead of one by one. Returns a page that a row
    /// names, but the table does not have.
    fn prefetch(&self, rows: &[Candidate]) -> Option<u32> {
        let recent = self.recent.as_ref()?;
        // To be refused first: places of remembered pages are shared, and reading this block would add a page to the table.
        let no_block = pg_sys::InvalidBlockNumber;
        if rows.iter().any(|row| row.tid.block == no_block) {
            return Some(no_block);
        }
        let (heap, fork) = (self.heap.as_ptr(), pg_sys::ForkNumber::MAIN_FORKNUM);
        let mut blocks = 0;
        for same_page in rows.chunk_by(|a, b| a.tid.block == b.tid.block) {
            if let Some(row) = same_page.first()
                && !recent.contains(row.tid.block)
            {
                if row.tid.block >= blocks {
                    blocks = self.heap.blocks();
                }
                if row.tid.block >= blocks {
                    return Some(row.tid.block);
                }
                // SAFETY: the relation is open, the block in range: beyond a missing file it would be an error.
                unsafe { pg_sys::PrefetchBuffer(heap, fork, row.tid.block) };
            }
        }
        None
    }

    /// Asks the processor for rows that follow the `i`-th.
    fn prefetch_cache_lines(&self, rows: &[Candidate], i: usize) {
        let Some(recent) = &self.recent else { return };
        let pointer = |row: &Candidate| recent.prefetch_line_pointer(row.tid.block, row.tid.offset);
        let tuple = |row: &Candidate| recent.warm_row(row.tid.block, row.tid.offset);
        let [far, near] = PREFETCH_DISTANCE;
        if i == 0 {
            rows.iter().take(far).for_each(pointer);
            rows.iter().take(near).for_each(tuple);
        }
        rows.get(i + far).map(pointer);
        rows.get(i + near).map(tuple);
    }

    /// The indexed value of a row, valid until the next one; none if the snapshot does not see it.
    pub(in crate::pg) fn fetch(
        &mut self,
        tid: Tid,
        snapshot: pg_sys::Snapshot,
    ) -> Option<pg_sys::Datum> {
        if self.find(tid, snapshot) {
            self.values.value()
        } else {
            None
        }
    }

    /// Brings a row into the slot, if the snapshot sees it.
    fn find(&mut self, tid: Tid, snapshot: pg_sys::Snapshot) -> bool {
        self.pin(tid.block);
        let (mut again, mut dead) = (false, false);
        let mut pointer = item_pointer(tid);
        // SAFETY: the slot is the table's; the snapshot is the scan's and registered by the executor.
        let found = unsafe {
            let (fetch, slot) = (self.fetch, self.values.slot);
            pg_sys::table_index_fetch_tuple(
                fetch,
                &mut pointer,
                snapshot,
                slot,
                &mut again,
                &mut dead,
            )
        };
        self.remember(tid.block);
        found
    }

    /// The buffer that the fetch has pinned, 0 if it has none (`IndexFetchHeapData` of heapam.h).
    fn pinned(&self) -> *mut pg_sys::Buffer {
        let fetch = self.fetch.cast::<pg_sys::IndexFetchHeapData>();
        // SAFETY: only asked of a fetch of the heap's own, which begins so.
        unsafe { &raw mut (*fetch).xs_cbuf }
    }

    /// Pins the page for the fetch where it was found before, which spares looking it up. The page is then not pruned in
    /// passing: the executor does that when it fetches the rows that it gets.
    fn pin(&self, block: u32) {
        let Some(recent) = &self.recent else { return };
        // SAFETY: the fetch owns one pin of the buffer it names, or none; it goes on with the one that it is given.
        unsafe {
            let pinned = self.pinned();
            if *pinned != 0 && pg_sys::BufferGetBlockNumber(*pinned) == block {
                return;
            }
            if let Some(buffer) = recent.pin(self.heap.data(), block) {
                let before = std::mem::replace(&mut *pinned, buffer);
                if before != 0 {
                    pg_sys::ReleaseBuffer(before);
                }
            }
        }
    }

    /// Gives back the page of the last row.
    fn unpin(&mut self) {
        // SAFETY: fetch and slot are live.
        unsafe {
            pg_sys::ExecClearTuple(self.values.slot);
            pg_sys::table_index_fetch_reset(self.fetch);
        }
    }

    /// Remembers where the fetch found the page.
    fn remember(&self, block: u32) {
        if let Some(recent) = &self.recent {
            // SAFETY: the fetch names the buffer that it has pinned.
            recent.remember(block, unsafe { *self.pinned() });
        }
    }
}

impl Drop for HeapFetcher {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: begun in `new`, ended once.
            unsafe { pg_sys::table_index_fetch_end(self.fetch) };
        }
    }
}
