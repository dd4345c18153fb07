//! The query's side: which lists to probe, and the tables that score codes.
//!
//! Score (bigger is nearer), with `κ` the row's norm correction: `κ·(q·O[list] + Σ_s LUT[s][code_s])` for cosine and
//! inner product, twice that minus the row's squared norm for L2. One look-up table serves all lists.
//!
//! Everything that a query is multiplied by is int8, except for the codebooks.

use crate::codebooks::TransposedCodebooks;
use crate::int8::{QueryMatrix, QueryVector};
use crate::linalg::{MatRef, half_norms};
use crate::norm_correction::NormCorrection;
use crate::params::{Encoder, ModelData};
use crate::preprocess::Preprocess;
use crate::refine::RefineQuery;
use crate::{CodeShape, Metric};
use distillvq_kernels::ScoreParams;
use std::sync::Arc;

/// What searches need of a model, in a fraction of its memory; cheap to clone.
#[derive(Debug, Clone)]
pub struct Searcher {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shape: CodeShape,
    /// Without the rotation.
    space: Preprocess,
    rotation: Option<QueryMatrix>,
    /// What the decoder multiplies the query by.
    query_transform: Option<QueryMatrix>,
    /// A row a list: its product with the query and the list's bias rank the lists.
    routing: QueryMatrix,
    /// Empty if there are none.
    biases: Vec<f32>,
    /// A row a list: its product with the query is what all rows of the list share.
    bases: QueryMatrix,
    books: TransposedCodebooks,
    scale: NormCorrection,
}

impl Searcher {
    pub(crate) fn new(body: &ModelData, shape: CodeShape) -> Searcher {
        let ModelData {
            encoder, student, ..
        } = body;
        let dim = encoder.space.dim;
        let square = |matrix: &[f32]| {
            let matrix = MatRef::new(matrix, dim);
            (matrix.rows() > 0).then(|| QueryMatrix::new(matrix))
        };
        let decoder = student.decoder.as_ref();
        let tables = decoder.map_or(&encoder.tables, |d| &d.tables);
        let (routing, biases) = match &student.routing {
            Some(trained) => (
                QueryMatrix::new(MatRef::new(&trained.vectors, dim)),
                trained.biases.clone(),
            ),
            None => centroid_routing(encoder),
        };
        Searcher {
            inner: Arc::new(Inner {
                shape,
                space: Preprocess {
                    rotation: Vec::new(),
                    ..encoder.space.clone()
                },
                rotation: square(&encoder.space.rotation),
                query_transform: decoder.and_then(|d| square(&d.query_transform)),
                routing,
                biases,
                bases: QueryMatrix::new(MatRef::new(&tables.centroids, dim)),
                books: tables.books.transposed(),
                scale: encoder.scale,
            }),
        }
    }

    /// Inverted lists.
    pub fn lists(&self) -> usize {
        self.inner.routing.rows()
    }

    /// What is kept of a row.
    pub fn shape(&self) -> CodeShape {
        self.inner.shape
    }

    /// See [`crate::Model::scale_factor`].
    pub fn scale_factor(&self) -> f32 {
        self.inner.space.scale_factor
    }

    /// Bytes of memory held.
    pub fn memory_bytes(&self) -> usize {
        let it = &*self.inner;
        let squares = [&it.rotation, &it.query_transform].into_iter().flatten();
        let matrices = squares.chain([&it.routing, &it.bases]);
        size_of::<Inner>()
            + matrices.map(QueryMatrix::memory_bytes).sum::<usize>()
            + size_of_val(&it.biases[..])
            + size_of_val(&it.space.center[..])
            + it.books.memory_bytes()
    }

    /// Tables to score rows for a raw query (`dim` values; missing ones count as 0, as do values that are not finite).
    /// A zero query under cosine scores every row alike.
    pub fn query(&self, vector: &[f32]) -> QueryTables {
        let it = &*self.inner;
        let mut raw = vector.to_vec();
        raw.resize(it.space.dim, 0.0);
        let mut query = vec![0f32; it.space.dim];
        it.space.query(&raw, &mut query);
        if let Some(rotation) = &it.rotation {
            query = rotation.products(&QueryVector::new(&query));
        }
        let small = QueryVector::new(&query);
        let transformed = it
            .query_transform
            .as_ref()
            .map(|query_transform| query_transform.products(&small));
        let table = it.books.products(transformed.as_ref().unwrap_or(&query));
        let error = expected_error(&table, it.shape, it.space.dim);
        let (lut, delta, lut_bias) = quantize_lut(&table, it.shape.words(), it.shape.lut_bytes());
        QueryTables {
            lut,
            delta,
            lut_bias,
            error: match it.space.metric {
                Metric::L2 => 2.0 * error,
                Metric::InnerProduct | Metric::Cosine => error,
            },
            transformed: transformed.map(|transformed| QueryVector::new(&transformed)),
            query: small,
            searcher: self.clone(),
        }
    }
}

