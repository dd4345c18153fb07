//! Distilled IVF-PQ models: training, encoding of rows, scoring tables of queries. Slices in, model out.

mod adam;
mod codec;
mod coded;
mod compact;
mod distill;
mod encode;
mod error;
mod exam;
mod groups;
mod halves;
mod kmeans;
mod lessons;
mod linalg;
mod loss;
mod memory;
mod model;
mod monitor;
mod options;
mod outline;
mod par;
mod product;
mod query;
mod rank;
mod refine;
mod retrain;
mod rotation;
mod routing;
mod scale;
mod scan;
mod school;
mod space;
#[cfg(test)]
mod testing;
mod train;
mod verify;

pub use encode::{Encoded, EncodedRows, Placement};
pub use error::{ModelError, TrainError};
pub use memory::memory_for;
pub use model::{Model, Report};
pub use monitor::{Monitor, Phase, Quiet};
pub use options::{
    CodeShape, Loss, MAX_DIM, MAX_LISTS, MIN_TRAIN_ROWS, Metric, Rotation, Sampling, TURN_MOST,
    TrainOptions, UnknownLoss, UnknownMetric, auto_lists, auto_subquantizers, max_subquantizers,
};
pub use query::{QueryTables, Ranking, Searcher};
pub use refine::{RefineQuery, refine_bytes, refine_dimensions};
pub use retrain::{RetrainOptions, retrain};
pub use train::{Trained, train};
pub use verify::Stored;
