//! The trained rotation before the product quantizer (OPQ; FAISS `OPQMatrix`).
//!
//! A rotation changes no distance, so lists and exact scores do not notice it; it decides which dimensions share a
//! codeword. [`train_opq`] is the alternation of optimized product quantization (Ge et al., 2013, non-parametric solution):
//! encode the rotated residuals, move the codewords, and turn the space so that the residuals come nearest to their
//! reconstructions, an orthogonal Procrustes problem whose solution is a polar factor.

use crate::error::TrainError;
use crate::options::{affords_matrix, rotation_products};
use crate::pq::{PqShape, Residuals, update_words};
use crate::progress::{Monitor, Phase, check_interrupts};
use distillvq_linalg::matrix::{MatRef, ROWS, add_matmul_tn};
use distillvq_linalg::orthogonal::{polar, random, rotate};
use distillvq_linalg::parallel;
use distillvq_model::codebooks::Codebooks;

/// Rounds of the alternation at the most; books of 16 words settle in half of them.
const ROUNDS: usize = 30;
/// Multiplications that all rounds may take, if they are not the fewest.
const PRODUCTS: usize = 600_000_000_000;
/// Fewest rounds.
pub const MIN_ROUNDS: usize = 4;
/// Products of two matrices of `dim`² numbers that a round's polar factor takes.
const PRODUCTS_PER_ROUND: usize = 40;
/// Rows that are worked on together.
const CHUNK: usize = 8 * ROWS;
/// How strongly a round's solution is held to the last one, as a share of the mean singular value. It bounds the work of
/// [`polar`]: directions in which the residuals hardly vary turn more slowly.
const HOLD: f32 = 0.1;
/// Rows of a matrix that are worked on together.
const BLOCK: usize = 48;

/// The matrix of a rotation and codebooks for the rotated residuals.
pub struct Learned {
    /// `dim`×`dim`.
    pub rotation: Vec<f32>,
    /// Codewords after the last round: a start for the codebooks.
    pub books: Codebooks,
}

/// Rounds in which a rotation is learned for a table of so many rows; none where the table is too small for the matrix, or
/// for the work of the fewest rounds.
pub fn rounds(dim: usize, words: usize, rows: usize) -> Option<usize> {
    let most = if words > 16 { ROUNDS } else { ROUNDS / 2 };
    let each = PRODUCTS_PER_ROUND.saturating_mul(dim.pow(3)).max(1);
    let paid = rotation_products(rows, dim) / each;
    let rounds = (PRODUCTS / each).clamp(MIN_ROUNDS, most).min(paid);
    (affords_matrix(rows, dim) && rounds >= MIN_ROUNDS).then_some(rounds)
}

/// Trains rotation and codebooks of `shape` on the residuals, in `rounds` rounds.
pub fn train_opq(
    residuals: &Residuals<'_>,
    shape: PqShape,
    rounds: usize,
    seed: u64,
    monitor: &dyn Monitor,
) -> Result<Learned, TrainError> {
    let dim = residuals.dim();
    let mut state = OpqState {
        residuals,
        books: Codebooks::zeros(dim, shape.subquantizers, shape.codewords),
        rotation: random(dim, seed, || check_interrupts(monitor))?,
        codes: vec![0; residuals.len() * shape.subquantizers],
        monitor,
    };
    state.seed_words()?;
    for round in 0..rounds {
        monitor.phase(Phase::Codebooks, round, 2 * rounds);
        state.update_codebooks()?;
        state.update_rotation()?;
    }
    Ok(Learned {
        rotation: state.rotation,
        books: state.books,
    })
}

/// State of the OPQ training.
struct OpqState<'a> {
    residuals: &'a Residuals<'a>,
    books: Codebooks,
    rotation: Vec<f32>,
    codes: Vec<u8>,
    monitor: &'a dyn Monitor,
}

