//! The settings `distillvq.*`.

pub mod iterative;

use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting};

/// `distillvq.probes`: how many lists a search scans first; 0 chooses automatically.
static PROBES: GucSetting<i32> = GucSetting::<i32>::new(0);

/// `distillvq.model_cache`: how many kilobytes of decoded models a session keeps.
static MODEL_CACHE: GucSetting<i32> = GucSetting::<i32>::new(64 << 10);

/// The share of all lists that is probed when nobody says how many.
const AUTOMATIC_SHARE: usize = 10;
/// The fewest lists probed automatically: with few lists a tenth of them would be too little.
const AUTOMATIC_LEAST: usize = 8;

/// Registers the settings; called once when the library is loaded.
pub fn register() {
    GucRegistry::define_int_guc(
        c"distillvq.probes",
        c"Number of inverted lists that a search probes first.",
        c"0 takes the index's own \"probes\" parameter, or a tenth of the lists. Larger values find more and cost more; \
          values above the number of lists mean all lists.",
        &PROBES,
        0,
        distillvq_quantizer::MAX_LISTS as i32,
        GucContext::Userset,
        GucFlags::EXPLAIN,
    );
    GucRegistry::define_int_guc(
        c"distillvq.model_cache",
        c"Memory for decoded models in each session.",
        c"A session decodes an index's model when it first uses it, and keeps it as far as this allows. What does not fit \
          is decoded again by every search.",
        &MODEL_CACHE,
        0,
        i32::MAX,
        GucContext::Userset,
        GucFlags::UNIT_KB,
    );
    iterative::register();
    crate::pg::reserve_setting_prefix(c"distillvq");
}

/// Bytes of decoded models that a session keeps.
pub fn model_cache_bytes() -> usize {
    MODEL_CACHE.get() as usize * 1024
}

/// Lists to probe first: the setting, else the index's parameter, else a tenth of the lists; never more than there are.
pub fn probes(index_default: usize, lists: usize) -> usize {
    let wanted = match (PROBES.get(), index_default) {
        (set, _) if set > 0 => set as usize,
        (_, own) if own > 0 => own,
        _ => lists.div_ceil(AUTOMATIC_SHARE).max(AUTOMATIC_LEAST),
    };
    wanted.min(lists)
}
