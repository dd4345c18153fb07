//! Other indexes over the same vectors, as the one that a REINDEX CONCURRENTLY is to replace.

use crate::pg::relation::{Heap, Index, LockedIndex, RelationKind, relation_kind};
use pgrx::pg_sys;

/// Passes the valid distillvq indexes over the same vectors of a table to `each`, open for reading, but for those that somebody has
/// locked.
pub fn for_each_sibling(heap: Heap, index: Index, mut each: impl FnMut(&LockedIndex)) {
    for oid in indexes(heap) {
        if oid == index.oid() || relation_kind(oid) != Some(RelationKind::Index) {
            continue;
        }
        let Some(other) = LockedIndex::try_for_reading(oid) else {
            continue;
        };
        if other.is_valid() && same_vectors(index, other.index()) {
            each(&other);
        }
    }
}

/// All indexes of a table.
fn indexes(heap: Heap) -> Vec<pg_sys::Oid> {
    // SAFETY: an open table; the list is a copy of the caller's, freed once.
    unsafe {
        let list = pg_sys::RelationGetIndexList(heap.as_ptr());
        let length = list.as_ref().map_or(0, |list| list.length);
        let oids = (0..length).map(|i| pg_sys::list_nth_oid(list, i)).collect();
        pg_sys::list_free(list);
        oids
    }
}

/// Whether two indexes of a table order the same values by the same distance.
fn same_vectors(a: Index, b: Index) -> bool {
    // SAFETY: open indexes have an operator class and a column number for their first column; the expressions are the relations'
    // own.
    unsafe {
        let class = |index: Index| {
            let data = index.data();
            let column = *(*data.rd_index).indkey.values.as_ptr();
            (*data.rd_opfamily, *data.rd_opcintype, column)
        };
        let expressions = |index: Index| pg_sys::RelationGetIndexExpressions(index.as_ptr());
        let is_expression = class(a).2 == 0;
        class(a) == class(b)
            && (!is_expression || pg_sys::equal(expressions(a).cast(), expressions(b).cast()))
    }
}
