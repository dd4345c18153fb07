//! Exact scores of rows, and the error of their codes.

use crate::format::Metric;
use crate::model::Model;
use crate::preprocess::{Preprocess, RowClass};
use distillvq_linalg::matrix::{MatRef, matmul_nt, squared_norm};

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
            ..self.data().encoder.space.clone()
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
        let space = &self.data().encoder.space;
        let kinds = space.rows(MatRef::new(vector, self.dim()), &mut internal);
        if kinds != [RowClass::Encodable] {
            return None;
        }
        let mut decoded = self.centroid(list)?.to_vec();
        self.data()
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
