//! Distilled IVF-PQ models: training, encoding of rows, scoring tables of queries. Slices in, model out.

mod error;
mod model;
mod monitor;
mod options;
mod train;

pub use error::{ModelError, TrainError};
pub use model::{Encoded, EncodedRows, Model, Placement, QueryTables, Report};
pub use monitor::{Monitor, Phase, Quiet};
pub use options::{
    CodeShape, MAX_DIM, MAX_LISTS, MIN_TRAIN_ROWS, Metric, TrainOptions, UnknownMetric, auto_lists,
    auto_subquantizers, max_subquantizers,
};
pub use train::{Trained, train};
