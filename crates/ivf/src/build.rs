//! Building an index: bulk load of runs sorted by list, and the empty copy of an index.

use crate::error::Error;
use crate::meta::Meta;
use crate::store::PageStore;
use crate::{Metric, Model, Row};

/// What an index is created with.
#[derive(Clone, Copy, Debug)]
pub struct Create<'a> {
    /// The metric.
    pub metric: Metric,
    /// Dimensions of a vector.
    pub dim: usize,
    /// The model; `None` makes an untrained index, in which all rows go to the exact list.
    pub model: Option<&'a Model>,
    /// A random number that marks this build, see [`Meta::build_id`].
    pub build_id: u64,
}

/// A build under way. It must be the only writer. Until [`Builder::finish`] the index is incomplete and refused by readers.
pub struct Builder<'a, S: PageStore> {
    store: &'a S,
    meta: Meta,
}

impl<'a, S: PageStore> Builder<'a, S> {
    /// Begins an index in an empty store: metapage, model and directory pages.
    pub fn create(_store: &'a S, _create: Create<'_>) -> Result<Self, Error> {
        Err(Error::Incomplete)
    }

    /// What the metapage will say.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Adds a run of rows, sorted by list. Later runs continue where the lists' last pages ended.
    pub fn append<'r>(&mut self, _rows: impl IntoIterator<Item = Row<'r>>) -> Result<(), Error> {
        let _ = self.store;
        Err(Error::Incomplete)
    }

    /// Writes the directory, then marks the index complete. Returns the metapage's final contents.
    pub fn finish(self) -> Result<Meta, Error> {
        Err(Error::Incomplete)
    }
}

/// Copies metapage and model of `from` into the empty store `to`, with an empty directory: the same index without rows.
pub fn create_empty<S: PageStore, T: PageStore>(_from: &S, _to: &T) -> Result<Meta, Error> {
    Err(Error::Incomplete)
}
