//! The internal space: what becomes of a raw vector before anything is learned or scored.
//!
//! | metric | internal vector of a row or query |
//! |---|---|
//! | L2 | `(x − center)·unit` |
//! | inner product | `x·unit` |
//! | cosine | `x/‖x‖` |
//!
//! `center` is the mean of the sample. `unit` is 1 for data of any usual size, else the power of two that brings the
//! sample near norm 1, so that squares neither overflow nor vanish. A rotation, if there is one, is applied last.

use crate::linalg::MatRef;
use crate::rotation::rotate_few;
use crate::train::watched;
use crate::{Metric, Monitor, TrainError};
use serde::{Deserialize, Serialize};

/// Norms between these need no other unit.
const USUAL_NORMS: std::ops::Range<f64> = 1e-6..1e6;
/// Rows this many times longer than the median row are left to the exact list.
const OUTLIER: f64 = 1e3;
/// Queries longer than this are shortened: it changes no order that `f32` could resolve.
pub const LONGEST_QUERY: f64 = 1e15;

/// What a row is to the quantizer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It can be encoded.
    Usable,
    /// It belongs into the exact list.
    Exact,
    /// It has no place under this metric.
    Unindexed,
}

/// The map into the internal space.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Space {
    /// The metric.
    pub metric: Metric,
    /// Dimensions.
    pub dim: usize,
    /// Subtracted from rows and queries; empty unless the metric is L2.
    pub center: Vec<f32>,
    /// A power of two.
    pub unit: f32,
    /// Internal rows longer than this are [`Kind::Exact`].
    pub longest: f32,
    /// `dim`×`dim`, an orthogonal matrix up to the rounding of its numbers; empty if there is none.
    #[serde(with = "crate::halves")]
    pub rotation: Vec<f32>,
}

impl Space {
    /// Learns centre and unit from the rows of the sample; rows that are not finite are passed over.
    pub fn fit(
        metric: Metric,
        dim: usize,
        sample: &[f32],
        monitor: &dyn Monitor,
    ) -> Result<Space, TrainError> {
        let mut space = Space {
            metric,
            dim,
            center: Vec::new(),
            unit: 1.0,
            longest: f32::MAX.sqrt(),
            rotation: Vec::new(),
        };
        if metric == Metric::Cosine {
            return Ok(space);
        }
        let rows = || sample.chunks_exact(dim.max(1));
        let lengths: Vec<f64> = watched(rows().map(norm), monitor).collect::<Result<_, _>>()?;
        let longest = outlier_limit(&lengths);
        let usual = || {
            let rows = rows().zip(&lengths);
            rows.filter(|(_, length)| **length <= longest)
                .map(|(row, _)| row)
        };
        if metric == Metric::L2 {
            space.center = mean(dim, watched(usual(), monitor))?;
        }
        let length = |row| space.centered(row).map(|x| x * x).sum::<f64>().sqrt();
        let internal: Vec<f64> = watched(usual().map(length), monitor).collect::<Result<_, _>>()?;
        space.unit = unit(&internal);
        // Centring can at most double a length; another quarter for rounding.
        let longest = 2.25 * longest * f64::from(space.unit);
        space.longest = (longest as f32).clamp(f32::MIN_POSITIVE, f32::MAX.sqrt());
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
    pub fn rows(&self, raw: MatRef<'_>, out: &mut [f32]) -> Vec<Kind> {
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
    fn row(&self, raw: &[f32], out: &mut [f32]) -> Kind {
        let kind = self.write_row(raw, out);
        if kind != Kind::Usable {
            out.fill(0.0);
        }
        kind
    }

    fn write_row(&self, raw: &[f32], out: &mut [f32]) -> Kind {
        let length = norm(raw);
        if !length.is_finite() {
            return Kind::Exact;
        }
        match self.metric {
            Metric::Cosine if length == 0.0 => return Kind::Unindexed,
            Metric::InnerProduct if length == 0.0 => return Kind::Exact,
            Metric::Cosine => scale(raw, 1.0 / length, out),
            Metric::InnerProduct | Metric::L2 => {
                for (o, x) in out.iter_mut().zip(self.centered(raw)) {
                    *o = (x * f64::from(self.unit)) as f32;
                }
            }
        }
        if norm(out) <= f64::from(self.longest) {
            Kind::Usable
        } else {
            Kind::Exact
        }
    }

    /// Writes the internal vector of a query to `out`. Values that are not finite count as 0.
    pub fn query(&self, raw: &[f32], out: &mut [f32]) {
        let raw: Vec<f32> = raw
            .iter()
            .map(|x| if x.is_finite() { *x } else { 0.0 })
            .collect();
        let unit = match self.metric {
            Metric::Cosine => 1.0 / norm(&raw),
            Metric::InnerProduct | Metric::L2 => f64::from(self.unit),
        };
        let length = self.centered(&raw).map(|x| x * x).sum::<f64>().sqrt() * unit;
        let shorter = (LONGEST_QUERY / length).min(1.0);
        for (o, x) in out.iter_mut().zip(self.centered(&raw)) {
            let x = x * unit * shorter;
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
    (OUTLIER * quantile(lengths, 0.5)).max(4.0 * quantile(lengths, 0.99))
}

/// The power of two that brings these lengths to usual sizes.
fn unit(lengths: &[f64]) -> f32 {
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
    use crate::Quiet;

    #[test]
    fn sizes_at_both_ends_become_usual() {
        for size in [1e-40f32, 1e-30, 1e-5, 1.0, 1e5, 1e30, 2e38] {
            let sample: Vec<f32> = (0..300)
                .map(|i| size * ((i * 7919 % 100) as f32 / 100.0 - 0.3))
                .collect();
            for metric in [Metric::L2, Metric::InnerProduct, Metric::Cosine] {
                let space = Space::fit(metric, 3, &sample, &Quiet).unwrap();
                let mut out = [0.0; 3];
                assert_eq!(
                    space.row(&sample[..3], &mut out),
                    Kind::Usable,
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
            let space = Space::fit(metric, 2, &sample, &Quiet).unwrap();
            assert_eq!(space.row(&[f32::NAN, 1.0], &mut out), Kind::Exact);
            assert_eq!(out, [0.0; 2]);
            let zero = [
                (Metric::L2, Kind::Usable),
                (Metric::InnerProduct, Kind::Exact),
                (Metric::Cosine, Kind::Unindexed),
            ];
            for (_, kind) in zero.iter().filter(|(m, _)| *m == metric) {
                assert_eq!(space.row(&[0.0, 0.0], &mut out), *kind);
            }
            let huge = if metric == Metric::Cosine {
                Kind::Usable
            } else {
                Kind::Exact
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
        let space = Space::fit(Metric::L2, 2, &sample, &Quiet).unwrap();
        assert_eq!(space.center, [1.0, 1.0]);
    }
}
