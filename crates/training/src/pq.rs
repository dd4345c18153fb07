//! Training of the codebooks of residuals, by k-means per sub-space (Jégou et al., 2011).

use crate::error::TrainError;
use crate::progress::{Monitor, Phase, check_interrupts};
use distillvq_linalg::matrix::MatRef;
use distillvq_linalg::parallel;
use distillvq_model::coarse::flat::Assignment;
use distillvq_model::codebooks::Codebooks;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Rounds of k-means at the most, with 16 and with 256 words.
const ROUNDS_4: usize = 24;
const ROUNDS_8: usize = 10;
/// Minimum relative improvement of the objective; a round below it is the last.
const MIN_IMPROVEMENT: f32 = 1e-4;
/// Rows a word that the first words are drawn from.
const SEED_ROWS: usize = 32;
/// Rows that are searched between two looks at the monitor.
const CHUNK: usize = 4096;

/// What codebooks are learned from: the chosen rows minus the centroids of their lists.
#[derive(Clone, Copy)]
pub struct Residuals<'a> {
    /// The sample.
    pub x: MatRef<'a>,
    /// Rows to learn from. Row number `n + i` is row `i` of the `n` rows of the sample, in its second list.
    pub chosen: &'a [u32],
    /// List of every row of the sample.
    pub nearest: &'a [Assignment],
    /// Second list of every row; empty if rows have one list.
    pub second: &'a [u32],
    /// What to subtract.
    pub centroids: MatRef<'a>,
}

impl Residuals<'_> {
    /// Chosen rows.
    pub fn len(&self) -> usize {
        self.chosen.len()
    }

    /// Dimensions.
    pub fn dim(&self) -> usize {
        self.x.cols
    }

    /// The residuals `from..to`, row-major.
    pub fn gather(&self, from: usize, to: usize, out: &mut Vec<f32>) {
        out.clear();
        for &row in &self.chosen[from..to] {
            let (row, centroid) = self.pair(row);
            out.extend(row.iter().zip(centroid).map(|(x, c)| x - c));
        }
    }

    /// A row and its centroid.
    fn pair(&self, row: u32) -> (&[f32], &[f32]) {
        let row = row as usize;
        let (row, list) = match row.checked_sub(self.nearest.len()) {
            None => (row, self.nearest[row].list),
            Some(row) => (row, self.second[row]),
        };
        (self.x.row(row), self.centroids.row(list as usize))
    }

    /// One sub-space of all residuals, `width` values a row, padded with zeros.
    fn part(&self, range: Range<usize>, width: usize) -> Vec<f32> {
        let mut rows = vec![0f32; self.len() * width];
        for (out, &row) in rows.chunks_exact_mut(width).zip(self.chosen) {
            // Sliced, not skipped, or the values before would be passed over one by one.
            let (row, centroid) = self.pair(row);
            let part = row[range.clone()].iter().zip(&centroid[range.clone()]);
            out.iter_mut().zip(part).for_each(|(o, (x, c))| *o = x - c);
        }
        rows
    }
}

/// Number and size of the codebooks.
#[derive(Debug, Clone, Copy)]
pub struct PqShape {
    /// Number of subquantizers.
    pub subquantizers: usize,
    /// Codewords of each: 16 or 256.
    pub codewords: usize,
}

/// Learns codebooks of `shape`, going on from `start` if there are some.
pub fn train(
    residuals: &Residuals<'_>,
    shape: PqShape,
    start: Option<Codebooks>,
    seed: u64,
    monitor: &dyn Monitor,
) -> Result<Codebooks, TrainError> {
    let PqShape {
        subquantizers,
        codewords,
    } = shape;
    let fresh = start.is_none();
    let mut books =
        start.unwrap_or_else(|| Codebooks::zeros(residuals.dim(), subquantizers, codewords));
    let (width, stride) = (books.width, books.stride());
    let ranges: Vec<_> = (0..subquantizers).map(|s| books.range(s)).collect();
    let done = AtomicUsize::new(0);
    monitor.phase(Phase::Codebooks, 0, subquantizers);
    parallel::chunks_mut(&mut books.values, stride, |s, book| {
        let rows = residuals.part(ranges[s].clone(), width);
        if fresh {
            seed_words(&rows, width, book, seed ^ (s as u64) << 32);
        }
        train_codebook(&rows, width, book, monitor)?;
        let done = 1 + done.fetch_add(1, Ordering::Relaxed);
        monitor.phase(Phase::Codebooks, done, subquantizers);
        Ok(())
    })?;
    Ok(books)
}

