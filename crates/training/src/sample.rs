//! The rows and queries of a sample that training can use.

use crate::error::TrainError;
use crate::progress::{Monitor, check_interrupts, with_interrupts};
use distillvq_linalg::matrix::{MatRef, ROWS, squared_norm};
use distillvq_linalg::parallel;
use distillvq_model::format::{MAX_DIM, MIN_TRAIN_ROWS, Metric};
use distillvq_model::preprocess::{Preprocess, RowClass};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// Whether there are enough of the `given` rows.
pub fn check_count(given: usize, usable: MatRef<'_>) -> Result<(), TrainError> {
    if usable.rows() < MIN_TRAIN_ROWS {
        return Err(TrainError::TooFewRows {
            given,
            usable: usable.rows(),
            needed: MIN_TRAIN_ROWS,
        });
    }
    Ok(())
}

/// Squared norms of the rows, which only L2 needs.
pub fn row_norms(metric: Metric, x: MatRef<'_>) -> Option<Vec<f32>> {
    (metric == Metric::L2).then(|| (0..x.rows()).map(|i| squared_norm(x.row(i))).collect())
}

/// Whether sample and queries are whole rows of an allowed dimension.
pub fn check_shapes(sample: &[f32], dim: usize, queries: Option<&[f32]>) -> Result<(), TrainError> {
    if dim == 0 || dim > MAX_DIM {
        return Err(TrainError::Dimension { dim, max: MAX_DIM });
    }
    for (what, values) in [("rows", sample), ("queries", queries.unwrap_or_default())] {
        if !values.len().is_multiple_of(dim) {
            return Err(TrainError::Ragged {
                what,
                len: values.len(),
                dim,
            });
        }
    }
    Ok(())
}

/// Turns raw rows into the internal vectors of those that can be learned from, as far as they are `wanted` (by number).
pub fn usable_rows(
    space: &Preprocess,
    mut rows: Vec<f32>,
    wanted: impl Fn(usize) -> bool,
    monitor: &dyn Monitor,
) -> Result<Vec<f32>, TrainError> {
    let dim = space.dim;
    let mut kinds = vec![RowClass::Unencodable; rows.len() / dim];
    let pieces = rows.chunks_mut(dim * ROWS).zip(kinds.chunks_mut(ROWS));
    parallel::each_mut(&mut pieces.collect::<Vec<_>>(), |_, (rows, kinds)| {
        check_interrupts(monitor)?;
        let raw = rows.to_vec();
        kinds.copy_from_slice(&space.rows(MatRef::new(&raw, dim), rows));
        Ok(())
    })?;
    let mut kept = 0;
    for (i, _) in kinds
        .iter()
        .enumerate()
        .filter(|(i, kind)| **kind == RowClass::Encodable && wanted(*i))
    {
        rows.copy_within(i * dim..(i + 1) * dim, kept * dim);
        kept += 1;
    }
    rows.truncate(kept * dim);
    Ok(rows)
}

/// Turns raw queries into the internal vectors of those that can be learned from.
pub fn usable_queries(
    space: &Preprocess,
    mut queries: Vec<f32>,
    monitor: &dyn Monitor,
) -> Result<Vec<f32>, TrainError> {
    let dim = space.dim;
    let mut vector = vec![0f32; dim];
    let mut kept = 0;
    for i in with_interrupts(0..queries.len() / dim, monitor) {
        let raw = i? * dim;
        let raw = raw..raw + dim;
        let finite = queries[raw.clone()].iter().all(|x| x.is_finite());
        space.query(&queries[raw], &mut vector);
        let zero = space.metric != Metric::L2 && vector.iter().all(|x| *x == 0.0);
        if finite && !zero {
            queries[kept..kept + dim].copy_from_slice(&vector);
            kept += dim;
        }
    }
    queries.truncate(kept);
    Ok(queries)
}

/// Samples at most `most` of `n` rows, in ascending order.
pub fn sample_indices(n: usize, most: usize, seed: u64) -> Vec<u32> {
    if most >= n {
        return (0..n as u32).collect();
    }
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let chosen = rand::seq::index::sample(&mut rng, n, most);
    let mut chosen: Vec<u32> = chosen.iter().map(|i| i as u32).collect();
    chosen.sort_unstable();
    chosen
}
