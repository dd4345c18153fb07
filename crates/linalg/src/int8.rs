//! Int8 vectors and matrices for the query's side: a quarter of the memory of `f32`, and products several times as fast.
//!
//! Every row and every vector has its own step, 127 of which are its largest value. A product of two vectors of `d` values
//! is then off by about `0.01·‖a‖·‖b‖/√d`: far less than the codes that it ranks lists or rows by, if `d` is not small.
//! With few dimensions codes say nearly everything and matrices are small: there both sides stay as they are.

use crate::matrix::MatRef;
use distillvq_kernels::{kernels, prefetch};

/// Minimum number of dimensions of int8 vectors; shorter ones stay `f32`.
pub const MIN_INT8_DIM: usize = 128;
/// Values that the kernels take in one go; rows are padded with zeros to whole ones.
pub const ROW_TILE: usize = 32;
/// Largest int8 value.
const INT8_MAX: f32 = 127.0;

/// A query vector, the right factor of a [`QueryMatrix`].
#[derive(Debug, Clone)]
pub enum QueryVector {
    /// Unchanged.
    F32(Vec<f32>),
    /// Int8 multiples of one step.
    Int8 {
        /// The multiples, padded with zeros.
        values: Vec<i8>,
        /// The step.
        step: f32,
    },
}

impl QueryVector {
    /// The vector in int8, or in `f32` if it is short.
    pub fn new(x: &[f32]) -> QueryVector {
        if x.len() < MIN_INT8_DIM {
            return QueryVector::F32(x.to_vec());
        }
        let mut values = vec![0; x.len().next_multiple_of(ROW_TILE)];
        let step = quantize(x, &mut values);
        QueryVector::Int8 { values, step }
    }

    /// The squared norm.
    pub fn squared_norm(&self) -> f64 {
        match self {
            QueryVector::F32(values) => values.iter().map(|x| f64::from(*x).powi(2)).sum(),
            QueryVector::Int8 { values, step } => {
                let sum: i64 = values.iter().map(|x| i64::from(*x).pow(2)).sum();
                sum as f64 * f64::from(*step).powi(2)
            }
        }
    }
}

/// A matrix of the model that queries are multiplied by.
#[derive(Debug, Clone)]
pub enum QueryMatrix {
    /// Unchanged.
    F32 {
        /// The values, row-major.
        values: Vec<f32>,
        /// Values per row.
        cols: usize,
    },
    /// Int8 multiples of a step per row.
    Int8 {
        /// The multiples, row-major; rows are padded with zeros.
        values: Vec<i8>,
        /// The step of each row.
        steps: Vec<f32>,
    },
}

impl QueryMatrix {
    /// The matrix in int8, or in `f32` if its rows are short.
    pub fn new(x: MatRef<'_>) -> QueryMatrix {
        if x.cols < MIN_INT8_DIM {
            let (values, cols) = (x.data.to_vec(), x.cols);
            return QueryMatrix::F32 { values, cols };
        }
        let stride = x.cols.next_multiple_of(ROW_TILE);
        let mut values = vec![0; x.rows() * stride];
        let rows = values.chunks_exact_mut(stride).enumerate();
        let steps = rows.map(|(i, out)| quantize(x.row(i), out)).collect();
        QueryMatrix::Int8 { values, steps }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        match self {
            QueryMatrix::F32 { values, cols } => values.len() / cols,
            QueryMatrix::Int8 { steps, .. } => steps.len(),
        }
    }

    /// Multiplies row `i` by the `i`-th factor.
    pub fn scale_rows(&mut self, factors: impl Iterator<Item = f32>) {
        match self {
            QueryMatrix::F32 { values, cols } => {
                for (row, factor) in values.chunks_exact_mut(*cols).zip(factors) {
                    row.iter_mut().for_each(|x| *x *= factor);
                }
            }
            QueryMatrix::Int8 { steps, .. } => {
                for (step, factor) in steps.iter_mut().zip(factors) {
                    *step *= factor;
                }
            }
        }
    }

    /// Bytes held.
    pub fn memory_bytes(&self) -> usize {
        match self {
            QueryMatrix::F32 { values, .. } => size_of_val(&values[..]),
            QueryMatrix::Int8 { values, steps } => values.len() + size_of_val(&steps[..]),
        }
    }

