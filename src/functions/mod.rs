//! The SQL functions. Their declarations are in `sql/`, written by hand.

pub mod models;
mod train;

use crate::pg::relation::code_of_metric;
use distillvq_quantizer::Metric;
use pgrx::pg_extern;

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
