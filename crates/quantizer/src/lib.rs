//! Distilled IVF-PQ models: training, encoding of rows, scoring tables of queries. Slices in, model out.

mod adam;
mod bf16;
mod brute_force;
mod check;
mod coarse;
mod codebooks;
mod codec;
mod decoder_training;
mod distillation;
mod encode;
mod encoded_sample;
mod error;
mod evaluation;
mod exact_scores;
mod held_out;
mod int8;
mod kmeans;
mod linalg;
mod loss;
mod memory;
mod model;
mod norm_correction;
mod opq;
mod options;
mod orthogonal;
mod par;
mod params;
mod pq;
mod preprocess;
mod progress;
mod query;
mod refine;
mod retrain;
mod routing;
mod teacher;
#[cfg(test)]
mod testing;
mod train;
mod training_set;
mod verify;

pub use encode::{Encoded, EncodedRows, Placement};
pub use error::{ModelError, TrainError};
pub use exact_scores::{ExactScores, ScoreBuffers};
pub use held_out::{MAX_HELD_OUT, sample_vectors, split_held_out};
pub use memory::can_allocate;
pub use model::Model;
pub use options::{
    CodeShape, Loss, MAX_DIM, MAX_LISTS, MAX_TRANSFORM_DIM, MIN_TRAIN_ROWS, Metric,
    NegativeSampling, Rotation, TrainOptions, UnknownLoss, UnknownMetric, auto_bits, auto_lists,
    auto_subquantizers, max_subquantizers,
};
pub use params::TrainReport;
pub use progress::{Monitor, NoMonitor, Phase};
pub use query::{ListRanking, QueryTables, Searcher};
pub use refine::{RefineQuery, refine_bytes, refine_dimensions};
pub use retrain::{RetrainOptions, retrain};
pub use train::{Trained, train};
pub use verify::StoredRow;
