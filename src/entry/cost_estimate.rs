//! The planner's side: what a path over the index costs.

use crate::am::cost::{
    CostSettings, Estimate, FilterInput, IndexShape, Inputs, QueryInput, Table, UNKNOWN_SHARES,
    estimate,
};
use crate::am::model_store::cache;
use crate::am::open_index::OpenIndex;
use crate::pg::condition::{DistanceLimit, binary, items, limit_of};
use crate::pg::element::ElementType;
use crate::pg::join;
use crate::pg::privileges::may_select_any;
use crate::pg::relation::Index;
use crate::pg::role::current_user;
use crate::pg::subtransaction::in_subtransaction;
use crate::pg::vector_datum::OwnedVector;
use crate::settings::reloptions::Options;
use distillvq_ivf::distance_range::DistanceRange;
use distillvq_ivf::list_search::Shares;
use distillvq_ivf::rerank::Growth;
use distillvq_ivf::{ListSearch, Meta};
use pgrx::pg_sys;

/// `amcostestimate`: reads the metapage, and codes of a few lists if the query limits the distance; clamps what it does not
/// know.
///
/// # Safety
/// The pointers must be those that the planner passes.
pub unsafe fn estimate_path(
    root: *mut pg_sys::PlannerInfo,
    path: *mut pg_sys::IndexPath,
) -> Option<Estimate> {
    // SAFETY: the planner's own structures, alive during the call; the table of an index path is a base relation.
    let (path, info, table) = unsafe {
        let info = &*(*path).indexinfo;
        (&mut *path, info, &*info.rel)
    };
    // SAFETY: the planner's own structures.
    let wants_null_vectors = unsafe { wants_null_vectors(path) };
    if path.indexorderbys.is_null() || wants_null_vectors {
        crate::pg::compat::disable_path(&mut path.path);
        return None;
    }
    // SAFETY: the planner's own structures.
    let filter = unsafe { filter_input(root, path, info) };
    // SAFETY: the planner's own structures.
    let (width, wanted, range) = unsafe {
        let width = f64::from((*table.reltarget).width);
        let wanted = Wanted::of(root, info.rel);
        let range = DistanceConditions::of(root, path, info, &wanted);
        (width, wanted, range)
    };
    let Known {
        index,
        vector,
        shares,
    } = look_up(info, range.as_ref());
    // A sort keeps the distance and not the vector, unless that is selected too. Without a limit of the distance, the constants
    // are fitted to the whole width.
    let width = shares.map_or(width, |_| (width - vector).max(8.0));
    // Set before the access method is asked, all conditions taken into account.
    let planned = path.path.rows * wanted.kept;
    let found = match (range, shares) {
        (Some(range), Some(shares)) => shares.between / range.planned,
        _ => 1.0,
    };
    Some(estimate(&Inputs {
        table: Table {
            pages: f64::from(table.pages),
            rows: table.tuples,
            vector,
            width,
        },
        index,
        query: QueryInput {
            planned,
            rows: planned * found,
            shares,
            limit: wanted.rows,
            conditions: table.baserestrictcost.per_tuple,
            filter,
        },
        prices: prices(info.reltablespace),
    }))
}

/// The clauses of an index path.
///
/// # Safety
/// The path must be the planner's.
unsafe fn index_clauses(path: &pg_sys::IndexPath) -> &[*mut pg_sys::IndexClause] {
    // SAFETY: the list is one of such nodes, and pointers to nodes are alike.
    unsafe {
        let clauses = items(path.indexclauses);
        std::slice::from_raw_parts(clauses.as_ptr().cast(), clauses.len())
    }
}

/// Whether a condition asks for rows without a vector, which the index does not have.
///
/// # Safety
/// The path must be the planner's.
unsafe fn wants_null_vectors(path: &pg_sys::IndexPath) -> bool {
    // SAFETY: the clauses of an index path are such nodes, with conditions in such nodes.
    unsafe {
        index_clauses(path).iter().any(|&clause| {
            let condition = (*(*clause).rinfo).clause.cast::<pg_sys::Node>();
            (*clause).indexcol == 0
                && (*condition).type_ == pg_sys::NodeTag::T_NullTest
                && (*condition.cast::<pg_sys::NullTest>()).nulltesttype
                    == pg_sys::NullTestType::IS_NULL
        })
    }
}

