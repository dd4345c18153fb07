//! Training of models: a sample and queries in, a [`distillvq_model::Model`] out.

mod ablation;
mod distillation;
mod encoded_sample;
mod error;
mod evaluation;
mod held_out;
mod kmeans;
mod opq;
mod options;
mod pq;
mod preprocess;
mod progress;
mod retrain;
mod sample;
mod teacher;
mod train;

#[cfg(feature = "ablation")]
pub use ablation::{Ablation, NegativeSampling, Rotation};
pub use error::TrainError;
pub use held_out::{MAX_HELD_OUT, sample_vectors, split_held_out};
pub use options::{
    Loss, MAX_TRANSFORM_DIM, TrainOptions, UnknownLoss, auto_bits, auto_lists, auto_subquantizers,
};
pub use progress::{Monitor, NoMonitor, Phase, check_interrupts};
pub use retrain::{RetrainOptions, retrain};
pub use train::{Trained, train};
