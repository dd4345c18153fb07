//! A matrix of vectors, and synthetic ones for tests.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::error::{Error, Result};

/// `rows × dim` float32 values, row-major. A row's number is its id in the tables of the tests.
#[derive(Clone, Debug, PartialEq)]
pub struct Vectors {
    dim: usize,
    values: Vec<f32>,
}

impl Vectors {
    /// Wraps row-major values.
    ///
    /// # Errors
    /// If `values` does not consist of whole rows of at least one dimension.
    pub fn new(dim: usize, values: Vec<f32>) -> Result<Self> {
        if dim == 0 || !values.len().is_multiple_of(dim) {
            return Err(Error::Argument(format!(
                "{} values are not rows of {dim}",
                values.len()
            )));
        }
        Ok(Self { dim, values })
    }

    /// Points around `clusters` random centers in the unit cube, the same for the same seed: what an inverted-list
    /// index meets in practice, and cheap to make.
    #[must_use]
    pub fn clustered(rows: usize, dim: usize, clusters: usize, seed: u64) -> Self {
        let dim = dim.max(1);
        let clusters = clusters.max(1);
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let centers: Vec<f32> = (0..clusters * dim)
            .map(|_| random.random_range(-1.0..1.0))
            .collect();
        let values = (0..rows)
            .flat_map(|_| {
                let start = random.random_range(0..clusters) * dim;
                let center = centers.get(start..start + dim).unwrap_or_default();
                center
                    .iter()
                    .map(|c| c + random.random_range(-0.3..0.3f32))
                    .collect::<Vec<_>>()
            })
            .collect();
        Self { dim, values }
    }

    /// Unit vectors like embeddings of texts: each is of a topic, large or small, and a mixture of a few of its concepts with
    /// some of others', in dimensions of falling variance that no axis shows. Fitted to 117,659 embedded sentences of 384
    /// dimensions, in eigenvalues, in the cosines of queries with their 1st, 10th and 100th neighbor (0.61, 0.49, 0.38; here
    /// 0.64, 0.51, 0.36), in how those grow apart (a local dimension of 27; here 21), and in the share of true neighbors in
    /// the nearest 3, 5 and 10 % of 343 lists (0.86, 0.91, 0.96; here 0.80, 0.84, 0.89, and with 768 dimensions 0.87, 0.89,
    /// 0.91). The same for the same seed; rows of different `part`s are different draws from one distribution.
    #[must_use]
    pub fn like_texts(rows: usize, dim: usize, seed: u64, part: u64) -> Self {
        let dim = dim.max(1);
        let texts = Texts::new(dim, seed);
        let mut random =
            ChaCha8Rng::seed_from_u64(seed ^ (part + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let mut values = vec![0f32; rows * dim];
        for row in values.chunks_exact_mut(dim) {
            texts.draw(&mut random, row);
        }
        Self { dim, values }
    }

    /// Vectors like those of words: directions as texts', lengths over two orders of magnitude, short ones the most.
    #[must_use]
    pub fn like_words(rows: usize, dim: usize, seed: u64) -> Self {
        let mut words = Self::like_texts(rows, dim, seed, 0);
        let mut random = ChaCha8Rng::seed_from_u64(!seed);
        for row in words.values.chunks_exact_mut(dim.max(1)) {
            let length = 100f32.powf(random.random::<f32>().powi(2));
            row.iter_mut().for_each(|x| *x *= length);
        }
        words
    }

    /// Points of a normal distribution, the same for the same seed: without groups, and so the hardest there is for lists.
    #[must_use]
    pub fn noise(rows: usize, dim: usize, seed: u64) -> Self {
        let dim = dim.max(1);
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let values = (0..rows * dim).map(|_| normal(&mut random)).collect();
        Self { dim, values }
    }

    /// The means of each row and the next one, the last left out: queries of another kind than the rows, that ask for two
    /// things at once.
    #[must_use]
    pub fn midway(&self) -> Self {
        let next = self.values.iter().skip(self.dim);
        let pairs = self.values.iter().zip(next);
        Self {
            dim: self.dim,
            values: pairs.map(|(a, b)| (a + b) / 2.0).collect(),
        }
    }

    /// Number of rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.values.len() / self.dim
    }

    /// Number of dimensions.
    #[must_use]
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Row `number`; empty if there is none.
    #[must_use]
    pub fn row(&self, number: usize) -> &[f32] {
        let start = number.saturating_mul(self.dim);
        self.values.get(start..start + self.dim).unwrap_or_default()
    }

    /// The rows in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.values.chunks_exact(self.dim)
    }

