//! The SQL functions. Their declarations are in `sql/`, written by hand.

pub mod calibrate;
pub mod check;
pub mod info;
pub mod last_scan;
pub mod models;
pub mod prewarm;
pub mod recall;
pub mod reset_query_sample;
pub mod train;

use crate::error::{Error, Operation, Result};
use crate::pg::names::{quoted_relation, relation_name};
use crate::pg::privileges::rls_applies;
use crate::pg::relation::{LockedIndex, RelationKind, may_maintain, relation_kind, table_of};
use crate::pg::spi::{indexes_of_table, partitions};
use crate::pg::vector_column::VectorColumn;
use distillvq_model::Metric;
use pgrx::pg_sys::Oid;
use std::ffi::CStr;
use std::ops::RangeInclusive;

/// Refuses a relation that is no index of this access method, or not the caller's to maintain.
fn check_index(index: Oid, operation: Operation) -> Result<()> {
    let allowed = |index| may_maintain(table_of(index));
    check_allowed(index, operation, allowed, Error::NotOwner)
}

/// Opens an index of this access method for reading, if the caller is allowed to.
fn open_for_reading(
    index: Oid,
    operation: Operation,
    allowed: impl Fn(Oid) -> bool,
) -> Result<LockedIndex> {
    check_allowed(index, operation, allowed, Error::NotVisible)?;
    let locked = LockedIndex::for_reading(index);
    check_readable(&locked, operation)?;
    Ok(locked)
}

/// Refuses an index that has no contents to look at.
fn check_readable(locked: &LockedIndex, operation: Operation) -> Result<()> {
    let index = locked.index().name();
    if locked.of_another_session() {
        return Err(Error::OtherSession(index));
    }
    if locked.is_empty_in_recovery() {
        return Err(Error::UnloggedInRecovery { operation, index });
    }
    if !locked.is_valid() {
        let index = locked.index().named();
        return Err(Error::InvalidIndex { operation, index });
    }
    Ok(())
}

/// A parameter in its range.
fn check_range(name: &'static str, value: i64, range: RangeInclusive<i64>) -> Result<usize> {
    if range.contains(&value) {
        return Ok(value as usize);
    }
    let (min, max) = range.into_inner();
    Err(Error::OptionRange {
        name,
        value: value.to_string(),
        min,
        max,
    })
}

/// The column of logged queries, if the caller named a relation: the named one, or the only one of vectors.
fn query_log(queries: Option<Oid>, column: Option<&CStr>) -> Result<Option<VectorColumn>> {
    match (queries, column) {
        (Some(relation), Some(column)) => VectorColumn::find(relation, column).map(Some),
        (Some(relation), None) => VectorColumn::only_one(relation).map(Some),
        (None, None) => Ok(None),
        (None, Some(_)) => Err(Error::IncompleteQueries),
    }
}

/// Refuses a table of which row-level security hides rows from the caller: what is done to an index is done to all who
/// search in it.
fn check_all_rows(index: Oid, operation: Operation) -> Result<()> {
    let table = table_of(index);
    if rls_applies(table) {
        let table = quoted_relation(table)?;
        return Err(Error::RowSecurity { operation, table });
    }
    Ok(())
}

/// Refuses a relation that is no index of this access method, or with which the caller may not do this.
fn check_allowed(
    index: Oid,
    operation: Operation,
    allowed: impl Fn(Oid) -> bool,
    refused: fn(String) -> Error,
) -> Result<()> {
    check_kind(index, operation)?;
    if allowed(index) {
        Ok(())
    } else {
        Err(refused(name_of(index)))
    }
}

/// Refuses a relation that is no index to do this with: recall is measured of any access method's.
fn check_kind(oid: Oid, operation: Operation) -> Result<()> {
    let kind = match relation_kind(oid) {
        Some(RelationKind::Index) => return Ok(()),
        Some(RelationKind::OtherIndex) if operation == Operation::Measure => return Ok(()),
        Some(RelationKind::Partitioned) => {
            return Err(Error::PartitionedIndex {
                index: name_of(oid),
                partitions: partitions(oid)?,
                operation,
            });
        }
        Some(RelationKind::OtherIndex) => "an index of another access method",
        Some(RelationKind::Other(kind)) => kind,
        None => "no relation",
    };
    Err(Error::NotAnIndex {
        relation: name_of(oid),
        kind,
        indexes: indexes_of_table(oid)?,
        operation,
    })
}

/// The name of a relation, or its number if there is none.
fn name_of(relation: Oid) -> String {
    relation_name(relation).unwrap_or_else(|| relation.to_u32().to_string())
}

/// Support function 2 of the operator classes over `<->`.
pub fn distillvq_metric_l2() -> i32 {
    i32::from(Metric::L2.code())
}

/// Support function 2 of the operator classes over `<#>`.
pub fn distillvq_metric_ip() -> i32 {
    i32::from(Metric::InnerProduct.code())
}

/// Support function 2 of the operator classes over `<=>`.
pub fn distillvq_metric_cosine() -> i32 {
    i32::from(Metric::Cosine.code())
}