/// Lists by the encoder's centroids: by distance for L2, by product for inner product, by cosine for cosine.
fn centroid_routing(encoder: &Encoder) -> (QueryMatrix, Vec<f32>) {
    let centroids = MatRef::new(&encoder.tables.centroids, encoder.space.dim);
    let mut routing = QueryMatrix::new(centroids);
    let halves = half_norms(centroids).into_iter();
    match encoder.space.metric {
        Metric::L2 => (routing, halves.map(|half| -half).collect()),
        Metric::InnerProduct => (routing, Vec::new()),
        Metric::Cosine => {
            let length = |half: f32| (2.0 * half).sqrt().max(f32::MIN_POSITIVE);
            routing.scale_rows(halves.map(|half| 1.0 / length(half)));
            (routing, Vec::new())
        }
    }
}

/// What a query needs to score rows.
#[derive(Debug, Clone)]
pub struct QueryTables {
    /// Look-up table as the scan kernels want it: 16·(even m) or 256·m bytes. An entry is `(value − minimum of its
    /// sub-quantizer)/delta`, rounded.
    pub lut: Vec<u8>,
    /// Value of one step of the table.
    pub delta: f32,
    /// Sum of the minima of the sub-quantizers.
    pub lut_bias: f32,
    /// See [`QueryTables::expected_error`].
    error: f32,
    /// The internal query.
    query: QueryVector,
    /// The same as the decoder wants it, if it wants it otherwise.
    transformed: Option<QueryVector>,
    searcher: Searcher,
}

/// Largest table entry, such that no sum of `rows` entries overflows 16 bits.
fn largest_entry(rows: usize) -> f32 {
    (65_535 / rows.max(1)).min(255) as f32
}

