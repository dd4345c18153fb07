//! What can go wrong: files, arguments, training.

use distillvq_model::ModelError;
use distillvq_training::TrainError;
use std::io;

/// A result with [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file is missing or malformed.
    #[error(transparent)]
    Data(#[from] distillvq_harness::Error),
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
