//! Rows of the table: the sample for training, the pass of a build, and the exact distances of a search.

use crate::error::{Error, Purpose, Result, or_raise};
use crate::pg::datum::{OwnedVector, ReadElements, append_elements};
use crate::pg::recent::Recent;
use crate::pg::relation::{Element, Heap, Index};
use crate::pg::spi::as_role;
use crate::pg::with_temporary_memory;
use crate::sample::Reservoir;
use distillvq_ivf::{Candidate, Tid};
use pgrx::pg_sys;
use rand::Rng;
use std::ops::Range;

/// What an index takes from a row of its table: a column, or an expression, under an optional predicate.
pub struct IndexInfo(*mut pg_sys::IndexInfo);

impl IndexInfo {
    /// # Safety
    /// `info` must stay valid for as long as the view is used.
    pub unsafe fn new(info: *mut pg_sys::IndexInfo) -> Self {
        Self(info)
    }

    /// Reads the definition from the catalogs, in the current memory context.
    fn of_index(index: Index) -> Self {
        // SAFETY: the relation is open.
        Self(unsafe { pg_sys::BuildIndexInfo(index.as_ptr()) })
    }
}

/// Where the indexed value of a row comes from.
enum Source {
    /// A column of the table.
    Column(i32),
    /// An expression, evaluated by the executor.
    Expression {
        info: IndexInfo,
        estate: *mut pg_sys::EState,
    },
}

/// Reads the indexed values of rows in a slot. Lives in the memory context where it was made.
struct Values {
    slot: *mut pg_sys::TupleTableSlot,
    source: Source,
}

impl Values {
    fn new(index: Index, heap: Heap) -> Self {
        // SAFETY: the relations are open; slot and state are released in Drop, or by the abort after an error.
        unsafe {
            let slot = pg_sys::table_slot_create(heap.as_ptr(), std::ptr::null_mut());
            let column = i32::from(*(*(*index.as_ptr()).rd_index).indkey.values.as_ptr());
            let source = if column > 0 {
                Source::Column(column)
            } else {
                let estate = executor_state(slot);
                Source::Expression {
                    info: IndexInfo::of_index(index),
                    estate,
                }
            };
            Self { slot, source }
        }
    }

    /// The indexed value of the row in the slot, valid until the next row.
    fn value(&mut self) -> Option<pg_sys::Datum> {
        // SAFETY: the slot holds a row; an expression is evaluated in the per-tuple memory, which is reset first.
        unsafe {
            match &self.source {
                Source::Column(column) => {
                    let mut null = false;
                    let value = pg_sys::slot_getattr(self.slot, *column, &mut null);
                    (!null).then_some(value)
                }
                Source::Expression { info, estate } => {
                    let memory = (*per_tuple_context(*estate)).ecxt_per_tuple_memory;
                    pg_sys::MemoryContextReset(memory);
                    let previous = pg_sys::MemoryContextSwitchTo(memory);
                    let (mut values, mut nulls) = ([pg_sys::Datum::null(); 32], [true; 32]);
                    pg_sys::FormIndexDatum(
                        info.0,
                        self.slot,
                        *estate,
                        values.as_mut_ptr(),
                        nulls.as_mut_ptr(),
                    );
                    pg_sys::MemoryContextSwitchTo(previous);
                    (!nulls[0]).then_some(values[0])
                }
            }
        }
    }
}

impl Drop for Values {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: made in `new`, released once.
            unsafe {
                pg_sys::ExecDropSingleTupleTableSlot(self.slot);
                if let Source::Expression { estate, .. } = self.source {
                    pg_sys::FreeExecutorState(estate);
                }
            }
        }
    }
}

/// The predicate of a partial index, over rows in a slot.
struct Predicate {
    estate: *mut pg_sys::EState,
    state: *mut pg_sys::ExprState,
}

impl Predicate {
    fn new(index: Index, slot: *mut pg_sys::TupleTableSlot) -> Self {
        // SAFETY: the relation is open; the state is released in Drop, or by the abort after an error.
        unsafe {
            let estate = executor_state(slot);
            let state =
                pg_sys::ExecPrepareQual(pg_sys::RelationGetIndexPredicate(index.as_ptr()), estate);
            Self { estate, state }
        }
    }

