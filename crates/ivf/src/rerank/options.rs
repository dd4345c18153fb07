//! How far a stream looks: how many lists and rows, for how many results, and how sure it is to be.

use super::growth::{BASE_ROWS, Growth};
use crate::CodeShape;

/// What becomes of a row that is compared after a farther one was returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LateRows {
    /// It is never returned: the order of the rows is exact.
    Drop,
    /// It follows after all others, in order among the late ones.
    Append,
    /// It is returned at once, for a consumer that does not rely on the order.
    Return,
}

/// How much to look at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RerankOptions {
    /// Lists that queries probe on average for the first results ([`crate::adaptive_probes`]), at least 1.
    pub probes: usize,
    /// Rows given out for which those are meant, at least [`BASE_ROWS`]: so many more than [`BASE_ROWS`] are given out ahead of the rows
    /// that are wanted.
    pub rows: usize,
    /// Lists probed for the rows behind those.
    pub growth: Growth,
    /// Most lists probed ever, but those for the first results; `usize::MAX` is no limit, 0 probes none at all.
    pub max_probes: usize,
    /// Rows compared after which no further lists are probed; `u64::MAX` is no limit.
    pub max_reranked: u64,
    /// What becomes of late rows.
    pub late: LateRows,
    /// Standard deviations of the estimate's error that a row must be ahead of all unseen ones to be given out.
    pub z: f64,
    /// Visible rows to compare before the first one is given out, unless there are fewer.
    pub first_batch: usize,
    /// Rows to compare at a time after that.
    pub batch: usize,
    /// By which share of the rows returned the search is ahead of them, beyond the first `rows`.
    pub ahead: f64,
    /// Share of all rows that are compared after which the rest is before another row is returned.
    pub all_from: f64,
    /// Most candidates pulled at a time.
    pub largest_pull: usize,
    /// Bytes that rows compared and not returned may take; candidates that were pulled take some more.
    pub memory: usize,
}

/// Candidates of the first pull; later pulls double.
pub const FIRST_PULL: usize = 64;
/// Maximum number of candidates per pull: each pull scans the probed lists for whose scores there is no room again.
pub const LARGEST_PULL: usize = 4096;

/// Fewest sub-quantizers whose errors add up to one that is nearly normal.
const MANY_SUBQUANTIZERS: usize = 32;

impl Default for RerankOptions {
    /// For errors of any kind.
    fn default() -> Self {
        RerankOptions {
            probes: 1,
            rows: BASE_ROWS,
            growth: Growth::default(),
            max_probes: usize::MAX,
            max_reranked: u64::MAX,
            late: LateRows::Drop,
            z: 3.5,
            first_batch: 64,
            batch: 32,
            ahead: 1.0,
            all_from: 0.25,
            largest_pull: LARGEST_PULL,
            memory: 4 << 20,
        }
    }
}

impl RerankOptions {
    /// Lists to probe before the next row is given out, where so many were, of a source that admits a fraction of all rows. The
    /// rows admitted are taken to lie as far apart among all rows: the tenth of them is about the hundredth row if one of ten is
    /// admitted.
    pub fn wanted_probes(&self, given: u64, admitted: f64) -> usize {
        let ahead = self.rows.saturating_sub(BASE_ROWS) as u64;
        let (returned, base) = (given.saturating_sub(ahead) as f64, BASE_ROWS as f64);
        let rank = (returned + base) / admitted - base;
        self.growth.lists(self.probes as f64, rank).ceil() as usize
    }

    /// The same, comparing more rows before one is given out: by how much the margin is wider.
    #[must_use]
    pub fn with_rerank_margin(self, rerank_margin: f32) -> Self {
        RerankOptions {
            z: self.z * f64::from(rerank_margin),
            ..self
        }
    }

    /// As the default, or less careful where the errors of the estimates are sums of many: a few rows tell those well, and
    /// none is far out.
    pub fn for_codes(shape: CodeShape) -> Self {
        let default = RerankOptions::default();
        if shape.subquantizers < MANY_SUBQUANTIZERS {
            return default;
        }
        RerankOptions {
            z: 3.0,
            first_batch: 24,
            batch: 12,
            ..default
        }
    }
}
