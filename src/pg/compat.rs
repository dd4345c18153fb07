//! What differs between PostgreSQL's major versions, all in one place.

use pgrx::pg_sys;
use std::ffi::c_int;
use std::sync::atomic::{AtomicU32, Ordering};

/// Functions of PostgreSQL without the guard that pgrx puts around each: several may go under one, and an error that only
/// passes is left as it is.
mod bare {
    use super::{File, pg_sys};
    use pg_sys::{BlockNumber, Buffer, ForkNumber::Type as Fork, PlanState};
    use std::ffi::{c_int, c_void};

    unsafe extern "C-unwind" {
        pub fn ReadRecentBuffer(file: File, fork: Fork, block: BlockNumber, recent: Buffer)
        -> bool;
        pub fn LockBuffer(buffer: Buffer, mode: c_int);
        // The bindings of PostgreSQL 15 lack it.
        #[cfg_attr(not(feature = "pg15"), link_name = "planstate_tree_walker_impl")]
        pub fn planstate_tree_walker(
            state: *mut PlanState,
            walker: unsafe extern "C-unwind" fn(*mut PlanState, *mut c_void) -> bool,
            context: *mut c_void,
        ) -> bool;
    }
}

pub use bare::planstate_tree_walker;

/// Adds a page to a fork and returns its buffer, pinned and exclusively locked.
///
/// # Safety
/// The relation must be open, and the strategy null or live.
#[cfg(any(feature = "pg16", feature = "pg17", feature = "pg18"))]
pub unsafe fn extend_locked(
    index: pg_sys::Relation,
    fork: pg_sys::ForkNumber::Type,
    strategy: pg_sys::BufferAccessStrategy,
) -> pg_sys::Buffer {
    let target = pg_sys::BufferManagerRelation {
        rel: index,
        ..Default::default()
    };
    let flags = pg_sys::ExtendBufferedFlags::EB_LOCK_FIRST;
    // SAFETY: as promised by the caller.
    unsafe { pg_sys::ExtendBufferedRel(target, fork, strategy, flags) }
}

/// Adds a page to a fork and returns its buffer, pinned and exclusively locked.
///
/// # Safety
/// The relation must be open, and the strategy null or live.
#[cfg(feature = "pg15")]
pub unsafe fn extend_locked(
    index: pg_sys::Relation,
    fork: pg_sys::ForkNumber::Type,
    strategy: pg_sys::BufferAccessStrategy,
) -> pg_sys::Buffer {
    let relation = index;
    let lock = pg_sys::ExclusiveLock as pg_sys::LOCKMODE;
    let mode = pg_sys::ReadBufferMode::RBM_NORMAL;
    // SAFETY: as promised by the caller; the extension lock is released at once, and by the abort after an error. The new
    // page is reachable by nobody yet but for walks over all blocks, which accept an empty page.
    unsafe {
        pg_sys::LockRelationForExtension(relation, lock);
        let buffer = pg_sys::ReadBufferExtended(relation, fork, u32::MAX, mode, strategy);
        pg_sys::LockBuffer(buffer, pg_sys::BUFFER_LOCK_EXCLUSIVE as i32);
        pg_sys::UnlockRelationForExtension(relation, lock);
        buffer
    }
}

/// Counts a page that was found in shared buffers (`pgstat_count_buffer_read` and `_hit` of pgstat.h).
pub fn count_hit(relation: &pg_sys::RelationData) {
    // SAFETY: the counters, if there are any, are this backend's own.
    if let Some(info) = unsafe { relation.pgstat_info.as_mut() } {
        #[cfg(feature = "pg15")]
        {
            info.t_counts.t_blocks_fetched += 1;
            info.t_counts.t_blocks_hit += 1;
        }
        #[cfg(not(feature = "pg15"))]
        {
            info.counts.blocks_fetched += 1;
            info.counts.blocks_hit += 1;
        }
    }
}

#[cfg(feature = "pg15")]
type File = pg_sys::RelFileNode;
#[cfg(not(feature = "pg15"))]
type File = pg_sys::RelFileLocator;

/// Names a relation's file, and the buffers that its pages are in: the backend's own for a temporary relation, whose file may
/// have the number of another one's.
#[derive(Clone, Copy)]
pub struct Locator(File, c_int);

impl Locator {
    /// The file that the relation has now.
    pub fn of(relation: &pg_sys::RelationData) -> Self {
        #[cfg(feature = "pg15")]
        return Self(relation.rd_node, relation.rd_backend);
        #[cfg(not(feature = "pg15"))]
        Self(relation.rd_locator, relation.rd_backend)
    }

