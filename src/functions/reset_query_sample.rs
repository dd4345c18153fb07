//! `distillvq_reset_query_sample`: the queries that searches have left in an index, removed.

use crate::am::failure::with_index;
use crate::am::open_index::OpenIndex;
use crate::error::{Error, Operation, Result};
use crate::functions::{check_index, check_readable};
use crate::pg::relation::LockedIndex;
use crate::pg::report::or_raise;
use distillvq_ivf::query_sample;
use pgrx::pg_sys::Oid;

/// Removes the sampled queries of an index, for good. Returns how many there were.
pub fn distillvq_reset_query_sample(index: Option<Oid>) -> i64 {
    let index = or_raise(index.ok_or(Error::NullIndex(Operation::ResetQuerySample)));
    or_raise(reset(index))
}

fn reset(oid: Oid) -> Result<i64> {
    check_index(oid, Operation::ResetQuerySample)?;
    let locked = LockedIndex::for_change(oid, c"distillvq_reset_query_sample()");
    check_readable(&locked, Operation::ResetQuerySample)?;
    let index = locked.index();
    let target = OpenIndex::open(index)?;
    let sample = query_sample::read(target.store(), &target.meta).map_err(with_index(index))?;
    query_sample::remove(target.store(), &target.meta).map_err(with_index(index))?;
    crate::pg::server::commit_durably();
    Ok(sample.queries.len() as i64)
}
