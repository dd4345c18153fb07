//! How a search goes, and the settings that say how far it goes on when its first lists were not enough. These are named as
//! pgvector names its own.

use crate::settings::reloptions::Options;
use crate::settings::{Probing, probing};
use distillvq_ivf::adaptive_probes::AdaptiveProbes;
use distillvq_ivf::rerank::{LateRows, RerankOptions};
use distillvq_ivf::{Meta, RERANK_MARGINS};
use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, PostgresGucEnum};

/// The values of `distillvq.iterative_scan`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PostgresGucEnum)]
enum IterativeScan {
    /// Only the first lists are probed.
    #[name = c"off"]
    Off,
    /// Further lists are probed; late rows follow at the end.
    #[name = c"relaxed_order"]
    Relaxed,
    /// Further lists are probed; late rows are dropped.
    #[name = c"strict_order"]
    Strict,
}

static ITERATIVE_SCAN: GucSetting<IterativeScan> =
    GucSetting::<IterativeScan>::new(IterativeScan::Strict);
/// `distillvq.max_probes`: 0 is no limit.
static MAX_PROBES: GucSetting<i32> = GucSetting::<i32>::new(0);
/// `distillvq.max_scan_tuples`: 0 is no limit.
static MAX_SCAN_TUPLES: GucSetting<i32> = GucSetting::<i32>::new(0);

/// Registers the settings.
pub fn register() {
    GucRegistry::define_enum_guc(
        c"distillvq.iterative_scan",
        c"Whether a search probes further lists if the first ones return too few rows.",
        c"\"strict_order\" probes further lists and omits rows found after a farther row was returned; \"relaxed_order\" returns these \
          rows last, out of order, so do not use it with DISTINCT, GROUP BY, or window functions; \"off\" probes only the first \
          lists, so that a query may return fewer rows than its LIMIT.",
        &ITERATIVE_SCAN,
        GucContext::Userset,
        GucFlags::EXPLAIN,
    );
    GucRegistry::define_int_guc(
        c"distillvq.max_probes",
        c"Maximum number of inverted lists that a search probes.",
        c"0 means no limit. The first lists are probed in any case.",
        &MAX_PROBES,
        0,
        distillvq_model::MAX_LISTS as i32,
        GucContext::Userset,
        GucFlags::EXPLAIN,
    );
    GucRegistry::define_int_guc(
        c"distillvq.max_scan_tuples",
        c"Number of rows that a search compares exactly before it stops probing further lists.",
        c"0 means no limit. Rows of the lists probed until then are still returned.",
        &MAX_SCAN_TUPLES,
        0,
        i32::MAX,
        GucContext::Userset,
        GucFlags::EXPLAIN,
    );
}

/// How a search goes: what it looks at first, and how far it may go on.
#[derive(Clone, Copy, Debug)]
pub struct SearchParams {
    /// Lists probed.
    probing: Probing,
    /// How deep it re-ranks ([`distillvq_ivf::RERANK_MARGINS`]).
    rerank_margin: f32,
    max_probes: usize,
    max_reranked: u64,
    late: LateRows,
    /// Bytes that it may take for candidates and rows.
    memory: usize,
}

/// Bytes per candidate of a pull: twice as many are chosen from as are returned, and some wait in a queue.
const CANDIDATE_BYTES: usize = 80;

impl SearchParams {
    /// Those of a search without limits.
    pub fn unlimited(probing: Probing, rerank_margin: f32) -> Self {
        Self {
            probing,
            rerank_margin,
            max_probes: usize::MAX,
            max_reranked: u64::MAX,
            late: LateRows::Drop,
            memory: 8 << 20,
        }
    }

    /// Those of the session's settings for an index with these options, as it has measured itself.
    pub fn of_session(options: &Options, meta: &Meta) -> Self {
        Self {
            probing: probing(options, meta),
            rerank_margin: meta
                .calibration
                .map_or(RERANK_MARGINS[0], |it| it.rerank_margin),
            max_probes: match (ITERATIVE_SCAN.get(), MAX_PROBES.get()) {
                (IterativeScan::Off, _) => 0,
                (_, 0) => usize::MAX,
                (_, most) => most as usize,
            },
            max_reranked: match MAX_SCAN_TUPLES.get() {
                0 => u64::MAX,
                most => most as u64,
            },
            late: match ITERATIVE_SCAN.get() {
                IterativeScan::Relaxed => LateRows::Append,
                IterativeScan::Off | IterativeScan::Strict => LateRows::Drop,
            },
            memory: crate::pg::memory::hash_memory(),
        }
    }

    /// How many lists each query probes.
    pub fn adaptive_probes(&self) -> AdaptiveProbes {
        self.probing.adaptive
    }

    /// Half of the memory is for the scores of the probed lists.
    pub fn score_bytes(&self) -> usize {
        self.memory / 2
    }

    /// The options of the stream that probes lists, from those that go by the errors of its codes. An eighth of the memory is for
    /// its rows, and another for the candidates that it pulls.
    pub fn probing_options(&self, options: RerankOptions) -> RerankOptions {
        let largest_pull = self.memory / 8 / CANDIDATE_BYTES;
        RerankOptions {
            probes: self.probing.first,
            growth: self.probing.growth,
            max_probes: self.max_probes.max(1),
            memory: self.memory / 8,
            largest_pull: largest_pull.clamp(1 << 12, 1 << 16),
            ..options.with_rerank_margin(self.rerank_margin)
        }
    }

    /// The options of the stream that compares rows exactly. A quarter of the memory is for its rows.
    pub fn comparing_options(&self, options: RerankOptions) -> RerankOptions {
        RerankOptions {
            memory: self.memory / 4,
            max_reranked: self.max_reranked,
            late: self.late,
            ..options
        }
    }
}
