//! `distillvq_check`: the problems of an index, none if it is sound.

use crate::error::{Error, Failure, Purpose, Result, or_raise};
use crate::functions::{check_index, check_readable};
use crate::pg::heap::VisibleRows;
use crate::pg::relation::Maintained;
use crate::pg::store::RelationStore;
use distillvq_ivf::{CheckReport, EachRow, Problem, check_against, check_within};
use pgrx::iter::TableIterator;
use pgrx::{name, pg_extern, pg_sys::Oid};
use std::ops::Range;

/// A row for each problem: the block of the index, if it is about one, and what is wrong.
type Rows = TableIterator<'static, (name!(block, Option<i64>), name!(problem, String))>;

/// Verifies the structure of an index and, if wanted, that it has every row of its table as it must be.
#[pg_extern]
fn distillvq_check(index: Option<Oid>, heap: Option<bool>) -> Rows {
    let index = or_raise(index.ok_or(Error::NullIndex(Purpose::Check)));
    let problems = or_raise(check(index, heap.unwrap_or(false)));
    let row = |Problem { block, what }| (block.map(i64::from), what);
    TableIterator::new(problems.into_iter().map(row))
}

fn check(oid: Oid, heap: bool) -> Result<Vec<Problem>> {
    check_index(oid, Purpose::Check)?;
    let locked = Maintained::for_check(oid);
    check_readable(&locked, Purpose::Check)?;
    let first = look(&locked, heap)?.problems;
    if first.is_empty() || !crate::pg::relation::in_recovery() {
        return Ok(first);
    }
    // No lock holds off what a standby replays: what it shows twice is a problem.
    let second = look(&locked, heap)?.problems;
    Ok(first.into_iter().filter(|it| second.contains(it)).collect())
}

fn look(locked: &Maintained, heap: bool) -> Result<CheckReport> {
    let index = locked.index();
    let (store, memory) = (RelationStore::new(index), crate::pg::maintenance_bytes());
    let report = if heap {
        let rows = VisibleRows::new(locked.heap(), index)?;
        let mut vector = Vec::new();
        let mut table = |blocks: Range<u32>, each: &mut EachRow<'_, Failure>| {
            rows.show(blocks, &mut |tid, read| {
                vector.clear();
                read(&mut vector);
                each(tid, &vector).map_err(|failure| failure.of(index))
            });
            Ok(())
        };
        check_against(&store, memory, &mut table)
    } else {
        check_within(&store, memory).map_err(Failure::Pages)
    };
    report.map_err(|failure| failure.of(index))
}
