//! `distillvq_calibrate`, and the same after a training: the recall of a live index measured again.

use crate::am::calibration::measure::calibrate;
use crate::am::calibration::queries::{given_queries, model_queries, sampled_queries};
use crate::am::open_index::OpenIndex;
use crate::am::training::sample::sample_queries;
use crate::error::{Error, Operation, Result};
use crate::functions::{check_all_rows, check_index, check_readable, query_log};
use crate::pg::progress::Progress;
use crate::pg::relation::LockedIndex;
use crate::pg::report::or_raise;
use crate::pg::vector_column::VectorColumn;
use crate::settings::reloptions::Options;
use distillvq_ivf::{Calibration, QueryKind};
use pgrx::iter::TableIterator;
use pgrx::{name, pg_sys::Oid};
use std::time::Instant;

/// Seed of the choice of queries.
const SEED: u64 = 1;

/// What was measured: the kind of queries, their number, rows, the index's target and the lists that reach it, seconds.
type Row = TableIterator<
    'static,
    (
        name!(query_source, String),
        name!(queries, i64),
        name!(rows, i64),
        name!(target_recall, f32),
        name!(probes, Option<i32>),
        name!(seconds, f32),
    ),
>;

/// Measures the recall of an index whose table or queries have changed.
pub fn distillvq_calibrate(
    index: Option<Oid>,
    queries: Option<Oid>,
    query_column: Option<&std::ffi::CStr>,
) -> Row {
    let index = or_raise(index.ok_or(Error::NullIndex(Operation::Calibrate)));
    let start = Instant::now();
    let measured = query_log(queries, query_column).and_then(|log| run(index, log.as_ref()));
    let (options, measured) = or_raise(measured);
    let target = crate::settings::target_recall::target_recall(options.target_recall);
    let row = |it: Calibration| {
        (
            it.kind.as_str().to_owned(),
            i64::from(it.queries),
            it.rows as i64,
            target as f32,
            it.probes_for(target).map(|probes| probes as i32),
            start.elapsed().as_secs_f32(),
        )
    };
    TableIterator::new(measured.map(row).into_iter().collect::<Vec<_>>())
}

fn run(oid: Oid, log: Option<&VectorColumn>) -> Result<(Options, Option<Calibration>)> {
    check_index(oid, Operation::Calibrate)?;
    check_all_rows(oid, Operation::Calibrate)?;
    let locked = LockedIndex::for_change(oid, c"distillvq_calibrate()");
    let index = locked.index();
    check_readable(&locked, Operation::Calibrate)?;
    let target = OpenIndex::open(index)?;
    let model = target
        .model()?
        .ok_or_else(|| Error::Untrained(index.named()))?;
    let _progress = Progress::start(index.table(), Some(oid));
    let queries = match log {
        Some(column) => {
            let given = sample_queries(column, SEED, target.meta.dim)?;
            given_queries(&locked, &target, QueryKind::Log, &given)
        }
        None => match sampled_queries(&locked, &target)? {
            Some(queries) => Some(queries),
            None => model_queries(&locked, &target, &model)?,
        },
    };
    let training = target.meta.training;
    let measured = calibrate(&locked, &target, &model, queries, training)?;
    Ok((Options::of(index), measured))
}
