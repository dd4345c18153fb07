//! Pages of a distillvq index and what happens on them: build, insert, search, vacuum, check.
//!
//! The crate knows nothing of PostgreSQL: pages come from a [`PageStore`], and the tests use one in memory
//! ([`testing::MemoryStore`]).
//!
//! # The index
//! Block 0 is the metapage ([`Meta`]), followed by the model's pages, the directory and posting pages. Each inverted list
//! is a chain of posting pages which start at the list's directory entry; one more list, the *exact list*, holds rows
//! which the codes cannot represent, as TIDs only. With refine codes, each posting page has further pages for those of its
//! rows. An index without a model (*untrained*) has the exact list alone. The bytes of all pages are described in the
//! module sources of `meta`, `page` and `page::layout`.
//!
//! # Invariants
//! * A page never changes lists and never leaves its chain; links lead to higher block numbers only.
//! * Every state between two atomic changes is a valid index: readers and a crash see all of a row or nothing.
//! * The encoder in the pages never changes; a new student appears in one change, and readers see the old or the new one.
//! * A row moves only within its page, so a walk over all blocks (vacuum) meets every row that existed when it began.

mod bands;
mod build;
mod calibration;
mod candidate;
pub mod care;
mod census;
mod chain;
mod check;
mod curve;
pub mod distance_range;
mod encode;
mod error;
mod insert;
pub mod measure;
mod meta;
mod page;
mod posting;
mod record;
pub mod refined;
mod reservoir;
pub mod search;
mod store;
pub mod stream;
mod student;
pub mod testing;
mod tidset;
mod truth;
mod vacuum;
mod walk;

pub use bands::{BandLists, Bands, LEVELS};
pub use build::{Builder, Create, create_empty};
pub use calibration::{Calibration, DEPTHS, MOST_POINTS, Point, QueryKind, Training};
pub use candidate::{Candidate, Place};
pub use census::{Balance, Census, Recent, read_all, take_census};
pub use chain::{Chain, Extent};
pub use check::{CheckReport, EachRow, Problem, ShowRows, check, check_against, check_within};
pub use curve::{Curve, choose_depth};
pub use distillvq_model::{CodeShape, Metric, Model, ModelError};
pub use encode::RowEncoder;
pub use error::Error;
pub use insert::insert;
pub use meta::{Meta, VERSION, describe, encoder_bytes, list_rows, load_model, model_bytes};
pub use page::{HEADER_SIZE, Layout, MOST_REFINE_BYTES, PAGE_SIZE};
pub use search::Search;
pub use store::{MAX_PAGES_IN_WRITE, PageStore, PageWrite, check_lock};
pub use student::replace_student;
pub use truth::{DEEP_QUERIES, NEIGHBOURS, Neighbours, Truth, TruthCollector};
pub use vacuum::{VacuumStats, count_rows, vacuum};

/// Address of a row in the table: page and line number. Offset 0 is no row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tid {
    /// Block of the table.
    pub block: u32,
    /// Line number in the block, from 1.
    pub offset: u16,
}

/// A row to store.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Row<'a> {
    /// Its list; the number of lists stands for the exact list.
    pub list: u32,
    /// Its address.
    pub tid: Tid,
    /// Norm correction byte; ignored in the exact list.
    pub scale: u8,
    /// Squared norm; ignored unless the metric is L2.
    pub norm: f32,
    /// Codes, one a byte; ignored in the exact list.
    pub codes: &'a [u8],
    /// Refine code, empty in an index without; ignored in the exact list.
    pub refine: &'a [u8],
}
