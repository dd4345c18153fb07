//! `distillvq_calibrate`, and the same after a training: the recall of a live index measured anew.

use crate::am::build::rows_as_queries;
use crate::am::calibrate::{self, Queries};
use crate::am::scan::Target;
use crate::error::{Error, Purpose, Result, of_index, or_raise};
use crate::functions::train::sample_queries;
use crate::functions::{check_all_rows, check_index, check_readable, models, query_log};
use crate::pg::Progress;
use crate::pg::options::Options;
use crate::pg::relation::Maintained;
use crate::pg::spi::{VectorColumn, as_role};
use crate::pg::store::RelationStore;
use distillvq_ivf::{Calibration, Training, describe};
use distillvq_quantizer::Model;
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
    let index = or_raise(index.ok_or(Error::NullIndex(Purpose::Calibrate)));
    let start = Instant::now();
    let measured = query_log(queries, query_column).and_then(|log| run(index, log.as_ref()));
    let (options, measured) = or_raise(measured);
    let target = crate::pg::target::target_recall(options.target_recall);
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
    check_index(oid, Purpose::Calibrate)?;
    check_all_rows(oid, Purpose::Calibrate)?;
    let locked = Maintained::for_change(oid, c"distillvq_calibrate()");
    let index = locked.index();
    check_readable(&locked, Purpose::Calibrate)?;
    let target = Target::open(index)?;
    let model = target
        .model()?
        .ok_or_else(|| Error::Untrained(index.named()))?;
    let _progress = Progress::start(index.table(), Some(oid));
    let queries = match log {
        Some(column) => {
            let given = sample_queries(column, SEED, target.meta.dim)?;
            logged(&locked, &target, &given)
        }
        None => remembered(&locked, &target, &model)?,
    };
    let training = target.meta.training;
    let measured = calibrate(&locked, &target, &model, queries, training)?;
    Ok((index.options(), measured))
}

/// Queries of a log, as many as are wanted.
pub fn logged(locked: &Maintained, target: &Target, vectors: &[f32]) -> Option<Queries> {
    Queries::of_log(vectors, target.meta.dim, locked.heap().estimated_rows())
}

/// The held-out queries of the model that the index was built with, if that is still there.
fn remembered(locked: &Maintained, target: &Target, model: &Model) -> Result<Option<Queries>> {
    let Some(name) = locked.index().options().model else {
        return Ok(None);
    };
    let named = match models::load(&name) {
        Ok(named) => named,
        Err(Error::NoModel(_)) => return Ok(None),
        Err(error) => return Err(error),
    };
    let same = named.dim() == model.dim() && named.metric() == model.metric();
    Ok(logged(locked, target, named.held_out()).filter(|_| same))
}

/// Measures an index with queries, or with rows that pose as queries, and writes what it found and how the model was
/// trained into the metapage.
pub fn calibrate(
    locked: &Maintained,
    target: &Target,
    model: &Model,
    queries: Option<Queries>,
    training: Training,
) -> Result<Option<Calibration>> {
    let (heap, index) = (locked.heap(), locked.index());
    let dim = target.meta.dim;
    let work = || -> Result<Option<Calibration>> {
        let queries = match queries {
            Some(queries) => queries,
            None => rows_as_queries(heap, index, dim)?.0,
        };
        let truth = calibrate::truth(heap, target, model, queries)?;
        calibrate::measure(heap, target, model, &truth)
    };
    // Functions in the index's definition run as the owner of the table, as in REINDEX.
    let measured = as_role(index.owner(), work)?;
    let store = RelationStore::new(index);
    describe(&store, target.meta.model_version(), training, measured).map_err(of_index(index))?;
    crate::pg::commit_durably();
    Ok(measured)
}
