//! Searching an index from outside, whatever its access method, and its table beside it: what a measurement of recall needs.

use crate::error::{Error, Result};
use crate::pg::compat;
use crate::pg::element::ElementType;
use crate::pg::heap::{HeapFetcher, VisibleRows, tid_of};
use crate::pg::memory::with_temporary_memory;
use crate::pg::relation::{Heap, Index, LockedIndex};
use crate::pg::role::as_role;
use crate::pg::vector_datum::{Detoasted, OwnedVector};
use distillvq_ivf::Tid;
use distillvq_ivf::recall_estimate::TopDistances;
use pgrx::pg_sys;
use std::time::{Duration, Instant};

/// Queries that a row is compared with between two looks at interrupts.
const QUERIES_A_LOOK: usize = 64;

/// A query, and the row that it is, if it is one: no neighbor of itself.
pub struct RecallQuery {
    vector: OwnedVector,
    row: Option<Tid>,
}

impl RecallQuery {
    /// The query of these elements for an index of vectors of an element type.
    pub fn new(elements: &[f32], element: ElementType, row: Option<Tid>) -> Result<Self> {
        let vector = OwnedVector::of(elements, element);
        if element == ElementType::Half && vector.elements().iter().any(|value| !value.is_finite())
        {
            return Err(Error::QueryRange);
        }
        Ok(Self { vector, row })
    }
}

/// The operator that an index orders rows by.
struct OrderByOperator {
    function: pg_sys::Oid,
    /// Its right operand's type.
    right: pg_sys::Oid,
    collation: pg_sys::Oid,
    /// Ready to be called.
    call: Box<pg_sys::FmgrInfo>,
}

/// Strategy of the ordering operator in the operator classes of distillvq, hnsw, and ivfflat.
const STRATEGY: u16 = 1;

impl OrderByOperator {
    fn of(index: Index) -> Result<Self> {
        let none = || Error::NoDistance(index.name());
        let data = index.data();
        // SAFETY: an open index has an operator class for its first column, and its access method's routine.
        unsafe {
            if !(*data.rd_indam).amcanorderbyop {
                return Err(none());
            }
            let (family, right) = (*data.rd_opfamily, *data.rd_opcintype);
            let operator = pg_sys::get_opfamily_member(family, right, right, STRATEGY as i16);
            if operator == pg_sys::InvalidOid
                || pg_sys::get_op_rettype(operator) != pg_sys::FLOAT8OID
            {
                return Err(none());
            }
            let mut operator = Self {
                function: pg_sys::get_opcode(operator),
                right,
                collation: *data.rd_indcollation,
                call: Box::default(),
            };
            pg_sys::fmgr_info(operator.function, &mut *operator.call);
            Ok(operator)
        }
    }

    /// # Safety
    /// `row` must be a value of the index's type.
    unsafe fn distance(&mut self, row: pg_sys::Datum, query: &RecallQuery) -> f64 {
        let query = query.vector.datum();
        // SAFETY: as promised; the operator gives double precision.
        let result =
            unsafe { pg_sys::FunctionCall2Coll(&mut *self.call, self.collation, row, query) };
        f64::from_bits(result.value() as u64)
    }
}

/// An index that is measured, its table, and the rows of it that the running statement sees.
pub struct RecallSearch {
    heap: Heap,
    index: Index,
    rows: VisibleRows,
    operator: OrderByOperator,
}

impl RecallSearch {
    /// Looks up what the index orders by, and takes the statement's snapshot.
    pub fn new(locked: &LockedIndex) -> Result<Self> {
        let (heap, index) = (locked.heap(), locked.index());
        Ok(Self {
            heap,
            index,
            operator: OrderByOperator::of(index)?,
            rows: VisibleRows::of_statement(heap, index)?,
        })
    }

    /// The rows.
    pub fn rows(&self) -> &VisibleRows {
        &self.rows
    }

