//! The border to PostgreSQL: the only module of the extension with `unsafe`.
//!
//! Outside code sees safe views: [`relation::Index`] and [`relation::Heap`] over open relations, [`store`] for pages,
//! [`heap`] for rows, [`compute`] for threads, [`spi`] for queries. A view is made only inside a callback, from a
//! pointer that PostgreSQL guarantees for the callback's duration, and is not kept beyond it.
//!
//! A PostgreSQL error inside a call unwinds as a Rust panic (pgrx) and becomes an `ERROR` again at the callback's
//! [`guard`] or `#[pg_guard]`; destructors here therefore touch nothing of PostgreSQL's while a panic is under way.
#![allow(unsafe_code)]

pub mod attempt;
pub mod callbacks;
pub mod catalog;
pub mod compat;
pub mod compute;
pub mod condition;
pub mod datum;
pub mod executor;
mod functions;
pub mod guard;
pub mod heap;
pub mod join;
pub mod nearest;
pub mod options;
pub mod planner;
pub mod recent;
pub mod relation;
pub mod rights;
pub mod scan;
pub mod spi;
pub mod store;
pub mod target;
pub mod text;
mod vector_types;

use pgrx::pg_sys::{self, panic::ErrorReport};
use pgrx::{PgLogLevel, PgSqlErrorCode};
use std::ffi::CStr;

/// Keeps others from inventing settings under the extension's prefix.
pub fn reserve_setting_prefix(prefix: &'static CStr) {
    // SAFETY: a C string that lives forever.
    unsafe { pg_sys::MarkGUCPrefixReserved(prefix.as_ptr()) };
}

/// A random number that differs between any two calls, also across restarts.
pub fn random_u64() -> u64 {
    // SAFETY: the backend's own generator, seeded at its start, used by the backend's only PostgreSQL thread.
    unsafe { pg_sys::pg_prng_uint64(&raw mut pg_sys::pg_global_prng_state) }
}

/// Lets the transaction's end wait until its WAL is on disk, though it has changed no row.
pub fn commit_durably() {
    // SAFETY: sets a flag of the running transaction.
    unsafe { pg_sys::ForceSyncCommit() };
}

/// Whether `pg_upgrade` is making the new server's catalogs.
pub fn in_binary_upgrade() -> bool {
    // SAFETY: set at the server's start.
    unsafe { pg_sys::IsBinaryUpgrade }
}

/// Whether a statement runs: at the end of a transaction none does any more.
pub fn has_snapshot() -> bool {
    // SAFETY: reads the backend's own state.
    unsafe { pg_sys::ActiveSnapshotSet() }
}

/// Runs `work`, which may run SQL, under the statement's snapshot, or a new one at the end of a transaction.
pub fn with_snapshot<T>(work: impl FnOnce() -> T) -> T {
    if has_snapshot() {
        return work();
    }
    // SAFETY: inside a transaction; popped below, or by the abort after an error.
    unsafe { pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot()) };
    let done = work();
    // SAFETY: the one that was pushed above.
    unsafe { pg_sys::PopActiveSnapshot() };
    done
}

/// `maintenance_work_mem` in bytes.
pub fn maintenance_bytes() -> usize {
    // SAFETY: an integer that only this thread changes.
    let kilobytes = unsafe { pg_sys::maintenance_work_mem };
    kilobytes.max(1024) as usize * 1024
}

/// `work_mem` times `hash_mem_multiplier` in bytes.
pub fn hash_memory() -> usize {
    // SAFETY: computes it from settings that only this thread changes.
    unsafe { pg_sys::get_hash_memory_limit() }
}

/// A command that `pg_stat_progress_create_index` shows while this lives; an abort ends it after an error.
pub struct Progress(());

