//! What the plan says about a scan that the access method is not told: the distance beyond which its rows are not wanted.
//!
//! `WHERE embedding <-> q < r ORDER BY embedding <-> q` reaches an index as an order alone, and the executor throws away what
//! is beyond `r`, row by row. So the start of every query is watched: its index scans over distillvq are remembered until the
//! memory of the query is freed, and a scan that begins looks itself up there. What is not surely a limit is none.

use crate::pg::compat::planstate_tree_walker;
use crate::pg::relation::access_method;
use pgrx::{PgMemoryContexts, pg_guard, pg_sys};
use std::cell::RefCell;
use std::ffi::{c_int, c_void};
use std::sync::OnceLock;

/// An index scan of a query that was started.
struct Node {
    state: *mut pg_sys::IndexScanState,
    /// The query's memory, where the state lies.
    memory: pg_sys::MemoryContext,
}

thread_local! {
    /// Oldest first.
    static NODES: RefCell<Vec<Node>> = const { RefCell::new(Vec::new()) };
}

/// Forgets the scans of a query, when its memory is freed: that happens however it ends.
struct Forget(pg_sys::MemoryContext);

impl Drop for Forget {
    fn drop(&mut self) {
        NODES.with_borrow_mut(|nodes| nodes.retain(|node| node.memory != self.0));
    }
}

/// A function of PostgreSQL without the guard that pgrx puts around each. The guard rebuilds an error from a part of what it
/// tells, and errors of queries that have nothing to do with us pass here.
mod bare {
    use super::{c_int, pg_sys};

    unsafe extern "C-unwind" {
        pub fn standard_ExecutorStart(query: *mut pg_sys::QueryDesc, flags: c_int);
    }
}

static PREVIOUS: OnceLock<pg_sys::ExecutorStart_hook_type> = OnceLock::new();

/// Begins to watch; called once when the library is loaded.
pub fn install() {
    // SAFETY: the hook is the backend's own, and no query starts meanwhile.
    unsafe {
        if PREVIOUS.set(pg_sys::ExecutorStart_hook).is_ok() {
            pg_sys::ExecutorStart_hook = Some(start);
        }
    }
}

/// Starts a query as it would be started, then looks at its plan. An error of the start passes over this frame, which has
/// nothing to drop.
unsafe extern "C-unwind" fn start(query: *mut pg_sys::QueryDesc, flags: c_int) {
    // SAFETY: the arguments go on as they came; afterwards the query has its state.
    unsafe {
        match PREVIOUS.get() {
            Some(Some(previous)) => previous(query, flags),
            _ => bare::standard_ExecutorStart(query, flags),
        }
        started(query);
    }
}

/// Remembers the scans of a query.
#[pg_guard]
unsafe extern "C-unwind" fn started(query: *mut pg_sys::QueryDesc) {
    let mut found = Vec::new();
    // SAFETY: a query that was started has both; the walk gives the vector to `collect` alone.
    unsafe {
        let (state, executor) = ((*query).planstate, (*query).estate);
        if state.is_null() || executor.is_null() {
            return;
        }
        let out = (&raw mut found).cast::<c_void>();
        pg_sys::ffi::pg_guard_ffi_boundary(|| collect(state, out));
        found.retain(|&state| is_ours(state));
        if found.is_empty() {
            return;
        }
        let memory = (*executor).es_query_cxt;
        PgMemoryContexts::For(memory).leak_and_drop_on_delete(Forget(memory));
        let nodes = found.into_iter().map(|state| Node { state, memory });
        NODES.with_borrow_mut(|all| all.extend(nodes));
    }
}

/// Appends the ordered index scans of a plan to the vector that `out` points to.
unsafe extern "C-unwind" fn collect(state: *mut pg_sys::PlanState, out: *mut c_void) -> bool {
    // SAFETY: called for nodes of a plan's state, with the vector of `started`.
    unsafe {
        if (*state).type_ == pg_sys::NodeTag::T_IndexScanState {
            let scan = state.cast::<pg_sys::IndexScanState>();
            if (*scan).iss_NumOrderByKeys == 1 {
                let out = &mut *out.cast::<Vec<*mut pg_sys::IndexScanState>>();
                out.push(scan);
            }
        }
        planstate_tree_walker(state, collect, out)
    }
}

