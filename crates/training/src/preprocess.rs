//! Fits the preprocessing of rows and queries to a sample.

use crate::error::TrainError;
use crate::progress::{Monitor, with_interrupts};
use distillvq_model::format::Metric;
use distillvq_model::preprocess::{Preprocess, norm};

/// Norms between these need no other unit.
const USUAL_NORMS: std::ops::Range<f64> = 1e-6..1e6;
/// Maximum ratio of a row's norm to the median; longer rows go to the exact list.
const OUTLIER_RATIO: f64 = 1e3;

/// Fits center and scale factor to the rows of the sample; rows that are not finite are skipped.
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
    let norms: Vec<f64> = with_interrupts(rows().map(norm), monitor).collect::<Result<_, _>>()?;
    let longest = outlier_limit(&norms);
    let usual = || {
        let rows = rows().zip(&norms);
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
    // Centering can at most double a length; another quarter for rounding.
    let longest = 2.25 * longest * f64::from(space.scale_factor);
    space.max_norm = (longest as f32).clamp(f32::MIN_POSITIVE, f32::MAX.sqrt());
    Ok(space)
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
    use crate::progress::NoMonitor;
    use distillvq_linalg::matrix::MatRef;
    use distillvq_model::preprocess::RowClass;

    fn class(space: &Preprocess, row: &[f32], out: &mut [f32]) -> RowClass {
        space.rows(MatRef::new(row, space.dim), out)[0]
    }

    #[test]
    fn sizes_at_both_ends_become_usual() {
        for size in [1e-40f32, 1e-30, 1e-5, 1.0, 1e5, 1e30, 2e38] {
            let sample: Vec<f32> = (0..300)
                .map(|i| size * ((i * 7919 % 100) as f32 / 100.0 - 0.3))
                .collect();
            for metric in [Metric::L2, Metric::InnerProduct, Metric::Cosine] {
                let space = fit(metric, 3, &sample, &NoMonitor).unwrap();
                let mut out = [0.0; 3];
                assert_eq!(
                    class(&space, &sample[..3], &mut out),
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
            let space = fit(metric, 2, &sample, &NoMonitor).unwrap();
            assert_eq!(
                class(&space, &[f32::NAN, 1.0], &mut out),
                RowClass::Unencodable
            );
            assert_eq!(out, [0.0; 2]);
            let zero = [
                (Metric::L2, RowClass::Encodable),
                (Metric::InnerProduct, RowClass::Unencodable),
                (Metric::Cosine, RowClass::Unindexed),
            ];
            for (_, kind) in zero.iter().filter(|(m, _)| *m == metric) {
                assert_eq!(class(&space, &[0.0, 0.0], &mut out), *kind);
            }
            let huge = if metric == Metric::Cosine {
                RowClass::Encodable
            } else {
                RowClass::Unencodable
            };
            assert_eq!(class(&space, &[3e38, 3e38], &mut out), huge);
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
        let space = fit(Metric::L2, 2, &sample, &NoMonitor).unwrap();
        assert_eq!(space.center, [1.0, 1.0]);
    }
}
