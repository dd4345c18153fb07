//! The callbacks of the access method, as PostgreSQL's `IndexAmRoutine` wants them (access/amapi.h).
//!
//! Each one turns its pointers into views, calls the work, and turns its error into PostgreSQL's.

// PostgreSQL decides how many arguments a callback has.
#![allow(clippy::too_many_arguments)]

use crate::am;
use crate::am::insert::Inserter;
use crate::entry::{cost_estimate, scan, validate};
use crate::pg::filter_columns::RowValues;
use crate::pg::guard::guard;
use crate::pg::heap::{IndexInfo, item_pointer, tid_of};
use crate::pg::page_store::RelationStore;
use crate::pg::relation::{Heap, Index};
use crate::pg::reloptions::StoredOptions;
use crate::pg::report::or_raise;
use crate::settings::reloptions::{self, Options};
use distillvq_ivf::Tid;
use pgrx::{pg_guard, pg_sys};
use std::ffi::{c_char, c_int, c_void};

/// The function that `CREATE ACCESS METHOD` names.
#[unsafe(no_mangle)]
pub extern "C-unwind" fn pg_finfo_distillvq_handler() -> &'static pg_sys::Pg_finfo_record {
    const VERSION_1: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
    &VERSION_1
}

/// Describes the access method to the server.
#[pg_guard]
#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn distillvq_handler(_call: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: a node of the right tag, allocated by the server, which owns it from here.
    unsafe {
        let routine =
            pg_sys::palloc0(size_of::<pg_sys::IndexAmRoutine>()).cast::<pg_sys::IndexAmRoutine>();
        describe(&mut *routine);
        pg_sys::Datum::from(routine)
    }
}

fn describe(routine: &mut pg_sys::IndexAmRoutine) {
    routine.type_ = pg_sys::NodeTag::T_IndexAmRoutine;
    routine.amsupport = 2;
    routine.amcanorderbyop = true;
    // Filter columns.
    routine.amcanmulticol = true;
    routine.amsearcharray = true;
    routine.amsearchnulls = true;
    // Without it the planner makes no path for ORDER BY alone; NULLs are not indexed nevertheless, as in pgvector.
    routine.amoptionalkey = true;
    // Not the cleanup: it may train the index, which is not for a parallel worker.
    routine.amparallelvacuumoptions = pg_sys::VACUUM_OPTION_PARALLEL_BULKDEL as u8;
    routine.ambuild = Some(ambuild);
    routine.ambuildempty = Some(ambuildempty);
    routine.aminsert = Some(aminsert);
    routine.ambulkdelete = Some(ambulkdelete);
    routine.amvacuumcleanup = Some(amvacuumcleanup);
    routine.amcostestimate = Some(amcostestimate);
    routine.amoptions = Some(amoptions);
    routine.ambuildphasename = Some(ambuildphasename);
    routine.amvalidate = Some(amvalidate);
    routine.ambeginscan = Some(ambeginscan);
    routine.amrescan = Some(amrescan);
    routine.amgettuple = Some(amgettuple);
    routine.amendscan = Some(amendscan);
}

unsafe extern "C-unwind" fn ambuild(
    heap: pg_sys::Relation,
    index: pg_sys::Relation,
    info: *mut pg_sys::IndexInfo,
) -> *mut pg_sys::IndexBuildResult {
    guard(|| {
        // SAFETY: the server passes open relations and a valid description, all alive during the call.
        unsafe {
            let counts = or_raise(am::index_build::build(
                Heap::new(heap),
                Index::new(index),
                &IndexInfo::new(info),
            ));
            let result = pg_sys::palloc0(size_of::<pg_sys::IndexBuildResult>())
                .cast::<pg_sys::IndexBuildResult>();
            (*result).heap_tuples = counts.heap;
            (*result).index_tuples = counts.index;
            result
        }
    })
}

unsafe extern "C-unwind" fn ambuildempty(index: pg_sys::Relation) {
    guard(|| {
        // SAFETY: the server passes an open relation whose main fork is built and whose init fork exists.
        let index = unsafe { Index::new(index) };
        or_raise(am::index_build::build_empty(index));
    })
}

