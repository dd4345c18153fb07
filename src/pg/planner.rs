//! The planner's side: what a path over the index costs.

use crate::am::cost::{Estimate, Inputs, Prices, Shape, Table, Wish, estimate};
use crate::pg::relation::{Element, Index};
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
    // SAFETY: the planner's own structures, alive during the call; the table of an index path is a base relation.
    let (root, path, info, table) = unsafe {
        let info = &*(*path).indexinfo;
        (&*root, &mut *path, info, &*info.rel)
    };
    if path.indexorderbys.is_null() {
        crate::pg::compat::disable_path(&mut path.path);
        return None;
    }
    let (index, vector) = read_shape(info);
    // SAFETY: every base relation has a target.
    let width = unsafe { f64::from((*table.reltarget).width) };
    Some(estimate(&Inputs {
        table: Table {
            pages: f64::from(table.pages),
            rows: table.tuples,
            vector,
            width,
        },
        index,
        query: Wish {
            // Set before the access method is asked, all conditions taken into account.
            rows: path.path.rows,
            limit: limit(root),
            conditions: table.baserestrictcost.per_tuple,
        },
        prices: prices(info.reltablespace),
    }))
}

/// Rows wanted of the table: those of the query, if it has no other table whose rows could drop some.
fn limit(root: &pg_sys::PlannerInfo) -> Option<f64> {
    // SAFETY: the set of relations is complete before paths are made.
    let tables = unsafe { pg_sys::bms_membership(root.all_baserels) };
    let alone = tables == pg_sys::BMS_Membership::BMS_SINGLETON;
    (alone && root.limit_tuples > 0.0).then_some(root.limit_tuples)
}

/// The planner's settings for an index in a tablespace.
fn prices(tablespace: pg_sys::Oid) -> Prices {
    let (mut random_page, mut sequential_page) = (0.0, 0.0);
    // SAFETY: a plain look-up, and plain settings.
    unsafe {
        pg_sys::get_tablespace_page_costs(tablespace, &mut random_page, &mut sequential_page);
        Prices {
            sequential_page,
            random_page,
            row: pg_sys::cpu_tuple_cost,
            index_row: pg_sys::cpu_index_tuple_cost,
            operator: pg_sys::cpu_operator_cost,
            sort_memory: 1024.0 * f64::from(pg_sys::work_mem),
        }
    }
}

/// The index, and the bytes of a vector; those of a trained index of the default shape if its pages cannot tell (a
/// hypothetical index, a damaged metapage): the planner must not fail over that.
fn read_shape(info: &pg_sys::IndexOptInfo) -> (Shape, f64) {
    let pages = f64::from(info.pages);
    let unknown = Shape {
        pages,
        rows: info.tuples,
        lists: 100.0,
        probes: 10.0,
        dimensions: 384.0,
        subquantizers: 96.0,
        bits: 4,
        refine: false,
    };
    let (meta, probes, element) = match read_meta(info) {
        Some(read) => read,
        None => return (unknown, 4.0 * unknown.dimensions),
    };
    let known = Shape {
        pages: pages * share_of_codes(&meta),
        lists: f64::from(meta.lists),
        probes: probes as f64,
        dimensions: meta.dim as f64,
        subquantizers: meta.shape.subquantizers as f64,
        bits: meta.shape.bits,
        refine: meta.refine,
        ..unknown
    };
    (known, (meta.dim * element.bytes()) as f64)
}

/// The metapage, the lists to probe, and the type of the vectors, of an index that exists and is whole.
fn read_meta(info: &pg_sys::IndexOptInfo) -> Option<(Meta, usize, Element)> {
    if info.hypothetical || info.pages == 0 {
        return None;
    }
    // SAFETY: the planner holds a lock on the index that lasts beyond this call.
    let (relation, index) = unsafe {
        let relation = pg_sys::index_open(info.indexoid, pg_sys::NoLock as pg_sys::LOCKMODE);
        (relation, Index::new(relation))
    };
    let (options, element) = (index.options(), index.element().ok());
    let meta = Meta::read(&RelationStore::new(index)).ok();
    // SAFETY: opened above.
    unsafe { pg_sys::index_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE) };
    let meta = meta?;
    let probes = crate::settings::probes(&options, &meta);
    Some((meta, probes, element?))
}

/// The share of the index's pages that codes are on: refine codes have pages of their own.
fn share_of_codes(meta: &Meta) -> f64 {
    // Row constants and TID are beside the code.
    let code = meta.shape.subquantizers * usize::from(meta.shape.bits) / 8 + 12;
    code as f64 / (code + meta.refine_bytes()) as f64
}