impl OpqState<'_> {
    /// Rotated residuals `from..to`, padded for the codebooks.
    fn rotated(&self, from: usize, to: usize) -> Result<Vec<f32>, TrainError> {
        let dim = self.residuals.dim();
        let stride = self.books.padded();
        let mut raw = Vec::new();
        self.residuals.gather(from, to, &mut raw);
        rotate(&self.rotation, &mut raw, dim, || {
            check_interrupts(self.monitor)
        })?;
        let mut padded = vec![0f32; (to - from) * stride];
        for (out, row) in padded.chunks_exact_mut(stride).zip(raw.chunks_exact(dim)) {
            self.books.pad(row, out);
        }
        Ok(padded)
    }

    /// The first words are the first residuals: they were drawn at random.
    fn seed_words(&mut self) -> Result<(), TrainError> {
        let (width, words) = (self.books.width, self.books.codewords);
        let stride = self.books.padded();
        let rows = self.rotated(0, words.min(self.residuals.len()))?;
        let books = self.books.values.chunks_exact_mut(words * width);
        for (s, book) in books.enumerate() {
            for (word, row) in book.chunks_exact_mut(width).zip(rows.chunks_exact(stride)) {
                word.copy_from_slice(&row[s * width..(s + 1) * width]);
            }
        }
        Ok(())
    }

    /// Codebook update: encodes all residuals and moves each codeword to the mean of its residuals.
    fn update_codebooks(&mut self) -> Result<(), TrainError> {
        let m = self.books.subquantizers;
        let stride = self.books.padded();
        let books = self.books.transposed();
        let mut sums = vec![0f32; self.books.values.len()];
        let mut counts = vec![0u32; m * self.books.codewords];
        for from in (0..self.residuals.len()).step_by(CHUNK) {
            let to = (from + CHUNK).min(self.residuals.len());
            let rows = self.rotated(from, to)?;
            let codes = &mut self.codes[from * m..to * m];
            parallel::chunks_mut(codes, ROWS * m, |i, codes| {
                check_interrupts(self.monitor)?;
                let at = i * ROWS * stride;
                books.encode(&rows[at..at + codes.len() / m * stride], stride, codes);
                Ok(())
            })?;
            update_words(&rows, codes, &self.books, &mut sums, &mut counts)?;
        }
        let words = self.books.values.chunks_exact_mut(self.books.width);
        let sums = sums.chunks_exact(self.books.width);
        for ((word, sum), count) in words.zip(sums).zip(counts).filter(|(_, count)| *count > 0) {
            let mean = sum.iter().map(|s| s / count as f32);
            word.iter_mut().zip(mean).for_each(|(w, s)| *w = s);
        }
        Ok(())
    }

    /// Rotation update: the Procrustes solution for residuals and reconstructions.
    fn update_rotation(&mut self) -> Result<(), TrainError> {
        let (dim, m) = (self.residuals.dim(), self.books.subquantizers);
        let mut pull = vec![0f32; dim * dim];
        let (mut raw, mut decoded) = (Vec::new(), Vec::new());
        for from in (0..self.residuals.len()).step_by(CHUNK) {
            let to = (from + CHUNK).min(self.residuals.len());
            self.residuals.gather(from, to, &mut raw);
            decoded.clear();
            decoded.resize((to - from) * dim, 0.0);
            let codes = self.codes[from * m..to * m].chunks_exact(m);
            for (out, codes) in decoded.chunks_exact_mut(dim).zip(codes) {
                self.books.add_decoded(codes, out);
            }
            let (decoded, raw) = (MatRef::new(&decoded, dim), MatRef::new(&raw, dim));
            parallel::chunks_mut(&mut pull, BLOCK * dim, |i, out| {
                check_interrupts(self.monitor)?;
                add_matmul_tn(decoded, i * BLOCK, raw, out);
                Ok::<_, TrainError>(())
            })?;
        }
        let along: f64 = (pull.iter().zip(&self.rotation))
            .map(|(p, r)| f64::from(*p) * f64::from(*r))
            .sum();
        let hold = HOLD * (along / dim as f64) as f32;
        if hold.is_normal() && hold > 0.0 {
            let pairs = pull.iter_mut().zip(&self.rotation);
            pairs.for_each(|(p, r)| *p += hold * r);
            self.rotation = polar(pull, dim, || check_interrupts(self.monitor))?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::progress::NoMonitor;
    use distillvq_linalg::matrix::{matmul_nt, squared_norm};
    use distillvq_linalg::orthogonal::identity;
    use distillvq_linalg::testing::never_interrupt;
    use distillvq_model::coarse::flat::Assignment;
    use rand::RngExt;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;

    #[test]
    fn a_rotation_is_learned_where_the_table_pays_for_it() {
        // Dimensions, words, rows, rounds.
        for (dim, words, rows, paid) in [
            (384, 16, 6_143, None),
            (384, 16, 6_144, Some(15)),
            (384, 256, 20_000, Some(30)),
            (1_024, 16, 1_100, None),
            (1_024, 16, 16_384, Some(7)),
            (1_024, 16, 1_000_000, Some(13)),
            (3_072, 256, 60_000, None),
            (3_072, 256, 100_000, Some(4)),
            (16_000, 256, usize::MAX, None),
        ] {
            assert_eq!(rounds(dim, words, rows), paid, "{dim} {words} {rows}");
        }
    }

    /// Rows on two diagonals: each sub-space of one dimension needs the rotation by 45 degrees.
    #[test]
    fn learning_finds_a_better_rotation() {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let rows: Vec<f32> = (0..2000)
            .flat_map(|_| {
                let (a, b) = (rng.random::<f32>() - 0.5, rng.random::<f32>() - 0.5);
                [a + 0.02 * b, a - 0.02 * b, b + 0.5 * a, -b + 0.5 * a]
            })
            .collect();
        let chosen: Vec<u32> = (0..2000).collect();
        let nearest = vec![Assignment::default(); 2000];
        let zero = [0f32; 4];
        let residuals = Residuals {
            x: MatRef::new(&rows, 4),
            chosen: &chosen,
            nearest: &nearest,
            centroids: MatRef::new(&zero, 4),
        };
        let shape = PqShape {
            subquantizers: 2,
            codewords: 16,
        };
        let learned = train_opq(&residuals, shape, 15, 1, &NoMonitor).unwrap();
        let view = MatRef::new(&learned.rotation, 4);
        let mut gram = vec![0f32; 16];
        matmul_nt(view, view, &mut gram);
        let pairs = gram.iter().zip(identity(4));
        assert!(pairs.into_iter().all(|(g, unit)| (g - unit).abs() < 1e-4));
        let error = |rotation: &[f32]| {
            let mut turned = rows.clone();
            let Ok(()) = rotate(rotation, &mut turned, 4, never_interrupt);
            let residuals = Residuals {
                x: MatRef::new(&turned, 4),
                ..residuals
            };
            let books = crate::pq::train(&residuals, shape, None, 1, &NoMonitor).unwrap();
            let mut codes = vec![0; 4000];
            books.transposed().encode(&turned, 4, &mut codes);
            let pairs = turned.chunks_exact(4).zip(codes.chunks_exact(2));
            let off = pairs.map(|(row, codes)| {
                let mut decoded = row.iter().map(|x| -x).collect::<Vec<f32>>();
                books.add_decoded(codes, &mut decoded);
                squared_norm(&decoded)
            });
            off.sum::<f32>()
        };
        let (with, without) = (error(&learned.rotation), error(&identity(4)));
        assert!(with < 0.7 * without, "{with} {without}");
    }
}
