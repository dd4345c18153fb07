//! Training.
use crate::{Model, Monitor, Report, TrainError, TrainOptions};

/// A model and what its training did.
#[derive(Debug, Clone)]
pub struct Trained {
    /// The model.
    pub model: Model,
    /// The same as the model's own report.
    pub report: Report,
}

/// Trains a model.
pub fn train(
    _sample: &[f32],
    _dim: usize,
    _queries: Option<&[f32]>,
    _options: &TrainOptions,
    _monitor: &dyn Monitor,
) -> Result<Trained, TrainError> {
    Err(TrainError::Interrupted)
}
