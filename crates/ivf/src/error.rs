//! Errors of reading, changing and searching an index.

use distillvq_model::ModelError;
use distillvq_pages as pages;

/// An error of reading, changing or searching an index.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An error of the pages.
    #[error(transparent)]
    Pages(#[from] pages::Error),
    /// The bytes of the model are refused.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The index got a model while a search compared all its rows: some may have left the list that it read. The search must begin
    /// again ([`crate::rerank::RerankStream::returned_before`]).
    #[error("the index got a model during the search")]
    ModelAdded,
    /// A search of an index of rows in two lists has no memory for the addresses of the rows that it returned: it could return one
    /// twice.
    #[error("the addresses of the returned rows do not fit in {bytes} bytes")]
    ReturnedRows {
        /// The memory for them.
        bytes: usize,
    },
    /// A search was to return late rows at its end, and found more of them than it may keep.
    #[error("the search found more rows out of order than fit in {bytes} bytes")]
    LateRows {
        /// The memory for them.
        bytes: usize,
    },
    /// A search compared far more rows than it may keep until it is their turn.
    #[error("the search has to sort more rows than fit in {bytes} bytes")]
    WaitingRows {
        /// The memory for them.
        bytes: usize,
    },
}

impl Error {
    /// Shorthand for [`pages::Error::Mismatch`].
    pub(crate) fn mismatch(what: &'static str) -> Self {
        Error::Pages(pages::Error::Mismatch(what))
    }

    /// Shorthand for [`pages::Error::OutOfMemory`].
    pub(crate) fn out_of_memory() -> Self {
        Error::Pages(pages::Error::OutOfMemory)
    }

    /// Shorthand for [`pages::Error::Damaged`].
    pub(crate) fn damaged(block: u32, what: &'static str) -> Self {
        Error::Pages(pages::Error::damaged(block, what))
    }
}
