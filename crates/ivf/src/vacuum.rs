//! Removing dead rows.

use crate::Tid;
use crate::error::Error;
use crate::store::PageStore;

/// What a vacuum found and did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VacuumStats {
    /// Rows removed.
    pub removed: u64,
    /// Rows that stay.
    pub remaining: u64,
    /// Pages of the index, of every kind.
    pub pages: u32,
    /// Posting pages without a row, kept for later inserts.
    pub empty_pages: u32,
}

/// Asks `dead` about every row exactly once and removes those it says yes to.
pub fn vacuum<S: PageStore>(
    _store: &S,
    _dead: &mut dyn FnMut(Tid) -> bool,
) -> Result<VacuumStats, Error> {
    Err(Error::Incomplete)
}
