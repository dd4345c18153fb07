//! A distillvq index: what the lists, rows and blobs of [`distillvq_pages`] mean for vectors.
//!
//! Rows in lists have product quantizer codes, scored by look-up tables ([`list_search`]); the best candidates are compared by
//! their exact distances ([`rerank`]), perhaps by refine codes before that ([`refine`]). Recall is measured
//! ([`Calibration`]) and searches probe as many lists as it asks for.
//!
//! The crate knows nothing of PostgreSQL: pages come from a [`PageStore`]. An index without a model (*untrained*) has the
//! exact list alone; it may get a model later ([`add_model`]).

pub mod adaptive_probes;
pub mod advice;
mod bands;
mod calibration;
mod candidate;
mod check_rows;
mod create;
pub mod distance_range;
mod error;
pub mod filter;
pub mod filter_key;
mod ground_truth;
mod index_meta;
mod late_model;
pub mod list_search;
mod model_pages;
mod pq;
pub mod query_sample;
mod recall_curve;
pub mod recall_estimate;
pub mod refine;
pub mod rerank;
mod row_encoder;
pub mod scorer;
mod stats;
mod tidset;
mod top_candidates;

pub use bands::{BandLists, Bands, LEVELS};
pub use calibration::{
    Calibration, FoundRecall, MAX_POINTS, Point, QueryKind, RERANK_MARGINS, SampledRecall, Training,
};
pub use candidate::Candidate;
pub use check_rows::{RowFn, ScanTableFn, check, check_against, check_within};
pub use create::{Builder, CreateOptions, copy_without_rows, insert};
pub use distillvq_model::{CodeShape, Metric, Model, ModelError};
pub use distillvq_pages::{
    Balance, CheckReport, Draw, ExactPages, IndexStats, InsertedRow, Layout, MAX_PAGES_IN_WRITE,
    MAX_SIDE_BYTES, MovedPage, Offer, PAGE_SIZE, PG_HEADER_SIZE, PageStore, PageWrite, Problem,
    SideLocation, Tid, VacuumStats, check_lock, count_rows, read_all_pages, vacuum,
};
pub use error::Error;
pub use ground_truth::{CALIBRATION_K, DEEP_QUERIES, GroundTruthCollector, Neighbors, Truth};
pub use index_meta::{Meta, write_calibration};
pub use late_model::{NewModel, add_model, exact_pages, finish_moves, move_rows};
pub use list_search::ListSearch;
pub use model_pages::{encoder_bytes, load_model, model_bytes, replace_student};
pub use pq::{PqScorer, Row, row_format};
pub use recall_curve::{RecallCurve, choose_rerank_margin};
pub use row_encoder::RowEncoder;
pub use stats::collect_stats;
