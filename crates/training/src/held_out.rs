//! Queries held out from training, to measure an index with.

use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// Maximum number of held-out vectors. A query's recall has a standard deviation of 0.14 where the mean is 0.90, and
/// of 0.10 where it is 0.95: a percent is then two standard errors and more.
pub const MAX_HELD_OUT: usize = 1_024;
/// At most 1/this of the vectors are held out.
const HELD_OUT_DIVISOR: usize = 5;
/// Minimum number of held-out vectors; a recall over fewer is less accurate than over rows.
const MIN_HELD_OUT: usize = 50;

/// Takes some of row-major vectors out, to measure with what training will not see: at most a fifth of them and at most
/// `most`, none if that would be too few. The rest stays in order.
pub fn split_held_out(vectors: &mut Vec<f32>, dim: usize, most: usize, seed: u64) -> Vec<f32> {
    let dim = dim.max(1);
    let rows = vectors.len() / dim;
    let wanted = (rows / HELD_OUT_DIVISOR).min(most).min(MAX_HELD_OUT);
    if wanted < MIN_HELD_OUT {
        return Vec::new();
    }
    let chosen = sample_indices(rows, wanted, seed);
    let held_out = gather(vectors, dim, &chosen);
    let mut held = chosen.into_iter().peekable();
    let mut kept = 0;
    for row in 0..rows {
        if held.next_if_eq(&row).is_none() {
            vectors.copy_within(row * dim..(row + 1) * dim, kept);
            kept += dim;
        }
    }
    vectors.truncate(kept);
    held_out
}

/// Samples at most `wanted` row-major vectors to measure with; training may see them.
pub fn sample_vectors(vectors: &[f32], dim: usize, wanted: usize, seed: u64) -> Vec<f32> {
    let dim = dim.max(1);
    let rows = vectors.len() / dim;
    gather(vectors, dim, &sample_indices(rows, wanted.min(rows), seed))
}

/// Samples `wanted` of `rows` rows, in ascending order.
fn sample_indices(rows: usize, wanted: usize, seed: u64) -> Vec<usize> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 8);
    let mut chosen: Vec<usize> = (0..rows).collect();
    let (some, _) = chosen.partial_shuffle(&mut rng, wanted);
    let mut chosen = some.to_vec();
    chosen.sort_unstable();
    chosen
}

fn gather(vectors: &[f32], dim: usize, rows: &[usize]) -> Vec<f32> {
    let each = rows
        .iter()
        .filter_map(|row| vectors.get(row * dim..(row + 1) * dim));
    each.flatten().copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use distillvq_linalg::testing::noise;

    #[test]
    fn what_is_held_out_is_gone_from_the_rest() {
        let all: Vec<f32> = (0..2000u16).map(f32::from).collect();
        let mut rest = all.clone();
        let held = split_held_out(&mut rest, 2, 100, 7);
        assert_eq!((held.len(), rest.len()), (200, 1800));
        let mut both: Vec<f32> = held.iter().chain(&rest).copied().collect();
        assert!(rest.is_sorted());
        both.sort_by(f32::total_cmp);
        assert_eq!(both, all);
        assert!(held.chunks(2).all(|pair| pair[1] == pair[0] + 1.0));
        let mut few = noise(2 * 5 * MIN_HELD_OUT - 2, 1);
        assert!(split_held_out(&mut few, 2, 100, 7).is_empty());
        assert_eq!(few.len(), 2 * 5 * MIN_HELD_OUT - 2);
        assert_eq!(sample_vectors(&all, 2, 30, 1).len(), 60);
        assert_eq!(sample_vectors(&all, 2, 3000, 1), all);
    }
}