unsafe extern "C-unwind" fn aminsert(
    index: pg_sys::Relation,
    values: *mut pg_sys::Datum,
    nulls: *mut bool,
    tid: pg_sys::ItemPointer,
    _heap: pg_sys::Relation,
    _unique: pg_sys::IndexUniqueCheck::Type,
    _unchanged: bool,
    info: *mut pg_sys::IndexInfo,
) -> bool {
    guard(|| {
        // SAFETY: the server passes a relation that stays open as long as `info` is used, and values of all columns of the index.
        // Nothing else is kept with the description.
        unsafe {
            if !*nulls {
                let open = || Inserter::open(Index::new(index));
                let inserter = or_raise(IndexInfo::new(info).kept_or_else(open));
                let row = RowValues::new(values, nulls, inserter.columns());
                or_raise(inserter.insert(tid_of(&*tid), row));
            }
        }
        false
    })
}

unsafe extern "C-unwind" fn ambulkdelete(
    info: *mut pg_sys::IndexVacuumInfo,
    stats: *mut pg_sys::IndexBulkDeleteResult,
    callback: pg_sys::IndexBulkDeleteCallback,
    state: *mut c_void,
) -> *mut pg_sys::IndexBulkDeleteResult {
    guard(|| {
        // SAFETY: the server passes its vacuum's description, earlier statistics or null, and a callback with its state.
        unsafe { remove(info, stats, &mut |tid| is_dead(callback, tid, state)) }
    })
}

/// Removes the rows that are dead, and counts the others.
///
/// # Safety
/// `info` must describe the running vacuum, and `stats` be null or its statistics.
unsafe fn remove(
    info: *mut pg_sys::IndexVacuumInfo,
    stats: *mut pg_sys::IndexBulkDeleteResult,
    dead: &mut dyn FnMut(Tid) -> bool,
) -> *mut pg_sys::IndexBulkDeleteResult {
    // SAFETY: as promised by the caller.
    unsafe {
        let index = Index::new((*info).index);
        let store = RelationStore::for_vacuum(index, (*info).strategy);
        let counted = or_raise(am::vacuum::bulk_delete(index, &store, dead));
        let stats = statistics(stats);
        (*stats).num_pages = counted.pages;
        (*stats).estimated_count = false;
        (*stats).num_index_tuples = counted.remaining as f64;
        (*stats).tuples_removed += counted.removed as f64;
        stats
    }
}

/// Asks VACUUM whether a row is dead.
///
/// # Safety
/// `callback` and `state` must be those of the running vacuum.
unsafe fn is_dead(callback: pg_sys::IndexBulkDeleteCallback, tid: Tid, state: *mut c_void) -> bool {
    let mut pointer = item_pointer(tid);
    // SAFETY: a C function that may raise, with nothing in this frame to drop.
    callback.is_some_and(|ask| unsafe {
        pg_sys::ffi::pg_guard_ffi_boundary(|| ask(&mut pointer, state))
    })
}

/// The statistics to add to: those given, or new ones.
///
/// # Safety
/// `given` must be null or statistics of the running vacuum.
unsafe fn statistics(
    given: *mut pg_sys::IndexBulkDeleteResult,
) -> *mut pg_sys::IndexBulkDeleteResult {
    if given.is_null() {
        // SAFETY: zeroed statistics are valid; the server frees them.
        unsafe { pg_sys::palloc0(size_of::<pg_sys::IndexBulkDeleteResult>()).cast() }
    } else {
        given
    }
}

