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

use crate::linalg::MatRef;
use crate::orthogonal::rotate_few;
use crate::progress::with_interrupts;
use crate::{Metric, Monitor, TrainError};
use serde::{Deserialize, Serialize};

/// Norms between these need no other unit.
const USUAL_NORMS: std::ops::Range<f64> = 1e-6..1e6;
/// Maximum ratio of a row's norm to the median; longer rows go to the exact list.
const OUTLIER_RATIO: f64 = 1e3;
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
    /// Learns centre and unit from the rows of the sample; rows that are not finite are passed over.
    pub fn fit(
        metric: Metric,
        dim: usize,
        sample: &[f32],
        monitor: &dyn Monitor,
    ) -> Result<Preprocess, TrainError> {
        let mut space = Preprocess {
            metric,
            dim,
            center: Vec::new(),
            scale_factor: 1.0,
            max_norm: f32::MAX.sqrt(),
            rotation: Vec::new(),
        };
        if metric == Metric::Cosine {
            return Ok(space);
        }
        let rows = || sample.chunks_exact(dim.max(1));
        let lengths: Vec<f64> =
            with_interrupts(rows().map(norm), monitor).collect::<Result<_, _>>()?;
        let longest = outlier_limit(&lengths);
        let usual = || {
            let rows = rows().zip(&lengths);
            rows.filter(|(_, length)| **length <= longest)
                .map(|(row, _)| row)
        };
        if metric == Metric::L2 {
            space.center = mean(dim, with_interrupts(usual(), monitor))?;
        }
        let length = |row| space.centered(row).map(|x| x * x).sum::<f64>().sqrt();
        let internal: Vec<f64> =
            with_interrupts(usual().map(length), monitor).collect::<Result<_, _>>()?;
        space.scale_factor = scale_factor(&internal);
        // Centring can at most double a length; another quarter for rounding.
        let longest = 2.25 * longest * f64::from(space.scale_factor);
        space.max_norm = (longest as f32).clamp(f32::MIN_POSITIVE, f32::MAX.sqrt());
        Ok(space)
    }

    /// The raw values minus the centre, in double precision.
    fn centered<'a>(&'a self, raw: &'a [f32]) -> impl Iterator<Item = f64> + 'a {
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

    /// Writes the internal vector of a query to `out`. Values that are not finite count as 0.
    pub fn query(&self, raw: &[f32], out: &mut [f32]) {
        let raw: Vec<f32> = raw
            .iter()
            .map(|x| if x.is_finite() { *x } else { 0.0 })
            .collect();
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

/// Length in double precision, which no `f32` vector overflows.
fn norm(x: &[f32]) -> f64 {
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

/// Length above which a row is an outlier: far above the median, and never more than one row in a hundred.
fn outlier_limit(lengths: &[f64]) -> f64 {
    (OUTLIER_RATIO * quantile(lengths, 0.5)).max(4.0 * quantile(lengths, 0.99))
}

/// The power of two that brings these lengths to usual sizes.
fn scale_factor(lengths: &[f64]) -> f32 {
    let typical = [0.5, 0.99, 1.0]
        .map(|at| quantile(lengths, at))
        .into_iter()
        .find(|length| *length > 0.0);
    match typical {
        Some(length) if !USUAL_NORMS.contains(&length) => 2f64
            .powi((-length.log2().round()) as i32)
            .clamp(1e-37, 1e37) as f32,
        _ => 1.0,
    }
}

/// The value below which a share `at` of the finite values lies; 0 if there are none.
fn quantile(values: &[f64], at: f64) -> f64 {
    let mut finite: Vec<f64> = values.iter().copied().filter(|x| x.is_finite()).collect();
    if finite.is_empty() {
        return 0.0;
    }
    let rank = ((finite.len() - 1) as f64 * at) as usize;
    *finite.select_nth_unstable_by(rank, f64::total_cmp).1
}

fn mean<'a, E>(
    dim: usize,
    rows: impl Iterator<Item = Result<&'a [f32], E>>,
) -> Result<Vec<f32>, E> {
    let mut sums = vec![0f64; dim];
    let mut count = 0f64;
    for row in rows {
        count += 1.0;
        for (sum, x) in sums.iter_mut().zip(row?) {
            *sum += f64::from(*x);
        }
    }
    Ok(sums
        .into_iter()
        .map(|sum| (sum / count.max(1.0)) as f32)
        .collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::NoMonitor;

    #[test]
    fn sizes_at_both_ends_become_usual() {
        for size in [1e-40f32, 1e-30, 1e-5, 1.0, 1e5, 1e30, 2e38] {
            let sample: Vec<f32> = (0..300)
                .map(|i| size * ((i * 7919 % 100) as f32 / 100.0 - 0.3))
                .collect();
            for metric in [Metric::L2, Metric::InnerProduct, Metric::Cosine] {
                let space = Preprocess::fit(metric, 3, &sample, &NoMonitor).unwrap();
                let mut out = [0.0; 3];
                assert_eq!(
                    space.row(&sample[..3], &mut out),
                    RowClass::Encodable,
                    "{metric} {size}"
                );
                let length = norm(&out);
                assert!((1e-7..1e7).contains(&length), "{metric} {size}: {length}");
                space.query(&sample[3..6], &mut out);
                assert!(out.iter().all(|x| x.is_finite()));
            }
        }
    }

    #[test]
    fn what_cannot_be_represented_is_told_apart() {
        let sample = [1.0, 0.0, 0.0, 1.0, 1.0, 1.0];
        let mut out = [9.0; 2];
        for metric in [Metric::L2, Metric::InnerProduct, Metric::Cosine] {
            let space = Preprocess::fit(metric, 2, &sample, &NoMonitor).unwrap();
            assert_eq!(space.row(&[f32::NAN, 1.0], &mut out), RowClass::Unencodable);
            assert_eq!(out, [0.0; 2]);
            let zero = [
                (Metric::L2, RowClass::Encodable),
                (Metric::InnerProduct, RowClass::Unencodable),
                (Metric::Cosine, RowClass::Unindexed),
            ];
            for (_, kind) in zero.iter().filter(|(m, _)| *m == metric) {
                assert_eq!(space.row(&[0.0, 0.0], &mut out), *kind);
            }
            let huge = if metric == Metric::Cosine {
                RowClass::Encodable
            } else {
                RowClass::Unencodable
            };
            assert_eq!(space.row(&[3e38, 3e38], &mut out), huge);
            space.query(&[f32::INFINITY, 3e38], &mut out);
            assert!(out.iter().all(|x| x.is_finite()));
            space.query(&[0.0, 0.0], &mut out);
            assert!(out.iter().all(|x| x.is_finite()));
        }
    }

    #[test]
    fn outliers_do_not_move_the_center() {
        let mut sample = vec![1.0f32; 2000];
        sample[..2].copy_from_slice(&[1e30, -1e30]);
        let space = Preprocess::fit(Metric::L2, 2, &sample, &NoMonitor).unwrap();
        assert_eq!(space.center, [1.0, 1.0]);
    }
}