    /// The rows of a range, as far as there are any.
    #[must_use]
    pub fn slice(&self, rows: std::ops::Range<usize>) -> Self {
        let end = rows.end.min(self.rows());
        let start = rows.start.min(end);
        Self {
            dim: self.dim,
            values: self
                .values
                .get(start * self.dim..end * self.dim)
                .unwrap_or_default()
                .to_vec(),
        }
    }

    /// All values, row-major.
    #[must_use]
    pub fn values(&self) -> &[f32] {
        &self.values
    }
}

/// What [`Vectors::like_texts`] draws from.
struct Texts {
    spread: Vec<f32>,
    /// A row a topic, the mean of all texts included.
    topics: Vec<f32>,
    /// Those of the first topic, then those of the second, and so on.
    concepts: Vec<f32>,
    signs: Vec<f32>,
}

impl Texts {
    const TOPICS: usize = 300;
    /// Of each topic.
    const CONCEPTS: usize = 60;
    /// In a text.
    const MIXED: usize = 6;
    /// How likely a concept is of the text's own topic.
    const OWN: f32 = 0.85;

    fn new(dim: usize, seed: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let spread = falling(dim);
        let mut points = |n: usize, size: f32| -> Vec<f32> {
            let spread = spread.iter().cycle().take(n * dim);
            spread.map(|s| s * size * normal(&mut random)).collect()
        };
        let (mean, mut topics) = (points(1, 0.6), points(Self::TOPICS, 0.7));
        let concepts = points(Self::TOPICS * Self::CONCEPTS, 1.0);
        let signs = points(2, 1.0);
        for topic in topics.chunks_exact_mut(dim) {
            add(topic, &mean, 1.0);
        }
        Self {
            spread,
            topics,
            concepts,
            signs,
        }
    }

    fn draw(&self, random: &mut ChaCha8Rng, row: &mut [f32]) {
        let dim = row.len();
        let topic = one_of(random, Self::TOPICS);
        for (x, s) in row.iter_mut().zip(&self.spread) {
            *x = 0.65 * s * normal(random);
        }
        add(row, &self.topics[topic * dim..(topic + 1) * dim], 1.0);
        for i in 0..Self::MIXED {
            let concept = if random.random::<f32>() < Self::OWN {
                topic * Self::CONCEPTS + one_of(random, Self::CONCEPTS)
            } else {
                one_of(random, Self::TOPICS * Self::CONCEPTS)
            };
            let weight = 0.8f32.powi(i as i32) * (0.5 + random.random::<f32>());
            add(
                row,
                &self.concepts[concept * dim..(concept + 1) * dim],
                weight,
            );
        }
        mix(row, &self.signs);
        let length = row.iter().map(|x| x * x).sum::<f32>().sqrt();
        row.iter_mut()
            .for_each(|x| *x /= length.max(f32::MIN_POSITIVE));
    }
}

/// A number below `n`. Squares crowd near zero: the first ones are the frequent ones.
fn one_of(random: &mut ChaCha8Rng, n: usize) -> usize {
    ((random.random::<f32>().powi(2) * n as f32) as usize).min(n - 1)
}

/// Standard deviations of the dimensions of texts' embeddings before they are mixed; their squares sum to 1. More dimensions
/// hold little that is new.
fn falling(dim: usize) -> Vec<f32> {
    let length = 307.0 * (dim as f32 / 384.0).sqrt();
    let at = |i: usize| (i as f32 + 3.0).powf(-0.25) * (-(i as f32) / length).exp();
    let sum: f32 = (0..dim).map(|i| at(i) * at(i)).sum();
    (0..dim).map(|i| at(i) / sum.sqrt()).collect()
}

/// Roughly normal: the sum of uniform numbers.
fn normal(random: &mut ChaCha8Rng) -> f32 {
    let bits: u64 = random.random();
    let sum: u64 = (0..4).map(|i| (bits >> (16 * i)) & 0xFFFF).sum();
    (sum as f32 / 65_536.0 - 2.0) * 1.732
}

