//! An index file as lists of rows of columns: build, insert, vacuum, check.
//!
//! The crate knows neither PostgreSQL nor what the columns mean: pages come from a [`PageStore`], and tests use one in memory,
//! `memory_store::MemoryStore`, which needs the feature `testing`.
//!
//! # The index
//! Block 0 is the metapage ([`Metapage`]), followed by the pages of two blobs, the directory and posting pages. Each list is a
//! chain of posting pages which start at the list's directory entry; one more list, the *exact list*, holds rows with
//! their TIDs and the columns that rows of every list have. A row in a list has all columns of the index ([`RowFormat`]); a side
//! column lies on further pages of each posting page. Pages of their own hold a sample of records ([`make_room`]). The bytes of all pages are described in `metapage`, `directory`, `chain`, `page` and `page::layout`.
//!
//! # Invariants
//! * A page never changes lists and never leaves its chain; links lead to higher block numbers only.
//! * Every state between two atomic changes is a valid index: readers and a crash see all of a row or nothing.
//! * The base blob never changes; a new current blob appears in one change, and readers see the old or the new one.
//! * A row moves only within its page, so a walk over all blocks (vacuum) meets every row that existed when it began; but for
//!   the rows that vacuum itself moves from the exact list into lists that an index got later (`late_lists`).

mod blob_swap;
mod bulk_load;
mod bytes;
pub mod chain;
mod check;
mod directory;
mod error;
mod insert;
mod late_lists;
#[cfg(feature = "testing")]
pub mod memory_store;
mod metapage;
mod page;
mod page_walk;
mod posting;
mod row;
mod row_format;
mod sample;
mod stats;
mod store;
mod tid;
mod vacuum;

pub use blob_swap::{read_blobs, replace_blob};
pub use bulk_load::{Builder, Contents};
pub use bytes::{get, get_f32, get_u32, get_u64, put};
pub use chain::{Chain, Extent};
pub use check::{Check, CheckReport, IndexedRow, InspectFn, Problem, TidLocation, check};
pub use directory::{Directory, ListEntry};
pub use error::Error;
pub use insert::insert;
pub use late_lists::{ExactPages, MovedPage, NewLists, add_lists, finish_moves, move_rows};
pub use metapage::{MAX_BODY_BYTES, Metapage, RowMoves, replace_body};
pub use page::{
    BODY, Block, EXACT_LIST, FORMAT, Layout, MAX_SIDE_BYTES, NO_BLOCK, PAGE_SIZE, PG_HEADER_SIZE,
    PageHeader, PageKind,
};
pub use posting::{check_link, read_any_header, read_header};
pub use row::{Row, SideLocation, Value};
pub use row_format::{Column, MAX_COLUMNS, RowFormat, Stored};
pub use sample::{
    Draw, MAX_RECORD_BYTES, Offer, SampleCounters, make_room, mark_checked, offer_record,
    read_records, remove_records, sample_counters,
};
pub use stats::{Balance, IndexStats, InsertedRow, collect_stats, read_all_pages};
pub use store::{MAX_PAGES_IN_WRITE, PageStore, PageWrite, check_lock};
pub use tid::Tid;
pub use vacuum::{VacuumStats, count_rows, vacuum};
