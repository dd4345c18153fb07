//! Messages to the client and the server's log, and errors raised as PostgreSQL's.

use crate::error::{Error, Result};
use crate::pg::text;
#[cfg(feature = "timing")]
use pgrx::pg_sys;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{PgLogLevel, PgSqlErrorCode};

/// Tells the user something that is no error.
pub fn notice(message: &str, detail: &str, hint: &str) {
    let state = PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION;
    report(state, message, Some(detail), hint).report(PgLogLevel::NOTICE);
}

/// Tells the user of something that needs attention.
pub fn warning(message: &str, detail: &str, hint: &str) {
    let state = PgSqlErrorCode::ERRCODE_WARNING;
    report(state, message, Some(detail), hint).report(PgLogLevel::WARNING);
}

/// Writes what was done without anybody's order to the server's log.
pub fn log_event(message: &str, detail: &str) {
    let state = PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION;
    let report = ErrorReport::new(state, text::message(message), "distillvq");
    report
        .set_detail(text::message(detail))
        .report(PgLogLevel::LOG);
}

/// What the server is told, in the database's encoding.
fn report(state: PgSqlErrorCode, message: &str, detail: Option<&str>, hint: &str) -> ErrorReport {
    let report =
        ErrorReport::new(state, text::message(message), "distillvq").set_hint(text::message(hint));
    match detail {
        Some(detail) => report.set_detail(text::message(detail)),
        None => report,
    }
}

/// Raises an error as PostgreSQL's `ERROR`.
pub fn raise(error: &Error) -> ! {
    let (message, detail) = (error.to_string(), error.detail());
    let report = report(error.sqlstate(), &message, detail.as_deref(), &error.hint());
    report.report(PgLogLevel::ERROR);
    unreachable!("ereport(ERROR) does not return")
}

/// The value of a result, or its error raised as PostgreSQL's.
pub fn or_raise<T>(result: Result<T>) -> T {
    result.unwrap_or_else(|error| raise(&error))
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