fn add(to: &mut [f32], from: &[f32], times: f32) {
    for (a, b) in to.iter_mut().zip(from) {
        *a += times * b;
    }
}

/// Turns a vector so that no axis is special: signs flipped, then a Hadamard transform, of its first dimensions and of its
/// last. Lengths stay.
fn mix(row: &mut [f32], signs: &[f32]) {
    let size = 1 << row.len().ilog2();
    for (round, signs) in signs.chunks_exact(row.len()).enumerate() {
        for (x, sign) in row.iter_mut().zip(signs) {
            *x = if *sign < 0.0 { -*x } else { *x };
        }
        let start = if round % 2 == 0 { 0 } else { row.len() - size };
        hadamard(&mut row[start..start + size]);
    }
}

fn hadamard(x: &mut [f32]) {
    let mut half = 1;
    while half < x.len() {
        for pair in x.chunks_exact_mut(2 * half) {
            let (a, b) = pair.split_at_mut(half);
            for (a, b) in a.iter_mut().zip(b) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        half *= 2;
    }
    let scale = 1.0 / (x.len() as f32).sqrt();
    x.iter_mut().for_each(|x| *x *= scale);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_slices() {
        let vectors = Vectors::new(2, vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
        assert_eq!((vectors.rows(), vectors.dim()), (3, 2));
        assert_eq!(vectors.row(1), [3.0, 4.0]);
        assert!(vectors.row(3).is_empty());
        assert_eq!(vectors.slice(1..9).values(), [3.0, 4.0, 5.0, 6.0]);
        assert!(Vectors::new(4, vec![0.0; 6]).is_err());
    }

    #[test]
    fn a_seed_makes_the_same_points() {
        let one = Vectors::clustered(50, 8, 4, 7);
        assert_eq!(one, Vectors::clustered(50, 8, 4, 7));
        assert_ne!(one, Vectors::clustered(50, 8, 4, 8));
        assert_eq!(one.rows(), 50);
    }

    #[test]
    fn midway_between_rows_and_noise() {
        let three = Vectors::new(2, vec![0.0, 2.0, 4.0, 4.0, -2.0, 0.0]).unwrap();
        assert_eq!(three.midway().values(), [2.0, 3.0, 1.0, 2.0]);
        let noise = Vectors::noise(2_000, 4, 1);
        assert_eq!((noise.rows(), noise.dim()), (2_000, 4));
        let square: f32 = noise.values().iter().map(|x| x * x).sum();
        assert!((square / 8_000.0 - 1.0).abs() < 0.05, "{square}");
    }

    #[test]
    fn texts_have_unit_length_and_groups() {
        let (rows, others) = (
            Vectors::like_texts(300, 96, 1, 0),
            Vectors::like_texts(300, 96, 1, 1),
        );
        assert_eq!(rows, Vectors::like_texts(300, 96, 1, 0));
        assert_ne!(rows, others);
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
        assert!(rows.iter().all(|row| (dot(row, row) - 1.0).abs() < 1e-4));
    }

    /// What makes the neighbors of embedded sentences hard to find, in a sample of 8,000 of them.
    #[test]
    fn texts_are_spread_like_texts() {
        let rows = Vectors::like_texts(8_000, 384, 1, 0);
        let queries = Vectors::like_texts(40, 384, 1, 1);
        let (mut tenth, mut dimension) = (0.0, 0.0);
        for query in queries.iter() {
            let dot = |row: &[f32]| -> f32 { row.iter().zip(query).map(|(x, y)| x * y).sum() };
            let mut near: Vec<f32> = rows.iter().map(dot).collect();
            near.sort_unstable_by(|a, b| b.total_cmp(a));
            let distance = |i: usize| f64::from(2.0 - 2.0 * near[i]).sqrt();
            let growth: f64 = (0..99).map(|i| (distance(99) / distance(i)).ln()).sum();
            tenth += f64::from(near[9]) / 40.0;
            dimension += 99.0 / growth / 40.0;
        }
        assert!((0.3..0.5).contains(&tenth), "{tenth}");
        assert!((20.0..45.0).contains(&dimension), "{dimension}");
    }
}
