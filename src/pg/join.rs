//! How many rows the joins of a query make of a row of one table, before any join is planned.
//!
//! A query that wants the nearest ten rows of a join needs more of the table where the other tables drop rows of it, and fewer
//! where they multiply them. The estimates are the planner's own: rows of the other tables behind their filters, and the
//! selectivity of the join clauses.

use crate::pg::compat::join_equalities;
use crate::pg::condition::items;
use pgrx::pg_sys;
use std::ffi::c_int;

/// The least and the most that is ever answered.
const MIN_ROWS: f64 = 1e-9;
const MAX_ROWS: f64 = 1e9;

/// Rows of the whole join per row of a table; 1 where joins cannot be judged by tables one by one.
///
/// # Safety
/// Both must be the planner's, the table a base relation or a member of one.
pub unsafe fn rows_per_row(root: *mut pg_sys::PlannerInfo, table: *mut pg_sys::RelOptInfo) -> f64 {
    // SAFETY: the planner's own structures; sizes of all base relations are known before paths are made.
    unsafe {
        let parent = (*table).top_parent_relids;
        let own = if parent.is_null() {
            (*table).relids
        } else {
            parent
        };
        let specials = items((*root).join_info_list);
        let specials = || {
            specials
                .iter()
                .map(|&node| node.cast::<pg_sys::SpecialJoinInfo>())
        };
        if specials().any(|it| pg_sys::bms_overlap((*it).syn_righthand, own)) {
            return 1.0;
        }
        let mut joined = pg_sys::bms_union(own, std::ptr::null());
        let mut others = Vec::new();
        let mut member = -1;
        loop {
            member = pg_sys::bms_next_member((*root).all_baserels, member);
            if member < 0 {
                break;
            }
            if !pg_sys::bms_is_member(member, own) {
                others.push(member);
            }
        }
        let mut rows = 1.0;
        while !others.is_empty() {
            let clauses: Vec<_> = others
                .iter()
                .map(|&other| clauses(root, joined, other))
                .collect();
            // Tables that nothing links to those joined so far come last.
            let next = clauses.iter().position(|clauses| !clauses.is_null());
            let next = next.unwrap_or(0);
            let other = others.remove(next);
            let (inner, clauses) = (pg_sys::find_base_rel(root, other), clauses[next]);
            let special = specials().find(|it| pg_sys::bms_is_member(other, (**it).syn_righthand));
            let selectivity =
                |kind, special| pg_sys::clauselist_selectivity(root, clauses, 0, kind, special);
            rows *= match special {
                None => {
                    let mut plain = plain_join(joined, (*inner).relids);
                    (*inner).rows * selectivity(pg_sys::JoinType::JOIN_INNER, &raw mut plain)
                }
                Some(special) => {
                    let alone = pg_sys::bms_equal((*special).min_righthand, (*inner).relids)
                        && pg_sys::bms_is_subset((*special).min_lefthand, joined);
                    match (*special).jointype {
                        kind @ pg_sys::JoinType::JOIN_SEMI if alone => selectivity(kind, special),
                        kind @ pg_sys::JoinType::JOIN_ANTI if alone => {
                            1.0 - selectivity(kind, special)
                        }
                        _ => 1.0,
                    }
                }
            };
            joined = pg_sys::bms_add_members(joined, (*inner).relids);
        }
        if rows.is_nan() {
            1.0
        } else {
            rows.clamp(MIN_ROWS, MAX_ROWS)
        }
    }
}

/// The clauses that link a table to those joined before; null if there are none.
unsafe fn clauses(
    root: *mut pg_sys::PlannerInfo,
    joined: pg_sys::Relids,
    other: c_int,
) -> *mut pg_sys::List {
    // SAFETY: the planner's own structures.
    unsafe {
        let inner = pg_sys::find_base_rel(root, other);
        let both = pg_sys::bms_union(joined, (*inner).relids);
        let mut clauses = join_equalities(root, both, joined, inner);
        for &node in items((*inner).joininfo) {
            let needed = (*node.cast::<pg_sys::RestrictInfo>()).required_relids;
            if pg_sys::bms_is_subset(needed, both) && pg_sys::bms_overlap(needed, joined) {
                clauses = pg_sys::lappend(clauses, node.cast());
            }
        }
        clauses
    }
}

/// An inner join, as functions that estimate its selectivity want it described.
fn plain_join(left: pg_sys::Relids, right: pg_sys::Relids) -> pg_sys::SpecialJoinInfo {
    pg_sys::SpecialJoinInfo {
        type_: pg_sys::NodeTag::T_SpecialJoinInfo,
        min_lefthand: left,
        min_righthand: right,
        syn_lefthand: left,
        syn_righthand: right,
        jointype: pg_sys::JoinType::JOIN_INNER,
        ..Default::default()
    }
}