    /// Whether the row in the slot belongs to the index.
    fn holds(&self) -> bool {
        // SAFETY: the slot holds a row; no predicate at all is true.
        unsafe {
            let context = per_tuple_context(self.estate);
            pg_sys::MemoryContextReset((*context).ecxt_per_tuple_memory);
            self.state.is_null() || pg_sys::ExecQual(self.state, context)
        }
    }
}

impl Drop for Predicate {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: made in `new`, released once.
            unsafe { pg_sys::FreeExecutorState(self.estate) };
        }
    }
}

/// An executor state whose expressions see the rows of a slot.
///
/// # Safety
/// The slot must outlive the state.
unsafe fn executor_state(slot: *mut pg_sys::TupleTableSlot) -> *mut pg_sys::EState {
    // SAFETY: a fresh state.
    unsafe {
        let estate = pg_sys::CreateExecutorState();
        (*per_tuple_context(estate)).ecxt_scantuple = slot;
        estate
    }
}

/// `GetPerTupleExprContext` of executor.h.
unsafe fn per_tuple_context(estate: *mut pg_sys::EState) -> *mut pg_sys::ExprContext {
    // SAFETY: a live executor state.
    unsafe {
        if (*estate).es_per_tuple_exprcontext.is_null() {
            pg_sys::MakePerTupleExprContext(estate);
        }
        (*estate).es_per_tuple_exprcontext
    }
}

/// Offers every row that an MVCC snapshot sees to a reservoir; the vectors of rows not chosen are not even read.
pub fn sample(heap: Heap, index: Index, element: Element, reservoir: &mut Reservoir) -> Result<()> {
    let mut rows = Values::new(index, heap);
    let predicate = Predicate::new(index, rows.slot);
    // SAFETY: the relation is open; scan and snapshot are released below, or by the abort after an error.
    unsafe {
        let snapshot = pg_sys::RegisterSnapshot(pg_sys::GetTransactionSnapshot());
        // From the first block on, not from where another scan happens to be: the same table gives the same sample.
        let (no_keys, ring, synchronized) = (std::ptr::null_mut(), true, false);
        let scan =
            pg_sys::table_beginscan_strat(heap.as_ptr(), snapshot, 0, no_keys, ring, synchronized);
        let forward = pg_sys::ScanDirection::ForwardScanDirection;
        let mut outcome = Ok(());
        while outcome.is_ok() && pg_sys::table_scan_getnextslot(scan, forward, rows.slot) {
            pgrx::check_for_interrupts!();
            if !predicate.holds() {
                continue;
            }
            if let Some(value) = rows.value() {
                outcome = reservoir.offer(|out| append_elements(value, element, out));
            }
        }
        pg_sys::table_endscan(scan);
        pg_sys::UnregisterSnapshot(snapshot);
        outcome
    }
}

/// Blocks that [`pick`] looks at, at the most.
const PICKED_BLOCKS: usize = 1_024;

/// Rows picked at random, and how many there should be in all.
pub struct Picked {
    /// Elements, row-major.
    pub vectors: Vec<f32>,
    /// An estimate, if not all blocks were looked at.
    pub rows: usize,
}

/// Picks `wanted` rows at random among those that an MVCC snapshot sees, or as many as there are. Not all blocks of a large
/// table are looked at, and only the vectors picked are read or computed.
pub fn pick(
    heap: Heap,
    index: Index,
    element: Element,
    wanted: usize,
    random: &mut impl Rng,
) -> Result<Picked> {
    let mut rows = Values::new(index, heap);
    let predicate = Predicate::new(index, rows.slot);
    let snapshot = Snapshot::new();
    let mut tids = Vec::new();
    // SAFETY: the relation is open; each scan is ended, or released by the abort after an error.
    let blocks = unsafe {
        let main = pg_sys::ForkNumber::MAIN_FORKNUM;
        pg_sys::RelationGetNumberOfBlocksInFork(heap.as_ptr(), main)
    };
    let chosen = sample_of(blocks as usize, PICKED_BLOCKS, random);
    for &block in &chosen {
        let block = block as u32;
        let Some(scan) = begin_scan(heap, &snapshot, &(block..block + 1)) else {
            continue;
        };
        let forward = pg_sys::ScanDirection::ForwardScanDirection;
        // SAFETY: as above; the slot holds a row while the scan says so.
        unsafe {
            while pg_sys::table_scan_getnextslot(scan, forward, rows.slot) {
                if predicate.holds() {
                    tids.push((*rows.slot).tts_tid);
                }
            }
            pg_sys::table_endscan(scan);
        }
        pgrx::check_for_interrupts!();
        if !is_plain(heap) {
            break;
        }
    }
    let mut vectors = Vec::new();
    for i in sample_of(tids.len(), wanted, random) {
        pgrx::check_for_interrupts!();
        // SAFETY: the slot is the table's, the snapshot registered.
        unsafe {
            let mut tid = tids[i];
            let row = pg_sys::table_tuple_fetch_row_version(
                heap.as_ptr(),
                &mut tid,
                snapshot.0,
                rows.slot,
            );
            if row && let Some(value) = rows.value() {
                append_elements(value, element, &mut vectors);
            }
        }
    }
    let rows = if is_plain(heap) {
        tids.len() * blocks as usize / chosen.len().max(1)
    } else {
        tids.len()
    };
    Ok(Picked { vectors, rows })
}