    /// Whether both are one file.
    pub fn same(&self, other: &Self) -> bool {
        let (Self(a, mine), Self(b, others)) = (self, other);
        #[cfg(feature = "pg15")]
        let same = (a.spcNode, a.dbNode, a.relNode) == (b.spcNode, b.dbNode, b.relNode);
        #[cfg(not(feature = "pg15"))]
        let same = (a.spcOid, a.dbOid, a.relNumber) == (b.spcOid, b.dbOid, b.relNumber);
        same && mine == others
    }

    /// Another file of the same database, by its tablespace and number in the catalog.
    pub fn other_file(self, tablespace: pg_sys::Oid, number: pg_sys::Oid) -> Self {
        let tablespace = match tablespace {
            // SAFETY: set as the session begins.
            pg_sys::InvalidOid => unsafe { pg_sys::MyDatabaseTableSpace },
            given => given,
        };
        let mut file = self.0;
        #[cfg(feature = "pg15")]
        {
            (file.spcNode, file.relNode) = (tablespace, number);
        }
        #[cfg(not(feature = "pg15"))]
        {
            (file.spcOid, file.relNumber) = (tablespace, number);
        }
        Self(file, self.1)
    }

    /// The blocks of its main fork; none if there is no such file.
    pub fn blocks(&self) -> Option<u32> {
        let fork = pg_sys::ForkNumber::MAIN_FORKNUM;
        // SAFETY: plain look-ups; what is opened is closed at the end of the transaction.
        unsafe {
            let file = pg_sys::smgropen(self.0, self.1);
            pg_sys::smgrexists(file, fork).then(|| pg_sys::smgrnblocks(file, fork))
        }
    }

    /// A pinned buffer with a block of its main fork, which must be there.
    ///
    /// # Safety
    /// It must be no file of a temporary relation.
    pub unsafe fn read(&self, block: u32, is_permanent: bool) -> pg_sys::Buffer {
        let (fork, mode) = (
            pg_sys::ForkNumber::MAIN_FORKNUM,
            pg_sys::ReadBufferMode::RBM_NORMAL,
        );
        // SAFETY: as promised by the caller.
        unsafe {
            pg_sys::ReadBufferWithoutRelcache(
                self.0,
                fork,
                block,
                mode,
                std::ptr::null_mut(),
                is_permanent,
            )
        }
    }

    /// Pins a buffer if it holds this block of the main fork.
    pub fn pin(&self, block: u32, buffer: pg_sys::Buffer) -> bool {
        let fork = pg_sys::ForkNumber::MAIN_FORKNUM;
        // SAFETY: the number is that of a buffer, whatever it holds by now.
        let pinned = unsafe { pg_sys::ReadRecentBuffer(self.0, fork, block, buffer) };
        if pinned {
            count_use(buffer);
        }
        pinned
    }

    /// As [`Locator::pin`], and locks the buffer for reading. A search does both for each page; guarding against errors
    /// takes about as long as either, so it is done once.
    pub fn pin_shared(&self, block: u32, buffer: pg_sys::Buffer) -> bool {
        let (file, fork) = (self.0, pg_sys::ForkNumber::MAIN_FORKNUM);
        // SAFETY: as in `pin`. The closure has nothing to drop when an error leaves it; then the abort releases the pin.
        let pinned = unsafe {
            pg_sys::submodules::ffi::pg_guard_ffi_boundary(|| {
                let pinned = bare::ReadRecentBuffer(file, fork, block, buffer);
                if pinned {
                    bare::LockBuffer(buffer, pg_sys::BUFFER_LOCK_SHARE as i32);
                }
                pinned
            })
        };
        if pinned {
            count_use(buffer);
        }
        pinned
    }
}

