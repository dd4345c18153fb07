//! The trained model: its parameters, and the tables derived from them.

use crate::coarse::CentroidIndex;
use crate::codebooks::TransposedCodebooks;
use crate::error::ModelError;
use crate::format::{CodeShape, Metric};
use crate::params::{IvfPqTables, ModelData, Student, TrainReport};
use crate::query::searcher::{QueryTables, Searcher};
use crate::{bf16, codec};
use distillvq_linalg::matrix::{MatRef, half_norms};
use std::convert::Infallible;
use std::sync::{Arc, OnceLock};

/// A trained model; cheap to clone.
#[derive(Debug, Clone)]
pub struct Model {
    inner: Arc<Inner>,
}

/// The stored part and what is derived from it once.
#[derive(Debug)]
pub(crate) struct Inner {
    pub data: ModelData,
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
    pub fn new(data: ModelData) -> Result<Model, ModelError> {
        data.check()?;
        let tables = &data.encoder.tables;
        let half_norms = half_norms(MatRef::new(&tables.centroids, data.encoder.space.dim));
        let encoder_books = tables.books.transposed();
        Ok(Model {
            inner: Arc::new(Inner {
                data,
                half_norms,
                encoder_books,
                centroid_index: OnceLock::new(),
                searcher: OnceLock::new(),
            }),
        })
    }

    /// Half the squared norm of each centroid of the encoder.
    pub fn half_norms(&self) -> &[f32] {
        &self.inner.half_norms
    }

    pub(crate) fn inner(&self) -> &Inner {
        &self.inner
    }

    /// The parameters.
    pub fn data(&self) -> &ModelData {
        &self.inner.data
    }

    /// What finds a row's list among many. Made by the first call.
    pub(crate) fn centroid_index(&self) -> Option<&CentroidIndex> {
        let centroids = MatRef::new(&self.data().encoder.tables.centroids, self.dim());
        let new = || {
            let Ok(centroid_index) = CentroidIndex::new(centroids, || Ok::<_, Infallible>(()));
            centroid_index
        };
        self.inner.centroid_index.get_or_init(new).as_ref()
    }

    /// What searches need of it. Made by the first call.
    pub fn searcher(&self) -> &Searcher {
        let new = || Searcher::new(self.data(), self.shape());
        self.inner.searcher.get_or_init(new)
    }

    /// See [`Searcher::query`].
    pub fn query(&self, vector: &[f32]) -> QueryTables {
        self.searcher().query(vector)
    }

    /// The metric.
    pub fn metric(&self) -> Metric {
        self.data().encoder.space.metric
    }

    /// Dimensions of a vector.
    pub fn dim(&self) -> usize {
        self.data().encoder.space.dim
    }

    /// Inverted lists.
    pub fn lists(&self) -> usize {
        self.data().encoder.lists
    }

    /// Subquantizers.
    pub fn subquantizers(&self) -> usize {
        self.shape().subquantizers
    }

    /// Bits of a code.
    pub fn bits(&self) -> u8 {
        self.data().encoder.bits
    }

    /// Maximum number of lists per row: 1 or 2.
    pub fn assignments(&self) -> usize {
        self.data().encoder.assignments.into()
    }

    /// What is kept of a row.
    pub fn shape(&self) -> CodeShape {
        self.data().shape()
    }

    /// Scores (and norms of rows) are those of vectors that were multiplied by this power of two: 1 except for data of
    /// extreme size and for cosine, where vectors are normalized.
    pub fn scale_factor(&self) -> f32 {
        self.data().encoder.space.scale_factor
    }

    /// What training did.
    pub fn report(&self) -> &TrainReport {
        &self.data().student.report
    }

    /// Raw logged queries, row-major, that training was not shown: to measure an index with. Perhaps none.
    pub fn held_out(&self) -> &[f32] {
        &self.data().held_out
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
            ..self.data().clone()
        })
    }

    /// Bytes of memory held.
    pub fn memory_bytes(&self) -> usize {
        let tables = |t: &IvfPqTables| t.centroids.len() + t.books.values.len();
        let ModelData {
            encoder,
            student,
            held_out,
        } = self.data();
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
        codec::encoder_bytes(&self.data().encoder)
    }

    /// The student as bytes, see [`Model::from_parts`]. They name the encoder by its checksum.
    ///
    /// # Errors
    /// Only if the encoding itself fails.
    pub fn student_bytes(&self) -> Result<Vec<u8>, ModelError> {
        codec::student_bytes(&self.data().student, &self.encoder_bytes()?)
    }

    /// The student as bytes that name a stored encoder, whatever format version that was written in.
    ///
    /// # Errors
    /// [`ModelError::OtherEncoder`] if `encoder` is not the encoder of this model; as [`Model::from_encoder`] if it is none.
    pub fn student_bytes_for(&self, encoder: &[u8]) -> Result<Vec<u8>, ModelError> {
        if codec::encoder(encoder)? != self.data().encoder {
            return Err(ModelError::OtherEncoder {
                expected: crc32c::crc32c(&self.encoder_bytes()?),
                found: crc32c::crc32c(encoder),
            });
        }
        codec::student_bytes(&self.data().student, encoder)
    }

    /// Encoder, student and held-out queries as bytes, to be read by [`Model::from_bytes`].
    ///
    /// # Errors
    /// Only if the encoding itself fails.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ModelError> {
        let mut bytes = self.encoder_bytes()?;
        let student = codec::student_bytes(&self.data().student, &bytes)?;
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