/// Trains one codebook by k-means, from the codewords in `book`.
fn train_codebook(
    rows: &[f32],
    width: usize,
    book: &mut [f32],
    monitor: &dyn Monitor,
) -> Result<(), TrainError> {
    let codewords = book.len() / width;
    let mut codes = vec![0u8; rows.len() / width];
    let mut before = f32::INFINITY;
    let rounds = if codewords > 16 { ROUNDS_8 } else { ROUNDS_4 };
    for _ in 0..rounds {
        let books = Codebooks {
            dim: width,
            subquantizers: 1,
            codewords,
            width,
            values: book.to_vec(),
        }
        .transposed();
        for (rows, codes) in rows.chunks(CHUNK * width).zip(codes.chunks_mut(CHUNK)) {
            check_interrupts(monitor)?;
            books.encode(rows, width, codes);
        }
        let objective = update(rows, width, &codes, book);
        if before.is_finite() && before - objective <= MIN_IMPROVEMENT * before {
            break;
        }
        before = objective;
    }
    Ok(())
}

/// Adds padded rows to the sums and counts of the words that their codes name.
pub fn update_words(
    rows: &[f32],
    codes: &[u8],
    books: &Codebooks,
    sums: &mut [f32],
    counts: &mut [u32],
) -> Result<(), TrainError> {
    let (m, width) = (books.subquantizers, books.width);
    let sums = sums.chunks_exact_mut(books.stride());
    let mut parts: Vec<_> = sums.zip(counts.chunks_exact_mut(books.codewords)).collect();
    parallel::each_mut(&mut parts, |s, (sums, counts)| {
        let rows = rows.chunks_exact(m * width).zip(codes.chunks_exact(m));
        for (row, codes) in rows {
            let code = usize::from(codes[s]);
            counts[code] += 1;
            let sum = &mut sums[code * width..(code + 1) * width];
            let row = &row[s * width..(s + 1) * width];
            sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
        }
        Ok(())
    })
}

/// First words: rows drawn with the squared distance to the words before as weight (k-means++, on some of the rows).
fn seed_words(rows: &[f32], width: usize, book: &mut [f32], seed: u64) {
    let codewords = book.len() / width;
    let n = rows.len() / width;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let some = rand::seq::index::sample(&mut rng, n, n.min(codewords * SEED_ROWS)).into_vec();
    let row = |i: usize| &rows[some[i] * width..][..width];
    let mut distances = vec![f32::MAX; some.len()];
    let mut next = 0;
    for word in book.chunks_exact_mut(width) {
        word.copy_from_slice(row(next));
        let mut total = 0f64;
        for (i, distance) in distances.iter_mut().enumerate() {
            let to_word: f32 = row(i)
                .iter()
                .zip(&*word)
                .map(|(x, w)| (x - w) * (x - w))
                .sum();
            *distance = distance.min(to_word);
            total += f64::from(*distance);
        }
        let mut left = rng.random::<f64>() * total;
        next = distances
            .iter()
            .position(|distance| {
                left -= f64::from(*distance);
                left < 0.0
            })
            .unwrap_or(0);
    }
}

/// Moves every word to the mean of its rows and returns the squared error before. Unused words go beside the word with
/// the largest error, to halve it in the next round.
fn update(rows: &[f32], width: usize, codes: &[u8], book: &mut [f32]) -> f32 {
    let codewords = book.len() / width;
    let mut sums = vec![0f32; book.len()];
    let mut counts = vec![0f32; codewords];
    let mut errors = vec![0f32; codewords];
    for (row, code) in rows.chunks_exact(width).zip(codes) {
        let code = usize::from(*code);
        counts[code] += 1.0;
        let at = code * width..(code + 1) * width;
        for ((sum, word), x) in sums[at.clone()].iter_mut().zip(&book[at]).zip(row) {
            *sum += x;
            errors[code] += (x - word) * (x - word);
        }
    }
    let total = errors.iter().sum();
    for (j, word) in book
        .chunks_exact_mut(width)
        .enumerate()
        .filter(|(j, _)| counts[*j] > 0.0)
    {
        word.iter_mut()
            .zip(&sums[j * width..])
            .for_each(|(w, sum)| *w = sum / counts[j]);
    }
    for unused in (0..codewords).filter(|j| counts[*j] == 0.0) {
        split(book, width, unused, &counts, &mut errors);
    }
    total
}

