//! Views of open relations.

use crate::error::IndexName;
use crate::pg::names::{name_of_open, quoted_relation};
use crate::pg::text;
use pgrx::pg_sys;
use std::ffi::CStr;

/// An open table.
#[derive(Clone, Copy)]
pub struct Heap(pg_sys::Relation);

/// An open distillvq index; one of another access method where its recall is measured, which asks for no options.
#[derive(Clone, Copy)]
pub struct Index(pg_sys::Relation);

/// Blocks of a relation's main fork.
fn main_blocks(relation: pg_sys::Relation) -> u32 {
    // SAFETY: an open relation.
    unsafe { pg_sys::RelationGetNumberOfBlocksInFork(relation, pg_sys::ForkNumber::MAIN_FORKNUM) }
}

impl Heap {
    /// # Safety
    /// `relation` must be an open table for as long as the view is used.
    pub unsafe fn new(relation: pg_sys::Relation) -> Self {
        Self(relation)
    }

    /// The raw pointer, for calls of PostgreSQL's.
    pub fn as_ptr(self) -> pg_sys::Relation {
        self.0
    }

    /// The server's description of it.
    pub fn data(&self) -> &pg_sys::RelationData {
        // SAFETY: an open relation.
        unsafe { &*self.0 }
    }

    /// Whether it is kept as PostgreSQL keeps tables.
    pub fn is_heap_am(self) -> bool {
        // SAFETY: a look at a constant of the server's.
        self.data().rd_tableam == unsafe { pg_sys::GetHeapamTableAmRoutine() }
    }

    /// Whether it is known to have no rows.
    pub fn is_empty(self) -> bool {
        self.is_heap_am() && self.blocks() == 0
    }

    /// Its blocks, as many as there are now.
    pub fn blocks(self) -> u32 {
        main_blocks(self.0)
    }

    /// Rows that the planner believes in; 0 when nothing is known.
    pub fn estimated_rows(self) -> usize {
        // SAFETY: an open relation has a catalog row.
        let rows = unsafe { (*(*self.0).rd_rel).reltuples };
        if rows > 0.0 { rows as usize } else { 0 }
    }
}

impl Index {
    /// # Safety
    /// `relation` must be an open distillvq index for as long as the view is used.
    pub unsafe fn new(relation: pg_sys::Relation) -> Self {
        Self(relation)
    }

    /// The raw pointer, for calls of PostgreSQL's.
    pub fn as_ptr(self) -> pg_sys::Relation {
        self.0
    }

    /// The server's description of it.
    pub fn data(&self) -> &pg_sys::RelationData {
        // SAFETY: an open relation.
        unsafe { &*self.0 }
    }

    /// The index's name.
    pub fn name(self) -> String {
        name_of_open(self.data())
    }

    /// The index's names for an error.
    pub fn named(self) -> IndexName {
        IndexName {
            plain: self.name(),
            quoted: self.quoted_name(),
        }
    }

    /// The index's name with its schema, quoted as need be.
    pub fn quoted_name(self) -> String {
        quoted_relation(self.oid()).unwrap_or_else(|_| self.name())
    }

    /// The index's object identifier.
    pub fn oid(self) -> pg_sys::Oid {
        // SAFETY: an open relation.
        unsafe { (*self.0).rd_id }
    }

    /// Whether changes of the relation must reach the WAL (`RelationNeedsWAL` of utils/rel.h).
    pub fn needs_wal(self) -> bool {
        // SAFETY: an open relation; wal_level is fixed while the server runs.
        unsafe {
            let permanent =
                (*(*self.0).rd_rel).relpersistence as u8 == pg_sys::RELPERSISTENCE_PERMANENT;
            permanent
                && (pg_sys::wal_level >= pg_sys::WalLevel::WAL_LEVEL_REPLICA as i32
                    || !crate::pg::compat::created_in_this_transaction(&*self.0))
        }
    }

    /// The index's table.
    pub fn table(self) -> pg_sys::Oid {
        // SAFETY: an open index has its catalog row.
        unsafe { (*(*self.0).rd_index).indrelid }
    }

    /// Bytes of its main fork.
    pub fn bytes(self) -> u64 {
        u64::from(main_blocks(self.0)) * u64::from(pg_sys::BLCKSZ)
    }

    /// Whether its definition has an expression or a predicate, which runs functions.
    pub fn has_expressions(self) -> bool {
        // SAFETY: an open index; the lists are the relation's own.
        unsafe {
            !pg_sys::RelationGetIndexExpressions(self.0).is_null()
                || !pg_sys::RelationGetIndexPredicate(self.0).is_null()
        }
    }

    /// Whether it is on some of its table's rows only.
    pub fn is_partial(self) -> bool {
        // SAFETY: an open index; the list is the relation's own.
        unsafe { !pg_sys::RelationGetIndexPredicate(self.0).is_null() }
    }