/// The standard deviation of a product's error: of the variance of the words' products, codes of so many bits a dimension
/// leave that share which they leave of noise.
fn expected_error(table: &[f32], shape: CodeShape, dim: usize) -> f32 {
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
pub(crate) fn quantize_lut(table: &[f32], words: usize, bytes: usize) -> (Vec<u8>, f32, f32) {
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

impl QueryTables {
    /// The query for refine codes.
    pub fn refine(&self) -> RefineQuery {
        let metric = self.searcher.inner.space.metric;
        match &self.query {
            QueryVector::F32(values) => RefineQuery::new(values, metric),
            QueryVector::Int8 { values, step } => {
                let dim = self.searcher.inner.space.dim;
                RefineQuery::of(values[..dim].to_vec(), *step, metric)
            }
        }
    }

    /// The standard deviation that the errors of scores have by the shape of the codes, if rows are spread as the codebooks
    /// are.
    pub fn expected_error(&self) -> f32 {
        self.error
    }

    /// What an estimate plus the loss of the distance (see the scores of searches) leaves, the same for all rows: the query's
    /// squared norm for L2, 1 for cosine, and nothing for inner product.
    pub fn constant(&self) -> f64 {
        match self.searcher.inner.space.metric {
            Metric::L2 => self.query.squared_norm(),
            Metric::InnerProduct => 0.0,
            Metric::Cosine => 1.0,
        }
    }

    /// All lists, to be had best first.
    ///
    /// Trained routing scores `q·W[list] + b[list]`. Without it the encoder's centroids decide: by distance for L2, by
    /// product for inner product, by cosine for cosine.
    pub fn ranking(&self) -> ListRanking {
        let it = &*self.searcher.inner;
        let mut scores = it.routing.products(&self.query);
        for (score, bias) in scores.iter_mut().zip(&it.biases) {
            *score += bias;
        }
        ListRanking::new(&scores)
    }

    /// As [`QueryTables::score_params`], for many lists.
    pub fn list_score_params(&self, lists: &[u32]) -> Vec<ScoreParams> {
        // Far apart in memory: the next ones are on their way while one is computed.
        const AHEAD: usize = 8;
        let bases = &self.searcher.inner.bases;
        let near = |list: &u32| bases.prefetch(*list as usize);
        lists.iter().take(AHEAD).for_each(near);
        let each = lists.iter().enumerate().map(|(i, list)| {
            lists.get(i + AHEAD).map(near);
            self.score_params(*list)
        });
        each.collect()
    }

    /// Parameters of the final score in `list`. A list that the model does not have has no base of its own.
    pub fn score_params(&self, list: u32) -> ScoreParams {
        let it = &*self.searcher.inner;
        let query = self.transformed.as_ref().unwrap_or(&self.query);
        ScoreParams {
            base: it.bases.product(list as usize, query) + self.lut_bias,
            delta: self.delta,
            correction_min: it.scale.lo,
            correction_step: it.scale.step,
        }
    }
}

/// Lists in the order in which a query probes them, sorted lazily.
#[derive(Debug, Clone, Default)]
pub struct ListRanking {
    /// In each the score, such that the best comes first, above the list: one number, so that sorting is quick.
    keys: Vec<u64>,
    /// So many are the best, best first.
    sorted: usize,
}

impl ListRanking {
    /// By scores, the list being the position.
    fn new(scores: &[f32]) -> ListRanking {
        let keys = scores.iter().zip(0u64..);
        ListRanking {
            keys: keys
                .map(|(score, list)| u64::from(descending_key(score.to_bits())) << 32 | list)
                .collect(),
            sorted: 0,
        }
    }

    /// Number of lists.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The lists from the `from`-th to the `to`-th, or as many of them as there are: best first, among equals the smaller
    /// list.
    pub fn lists(&mut self, from: usize, to: usize) -> impl ExactSizeIterator<Item = u32> {
        let to = to.min(self.keys.len());
        self.sort(to);
        self.keys[from.min(to)..to].iter().map(|key| *key as u32)
    }

    /// Sorts the first `n` at least, which must not be more than there are.
    fn sort(&mut self, n: usize) {
        if n <= self.sorted {
            return;
        }
        // Twice as many as were sorted, so that whoever asks step by step does not pay for each.
        let end = n.max(2 * self.sorted).min(self.keys.len());
        let rest = &mut self.keys[self.sorted..];
        let wanted = end - self.sorted;
        if wanted < rest.len() {
            rest.select_nth_unstable(wanted);
        }
        rest[..wanted].sort_unstable();
        self.sorted = end;
    }

    /// All of them with their scores, best first.
    pub fn all(mut self) -> Vec<(f32, u32)> {
        self.sort(self.keys.len());
        let score = |key: u64| f32::from_bits(descending_key((key >> 32) as u32));
        self.keys
            .iter()
            .map(|key| (score(*key), *key as u32))
            .collect()
    }
}

/// The order of `f32::total_cmp` turned round, for the bits of floats: greater numbers get lesser ones. Its own inverse.
fn descending_key(bits: u32) -> u32 {
    let negative = bits >> 31 == 1;
    if negative {
        bits
    } else {
        bits ^ (u32::MAX >> 1)
    }
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

    #[test]
    fn rankings_are_sorted_piece_by_piece() {
        let mut scores: Vec<f32> = (0..500u32).map(|i| (i * 7919 % 83) as f32 - 40.0).collect();
        scores[17] = f32::INFINITY;
        scores[18] = f32::NEG_INFINITY;
        scores[19] = -0.0;
        let mut expected: Vec<u32> = (0..500).collect();
        expected.sort_by(|a, b| scores[*b as usize].total_cmp(&scores[*a as usize]));
        let ranking = ListRanking::new(&scores);
        let all = ranking.clone().all().into_iter();
        assert!(all.eq(expected.iter().map(|list| (scores[*list as usize], *list))));
        let mut by_pieces = ranking;
        for (from, to) in [
            (0, 0),
            (0, 1),
            (1, 2),
            (0, 34),
            (34, 34),
            (30, 20),
            (20, 100),
            (0, 499),
            (7, 501),
        ] {
            let lists: Vec<u32> = by_pieces.lists(from, to).collect();
            let to = to.min(500);
            assert_eq!(lists, &expected[from.min(to)..to]);
        }
    }
}