/// Counts the use of a buffer that this backend has pinned, as `PinBuffer` of bufmgr.c does. [`pg_sys::ReadRecentBuffer`] does
/// not, and pages whose use is not counted are the first to be evicted.
fn count_use(buffer: pg_sys::Buffer) {
    use pg_sys::{BM_LOCKED, BUF_USAGECOUNT_MASK, BUF_USAGECOUNT_ONE};
    const MAX_USAGE: u32 = pg_sys::BM_MAX_USAGE_COUNT * BUF_USAGECOUNT_ONE;
    // Those of temporary relations are counted as ever.
    let Some(number) = usize::try_from(buffer)
        .ok()
        .and_then(|it| it.checked_sub(1))
    else {
        return;
    };
    // SAFETY: descriptors lie one after the other while the server runs. All processes change the state of one atomically,
    // and without holding its lock only where nobody else holds that.
    unsafe {
        let descriptor = pg_sys::BufferDescriptors.add(number);
        let state = AtomicU32::from_ptr(&raw mut (*descriptor).bufferdesc.state.value);
        let before = state.load(Ordering::Relaxed);
        if before & BM_LOCKED == 0 && before & BUF_USAGECOUNT_MASK < MAX_USAGE {
            // Somebody else may have changed it meanwhile; the next use is counted then.
            let _ = state.compare_exchange(
                before,
                before + BUF_USAGECOUNT_ONE,
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
        }
    }
}

/// Whether the server's own maintenance of a table looks names up in `pg_catalog` alone.
pub const MAINTENANCE_IN_PG_CATALOG: bool = cfg!(any(feature = "pg17", feature = "pg18"));

/// Raises an error if rows that a snapshot sees may have been removed already (`old_snapshot_threshold`, up to PostgreSQL 16).
///
/// # Safety
/// The snapshot must be registered.
pub unsafe fn check_age(snapshot: pg_sys::Snapshot, index: pg_sys::Relation) {
    #[cfg(any(feature = "pg15", feature = "pg16"))]
    // SAFETY: as promised; the relation is open.
    unsafe {
        // A snapshot without it was taken before the setting had an effect.
        if pg_sys::old_snapshot_threshold >= 0 && (*snapshot).lsn != 0 {
            pg_sys::TestForOldSnapshot_impl(snapshot, index);
        }
    }
    #[cfg(not(any(feature = "pg15", feature = "pg16")))]
    let _ = (snapshot, index);
}

/// Memory that the server keeps with a setting's value, and frees; null if there is none.
pub fn setting_extra() -> *mut std::ffi::c_void {
    // SAFETY: plain allocations by the allocator that the server frees such memory with.
    unsafe {
        #[cfg(feature = "pg15")]
        return libc::malloc(1);
        #[cfg(not(feature = "pg15"))]
        pg_sys::guc_malloc(pg_sys::LOG as i32, 1)
    }
}

/// Lets VACUUM sleep and be canceled.
pub fn vacuum_delay() {
    // SAFETY: called with no buffer locked.
    unsafe {
        #[cfg(feature = "pg18")]
        pg_sys::vacuum_delay_point(false);
        #[cfg(not(feature = "pg18"))]
        pg_sys::vacuum_delay_point();
    }
}

/// Begins a scan of an index with one ORDER BY operator.
///
/// # Safety
/// The relations must be open and the snapshot registered for as long as the scan lasts.
pub unsafe fn begin_ordered_scan(
    heap: pg_sys::Relation,
    index: pg_sys::Relation,
    snapshot: pg_sys::Snapshot,
) -> pg_sys::IndexScanDesc {
    let (keys, orders) = (0, 1);
    // SAFETY: as promised by the caller.
    unsafe {
        #[cfg(feature = "pg18")]
        {
            let nobody_counts = std::ptr::null_mut();
            pg_sys::index_beginscan(heap, index, snapshot, nobody_counts, keys, orders)
        }
        #[cfg(not(feature = "pg18"))]
        {
            pg_sys::index_beginscan(heap, index, snapshot, keys, orders)
        }
    }
}

/// Counts an index search for `EXPLAIN (ANALYZE)`.
#[cfg(feature = "pg18")]
pub fn count_search(scan: &pg_sys::IndexScanDescData) {
    // SAFETY: null, or the executor's counter, which lives as long as the scan.
    if let Some(instrument) = unsafe { scan.instrument.as_mut() } {
        instrument.nsearches += 1;
    }
}

/// Counts an index search for `EXPLAIN (ANALYZE)`.
#[cfg(not(feature = "pg18"))]
pub fn count_search(_scan: &pg_sys::IndexScanDescData) {}

/// The clauses of equivalence classes that join a table with others.
///
/// # Safety
/// All must be the planner's.
pub unsafe fn join_equalities(
    root: *mut pg_sys::PlannerInfo,
    both: pg_sys::Relids,
    outer: pg_sys::Relids,
    inner: *mut pg_sys::RelOptInfo,
) -> *mut pg_sys::List {
    // SAFETY: as promised by the caller.
    unsafe {
        #[cfg(feature = "pg15")]
        return pg_sys::generate_join_implied_equalities(root, both, outer, inner);
        #[cfg(not(feature = "pg15"))]
        pg_sys::generate_join_implied_equalities(root, both, outer, inner, std::ptr::null_mut())
    }
}

/// Marks a path that the access method cannot run at all.
pub fn disable_path(path: &mut pg_sys::Path) {
    #[cfg(feature = "pg18")]
    {
        path.disabled_nodes = 2;
    }
    #[cfg(not(feature = "pg18"))]
    let _ = path;
}

/// One entry of the table that maps options to their places.
pub fn parse_element(
    name: &'static std::ffi::CStr,
    kind: pg_sys::relopt_type::Type,
    offset: usize,
) -> pg_sys::relopt_parse_elt {
    pg_sys::relopt_parse_elt {
        optname: name.as_ptr(),
        opttype: kind,
        offset: offset as i32,
        #[cfg(feature = "pg18")]
        isset_offset: 0,
    }
}

/// A column of a tuple descriptor, counted from 0.
///
/// # Safety
/// The descriptor must be valid and have that column.
pub unsafe fn attribute(
    descriptor: pg_sys::TupleDesc,
    number: usize,
) -> *const pg_sys::FormData_pg_attribute {
    // SAFETY: as promised by the caller.
    unsafe {
        #[cfg(feature = "pg18")]
        {
            pg_sys::TupleDescAttr(descriptor, number as i32)
        }
        #[cfg(not(feature = "pg18"))]
        {
            (*descriptor).attrs.as_ptr().add(number)
        }
    }
}

/// Whether the relation's file was made by the running transaction, so that WAL may be skipped at `wal_level=minimal`.
pub fn created_in_this_transaction(relation: &pg_sys::RelationData) -> bool {
    #[cfg(feature = "pg15")]
    let first = relation.rd_firstRelfilenodeSubid;
    #[cfg(not(feature = "pg15"))]
    let first = relation.rd_firstRelfilelocatorSubid;
    // 0 is InvalidSubTransactionId.
    relation.rd_createSubid != 0 || first != 0
}

/// Whether the relation is older than the running transaction, and got another file in it.
pub fn has_new_file(relation: &pg_sys::RelationData) -> bool {
    #[cfg(feature = "pg15")]
    let new = relation.rd_newRelfilenodeSubid;
    #[cfg(not(feature = "pg15"))]
    let new = relation.rd_newRelfilelocatorSubid;
    // 0 is InvalidSubTransactionId.
    relation.rd_createSubid == 0 && new != 0
}

/// Counts an index scan in the cumulative statistics (`pgstat_count_index_scan` of pgstat.h).
///
/// # Safety
/// The relation must be open.
pub unsafe fn count_index_scan(index: pg_sys::Relation) {
    // SAFETY: as promised by the caller; the counters are this backend's own.
    unsafe {
        let relation = &mut *index;
        if relation.pgstat_enabled && relation.pgstat_info.is_null() {
            pg_sys::pgstat_assoc_relation(relation);
        }
        if let Some(info) = relation.pgstat_info.as_mut() {
            #[cfg(feature = "pg15")]
            {
                info.t_counts.t_numscans += 1;
            }
            #[cfg(not(feature = "pg15"))]
            {
                info.counts.numscans += 1;
            }
        }
    }
}

/// The right to read, in the type of rights, which is wider since PostgreSQL 16.
pub const ACL_SELECT: pg_sys::AclMode = pg_sys::ACL_SELECT as pg_sys::AclMode;

/// Whether a role may maintain a table: its owner and superusers, and who was granted MAINTAIN.
#[cfg(any(feature = "pg17", feature = "pg18"))]
pub fn may_maintain(table: pg_sys::Oid, role: pg_sys::Oid) -> bool {
    // SAFETY: catalog look-ups.
    unsafe {
        pg_sys::object_ownercheck(pg_sys::RelationRelationId, table, role)
            || pg_sys::pg_class_aclcheck(table, role, pg_sys::ACL_MAINTAIN.into())
                == pg_sys::AclResult::ACLCHECK_OK
    }
}

/// Whether a role may maintain a table: its owner and superusers.
#[cfg(feature = "pg16")]
pub fn may_maintain(table: pg_sys::Oid, role: pg_sys::Oid) -> bool {
    // SAFETY: a catalog look-up.
    unsafe { pg_sys::object_ownercheck(pg_sys::RelationRelationId, table, role) }
}

/// Whether a role may maintain a table: its owner and superusers.
#[cfg(feature = "pg15")]
pub fn may_maintain(table: pg_sys::Oid, role: pg_sys::Oid) -> bool {
    // SAFETY: a catalog look-up.
    unsafe { pg_sys::pg_class_ownercheck(table, role) }
}
