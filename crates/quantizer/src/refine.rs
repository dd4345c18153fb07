//! Refine codes: a byte a dimension, kept in the index beside the short code, so that rows are ranked nearly exactly without a
//! look at the table (SQ8, as FAISS and others name scalar quantization to eight bits).
//!
//! A code is the internal vector in steps of its own, 127 of which are its largest value, then the step and the row's squared
//! norm (0 unless the metric is L2), both little-endian `f32`. It depends on the encoder alone. Scores are on the scale of
//! [`crate::QueryTables`]: `q·x`, for L2 `2 q·x − ‖x‖²`.

use crate::Metric;
use crate::compact::quantize;
use distillvq_kernels::{kernels, signed};

/// Bytes behind the values.
const TAIL: usize = 8;

/// Bytes of a refine code.
pub fn refine_bytes(dim: usize) -> usize {
    dim + TAIL
}

/// Appends the code of an internal vector.
pub(crate) fn encode(row: &[f32], norm: f32, values: &mut Vec<i8>, out: &mut Vec<u8>) {
    values.clear();
    values.resize(row.len(), 0);
    let step = quantize(row, values);
    out.extend(values.iter().map(|value| value.cast_unsigned()));
    out.extend(step.to_le_bytes());
    out.extend(norm.to_le_bytes());
}

/// A query for refine codes.
#[derive(Debug, Clone)]
pub struct RefineQuery {
    values: Vec<i8>,
    step: f32,
    metric: Metric,
}

impl RefineQuery {
    pub(crate) fn new(internal: &[f32], metric: Metric) -> RefineQuery {
        let mut values = vec![0; internal.len()];
        let step = quantize(internal, &mut values);
        RefineQuery::of(values, step, metric)
    }

    /// A query in steps.
    pub(crate) fn of(values: Vec<i8>, step: f32, metric: Metric) -> RefineQuery {
        RefineQuery {
            values,
            step,
            metric,
        }
    }

    /// The score of a row by its code. What a code that is too short lacks counts as 0.
    pub fn score(&self, code: &[u8]) -> f32 {
        let (values, tail) = code.split_at_checked(self.values.len()).unwrap_or_default();
        let number = |at: usize| {
            let bytes = tail.get(at..).and_then(|rest| rest.first_chunk());
            bytes.map_or(0.0, |bytes| f32::from_le_bytes(*bytes))
        };
        let mut sum = [0];
        (kernels().dots8)(&self.values, signed(values), &mut sum);
        let product = sum[0] as f32 * (self.step * number(0));
        match self.metric {
            Metric::L2 => 2.0 * product - number(4),
            Metric::InnerProduct | Metric::Cosine => product,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::noise;

    #[test]
    fn scores_are_near() {
        for dim in [1, 3, 31, 64, 200, 1537] {
            let (row, query) = (noise(dim, 5), noise(dim, 6));
            let norm: f32 = row.iter().map(|x| x * x).sum();
            let product: f32 = row.iter().zip(&query).map(|(x, q)| x * q).sum();
            let mut code = Vec::new();
            encode(&row, norm, &mut Vec::new(), &mut code);
            assert_eq!(code.len(), refine_bytes(dim));
            for (metric, want) in [
                (Metric::Cosine, product),
                (Metric::InnerProduct, product),
                (Metric::L2, 2.0 * product - norm),
            ] {
                let got = RefineQuery::new(&query, metric).score(&code);
                assert!((got - want).abs() < 0.02 * (dim as f32).sqrt(), "{dim}");
            }
        }
    }

    #[test]
    fn codes_that_are_cut_short_give_numbers() {
        let query = RefineQuery::new(&noise(20, 1), Metric::L2);
        let mut code = Vec::new();
        encode(&noise(20, 2), 1.0, &mut Vec::new(), &mut code);
        for n in 0..code.len() {
            assert!(query.score(&code[..n]).is_finite());
        }
    }
}
