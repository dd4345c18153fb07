//! Work whose errors end nothing but itself.

use crate::pg::guard::keeping;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::{PgSqlErrorCode, PgTryBuilder, pg_sys};
use std::panic::{AssertUnwindSafe, resume_unwind};

/// An error that ended some work.
pub struct SubtransactionError {
    /// Its message.
    pub message: String,
    /// Whether it tells of damaged data.
    pub is_corruption: bool,
}

/// Runs `work` in a subtransaction; an error that it raises undoes that, and is returned. Only what is asked to stop does not
/// go on.
pub fn in_subtransaction<T>(work: impl FnOnce() -> T) -> Result<T, SubtransactionError> {
    // SAFETY: as PL/pgSQL does it: the caller's memory context and resource owner are put back afterwards.
    let (context, owner) = unsafe {
        let before = (pg_sys::CurrentMemoryContext, pg_sys::CurrentResourceOwner);
        pg_sys::BeginInternalSubTransaction(std::ptr::null());
        pg_sys::MemoryContextSwitchTo(before.0);
        before
    };
    let mut raised = None;
    let outcome = PgTryBuilder::new(AssertUnwindSafe(|| {
        let (outcome, mut kept) = keeping(work);
        match outcome {
            Ok(value) => {
                kept.forget();
                Ok::<T, Box<CaughtError>>(value)
            }
            Err(payload) => {
                raised = Some(kept);
                resume_unwind(payload)
            }
        }
    }))
    .catch_others(|error| Err(Box::new(error)))
    .catch_rust_panic(|error| Err(Box::new(error)))
    .execute();
    // SAFETY: ends the subtransaction that was begun above.
    unsafe {
        pg_sys::MemoryContextSwitchTo(context);
        match &outcome {
            Ok(_) => pg_sys::ReleaseCurrentSubTransaction(),
            Err(_) => pg_sys::RollbackAndReleaseCurrentSubTransaction(),
        }
        pg_sys::MemoryContextSwitchTo(context);
        pg_sys::CurrentResourceOwner = owner;
    }
    outcome.map_err(|error| {
        let (CaughtError::PostgresError(report)
        | CaughtError::ErrorReport(report)
        | CaughtError::RustPanic {
            ereport: report, ..
        }) = error.as_ref();
        let stop = [
            PgSqlErrorCode::ERRCODE_QUERY_CANCELED,
            PgSqlErrorCode::ERRCODE_ADMIN_SHUTDOWN,
        ];
        let state = report.sql_error_code();
        if stop.contains(&state) {
            error.rethrow();
        }
        let damage = [
            PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
            PgSqlErrorCode::ERRCODE_INDEX_CORRUPTED,
        ];
        let message = raised.map_or(String::new(), |mut kept| {
            let message = kept.message(report);
            kept.forget();
            message
        });
        SubtransactionError {
            message,
            is_corruption: damage.contains(&state),
        }
    })
}