/// What the index does with conditions on its filter columns.
///
/// # Safety
/// Root, path and index must be the planner's, and belong together.
unsafe fn filter_input(
    root: *mut pg_sys::PlannerInfo,
    path: &pg_sys::IndexPath,
    info: &pg_sys::IndexOptInfo,
) -> FilterInput {
    // SAFETY: as promised.
    unsafe {
        let quals = pg_sys::get_quals_from_indexclauses(path.indexclauses);
        if quals.is_null() {
            return FilterInput::NONE;
        }
        let (table, inner) = ((*info.rel).relid as i32, pg_sys::JoinType::JOIN_INNER);
        let share = pg_sys::clauselist_selectivity(root, quals, table, inner, std::ptr::null_mut());
        // Those that a join supplies are not among the conditions of the table.
        let own = items((*info.rel).baserestrictinfo);
        let mut conditions = 0.0;
        for &clause in index_clauses(path) {
            let condition = (*clause).rinfo;
            if own.contains(&condition.cast()) {
                let mut cost = pg_sys::QualCost::default();
                pg_sys::cost_qual_eval_node(&mut cost, condition.cast(), root);
                conditions += cost.per_tuple;
            }
        }
        FilterInput { share, conditions }
    }
}

/// Rows for which a search is fast whatever lies within a limit of the distance.
const SMALL_LIMIT: f64 = 100.0;
/// A model that the session has not decoded is decoded for an estimate if the table's vectors have so many times its bytes.
/// Decoding takes about ten times as long per byte as reading vectors does: so it costs less, once a session, than reading the
/// table through once for want of an estimate. The search that most likely follows needs the model too.
const VECTORS_PER_MODEL: f64 = 10.0;
/// A model of so few bytes is decoded in any case: it takes less than a millisecond.
const SMALL_MODEL: f64 = 256.0 * 1024.0;

/// What a query wants of a table.
struct Wanted {
    /// Rows, if the query has a LIMIT.
    rows: Option<f64>,
    /// The share of the table's rows that joins with other tables keep.
    kept: f64,
}

impl Wanted {
    /// # Safety
    /// Both must be the planner's.
    unsafe fn of(root: *mut pg_sys::PlannerInfo, table: *mut pg_sys::RelOptInfo) -> Self {
        // SAFETY: as promised.
        unsafe {
            let limit = (*root).limit_tuples;
            if limit <= 0.0 {
                let (rows, kept) = (None, 1.0);
                return Self { rows, kept };
            }
            let joined = join::rows_per_row(root, table);
            Self {
                rows: Some(limit / joined.max(1.0)),
                kept: joined.min(1.0),
            }
        }
    }
}

/// A query's conditions on the distance.
struct DistanceConditions {
    /// What they admit, as far as that is known.
    distances: DistanceRange,
    /// The vector and its type, if it is a constant.
    query: Option<(pg_sys::Datum, pg_sys::Oid)>,
    /// Whether they bound the distance from above, by a value that is known or not.
    is_limited: bool,
    /// The share of the rows that the planner expects there.
    planned: f64,
    /// Whether the query may be told of what the index holds.
    may_count: bool,
}

