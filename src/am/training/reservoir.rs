//! Uniform samples of a stream of rows whose length nobody knows beforehand.

use crate::error::{Error, Result};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A reservoir of vectors (Vitter 1985, algorithm R): after any number of offers it holds a uniform sample.
pub struct VectorReservoir {
    /// Row-major elements of the rows kept.
    rows: Vec<f32>,
    dim: usize,
    capacity: usize,
    offered: usize,
    random: ChaCha8Rng,
}

impl VectorReservoir {
    /// An empty reservoir for `capacity` vectors of `dim` elements.
    pub fn new(capacity: usize, dim: usize, seed: u64) -> Self {
        Self {
            rows: Vec::new(),
            dim,
            capacity,
            offered: 0,
            random: ChaCha8Rng::seed_from_u64(seed),
        }
    }

    /// Offers a row; `fill` appends its elements to a buffer and is called only when the row is chosen. A row of another
    /// length than `dim` is an error, and so is one for which there is no memory.
    pub fn offer(&mut self, fill: impl FnOnce(&mut Vec<f32>) -> usize) -> Result<()> {
        self.offer_at(fill).map(|_| ())
    }

    /// As [`VectorReservoir::offer`]. Returns the place that the row has got among those kept, if it was chosen.
    pub fn offer_at(&mut self, fill: impl FnOnce(&mut Vec<f32>) -> usize) -> Result<Option<usize>> {
        let place = self.random.random_range(0..=self.offered);
        self.offered += 1;
        if self.len() < self.capacity {
            Error::reserve(&mut self.rows, self.dim, "the sample of rows")?;
            let place = self.len();
            let dim = fill(&mut self.rows);
            self.check(dim)?;
            return Ok(Some(place));
        }
        if place >= self.capacity {
            return Ok(None);
        }
        let mut row = Vec::with_capacity(self.dim);
        let dim = fill(&mut row);
        self.check(dim)?;
        self.rows[place * self.dim..][..self.dim].copy_from_slice(&row);
        Ok(Some(place))
    }

    fn check(&self, found: usize) -> Result<()> {
        if found == self.dim {
            Ok(())
        } else {
            Err(Error::Dimensions {
                expected: self.dim,
                found,
            })
        }
    }

    /// Rows kept.
    pub fn len(&self) -> usize {
        self.rows.len() / self.dim
    }

    /// Rows offered.
    pub fn offered(&self) -> usize {
        self.offered
    }

    /// The elements of the rows kept, row-major.
    pub fn into_rows(self) -> Vec<f32> {
        self.rows
    }
}