impl Progress {
    /// Begins to report work on a relation and, if it is about one, on its index.
    pub fn start(relation: pg_sys::Oid, index: Option<pg_sys::Oid>) -> Self {
        let command = pg_sys::ProgressCommandType::PROGRESS_COMMAND_CREATE_INDEX;
        // The view names the sub-phase by asking the access method.
        let parameters = [
            (
                pg_sys::PROGRESS_CREATEIDX_PHASE,
                pg_sys::PROGRESS_CREATEIDX_PHASE_BUILD.into(),
            ),
            (
                pg_sys::PROGRESS_CREATEIDX_INDEX_OID.to_u32(),
                index.unwrap_or(pg_sys::InvalidOid).to_u32().into(),
            ),
            (
                pg_sys::PROGRESS_CREATEIDX_ACCESS_METHOD_OID.to_u32(),
                relation::access_method().to_u32().into(),
            ),
        ];
        // SAFETY: the backend's own status.
        unsafe {
            pg_sys::pgstat_progress_start_command(command, relation);
            for (parameter, value) in parameters {
                pg_sys::pgstat_progress_update_param(parameter as i32, value);
            }
        }
        Self(())
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: ends what `start` began.
            unsafe { pg_sys::pgstat_progress_end_command() };
        }
    }
}

/// Reports the phase of an index build to `pg_stat_progress_create_index`.
pub fn report_phase(phase: i64) {
    // SAFETY: does nothing when no command reports progress.
    unsafe {
        pg_sys::pgstat_progress_update_param(pg_sys::PROGRESS_CREATEIDX_SUBPHASE as i32, phase)
    };
}

/// Reports how far a phase of an index build is.
pub fn report_progress(done: usize, total: usize) {
    // SAFETY: as in `report_phase`.
    unsafe {
        pg_sys::pgstat_progress_update_param(
            pg_sys::PROGRESS_CREATEIDX_TUPLES_TOTAL as i32,
            total as i64,
        );
        pg_sys::pgstat_progress_update_param(
            pg_sys::PROGRESS_CREATEIDX_TUPLES_DONE as i32,
            done as i64,
        );
    }
}

/// Tells the user something that is no error.
pub fn notice(message: &str, detail: &str, hint: &str) {
    let state = PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION;
    report(state, message, Some(detail), hint).report(PgLogLevel::NOTICE);
}

/// What the server is told, in the database's encoding.
pub fn report(
    state: PgSqlErrorCode,
    message: &str,
    detail: Option<&str>,
    hint: &str,
) -> ErrorReport {
    let report =
        ErrorReport::new(state, text::message(message), "distillvq").set_hint(text::message(hint));
    match detail {
        Some(detail) => report.set_detail(text::message(detail)),
        None => report,
    }
}

/// Writes a line to the server's log.
#[cfg(feature = "timing")]
pub fn log(message: &str) {
    pgrx::log!("{message}");
}

/// Has `work` done when this backend exits.
#[cfg(feature = "timing")]
pub fn at_exit(work: fn()) {
    #[pgrx::pg_guard]
    unsafe extern "C-unwind" fn run(_code: i32, work: pg_sys::Datum) {
        // SAFETY: the function that was registered below.
        let work = unsafe { std::mem::transmute::<usize, fn()>(work.value()) };
        work();
    }
    // SAFETY: registers a callback that is part of this library, which stays loaded.
    unsafe { pg_sys::on_proc_exit(Some(run), pg_sys::Datum::from(work as usize)) };
}

/// Runs `work` in a memory context of its own, so that what PostgreSQL's functions leave behind is freed at once.
pub fn with_temporary_memory<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: the new context is a child of the current one: an error that unwinds leaves it to its parent.
    unsafe {
        let parent = pg_sys::CurrentMemoryContext;
        let name = c"distillvq temporary".as_ptr();
        let (least, first, most) = (0, 8 * 1024, 8 * 1024 * 1024);
        let own = pg_sys::AllocSetContextCreateInternal(parent, name, least, first, most);
        let previous = pg_sys::MemoryContextSwitchTo(own);
        let result = work();
        pg_sys::MemoryContextSwitchTo(previous);
        pg_sys::MemoryContextDelete(own);
        result
    }
}

#[pgrx::pg_guard]
extern "C-unwind" fn _PG_init() {
    guard::spare_backtraces();
    options::register();
    crate::settings::register();
    executor::install();
    compat::install_explain_hook();
}
