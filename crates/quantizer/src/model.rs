//! The trained model: what is stored, and what is derived from it.
//!
//! A model has two parts. The *encoder* decides lists and codes and is frozen once rows are encoded. The *student* decides
//! scores and probing; training may replace it beside the same encoder.
//!
//! Invariants (checked by [`ModelData::check`], so they hold for every `Model`): shapes fit each other, every number is
//! finite, `1 ≤ lists ≤ MAX_LISTS`, `1 ≤ dim ≤ MAX_DIM`, `1 ≤ subquantizers ≤ max_subquantizers(bits)`, and tables are
//! so small that no query's score overflows.

use crate::kmeans::CentroidIndex;
use crate::linalg::{MatRef, half_norms};
use crate::norm_correction::NormCorrection;
use crate::options::{MAX_DIM, MAX_LISTS, max_subquantizers};
use crate::pq::{Codebooks, TransposedCodebooks};
use crate::preprocess::{MAX_QUERY_NORM, Preprocess};
use crate::{CodeShape, Metric, ModelError, QueryTables, Searcher, bf16, codec};
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::sync::{Arc, OnceLock};

/// Result of a training: code recall before and after, and what was kept.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TrainReport {
    /// Usable rows of the sample.
    pub rows: usize,
    /// Usable queries given.
    pub queries: usize,
    /// Whether the decoder distilled by this training was kept.
    pub decoder_kept: bool,
    /// Recall 10@10 of ranking all sampled rows by their codes, on held-out queries, before distillation: the share of
    /// the exact 10 nearest rows among the best 10 by codes. NaN-free; 0 when distillation was not asked for.
    pub recall_before: f32,
    /// The same with the decoder that was kept, or with the encoder's tables if a training in place went back to them.
    pub recall_after: f32,
    /// Whether the routing trained by this training was kept.
    pub routing_kept: bool,
}

impl TrainReport {
    /// Whether the training changed anything: it kept what distillation made, or went back to the encoder's tables.
    pub fn improved(&self) -> bool {
        self.decoder_kept || self.routing_kept || self.recall_after > self.recall_before
    }
}

/// List centroids and PQ codebooks: one side (encoder or decoder) of the quantizer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct IvfPqTables {
    /// `lists`×`dim`.
    #[serde(with = "crate::bf16")]
    pub centroids: Vec<f32>,
    /// Codebooks of the residuals.
    pub books: Codebooks,
}

/// How the student scores: tables, and the transform of the query before.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Decoder {
    pub tables: IvfPqTables,
    /// `A` of `A·q`, `dim`×`dim`, not orthogonal; empty = the unit matrix.
    #[serde(with = "crate::bf16")]
    pub query_transform: Vec<f32>,
}

impl Decoder {
    /// The decoder that the encoder's tables are.
    pub fn of(tables: &IvfPqTables) -> Decoder {
        Decoder {
            tables: tables.clone(),
            query_transform: Vec::new(),
        }
    }
}

/// Trained routing vectors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Routing {
    /// `lists`×`dim`.
    #[serde(with = "crate::bf16")]
    pub vectors: Vec<f32>,
    /// One a list.
    pub biases: Vec<f32>,
}

/// The part that decides lists and codes: it never changes once rows are encoded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Encoder {
    pub space: Preprocess,
    pub lists: usize,
    pub bits: u8,
    pub tables: IvfPqTables,
    pub scale: NormCorrection,
}

/// The part that distillation changes: it decides scores and probing.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Student {
    /// Decides scores; none = as the encoder.
    pub decoder: Option<Decoder>,
    /// Decides which lists to probe; none = by the encoder's centroids.
    pub routing: Option<Routing>,
    pub report: TrainReport,
}

/// Stored data of a model.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ModelData {
    pub encoder: Encoder,
    pub student: Student,
    /// Raw logged queries that training did not see, row-major.
    pub held_out: Vec<f32>,
}

/// Largest score that a model may give; what rounding adds still fits an `f32`.
const LARGEST_SCORE: f64 = f32::MAX as f64 / 4.0;

fn ensure(holds: bool, what: &str) -> Result<(), ModelError> {
    if holds {
        Ok(())
    } else {
        Err(ModelError::Invalid {
            what: what.to_owned(),
        })
    }
}

impl ModelData {
    pub fn shape(&self) -> CodeShape {
        CodeShape {
            subquantizers: self.encoder.tables.books.subquantizers,
            bits: self.encoder.bits,
            has_norm: self.encoder.space.metric == Metric::L2,
        }
    }

