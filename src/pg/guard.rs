//! The outermost frame of what the server calls: errors of PostgreSQL's leave it as they were raised.
//!
//! pgrx turns an error of PostgreSQL's into a panic, so that Rust's frames unwind, and raises it again from a part of what it said:
//! a context is lost, and an SQLSTATE that PostgreSQL does not define itself. Errors of users' own functions, which run as parts of
//! an index's definition, need both.

use crate::pg::text;
use pgrx::pg_sys;
use pgrx::pg_sys::panic::{CaughtError, ErrorReport, ErrorReportWithLevel, pgrx_extern_c_guard};
use std::ffi::{CStr, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Functions of PostgreSQL without the guard that pgrx puts around each: they are called while an error is under way.
mod bare {
    use super::pg_sys;
    use pg_sys::ErrorData;

    unsafe extern "C-unwind" {
        pub fn CopyErrorData() -> *mut ErrorData;
        pub fn FreeErrorData(error: *mut ErrorData);
        pub fn ThrowErrorData(error: *mut ErrorData);
    }
}

/// The last error that was raised, with the context that it has within the frame.
pub struct Kept {
    error: *mut pg_sys::ErrorData,
    /// Where it lies: memory of the frame's caller.
    memory: pg_sys::MemoryContext,
}

impl Kept {
    /// Whether it is the error that pgrx made a panic of.
    fn is(&self, report: &ErrorReportWithLevel) -> bool {
        // SAFETY: an error that is not freed, or null; texts are null or end.
        unsafe {
            let Some(error) = self.error.as_ref() else {
                return false;
            };
            let same = |text: *const c_char, other: Option<&str>| match other {
                Some(other) => !text.is_null() && CStr::from_ptr(text).to_string_lossy() == other,
                None => text.is_null(),
            };
            same(error.message, Some(report.message()))
                && same(error.detail, report.detail())
                && same(error.hint, report.hint())
        }
    }

    /// The message of what ended the work, as the server has it.
    pub fn message(&self, report: &ErrorReportWithLevel) -> String {
        if self.is(report) {
            // SAFETY: it has the message of the report.
            text::from_c(unsafe { CStr::from_ptr((*self.error).message) })
        } else {
            text::from_server(report.message().as_bytes())
        }
    }

    /// Frees it.
    pub fn forget(&mut self) {
        if !self.error.is_null() {
            // SAFETY: a copy of our own, freed once.
            unsafe { bare::FreeErrorData(self.error) };
            self.error = std::ptr::null_mut();
        }
    }
}

/// Runs what the server has called. An error of PostgreSQL's that it raises goes on as it was, one of ours becomes PostgreSQL's.
/// Only for functions that the server calls: an error leaves them without dropping anything.
pub fn guard<T>(work: impl FnOnce() -> T) -> T {
    let (outcome, mut kept) = keeping(work);
    let payload = match outcome {
        Ok(value) => {
            kept.forget();
            return value;
        }
        Err(payload) => payload,
    };
    let raised = match payload.downcast_ref::<CaughtError>() {
        Some(CaughtError::PostgresError(report)) => kept.is(report),
        _ => false,
    };
    // SAFETY: an error that was raised, in memory that is freed after the statement; nothing is left to drop.
    unsafe {
        if raised {
            drop(payload);
            bare::ThrowErrorData(kept.error);
            unreachable!("ThrowErrorData does not return");
        }
        pgrx_extern_c_guard(move || -> T { resume_unwind(payload) })
    }
}

/// Runs `work`. Returns what it does, or the panic that ended it, with the last error that PostgreSQL raised meanwhile.
pub fn keeping<T>(work: impl FnOnce() -> T) -> (std::thread::Result<T>, Kept) {
    // SAFETY: the stack of contexts is the backend's own. What is pushed here is taken off before the frame ends: a guard of
    // pgrx's that catches an error puts back what it has found.
    unsafe {
        let mut kept = Kept {
            error: std::ptr::null_mut(),
            memory: pg_sys::CurrentMemoryContext,
        };
        let previous = pg_sys::error_context_stack;
        let mut callback = pg_sys::ErrorContextCallback {
            previous,
            callback: Some(keep),
            arg: (&raw mut kept).cast(),
        };
        pg_sys::error_context_stack = &raw mut callback;
        let outcome = catch_unwind(AssertUnwindSafe(work));
        pg_sys::error_context_stack = previous;
        (outcome, kept)
    }
}

/// Keeps the error that is being raised: called for each message, after those who know its inner context.
unsafe extern "C-unwind" fn keep(kept: *mut c_void) {
    // SAFETY: called with what `keeping` has pushed, while that is on the stack; messages are copied to memory that outlives it.
    unsafe {
        // Nothing may be allocated there, and an error there ends the server.
        if pg_sys::CritSectionCount > 0 {
            return;
        }
        let kept = &mut *kept.cast::<Kept>();
        let before = pg_sys::CurrentMemoryContext;
        pg_sys::CurrentMemoryContext = kept.memory;
        let error = bare::CopyErrorData();
        if (*error).elevel == pg_sys::PGERROR as i32 {
            kept.forget();
            kept.error = error;
        } else {
            bare::FreeErrorData(error);
        }
        pg_sys::CurrentMemoryContext = before;
    }
}

/// Has backtraces taken of bugs alone: an error is none, and would tell its backtrace to the client where `RUST_BACKTRACE` is set.
pub fn spare_backtraces() {
    let bugs = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let payload = info.payload();
        let is_error = payload.is::<CaughtError>()
            || payload.is::<ErrorReportWithLevel>()
            || payload.is::<ErrorReport>();
        if !is_error {
            bugs(info);
        }
    }));
}