impl DistanceConditions {
    /// Reads them from the conditions; `None` if there are none, or nothing depends on them. Rows that somebody's policy or view
    /// may hide are not to be counted, nor those of a table that may not be read: as with PostgreSQL's own statistics, costs
    /// must not tell of them.
    ///
    /// # Safety
    /// The path must be of the planner's making, over an index, with an order.
    unsafe fn of(
        root: *mut pg_sys::PlannerInfo,
        path: &pg_sys::IndexPath,
        info: &pg_sys::IndexOptInfo,
        wanted: &Wanted,
    ) -> Option<Self> {
        // SAFETY: as promised; conditions of a base relation are in such nodes. Only constants have values yet.
        unsafe {
            let order = *items(path.indexorderbys).first()?;
            let conditions = items((*info.rel).baserestrictinfo);
            let (mut distances, mut pending) = (DistanceRange::ALL, false);
            let mut limits = std::ptr::null_mut();
            for &node in conditions {
                let condition = &*node.cast::<pg_sys::RestrictInfo>();
                match limit_of(condition.clause.cast(), order, std::ptr::null_mut()) {
                    DistanceLimit::Known(DistanceRange::ALL) => continue,
                    DistanceLimit::Known(range) if condition.security_level == 0 => {
                        distances = distances.and(range);
                    }
                    DistanceLimit::Known(range) => pending |= range.upper < f64::INFINITY,
                    DistanceLimit::Pending => pending = true,
                }
                limits = pg_sys::lappend(limits, node.cast());
            }
            let is_limited = pending || distances.upper < f64::INFINITY;
            let only_limits = items(limits).len() == conditions.len() && wanted.kept >= 1.0;
            let is_plain = only_limits && distances.lower == f64::NEG_INFINITY;
            let few = is_plain && wanted.rows.is_some_and(|rows| rows <= SMALL_LIMIT);
            if limits.is_null() || few {
                return None;
            }
            let (inner, nothing) = (pg_sys::JoinType::JOIN_INNER, std::ptr::null_mut());
            let planned = pg_sys::clauselist_selectivity(root, limits, 0, inner, nothing);
            let (_, left, right) = binary(order)?;
            let constant = |node: *mut pg_sys::Node| {
                let is_one = (*node).type_ == pg_sys::NodeTag::T_Const;
                is_one.then(|| &*node.cast::<pg_sys::Const>())
            };
            let query = constant(left).or_else(|| constant(right));
            let query = query.filter(|query| !query.constisnull);
            (planned > 0.0 && (is_limited || query.is_some())).then_some(Self {
                distances,
                query: query.map(|query| (query.constvalue, query.consttype)),
                is_limited,
                planned,
                may_count: may_count(root, info),
            })
        }
    }

    /// What the limits leave, by the index if that can tell.
    fn shares(&self, open: &OpenIndex, vectors: f64) -> Option<Shares> {
        let counted = self.may_count.then(|| self.count(open, vectors));
        counted.flatten().or(self.supposed())
    }

    /// What the limits leave as far as nothing is known of the rows.
    fn supposed(&self) -> Option<Shares> {
        self.is_limited.then_some(UNKNOWN_SHARES)
    }

    /// Estimates the shares by the index's codes, which are in pages of the index alone: no row of the table is looked at, and
    /// no function called.
    fn count(&self, open: &OpenIndex, vectors: f64) -> Option<Shares> {
        let DistanceRange { lower, upper, .. } = self.distances;
        let (query, of_type) = self.query?;
        if self.is_limited && upper == f64::INFINITY {
            return None;
        }
        let element = open.index.element().ok()?;
        if ElementType::of_type(of_type) != Some(element) {
            return None;
        }
        // SAFETY: a constant of this type that is not null.
        let query = unsafe { OwnedVector::copy(query, element) };
        let elements = query.elements();
        // Of other dimensions: an error, but not the planner's.
        if elements.len() != open.meta.dim || !open.meta.has_model() {
            return None;
        }
        let most_bytes = (vectors / VECTORS_PER_MODEL).max(SMALL_MODEL);
        let model = cache::searcher_at_hand(open.index, open.store(), &open.meta, most_bytes)?;
        let mut search = ListSearch::new(open.store(), &open.meta, Some(&model), &elements).ok()?;
        search.shares(lower, upper).ok()?
    }
}

/// Whether the role that a query runs as may read what the index takes from the table, as PostgreSQL's `examine_variable` has it:
/// a partition by the right to the partitioned table. A branch of UNION ALL has a subquery as its parent, which is no table.
unsafe fn may_count(root: *mut pg_sys::PlannerInfo, info: &pg_sys::IndexOptInfo) -> bool {
    // SAFETY: the planner's own structures; an index has one column at least, whose number is 0 for an expression.
    unsafe {
        let table = &*info.rel;
        let role = match table.userid {
            pg_sys::InvalidOid => current_user(),
            role => role,
        };
        let table_of = |relid: i32| {
            let entry = &**(*root).simple_rte_array.add(relid as usize);
            (entry.rtekind == pg_sys::RTEKind::RTE_RELATION).then_some(entry.relid)
        };
        let may_select = |relid: i32, column| {
            table_of(relid).is_some_and(|table| may_select_any(table, column, role))
        };
        let column = Some(*info.indexkeys as i16).filter(|column| *column > 0);
        let parent = table.top_parent_relids;
        may_select(table.relid as i32, column)
            || (!parent.is_null() && may_select(pg_sys::bms_next_member(parent, -1), None))
    }
}