/// At most `wanted` of so many, in ascending order.
fn sample_of(all: usize, wanted: usize, random: &mut impl Rng) -> Vec<usize> {
    let mut chosen = rand::seq::index::sample(random, all, wanted.min(all)).into_vec();
    chosen.sort_unstable();
    chosen
}

/// Whether the table is kept as PostgreSQL keeps tables.
fn is_plain(heap: Heap) -> bool {
    // SAFETY: a look at a constant of the server's.
    heap.data().rd_tableam == unsafe { pg_sys::GetHeapamTableAmRoutine() }
}

/// Begins a scan of the blocks, as far as they exist; of the whole table, if that is not kept as PostgreSQL keeps tables.
fn begin_scan(
    heap: Heap,
    snapshot: &Snapshot,
    blocks: &Range<u32>,
) -> Option<pg_sys::TableScanDesc> {
    let main = pg_sys::ForkNumber::MAIN_FORKNUM;
    // SAFETY: the relation is open, the snapshot registered; limits are set before the first row is asked for.
    unsafe {
        let plain = is_plain(heap);
        let end = pg_sys::RelationGetNumberOfBlocksInFork(heap.as_ptr(), main);
        if plain && blocks.start >= end {
            return None;
        }
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

/// What a build does with each row: its TID, and a way to read its vector.
pub type EachRow<'a> = dyn FnMut(Tid, &ReadElements<'_>) -> Result<()> + 'a;

/// The same with the value, which is alive during the call.
pub(super) type EachValue<'a> = dyn FnMut(Tid, pg_sys::Datum) -> Result<()> + 'a;

/// What the build's callback gets back from the server.
struct BuildState<'a, 'b> {
    each: &'a mut EachValue<'b>,
}

/// Passes every row that a build must index to `each` (NULLs left out), in the order of the table; returns the number of
/// rows of the table. Reports the blocks scanned.
pub fn build_scan(
    heap: Heap,
    index: Index,
    info: &IndexInfo,
    element: Element,
    each: &mut EachRow<'_>,
) -> f64 {
    let mut read = |tid, value| {
        // SAFETY: a value of the index's type, alive during the call.
        each(tid, &|out| unsafe { append_elements(value, element, out) })
    };
    let mut state = BuildState { each: &mut read };
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

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn build_row(
    _index: pg_sys::Relation,
    tid: pg_sys::ItemPointer,
    values: *mut pg_sys::Datum,
    nulls: *mut bool,
    _alive: bool,
    state: *mut std::ffi::c_void,
) {
    // SAFETY: called by `build_scan` only, with its own state and one value, which is alive during the call.
    unsafe {
        if !*nulls {
            let state = &mut *state.cast::<BuildState<'_, '_>>();
            or_raise((state.each)(tid_of(&*tid), *values));
        }
    }
}

/// The rows that are visible, of a table whose index is checked or measured: the snapshot stays the same until it is dropped.
pub struct VisibleRows {
    heap: Heap,
    index: Index,
    element: Element,
    snapshot: Snapshot,
}

impl VisibleRows {
    /// Those visible now. Whoever looks at the index afterwards finds all of these rows there.
    pub fn new(heap: Heap, index: Index) -> Result<Self> {
        Self::with(heap, index, Snapshot::new(), Purpose::Check)
    }

    /// Those that the running statement sees.
    pub fn of_statement(heap: Heap, index: Index) -> Result<Self> {
        Self::with(heap, index, Snapshot::of_statement(), Purpose::Measure)
    }

    fn with(heap: Heap, index: Index, snapshot: Snapshot, purpose: Purpose) -> Result<Self> {
        let element = index.element()?;
        let rows = Self {
            heap,
            index,
            element,
            snapshot,
        };
        if rows.may_be_older_than_the_index() {
            let index = index.name();
            return Err(Error::OldSnapshot { purpose, index });
        }
        Ok(rows)
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

    /// Passes all rows that must be in the index (NULLs left out) and lie in these blocks of the table to `each`, with the
    /// addresses that the index has of them. Functions in the index's definition run as the owner of the table.
    pub fn show(&self, blocks: Range<u32>, each: &mut EachRow<'_>) {
        let element = self.element;
        self.show_values(blocks, &mut |tid, value| {
            // SAFETY: a value of the index's type, alive during the call.
            each(tid, &|out| unsafe { append_elements(value, element, out) })
        });
    }

    /// As [`VisibleRows::show`], with the values themselves.
    pub(super) fn show_values(&self, blocks: Range<u32>, each: &mut EachValue<'_>) {
        let mut inside = |tid: Tid, value| {
            if blocks.contains(&tid.block) {
                each(tid, value)
            } else {
                Ok(())
            }
        };
        let mut state = BuildState { each: &mut inside };
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
    pub(super) fn snapshot(&self) -> pg_sys::Snapshot {
        self.snapshot.0
    }
}

/// What is visible now, until it is dropped.
pub struct Snapshot(pg_sys::Snapshot);

impl Snapshot {
    /// Takes a snapshot.
    pub fn new() -> Self {
        // SAFETY: inside a transaction; released in Drop, or by the abort after an error.
        Self(unsafe { pg_sys::RegisterSnapshot(pg_sys::GetTransactionSnapshot()) })
    }

    /// Takes that of the running statement.
    fn of_statement() -> Self {
        // SAFETY: functions are called under an active snapshot; released in Drop, or by the abort after an error.
        Self(unsafe { pg_sys::RegisterSnapshot(pg_sys::GetActiveSnapshot()) })
    }

    /// The distances of rows to a query, as a search under this snapshot has them.
    pub fn exact<'a>(&self, heap: Heap, index: Index, query: &'a OwnedVector) -> Exact<'a> {
        Exact {
            heap,
            index,
            snapshot: self.0,
            query: Some(query),
        }
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: registered in `new`, released once.
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

/// Exact distances of rows for one search, as the executor would compute them.
pub struct Exact<'a> {
    /// The table that is scanned.
    pub heap: Heap,
    /// The index, for its definition.
    pub index: Index,
    /// The search's snapshot: rows that it does not see have no distance.
    pub snapshot: pg_sys::Snapshot,
    /// The query, or none for NULL: then every distance counts as zero.
    pub query: Option<&'a OwnedVector>,
}

/// Rows ahead of the one being compared that the processor is asked for, in two steps: what leads to the row, and the row.
const AHEAD: [usize; 2] = [8, 4];

impl Exact<'_> {
    /// Appends the distance of each row to `out`, none for rows that the snapshot does not see. The rows should come in
    /// the order of their blocks; nothing stays pinned.
    pub fn distances(&self, candidates: &[Candidate], out: &mut Vec<Option<f64>>) -> Result<()> {
        pgrx::check_for_interrupts!();
        let distance = self.index.distance();
        with_temporary_memory(|| {
            let mut rows = Rows::new(self.index, self.heap);
            rows.prefetch(candidates);
            for (i, candidate) in candidates.iter().enumerate() {
                rows.warm(candidates, i);
                let value = rows.fetch(candidate.tid, self.snapshot);
                out.push(value.map(|value| match self.query {
                    // SAFETY: a value of the index's type, valid until the next row, and the query, which is another one.
                    Some(query) => unsafe { distance.call(value, query.datum()) },
                    None => 0.0,
                }));
            }
        });
        Ok(())
    }
}

/// What is done with each of the rows that are looked up: its place among them, and a way to read its vector, if the row is
/// alive and has one.
pub type EachFound<'a> = dyn FnMut(usize, Option<&ReadElements<'_>>) -> Result<()> + 'a;

/// Looks rows up by the addresses that an index has of them, best in the order of their blocks. A row is alive unless it was
/// deleted for good, or its insertion failed. Functions in the index's definition run as the owner of the table.
pub fn look_up(heap: Heap, index: Index, tids: &[Tid], each: &mut EachFound<'_>) -> Result<()> {
    let element = index.element()?;
    let mut snapshot = pg_sys::SnapshotData {
        snapshot_type: pg_sys::SnapshotType::SNAPSHOT_DIRTY,
        ..Default::default()
    };
    // SAFETY: the relation is open.
    let end = unsafe {
        pg_sys::RelationGetNumberOfBlocksInFork(heap.as_ptr(), pg_sys::ForkNumber::MAIN_FORKNUM)
    };
    let look = || {
        let mut rows = Rows::new(index, heap);
        for (i, tid) in tids.iter().enumerate() {
            pgrx::check_for_interrupts!();
            let inside = tid.block < end;
            let value = inside
                .then(|| rows.fetch(*tid, &raw mut snapshot))
                .flatten();
            match value {
                Some(value) => each(
                    i,
                    Some(&|out| {
                        // SAFETY: a value of the index's type, valid until the next row.
                        unsafe { append_elements(value, element, out) }
                    }),
                )?,
                None => each(i, None)?,
            }
        }
        Ok(())
    };
    with_temporary_memory(|| as_role(index.owner(), look))
}

/// Fetches rows by their TIDs. Lives in the memory context where it was made.
pub(super) struct Rows {
    heap: Heap,
    values: Values,
    fetch: *mut pg_sys::IndexFetchTableData,
    /// Where pages of the table were found before, if it is kept as PostgreSQL keeps tables.
    recent: Option<Recent>,
}

impl Rows {
    pub(super) fn new(index: Index, heap: Heap) -> Self {
        // SAFETY: the relation is open; the fetch is ended in Drop, or released by the abort after an error.
        let (fetch, plain) = unsafe {
            let plain = pg_sys::GetHeapamTableAmRoutine();
            let fetch = pg_sys::table_index_fetch_begin(heap.as_ptr());
            (fetch, heap.data().rd_tableam == plain)
        };
        Self {
            heap,
            values: Values::new(index, heap),
            fetch,
            recent: plain.then(|| Recent::of(heap.data())),
        }
    }

    /// Has pages that were not met before brought from disk, all at once instead of one by one.
    fn prefetch(&self, rows: &[Candidate]) {
        let Some(recent) = &self.recent else { return };
        let (heap, fork) = (self.heap.as_ptr(), pg_sys::ForkNumber::MAIN_FORKNUM);
        for same_page in rows.chunk_by(|a, b| a.tid.block == b.tid.block) {
            if let Some(row) = same_page.first()
                && !recent.knows(row.tid.block)
            {
                // SAFETY: the relation is open; a page that is not there any more is nothing to wait for.
                unsafe { pg_sys::PrefetchBuffer(heap, fork, row.tid.block) };
            }
        }
    }

    /// Asks the processor for rows that follow the `i`-th.
    fn warm(&self, rows: &[Candidate], i: usize) {
        let Some(recent) = &self.recent else { return };
        let pointer = |row: &Candidate| recent.warm_pointer(row.tid.block, row.tid.offset);
        let tuple = |row: &Candidate| recent.warm_row(row.tid.block, row.tid.offset);
        let [far, near] = AHEAD;
        if i == 0 {
            rows.iter().take(far).for_each(pointer);
            rows.iter().take(near).for_each(tuple);
        }
        rows.get(i + far).map(pointer);
        rows.get(i + near).map(tuple);
    }

    /// The indexed value of a row, valid until the next one; none if the snapshot does not see it.
    pub(super) fn fetch(&mut self, tid: Tid, snapshot: pg_sys::Snapshot) -> Option<pg_sys::Datum> {
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
        if found { self.values.value() } else { None }
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

    /// Remembers where the fetch found the page.
    fn remember(&self, block: u32) {
        if let Some(recent) = &self.recent {
            // SAFETY: the fetch names the buffer that it has pinned.
            recent.remember(block, unsafe { *self.pinned() });
        }
    }
}

impl Drop for Rows {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: begun in `new`, ended once.
            unsafe { pg_sys::table_index_fetch_end(self.fetch) };
        }
    }
}
