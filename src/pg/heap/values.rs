//! What an index takes from a row of its table: the columns or expressions that it is on, and whether its predicate holds.
//! Other modules bring rows into the slot.

use crate::pg::filter_columns::RowValues;
use crate::pg::relation::{Heap, Index};
use pgrx::{PgMemoryContexts, pg_sys};

/// What an index takes from a row of its table: a column, or an expression, under an optional predicate.
pub struct IndexInfo(pub(super) *mut pg_sys::IndexInfo);

impl IndexInfo {
    /// # Safety
    /// `info` must stay valid for as long as the view is used.
    pub unsafe fn new(info: *mut pg_sys::IndexInfo) -> Self {
        Self(info)
    }

    /// What the inserts of a statement keep with the description, which it is dropped with; made when it is first asked for.
    ///
    /// # Safety
    /// Whatever is kept must be of the one type `T`, and hold Rust memory alone: an abort may drop it. The description must be
    /// valid for as long as the reference is used, and no other one be in use.
    pub unsafe fn kept_or_else<'a, T: 'static, E>(
        self,
        make: impl FnOnce() -> Result<T, E>,
    ) -> Result<&'a mut T, E> {
        // SAFETY: as promised; the cache is null or was set here.
        unsafe {
            let info = &mut *self.0;
            if info.ii_AmCache.is_null() {
                let kept = PgMemoryContexts::For(info.ii_Context).leak_and_drop_on_delete(make()?);
                info.ii_AmCache = kept.cast();
            }
            Ok(&mut *info.ii_AmCache.cast())
        }
    }

    /// Reads the definition from the catalogs, in the current memory context.
    fn of_index(index: Index) -> Self {
        // SAFETY: the relation is open.
        Self(unsafe { pg_sys::BuildIndexInfo(index.as_ptr()) })
    }
}

/// Maximum number of columns of an index.
const MAX_INDEX_COLUMNS: usize = pg_sys::INDEX_MAX_KEYS as usize;

/// Where the indexed values of a row come from.
enum Source {
    /// A column of the table, for the first value alone.
    Column(i32),
    /// The index's definition, evaluated by the executor.
    Definition {
        info: IndexInfo,
        estate: *mut pg_sys::EState,
    },
}

/// Reads the indexed values of rows in a slot. Lives in the memory context where it was made.
pub(super) struct Values {
    pub(super) slot: *mut pg_sys::TupleTableSlot,
    source: Source,
    /// Columns of the index that are asked for.
    columns: usize,
    values: [pg_sys::Datum; MAX_INDEX_COLUMNS],
    nulls: [bool; MAX_INDEX_COLUMNS],
}

impl Values {
    /// Those of the first column.
    pub(super) fn new(index: Index, heap: Heap) -> Self {
        Self::of_columns(index, heap, 1)
    }

    /// Those of the first `columns` columns, of which the index must have as many.
    pub(super) fn of_columns(index: Index, heap: Heap, columns: usize) -> Self {
        // SAFETY: the relations are open; slot and state are released in Drop, or by the abort after an error.
        unsafe {
            let slot = pg_sys::table_slot_create(heap.as_ptr(), std::ptr::null_mut());
            let column = i32::from(*(*(*index.as_ptr()).rd_index).indkey.values.as_ptr());
            let source = if column > 0 && columns == 1 {
                Source::Column(column)
            } else {
                let estate = executor_state(slot);
                Source::Definition {
                    info: IndexInfo::of_index(index),
                    estate,
                }
            };
            Self {
                slot,
                source,
                columns,
                values: [pg_sys::Datum::null(); MAX_INDEX_COLUMNS],
                nulls: [true; MAX_INDEX_COLUMNS],
            }
        }
    }

    /// The first indexed value of the row in the slot, valid until the next row.
    pub(super) fn value(&mut self) -> Option<pg_sys::Datum> {
        self.read();
        let (value, null) = (self.values[0], self.nulls[0]);
        (!null).then_some(value)
    }

    /// The indexed values of the row in the slot, valid until the next row; none if it has no vector.
    pub(super) fn row(&mut self) -> Option<RowValues<'_>> {
        self.read();
        let (values, nulls) = (self.values.as_mut_ptr(), self.nulls.as_mut_ptr());
        // SAFETY: so many values of the row in the slot have been read, those of the first columns of the index.
        let row = unsafe { RowValues::new(values, nulls, self.columns) };
        (!row.lacks_vector()).then_some(row)
    }

    /// Reads the values of the row in the slot.
    fn read(&mut self) {
        // SAFETY: the slot holds a row; an expression is evaluated in the per-tuple memory, which is reset first. The arrays have
        // room for the columns of any index.
        unsafe {
            match &self.source {
                Source::Column(column) => {
                    let null = &mut self.nulls[0];
                    self.values[0] = pg_sys::slot_getattr(self.slot, *column, null);
                }
                Source::Definition { info, estate } => {
                    let memory = (*per_tuple_context(*estate)).ecxt_per_tuple_memory;
                    pg_sys::MemoryContextReset(memory);
                    let previous = pg_sys::MemoryContextSwitchTo(memory);
                    pg_sys::FormIndexDatum(
                        info.0,
                        self.slot,
                        *estate,
                        self.values.as_mut_ptr(),
                        self.nulls.as_mut_ptr(),
                    );
                    pg_sys::MemoryContextSwitchTo(previous);
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
                if let Source::Definition { estate, .. } = self.source {
                    pg_sys::FreeExecutorState(estate);
                }
            }
        }
    }
}

/// The predicate of a partial index, over rows in a slot.
pub(super) struct Predicate {
    estate: *mut pg_sys::EState,
    state: *mut pg_sys::ExprState,
}

impl Predicate {
    pub(super) fn new(index: Index, slot: *mut pg_sys::TupleTableSlot) -> Self {
        // SAFETY: the relation is open; the state is released in Drop, or by the abort after an error.
        unsafe {
            let estate = executor_state(slot);
            let state =
                pg_sys::ExecPrepareQual(pg_sys::RelationGetIndexPredicate(index.as_ptr()), estate);
            Self { estate, state }
        }
    }

    /// Whether the row in the slot belongs to the index.
    pub(super) fn holds(&self) -> bool {
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