    /// Its rows and those of its table as the catalog has them, not above 0 if they were never counted.
    pub fn known_rows(self) -> (f64, f64) {
        // SAFETY: an open relation has a catalog row; that of the table is read before it is released.
        unsafe {
            let cache = pg_sys::SysCacheIdentifier::RELOID as i32;
            let row = pg_sys::SearchSysCache1(cache, pg_sys::Datum::from(self.table()));
            if row.is_null() {
                return (0.0, 0.0);
            }
            let table = (*pg_sys::GETSTRUCT(row).cast::<pg_sys::FormData_pg_class>()).reltuples;
            pg_sys::ReleaseSysCache(row);
            ((*(*self.0).rd_rel).reltuples.into(), table.into())
        }
    }

    /// Whether searches may use it: its build has come to an end.
    pub fn is_valid(self) -> bool {
        // SAFETY: an open index has its catalog row.
        unsafe { (*(*self.0).rd_index).indisvalid }
    }

    /// Whether it is permanent, unlogged, or temporary: one of `RELPERSISTENCE_…`.
    pub fn persistence(self) -> u8 {
        // SAFETY: an open relation has a catalog row.
        unsafe { (*(*self.0).rd_rel).relpersistence as u8 }
    }

    /// The owner of the index and its table.
    pub fn owner(self) -> pg_sys::Oid {
        // SAFETY: an open relation.
        unsafe { (*(*self.0).rd_rel).relowner }
    }
}

/// The object identifier of the access method, invalid if it does not exist.
pub fn access_method() -> pg_sys::Oid {
    // SAFETY: a catalog look-up.
    unsafe { pg_sys::get_index_am_oid(c"distillvq".as_ptr(), true) }
}

/// The name of an index's access method.
pub fn access_method_of(index: Index) -> String {
    // SAFETY: an open relation; the name is palloc'd, or null if the method is gone.
    unsafe {
        let name = pg_sys::get_am_name((*index.data().rd_rel).relam);
        if name.is_null() {
            return String::new();
        }
        text::from_c(CStr::from_ptr(name))
    }
}

/// What a relation is to somebody who wants an index of this access method.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RelationKind {
    /// An index of this access method.
    Index,
    /// The index of a partitioned table.
    Partitioned,
    /// An index of another access method.
    OtherIndex,
    /// Anything else.
    Other(&'static str),
}

/// Looks up what a relation is, or nothing if it does not exist.
pub fn relation_kind(oid: pg_sys::Oid) -> Option<RelationKind> {
    // SAFETY: a catalog look-up; the row is read before it is released.
    let (kind, method) = unsafe {
        let cache = pg_sys::SysCacheIdentifier::RELOID as i32;
        let row = pg_sys::SearchSysCache1(cache, pg_sys::Datum::from(oid));
        if row.is_null() {
            return None;
        }
        let class = &*pg_sys::GETSTRUCT(row).cast::<pg_sys::FormData_pg_class>();
        let found = (class.relkind as u8, class.relam);
        pg_sys::ReleaseSysCache(row);
        found
    };
    Some(match kind {
        pg_sys::RELKIND_INDEX if method == access_method() => RelationKind::Index,
        pg_sys::RELKIND_PARTITIONED_INDEX if method == access_method() => RelationKind::Partitioned,
        pg_sys::RELKIND_INDEX => RelationKind::OtherIndex,
        pg_sys::RELKIND_PARTITIONED_INDEX => {
            RelationKind::Other("a partitioned index of another access method")
        }
        pg_sys::RELKIND_RELATION | pg_sys::RELKIND_PARTITIONED_TABLE | pg_sys::RELKIND_MATVIEW => {
            RelationKind::Other("a table")
        }
        _ => RelationKind::Other("neither an index nor a table"),
    })
}

/// Whether the current user may maintain a table and its indexes.
pub fn may_maintain(table: pg_sys::Oid) -> bool {
    // SAFETY: catalog look-ups.
    unsafe { crate::pg::compat::may_maintain(table, pg_sys::GetUserId()) }
}

/// An index and its table, open and locked for maintenance, so that reads and writes go on, while other maintenance of the
/// table waits; or just for reading. Closed when dropped; after an error the abort does that.
pub struct LockedIndex {
    heap: pg_sys::Relation,
    index: pg_sys::Relation,
    locks: Locks,
}

/// The locks on table and index.
#[derive(Clone, Copy)]
struct Locks {
    heap: pg_sys::LOCKMODE,
    index: pg_sys::LOCKMODE,
}

/// Keeps VACUUM, REINDEX and other maintenance of the table away, but neither readers nor writers.
const MAINTENANCE: pg_sys::LOCKMODE = pg_sys::ShareUpdateExclusiveLock as pg_sys::LOCKMODE;
/// What a writer takes on an index.
const WRITER: pg_sys::LOCKMODE = pg_sys::RowExclusiveLock as pg_sys::LOCKMODE;
/// What a reader takes; a standby allows hardly more.
const READER: pg_sys::LOCKMODE = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
const READERS: Locks = Locks {
    heap: READER,
    index: READER,
};