/// Whether a scan is over an index of this access method, and will be run.
///
/// # Safety
/// `state` must be the state of an index scan.
pub unsafe fn is_ours(state: *mut pg_sys::IndexScanState) -> bool {
    // SAFETY: as promised; without a run the index is not even opened.
    unsafe {
        let index = (*state).iss_RelationDesc.as_ref();
        index.is_some_and(|index| (*index.rd_rel).relam == access_method())
    }
}

/// The distance beyond which the rows of a scan are not wanted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Farthest {
    /// There is none.
    Unlimited,
    /// There is one which is not known yet: a sub-select is evaluated when the first row needs it.
    Later,
    /// This one; a row at this very distance is wanted.
    At(f64),
}

impl Farthest {
    /// What both leave.
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::At(a), Self::At(b)) => Self::At(a.min(b)),
            (Self::At(a), _) | (_, Self::At(a)) => Self::At(a),
            (Self::Later, _) | (_, Self::Later) => Self::Later,
            _ => Self::Unlimited,
        }
    }

    /// What `distance < value`, or `<=`, leaves.
    fn below(value: Option<f64>, inclusive: bool) -> Self {
        match value {
            // Nothing is less than NULL.
            None => Self::At(f64::NEG_INFINITY),
            // NaN is more than all.
            Some(value) if value.is_nan() => Self::Unlimited,
            Some(value) if inclusive => Self::At(value),
            Some(value) => Self::At((value + 0.0).next_down()),
        }
    }
}

/// The distance beyond which the executor throws the rows of a scan away.
///
/// # Safety
/// `scan` must be the descriptor of a running index scan.
pub unsafe fn farthest(scan: pg_sys::IndexScanDesc) -> Farthest {
    // SAFETY: nodes are remembered as long as their memory is there.
    let is_it = |node: &&Node| unsafe { (*node.state).iss_ScanDesc == scan };
    let node = NODES.with_borrow(|nodes| nodes.iter().rev().find(is_it).map(|node| node.state));
    let Some(node) = node else {
        return Farthest::Unlimited;
    };
    // SAFETY: the scan runs, so its node and plan are there. The conditions in `qual` are the node's own: all must hold.
    unsafe {
        let state = &(*node).ss.ps;
        let plan = &*state.plan.cast::<pg_sys::IndexScan>();
        let Some(&order) = items(plan.indexorderbyorig).first() else {
            return Farthest::Unlimited;
        };
        let limit = |&clause: &*mut pg_sys::Node| limit_of(clause, order, state.ps_ExprContext);
        let limits = items(plan.scan.plan.qual).iter().map(limit);
        limits.fold(Farthest::Unlimited, Farthest::and)
    }
}

/// What a condition says about the distance by which a scan is ordered.
///
/// # Safety
/// Condition and order must be expressions of a plan, the context null or what they are evaluated in.
pub unsafe fn limit_of(
    clause: *mut pg_sys::Node,
    order: *mut pg_sys::Node,
    context: *mut pg_sys::ExprContext,
) -> Farthest {
    // SAFETY: expressions of the plan, and the context that they are evaluated in.
    unsafe {
        let Some((operator, left, right)) = binary(clause) else {
            return Farthest::Unlimited;
        };
        let (distance, value, inclusive) = match operator.opfuncid.to_u32() {
            pg_sys::F_FLOAT8LT => (left, right, false),
            pg_sys::F_FLOAT8LE => (left, right, true),
            pg_sys::F_FLOAT8GT => (right, left, false),
            pg_sys::F_FLOAT8GE => (right, left, true),
            _ => return Farthest::Unlimited,
        };
        if !is_same(distance, order) {
            return Farthest::Unlimited;
        }
        match evaluate(value, context) {
            Value::Unknown => Farthest::Unlimited,
            Value::Later => Farthest::Later,
            Value::Is(value) => Farthest::below(value, inclusive),
        }
    }
}

/// Whether two expressions are one distance, perhaps with the vectors swapped.
unsafe fn is_same(distance: *mut pg_sys::Node, order: *mut pg_sys::Node) -> bool {
    // SAFETY: expressions of a plan.
    unsafe {
        let equal = |a: *mut pg_sys::Node, b: *mut pg_sys::Node| pg_sys::equal(a.cast(), b.cast());
        if equal(distance, order) {
            return true;
        }
        let (Some((a, a_left, a_right)), Some((b, b_left, b_right))) =
            (binary(distance), binary(order))
        else {
            return false;
        };
        equal(a_left, b_right) && equal(a_right, b_left) && pg_sys::get_commutator(a.opno) == b.opno
    }
}

