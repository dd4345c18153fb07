//! The trained model.
use crate::{CodeShape, Metric, ModelError};
use distillvq_kernels::Affine;
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
    /// Recall 10@10 of the ranking by codes on held-out queries, before distillation.
    pub recall_before: f32,
    /// The same with the decoder that was kept.
    pub recall_after: f32,
}

/// Where a row goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// Into this inverted list.
    List(u32),
    /// Into the exact list: the codes cannot represent it.
    Exact,
    /// Nowhere: it has no place under this metric (a zero vector under cosine).
    Unindexed,
}

/// An encoded row, without its codes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Encoded {
    /// Where the row goes.
    pub placement: Placement,
    /// Norm correction byte.
    pub scale: u8,
    /// Squared norm of the internal vector (L2), else 0.
    pub norm: f32,
}

/// Encoded rows.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EncodedRows {
    /// One entry a row.
    pub rows: Vec<Encoded>,
    /// Codes, `subquantizers` bytes a row, one code a byte; zeros for rows outside the lists.
    pub codes: Vec<u8>,
}

/// A trained model; cheap to clone.
#[derive(Debug, Clone)]
pub struct Model {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    metric: Metric,
    dim: usize,
    lists: usize,
    shape: CodeShape,
    report: Report,
}

impl Model {
    /// The metric.
    pub fn metric(&self) -> Metric {
        self.inner.metric
    }
    /// Dimensions of a vector.
    pub fn dim(&self) -> usize {
        self.inner.dim
    }
    /// Inverted lists.
    pub fn lists(&self) -> usize {
        self.inner.lists
    }
    /// Sub-quantizers.
    pub fn subquantizers(&self) -> usize {
        self.inner.shape.subquantizers
    }
    /// Bits of a code.
    pub fn bits(&self) -> u8 {
        self.inner.shape.bits
    }
    /// What is kept of a row.
    pub fn shape(&self) -> CodeShape {
        self.inner.shape
    }
    /// What training did.
    pub fn report(&self) -> &Report {
        &self.inner.report
    }
    /// Bytes of memory held.
    pub fn memory_bytes(&self) -> usize {
        size_of::<Inner>()
    }
    /// Bytes of the model: envelope and body.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ModelError> {
        Err(ModelError::NotAModel)
    }
    /// Reads what [`Model::to_bytes`] wrote.
    pub fn from_bytes(_bytes: &[u8]) -> Result<Model, ModelError> {
        Err(ModelError::NotAModel)
    }
    /// Encodes `n×dim` raw row-major vectors.
    pub fn encode(&self, _vectors: &[f32]) -> EncodedRows {
        EncodedRows::default()
    }
    /// Tables to score rows for this raw query.
    pub fn query(&self, _vector: &[f32]) -> QueryTables {
        QueryTables {
            lut: Vec::new(),
            delta: 0.0,
            lut_bias: 0.0,
        }
    }
}

/// What a query needs to score rows.
#[derive(Debug, Clone)]
pub struct QueryTables {
    /// Look-up table as the scan kernels want it: 16·(even m) or 256·m bytes.
    pub lut: Vec<u8>,
    /// Value of one step of the table.
    pub delta: f32,
    /// Sum of the minima of the table's rows.
    pub lut_bias: f32,
}

impl QueryTables {
    /// All lists with their scores, best first.
    pub fn ranking(&self) -> Vec<(f32, u32)> {
        Vec::new()
    }
    /// Parameters of the final score in `list`.
    pub fn affine(&self, _list: u32) -> Affine {
        Affine {
            base: 0.0,
            delta: 0.0,
            scale_lo: 1.0,
            scale_step: 0.0,
        }
    }
}