    /// Whether all invariants hold.
    pub fn check(&self) -> Result<(), ModelError> {
        self.encoder.check()?;
        self.student.check(&self.encoder)?;
        let whole = self.held_out.len().is_multiple_of(self.encoder.space.dim);
        let fits = whole && all_finite(&self.held_out);
        ensure(fits, "held-out queries of the wrong shape, or not finite")
    }
}

impl Encoder {
    fn check(&self) -> Result<(), ModelError> {
        let space = &self.space;
        let dims = (1..=MAX_DIM).contains(&space.dim);
        ensure(dims, "dimensions out of range")?;
        ensure((1..=MAX_LISTS).contains(&self.lists), "lists out of range")?;
        ensure(self.bits == 4 || self.bits == 8, "bits are neither 4 nor 8")?;
        let m = self.tables.books.subquantizers;
        ensure(
            (1..=max_subquantizers(self.bits)).contains(&m),
            "sub-quantizers out of range",
        )?;
        let centered = space.metric == Metric::L2;
        let center = if centered { space.dim } else { 0 };
        ensure(space.center.len() == center, "centre of the wrong length")?;
        ensure(all_finite(&space.center), "centre not finite")?;
        let scale_factor = space.scale_factor.is_normal() && space.scale_factor > 0.0;
        ensure(scale_factor, "scale factor out of range")?;
        let longest = space.max_norm > 0.0 && space.max_norm <= f32::MAX.sqrt();
        ensure(longest, "limit out of range")?;
        let square = space.dim * space.dim;
        let rotation = [0, square].contains(&space.rotation.len());
        ensure(rotation, "rotation of the wrong shape")?;
        ensure(
            // An orthogonal matrix has the length √dim.
            space.rotation.is_empty()
                || frobenius_norm(&space.rotation) <= 1.01 * (space.dim as f64).sqrt(),
            "rotation too large, or not finite",
        )?;
        let NormCorrection { lo, step } = self.scale;
        ensure(
            lo.is_finite() && lo > 0.0 && step.is_finite() && step >= 0.0,
            "scale out of range",
        )?;
        self.check_tables(&self.tables, 1.0)
    }

    /// Whether tables fit this encoder and give finite scores for queries that are stretched at most so many times.
    fn check_tables(&self, tables: &IvfPqTables, stretch: f64) -> Result<(), ModelError> {
        ensure(self.fits(tables), "tables of the wrong shape")?;
        let rotated = frobenius_norm(&self.space.rotation).max(1.0);
        ensure(
            rotated * stretch.max(1.0) * self.score_bound(tables) <= LARGEST_SCORE,
            "tables too large, or not finite",
        )
    }

    /// Products cannot overflow: dimensions, lists, sub-quantizers and bits have been found to be small.
    fn fits(&self, tables: &IvfPqTables) -> bool {
        let (books, own) = (&tables.books, &self.tables.books);
        tables.centroids.len() == self.lists * self.space.dim
            && books.dim == self.space.dim
            && books.subquantizers == own.subquantizers
            && books.codewords == 1 << self.bits
            && books.width == self.space.dim.div_ceil(books.subquantizers)
            && books.values.len() == books.padded() * books.codewords
    }

    /// Upper bound of the scores of all queries, and of every sum on the way to them. Infinite or NaN if a value is.
    fn score_bound(&self, tables: &IvfPqTables) -> f64 {
        let books = &tables.books;
        let words = books.values.chunks_exact(books.stride().max(1));
        let words = words.map(|book| longest(book, books.width).powi(2));
        let base = longest(&tables.centroids, self.space.dim);
        let correction = f64::from(self.scale.lo) + 255.0 * f64::from(self.scale.step);
        // The minima of a look-up table, the steps above them, and the rounding of up to 478 steps: less than 8 times.
        let product = MAX_QUERY_NORM * (base + 8.0 * words.sum::<f64>().sqrt());
        // For L2 twice the corrected product.
        product * (2.0 * correction).max(1.0)
    }
}

