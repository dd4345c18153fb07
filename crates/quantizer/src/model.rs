//! The trained model: what is stored, and what is derived from it.
//!
//! Invariants (checked by [`Body::check`], so they hold for every `Model`): shapes fit each other, every number is
//! finite, `1 ≤ lists ≤ MAX_LISTS`, `1 ≤ dim ≤ MAX_DIM`, `1 ≤ subquantizers ≤ max_subquantizers(bits)`.

use crate::linalg::{MatRef, half_norms};
use crate::options::{MAX_DIM, MAX_LISTS, max_subquantizers};
use crate::product::{ByDimension, Codebooks};
use crate::scale::Scale;
use crate::space::Space;
use crate::{CodeShape, Metric, ModelError, codec};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What training did and gained.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Usable rows of the sample.
    pub rows: usize,
    /// Usable queries given.
    pub queries: usize,
    /// Whether the distilled decoder was kept.
    pub distilled: bool,
    /// Recall 10@10 of ranking all sampled rows by their codes, on held-out queries, before distillation: the share of
    /// the exact 10 nearest rows among the best 10 by codes. NaN-free; 0 when distillation was not asked for.
    pub recall_before: f32,
    /// The same with the decoder that was kept.
    pub recall_after: f32,
    /// Whether the trained routing was kept.
    pub routed: bool,
}

/// List bases and codebooks: one side (encoder or decoder) of the quantizer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Tables {
    /// `lists`×`dim`.
    pub centroids: Vec<f32>,
    /// Codebooks of the residuals.
    pub books: Codebooks,
}

/// Trained routing vectors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Routing {
    /// `lists`×`dim`.
    pub vectors: Vec<f32>,
    /// One a list.
    pub biases: Vec<f32>,
}

/// What is stored of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Body {
    pub space: Space,
    pub lists: usize,
    pub bits: u8,
    /// Decides lists and codes; never changes once rows are encoded.
    pub encoder: Tables,
    /// Decides scores; none = as the encoder.
    pub decoder: Option<Tables>,
    /// Decides which lists to probe; none = by the encoder's centroids.
    pub routing: Option<Routing>,
    pub scale: Scale,
    pub report: Report,
}

impl Body {
    pub fn shape(&self) -> CodeShape {
        CodeShape {
            subquantizers: self.encoder.books.subquantizers,
            bits: self.bits,
            has_norm: self.space.metric == Metric::L2,
        }
    }

    /// Whether all invariants hold.
    pub fn check(&self) -> Result<(), ModelError> {
        let claim = |holds: bool, what: &str| {
            if holds {
                Ok(())
            } else {
                Err(ModelError::Invalid {
                    what: what.to_owned(),
                })
            }
        };
        let dim = self.space.dim;
        claim((1..=MAX_DIM).contains(&dim), "dimensions out of range")?;
        claim((1..=MAX_LISTS).contains(&self.lists), "lists out of range")?;
        claim(self.bits == 4 || self.bits == 8, "bits are neither 4 nor 8")?;
        let m = self.encoder.books.subquantizers;
        claim(
            (1..=max_subquantizers(self.bits)).contains(&m),
            "sub-quantizers out of range",
        )?;
        let center = if self.space.metric == Metric::L2 {
            dim
        } else {
            0
        };
        claim(
            self.space.center.len() == center,
            "centre of the wrong length",
        )?;
        claim(
            self.space.center.iter().all(|x| x.is_finite()),
            "centre not finite",
        )?;
        claim(
            self.space.unit.is_normal() && self.space.unit > 0.0,
            "unit out of range",
        )?;
        claim(
            self.space.longest.is_finite() && self.space.longest > 0.0,
            "limit out of range",
        )?;
        let Scale { lo, step } = self.scale;
        claim(
            lo.is_finite() && lo > 0.0 && step.is_finite() && step >= 0.0,
            "scale out of range",
        )?;
        for tables in [Some(&self.encoder), self.decoder.as_ref()]
            .into_iter()
            .flatten()
        {
            claim(
                self.fits(tables),
                "tables of the wrong shape, or not finite",
            )?;
        }
        if let Some(routing) = &self.routing {
            let fits =
                routing.vectors.len() == self.lists * dim && routing.biases.len() == self.lists;
            claim(fits, "routing of the wrong shape")?;
            claim(
                routing
                    .vectors
                    .iter()
                    .chain(&routing.biases)
                    .all(|x| x.is_finite()),
                "routing not finite",
            )?;
        }
        let recalls = [self.report.recall_before, self.report.recall_after];
        claim(
            recalls.iter().all(|x| (0.0..=1.0).contains(x)),
            "report out of range",
        )
    }

