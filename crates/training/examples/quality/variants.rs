//! What is trained: named sets of options, at every code size.

use distillvq_model::max_subquantizers;
use distillvq_training::{Ablation, Loss, NegativeSampling, Rotation, TrainOptions};

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

/// Widest sub-spaces for codes of 4 bits, and narrowest for 8: beyond them the other codes are better or as good.
const WIDEST_4: usize = 8;
const NARROWEST_8: usize = 9;

/// Every kind of training at every size, with 4 or 8 bits, or both where either may win. All subquantizers that fit are
/// used; sizes that `dim` dimensions cannot fill are left out.
pub fn compared(bytes: &[usize], bits: &[u8], dim: usize, base: TrainOptions) -> Vec<Variant> {
    let mut variants = Vec::new();
    for bytes in bytes {
        for bits in bits {
            let subquantizers = subquantizers(*bytes, *bits);
            if !(1..=max_subquantizers(*bits).min(dim)).contains(&subquantizers) {
                continue;
            }
            let width = dim.div_ceil(subquantizers);
            if (*bits == 4 && width > WIDEST_4) || (*bits == 8 && width < NARROWEST_8) {
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

/// What is left of a training without one of its parts, or with another in its place: the decoder's on one code size, with
/// the query log, and rotations under codes that are reconstructed only.
pub fn ablations(dim: usize, base: TrainOptions) -> Vec<Variant> {
    let sized = |bytes, bits| TrainOptions {
        bits,
        subquantizers: subquantizers(bytes, bits).min(dim),
        ..base
    };
    let usual = sized(24, 4);
    let losses = [
        ("loss: listnet (as it is)", Loss::ListNet),
        ("loss: kl", Loss::Kl),
        ("loss: ranknet", Loss::RankNet),
        ("loss: margin_mse", Loss::MarginMse),
        ("loss: mse", Loss::Mse),
    ];
    let losses = losses.map(|(name, loss)| (name, TrainOptions { loss, ..usual }));
    let samplings = [
        (
            "candidates: one own, and in-batch",
            NegativeSampling::InBatch,
        ),
        ("candidates: own only", NegativeSampling::OwnNeighbors),
    ];
    let samplings = samplings.map(|(name, sampling)| {
        let ablation = Ablation {
            sampling,
            ..Ablation::default()
        };
        (name, TrainOptions { ablation, ..usual })
    });
    let turn = [(
        "no query transform",
        TrainOptions {
            ablation: Ablation {
                no_query_transform: true,
                ..Ablation::default()
            },
            ..usual
        },
    )];
    let decoders = losses.into_iter().chain(samplings).chain(turn);
    let mut variants: Vec<Variant> = decoders
        .map(|(name, options)| Variant {
            name,
            bytes: 24,
            options,
            log: true,
        })
        .collect();
    for (bytes, bits) in [(24, 4), (48, 4), (16, 8), (48, 8)] {
        for (name, rotation) in [
            ("rotation: none", Rotation::None),
            ("rotation: random", Rotation::Random),
            ("rotation: structured", Rotation::Structured),
            ("rotation: learned", Rotation::Learned),
        ] {
            let options = TrainOptions {
                ablation: Ablation {
                    rotation,
                    ..Ablation::default()
                },
                distill: false,
                ..sized(bytes, bits)
            };
            variants.push(Variant {
                name,
                bytes,
                options,
                log: false,
            });
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
        let variants = compared(&[1, 7, 13], &[4, 8], 60, TrainOptions::default());
        for v in &variants {
            let bits = v.options.subquantizers * usize::from(v.options.bits);
            assert_eq!(bits.div_ceil(8) + 1, v.bytes);
        }
        // One byte holds no code, and 12 subquantizers of 8 bits would be too narrow for 60 dimensions.
        assert_eq!(variants.len(), 3 * 3);
        assert!(variants.iter().all(|v| v.options.distill || !v.log));
    }
}