impl Student {
    /// Whether it fits the encoder.
    fn check(&self, encoder: &Encoder) -> Result<(), ModelError> {
        if let Some(decoder) = &self.decoder {
            let square = encoder.space.dim * encoder.space.dim;
            let query_transform = [0, square].contains(&decoder.query_transform.len());
            let fits = query_transform && all_finite(&decoder.query_transform);
            ensure(fits, "query transform of the wrong shape, or not finite")?;
            let stretch = match decoder.query_transform.is_empty() {
                true => 1.0,
                false => frobenius_norm(&decoder.query_transform),
            };
            encoder.check_tables(&decoder.tables, stretch)?;
        }
        if let Some(Routing { vectors, biases }) = &self.routing {
            let dim = encoder.space.dim;
            let fits = vectors.len() == encoder.lists * dim && biases.len() == encoder.lists;
            ensure(fits, "routing of the wrong shape")?;
            let query = MAX_QUERY_NORM * frobenius_norm(&encoder.space.rotation).max(1.0);
            let largest = query * longest(vectors, dim) + longest(biases, 1);
            ensure(largest <= LARGEST_SCORE, "routing too large, or not finite")?;
        }
        let recalls = [self.report.recall_before, self.report.recall_after];
        ensure(
            recalls.iter().all(|x| (0.0..=1.0).contains(x)),
            "report out of range",
        )
    }
}

/// Frobenius norm: an upper bound of the matrix's operator norm.
fn frobenius_norm(values: &[f32]) -> f64 {
    values
        .iter()
        .map(|x| f64::from(*x).powi(2))
        .sum::<f64>()
        .sqrt()
}

fn all_finite(values: &[f32]) -> bool {
    values.iter().all(|x| x.is_finite())
}

/// Length of the longest vector; NaN if there is a NaN.
fn longest(vectors: &[f32], dim: usize) -> f64 {
    let squares = vectors
        .chunks_exact(dim.max(1))
        .map(|v| v.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>());
    let largest = |a: f64, b| if a >= b || a.is_nan() { a } else { b };
    squares.fold(0.0, largest).sqrt()
}

/// A trained model; cheap to clone.
#[derive(Debug, Clone)]
pub struct Model {
    inner: Arc<Inner>,
}

/// The stored part and what is derived from it once.
#[derive(Debug)]
pub(crate) struct Inner {
    pub body: ModelData,
    /// Half the squared norms of the encoder's centroids.
    pub half_norms: Vec<f32>,
    /// The encoder's codebooks, to search.
    pub encoder_books: TransposedCodebooks,
    /// The shortcut to the encoder's centroids if one is worth it, once a row has come.
    centroid_index: OnceLock<Option<CentroidIndex>>,
    /// What queries need, once one has come.
    searcher: OnceLock<Searcher>,
}

impl Model {
    /// Checks the body and derives the rest.
    pub(crate) fn new(body: ModelData) -> Result<Model, ModelError> {
        body.check()?;
        let tables = &body.encoder.tables;
        let half_norms = half_norms(MatRef::new(&tables.centroids, body.encoder.space.dim));
        let encoder_books = tables.books.transposed();
        Ok(Model {
            inner: Arc::new(Inner {
                body,
                half_norms,
                encoder_books,
                centroid_index: OnceLock::new(),
                searcher: OnceLock::new(),
            }),
        })
    }

    pub(crate) fn inner(&self) -> &Inner {
        &self.inner
    }

    pub(crate) fn body(&self) -> &ModelData {
        &self.inner.body
    }

    /// What finds a row's list among many. Made by the first call.
    pub(crate) fn centroid_index(&self) -> Option<&CentroidIndex> {
        let centroids = MatRef::new(&self.body().encoder.tables.centroids, self.dim());
        let new = || {
            let Ok(centroid_index) = CentroidIndex::new(centroids, || Ok::<_, Infallible>(()));
            centroid_index
        };
        self.inner.centroid_index.get_or_init(new).as_ref()
    }

    /// What searches need of it. Made by the first call.
    pub fn searcher(&self) -> &Searcher {
        let new = || Searcher::new(self.body(), self.shape());
        self.inner.searcher.get_or_init(new)
    }

    /// See [`Searcher::query`].
    pub fn query(&self, vector: &[f32]) -> QueryTables {
        self.searcher().query(vector)
    }

    /// The metric.
    pub fn metric(&self) -> Metric {
        self.body().encoder.space.metric
    }

    /// Dimensions of a vector.
    pub fn dim(&self) -> usize {
        self.body().encoder.space.dim
    }

    /// Inverted lists.
    pub fn lists(&self) -> usize {
        self.body().encoder.lists
    }

    /// Sub-quantizers.
    pub fn subquantizers(&self) -> usize {
        self.shape().subquantizers
    }

    /// Bits of a code.
    pub fn bits(&self) -> u8 {
        self.body().encoder.bits
    }

