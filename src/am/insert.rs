//! Adding a row: encode it with the model, append it to its list.

use crate::am::failure::with_index;
use crate::am::open_index::OpenIndex;
use crate::error::Result;
use crate::pg::page_store::RelationStore;
use crate::pg::relation::Index;
use distillvq_ivf::{self as ivf, Row, RowEncoder, Tid};

/// Inserts a row with this vector; a vector that no search could find (a zero vector under cosine) is left out.
pub fn insert(index: Index, tid: Tid, vector: &[f32]) -> Result<()> {
    let target = OpenIndex::open(index)?;
    target.check_dimensions(vector.len())?;
    let model = target.encoder()?;
    let encoder = RowEncoder::new(&target.meta, model.as_ref()).map_err(with_index(index))?;
    let encoded = encoder.encode(vector);
    let store = RelationStore::new(index);
    match Row::of(&target.meta, &encoded, 0, tid) {
        Some(row) => ivf::insert(&store, &target.meta, row).map_err(with_index(index)),
        None => Ok(()),
    }
}
