//! `distillvq_prewarm`: an index in shared buffers, and its model in the session.

use crate::am::scan::Target;
use crate::error::{Error, Purpose, Result, of_index, or_raise};
use crate::functions::open_to_look_at;
use crate::pg::rights::may_read;
use crate::pg::store::RelationStore;
use distillvq_ivf::read_all_pages;
use pgrx::pg_sys::Oid;

/// Reads all pages of an index, in their order, and decodes its model. Returns the number of pages.
pub fn distillvq_prewarm(index: Option<Oid>) -> i64 {
    let index = or_raise(index.ok_or(Error::NullIndex(Purpose::Prewarm)));
    or_raise(prewarm(index))
}

fn prewarm(oid: Oid) -> Result<i64> {
    let locked = open_to_look_at(oid, Purpose::Prewarm, may_read)?;
    let index = locked.index();
    let blocks = read_all_pages(&RelationStore::for_search(index)).map_err(of_index(index))?;
    Target::open(index)?.searcher()?;
    Ok(blocks.into())
}
