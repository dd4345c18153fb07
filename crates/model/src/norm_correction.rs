//! The norm correction κ = ‖x‖/‖x̂‖ of a row as one byte, x̂ being the encoder's reconstruction.
//!
//! A correction of 1 byte loses nothing against `f32`; it is worth more recall than distillation at the same cost.

use serde::{Deserialize, Serialize};

/// Share of the sample's corrections that lies outside the range at either end.
const OUTSIDE: f64 = 5e-4;
/// Maximum of the range. Codes that nearly cancel their list's vector out need any larger one:
/// a few such rows would leave the steps too coarse for all others, and their own scores, with the roundings of the look-up
/// table made as many times larger, would beat any row's.
const MAX_CORRECTION: f32 = 8.0;
/// How far a correction may lie outside the range and still be clamped into it.
const TOLERANCE: f32 = 0.1;

/// Range of the correction byte.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct NormCorrection {
    /// Correction of byte 0.
    pub lo: f32,
    /// Correction that one step of the byte adds.
    pub step: f32,
}

impl NormCorrection {
    /// The range of the sample's corrections with a small margin.
    pub fn fit(mut corrections: Vec<f32>) -> NormCorrection {
        corrections.retain(|k| k.is_finite() && *k > 0.0);
        if corrections.is_empty() {
            return NormCorrection { lo: 1.0, step: 0.0 };
        }
        corrections.sort_unstable_by(f32::total_cmp);
        let last = corrections.len() - 1;
        let skip = (last as f64 * OUTSIDE) as usize;
        let (low, high) = (corrections[skip], corrections[last - skip]);
        // Rows to come vary a little more than the sample.
        let (lo, hi) = (low / 1.02, high.min(MAX_CORRECTION).max(low) * 1.02);
        NormCorrection {
            lo,
            step: ((hi - lo) / 255.0).min(f32::MAX),
        }
    }

    /// The byte for a correction, `None` if it lies too far outside the range.
    pub fn encode(&self, correction: f32) -> Option<u8> {
        let hi = self.decode(255);
        if !(correction >= self.lo * (1.0 - TOLERANCE) && correction <= hi * (1.0 + TOLERANCE)) {
            return None;
        }
        if self.step <= 0.0 {
            return Some(0);
        }
        Some(
            ((correction - self.lo) / self.step)
                .round()
                .clamp(0.0, 255.0) as u8,
        )
    }

    /// The correction of a byte.
    pub fn decode(&self, byte: u8) -> f32 {
        self.lo + self.step * f32::from(byte)
    }
}

/// κ from the two squared norms. A zero row has no direction: any correction serves when it is reconstructed as zero.
pub fn correction(norm2: f32, reconstruction2: f32) -> Option<f32> {
    if norm2 == 0.0 && reconstruction2 == 0.0 {
        return None;
    }
    Some((norm2 / reconstruction2).sqrt())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_close_and_far_values_refused() {
        let scale = NormCorrection::fit((0..5000).map(|i| 0.9 + 0.3 * i as f32 / 5000.0).collect());
        for k in [0.9f32, 0.95, 1.0, 1.1, 1.19] {
            let byte = scale.encode(k).unwrap();
            assert!((scale.decode(byte) - k).abs() <= 0.51 * scale.step);
        }
        assert_eq!(scale.encode(0.85), Some(0));
        assert_eq!(scale.encode(1.3), Some(255));
        for k in [0.7, 1.6, f32::NAN, f32::INFINITY, 0.0, -1.0] {
            assert_eq!(scale.encode(k), None, "{k}");
        }
    }

    #[test]
    fn a_few_huge_corrections_do_not_coarsen_the_others() {
        let usual = (0..5000).map(|i| 0.9 + 0.3 * i as f32 / 5000.0);
        let scale = NormCorrection::fit(usual.chain([3e3; 50]).collect());
        for k in [0.9f32, 1.0, 1.19] {
            let byte = scale.encode(k).unwrap();
            assert!((scale.decode(byte) - k).abs() < 0.02, "{k}");
        }
        assert_eq!(scale.encode(3e3), None);
        let huge = NormCorrection::fit(vec![3e3; 10]);
        assert!(huge.encode(3e3).is_some());
    }

    #[test]
    fn odd_samples_give_a_usable_range() {
        for sample in [
            vec![],
            vec![f32::NAN, 0.0, f32::INFINITY],
            vec![1.0; 10],
            vec![f32::MAX, f32::MIN_POSITIVE],
        ] {
            let scale = NormCorrection::fit(sample);
            assert!(
                scale.lo.is_finite()
                    && scale.lo > 0.0
                    && scale.step.is_finite()
                    && scale.step >= 0.0
            );
        }
    }
}
