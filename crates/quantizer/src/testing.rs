//! Data and helpers for the unit tests.

use crate::coarse::Assigner;
use crate::coarse::flat::Assignment;
use crate::linalg::MatRef;
use std::convert::Infallible;

/// Numbers from -1 to 1 without a pattern, others for another salt.
pub fn noise(n: usize, salt: u32) -> Vec<f32> {
    let bits = |i: u32| (i + salt).wrapping_mul(2_654_435_761).rotate_left(11);
    (0..n as u32)
        .map(|i| (bits(i) % 2001) as f32 / 1000.0 - 1.0)
        .collect()
}

/// Never stops what asks whether to keep on.
pub fn never_interrupt() -> Result<(), Infallible> {
    Ok(())
}

/// The lists of the rows, found so many at once.
pub fn assign(assigner: &Assigner<'_>, x: MatRef<'_>, at_once: usize) -> Vec<Assignment> {
    let mut nearest = vec![Assignment::default(); x.rows()];
    for (i, out) in nearest.chunks_mut(at_once).enumerate() {
        let rows = x.slice(i * at_once, (i + 1) * at_once);
        let Ok(()) = assigner.assign(rows, out, never_interrupt);
    }
    nearest
}
