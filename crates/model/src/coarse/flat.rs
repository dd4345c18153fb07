//! Nearest centroids by products with all of them.

use super::near_lists::NearLists;
use distillvq_linalg::matrix::{MatRef, arg_min, matmul_nt};

/// Maximum number of multiply-adds between two checks for interrupts.
const TILE: usize = 1 << 26;

/// Assignment of a row to its nearest centroid.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Assignment {
    /// The centroid.
    pub list: u32,
    /// Its squared distance minus the squared norm of the row.
    pub cost: f32,
}

/// Rows whose nearest centroids are found in one go: enough for products to be worth their preparation, with groups too,
/// and no more than a few megabytes.
pub fn rows_at_once(cols: usize) -> usize {
    ((1 << 18) / cols.max(1)).clamp(64, 1024)
}

/// Finds the nearest centroid of each row by products with all of them; `out` says at first that there is none. `near` has an
/// element per row, to which all centroids are offered, or none.
pub fn assign_by_all<E>(
    centroids: MatRef<'_>,
    half_norms: &[f32],
    rows: MatRef<'_>,
    (out, near): (&mut [Assignment], &mut [NearLists]),
    check_interrupts: impl Fn() -> Result<(), E>,
) -> Result<(), E> {
    let tile = (TILE / (rows.rows().max(1) * rows.cols)).clamp(16, 512);
    let mut scores = vec![0f32; rows.rows() * tile.min(centroids.rows())];
    for start in (0..centroids.rows()).step_by(tile) {
        check_interrupts()?;
        let some = centroids.slice(start, start + tile);
        let scores = &mut scores[..rows.rows() * some.rows()];
        matmul_nt(rows, some, scores);
        let halves = &half_norms[start..start + some.rows()];
        for (row, (best, scores)) in out
            .iter_mut()
            .zip(scores.chunks_exact_mut(some.rows()))
            .enumerate()
        {
            scores.iter_mut().zip(halves).for_each(|(s, h)| *s = h - *s);
            if let Some(near) = near.get_mut(row) {
                near.offer_range(start as u32, scores);
            }
            if let Some((i, half)) = arg_min(scores.iter().copied())
                && 2.0 * half < best.cost
            {
                *best = Assignment {
                    list: (start + i) as u32,
                    cost: 2.0 * half,
                };
            }
        }
    }
    Ok(())
}
