//! A distillvq index: what the lists, rows and blobs of [`distillvq_pages`] mean for vectors.
//!
//! Rows in lists have product quantizer codes, scored by look-up tables ([`search`]); the best candidates are compared by
//! their exact distances ([`stream`]), perhaps by refine codes before that ([`refined`]). Recall is measured
//! ([`Calibration`]) and searches probe as many lists as it asks for.
//!
//! The crate knows nothing of PostgreSQL: pages come from a [`PageStore`]. An index without a model (*untrained*) has the
//! exact list alone.

mod bands;
mod calibration;
mod candidate;
pub mod care;
mod check_rows;
mod create;
mod curve;
pub mod distance_range;
mod error;
mod index_meta;
pub mod measure;
mod model_pages;
mod pq;
pub mod refined;
mod reservoir;
mod row_encoder;
pub mod scorer;
pub mod search;
mod stats;
pub mod stream;
mod tidset;
mod truth;

pub use bands::{BandLists, Bands, LEVELS};
pub use calibration::{Calibration, DEPTHS, MOST_POINTS, Point, QueryKind, Training};
pub use candidate::Candidate;
pub use check_rows::{EachRow, ShowRows, check, check_against, check_within};
pub use create::{Builder, Create, create_empty, insert};
pub use curve::{Curve, choose_depth};
pub use distillvq_model::{CodeShape, Metric, Model, ModelError};
pub use distillvq_pages::memory_store as testing;
pub use distillvq_pages::{
    Balance, CheckReport, IndexStats, InsertedRow, Layout, MAX_PAGES_IN_WRITE, MAX_SIDE_BYTES,
    PAGE_SIZE, PG_HEADER_SIZE, PageStore, PageWrite, Problem, SideLocation, Tid, VacuumStats,
    check_lock, count_rows, read_all_pages, vacuum,
};
pub use error::Error;
pub use index_meta::{Meta, describe};
pub use model_pages::{encoder_bytes, load_model, model_bytes, replace_student};
pub use pq::{PqScorer, Row, row_format};
pub use row_encoder::RowEncoder;
pub use search::Search;
pub use stats::collect_stats;
pub use truth::{DEEP_QUERIES, NEIGHBOURS, Neighbours, Truth, TruthCollector};
