//! Searching the lists: candidates with estimated scores, best first.

use crate::error::Error;
use crate::meta::Meta;
use crate::store::PageStore;
use crate::{Model, Tid};

/// A row with its estimated score (bigger is nearer).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// The estimate.
    pub score: f32,
    /// The row.
    pub tid: Tid,
}

/// A search under way. It holds no page between calls.
pub struct Search<'a, S: PageStore> {
    store: &'a S,
    meta: &'a Meta,
}

impl<'a, S: PageStore> Search<'a, S> {
    /// Begins a search for a raw query. `model` must be the index's own, `None` if the index is untrained.
    pub fn new(
        store: &'a S,
        meta: &'a Meta,
        _model: Option<&Model>,
        _query: &[f32],
    ) -> Result<Self, Error> {
        Ok(Search { store, meta })
    }

    /// Number of lists.
    pub fn lists(&self) -> usize {
        self.meta.lists as usize
    }

    /// Number of lists probed so far.
    pub fn probed(&self) -> usize {
        let _ = self.store;
        0
    }

    /// Adds the next lists of the ranking to those probed.
    pub fn probe(&mut self, _more: usize) -> Result<(), Error> {
        Err(Error::Incomplete)
    }

    /// Appends the next `n` best candidates of the probed lists that were not given before, ordered by (score descending,
    /// TID). Fewer than `n` mean that the probed lists are exhausted.
    pub fn pull(&mut self, _n: usize, _out: &mut Vec<Candidate>) -> Result<(), Error> {
        Err(Error::Incomplete)
    }

    /// Appends the TIDs of the exact list.
    pub fn exact(&self, _out: &mut Vec<Tid>) -> Result<(), Error> {
        Err(Error::Incomplete)
    }
}
