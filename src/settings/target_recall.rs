//! The setting `distillvq.target_recall`. An index may have a target of its own: it overrides the default of the setting, but
//! not a value that a session, a role or the server's configuration sets.

use crate::pg::explicit_setting;
use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting};

pub use crate::pg::explicit_setting::is_explicit;

const DEFAULT: f64 = 0.95;
/// Minimum and maximum of a target.
pub const RANGE: std::ops::RangeInclusive<f64> = 0.5..=1.0;

static TARGET: GucSetting<f64> = GucSetting::<f64>::new(DEFAULT);

/// Registers the setting; called once when the library is loaded.
pub fn register() {
    GucRegistry::define_float_guc_with_hooks(
        c"distillvq.target_recall",
        c"Mean fraction of the true nearest rows that searches aim to find.",
        c"The calibration of the index determines the number of probed lists. The index parameter \"target_recall\" overrides the \
          default. \"probes\" overrides both.",
        &TARGET,
        *RANGE.start(),
        *RANGE.end(),
        GucContext::Userset,
        GucFlags::EXPLAIN,
        Some(explicit_setting::check),
        Some(explicit_setting::assign),
        None,
    );
}

/// The target of searches in an index whose own parameter is `own`.
pub fn target_recall(own: Option<f64>) -> f64 {
    own.filter(|_| !is_explicit())
        .unwrap_or_else(|| TARGET.get())
}
