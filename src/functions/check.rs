//! `distillvq_check`: the problems of an index, none if it is sound.

use crate::am::failure::PageOpError;
use crate::am::model_store::catalog;
use crate::error::{Error, Operation, Result};
use crate::functions::{check_index, check_readable};
use crate::pg::filter_columns::FilterColumns;
use crate::pg::heap::VisibleRows;
use crate::pg::page_store::RelationStore;
use crate::pg::relation::LockedIndex;
use crate::pg::report::or_raise;
use crate::pg::text::to_server;
use crate::settings::reloptions::Options;
use distillvq_ivf::{CheckReport, Problem, RowFn, check_against, check_within};
use pgrx::iter::TableIterator;
use pgrx::{name, pg_sys::Oid};
use std::ops::Range;

/// A row for each problem: the block of the index, if it is about one, and what is wrong.
type Rows = TableIterator<'static, (name!(block, Option<i64>), name!(problem, Vec<u8>))>;

/// Verifies the structure of an index and, if wanted, that it has every row of its table as it must be.
pub fn distillvq_check(index: Option<Oid>, heap: Option<bool>) -> Rows {
    let index = or_raise(index.ok_or(Error::NullIndex(Operation::Check)));
    let problems = or_raise(check(index, heap.unwrap_or(false)));
    let row = |Problem { block, what }| (block.map(i64::from), to_server(&what));
    TableIterator::new(problems.into_iter().map(row))
}

fn check(oid: Oid, heap: bool) -> Result<Vec<Problem>> {
    check_index(oid, Operation::Check)?;
    let locked = LockedIndex::for_check(oid);
    check_readable(&locked, Operation::Check)?;
    let mut problems = check_once(&locked, heap)?.problems;
    if !problems.is_empty() && crate::pg::relation::in_recovery() {
        // No lock holds off what a standby replays: what it shows twice is a problem.
        let second = check_once(&locked, heap)?.problems;
        problems.retain(|it| second.contains(it));
    }
    problems.extend(missing_model(&locked)?);
    Ok(problems)
}

/// A named model that is missing or does not fit: the index cannot be rebuilt or restored.
fn missing_model(locked: &LockedIndex) -> Result<Option<Problem>> {
    let index = locked.index();
    let Some(name) = Options::of(index).model else {
        return Ok(None);
    };
    let unfit = catalog::unfit(&name, index.metric()?, index.dimensions()?)?;
    Ok(unfit.map(|why| Problem {
        block: None,
        what: format!("model \"{name}\" {why}, so the index cannot be rebuilt or restored"),
    }))
}

fn check_once(locked: &LockedIndex, heap: bool) -> Result<CheckReport> {
    let index = locked.index();
    let (store, memory) = (
        RelationStore::new(index),
        crate::pg::memory::maintenance_bytes(),
    );
    let report = if heap {
        let rows = VisibleRows::new(locked.heap(), index)?;
        let (element, filters) = (index.element()?, FilterColumns::of(index)?);
        let (mut vector, mut values) = (Vec::new(), Vec::new());
        let mut table = |blocks: Range<u32>, each: &mut RowFn<'_, PageOpError>| {
            rows.for_each(blocks, &filters, &mut |tid, row| {
                vector.clear();
                values.clear();
                row.append_elements(element, &mut vector);
                row.append_filters(&filters, &mut values);
                each(tid, &vector, &values).map_err(|failure| failure.with_index(index))
            });
            Ok(())
        };
        check_against(&store, memory, &mut table)
    } else {
        check_within(&store, memory).map_err(PageOpError::Pages)
    };
    report.map_err(|failure| failure.with_index(index))
}
