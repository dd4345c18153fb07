//! What a model is made of: the metric, the shape of its codes, and its limits.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Maximum number of inverted lists of a model.
pub const MAX_LISTS: usize = 32_768;
/// Maximum number of dimensions of a vector.
pub const MAX_DIM: usize = 16_000;
/// Minimum number of usable rows that a model is trained on.
pub const MIN_TRAIN_ROWS: usize = 1_000;

/// How two vectors are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Metric {
    /// Euclidean distance.
    L2,
    /// Largest inner product.
    InnerProduct,
    /// Largest cosine.
    Cosine,
}

impl Metric {
    const ALL: [Metric; 3] = [Metric::L2, Metric::InnerProduct, Metric::Cosine];

    /// The name that [`FromStr`] reads.
    pub fn as_str(self) -> &'static str {
        match self {
            Metric::L2 => "l2",
            Metric::InnerProduct => "ip",
            Metric::Cosine => "cosine",
        }
    }

    /// The number that stands for the metric in indexes and operator classes.
    pub const fn code(self) -> u8 {
        match self {
            Metric::L2 => 1,
            Metric::InnerProduct => 2,
            Metric::Cosine => 3,
        }
    }

    /// The metric of a [`Metric::code`].
    pub fn from_code(code: u8) -> Option<Metric> {
        Metric::ALL.into_iter().find(|metric| metric.code() == code)
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text names no metric.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown metric \"{0}\"; the metrics are l2, ip and cosine")]
pub struct UnknownMetric(pub String);

impl FromStr for Metric {
    type Err = UnknownMetric;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Metric::ALL
            .into_iter()
            .find(|m| m.as_str() == s)
            .ok_or_else(|| UnknownMetric(s.to_owned()))
    }
}

/// Shape of the code of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CodeShape {
    /// Subquantizers, one code each.
    pub subquantizers: usize,
    /// Bits of a code: 4 or 8.
    pub bits: u8,
    /// Whether the row's squared norm is kept beside the codes (L2 only).
    pub has_norm: bool,
}

impl CodeShape {
    /// Codewords of a subquantizer: 16 or 256.
    pub fn words(&self) -> usize {
        1 << self.bits.min(8)
    }

    /// Subquantizers padded for the scan kernels: an even number with 4 bits.
    pub fn padded_subquantizers(&self) -> usize {
        if self.bits == 4 {
            self.subquantizers.next_multiple_of(2)
        } else {
            self.subquantizers
        }
    }

    /// Bytes of the codes of one block of [`distillvq_kernels::LANES`] rows.
    pub fn block_bytes(&self) -> usize {
        let lane_bits = usize::from(self.bits) * distillvq_kernels::LANES;
        self.padded_subquantizers() * lane_bits / 8
    }

    /// Bytes of a query's look-up table.
    pub fn lut_bytes(&self) -> usize {
        self.padded_subquantizers() * self.words()
    }
}

/// Maximum number of subquantizers with `bits` bits: a block of 32 rows must fit a page, with norms and the links to refine codes.
pub const fn max_subquantizers(bits: u8) -> usize {
    if bits == 8 { 239 } else { 478 }
}
