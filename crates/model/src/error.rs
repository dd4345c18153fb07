//! Errors of models.

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
