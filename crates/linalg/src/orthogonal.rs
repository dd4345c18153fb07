//! Orthogonal matrices: random rotations, the polar factor of a matrix, and products with rows.
//!
//! Matrices are row-major, `dim`×`dim`; a row vector `x` becomes `R·x`, so that rows of a batch become `X·Rᵀ`.

use crate::matrix::{MatRef, ROWS, add_matmul_tn, matmul_nn, matmul_nt};
use crate::parallel;
use distillvq_kernels::kernels;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// Rows of a matrix per piece of work.
const BLOCK: usize = 48;

/// Multiplies rows by a matrix in place; calls `check_interrupts` every few milliseconds.
pub fn rotate<E: Send>(
    rotation: &[f32],
    rows: &mut [f32],
    dim: usize,
    check_interrupts: impl Fn() -> Result<(), E> + Sync + Send,
) -> Result<(), E> {
    parallel::chunks_mut(rows, ROWS * dim, |_, rows| {
        check_interrupts()?;
        rotate_few(rotation, rows, dim);
        Ok(())
    })
}

/// [`rotate`] for a few rows, on this thread.
pub fn rotate_few(rotation: &[f32], rows: &mut [f32], dim: usize) {
    let before = rows.to_vec();
    if rows.len() == dim {
        return (kernels().dot_rows)(&before, rotation, rows);
    }
    matmul_nt(MatRef::new(&before, dim), MatRef::new(rotation, dim), rows);
}

/// The identity.
pub fn identity(dim: usize) -> Vec<f32> {
    let mut unit = vec![0f32; dim * dim];
    unit.iter_mut().step_by(dim + 1).for_each(|x| *x = 1.0);
    unit
}

/// A random rotation, the same for the same seed.
pub fn random<E: Send>(
    dim: usize,
    seed: u64,
    check_interrupts: impl Fn() -> Result<(), E> + Sync + Send,
) -> Result<Vec<f32>, E> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    // The sum of uniform numbers is near enough to a normal one for the directions to be spread evenly.
    let draw = |_| (0..4).map(|_| rng.random::<f32>() - 0.5).sum();
    let drawn: Vec<f32> = (0..dim * dim).map(draw).collect();
    polar(drawn, dim, check_interrupts)
}

/// The orthogonal factor of the polar decomposition of a square matrix: the rotation nearest to it. By the iteration of
/// Newton and Schulz, `X ← X·(3 − XᵀX)/2`, which needs products only.
pub fn polar<E: Send>(
    mut x: Vec<f32>,
    dim: usize,
    check_interrupts: impl Fn() -> Result<(), E> + Sync + Send,
) -> Result<Vec<f32>, E> {
    /// Maximum number of rounds; only a singular matrix takes more.
    const MAX_ROUNDS: usize = 60;
    /// Largest deviation of `XᵀX` from the unit matrix in the end.
    const CLOSE: f32 = 2e-6;
    let squares: f64 = x.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
    let length = squares.sqrt().max(f64::MIN_POSITIVE) as f32;
    x.iter_mut().for_each(|x| *x /= length);
    let mut gram = vec![0f32; dim * dim];
    for _ in 0..MAX_ROUNDS {
        let view = MatRef::new(&x, dim);
        gram.fill(0.0);
        parallel::chunks_mut(&mut gram, BLOCK * dim, |i, out| {
            check_interrupts()?;
            add_matmul_tn(view, i * BLOCK, view, out);
            Ok(())
        })?;
        let unit = |i: usize| if i.is_multiple_of(dim + 1) { 1.0 } else { 0.0 };
        let off = (gram.iter().enumerate()).fold(0f32, |off, (i, g)| off.max((g - unit(i)).abs()));
        if off <= CLOSE {
            break;
        }
        for (i, g) in gram.iter_mut().enumerate() {
            *g = 1.5 * unit(i) - 0.5 * *g;
        }
        let mut next = vec![0f32; dim * dim];
        parallel::chunks_mut(&mut next, BLOCK * dim, |i, out| {
            check_interrupts()?;
            let rows = view.slice(i * BLOCK, (i + 1) * BLOCK);
            matmul_nn(rows, MatRef::new(&gram, dim), out);
            Ok(())
        })?;
        x = next;
    }
    Ok(x)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::never_interrupt;

    fn is_rotation(rotation: &[f32], dim: usize) {
        let view = MatRef::new(rotation, dim);
        let mut gram = vec![0f32; dim * dim];
        matmul_nt(view, view, &mut gram);
        for (g, unit) in gram.iter().zip(identity(dim)) {
            assert!((g - unit).abs() < 1e-4, "{g} {unit}");
        }
    }

    #[test]
    fn rotations_are_orthogonal() {
        for dim in [1, 2, 7, 24, 96] {
            let Ok(rotation) = random(dim, 1, never_interrupt);
            is_rotation(&rotation, dim);
        }
        assert_ne!(random(7, 1, never_interrupt), random(7, 2, never_interrupt));
    }

    #[test]
    fn the_polar_factor_of_a_stretched_rotation_is_the_rotation() {
        let dim = 12;
        let Ok(rotation) = random(dim, 3, never_interrupt);
        // Scaling the columns from the right by S leaves R as the factor only if S commutes: take R·(RᵀDR).
        let mut stretched = rotation.clone();
        for (row, by) in stretched.chunks_exact_mut(dim).zip(1..) {
            row.iter_mut().for_each(|x| *x *= by as f32);
        }
        let Ok(found) = polar(stretched, dim, never_interrupt);
        for (a, b) in found.iter().zip(&rotation) {
            assert!((a - b).abs() < 1e-4, "{a} {b}");
        }
    }
}
