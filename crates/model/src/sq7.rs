//! Refine codes: seven bits a dimension, kept in the index beside the short code, so that rows are ranked nearly exactly
//! without a look at the table (scalar quantization, as FAISS and others do it to eight bits).
//!
//! A code is the internal vector in steps of its own, 63 of which are not less than its largest value, and behind the values
//! the step, the upper half of an `f32` (bfloat16). It depends on the encoder alone. Scores are on the scale of
//! [`crate::QueryTables`]: `q·x`, for L2 `2 q·x − ‖x‖²`, of the vector that the code stands for.
//!
//! Why seven bits: an eighth fewer bytes fill the pages much better (24 codes of 384 dimensions a page instead of 20, 12 of
//! 768 instead of 10, 6 of 1,536 instead of 5), and no more rows have to be compared exactly for it.
//!
//! Values are packed as [`distillvq_kernels::pack7`] does it, in blocks of 64.

use crate::format::Metric;
use distillvq_kernels::{PACKED_BYTES, PACKED_VALUES, kernels, pack7, unpack7};
use distillvq_linalg::int8::{quantize, to_steps};

/// The largest value.
const MAX_CODE: f32 = 63.0;
/// Bytes behind the values.
const TAIL: usize = 2;

/// Bytes of a refine code.
pub const fn refine_bytes(dim: usize) -> usize {
    dim.div_ceil(PACKED_VALUES) * PACKED_BYTES + TAIL
}

/// The most dimensions whose refine code has no more than so many bytes.
pub const fn refine_dimensions(bytes: usize) -> usize {
    bytes.saturating_sub(TAIL) / PACKED_BYTES * PACKED_VALUES
}

/// Appends the code of an internal vector.
pub(crate) fn encode(row: &[f32], values: &mut Vec<i8>, out: &mut Vec<u8>) {
    let largest = row.iter().fold(0f32, |most, x| most.max(x.abs()));
    let step = step(largest);
    values.clear();
    values.resize(row.len(), 0);
    to_steps(row, 1.0 / f32::from_bits(u32::from(step) << 16), values);
    pack7(values, out);
    out.extend(step.to_le_bytes());
}

/// The least step of which 63 reach so far.
fn step(largest: f32) -> u16 {
    let bits = (largest / MAX_CODE).to_bits();
    let rounded_up = (bits >> 16) + u32::from(bits & 0xffff > 0);
    rounded_up as u16
}

/// Whether two codes of as many dimensions are those of the same vector: each value the same up to one, and the step up to its
/// last bit.
pub(crate) fn same_up_to_rounding(a: &[u8], b: &[u8], dim: usize) -> bool {
    let parts = |code: &[u8]| -> Option<(Vec<i8>, u16)> {
        let (packed, tail) = code.split_last_chunk()?;
        let mut values = Vec::new();
        unpack7(packed, &mut values);
        (code.len() == refine_bytes(dim)).then_some((values, u16::from_le_bytes(*tail)))
    };
    let (Some(a), Some(b)) = (parts(a), parts(b)) else {
        return false;
    };
    let near = |(a, b): (&i8, &i8)| a.abs_diff(*b) <= 1;
    a.0.iter().zip(&b.0).all(near) && a.1.abs_diff(b.1) <= 1
}

/// A query for refine codes.
#[derive(Debug, Clone)]
pub struct RefineQuery {
    /// Padded with zeros to as many as a code has.
    values: Vec<i8>,
    step: f32,
    metric: Metric,
    /// The standard deviation of the error of a score over the row's step, if roundings are random.
    error: f32,
}

impl RefineQuery {
    pub(crate) fn new(internal: &[f32], metric: Metric) -> RefineQuery {
        let mut values = vec![0; internal.len()];
        let step = quantize(internal, &mut values);
        RefineQuery::of(values, step, metric)
    }

    /// A query in steps.
    pub(crate) fn of(mut values: Vec<i8>, step: f32, metric: Metric) -> RefineQuery {
        values.resize(values.len().next_multiple_of(PACKED_VALUES), 0);
        let norm2: f32 = values.iter().map(|x| f32::from(*x).powi(2)).sum();
        let times = if metric == Metric::L2 { 2.0 } else { 1.0 };
        RefineQuery {
            error: times * step * (norm2 / 12.0).sqrt(),
            values,
            step,
            metric,
        }
    }

    /// The score of a row by its code, and the standard deviation of its error if roundings are random; 0 if the code is too
    /// short.
    pub fn score(&self, code: &[u8]) -> (f32, f32) {
        let packed = self.values.len() / PACKED_VALUES * PACKED_BYTES;
        let (packed, tail) = code.split_at_checked(packed).unwrap_or_default();
        let step = tail
            .first_chunk()
            .map_or(0, |step| u16::from_le_bytes(*step));
        let step = f32::from_bits(u32::from(step) << 16);
        let [product, square] = (kernels().dot_packed7)(&self.values, packed);
        let product = product as f32 * (self.step * step);
        let score = match self.metric {
            Metric::L2 => 2.0 * product - square as f32 * (step * step),
            Metric::InnerProduct | Metric::Cosine => product,
        };
        (score, self.error * step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use distillvq_linalg::testing::noise;

    fn code(row: &[f32]) -> Vec<u8> {
        let mut code = Vec::new();
        encode(row, &mut Vec::new(), &mut code);
        code
    }

    #[test]
    fn the_most_dimensions_of_so_many_bytes() {
        for bytes in 0..200 {
            let most = refine_dimensions(bytes);
            assert!(most == 0 || refine_bytes(most) <= bytes);
            assert!(refine_bytes(most + 1) > bytes);
        }
    }

    #[test]
    fn scores_are_near() {
        for dim in [1, 3, 31, 64, 200, 1537] {
            let (row, query) = (noise(dim, 5), noise(dim, 6));
            let norm: f32 = row.iter().map(|x| x * x).sum();
            let product: f32 = row.iter().zip(&query).map(|(x, q)| x * q).sum();
            let code = code(&row);
            assert_eq!(code.len(), refine_bytes(dim));
            for (metric, want) in [
                (Metric::Cosine, product),
                (Metric::InnerProduct, product),
                (Metric::L2, 2.0 * product - norm),
            ] {
                let got = RefineQuery::new(&query, metric).score(&code).0;
                assert!((got - want).abs() < 0.03 * (dim as f32).sqrt(), "{dim}");
            }
        }
    }

    #[test]
    fn values_of_any_size_are_near_what_they_were() {
        for size in [1e-35, 1e-30, 0.3, 1.0, 65_521.0, 1e19] {
            let row = [size, -size, 0.5 * size, 0.0];
            for (i, value) in row.iter().enumerate() {
                let mut query = [0.0; 4];
                query[i] = 1.0;
                let got = RefineQuery::new(&query, Metric::Cosine)
                    .score(&code(&row))
                    .0;
                assert!((got - value).abs() <= 0.01 * size, "{size}: {got} {value}");
            }
        }
        let zero = RefineQuery::new(&[1.0; 4], Metric::Cosine)
            .score(&code(&[0.0; 4]))
            .0;
        assert_eq!(zero, 0.0);
    }

    #[test]
    fn codes_that_are_cut_short_give_numbers() {
        let query = RefineQuery::new(&noise(20, 1), Metric::L2);
        let code = code(&noise(20, 2));
        for n in 0..code.len() {
            assert!(query.score(&code[..n]).0.is_finite());
        }
    }
}
