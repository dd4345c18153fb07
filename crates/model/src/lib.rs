//! Distilled IVF-PQ models: their parameters and bytes, the encoding of rows, and the tables that score queries.

pub mod bf16;
mod check;
mod check_encoding;
pub mod coarse;
pub mod codebooks;
mod codec;
pub mod encode;
pub mod error;
mod exact_scores;
pub mod format;
mod memory;
pub mod model;
pub mod norm_correction;
pub mod params;
pub mod preprocess;
pub mod query;
mod sq7;
#[cfg(test)]
mod testing;

pub use check_encoding::StoredRow;
pub use encode::{Encoded, EncodedRows, Placement};
pub use error::ModelError;
pub use exact_scores::{ExactScores, ScoreBuffers};
pub use format::{
    CodeShape, MAX_DIM, MAX_LISTS, MIN_TRAIN_ROWS, Metric, UnknownMetric, max_subquantizers,
};
pub use memory::can_allocate;
pub use model::Model;
pub use params::TrainReport;
pub use query::ranking::{ListRanking, softmax_weight};
pub use query::searcher::{QueryTables, Searcher};
pub use sq7::{RefineQuery, refine_bytes, refine_dimensions};
