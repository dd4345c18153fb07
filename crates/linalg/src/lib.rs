//! Dense linear algebra on slices: matrices, int8 vectors, orthogonal matrices, and parallel loops.

pub mod int8;
pub mod matrix;
pub mod orthogonal;
pub mod parallel;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