/// A value of type float8, none for NULL.
enum Value {
    Is(Option<f64>),
    Later,
    Unknown,
}

impl Value {
    fn of(value: pg_sys::Datum, is_null: bool) -> Self {
        Self::Is((!is_null).then(|| f64::from_bits(value.value() as u64)))
    }
}

/// The value of a constant or a parameter; anything else is not evaluated.
unsafe fn evaluate(expression: *mut pg_sys::Node, context: *mut pg_sys::ExprContext) -> Value {
    // SAFETY: an expression of the plan; its tag says what it is.
    unsafe {
        match (*expression).type_ {
            pg_sys::NodeTag::T_Const => {
                let constant = &*expression.cast::<pg_sys::Const>();
                if constant.consttype == pg_sys::FLOAT8OID {
                    return Value::of(constant.constvalue, constant.constisnull);
                }
            }
            pg_sys::NodeTag::T_Param => {
                let parameter = &*expression.cast::<pg_sys::Param>();
                if parameter.paramtype == pg_sys::FLOAT8OID && !context.is_null() {
                    return parameter_value(parameter, &*context);
                }
            }
            _ => {}
        }
        Value::Unknown
    }
}

unsafe fn parameter_value(parameter: &pg_sys::Param, context: &pg_sys::ExprContext) -> Value {
    // SAFETY: the plan's parameters have their places in the context of its nodes; numbers of those given from outside count
    // from 1, and are checked.
    unsafe {
        match parameter.paramkind {
            pg_sys::ParamKind::PARAM_EXEC if !context.ecxt_param_exec_vals.is_null() => {
                let own = &*context.ecxt_param_exec_vals.add(parameter.paramid as usize);
                if own.execPlan.is_null() {
                    Value::of(own.value, own.isnull)
                } else {
                    Value::Later
                }
            }
            pg_sys::ParamKind::PARAM_EXTERN => {
                let list = context.ecxt_param_list_info;
                let known = !list.is_null() && (1..=(*list).numParams).contains(&parameter.paramid);
                if known {
                    external_value(list, parameter.paramid)
                } else {
                    Value::Unknown
                }
            }
            _ => Value::Unknown,
        }
    }
}

unsafe fn external_value(list: pg_sys::ParamListInfo, number: c_int) -> Value {
    let mut place = pg_sys::ParamExternData::default();
    // SAFETY: a parameter of the list; one that is fetched may lie in `place`. The type is checked, as the executor does.
    unsafe {
        let given = match (*list).paramFetch {
            Some(fetch) => {
                let place = &raw mut place;
                pg_sys::ffi::pg_guard_ffi_boundary(|| fetch(list, number, true, place))
            }
            None => (*list).params.as_mut_ptr().add(number as usize - 1),
        };
        match given.as_ref() {
            Some(given) if given.ptype == pg_sys::FLOAT8OID => Value::of(given.value, given.isnull),
            _ => Value::Unknown,
        }
    }
}

/// An operator with its two arguments.
///
/// # Safety
/// `node` must be null or an expression of a plan.
pub unsafe fn binary<'a>(
    node: *mut pg_sys::Node,
) -> Option<(&'a pg_sys::OpExpr, *mut pg_sys::Node, *mut pg_sys::Node)> {
    // SAFETY: an expression of a plan; its tag says what it is.
    unsafe {
        if node.is_null() || (*node).type_ != pg_sys::NodeTag::T_OpExpr {
            return None;
        }
        let operator = &*node.cast::<pg_sys::OpExpr>();
        match *items(operator.args) {
            [left, right] => Some((operator, left, right)),
            _ => None,
        }
    }
}

/// The nodes of a list.
///
/// # Safety
/// `list` must be null or a list of nodes, which must not change while they are used.
pub unsafe fn items<'a>(list: *mut pg_sys::List) -> &'a [*mut pg_sys::Node] {
    // SAFETY: null is the empty list; cells of a list of nodes are pointers.
    unsafe {
        match list.as_ref() {
            Some(list) => {
                std::slice::from_raw_parts(list.elements.cast(), list.length.max(0) as usize)
            }
            None => &[],
        }
    }
}
