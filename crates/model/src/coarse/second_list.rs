//! The second list of a row, by the orthogonality-amplified loss of SOAR (Sun et al., "SOAR: Improved Indexing for Approximate
//! Nearest Neighbor Search", NeurIPS 2023).
//!
//! With r = x − c of the first list, the second list is that of the centroid c' with the smallest loss
//! ‖x − c'‖² + λ·⟨x − c', r⟩²/‖r‖². A query that ranks the first list low points away from r. The second term makes the residual of
//! the second list orthogonal to r, so that the same query ranks the second list high.
//!
//! Only the centroids nearest to x are compared ([`super::near_lists`]), as the search for the first list has found them: among the nearest
//! to c instead, twice the codes have to be scanned for the same recall.

use super::flat::Assignment;
use super::near_lists::by_distance;
use distillvq_kernels::kernels;
use distillvq_linalg::matrix::{MatRef, squared_norm};

/// λ. Of 1, 2 and 4, 2 scans the fewest codes.
const ORTHOGONALITY_WEIGHT: f32 = 2.0;
/// Minimum of ‖r‖², as a fraction of ‖x‖² + ‖c‖². The direction of a shorter residual is rounding error.
const MIN_RESIDUAL_FRACTION: f32 = 1e-5;

/// The second list of a row whose first list is known, among `near`; `None` if there is no other list.
pub fn choose(
    centroids: MatRef<'_>,
    half_norms: &[f32],
    row: &[f32],
    first: Assignment,
    near: impl Iterator<Item = u32>,
) -> Option<u32> {
    let half = |list: u32| half_norms.get(list as usize).copied().unwrap_or_default();
    let centroid = centroids.row(first.list as usize);
    let residual: Vec<f32> = row.iter().zip(centroid).map(|(x, c)| x - c).collect();
    let least = min_residual(squared_norm(row), half(first.list));
    let divisor = squared_norm(&residual).max(least);
    let with_row = (kernels().dot)(&residual, row);
    let loss = |list: u32| {
        let centroid = centroids.row(list as usize);
        let along = with_row - (kernels().dot)(&residual, centroid);
        let distance = 2.0 * (half(list) - (kernels().dot)(row, centroid));
        distance + ORTHOGONALITY_WEIGHT * along * along / divisor
    };
    let others = near.filter(|list| *list != first.list);
    let losses = others.map(|list| (loss(list), list));
    let best = losses.min_by(by_distance);
    best.map(|(_, list)| list)
}

/// Minimum of ‖r‖² from ‖x‖² and ‖c‖²/2.
fn min_residual(length: f32, half_norm: f32) -> f32 {
    (MIN_RESIDUAL_FRACTION * (length + 2.0 * half_norm)).max(f32::MIN_POSITIVE)
}

/// The loss of a second list and its rounding error, relative to ‖x‖² + ‖c'‖² and in multiples of that of a product.
/// `first` and `second` are the centroids.
pub(crate) fn loss(row: &[f32], first: &[f32], second: &[f32]) -> (f64, f64) {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        let pairs = a.iter().zip(b);
        pairs.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    };
    let minus =
        |a: &[f32], b: &[f32]| -> Vec<f32> { a.iter().zip(b).map(|(a, b)| a - b).collect() };
    let (residual, second_residual) = (minus(row, first), minus(row, second));
    let length = dot(row, row);
    let minimum = min_residual(length as f32, dot(first, first) as f32 / 2.0);
    let divisor = dot(&residual, &residual).max(minimum.into());
    let along = dot(&residual, &second_residual);
    let loss = dot(&second_residual, &second_residual)
        + f64::from(ORTHOGONALITY_WEIGHT) * along * along / divisor;
    (loss, 1.0 + (length / divisor).sqrt())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::choose as choose_list;
    use super::*;
    use crate::coarse::near_lists::{CANDIDATES, NearLists};
    use distillvq_linalg::matrix::half_norms;

    fn choose(centroids: &[f32], dim: usize, row: &[f32]) -> (u32, Option<u32>) {
        let centroids = MatRef::new(centroids, dim);
        let halves = half_norms(centroids);
        let cost = |i: usize| 2.0 * halves[i] - 2.0 * (kernels().dot)(row, centroids.row(i));
        let all = (0..centroids.rows()).map(|i| Assignment {
            list: i as u32,
            cost: cost(i),
        });
        let first = all
            .min_by(|a, b| a.cost.total_cmp(&b.cost))
            .unwrap_or_default();
        let mut near = NearLists::default();
        let costs: Vec<f32> = (0..centroids.rows()).map(cost).collect();
        near.offer_range(0, &costs);
        let second = choose_list(centroids, &halves, row, first, near.nearest(CANDIDATES));
        (first.list, second)
    }

    #[test]
    fn an_orthogonal_residual_beats_a_parallel_one() {
        // The row is at the origin and the first centroid at (1, 0). (−1.2, 0) is nearer than (0, 1.3), in the direction of
        // the first residual.
        let centroids = [1.0, 0.0, -1.2, 0.0, 0.0, 1.3];
        assert_eq!(choose(&centroids, 2, &[0.0, 0.0]), (0, Some(2)));
        // A far orthogonal one does not.
        let centroids = [1.0, 0.0, -1.2, 0.0, 0.0, 3.0];
        assert_eq!(choose(&centroids, 2, &[0.0, 0.0]), (0, Some(1)));
    }

    #[test]
    fn a_row_at_its_centroid_gets_the_nearest_list() {
        let centroids = [1.0, 2.0, 9.0, 2.0, 1.0, 5.0];
        assert_eq!(choose(&centroids, 2, &[1.0, 2.0]), (0, Some(2)));
    }

    #[test]
    fn the_list_chosen_has_the_smallest_loss() {
        let mut state = 7u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 24) as f32 - 0.5
        };
        for _ in 0..200 {
            let (centroids, row): (Vec<f32>, Vec<f32>) = (
                (0..80).map(|_| next()).collect(),
                (0..8).map(|_| next()).collect(),
            );
            let (first, second) = choose(&centroids, 8, &row);
            let centroid = |list: u32| &centroids[list as usize * 8..][..8];
            let loss = |list: u32| loss(&row, centroid(first), centroid(list)).0;
            let best = (0..10).filter(|list| *list != first).map(loss);
            let best = best.fold(f64::INFINITY, f64::min);
            assert!(loss(second.unwrap()) <= best * 1.0001);
        }
    }

    #[test]
    fn one_list_has_no_second_and_equal_lists_have() {
        assert_eq!(choose(&[1.0, 2.0], 2, &[1.0, 2.0]), (0, None));
        assert_eq!(choose(&[1.0, 2.0, 1.0, 2.0], 2, &[1.0, 2.0]), (0, Some(1)));
    }
}
