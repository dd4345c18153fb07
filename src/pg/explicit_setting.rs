//! Whether a value of `distillvq.target_recall` was set by anybody.
//!
//! PostgreSQL tells a check hook where a value comes from, and keeps what that hook adds to the value along with it, through
//! transactions and RESET.

use crate::pg::compat::setting_extra;
use pgrx::{pg_guard, pg_sys};
use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, Ordering};

static EXPLICIT: AtomicBool = AtomicBool::new(false);

/// Whether the current value was set by the session, the role, or the configuration.
pub fn is_explicit() -> bool {
    EXPLICIT.load(Ordering::Relaxed)
}

/// The setting's check hook: marks values that are not the default.
#[pg_guard]
pub unsafe extern "C-unwind" fn check(
    _value: *mut f64,
    extra: *mut *mut c_void,
    source: pg_sys::GucSource::Type,
) -> bool {
    if source == pg_sys::GucSource::PGC_S_DEFAULT {
        return true;
    }
    // SAFETY: the server passes a place for what goes with the value, and frees it itself.
    unsafe {
        *extra = setting_extra();
        !(*extra).is_null()
    }
}

/// The setting's assign hook.
#[pg_guard]
pub unsafe extern "C-unwind" fn assign(_value: f64, extra: *mut c_void) {
    EXPLICIT.store(!extra.is_null(), Ordering::Relaxed);
}
