//! What can go wrong.

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
        /// [`crate::MIN_TRAIN_ROWS`].
        needed: usize,
    },
    /// The dimension is 0 or too large.
    #[error("{dim} dimensions, allowed are 1 to {max}")]
    Dimension {
        /// The dimension given.
        dim: usize,
        /// [`crate::MAX_DIM`].
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

/// The bytes are no model, or a model could not be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The magic number is missing.
    #[error("these bytes are no model")]
    NotAModel,
    /// Written by a newer release.
    #[error("model format {found} is unknown, the newest known is {newest}")]
    UnsupportedVersion {
        /// Version in the bytes.
        found: u32,
        /// Newest version this release reads.
        newest: u32,
    },
    /// Too short or too long.
    #[error("a model of {expected} bytes was announced, {found} bytes are there")]
    Length {
        /// Bytes announced by the envelope.
        expected: u64,
        /// Bytes given.
        found: u64,
    },
    /// The checksum does not match.
    #[error("the model's checksum is {found:08x}, its bytes give {computed:08x}")]
    Checksum {
        /// In the envelope.
        found: u32,
        /// Of the bytes.
        computed: u32,
    },
    /// The student belongs to another encoder.
    #[error("the student belongs to the encoder {expected:08x}, not to {found:08x}")]
    OtherEncoder {
        /// Checksum of the student's encoder.
        expected: u32,
        /// Checksum of the encoder given.
        found: u32,
    },
    /// The body cannot be read.
    #[error("the model's body cannot be decoded: {0}")]
    ModelData(String),
    /// There is no memory for the model.
    #[error("out of memory: a model of {bytes} bytes needs several times as much to be decoded")]
    OutOfMemory {
        /// Bytes of the model.
        bytes: usize,
    },
    /// The body decodes, but is no valid model.
    #[error("the model is inconsistent: {what}")]
    Invalid {
        /// What is wrong.
        what: String,
    },
}
