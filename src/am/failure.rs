//! Errors of operations on pages, which do not know the name of their index.

use crate::error::Error;
use crate::pg::relation::Index;
use distillvq_ivf as ivf;

/// An error of an operation on pages that calls back, before the index's name is known to it.
pub enum PageOpError {
    /// Of the pages.
    Pages(ivf::Error),
    /// Of what was called back.
    Other(Error),
}

impl From<ivf::Error> for PageOpError {
    fn from(error: ivf::Error) -> Self {
        Self::Pages(error)
    }
}

impl From<Error> for PageOpError {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

impl PageOpError {
    /// The error, with the index's name.
    pub fn with_index(self, index: Index) -> Error {
        match self {
            Self::Pages(error) => with_index(index)(error),
            Self::Other(error) => error,
        }
    }
}

/// Names the index in an error of its pages.
pub fn with_index<E: Into<ivf::Error>>(index: Index) -> impl Fn(E) -> Error {
    move |source| Error::Pages {
        index: index.named(),
        source: source.into(),
    }
}