    /// Products cannot overflow: all factors have been found to be small.
    fn fits(&self, tables: &Tables) -> bool {
        let books = &tables.books;
        tables.centroids.len() == self.lists * self.space.dim
            && books.subquantizers == self.encoder.books.subquantizers
            && books.words == 1 << self.bits
            && books.width == self.space.dim.div_ceil(books.subquantizers)
            && books.values.len() == books.subquantizers * books.words * books.width
            && tables
                .centroids
                .iter()
                .chain(&books.values)
                .all(|x| x.is_finite())
    }
}

/// A trained model; cheap to clone.
#[derive(Debug, Clone)]
pub struct Model {
    inner: Arc<Inner>,
}

/// The stored part and what is derived from it once.
#[derive(Debug)]
pub(crate) struct Inner {
    pub body: Body,
    /// Half the squared norms of the encoder's centroids.
    pub half_norms: Vec<f32>,
    /// The encoder's codebooks, to search.
    pub encoder_books: ByDimension,
    /// The decoder's, if it has its own.
    pub decoder_books: Option<ByDimension>,
}

impl Model {
    /// Checks the body and derives the rest.
    pub(crate) fn new(body: Body) -> Result<Model, ModelError> {
        body.check()?;
        let half_norms = half_norms(MatRef::new(&body.encoder.centroids, body.space.dim));
        let encoder_books = body.encoder.books.by_dimension();
        let decoder_books = body.decoder.as_ref().map(|d| d.books.by_dimension());
        Ok(Model {
            inner: Arc::new(Inner {
                body,
                half_norms,
                encoder_books,
                decoder_books,
            }),
        })
    }

    pub(crate) fn inner(&self) -> &Inner {
        &self.inner
    }

    pub(crate) fn body(&self) -> &Body {
        &self.inner.body
    }

    /// The metric.
    pub fn metric(&self) -> Metric {
        self.body().space.metric
    }

    /// Dimensions of a vector.
    pub fn dim(&self) -> usize {
        self.body().space.dim
    }

    /// Inverted lists.
    pub fn lists(&self) -> usize {
        self.body().lists
    }

    /// Sub-quantizers.
    pub fn subquantizers(&self) -> usize {
        self.shape().subquantizers
    }

    /// Bits of a code.
    pub fn bits(&self) -> u8 {
        self.body().bits
    }

    /// What is kept of a row.
    pub fn shape(&self) -> CodeShape {
        self.body().shape()
    }

    /// Scores (and norms of rows) are those of vectors that were multiplied by this power of two: 1 except for data of
    /// extreme size and for cosine, where vectors are normalised.
    pub fn unit(&self) -> f32 {
        self.body().space.unit
    }

    /// What training did.
    pub fn report(&self) -> &Report {
        &self.body().report
    }

    /// Bytes of memory held.
    pub fn memory_bytes(&self) -> usize {
        let tables = |t: &Tables| t.centroids.len() + t.books.values.len();
        let body = self.body();
        let floats = tables(&body.encoder)
            + body.decoder.as_ref().map_or(0, tables)
            + body
                .routing
                .as_ref()
                .map_or(0, |r| r.vectors.len() + r.biases.len())
            + body.space.center.len()
            + self.inner.half_norms.len();
        let books = self.inner.encoder_books.memory_bytes()
            + self
                .inner
                .decoder_books
                .as_ref()
                .map_or(0, ByDimension::memory_bytes);
        size_of::<Inner>() + floats * size_of::<f32>() + books
    }

    /// Envelope and body as bytes, to be read by [`Model::from_bytes`].
    ///
    /// # Errors
    /// Only if the encoder itself fails.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ModelError> {
        codec::to_bytes(self.body())
    }

    /// Reads what [`Model::to_bytes`] wrote. Any other bytes are an error; memory stays within a small multiple of
    /// their length.
    ///
    /// # Errors
    /// Every way in which the bytes can fail to be a model of a known version.
    pub fn from_bytes(bytes: &[u8]) -> Result<Model, ModelError> {
        Model::new(codec::from_bytes(bytes)?)
    }
}
