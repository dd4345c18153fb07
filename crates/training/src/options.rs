//! Options of training, and what is chosen automatically.

use crate::ablation::Ablation;
use crate::error::TrainError;
use distillvq_model::format::{MAX_DIM, MAX_LISTS, Metric, max_subquantizers};
use std::fmt;
use std::str::FromStr;

/// Maximum dimensions of the rotation of 4-bit codes and of the decoder's query transform: each costs every search `dim`² multiplications.
pub const MAX_TRANSFORM_DIM: usize = 1_024;
/// Rows that a table has at least for each dimension where its model holds matrices of `dim`² numbers (the rotation and the
/// query transform): with so many, both take an eighth of the bytes of halfvec rows at the most.
const ROWS_PER_DIMENSION: usize = 16;
/// Maximum number of dimensions of such matrices.
const MAX_MATRIX_DIM: usize = 4_096;
/// Multiplications that a table pays for with each of its numbers when a rotation is learned.
const PRODUCTS_PER_NUMBER: usize = 20_000;
/// Minimum number of dimensions for an automatic second list. With fewer, it adds more codes than it saves.
const MIN_DIM_OF_2_ASSIGNMENTS: usize = 16;
/// Most dimensions whose codes have 8 bits unless the user says otherwise.
const MAX_DIM_OF_8_BITS: usize = 3;

/// How far a student's scores are from the teacher's (Distill-VQ, §3.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Loss {
    /// Cross-entropy of the teacher's and the student's softmax.
    #[default]
    ListNet,
    /// Kullback–Leibler divergence of the teacher's softmax from the student's, weighted by the student's.
    Kl,
    /// Logistic loss over pairs of candidates, weighted by the teacher's difference.
    RankNet,
    /// Squared error of the differences between candidates.
    MarginMse,
    /// Squared error of the scores.
    Mse,
}

/// Names and values of [`Loss`].
pub(crate) const LOSSES: [(&str, Loss); 5] = [
    ("listnet", Loss::ListNet),
    ("kl", Loss::Kl),
    ("ranknet", Loss::RankNet),
    ("margin_mse", Loss::MarginMse),
    ("mse", Loss::Mse),
];

impl Loss {
    /// The name that [`FromStr`] reads.
    pub fn as_str(self) -> &'static str {
        let named = LOSSES.iter().find(|(_, loss)| *loss == self);
        named.map_or("listnet", |(name, _)| name)
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text names no loss.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown loss \"{0}\"; the losses are listnet, kl, ranknet, margin_mse and mse")]
pub struct UnknownLoss(pub String);

impl FromStr for Loss {
    type Err = UnknownLoss;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let named = LOSSES.iter().find(|(name, _)| *name == s);
        named
            .map(|(_, loss)| *loss)
            .ok_or_else(|| UnknownLoss(s.to_owned()))
    }
}

/// What to train. `Default` is cosine, 4 bits, everything automatic.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TrainOptions {
    /// The metric.
    pub metric: Metric,
    /// Inverted lists; 0 = [`auto_lists`].
    pub lists: usize,
    /// Subquantizers; 0 = [`auto_subquantizers`].
    pub subquantizers: usize,
    /// Bits of a code: 4 or 8.
    pub bits: u8,
    /// Maximum number of lists per row: 1 or 2.
    pub assignments: u8,
    /// Seed of every random choice.
    pub seed: u64,
    /// Whether to distill after the reconstruction has been learned.
    pub distill: bool,
    /// The loss of the decoder's distillation.
    pub loss: Loss,
    /// Rows of the whole table, for the automatic number of lists; 0 = as many as the sample has.
    pub rows_in_table: usize,
    /// Parts of the training that are replaced.
    #[cfg(feature = "ablation")]
    pub ablation: Ablation,
}

impl TrainOptions {
    /// Parts of the training that are replaced: none without the feature `ablation`.
    #[cfg(not(feature = "ablation"))]
    pub(crate) fn ablation(&self) -> Ablation {
        Ablation::default()
    }

    /// Parts of the training that are replaced.
    #[cfg(feature = "ablation")]
    pub(crate) fn ablation(&self) -> Ablation {
        self.ablation
    }

