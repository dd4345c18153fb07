//! The setting `distillvq.target_recall`: a number, and whether anybody has chosen it.
//!
//! An index may have a target of its own, which is stronger than the default and weaker than what a session, a role or the
//! server's configuration says. PostgreSQL tells a check hook where a value comes from, and keeps what that hook adds to
//! the value along with it, through transactions and RESET.

use crate::pg::compat::setting_extra;
use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, pg_guard, pg_sys};
use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, Ordering};

/// The target when nobody has chosen one.
const DEFAULT: f64 = 0.95;
/// The least and the greatest target.
pub const RANGE: std::ops::RangeInclusive<f64> = 0.5..=1.0;

static TARGET: GucSetting<f64> = GucSetting::<f64>::new(DEFAULT);
static CHOSEN: AtomicBool = AtomicBool::new(false);

/// Registers the setting; called once when the library is loaded.
pub fn register() {
    GucRegistry::define_float_guc_with_hooks(
        c"distillvq.target_recall",
        c"Share of the true nearest rows that a search should find on average.",
        c"The number of lists probed follows from it, by what the index has measured of itself. The index's parameter \
          \"target_recall\" takes the place of the default. Where \"probes\" is set, that counts instead.",
        &TARGET,
        *RANGE.start(),
        *RANGE.end(),
        GucContext::Userset,
        GucFlags::EXPLAIN,
        Some(check),
        Some(assign),
        None,
    );
}

/// The target of a search in an index with this target of its own.
pub fn target_recall(own: Option<f64>) -> f64 {
    own.filter(|_| !is_chosen()).unwrap_or_else(|| TARGET.get())
}

/// Whether session, role or configuration say a target, which counts more than an index's own.
pub fn is_chosen() -> bool {
    CHOSEN.load(Ordering::Relaxed)
}

/// Remembers with the value whether somebody has chosen it.
#[pg_guard]
unsafe extern "C-unwind" fn check(
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

#[pg_guard]
unsafe extern "C-unwind" fn assign(_value: f64, extra: *mut c_void) {
    CHOSEN.store(!extra.is_null(), Ordering::Relaxed);
}
