//! Parameters of a model, as they are stored.
//!
//! The *encoder* decides lists and codes and is frozen once rows are encoded. The *student* decides scores and probing;
//! training may replace it beside the same encoder.

use crate::codebooks::Codebooks;
use crate::format::{CodeShape, Metric};
use crate::norm_correction::NormCorrection;
use crate::preprocess::Preprocess;
use serde::{Deserialize, Serialize};

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
pub struct IvfPqTables {
    /// `lists`×`dim`.
    #[serde(with = "crate::bf16")]
    pub centroids: Vec<f32>,
    /// Codebooks of the residuals.
    pub books: Codebooks,
}

/// How the student scores: tables, and the transform of the query before.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decoder {
    /// Centroids and codebooks that scores are computed from.
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
pub struct Routing {
    /// `lists`×`dim`.
    #[serde(with = "crate::bf16")]
    pub vectors: Vec<f32>,
    /// One a list.
    pub biases: Vec<f32>,
}

/// The part that decides lists and codes: it never changes once rows are encoded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Encoder {
    /// The preprocessing of rows and queries.
    pub space: Preprocess,
    /// Number of lists.
    pub lists: usize,
    /// Bits of a code: 4 or 8.
    pub bits: u8,
    /// Maximum number of lists per row: 1, or 2 (see [`crate::coarse::second_list`]).
    pub assignments: u8,
    /// Centroids and codebooks that rows are encoded by.
    pub tables: IvfPqTables,
    /// Range of the norm corrections.
    pub scale: NormCorrection,
}

/// The part that distillation changes: it decides scores and probing.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Student {
    /// Decides scores; none = as the encoder.
    pub decoder: Option<Decoder>,
    /// Decides which lists to probe; none = by the encoder's centroids.
    pub routing: Option<Routing>,
    /// What the training of this student did.
    pub report: TrainReport,
}

/// Stored data of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelData {
    /// Decides lists and codes.
    pub encoder: Encoder,
    /// Decides scores and probing.
    pub student: Student,
    /// Raw logged queries that training did not see, row-major.
    pub held_out: Vec<f32>,
}

impl ModelData {
    /// Shape of the stored codes.
    pub fn shape(&self) -> CodeShape {
        CodeShape {
            subquantizers: self.encoder.tables.books.subquantizers,
            bits: self.encoder.bits,
            has_norm: self.encoder.space.metric == Metric::L2,
        }
    }
}
