//! `distillvq_prewarm`: an index in shared buffers, and its model in the session.

use crate::am::failure::with_index;
use crate::am::open_index::OpenIndex;
use crate::error::{Error, Operation, Result};
use crate::functions::open_for_reading;
use crate::pg::privileges::may_read;
use crate::pg::report::or_raise;
use distillvq_ivf::read_all_pages;
use pgrx::pg_sys::Oid;

/// Reads all pages of an index, in their order, and decodes its model. Returns the number of pages.
pub fn distillvq_prewarm(index: Option<Oid>) -> i64 {
    let index = or_raise(index.ok_or(Error::NullIndex(Operation::Prewarm)));
    or_raise(prewarm(index))
}

fn prewarm(oid: Oid) -> Result<i64> {
    let locked = open_for_reading(oid, Operation::Prewarm, may_read)?;
    let index = locked.index();
    let open = OpenIndex::open(index)?;
    let blocks = read_all_pages(open.store()).map_err(with_index(index))?;
    open.searcher()?;
    Ok(blocks.into())
}
