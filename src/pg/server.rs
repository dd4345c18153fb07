//! State of the server and of the running transaction.

use crate::pg::text;
use pgrx::pg_sys;
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

/// Microseconds since 1970.
pub fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_micros() as i64)
}

/// Lets the transaction's end wait until its WAL is on disk, though it has changed no row.
pub fn commit_durably() {
    // SAFETY: sets a flag of the running transaction.
    unsafe { pg_sys::ForceSyncCommit() };
}

/// Waits until all that this transaction has written to the WAL is on disk: a crash would lose it otherwise, and the work with it.
pub fn flush_wal() {
    // SAFETY: the position of the backend's own last record, 0 if there is none.
    unsafe { pg_sys::XLogFlush(pg_sys::XactLastRecEnd) };
}

/// Whether `pg_upgrade` is making the new server's catalogs.
pub fn in_binary_upgrade() -> bool {
    // SAFETY: set at the server's start.
    unsafe { pg_sys::IsBinaryUpgrade }
}

/// Whether this is a worker of autovacuum.
pub fn is_autovacuum() -> bool {
    // SAFETY: set as the process starts.
    unsafe { pg_sys::MyBackendType == pg_sys::BackendType::B_AUTOVAC_WORKER }
}

/// Whether the command runs with parallel workers: then it may not begin a subtransaction.
pub fn in_parallel_mode() -> bool {
    // SAFETY: reads the backend's own state.
    unsafe { pg_sys::IsInParallelMode() }
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

/// The value of a setting, if there is one of that name.
pub fn setting(name: &CStr) -> Option<String> {
    // SAFETY: null means that there is none; the text is copied before anything can change it.
    unsafe {
        let value = pg_sys::GetConfigOption(name.as_ptr(), true, false);
        (!value.is_null()).then(|| text::from_c(CStr::from_ptr(value)))
    }
}
