//! What is trained: named sets of options, at every code size.

use distillvq_quantizer::{TrainOptions, max_subquantizers};

/// One model to train and measure.
pub struct Variant {
    /// Its name in the tables.
    pub name: &'static str,
    /// Bytes a row, the norm byte included.
    pub bytes: usize,
    /// How to train it.
    pub options: TrainOptions,
    /// Whether the query log is given to training.
    pub log: bool,
}

/// The kinds of training that are compared: name, distilled, with the query log.
const KINDS: [(&str, bool, bool); 3] = [
    ("reconstruction only", false, false),
    ("distilled, no queries", true, false),
    ("distilled, query log", true, true),
];

/// Every kind of training at every size, with 4 and with 8 bits. All sub-quantizers that fit are used; sizes that
/// `dim` dimensions cannot fill are left out.
pub fn compared(bytes: &[usize], bits: &[u8], dim: usize, base: TrainOptions) -> Vec<Variant> {
    let mut variants = Vec::new();
    for bytes in bytes {
        for bits in bits {
            let subquantizers = subquantizers(*bytes, *bits);
            if !(1..=max_subquantizers(*bits).min(dim)).contains(&subquantizers) {
                continue;
            }
            for (name, distill, log) in KINDS {
                let options = TrainOptions {
                    subquantizers,
                    bits: *bits,
                    distill,
                    ..base
                };
                variants.push(Variant {
                    name,
                    bytes: *bytes,
                    options,
                    log,
                });
            }
        }
    }
    variants
}

/// Codes that fit beside the norm byte.
fn subquantizers(bytes: usize, bits: u8) -> usize {
    bytes.saturating_sub(1) * 8 / usize::from(bits.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_counts_its_norm_byte() {
        let variants = compared(&[1, 16, 48], &[4, 8], 60, TrainOptions::default());
        for v in &variants {
            let bits = v.options.subquantizers * usize::from(v.options.bits);
            assert_eq!(bits.div_ceil(8) + 1, v.bytes);
        }
        // One byte holds no code, and 94 sub-quantizers are too many for 60 dimensions.
        assert_eq!(variants.len(), 3 * 3);
        assert!(variants.iter().all(|v| v.options.distill || !v.log));
    }
}