unsafe extern "C-unwind" fn amvacuumcleanup(
    info: *mut pg_sys::IndexVacuumInfo,
    stats: *mut pg_sys::IndexBulkDeleteResult,
) -> *mut pg_sys::IndexBulkDeleteResult {
    guard(|| {
        // SAFETY: the server passes its vacuum's description and the statistics of the bulk deletes, or null.
        unsafe {
            if (*info).analyze_only {
                return stats;
            }
            let index = Index::new((*info).index);
            let store = RelationStore::for_vacuum(index, (*info).strategy);
            am::maintenance::maintain(index, &store);
            let pages = store.block_count();
            if !stats.is_null() {
                (*stats).num_pages = pages;
                return stats;
            }
            let rows = or_raise(am::vacuum::estimate(index, &store, (*info).num_heap_tuples));
            let stats = statistics(stats);
            (*stats).num_pages = pages;
            // What is said to be an estimate is not kept in the catalog, where the table's own number is one too.
            (*stats).estimated_count = false;
            (*stats).num_index_tuples = rows;
            stats
        }
    })
}

unsafe extern "C-unwind" fn amcostestimate(
    root: *mut pg_sys::PlannerInfo,
    path: *mut pg_sys::IndexPath,
    _loops: f64,
    startup: *mut pg_sys::Cost,
    total: *mut pg_sys::Cost,
    selectivity: *mut pg_sys::Selectivity,
    correlation: *mut f64,
    pages: *mut f64,
) {
    guard(|| {
        // SAFETY: the planner's own structures and places for the answer.
        unsafe {
            match cost_estimate::estimate_path(root, path) {
                Some(estimate) => {
                    *startup = estimate.startup;
                    *total = estimate.total;
                    *selectivity = estimate.selectivity;
                    *correlation = estimate.correlation;
                    *pages = estimate.pages;
                }
                None => {
                    *startup = f64::INFINITY;
                    *total = f64::INFINITY;
                    *selectivity = 0.0;
                    *correlation = 0.0;
                    *pages = 0.0;
                }
            }
        }
    })
}

#[pg_guard]
unsafe extern "C-unwind" fn amoptions(
    definition: pg_sys::Datum,
    validate: bool,
) -> *mut pg_sys::bytea {
    let parsed = or_raise(reloptions::parse(definition, validate));
    // An upgrade makes indexes before the models are there; what is only read was checked when it was set.
    if validate && !crate::pg::server::in_binary_upgrade() {
        // SAFETY: just made.
        let stored = unsafe { StoredOptions::read(parsed) };
        let options = stored.map_or_else(Options::default, Options::from);
        or_raise(
            options
                .model
                .map_or(Ok(()), |name| am::model_store::catalog::check_option(&name)),
        );
    }
    parsed
}

#[pg_guard]
unsafe extern "C-unwind" fn ambuildphasename(phase: pg_sys::int64) -> *mut c_char {
    am::training::phases::phase_name(phase)
        .map_or(std::ptr::null_mut(), |name| name.as_ptr().cast_mut())
}

#[pg_guard]
unsafe extern "C-unwind" fn amvalidate(class: pg_sys::Oid) -> bool {
    validate::validate(class)
}

#[pg_guard]
unsafe extern "C-unwind" fn ambeginscan(
    index: pg_sys::Relation,
    keys: c_int,
    orders: c_int,
) -> pg_sys::IndexScanDesc {
    // SAFETY: the server passes an open relation.
    unsafe { scan::begin(index, keys, orders) }
}

unsafe extern "C-unwind" fn amrescan(
    scan: pg_sys::IndexScanDesc,
    keys: pg_sys::ScanKey,
    _number_of_keys: c_int,
    orders: pg_sys::ScanKey,
    _number_of_orders: c_int,
) {
    guard(|| {
        // SAFETY: a descriptor of ours, with as many keys as it was begun with.
        unsafe { scan::rescan(scan, keys, orders) }
    })
}

unsafe extern "C-unwind" fn amgettuple(
    scan: pg_sys::IndexScanDesc,
    _direction: pg_sys::ScanDirection::Type,
) -> bool {
    guard(|| {
        // SAFETY: a descriptor of ours. Only forward scans happen: amcanbackward is false.
        or_raise(unsafe { scan::next(scan) })
    })
}

#[pg_guard]
unsafe extern "C-unwind" fn amendscan(scan: pg_sys::IndexScanDesc) {
    // SAFETY: a descriptor of ours.
    unsafe { scan::end(scan) }
}
