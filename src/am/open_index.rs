//! An open index with its metapage.

use crate::am::failure::with_index;
use crate::am::model_store::cache;
use crate::error::{Error, Result};
use crate::pg::page_store::RelationStore;
use crate::pg::relation::Index;
use distillvq_ivf::{Meta, Model, load_model};
use distillvq_model::Searcher;

/// An index opened for a search or a change, with its metapage as it is now.
pub struct OpenIndex {
    /// The index.
    pub index: Index,
    /// What the metapage says.
    pub meta: Meta,
}

impl OpenIndex {
    /// Reads the metapage.
    pub fn open(index: Index) -> Result<Self> {
        let store = RelationStore::for_search(index);
        let meta = Meta::read(&store).map_err(with_index(index))?;
        Ok(Self { index, meta })
    }

    /// The whole model from the pages, unless the index is untrained.
    pub fn model(&self) -> Result<Option<Model>> {
        let store = RelationStore::new(self.index);
        load_model(&store, &mut self.meta.clone()).map_err(with_index(self.index))
    }

    /// A model that encodes as the index's does, from the backend's cache if it is there.
    pub fn encoder(&self) -> Result<Option<Model>> {
        self.trained(cache::encoder)
    }

    /// What a search needs of the model, from the backend's cache if it is there.
    pub fn searcher(&self) -> Result<Option<Searcher>> {
        self.trained(cache::searcher)
    }

    fn trained<T>(
        &self,
        get: impl FnOnce(Index, &RelationStore, &Meta) -> Result<T>,
    ) -> Result<Option<T>> {
        let store = RelationStore::new(self.index);
        let got = self
            .meta
            .has_model()
            .then(|| get(self.index, &store, &self.meta));
        got.transpose()
    }

    /// Refuses a vector whose length is not the index's.
    pub fn check_dimensions(&self, found: usize) -> Result<()> {
        if found == self.meta.dim {
            Ok(())
        } else {
            Err(Error::Dimensions {
                expected: self.meta.dim,
                found,
            })
        }
    }
}
