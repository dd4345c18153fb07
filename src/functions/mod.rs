//! The SQL functions. Their declarations are in `sql/`, written by hand.

mod calibrate;
mod check;
mod last_scan;
pub mod models;
mod train;

use crate::error::{Error, Purpose, Result};
use crate::pg::relation::{RelationKind, code_of_metric, may_maintain, relation_kind, table_of};
use crate::pg::spi::{partitions, relation_name};
use distillvq_quantizer::Metric;
use pgrx::{pg_extern, pg_sys::Oid};

/// Refuses a relation that is no index of this access method, or not the caller's to maintain.
fn check_index(index: Oid, purpose: Purpose) -> Result<()> {
    let name = || relation_name(index).unwrap_or_else(|| index.to_u32().to_string());
    let not_an_index = |kind| {
        Err(Error::NotAnIndex {
            relation: name(),
            kind,
            purpose,
        })
    };
    match relation_kind(index) {
        Some(RelationKind::Index) if may_maintain(table_of(index)) => Ok(()),
        Some(RelationKind::Index) => Err(Error::NotOwner(name())),
        Some(RelationKind::Partitioned) => Err(Error::PartitionedIndex {
            index: name(),
            partitions: partitions(index)?,
            purpose,
        }),
        Some(RelationKind::Other(kind)) => not_an_index(kind),
        None => not_an_index("no relation"),
    }
}

/// Support function 2 of the operator classes over `<->`.
#[pg_extern]
fn distillvq_metric_l2() -> i32 {
    code_of_metric(Metric::L2)
}

/// Support function 2 of the operator classes over `<#>`.
#[pg_extern]
fn distillvq_metric_ip() -> i32 {
    code_of_metric(Metric::InnerProduct)
}

/// Support function 2 of the operator classes over `<=>`.
#[pg_extern]
fn distillvq_metric_cosine() -> i32 {
    code_of_metric(Metric::Cosine)
}
