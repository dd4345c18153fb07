//! Invariants of a model's parameters, checked before a model is made of them: shapes fit each other, every number is
//! finite, `1 ≤ lists ≤ MAX_LISTS`, `1 ≤ dim ≤ MAX_DIM`, `1 ≤ subquantizers ≤ max_subquantizers(bits)`, and tables are
//! so small that no query's score overflows.

use crate::error::ModelError;
use crate::format::{MAX_DIM, MAX_LISTS, Metric, max_subquantizers};
use crate::norm_correction::NormCorrection;
use crate::params::{Encoder, IvfPqTables, ModelData, Routing, Student};
use crate::preprocess::MAX_QUERY_NORM;

/// Largest score that a model may give; what rounding adds still fits an `f32`.
const LARGEST_SCORE: f64 = f32::MAX as f64 / 4.0;

fn ensure(holds: bool, what: &str) -> Result<(), ModelError> {
    if holds {
        Ok(())
    } else {
        Err(ModelError::Invalid {
            what: what.to_owned(),
        })
    }
}

impl ModelData {
    /// Whether all invariants hold.
    pub fn check(&self) -> Result<(), ModelError> {
        self.encoder.check()?;
        self.student.check(&self.encoder)?;
        let whole = self.held_out.len().is_multiple_of(self.encoder.space.dim);
        let fits = whole && all_finite(&self.held_out);
        ensure(fits, "held-out queries of the wrong shape, or not finite")
    }
}

impl Encoder {
    fn check(&self) -> Result<(), ModelError> {
        let space = &self.space;
        let dims = (1..=MAX_DIM).contains(&space.dim);
        ensure(dims, "dimensions out of range")?;
        ensure((1..=MAX_LISTS).contains(&self.lists), "lists out of range")?;
        ensure(self.bits == 4 || self.bits == 8, "bits are neither 4 nor 8")?;
        let m = self.tables.books.subquantizers;
        ensure(
            (1..=max_subquantizers(self.bits)).contains(&m),
            "subquantizers out of range",
        )?;
        let centered = space.metric == Metric::L2;
        let center = if centered { space.dim } else { 0 };
        ensure(space.center.len() == center, "center of the wrong length")?;
        ensure(all_finite(&space.center), "center not finite")?;
        let scale_factor = space.scale_factor.is_normal() && space.scale_factor > 0.0;
        ensure(scale_factor, "scale factor out of range")?;
        let longest = space.max_norm > 0.0 && space.max_norm <= f32::MAX.sqrt();
        ensure(longest, "limit out of range")?;
        let square = space.dim * space.dim;
        let rotation = [0, square].contains(&space.rotation.len());
        ensure(rotation, "rotation of the wrong shape")?;
        ensure(
            // An orthogonal matrix has the length √dim.
            space.rotation.is_empty()
                || frobenius_norm(&space.rotation) <= 1.01 * (space.dim as f64).sqrt(),
            "rotation too large, or not finite",
        )?;
        let NormCorrection { lo, step } = self.scale;
        ensure(
            lo.is_finite() && lo > 0.0 && step.is_finite() && step >= 0.0,
            "scale out of range",
        )?;
        self.check_tables(&self.tables, 1.0)
    }

    /// Whether tables fit this encoder and give finite scores for queries that are stretched at most so many times.
    fn check_tables(&self, tables: &IvfPqTables, stretch: f64) -> Result<(), ModelError> {
        ensure(self.fits(tables), "tables of the wrong shape")?;
        let rotated = frobenius_norm(&self.space.rotation).max(1.0);
        ensure(
            rotated * stretch.max(1.0) * self.score_bound(tables) <= LARGEST_SCORE,
            "tables too large, or not finite",
        )
    }

    /// Products cannot overflow: dimensions, lists, subquantizers and bits have been found to be small.
    fn fits(&self, tables: &IvfPqTables) -> bool {
        let (books, own) = (&tables.books, &self.tables.books);
        tables.centroids.len() == self.lists * self.space.dim
            && books.dim == self.space.dim
            && books.subquantizers == own.subquantizers
            && books.codewords == 1 << self.bits
            && books.width == self.space.dim.div_ceil(books.subquantizers)
            && books.values.len() == books.padded() * books.codewords
    }

    /// Upper bound of the scores of all queries, and of every sum on the way to them. Infinite or NaN if a value is.
    fn score_bound(&self, tables: &IvfPqTables) -> f64 {
        let books = &tables.books;
        let words = books.values.chunks_exact(books.stride().max(1));
        let words = words.map(|book| longest(book, books.width).powi(2));
        let base = longest(&tables.centroids, self.space.dim);
        let correction = f64::from(self.scale.lo) + 255.0 * f64::from(self.scale.step);
        // The minima of a look-up table, the steps above them, and the rounding of up to 478 steps: less than 8 times.
        let product = MAX_QUERY_NORM * (base + 8.0 * words.sum::<f64>().sqrt());
        // For L2 twice the corrected product.
        product * (2.0 * correction).max(1.0)
    }
}

impl Student {
    /// Whether it fits the encoder.
    fn check(&self, encoder: &Encoder) -> Result<(), ModelError> {
        if let Some(decoder) = &self.decoder {
            let square = encoder.space.dim * encoder.space.dim;
            let query_transform = [0, square].contains(&decoder.query_transform.len());
            let fits = query_transform && all_finite(&decoder.query_transform);
            ensure(fits, "query transform of the wrong shape, or not finite")?;
            let stretch = match decoder.query_transform.is_empty() {
                true => 1.0,
                false => frobenius_norm(&decoder.query_transform),
            };
            encoder.check_tables(&decoder.tables, stretch)?;
        }
        if let Some(Routing { vectors, biases }) = &self.routing {
            let dim = encoder.space.dim;
            let fits = vectors.len() == encoder.lists * dim && biases.len() == encoder.lists;
            ensure(fits, "routing of the wrong shape")?;
            let query = MAX_QUERY_NORM * frobenius_norm(&encoder.space.rotation).max(1.0);
            let largest = query * longest(vectors, dim) + longest(biases, 1);
            ensure(largest <= LARGEST_SCORE, "routing too large, or not finite")?;
        }
        let recalls = [self.report.recall_before, self.report.recall_after];
        ensure(
            recalls.iter().all(|x| (0.0..=1.0).contains(x)),
            "report out of range",
        )
    }
}

/// Frobenius norm: an upper bound of the matrix's operator norm.
fn frobenius_norm(values: &[f32]) -> f64 {
    values
        .iter()
        .map(|x| f64::from(*x).powi(2))
        .sum::<f64>()
        .sqrt()
}

fn all_finite(values: &[f32]) -> bool {
    values.iter().all(|x| x.is_finite())
}

/// Length of the longest vector; NaN if there is a NaN.
fn longest(vectors: &[f32], dim: usize) -> f64 {
    let squares = vectors
        .chunks_exact(dim.max(1))
        .map(|v| v.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>());
    let largest = |a: f64, b| if a >= b || a.is_nan() { a } else { b };
    squares.fold(0.0, largest).sqrt()
}
