//! Preprocessing of raw vectors into internal ones, as a FAISS `VectorTransform`: centering, scaling, rotation.
//!
//! | metric | internal vector of a row or query |
//! |---|---|
//! | L2 | `(x − center)·scale_factor` |
//! | inner product | `x·scale_factor` |
//! | cosine | `x/‖x‖` |
//!
//! `center` is the mean of the sample. `scale_factor` is 1 for data of any usual size, else the power of two that brings the
//! sample near norm 1, so that squares neither overflow nor vanish. A rotation, if there is one, is applied last.

use crate::format::Metric;
use distillvq_linalg::matrix::MatRef;
use distillvq_linalg::orthogonal::rotate_few;
use serde::{Deserialize, Serialize};

/// Maximum norm of a query; longer ones are shortened: it changes no order that `f32` could resolve.
pub const MAX_QUERY_NORM: f64 = 1e15;

/// Whether a row can be encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowClass {
    /// It can be encoded.
    Encodable,
    /// It belongs into the exact list.
    Unencodable,
    /// It has no place under this metric.
    Unindexed,
}

/// The transform of raw vectors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Preprocess {
    /// The metric.
    pub metric: Metric,
    /// Dimensions.
    pub dim: usize,
    /// Subtracted from rows and queries; empty unless the metric is L2.
    pub center: Vec<f32>,
    /// A power of two.
    pub scale_factor: f32,
    /// Internal rows longer than this are [`RowClass::Unencodable`].
    pub max_norm: f32,
    /// `dim`×`dim`, an orthogonal matrix up to the rounding of its numbers; empty if there is none.
    #[serde(with = "crate::bf16")]
    pub rotation: Vec<f32>,
}

impl Preprocess {
    /// The raw values minus the center, in double precision.
    pub fn centered<'a>(&'a self, raw: &'a [f32]) -> impl Iterator<Item = f64> + 'a {
        let center = self.center.iter().copied().chain(std::iter::repeat(0.0));
        raw.iter()
            .zip(center)
            .map(|(x, c)| f64::from(*x) - f64::from(c))
    }

    /// Writes the internal vectors of raw rows to `out`, row-major, and says what each row is; a row that is not usable is
    /// zeros.
    pub fn rows(&self, raw: MatRef<'_>, out: &mut [f32]) -> Vec<RowClass> {
        let rows = out.chunks_exact_mut(self.dim.max(1)).enumerate();
        let kinds = rows.map(|(i, out)| self.row(raw.row(i), out)).collect();
        self.rotate(out);
        kinds
    }

    /// Rotates a few vectors in place.
    fn rotate(&self, vectors: &mut [f32]) {
        if !self.rotation.is_empty() {
            rotate_few(&self.rotation, vectors, self.dim);
        }
    }

    /// The internal vector of a row before the rotation; zeros unless the row is usable.
    fn row(&self, raw: &[f32], out: &mut [f32]) -> RowClass {
        let kind = self.write_row(raw, out);
        if kind != RowClass::Encodable {
            out.fill(0.0);
        }
        kind
    }

    fn write_row(&self, raw: &[f32], out: &mut [f32]) -> RowClass {
        let length = norm(raw);
        if !length.is_finite() {
            return RowClass::Unencodable;
        }
        match self.metric {
            Metric::Cosine if length == 0.0 => return RowClass::Unindexed,
            Metric::InnerProduct if length == 0.0 => return RowClass::Unencodable,
            Metric::Cosine => scale(raw, 1.0 / length, out),
            Metric::InnerProduct | Metric::L2 => {
                for (o, x) in out.iter_mut().zip(self.centered(raw)) {
                    *o = (x * f64::from(self.scale_factor)) as f32;
                }
            }
        }
        if norm(out) <= f64::from(self.max_norm) {
            RowClass::Encodable
        } else {
            RowClass::Unencodable
        }
    }

    /// Writes the internal vector of a query to `out`. Values that are missing or not finite count as 0.
    pub fn query(&self, raw: &[f32], out: &mut [f32]) {
        let mut raw: Vec<f32> = raw
            .iter()
            .map(|x| if x.is_finite() { *x } else { 0.0 })
            .collect();
        raw.resize(self.dim, 0.0);
        let scale_factor = match self.metric {
            Metric::Cosine => 1.0 / norm(&raw),
            Metric::InnerProduct | Metric::L2 => f64::from(self.scale_factor),
        };
        let length = self.centered(&raw).map(|x| x * x).sum::<f64>().sqrt() * scale_factor;
        let shorter = (MAX_QUERY_NORM / length).min(1.0);
        for (o, x) in out.iter_mut().zip(self.centered(&raw)) {
            let x = x * scale_factor * shorter;
            *o = if x.is_finite() { x as f32 } else { 0.0 };
        }
        self.rotate(out);
    }
}

/// Norm in double precision, which no `f32` vector overflows.
pub fn norm(x: &[f32]) -> f64 {
    let mut sums = [0f64; 4];
    let (fours, rest) = x.as_chunks::<4>();
    for four in fours {
        for (sum, x) in sums.iter_mut().zip(four) {
            *sum += f64::from(*x) * f64::from(*x);
        }
    }
    let rest: f64 = rest.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
    (sums.iter().sum::<f64>() + rest).sqrt()
}

fn scale(raw: &[f32], by: f64, out: &mut [f32]) {
    for (o, x) in out.iter_mut().zip(raw) {
        *o = (f64::from(*x) * by) as f32;
    }
}
