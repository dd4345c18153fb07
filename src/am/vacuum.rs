//! VACUUM: removes the entries of dead rows.

use crate::am::failure::with_index;
use crate::error::Result;
use crate::pg::page_store::RelationStore;
use crate::pg::relation::Index;
use distillvq_ivf::{self as ivf, Tid, VacuumStats};

/// Asks `dead` about every entry exactly once and removes those it says yes to.
pub fn bulk_delete(
    index: Index,
    store: &RelationStore,
    dead: &mut dyn FnMut(Tid) -> bool,
) -> Result<VacuumStats> {
    ivf::vacuum(store, dead).map_err(with_index(index))
}

/// About how many rows an index has, after a vacuum of a table of so many that has removed none. Only a partial index of which
/// nothing is known is read: of others the planner uses no more than this.
pub fn estimate(index: Index, store: &RelationStore, table: f64) -> Result<f64> {
    if !index.is_partial() {
        return Ok(table);
    }
    let (rows, of) = index.known_rows();
    if rows > 0.0 && of > 0.0 {
        return Ok((rows * table / of).round());
    }
    let counted = ivf::count_rows(store).map_err(with_index(index))?;
    Ok(counted as f64)
}
