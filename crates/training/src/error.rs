//! Errors of training.

use distillvq_model::error::ModelError;

/// Training failed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// Not enough usable rows.
    #[error("{usable} of {given} sampled rows can be used, training needs at least {needed}")]
    TooFewRows {
        /// Rows of the sample.
        given: usize,
        /// Rows that are finite and, for cosine, not zero.
        usable: usize,
        /// [`distillvq_model::MIN_TRAIN_ROWS`].
        needed: usize,
    },
    /// The dimension is 0 or too large.
    #[error("{dim} dimensions, allowed are 1 to {max}")]
    Dimension {
        /// The dimension given.
        dim: usize,
        /// [`distillvq_model::MAX_DIM`].
        max: usize,
    },
    /// A matrix is not a whole number of rows.
    #[error("{len} values of {what} are no whole number of rows of {dim} dimensions")]
    Ragged {
        /// "rows" or "queries".
        what: &'static str,
        /// Values given.
        len: usize,
        /// The dimension given.
        dim: usize,
    },
    /// An option is out of its range.
    #[error("{option} is {value}, allowed is {allowed}")]
    Option {
        /// Name of the option.
        option: &'static str,
        /// Its value.
        value: usize,
        /// What would be right.
        allowed: String,
    },
    /// The monitor asked to stop.
    #[error("training was interrupted")]
    Interrupted,
    /// The numbers that were learned make no valid model.
    #[error("training gave no usable model: {0}")]
    Model(#[source] ModelError),
}
