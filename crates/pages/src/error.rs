//! What can go wrong on the pages of an index.

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
    /// A page is of a newer format than the metapage was when it was read: a newer release has changed the index since, or the
    /// page is damaged.
    #[error(
        "block {block} of the index has format version {found}; this library reads versions up to {newest}"
    )]
    NewerPage {
        /// The page.
        block: u32,
        /// Its format version.
        found: u8,
        /// The newest version this library reads.
        newest: u8,
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
    /// There is no memory for what the pages hold.
    #[error("out of memory")]
    OutOfMemory,
    /// The page store failed.
    #[error("{0}")]
    Store(String),
}

impl Error {
    /// Shorthand for [`Error::Damaged`].
    pub fn damaged(block: u32, what: &'static str) -> Self {
        Error::Damaged { block, what }
    }
}
