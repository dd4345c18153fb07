//! VACUUM: removes the entries of dead rows.

use crate::error::{Result, of_index};
use crate::pg::relation::Index;
use crate::pg::store::RelationStore;
use distillvq_ivf::{self as ivf, Tid, VacuumStats};

/// Asks `dead` about every entry exactly once and removes those it says yes to.
pub fn bulk_delete(
    index: Index,
    store: &RelationStore,
    dead: &mut dyn FnMut(Tid) -> bool,
) -> Result<VacuumStats> {
    ivf::vacuum(store, dead).map_err(of_index(index))
}
