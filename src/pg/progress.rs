//! Progress of builds and trainings in `pg_stat_progress_create_index`.

use crate::pg::relation;
use pgrx::pg_sys;

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

/// Whether the running command is one of those that `pg_stat_progress_create_index` shows: VACUUM, which trains too, has a view of
/// its own.
fn is_shown() -> bool {
    let shown = pg_sys::ProgressCommandType::PROGRESS_COMMAND_CREATE_INDEX;
    // SAFETY: null, or the backend's own status.
    unsafe { pg_sys::MyBEEntry.as_ref() }.is_some_and(|status| status.st_progress_command == shown)
}

/// Reports the phase of an index build to `pg_stat_progress_create_index`.
pub fn report_phase(phase: i64) {
    if !is_shown() {
        return;
    }
    // SAFETY: the backend's own status.
    unsafe {
        pg_sys::pgstat_progress_update_param(pg_sys::PROGRESS_CREATEIDX_SUBPHASE as i32, phase)
    };
}

/// Reports how far a phase of an index build is.
pub fn report_progress(done: usize, total: usize) {
    if !is_shown() {
        return;
    }
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
