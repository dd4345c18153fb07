//! What a build is to make, and what it has learned.

use crate::am::calibration::queries::CalibrationQueries;
use crate::pg::element::ElementType;
use crate::pg::filter_columns::FilterColumns;
use crate::pg::relation::Index;
use crate::settings::reloptions::Options;
use distillvq_model::{Metric, Model};

/// The fixed facts of an index under construction.
pub struct BuildPlan {
    pub index: Index,
    pub element: ElementType,
    pub metric: Metric,
    pub dim: usize,
    pub options: Options,
    /// Whether rows get refine codes.
    pub refine: bool,
    /// The filter columns.
    pub filters: FilterColumns,
}

/// A model, and queries to measure the index with.
pub struct BuildModel {
    pub model: Model,
    pub queries: CalibrationQueries,
}
