//! Adding a row: encode it with the model, append it to its list.

use crate::am::scan::Target;
use crate::error::{Result, of_index};
use crate::pg::relation::Index;
use crate::pg::store::RelationStore;
use distillvq_ivf::{self as ivf, Meta, Row, Tid};
use distillvq_quantizer::{EncodedRows, Placement};

/// Inserts a row with this vector; a vector that no search could find (a zero vector under cosine) is left out.
pub fn insert(index: Index, tid: Tid, vector: &[f32]) -> Result<()> {
    let target = Target::open(index)?;
    target.check_dimensions(vector.len())?;
    let encoded = match target.model()? {
        Some(model) if target.meta.refine => model.encode_refined(vector),
        Some(model) => model.encode(vector),
        None => crate::am::build::untrained(target.meta.metric, vector, target.meta.dim),
    };
    let store = RelationStore::new(index);
    match row(&target.meta, &encoded, 0, tid) {
        Some(row) => ivf::insert(&store, &target.meta, row).map_err(of_index(index)),
        None => Ok(()),
    }
}

/// The `i`-th encoded row as the pages want it, or none if it is not to be indexed.
pub fn row<'a>(meta: &Meta, encoded: &'a EncodedRows, i: usize, tid: Tid) -> Option<Row<'a>> {
    let one = &encoded.rows[i];
    let list = match one.placement {
        Placement::List(list) => list,
        Placement::Exact => meta.exact_list(),
        Placement::Unindexed => return None,
    };
    let (width, bytes) = (meta.shape.subquantizers, meta.refine_bytes());
    let codes = encoded
        .codes
        .get(i * width..(i + 1) * width)
        .unwrap_or_default();
    Some(Row {
        list,
        tid,
        scale: one.scale,
        norm: one.norm,
        codes,
        refine: encoded
            .refine
            .get(i * bytes..(i + 1) * bytes)
            .unwrap_or_default(),
    })
}
