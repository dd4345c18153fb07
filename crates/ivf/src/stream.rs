//! The order of results: estimated candidates in, rows in the order of their exact distances out. Pure logic.

use crate::error::Error;
use crate::search::{Candidate, Search};
use crate::store::PageStore;
use crate::{Metric, Tid};

/// Where candidates come from: a [`Search`], or a made-up one in tests. See there for the methods.
pub trait Source {
    /// Number of lists.
    fn lists(&self) -> usize;
    /// Number of lists probed so far.
    fn probed(&self) -> usize;
    /// Probes this many further lists.
    fn probe(&mut self, more: usize) -> Result<(), Error>;
    /// Appends the next `n` candidates.
    fn pull(&mut self, n: usize, out: &mut Vec<Candidate>) -> Result<(), Error>;
    /// Appends the rows that are always compared exactly.
    fn exact(&mut self, out: &mut Vec<Tid>) -> Result<(), Error>;
}

impl<S: PageStore> Source for Search<'_, S> {
    fn lists(&self) -> usize {
        Search::lists(self)
    }
    fn probed(&self) -> usize {
        Search::probed(self)
    }
    fn probe(&mut self, more: usize) -> Result<(), Error> {
        Search::probe(self, more)
    }
    fn pull(&mut self, n: usize, out: &mut Vec<Candidate>) -> Result<(), Error> {
        Search::pull(self, n, out)
    }
    fn exact(&mut self, out: &mut Vec<Tid>) -> Result<(), Error> {
        Search::exact(self, out)
    }
}

/// Turns an exact distance (as the operator gives it) into a score on the scale of the estimates.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scale {
    /// `<->`: `norm_sq − D²`, with the query's squared norm in the model's centred space.
    L2 {
        /// ‖q − centre‖².
        norm_sq: f64,
    },
    /// `<#>`, the negative inner product: `−D`.
    InnerProduct,
    /// `<=>`: `1 − D`.
    Cosine,
}

impl Scale {
    /// The score of a distance.
    pub fn score(&self, distance: f64) -> f64 {
        match self {
            Scale::L2 { norm_sq } => norm_sq - distance * distance,
            Scale::InnerProduct => -distance,
            Scale::Cosine => 1.0 - distance,
        }
    }

    /// The scale of a metric.
    pub fn of(metric: Metric, norm_sq: f64) -> Scale {
        match metric {
            Metric::L2 => Scale::L2 { norm_sq },
            Metric::InnerProduct => Scale::InnerProduct,
            Metric::Cosine => Scale::Cosine,
        }
    }
}

/// How much to look at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StreamOptions {
    /// Lists probed for the first results.
    pub probes: usize,
    /// Most lists probed ever; `usize::MAX` is no limit.
    pub max_probes: usize,
    /// Standard deviations of the estimate's error that a row must be ahead of all unseen ones to be given out.
    pub z: f64,
    /// Exact distances taken before the first row is given out.
    pub first_batch: usize,
    /// Exact distances taken at a time after that.
    pub batch: usize,
}

impl Default for StreamOptions {
    fn default() -> Self {
        StreamOptions {
            probes: 1,
            max_probes: usize::MAX,
            z: 3.0,
            first_batch: 48,
            batch: 32,
        }
    }
}

/// A row with its exact distance.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hit {
    /// The row.
    pub tid: Tid,
    /// Its distance, as `fetch` gave it.
    pub distance: f64,
}

/// The rows of a source in the order of their exact distances.
pub struct Stream<C: Source> {
    source: C,
    scale: Scale,
    options: StreamOptions,
}

impl<C: Source> Stream<C> {
    /// A stream over a source of which nothing has been probed or pulled.
    pub fn new(source: C, scale: Scale, options: StreamOptions) -> Self {
        Stream {
            source,
            scale,
            options,
        }
    }

    /// The next row, or `None` after the last. `fetch` appends one exact distance for each TID (which are ordered by
    /// block): `None` if the row is not visible. NaN sorts last.
    pub fn next<E: From<Error>>(
        &mut self,
        _fetch: &mut dyn FnMut(&[Tid], &mut Vec<Option<f64>>) -> Result<(), E>,
    ) -> Result<Option<Hit>, E> {
        let _ = (&self.scale, &self.options);
        Ok(None)
    }

    /// The source, for its counters.
    pub fn source(&self) -> &C {
        &self.source
    }
}
