//! A matrix of vectors, and synthetic ones for tests.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::error::{Error, Result};

/// `rows × dim` float32 values, row-major. A row's number is its id in the tables of the tests.
#[derive(Clone, Debug, PartialEq)]
pub struct Vectors {
    dim: usize,
    values: Vec<f32>,
}

impl Vectors {
    /// Wraps row-major values.
    ///
    /// # Errors
    /// If `values` does not consist of whole rows of at least one dimension.
    pub fn new(dim: usize, values: Vec<f32>) -> Result<Self> {
        if dim == 0 || !values.len().is_multiple_of(dim) {
            return Err(Error::Argument(format!(
                "{} values are not rows of {dim}",
                values.len()
            )));
        }
        Ok(Self { dim, values })
    }

    /// Points around `clusters` random centres in the unit cube, the same for the same seed: what an inverted-list
    /// index meets in practice, and cheap to make.
    #[must_use]
    pub fn clustered(rows: usize, dim: usize, clusters: usize, seed: u64) -> Self {
        let dim = dim.max(1);
        let clusters = clusters.max(1);
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let centres: Vec<f32> = (0..clusters * dim)
            .map(|_| random.random_range(-1.0..1.0))
            .collect();
        let values = (0..rows)
            .flat_map(|_| {
                let start = random.random_range(0..clusters) * dim;
                let centre = centres.get(start..start + dim).unwrap_or_default();
                centre
                    .iter()
                    .map(|c| c + random.random_range(-0.3..0.3f32))
                    .collect::<Vec<_>>()
            })
            .collect();
        Self { dim, values }
    }

    /// Number of rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.values.len() / self.dim
    }

    /// Number of dimensions.
    #[must_use]
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Row `number`; empty if there is none.
    #[must_use]
    pub fn row(&self, number: usize) -> &[f32] {
        let start = number.saturating_mul(self.dim);
        self.values.get(start..start + self.dim).unwrap_or_default()
    }

    /// The rows in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.values.chunks_exact(self.dim)
    }

    /// The rows of a range, as far as there are any.
    #[must_use]
    pub fn slice(&self, rows: std::ops::Range<usize>) -> Self {
        let end = rows.end.min(self.rows());
        let start = rows.start.min(end);
        Self {
            dim: self.dim,
            values: self
                .values
                .get(start * self.dim..end * self.dim)
                .unwrap_or_default()
                .to_vec(),
        }
    }

    /// All values, row-major.
    #[must_use]
    pub fn values(&self) -> &[f32] {
        &self.values
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_slices() {
        let vectors = Vectors::new(2, vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
        assert_eq!((vectors.rows(), vectors.dim()), (3, 2));
        assert_eq!(vectors.row(1), [3.0, 4.0]);
        assert!(vectors.row(3).is_empty());
        assert_eq!(vectors.slice(1..9).values(), [3.0, 4.0, 5.0, 6.0]);
        assert!(Vectors::new(4, vec![0.0; 6]).is_err());
    }

    #[test]
    fn a_seed_makes_the_same_points() {
        let one = Vectors::clustered(50, 8, 4, 7);
        assert_eq!(one, Vectors::clustered(50, 8, 4, 7));
        assert_ne!(one, Vectors::clustered(50, 8, 4, 8));
        assert_eq!(one.rows(), 50);
    }
}
