//! What searches need of a model, and the tables of a query.

use crate::codebooks::TransposedCodebooks;
use crate::format::{CodeShape, Metric};
use crate::norm_correction::NormCorrection;
use crate::params::ModelData;
use crate::preprocess::Preprocess;
use crate::query::lut::{expected_error, quantize_lut};
use crate::query::ranking::{ListRanking, centroid_routing};
use crate::sq7::RefineQuery;
use distillvq_kernels::ScoreParams;
use distillvq_linalg::int8::{QueryMatrix, QueryVector};
use distillvq_linalg::matrix::{MatRef, half_norms};
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
            None => {
                let centroids = MatRef::new(&encoder.tables.centroids, dim);
                let (norms, biases) = centroid_routing(encoder.space.metric, half_norms(centroids));
                let mut vectors = QueryMatrix::new(centroids);
                if !norms.is_empty() {
                    vectors.scale_rows(norms.iter().map(|norm| 1.0 / norm));
                }
                (vectors, biases)
            }
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
        let mut query = vec![0f32; it.space.dim];
        it.space.query(vector, &mut query);
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

/// What a query needs to score rows.
#[derive(Debug, Clone)]
pub struct QueryTables {
    /// Look-up table as the scan kernels want it: 16·(even m) or 256·m bytes. An entry is `(value − minimum of its
    /// subquantizer)/delta`, rounded.
    pub lut: Vec<u8>,
    /// Value of one step of the table.
    pub delta: f32,
    /// Sum of the minima of the subquantizers.
    pub lut_bias: f32,
    /// See [`QueryTables::expected_error`].
    error: f32,
    /// The internal query.
    query: QueryVector,
    /// The same as the decoder wants it, if it wants it otherwise.
    transformed: Option<QueryVector>,
    searcher: Searcher,
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
        ListRanking::from_scores(&scores)
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
