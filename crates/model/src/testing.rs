//! Data and helpers for the unit tests.

use crate::coarse::Assigner;
use crate::coarse::flat::Assignment;
use distillvq_linalg::matrix::MatRef;
use distillvq_linalg::testing::never_interrupt;

/// The lists of the rows, found so many at once.
pub fn assign(assigner: &Assigner<'_>, x: MatRef<'_>, at_once: usize) -> Vec<Assignment> {
    let mut nearest = vec![Assignment::default(); x.rows()];
    for (i, out) in nearest.chunks_mut(at_once).enumerate() {
        let rows = x.slice(i * at_once, (i + 1) * at_once);
        let Ok(()) = assigner.assign(rows, out, never_interrupt);
    }
    nearest
}