    /// The distances of the `k` rows nearest to each query, in one pass over the table.
    pub fn exact(&mut self, queries: &[RecallQuery], k: usize) -> Vec<TopDistances> {
        let mut nearest = vec![TopDistances::new(k); queries.len()];
        let operator = &mut self.operator;
        self.rows.for_each_value(0..u32::MAX, &mut |tid, value| {
            // SAFETY: a value of the index's type, which is a varlena.
            let value = unsafe { Detoasted::new(value) };
            let pairs = queries.iter().zip(&mut nearest).enumerate();
            for (i, (query, nearest)) in pairs {
                if i % QUERIES_A_LOOK == 0 {
                    pgrx::check_for_interrupts!();
                }
                if query.row != Some(tid) {
                    // SAFETY: as above.
                    nearest.offer(unsafe { operator.distance(value.datum(), query) });
                }
            }
            Ok(())
        });
        nearest
    }

    /// Searches the index for the `k` nearest rows of each query, one after the other: their distances, and how long each
    /// search took. Functions in the index's definition run as the owner of the table.
    pub fn by_index(&mut self, queries: &[RecallQuery], k: usize) -> Vec<(Vec<f64>, Duration)> {
        let owner = self.index.has_expressions().then(|| self.index.owner());
        let mut search = || with_temporary_memory(|| self.search(queries, k));
        match owner {
            Some(owner) => as_role(owner, search),
            None => search(),
        }
    }

    fn search(&mut self, queries: &[RecallQuery], k: usize) -> Vec<(Vec<f64>, Duration)> {
        let mut rows = HeapFetcher::new(self.index, self.heap);
        let mut scan = AmScan::new(self);
        let mut found = Vec::with_capacity(queries.len());
        let mut tids = Vec::new();
        for query in queries {
            let start = Instant::now();
            tids.clear();
            scan.nearest(&self.operator, query, k, &mut tids);
            let took = start.elapsed();
            let distance = |tid: &Tid| {
                let value = rows.fetch(*tid, self.rows.snapshot())?;
                // SAFETY: a value of the index's type, which is a varlena, valid until the next row.
                Some(unsafe {
                    let value = Detoasted::new(value);
                    self.operator.distance(value.datum(), query)
                })
            };
            found.push((tids.iter().filter_map(distance).collect(), took));
        }
        found
    }
}

/// A scan of the index by the server's own functions, as the executor does it.
struct AmScan {
    scan: pg_sys::IndexScanDesc,
    slot: *mut pg_sys::TupleTableSlot,
    key: Box<pg_sys::ScanKeyData>,
}

impl AmScan {
    fn new(of: &RecallSearch) -> Self {
        let (heap, index) = (of.heap.as_ptr(), of.index.as_ptr());
        // SAFETY: the relations are open and the snapshot registered; both are released in Drop, or by the abort.
        unsafe {
            Self {
                scan: compat::begin_ordered_scan(heap, index, of.rows.snapshot()),
                slot: pg_sys::table_slot_create(heap, std::ptr::null_mut()),
                key: Box::default(),
            }
        }
    }

    /// Appends the addresses, as the index has them, of the first `k` rows but the query itself.
    fn nearest(
        &mut self,
        operator: &OrderByOperator,
        query: &RecallQuery,
        k: usize,
        out: &mut Vec<Tid>,
    ) {
        let (column, order) = (1, pg_sys::SK_ORDER_BY as i32);
        let forward = pg_sys::ScanDirection::ForwardScanDirection;
        // SAFETY: the key is for the operator that the index's operator class has; the query lives longer than the search.
        unsafe {
            pg_sys::ScanKeyEntryInitialize(
                &mut *self.key,
                order,
                column,
                STRATEGY,
                operator.right,
                operator.collation,
                operator.function,
                query.vector.datum(),
            );
            pg_sys::index_rescan(self.scan, std::ptr::null_mut(), 0, &mut *self.key, 1);
            while out.len() < k {
                pgrx::check_for_interrupts!();
                let next = pg_sys::index_getnext_tid(self.scan, forward);
                if next.is_null() {
                    break;
                }
                // Fetching makes it that of the version which is seen.
                let tid = tid_of(&*next);
                if pg_sys::index_fetch_heap(self.scan, self.slot) && query.row != Some(tid) {
                    out.push(tid);
                }
            }
        }
    }
}

impl Drop for AmScan {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: made in `new`, released once.
            unsafe {
                pg_sys::ExecDropSingleTupleTableSlot(self.slot);
                pg_sys::index_endscan(self.scan);
            }
        }
    }
}
