//! What can go wrong on the pages of an index.

use distillvq_model::ModelError;

/// An error of reading or changing an index.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The first page is not the metapage of a distillvq index.
    #[error("the first page is not the metapage of a distillvq index")]
    NotAnIndex,
    /// The pages were written by a newer release.
    #[error("the index has format version {found}; this library reads versions up to {newest}")]
    UnsupportedVersion {
        /// The version in the metapage.
        found: u32,
        /// The newest version this library reads.
        newest: u32,
    },
    /// The build of the index was never finished.
    #[error("the index is incomplete: its build was interrupted")]
    Incomplete,
    /// A page contradicts the format.
    #[error("block {block} of the index is damaged: {what}")]
    Damaged {
        /// The page.
        block: u32,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The caller offers something that does not fit this index.
    #[error("{0}")]
    Mismatch(&'static str),
    /// The bytes of the model are refused.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// There is no memory for what the pages hold.
    #[error("out of memory")]
    OutOfMemory,
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
    /// The page store failed.
    #[error("{0}")]
    Store(String),
}

impl Error {
    /// Shorthand for [`Error::Damaged`].
    pub(crate) fn damaged(block: u32, what: &'static str) -> Self {
        Error::Damaged { block, what }
    }
}
