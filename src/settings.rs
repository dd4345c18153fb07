//! The settings `distillvq.*`.

pub mod reloptions;
pub mod search;
pub mod target_recall;

use self::reloptions::Options;
use distillvq_ivf::Meta;
use distillvq_ivf::adaptive_probes::AdaptiveProbes;
use distillvq_ivf::rerank::Growth;
use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting};

/// `distillvq.probes`: how many lists a search scans first; 0 chooses automatically.
static PROBES: GucSetting<i32> = GucSetting::<i32>::new(0);

/// `distillvq.model_cache`: how many kilobytes of decoded models a session keeps.
static MODEL_CACHE: GucSetting<i32> = GucSetting::<i32>::new(64 << 10);

/// `distillvq.sample_queries`: whether searches keep a sample of their queries.
static SAMPLE_QUERIES: GucSetting<bool> = GucSetting::<bool>::new(true);

/// The share of all lists that is probed when nobody says how many and the index does not know its recall.
const DEFAULT_PROBES_DIVISOR: usize = 10;
/// The fewest lists probed automatically: with few lists a tenth of them would be too little.
const MIN_DEFAULT_PROBES: usize = 8;

/// Registers the settings; called once when the library is loaded.
pub fn register() {
    GucRegistry::define_int_guc(
        c"distillvq.probes",
        c"Number of inverted lists that a search probes first.",
        c"0 uses the index parameter \"probes\" or, if that is 0, the target recall, by which queries probe different numbers of lists. Higher values raise recall and cost; values above \
          the number of lists mean all lists.",
        &PROBES,
        0,
        distillvq_model::MAX_LISTS as i32,
        GucContext::Userset,
        GucFlags::EXPLAIN,
    );
    GucRegistry::define_int_guc(
        c"distillvq.model_cache",
        c"Memory for decoded models in each session.",
        c"A session decodes the model of an index at its first use, and keeps models up to this size. Of larger models, it keeps \
          the one used last.",
        &MODEL_CACHE,
        0,
        i32::MAX,
        GucContext::Userset,
        GucFlags::UNIT_KB,
    );
    GucRegistry::define_bool_guc(
        c"distillvq.sample_queries",
        c"Whether searches keep a sample of their query vectors in the index.",
        c"VACUUM measures and calibrates the recall of an index with the sample, and distillvq_train() learns from it. The index \
          parameter \"sample_queries\" turns it off for an index.",
        &SAMPLE_QUERIES,
        GucContext::Userset,
        GucFlags::default(),
    );
    reloptions::register();
    target_recall::register();
    search::register();
    crate::pg::server::reserve_setting_prefix(c"distillvq");
}

/// Whether searches of this session keep a sample of their queries.
pub fn samples_queries() -> bool {
    SAMPLE_QUERIES.get()
}

/// Bytes of decoded models that a session keeps.
pub fn model_cache_bytes() -> usize {
    MODEL_CACHE.get() as usize * 1024
}

/// Lists that searches probe.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Probing {
    /// For the first rows, on average over all queries; never more than there are.
    pub first: usize,
    /// How many each query probes.
    pub adaptive: AdaptiveProbes,
    /// For further rows.
    pub growth: Growth,
}

/// The lists to probe: the setting, else the index's parameter, else as many as the target recall asks for; if the index was
/// never measured, a tenth. Further rows are found as surely as the first ones.
pub fn probing(options: &Options, meta: &Meta) -> Probing {
    let given = given_probes(options);
    if given == 0 {
        return for_target(target_recall::target_recall(options.target_recall), meta);
    }
    let first = given.min(meta.lists() as usize);
    let growth = meta.calibration.map(|it| it.growth_from(first as u32));
    Probing {
        first,
        adaptive: AdaptiveProbes::default(),
        growth: growth.unwrap_or_default(),
    }
}

/// Whether searches probe a number of lists that somebody has set, whatever recall that gives.
pub fn has_fixed_probes(options: &Options) -> bool {
    given_probes(options) > 0
}

/// The number of lists that the setting or the index's parameter says, 0 if neither does.
fn given_probes(options: &Options) -> usize {
    match PROBES.get() {
        set if set > 0 => set as usize,
        _ => options.probes,
    }
}

/// What decides how many lists searches probe, as a setting with its value.
pub fn in_force(options: &Options, meta: &Meta) -> String {
    let (given, known) = (given_probes(options), meta.calibration.is_some());
    let target = target_recall::target_recall(options.target_recall);
    if given == 0 && known && target < 1.0 {
        return format!("distillvq.target_recall = {target}");
    }
    format!("distillvq.probes = {}", probing(options, meta).first)
}

/// Lists that reach a target recall, all of them if none do.
fn for_target(target: f64, meta: &Meta) -> Probing {
    let lists = meta.lists() as usize;
    let first = match &meta.calibration {
        _ if target >= 1.0 => lists,
        Some(curve) => curve
            .probes_for(target)
            .map_or(lists, |probes| probes as usize),
        None => lists
            .div_ceil(DEFAULT_PROBES_DIVISOR)
            .max(MIN_DEFAULT_PROBES),
    };
    let growth = meta.calibration.map(|it| it.bands.growth(target));
    let adaptive = meta.calibration.map(|it| it.adaptive_probes);
    Probing {
        first: first.min(lists),
        adaptive: adaptive.unwrap_or_default(),
        growth: growth.unwrap_or_default(),
    }
}
