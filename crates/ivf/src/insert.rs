//! Inserting one row.

use crate::Row;
use crate::error::Error;
use crate::meta::Meta;
use crate::store::PageStore;

/// Inserts a row into its list. Safe under concurrency with everything else.
pub fn insert<S: PageStore>(_store: &S, _meta: &Meta, _row: Row<'_>) -> Result<(), Error> {
    Err(Error::Incomplete)
}
