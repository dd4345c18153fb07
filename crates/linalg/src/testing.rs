//! Data and helpers for tests.

use std::convert::Infallible;

/// Numbers from -1 to 1 without a pattern, others for another salt.
pub fn noise(n: usize, salt: u32) -> Vec<f32> {
    let bits = |i: u32| (i + salt).wrapping_mul(2_654_435_761).rotate_left(11);
    (0..n as u32)
        .map(|i| (bits(i) % 2001) as f32 / 1000.0 - 1.0)
        .collect()
}

/// An interrupt check that never interrupts.
pub fn never_interrupt() -> Result<(), Infallible> {
    Ok(())
}