/// The planner's settings for an index in a tablespace.
fn prices(tablespace: pg_sys::Oid) -> CostSettings {
    let (mut random_page, mut sequential_page) = (0.0, 0.0);
    // SAFETY: a plain look-up, and plain settings.
    unsafe {
        pg_sys::get_tablespace_page_costs(tablespace, &mut random_page, &mut sequential_page);
        CostSettings {
            sequential_page,
            random_page,
            row: pg_sys::cpu_tuple_cost,
            index_row: pg_sys::cpu_index_tuple_cost,
            operator: pg_sys::cpu_operator_cost,
            sort_memory: 1024.0 * f64::from(pg_sys::work_mem),
        }
    }
}

/// What the index's own pages say.
struct Known {
    index: IndexShape,
    /// Bytes of a vector.
    vector: f64,
    /// What limits of the distance leave, if there are any.
    shares: Option<Shares>,
}

/// Reads it; of what cannot be read, a trained index of the default shape is supposed (a hypothetical index, a damaged page):
/// the planner must not fail over that.
fn look_up(info: &pg_sys::IndexOptInfo, range: Option<&DistanceConditions>) -> Known {
    let pages = f64::from(info.pages);
    let unknown = IndexShape {
        pages,
        rows: info.tuples,
        lists: 100.0,
        probes: 10.0,
        growth: Growth::default(),
        dimensions: 384.0,
        subquantizers: 96.0,
        bits: 4,
        assignments: 1.0,
        refine: false,
    };
    let supposed = || Known {
        index: unknown,
        vector: 4.0 * unknown.dimensions,
        shares: range.and_then(DistanceConditions::supposed),
    };
    // SAFETY: a plain setting.
    let is_enabled = unsafe { pg_sys::enable_indexscan };
    if info.hypothetical || info.pages == 0 || !is_enabled {
        return supposed();
    }
    let read = || {
        // SAFETY: the planner holds a lock on the index that lasts beyond this call.
        let (relation, index) = unsafe {
            let relation = pg_sys::index_open(info.indexoid, pg_sys::NoLock as pg_sys::LOCKMODE);
            (relation, Index::new(relation))
        };
        let known = read_index(info, index, unknown, range);
        // SAFETY: opened above.
        unsafe { pg_sys::index_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE) };
        known
    };
    // SAFETY: a plain look-up.
    let read = if unsafe { pg_sys::IsInParallelMode() } {
        // There are no subtransactions then: an error ends the statement, as it would where the index is searched, and the abort
        // closes the index.
        read()
    } else {
        in_subtransaction(read).ok().flatten()
    };
    read.unwrap_or_else(supposed)
}

fn read_index(
    info: &pg_sys::IndexOptInfo,
    index: Index,
    unknown: IndexShape,
    range: Option<&DistanceConditions>,
) -> Option<Known> {
    let (options, element) = (Options::of(index), index.element().ok()?);
    let open = OpenIndex::open(index).ok()?;
    let meta = &open.meta;
    let vector = (meta.dim * element.bytes()) as f64;
    let probing = crate::settings::probing(&options, meta);
    let index_shape = IndexShape {
        pages: unknown.pages * share_of_codes(meta),
        lists: f64::from(meta.lists()),
        probes: probing.first as f64,
        growth: probing.growth,
        dimensions: meta.dim as f64,
        subquantizers: meta.shape.subquantizers as f64,
        bits: meta.shape.bits,
        assignments: meta.assignments.into(),
        refine: meta.refine,
        ..unknown
    };
    let shares = range.and_then(|range| range.shares(&open, info.tuples * vector));
    Some(Known {
        index: index_shape,
        vector,
        shares,
    })
}

/// The share of the index's pages that codes are on: refine codes have pages of their own.
fn share_of_codes(meta: &Meta) -> f64 {
    // Row constants and TID are beside the code.
    let code = meta.shape.subquantizers * usize::from(meta.shape.bits) / 8 + 12;
    code as f64 / (code + meta.refine_bytes()) as f64
}
