//! What can go wrong: files, arguments, training.

use distillvq_model::ModelError;
use distillvq_training::TrainError;
use std::io;
use std::path::Path;

/// A result with [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory, and what is wrong with it.
    #[error("{0}: {1}")]
    File(String, String),
    /// The command line.
    #[error("{0}")]
    Arguments(String),
    /// Training failed.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// The model could not be written.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The results could not be written.
    #[error("results: {0}")]
    Output(#[from] io::Error),
    /// The results could not be put into words.
    #[error("results: {0}")]
    Json(#[from] serde_json::Error),
    /// No threads.
    #[error(transparent)]
    Threads(#[from] rayon::ThreadPoolBuildError),
}

impl Error {
    /// Wraps a failure to read `path`.
    pub fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.display().to_string();
        |source| Error::File(path, source.to_string())
    }

    /// Says what is wrong with the contents of `path`.
    pub fn data(path: &Path, what: impl Into<String>) -> Self {
        Error::File(path.display().to_string(), what.into())
    }
}
