//! Parts of a training that can be replaced, to measure what each is worth (feature `ablation`).

/// Parts of a training that can be replaced. `Default` replaces none.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Ablation {
    /// The rotation before the codes.
    pub rotation: Rotation,
    /// The candidates of the decoder's training.
    pub sampling: NegativeSampling,
    /// Whether the decoder does without a query transform.
    pub no_query_transform: bool,
}

/// Rotation before the product quantizer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Rotation {
    /// Learned; but none where every dimension has a code of its own, none for 4 bits with more than [`crate::MAX_TRANSFORM_DIM`]
    /// dimensions, where searches would feel it, and none that is large, or long to learn, for the table.
    #[default]
    Auto,
    /// None.
    #[cfg(feature = "ablation")]
    None,
    /// A random one.
    #[cfg(feature = "ablation")]
    Random,
    /// A random one that has a fast transform.
    #[cfg(feature = "ablation")]
    Structured,
    /// Learned with the codebooks (optimized product quantization).
    #[cfg(feature = "ablation")]
    Learned,
}

/// Negative sampling of the decoder's training (Distill-VQ, §3.2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NegativeSampling {
    /// The query's nearest rows and those of all other queries of the batch.
    #[default]
    Both,
    /// Its own nearest rows alone.
    #[cfg(feature = "ablation")]
    OwnNeighbors,
    /// One of its nearest rows, and those of the other queries.
    #[cfg(feature = "ablation")]
    InBatch,
}

#[cfg(feature = "ablation")]
pub use structured::structured_rotation;

#[cfg(feature = "ablation")]
mod structured {
    use distillvq_linalg::orthogonal::identity;
    use rand::RngExt;
    use rand::seq::SliceRandom;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;

    /// A rotation that could be applied in `dim·log dim` steps: twice random signs, an order, and Walsh–Hadamard transforms of
    /// blocks whose size is the largest power of two that divides `dim`.
    pub fn structured_rotation(dim: usize, seed: u64) -> Vec<f32> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut columns = identity(dim);
        let block = 1 << dim.trailing_zeros();
        for _ in 0..2 {
            let mut order: Vec<usize> = (0..dim).collect();
            order.shuffle(&mut rng);
            let signs: Vec<f32> = (0..dim)
                .map(|_| if rng.random::<bool>() { 1.0 } else { -1.0 })
                .collect();
            for row in columns.chunks_exact_mut(dim.max(1)) {
                let before = row.to_vec();
                for ((x, from), sign) in row.iter_mut().zip(&order).zip(&signs) {
                    *x = before[*from] * sign;
                }
                row.chunks_exact_mut(block).for_each(hadamard);
            }
        }
        // Rows were transformed as vectors are: row i is the image of axis i, a column of the matrix.
        let mut rotation = vec![0f32; dim * dim];
        for (i, image) in columns.chunks_exact(dim.max(1)).enumerate() {
            let column = rotation.iter_mut().skip(i).step_by(dim);
            column.zip(image).for_each(|(r, x)| *r = *x);
        }
        rotation
    }

    /// The normalized Walsh–Hadamard transform of a power of two of values.
    fn hadamard(values: &mut [f32]) {
        let mut half = 1;
        while half < values.len() {
            for pair in values.chunks_exact_mut(2 * half) {
                let (a, b) = pair.split_at_mut(half);
                for (a, b) in a.iter_mut().zip(b) {
                    (*a, *b) = (*a + *b, *a - *b);
                }
            }
            half *= 2;
        }
        let norm = (values.len() as f32).sqrt();
        values.iter_mut().for_each(|x| *x /= norm);
    }

    #[cfg(test)]
    mod tests {
        use super::*;
        use distillvq_linalg::matrix::{MatRef, matmul_nt};

        #[test]
        fn structured_rotations_are_orthogonal() {
            for dim in [1, 2, 7, 24, 96] {
                let rotation = structured_rotation(dim, 1);
                let view = MatRef::new(&rotation, dim);
                let mut gram = vec![0f32; dim * dim];
                matmul_nt(view, view, &mut gram);
                for (g, unit) in gram.iter().zip(identity(dim)) {
                    assert!((g - unit).abs() < 1e-4, "{g} {unit}");
                }
            }
        }
    }
}
