//! Exact scores of rows, and the error of their codes.

use crate::linalg::{MatRef, matmul_nt, squared_norm};
use crate::preprocess::{Preprocess, RowClass};
use crate::{Metric, Model};

/// Exact scores of rows for some queries, as the model's metric ranks them.
#[derive(Debug)]
pub struct ExactScores {
    /// Without the rotation, which changes no score.
    space: Preprocess,
    /// Internal vectors, row-major.
    queries: Vec<f32>,
}

/// Buffers of [`ExactScores::of`].
#[derive(Debug, Default)]
pub struct ScoreBuffers {
    internal: Vec<f32>,
    scores: Vec<f32>,
}

impl ExactScores {
    /// Most rows at a time: with some hundreds of queries the scores stay in a processor's cache.
    pub const ROWS: usize = 64;

    /// Of how many queries.
    pub fn queries(&self) -> usize {
        self.queries.len() / self.space.dim
    }

    /// The scores (bigger is nearer) of at most [`ExactScores::ROWS`] raw rows: those of all rows for the first query, then
    /// for the second, and so on. A row that the codes cannot represent scores minus infinity.
    pub fn of<'a>(&self, rows: &[f32], buffers: &'a mut ScoreBuffers) -> &'a [f32] {
        let dim = self.space.dim;
        let n = (rows.len() / dim).min(Self::ROWS);
        let ScoreBuffers { internal, scores } = buffers;
        internal.resize(n * dim, 0.0);
        let kinds = self
            .space
            .rows(MatRef::new(&rows[..n * dim], dim), internal);
        let (queries, internal) = (MatRef::new(&self.queries, dim), MatRef::new(internal, dim));
        scores.resize(self.queries() * n, 0.0);
        matmul_nt(queries, internal, scores);
        let norms: Vec<f32> = match self.space.metric {
            Metric::L2 => (0..n).map(|i| squared_norm(internal.row(i))).collect(),
            Metric::InnerProduct | Metric::Cosine => Vec::new(),
        };
        for of_query in scores.chunks_exact_mut(n.max(1)) {
            for (score, norm) in of_query.iter_mut().zip(&norms) {
                *score = 2.0 * *score - norm;
            }
            for (score, kind) in of_query.iter_mut().zip(&kinds) {
                if *kind != RowClass::Encodable {
                    *score = f32::NEG_INFINITY;
                }
            }
        }
        scores
    }
}

impl Model {
    /// What scores rows exactly for raw queries.
    pub fn exact_scores(&self, queries: &[f32]) -> ExactScores {
        let space = Preprocess {
            rotation: Vec::new(),
            ..self.body().encoder.space.clone()
        };
        let dim = space.dim;
        let n = queries.len() / dim;
        let mut internal = vec![0f32; n * dim];
        let raw = queries.chunks_exact(dim);
        for (raw, out) in raw.zip(internal.chunks_exact_mut(dim)) {
            space.query(raw, out);
        }
        ExactScores {
            space,
            queries: internal,
        }
    }

    /// The squared error of a raw row's codes over the squared length of its internal vector, as the encoder decodes
    /// them; none for a row without length, or that is not in a list.
    pub fn code_error(&self, vector: &[f32], list: u32, codes: &[u8]) -> Option<f64> {
        let mut internal = vec![0f32; self.dim()];
        let space = &self.body().encoder.space;
        let kinds = space.rows(MatRef::new(vector, self.dim()), &mut internal);
        if kinds != [RowClass::Encodable] {
            return None;
        }
        let mut decoded = self.centroid(list)?.to_vec();
        self.body()
            .encoder
            .tables
            .books
            .add_decoded(codes, &mut decoded);
        let length = f64::from(squared_norm(&internal));
        for (x, d) in internal.iter_mut().zip(&decoded) {
            *x -= d;
        }
        (length > 0.0).then(|| f64::from(squared_norm(&internal)) / length)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::noise;
    use crate::{NoMonitor, Placement, TrainOptions, train};

    #[test]
    fn scores_rank_as_the_metric_does() {
        let dim = 6;
        let sample = noise(1200 * dim, 5);
        let mut rows = noise(40 * dim, 6);
        rows[..dim].fill(0.0);
        rows[dim..2 * dim].fill(f32::MAX);
        let queries = noise(3 * dim, 7);
        for metric in [Metric::L2, Metric::InnerProduct, Metric::Cosine] {
            let options = TrainOptions {
                metric,
                distill: false,
                ..TrainOptions::default()
            };
            let model = train(&sample, dim, None, &options, &NoMonitor)
                .unwrap()
                .model;
            let exact = model.exact_scores(&queries);
            assert_eq!(exact.queries(), 3);
            let mut buffers = ScoreBuffers::default();
            let scores = exact.of(&rows, &mut buffers);
            for (query, scores) in queries.chunks(dim).zip(scores.chunks(40)) {
                let dot = |a: &[f32], b: &[f32]| -> f64 {
                    a.iter()
                        .zip(b)
                        .map(|(x, y)| f64::from(*x) * f64::from(*y))
                        .sum()
                };
                let nearness = |row: &[f32]| match metric {
                    Metric::L2 => 2.0 * dot(query, row) - dot(row, row),
                    Metric::InnerProduct => dot(query, row),
                    Metric::Cosine => dot(query, row) / dot(row, row).sqrt(),
                };
                let mut order: Vec<usize> = (2..40).collect();
                order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
                let near: Vec<f64> = order
                    .iter()
                    .map(|row| nearness(&rows[row * dim..(row + 1) * dim]))
                    .collect();
                assert!(
                    near.windows(2).all(|pair| pair[0] >= pair[1] - 1e-5),
                    "{metric}"
                );
                if metric != Metric::Cosine {
                    assert_eq!(scores[1], f32::NEG_INFINITY);
                }
            }
        }
    }

    #[test]
    fn finer_codes_have_smaller_errors() {
        let dim = 8;
        let sample = noise(1500 * dim, 5);
        let error = |subquantizers: usize, bits: u8| -> f64 {
            let options = TrainOptions {
                subquantizers,
                bits,
                lists: 4,
                distill: false,
                ..TrainOptions::default()
            };
            let model = train(&sample, dim, None, &options, &NoMonitor)
                .unwrap()
                .model;
            let encoded = model.encode(&sample);
            let rows = sample.chunks(dim).zip(encoded.codes.chunks(subquantizers));
            let errors = rows.zip(&encoded.rows).filter_map(|((row, codes), one)| {
                let Placement::List(list) = one.placement else {
                    return None;
                };
                model.code_error(row, list, codes)
            });
            errors.sum::<f64>() / 1500.0
        };
        let errors = [error(2, 4), error(4, 4), error(8, 8)];
        assert!(
            errors[0] < 1.0 && errors.is_sorted_by(|a, b| a > b),
            "{errors:?}"
        );
        assert!(errors[2] < 0.01, "{errors:?}");
    }
}
