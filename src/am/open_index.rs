//! An open index with its metapage.

use crate::am::failure::with_index;
use crate::am::model_store::cache;
use crate::error::{Error, Result};
use crate::pg::filter_columns::FilterColumns;
use crate::pg::page_store::RelationStore;
use crate::pg::relation::Index;
use distillvq_ivf::{Meta, Model, load_model};
use distillvq_model::Searcher;
use std::cell::OnceCell;

/// An index opened for a scan or a command: its pages, its metapage as it was then, and the parts of the model once they are
/// needed. It holds Rust memory alone, and must not be used after the relation is closed.
pub struct OpenIndex {
    /// The index.
    pub index: Index,
    /// The metapage.
    pub meta: Meta,
    store: RelationStore,
    encoder: OnceCell<Model>,
    searcher: OnceCell<Searcher>,
}

impl OpenIndex {
    /// Reads the metapage.
    pub fn open(index: Index) -> Result<Self> {
        let store = RelationStore::for_search(index);
        let meta = Meta::read(&store).map_err(with_index(index))?;
        Ok(Self::with_meta(index, store, meta))
    }

    /// An index whose metapage was just written.
    pub fn built(index: Index, meta: Meta) -> Self {
        Self::with_meta(index, RelationStore::for_search(index), meta)
    }

    fn with_meta(index: Index, store: RelationStore, meta: Meta) -> Self {
        Self {
            index,
            meta,
            store,
            encoder: OnceCell::new(),
            searcher: OnceCell::new(),
        }
    }

    /// Whether the index was untrained as it was opened, and has a model now.
    pub fn is_outdated(&self) -> Result<bool> {
        if self.meta.has_model() {
            return Ok(false);
        }
        let now = Meta::read(&self.store).map_err(with_index(self.index))?;
        Ok(now.has_model())
    }

    /// Its filter columns, which must be those that its pages have.
    pub fn filters(&self) -> Result<FilterColumns> {
        let filters = FilterColumns::of(self.index)?;
        if filters.format() == self.meta.filters {
            Ok(filters)
        } else {
            Err(Error::FilterFormat(self.index.named()))
        }
    }

    /// Its pages.
    pub fn store(&self) -> &RelationStore {
        &self.store
    }

    /// The whole model from the pages, unless the index is untrained.
    pub fn model(&self) -> Result<Option<Model>> {
        load_model(&self.store, &mut self.meta.clone()).map_err(with_index(self.index))
    }

    /// A model that encodes as the index's does, from the backend's cache if it is there; none if the index is untrained.
    pub fn encoder(&self) -> Result<Option<&Model>> {
        self.part(&self.encoder, cache::encoder)
    }

    /// What a search needs of the model, from the backend's cache if it is there; none if the index is untrained.
    pub fn searcher(&self) -> Result<Option<&Searcher>> {
        self.part(&self.searcher, cache::searcher)
    }

    fn part<'a, T>(
        &self,
        cell: &'a OnceCell<T>,
        get: impl FnOnce(Index, &RelationStore, &Meta) -> Result<T>,
    ) -> Result<Option<&'a T>> {
        if !self.meta.has_model() {
            return Ok(None);
        }
        match cell.get() {
            Some(part) => Ok(Some(part)),
            None => {
                let part = get(self.index, &self.store, &self.meta)?;
                Ok(Some(cell.get_or_init(|| part)))
            }
        }
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
