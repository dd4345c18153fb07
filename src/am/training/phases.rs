//! Phases of builds and trainings, as `pg_stat_progress_create_index` shows them.

/// Phases of a build, as `pg_stat_progress_create_index` shows them; the numbers are those given to [`phase_name`].
/// Training's own phases follow [`SAMPLING`] in the order of [`distillvq_training::Phase`].
pub const SAMPLING: i64 = 2;
/// The pass over the table.
pub const LOADING: i64 = 7;
/// The last rows go to the pages.
pub const WRITING: i64 = 8;
/// Searches measure the recall.
pub const CALIBRATING: i64 = 9;

/// The name of a phase.
pub fn phase_name(number: i64) -> Option<&'static std::ffi::CStr> {
    match number {
        1 => Some(c"initializing"),
        2 => Some(c"sampling rows"),
        3 => Some(c"training: lists"),
        4 => Some(c"training: codebooks"),
        5 => Some(c"training: teacher"),
        6 => Some(c"training: distillation"),
        7 => Some(c"loading rows"),
        8 => Some(c"writing lists"),
        9 => Some(c"calibrating"),
        _ => None,
    }
}
