//! The planner's side: what a path over the index costs.

use crate::am::cost::{Estimate, Inputs, estimate};
use crate::pg::relation::Index;
use crate::pg::store::RelationStore;
use distillvq_ivf::Meta;
use pgrx::pg_sys;

/// `amcostestimate`: reads the metapage, never raises, clamps what it does not know.
///
/// # Safety
/// The pointers must be those that the planner passes.
pub unsafe fn estimate_path(
    root: *mut pg_sys::PlannerInfo,
    path: *mut pg_sys::IndexPath,
) -> Option<Estimate> {
    // SAFETY: the planner's own structures, alive during the call.
    let (path, info) = unsafe { (&mut *path, &*(*path).indexinfo) };
    if path.indexorderbys.is_null() {
        crate::pg::compat::disable_path(&mut path.path);
        return None;
    }
    // SAFETY: as above; the table of an index path is a base relation.
    let (heap_pages, heap_rows) = unsafe { (f64::from((*info.rel).pages), (*info.rel).tuples) };
    let (mut random_page, mut sequential_page) = (0.0, 0.0);
    // SAFETY: plain look-ups; the selectivity of the clauses on the table.
    let selectivity = unsafe {
        pg_sys::get_tablespace_page_costs(
            info.reltablespace,
            &mut random_page,
            &mut sequential_page,
        );
        let clauses = (*info.rel).baserestrictinfo;
        let relation = (*info.rel).relid as i32;
        let join = pg_sys::JoinType::JOIN_INNER;
        pg_sys::clauselist_selectivity(root, clauses, relation, join, std::ptr::null_mut())
    };
    let (lists, probes, shape) = read_shape(info);
    // SAFETY: plain settings.
    let (row_cost, operator_cost) =
        unsafe { (pg_sys::cpu_index_tuple_cost, pg_sys::cpu_operator_cost) };
    Some(estimate(&Inputs {
        index_pages: f64::from(info.pages),
        index_rows: info.tuples.max(0.0),
        heap_pages,
        heap_rows,
        lists,
        probes,
        dimensions: shape.0,
        subquantizers: shape.1,
        random_page,
        sequential_page,
        row_cost,
        operator_cost,
        selectivity,
    }))
}

/// Lists, probes, (dimensions, subquantizers) of the index; of a trained index of the default shape if its pages cannot
/// tell (a hypothetical index, a damaged metapage): the planner must not fail over that.
fn read_shape(info: &pg_sys::IndexOptInfo) -> (f64, f64, (f64, f64)) {
    let unknown = (100.0, 10.0, (384.0, 96.0));
    if info.hypothetical {
        return unknown;
    }
    // SAFETY: the planner holds a lock on the index that lasts beyond this call.
    let (relation, index) = unsafe {
        let relation = pg_sys::index_open(info.indexoid, pg_sys::NoLock as pg_sys::LOCKMODE);
        (relation, Index::new(relation))
    };
    let options = index.options();
    let meta = if info.pages > 0 {
        Meta::read(&RelationStore::new(index)).ok()
    } else {
        None
    };
    // SAFETY: opened above.
    unsafe { pg_sys::index_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE) };
    meta.map_or(unknown, |meta| {
        let lists = meta.lists as usize;
        let probes = crate::settings::probes(&options, &meta);
        let codes = meta.shape.subquantizers as f64;
        (lists as f64, probes as f64, (meta.dim as f64, codes))
    })
}
