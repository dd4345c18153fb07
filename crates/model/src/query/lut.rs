//! The look-up table of a query in bytes.

use crate::format::CodeShape;

/// Largest table entry, such that no sum of `rows` entries overflows 16 bits.
fn largest_entry(rows: usize) -> f32 {
    (65_535 / rows.max(1)).min(255) as f32
}

/// The standard deviation of a product's error: of the variance of the words' products, codes of so many bits a dimension
/// leave that share which they leave of noise.
pub(super) fn expected_error(table: &[f32], shape: CodeShape, dim: usize) -> f32 {
    let words = shape.words();
    let variance = |row: &[f32]| {
        let mean = row.iter().sum::<f32>() / words as f32;
        row.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / words as f32
    };
    let sum: f32 = table.chunks_exact(words.max(1)).map(variance).sum();
    let bits = shape.subquantizers as f32 * f32::from(shape.bits) / dim.max(1) as f32;
    (sum * (-2.0 * bits).exp2()).sqrt()
}

/// The table in bytes (padded with zeros to `bytes`), its step, and the sum of its rows' minima.
pub fn quantize_lut(table: &[f32], words: usize, bytes: usize) -> (Vec<u8>, f32, f32) {
    let rows = table.chunks_exact(words.max(1));
    let ranges: Vec<(f32, f32)> = rows
        .clone()
        .map(|row| {
            row.iter()
                .fold((f32::INFINITY, f32::NEG_INFINITY), |(lo, hi), x| {
                    (lo.min(*x), hi.max(*x))
                })
        })
        .collect();
    let widest = ranges.iter().map(|(lo, hi)| hi - lo).fold(0.0, f32::max);
    let delta = widest / largest_entry(ranges.len());
    let per_step = if delta > 0.0 { 1.0 / delta } else { 0.0 };
    let per_step = if per_step.is_finite() { per_step } else { 0.0 };
    let mut lut = Vec::with_capacity(bytes);
    for (row, (lo, _)) in rows.zip(&ranges) {
        // A cast saturates, and the largest entry comes out as at most itself plus rounding.
        let most = largest_entry(ranges.len());
        lut.extend(
            row.iter()
                .map(|x| ((x - lo) * per_step + 0.5).min(most) as u8),
        );
    }
    lut.resize(bytes, 0);
    (lut, delta, ranges.iter().map(|(lo, _)| lo).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_keep_their_values() {
        for (rows, words) in [(1, 16), (3, 16), (300, 16), (478, 16), (2, 256)] {
            let table: Vec<f32> = (0..rows * words)
                .map(|i| ((i * 7919) % 1013) as f32 / 100.0 - 3.0)
                .collect();
            let (lut, delta, bias) = quantize_lut(&table, words, rows * words + 16);
            assert_eq!(lut.len(), rows * words + 16);
            let most = lut
                .chunks(words)
                .map(|row| u32::from(*row.iter().max().unwrap_or(&0)))
                .sum::<u32>();
            assert!(most <= 65_535);
            let mut error = 0f32;
            for (s, row) in table.chunks(words).enumerate() {
                let lo = row.iter().copied().fold(f32::INFINITY, f32::min);
                for (j, x) in row.iter().enumerate() {
                    error = error.max((lo + delta * f32::from(lut[s * words + j]) - x).abs());
                }
            }
            assert!(error <= 0.51 * delta, "{error} {delta}");
            let minima: f32 = table
                .chunks(words)
                .map(|r| r.iter().copied().fold(f32::INFINITY, f32::min))
                .sum();
            assert!((bias - minima).abs() < 1e-2);
        }
    }

    #[test]
    fn a_table_without_spread_is_all_zero() {
        let (lut, delta, bias) = quantize_lut(&[0.5; 32], 16, 32);
        assert_eq!((lut, delta, bias), (vec![0; 32], 0.0, 1.0));
    }
}