    /// Products of all rows with a vector.
    pub fn products(&self, x: &QueryVector) -> Vec<f32> {
        let mut out = vec![0f32; self.rows()];
        match (self, x) {
            (QueryMatrix::F32 { values, .. }, QueryVector::F32(x)) => {
                (kernels().dot_rows)(x, values, &mut out)
            }
            (QueryMatrix::Int8 { values, steps }, QueryVector::Int8 { values: x, step }) => {
                let mut sums = vec![0; out.len()];
                (kernels().dot_rows_i8)(x, values, &mut sums);
                for ((out, sum), own) in out.iter_mut().zip(sums).zip(steps) {
                    *out = sum as f32 * (step * own);
                }
            }
            _ => debug_assert!(false, "another number of dimensions"),
        }
        out
    }

    /// Prefetches a row whose product is computed soon.
    pub fn prefetch(&self, row: usize) {
        match self {
            QueryMatrix::F32 { values, cols } => ask_for(MatRef::new(values, *cols).row(row)),
            QueryMatrix::Int8 { values, steps } => {
                let stride = values.len() / steps.len().max(1);
                ask_for(
                    values
                        .get(row * stride..(row + 1) * stride)
                        .unwrap_or_default(),
                );
            }
        }
    }

    /// Product of one row with a vector; 0 if there is no such row.
    pub fn product(&self, row: usize, x: &QueryVector) -> f32 {
        match (self, x) {
            (QueryMatrix::F32 { values, cols }, QueryVector::F32(x)) => {
                (kernels().dot)(x, MatRef::new(values, *cols).row(row))
            }
            (QueryMatrix::Int8 { values, steps }, QueryVector::Int8 { values: x, step }) => {
                let values = values.get(row * x.len()..(row + 1) * x.len());
                let own = steps.get(row).copied().unwrap_or_default();
                let mut sum = [0];
                (kernels().dot_rows_i8)(x, values.unwrap_or_default(), &mut sum);
                sum[0] as f32 * (step * own)
            }
            _ => 0.0,
        }
    }
}

fn ask_for<T>(values: &[T]) {
    prefetch(values.as_ptr(), size_of_val(values));
}

/// Writes values in steps and returns the step, 0 if there is nothing to tell apart.
pub fn quantize(x: &[f32], out: &mut [i8]) -> f32 {
    let largest = x.iter().fold(0f32, |most, x| most.max(x.abs()));
    let per_step = INT8_MAX / largest;
    if !per_step.is_finite() {
        return 0.0;
    }
    to_steps(x, per_step, out);
    largest / INT8_MAX
}

/// Writes values in steps of which so many are 1: zeros if that is not finite.
pub fn to_steps(x: &[f32], per_step: f32, out: &mut [i8]) {
    let per_step = if per_step.is_finite() { per_step } else { 0.0 };
    for (out, x) in out.iter_mut().zip(x) {
        // Rounded away from zero by hand, which needs no call; nothing reaches −128.
        *out = (x * per_step + 0.5f32.copysign(*x)) as i8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::noise;

    #[test]
    fn products_are_near() {
        for (rows, cols) in [(1, 1), (7, 31), (9, 130), (40, 384), (3, 1537)] {
            let (matrix, vector) = (noise(rows * cols, 1), noise(cols, 77));
            let (exact, small) = (MatRef::new(&matrix, cols), QueryVector::new(&vector));
            let of = QueryMatrix::new(exact);
            let products = of.products(&small);
            assert_eq!(products.len(), rows);
            for (i, got) in products.iter().enumerate() {
                let row = exact.row(i);
                let want: f32 = row.iter().zip(&vector).map(|(x, y)| x * y).sum();
                assert!((got - want).abs() < 0.02 * (cols as f32).sqrt(), "{cols}");
                // Kernels may add floats in another order for many rows than for one.
                assert!((got - of.product(i, &small)).abs() < 1e-5 * (cols as f32).sqrt());
            }
            assert_eq!(of.product(rows, &small), 0.0);
        }
    }

    #[test]
    fn sizes_at_both_ends() {
        for size in [0.0, 1e-45, 1e-30, 1e30, 1e38] {
            for dim in [3, 200] {
                let (mut x, mut row) = (vec![0.0; dim], vec![0.0; dim]);
                x[..3].copy_from_slice(&[size, -size, 0.5 * size]);
                row[..2].copy_from_slice(&[1.0, -1.0]);
                let of = QueryMatrix::new(MatRef::new(&row, dim));
                let got = of.product(0, &QueryVector::new(&x)) / 2.0;
                assert!(got.is_finite() && (got - size).abs() <= 0.01 * size.max(1e-36));
            }
        }
    }
}
