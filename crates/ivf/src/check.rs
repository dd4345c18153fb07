//! Verification of the structure of an index.

use crate::error::Error;
use crate::store::PageStore;

/// A violation of the format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The page.
    pub block: u32,
    /// What is wrong with it.
    pub what: String,
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// Violations, at most [`CheckReport::MAX_PROBLEMS`]; empty means sound.
    pub problems: Vec<Problem>,
    /// Rows of each list; the last entry is the exact list.
    pub rows: Vec<u64>,
    /// Posting pages in chains.
    pub posting_pages: u32,
    /// Pages that belong to nothing: left by a crash, harmless.
    pub orphan_pages: u32,
}

impl CheckReport {
    /// Violations reported at most.
    pub const MAX_PROBLEMS: usize = 100;
}

/// Verifies metapage, model, directory and all chains. Errors are failures to read; violations are in the report.
/// Concurrent inserts are tolerated.
pub fn check<S: PageStore>(_store: &S) -> Result<CheckReport, Error> {
    Err(Error::Incomplete)
}