    /// Whether they are in range for vectors of so many dimensions.
    ///
    /// # Errors
    /// [`TrainError::Dimension`] or [`TrainError::Option`].
    pub fn check(&self, dim: usize) -> Result<(), TrainError> {
        if dim == 0 || dim > MAX_DIM {
            return Err(TrainError::Dimension { dim, max: MAX_DIM });
        }
        let option = |holds: bool, option, value, allowed: String| {
            if holds {
                Ok(())
            } else {
                Err(TrainError::Option {
                    option,
                    value,
                    allowed,
                })
            }
        };
        let bits = usize::from(self.bits);
        option(bits == 4 || bits == 8, "bits", bits, "4 or 8".to_owned())?;
        let assignments = usize::from(self.assignments);
        let is_known = assignments == 1 || assignments == 2;
        option(is_known, "assignments", assignments, "1 or 2".to_owned())?;
        let (lists, most) = (self.lists, MAX_LISTS);
        option(lists <= most, "lists", lists, format!("0 to {most}"))?;
        let (m, most) = (self.subquantizers, max_subquantizers(self.bits).min(dim));
        option(m <= most, "subquantizers", m, format!("0 to {most}"))
    }

    /// Rows of the whole table, of which so many were sampled.
    pub(crate) fn table_rows(&self, sampled: usize) -> usize {
        match self.rows_in_table {
            0 => sampled,
            rows => rows,
        }
    }
}

impl Default for TrainOptions {
    fn default() -> Self {
        TrainOptions {
            metric: Metric::Cosine,
            lists: 0,
            subquantizers: 0,
            bits: 4,
            assignments: 1,
            seed: 42,
            distill: true,
            loss: Loss::default(),
            rows_in_table: 0,
            #[cfg(feature = "ablation")]
            ablation: Ablation::default(),
        }
    }
}

/// Number of lists for a table of `rows` rows: four times its square root, since many short lists are scanned in fewer rows;
/// but not so many that most would leave their page half empty, and at least the square root.
pub fn auto_lists(rows: usize) -> usize {
    const ROWS_PER_PAGE: usize = 128;
    let root = (rows as f64).sqrt();
    let many = ((4.0 * root) as usize).min(rows / ROWS_PER_PAGE);
    many.max(root.round() as usize).clamp(1, MAX_LISTS)
}

/// Bits of a code for `dim` dimensions: 8 up to 3 dimensions, where they are hardly larger than 4 and rank so much
/// better that a search compares half the rows; 4 above.
pub fn auto_bits(dim: usize) -> u8 {
    if dim <= MAX_DIM_OF_8_BITS { 8 } else { 4 }
}

/// Maximum number of lists per row of `dim` dimensions: 2 from 16 dimensions on.
pub fn auto_assignments(dim: usize) -> u8 {
    if dim >= MIN_DIM_OF_2_ASSIGNMENTS {
        2
    } else {
        1
    }
}

/// Number of subquantizers for `dim` dimensions.
///
/// With 4 bits a subquantizer covers 4 dimensions (1 up to 128, 2 up to 256 dimensions), with 8 bits 8 (2 and 4), but 1 where
/// [`auto_bits`] chooses 8. Rows of few dimensions differ by little more than the error of a coarse code: a smaller index then
/// costs more in compared rows than it saves.
pub fn auto_subquantizers(dim: usize, bits: u8) -> usize {
    let narrow = match dim {
        0..=128 => 1,
        129..=256 => 2,
        _ => 4,
    };
    let width = if bits == 8 && dim > MAX_DIM_OF_8_BITS {
        2 * narrow
    } else {
        narrow
    };
    dim.div_ceil(width).clamp(1, max_subquantizers(bits))
}

/// Whether the model of a table of so many rows may hold a matrix of `dim`² numbers.
pub(crate) fn affords_matrix(rows: usize, dim: usize) -> bool {
    dim <= MAX_MATRIX_DIM && rows >= ROWS_PER_DIMENSION * dim
}

/// Multiplications that learning a rotation for a table of so many rows may take.
pub(crate) fn rotation_products(rows: usize, dim: usize) -> usize {
    rows.saturating_mul(dim).saturating_mul(PRODUCTS_PER_NUMBER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fewer_the_dimensions_the_finer_the_codes() {
        for (dim, four, eight) in [
            (1, 1, 1),
            (3, 3, 3),
            (4, 4, 2),
            (100, 100, 50),
            (128, 128, 64),
            (129, 65, 33),
            (200, 100, 50),
            (257, 65, 33),
            (384, 96, 48),
            (1_536, 384, 192),
            (3_072, 478, 239),
        ] {
            let both = [4, 8].map(|bits| auto_subquantizers(dim, bits));
            assert_eq!(both, [four, eight], "{dim}");
            assert_eq!(auto_bits(dim), if dim <= 3 { 8 } else { 4 }, "{dim}");
        }
    }
}
