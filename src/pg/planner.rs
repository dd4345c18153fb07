//! The planner's side: what a path over the index costs.

use crate::am::cost::{Estimate, Inputs, Prices, Shape, Table, Wish, estimate};
use crate::pg::datum::OwnedVector;
use crate::pg::executor::{Farthest, binary, items, limit_of};
use crate::pg::heap::distances_of_some;
use crate::pg::relation::{Element, Heap, Index};
use crate::pg::store::RelationStore;
use crate::settings::Probing;
use distillvq_ivf::Meta;
use distillvq_ivf::stream::Growth;
use pgrx::pg_sys;

/// `amcostestimate`: reads the metapage, and a few rows if the query limits the distance; clamps what it does not know.
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
    let (rows, limit) = (path.path.rows, limit(root));
    let few = limit.is_some_and(|limit| limit <= FEW);
    // SAFETY: a path of this index, for an order.
    let range = unsafe { Range::of(path, info) }.filter(|_| !few);
    let share = range.and_then(|range| range.share(info, index.dimensions as usize));
    // A sort keeps the distance and not the vector, unless that is selected too. Without a limit of the distance, the constants
    // are fitted to the whole width.
    let width = share.map_or(width, |_| (width - vector).max(8.0));
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
            planned: rows,
            rows: share.map_or(rows, |it| rows * it.found / it.planned),
            within: share.map(|it| it.found),
            limit,
            conditions: table.baserestrictcost.per_tuple,
        },
        prices: prices(info.reltablespace),
    }))
}

/// Rows for which a search is fast whatever lies within a limit of the distance.
const FEW: f64 = 100.0;
/// Places of the table where rows are compared to estimate what lies within, and the least rows that must be found there.
const PLACES: usize = 32;
const LEAST_ROWS: usize = 8;

/// A constant limit of the distance in a query, with a constant vector.
struct Range {
    query: pg_sys::Datum,
    of_type: pg_sys::Oid,
    farthest: f64,
    /// The share of the rows that the planner expects there.
    planned: f64,
    rows_a_page: f64,
}

/// Shares of the rows that lie within such a limit.
#[derive(Clone, Copy)]
struct Share {
    /// As the planner has it.
    planned: f64,
    /// As some rows of the table have it.
    found: f64,
}

impl Range {
    /// Reads it from the conditions. Rows that somebody's policy or view may hide are not to be counted.
    ///
    /// # Safety
    /// The path must be of the planner's making, over an index, with an order.
    unsafe fn of(path: &pg_sys::IndexPath, info: &pg_sys::IndexOptInfo) -> Option<Self> {
        if info.hypothetical {
            return None;
        }
        let (mut farthest, mut planned) = (Farthest::Unlimited, 1.0);
        // SAFETY: as promised; conditions of a base relation are in such nodes. Only constants have values yet.
        unsafe {
            let table = &*info.rel;
            let order = *items(path.indexorderbys).first()?;
            for &node in items(table.baserestrictinfo) {
                let condition = &*node.cast::<pg_sys::RestrictInfo>();
                let limit = limit_of(condition.clause.cast(), order, std::ptr::null_mut());
                if matches!(limit, Farthest::At(_)) && condition.security_level == 0 {
                    farthest = farthest.and(limit);
                    planned *= condition.norm_selec;
                }
            }
            let Farthest::At(farthest) = farthest else {
                return None;
            };
            let (_, left, right) = binary(order)?;
            let constant = |node: *mut pg_sys::Node| {
                let is_one = (*node).type_ == pg_sys::NodeTag::T_Const;
                is_one.then(|| &*node.cast::<pg_sys::Const>())
            };
            let query = constant(left).or_else(|| constant(right))?;
            (planned > 0.0 && !query.constisnull).then_some(Self {
                query: query.constvalue,
                of_type: query.consttype,
                farthest,
                planned,
                rows_a_page: table.tuples / f64::from(table.pages.max(1)),
            })
        }
    }

    /// Estimates the share of the rows by some of them, drawn with the same seed each time.
    fn share(&self, info: &pg_sys::IndexOptInfo, dim: usize) -> Option<Share> {
        let no_lock = pg_sys::NoLock as pg_sys::LOCKMODE;
        // SAFETY: the planner holds locks on both that last beyond this call.
        let (heap, index) = unsafe {
            let index = pg_sys::index_open(info.indexoid, no_lock);
            let heap = pg_sys::table_open(Index::new(index).table(), no_lock);
            (heap, index)
        };
        // SAFETY: opened above.
        let found = unsafe { self.found(Heap::new(heap), Index::new(index), dim) };
        // SAFETY: opened above.
        unsafe {
            pg_sys::table_close(heap, no_lock);
            pg_sys::index_close(index, no_lock);
        }
        Some(Share {
            planned: self.planned,
            found: found?,
        })
    }

    fn found(&self, heap: Heap, index: Index, dim: usize) -> Option<f64> {
        let element = index.element().ok()?;
        if Element::of_type(self.of_type) != Some(element) {
            return None;
        }
        // SAFETY: a constant of this type that is not null.
        let query = unsafe { OwnedVector::copy(self.query, element) };
        // Of other dimensions: an error, but not the planner's.
        if query.elements().len() != dim {
            return None;
        }
        let distances = distances_of_some(heap, index, &query, PLACES, self.rows_a_page).ok()?;
        let rows = distances.len();
        let within = distances.iter().filter(|it| **it <= self.farthest);
        (rows >= LEAST_ROWS).then(|| (within.count() as f64 + 0.5) / (rows as f64 + 1.0))
    }
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
        growth: Growth::default(),
        dimensions: 384.0,
        subquantizers: 96.0,
        bits: 4,
        refine: false,
    };
    let (meta, probing, element) = match read_meta(info) {
        Some(read) => read,
        None => return (unknown, 4.0 * unknown.dimensions),
    };
    let known = Shape {
        pages: pages * share_of_codes(&meta),
        lists: f64::from(meta.lists),
        probes: probing.first as f64,
        growth: probing.growth,
        dimensions: meta.dim as f64,
        subquantizers: meta.shape.subquantizers as f64,
        bits: meta.shape.bits,
        refine: meta.refine,
        ..unknown
    };
    (known, (meta.dim * element.bytes()) as f64)
}

/// The metapage, the lists to probe, and the type of the vectors, of an index that exists and is whole.
fn read_meta(info: &pg_sys::IndexOptInfo) -> Option<(Meta, Probing, Element)> {
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
    let probing = crate::settings::probing(&options, &meta);
    Some((meta, probing, element?))
}

/// The share of the index's pages that codes are on: refine codes have pages of their own.
fn share_of_codes(meta: &Meta) -> f64 {
    // Row constants and TID are beside the code.
    let code = meta.shape.subquantizers * usize::from(meta.shape.bits) / 8 + 12;
    code as f64 / (code + meta.refine_bytes()) as f64
}