    /// What is kept of a row.
    pub fn shape(&self) -> CodeShape {
        self.body().shape()
    }

    /// Scores (and norms of rows) are those of vectors that were multiplied by this power of two: 1 except for data of
    /// extreme size and for cosine, where vectors are normalised.
    pub fn scale_factor(&self) -> f32 {
        self.body().encoder.space.scale_factor
    }

    /// What training did.
    pub fn report(&self) -> &TrainReport {
        &self.body().student.report
    }

    /// Raw logged queries, row-major, that training was not shown: to measure an index with. Perhaps none.
    pub fn held_out(&self) -> &[f32] {
        &self.body().held_out
    }

    /// The same model with other queries to measure with. Under cosine they are rounded to two bytes a number.
    ///
    /// # Errors
    /// If they are not whole vectors of finite numbers.
    pub fn with_held_out(&self, mut queries: Vec<f32>) -> Result<Model, ModelError> {
        if self.metric() == Metric::Cosine {
            bf16::round_to_bf16(&mut queries, self.dim());
        }
        Model::new(ModelData {
            held_out: queries,
            ..self.body().clone()
        })
    }

    /// Bytes of memory held.
    pub fn memory_bytes(&self) -> usize {
        let tables = |t: &IvfPqTables| t.centroids.len() + t.books.values.len();
        let ModelData {
            encoder,
            student,
            held_out,
        } = self.body();
        let floats = tables(&encoder.tables)
            + held_out.len()
            + (student.decoder.as_ref()).map_or(0, |d| tables(&d.tables) + d.query_transform.len())
            + encoder.space.rotation.len()
            + student
                .routing
                .as_ref()
                .map_or(0, |r| r.vectors.len() + r.biases.len())
            + encoder.space.center.len()
            + self.inner.half_norms.len();
        let books = self.inner.encoder_books.memory_bytes();
        let searcher = self.inner.searcher.get();
        let searcher = searcher.map_or(0, Searcher::memory_bytes);
        let centroid_index = self.inner.centroid_index.get().and_then(Option::as_ref);
        let centroid_index = centroid_index.map_or(0, CentroidIndex::memory_bytes);
        size_of::<Inner>() + floats * size_of::<f32>() + books + searcher + centroid_index
    }

    /// The encoder as bytes, see [`Model::from_parts`].
    ///
    /// # Errors
    /// Only if the encoding itself fails.
    pub fn encoder_bytes(&self) -> Result<Vec<u8>, ModelError> {
        codec::encoder_bytes(&self.body().encoder)
    }

    /// The student as bytes, see [`Model::from_parts`]. They name the encoder by its checksum.
    ///
    /// # Errors
    /// Only if the encoding itself fails.
    pub fn student_bytes(&self) -> Result<Vec<u8>, ModelError> {
        codec::student_bytes(&self.body().student, &self.encoder_bytes()?)
    }

    /// Encoder, student and held-out queries as bytes, to be read by [`Model::from_bytes`].
    ///
    /// # Errors
    /// Only if the encoding itself fails.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ModelError> {
        let mut bytes = self.encoder_bytes()?;
        let student = codec::student_bytes(&self.body().student, &bytes)?;
        bytes.extend_from_slice(&student);
        if !self.held_out().is_empty() {
            bytes.extend(codec::queries_bytes(self.held_out())?);
        }
        Ok(bytes)
    }

    /// Reads what [`Model::to_bytes`] wrote. Any other bytes are an error; memory stays within a small multiple of
    /// their length.
    ///
    /// # Errors
    /// Every way in which the bytes can fail to be a model of a known version.
    pub fn from_bytes(bytes: &[u8]) -> Result<Model, ModelError> {
        Model::new(codec::from_bytes(bytes)?)
    }

    /// Reads the bytes of an encoder alone: the model encodes as the whole one does, and scores by the encoder's tables.
    ///
    /// # Errors
    /// As [`Model::from_bytes`].
    pub fn from_encoder(encoder: &[u8]) -> Result<Model, ModelError> {
        Model::new(ModelData {
            encoder: codec::encoder(encoder)?,
            student: Student::default(),
            held_out: Vec::new(),
        })
    }

    /// Reads the bytes of an encoder and of a student that belongs to it. There are no held-out queries then.
    ///
    /// # Errors
    /// As [`Model::from_bytes`], and if the student is another encoder's.
    pub fn from_parts(encoder: &[u8], student: &[u8]) -> Result<Model, ModelError> {
        Model::new(codec::from_parts(encoder, student)?)
    }
}