/// Puts the unused word beside the one with the largest error, half its spread away.
fn split(book: &mut [f32], width: usize, unused: usize, counts: &[f32], errors: &mut [f32]) {
    let worst = errors
        .iter()
        .enumerate()
        .max_by(|a, b| a.1.total_cmp(b.1))
        .map_or(0, |(j, _)| j);
    if errors[worst] <= 0.0 {
        return;
    }
    let spread = (errors[worst] / counts[worst].max(1.0) / width as f32).sqrt();
    errors[worst] /= 2.0;
    let word = book[worst * width..(worst + 1) * width].to_vec();
    for (t, (w, x)) in book[unused * width..(unused + 1) * width]
        .iter_mut()
        .zip(word)
        .enumerate()
    {
        // A different diagonal for each word, so that two words never land on one point.
        let sign = if (unused >> (t % 8)) & 1 == 0 {
            1.0
        } else {
            -1.0
        };
        *w = x + sign * spread / 2.0;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::progress::NoMonitor;
    use distillvq_linalg::matrix::squared_norm;
    use distillvq_linalg::testing::noise;

    fn learn(
        x: &[f32],
        cols: usize,
        subquantizers: usize,
        codewords: usize,
    ) -> (Codebooks, Vec<u8>) {
        let n = x.len() / cols;
        let chosen: Vec<u32> = (0..n as u32).collect();
        let (nearest, centroid) = (vec![Assignment::default(); n], vec![0f32; cols]);
        let x = MatRef::new(x, cols);
        let residuals = Residuals {
            x,
            chosen: &chosen,
            nearest: &nearest,
            second: &[],
            centroids: MatRef::new(&centroid, cols),
        };
        let shape = PqShape {
            subquantizers,
            codewords,
        };
        let books = train(&residuals, shape, None, 1, &NoMonitor).unwrap();
        let stride = books.width * subquantizers;
        let mut padded = vec![0f32; n * stride];
        for (i, row) in padded.chunks_exact_mut(stride).enumerate() {
            books.pad(x.row(i), row);
        }
        let mut codes = vec![0; n * subquantizers];
        books.transposed().encode(&padded, stride, &mut codes);
        (books, codes)
    }

    #[test]
    fn few_values_are_reproduced() {
        let x: Vec<f32> = (0..2000).map(|i| (i % 13) as f32).collect();
        let (books, codes) = learn(&x, 1, 1, 16);
        let error: f32 = x
            .iter()
            .zip(&codes)
            .map(|(x, c)| (books.word(0, *c)[0] - x).abs())
            .sum();
        assert!(error < 1.0, "{error}");
    }

    #[test]
    fn decoding_takes_any_width_and_padding() {
        for (cols, subquantizers) in [
            (8, 2),
            (7, 2),
            (12, 3),
            (5, 3),
            (1, 1),
            (20, 3),
            (16, 2),
            (10, 10),
        ] {
            let x: Vec<f32> = noise(cols * 500, 0).into_iter().map(f32::abs).collect();
            let (books, codes) = learn(&x, cols, subquantizers, 16);
            let (mut error, mut size) = (0.0, 0.0);
            for (row, codes) in x.chunks_exact(cols).zip(codes.chunks_exact(subquantizers)) {
                let mut decoded = vec![0f32; cols];
                books.add_decoded(codes, &mut decoded);
                for (s, code) in codes.iter().enumerate() {
                    let range = books.range(s);
                    let word = books.word(s, *code);
                    assert_eq!(decoded[range.clone()], word[..range.len()]);
                    assert!(word[range.len()..].iter().all(|x| *x == 0.0));
                    assert!(range.len() >= cols / subquantizers);
                }
                error += row
                    .iter()
                    .zip(&decoded)
                    .map(|(x, y)| (x - y) * (x - y))
                    .sum::<f32>();
                size += squared_norm(row);
            }
            assert!(
                error < 0.2 * size,
                "{cols} {subquantizers}: {error} of {size}"
            );
        }
    }

    #[test]
    fn tables_are_products() {
        let x = noise(6 * 300, 0);
        let (books, _) = learn(&x, 6, 3, 256);
        let query = noise(6, 1);
        let table = books.transposed().products(&query);
        for s in 0..3 {
            for j in [0u8, 1, 77, 255] {
                let want: f32 = books
                    .word(s, j)
                    .iter()
                    .zip(&query[2 * s..])
                    .map(|(c, q)| c * q)
                    .sum();
                assert!((table[s * 256 + usize::from(j)] - want).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn constant_rows_do_no_harm() {
        let (books, codes) = learn(&[0.25; 4000], 4, 2, 256);
        assert!(books.values.iter().all(|x| x.is_finite()));
        let mut decoded = vec![0f32; 4];
        books.add_decoded(&codes[..2], &mut decoded);
        assert!(decoded.iter().all(|x| (x - 0.25).abs() < 1e-6));
    }
}