impl LockedIndex {
    /// Opens an index of this access method to change its model or metapage, by the command of this name. A relation that is gone is PostgreSQL's own error.
    pub fn for_change(index: pg_sys::Oid, command: &'static CStr) -> Self {
        refuse_if_read_only(command);
        Self::open(
            index,
            Locks {
                heap: MAINTENANCE,
                index: WRITER,
            },
        )
    }

    /// Opens an index of this access method to check it; on a standby, where nothing else is allowed, as a reader.
    pub fn for_check(index: pg_sys::Oid) -> Self {
        let heap = if in_recovery() { READER } else { MAINTENANCE };
        Self::open(
            index,
            Locks {
                heap,
                index: READER,
            },
        )
    }

    /// Opens an index, of whatever access method, as a reader.
    pub fn for_reading(index: pg_sys::Oid) -> Self {
        Self::open(index, READERS)
    }

    /// As [`LockedIndex::for_reading`]; nothing if somebody has it locked, so that this would have to wait, or it is gone.
    pub fn try_for_reading(index: pg_sys::Oid) -> Option<Self> {
        // SAFETY: catalog look-ups and locks, which `open` takes once more in the same order.
        unsafe {
            let table = pg_sys::IndexGetRelation(index, true);
            if table == pg_sys::InvalidOid || !pg_sys::ConditionalLockRelationOid(table, READER) {
                return None;
            }
            let free = pg_sys::ConditionalLockRelationOid(index, READER);
            let opened = free.then(|| Self::open(index, READERS));
            if free {
                pg_sys::UnlockRelationOid(index, READER);
            }
            pg_sys::UnlockRelationOid(table, READER);
            opened
        }
    }

    fn open(index: pg_sys::Oid, locks: Locks) -> Self {
        // SAFETY: the locks are taken in the server's order, and belong to the transaction until they are released.
        unsafe {
            let heap = pg_sys::table_open(table_of(index), locks.heap);
            let index = pg_sys::index_open(index, locks.index);
            Self { heap, index, locks }
        }
    }

    /// The index.
    pub fn index(&self) -> Index {
        Index(self.index)
    }

    /// Its table.
    pub fn heap(&self) -> Heap {
        Heap(self.heap)
    }

    /// Whether it is a temporary index of another session, whose pages this one cannot see.
    pub fn of_another_session(&self) -> bool {
        // SAFETY: an open relation.
        let local = unsafe { (*self.index).rd_islocaltemp };
        self.persistence() == pg_sys::RELPERSISTENCE_TEMP && !local
    }

    /// Whether it has no contents here: an unlogged one on a standby.
    pub fn is_empty_in_recovery(&self) -> bool {
        self.persistence() == pg_sys::RELPERSISTENCE_UNLOGGED && in_recovery()
    }

    /// Whether searches may use it: its build has come to an end.
    pub fn is_valid(&self) -> bool {
        self.index().is_valid()
    }

    fn persistence(&self) -> u8 {
        Index(self.index).persistence()
    }
}

impl Drop for LockedIndex {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: opened in `open`, closed once.
            unsafe {
                pg_sys::index_close(self.index, self.locks.index);
                pg_sys::table_close(self.heap, self.locks.heap);
            }
        }
    }
}

/// The table of an index that VACUUM has open and locked. Closed when dropped; after an error the abort does that.
pub struct VacuumedTable(pg_sys::Relation);

impl VacuumedTable {
    /// Opens it once more.
    pub fn of(index: Index) -> Self {
        // SAFETY: VACUUM holds the lock.
        Self(unsafe { pg_sys::table_open(index.table(), pg_sys::NoLock as pg_sys::LOCKMODE) })
    }

    /// The table.
    pub fn heap(&self) -> Heap {
        Heap(self.0)
    }
}

impl Drop for VacuumedTable {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: opened in `of`, closed once; the lock is VACUUM's.
            unsafe { pg_sys::table_close(self.0, pg_sys::NoLock as pg_sys::LOCKMODE) };
        }
    }
}

/// Raises an error on a standby and in a read-only transaction, where a command of this name cannot write.
pub fn refuse_if_read_only(command: &'static CStr) {
    // SAFETY: reads the transaction's state, and raises PostgreSQL's own error.
    unsafe { pg_sys::PreventCommandIfReadOnly(command.as_ptr()) };
}

/// Whether the server is a standby, or recovers.
pub fn in_recovery() -> bool {
    // SAFETY: reads shared state.
    unsafe { pg_sys::RecoveryInProgress() }
}

/// The table of an index.
pub fn table_of(index: pg_sys::Oid) -> pg_sys::Oid {
    // SAFETY: a catalog look-up; an index that is gone is PostgreSQL's own error.
    unsafe { pg_sys::IndexGetRelation(index, false) }
}
