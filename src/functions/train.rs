//! `distillvq_train`, in two forms: a named model from a column of vectors, and a live index trained again in place.
//!
//! The second form changes decoder and routing alone, in the index's pages and not by transaction: nothing that a later
//! rollback would have to undo, since a model changes no result but its quality.

use crate::am::calibration::measure::{calibrate, training};
use crate::am::calibration::queries::{given_queries, sampled_queries};
use crate::am::failure::with_index;
use crate::am::model_store::catalog;
use crate::am::open_index::OpenIndex;
use crate::am::training::run::{
    check_training_memory, notice_small_sample, run_training, train_options,
};
use crate::am::training::sample::{MemoryShare, Sample, sample, sample_queries};
use crate::error::{Error, Operation, Result};
use crate::functions::{check_all_rows, check_index, check_range, check_readable, query_log};
use crate::pg::names::relation_name;
use crate::pg::progress::Progress;
use crate::pg::relation::{LockedIndex, RelationKind, refuse_if_read_only, relation_kind};
use crate::pg::report::or_raise;
use crate::pg::server::now;
use crate::pg::text::{from_c, from_server, to_server};
use crate::pg::vector_column::VectorColumn;
use crate::settings::reloptions::Options;
use distillvq_ivf::{
    Calibration, QueryKind, Training, encoder_bytes, query_sample, replace_student,
    write_calibration,
};
use distillvq_model::{MAX_LISTS, Metric, TrainReport, max_subquantizers};
use distillvq_training::{
    Loss, MAX_HELD_OUT, RetrainOptions, TrainOptions, Trained, retrain, split_held_out, train,
};
use pgrx::iter::TableIterator;
use pgrx::{name, pg_sys::Oid};
use std::borrow::Cow;
use std::time::Instant;

/// Maximum number of lists per row.
const MAX_ASSIGNMENTS: usize = 2;

/// What messages call both forms.
const TRAIN: &std::ffi::CStr = c"distillvq_train()";

/// What the caller asks for, checked.
struct TrainRequest {
    table: Oid,
    rows: VectorColumn,
    queries: Option<VectorColumn>,
    model: String,
    metric: Metric,
    options: Options,
    loss: Loss,
    seed: u64,
}

/// The row that the function returns: model, rows, queries, recall before and after, seconds.
type Outcome = (Vec<u8>, i64, i64, f32, f32, f32);

/// The same with the names of its columns.
type Row = TableIterator<
    'static,
    (
        name!(model, Vec<u8>),
        name!(rows, i64),
        name!(queries_used, i64),
        name!(code_recall_before, f32),
        name!(code_recall_after, f32),
        name!(seconds, f32),
    ),
>;

/// Trains a model on a column of vectors, with or without logged queries, and stores it under a name.
#[allow(clippy::too_many_arguments)]
pub fn distillvq_train(
    table: Option<Oid>,
    column: Option<&std::ffi::CStr>,
    model: Option<&[u8]>,
    metric: Option<&[u8]>,
    queries: Option<Oid>,
    query_column: Option<&std::ffi::CStr>,
    lists: Option<i32>,
    subquantizers: Option<i32>,
    bits: Option<i32>,
    assignments: Option<i32>,
    seed: Option<i64>,
    loss: Option<&[u8]>,
) -> Row {
    let table = or_raise(table.ok_or(Error::Null("table")));
    let column = or_raise(column.ok_or(Error::Null("column")));
    let (model, metric) = (model.map(from_server), metric.map(from_server));
    let request = TrainRequest::check(table, column, model, metric, queries, query_column)
        .and_then(|request| request.with_shape(lists, subquantizers, bits, assignments))
        .and_then(|request| {
            let (loss, seed) = (loss_named(loss)?, seed.unwrap_or(0) as u64);
            Ok(TrainRequest {
                loss,
                seed,
                ..request
            })
        });
    TableIterator::once(or_raise(request.and_then(TrainRequest::run)))
}

/// Trains the model of a live index again, beside reads and writes.
pub fn distillvq_train_index(
    index: Option<Oid>,
    queries: Option<Oid>,
    query_column: Option<&std::ffi::CStr>,
    seed: Option<i64>,
    loss: Option<&[u8]>,
) -> Row {
    let index = or_raise(index.ok_or(Error::NullIndex(Operation::Train)));
    let seed = seed.unwrap_or(0) as u64;
    let options = loss_named(loss).map(|loss| RetrainOptions {
        seed,
        loss,
        ..RetrainOptions::default()
    });
    let outcome = options.and_then(|options| {
        let queries = query_log(queries, query_column)?;
        train_index(index, queries.as_ref(), &options)
    });
    TableIterator::once(or_raise(outcome))
}

fn loss_named(name: Option<&[u8]>) -> Result<Loss> {
    name.map(from_server).map_or(Ok(Loss::default()), |name| {
        name.parse().map_err(|_| Error::UnknownLoss(name))
    })
}

/// Samples the rows of an index, trains its model again, and puts the new student into its pages if it won.
fn train_index(
    oid: Oid,
    queries: Option<&VectorColumn>,
    options: &RetrainOptions,
) -> Result<Outcome> {
    let start = Instant::now();
    check_index(oid, Operation::Train)?;
    check_all_rows(oid, Operation::Train)?;
    let locked = LockedIndex::for_change(oid, TRAIN);
    let index = locked.index();
    check_readable(&locked, Operation::Train)?;
    let target = OpenIndex::open(index)?;
    let meta = target.meta;
    let model = target
        .model()?
        .ok_or_else(|| Error::Untrained(index.named()))?;
    let _progress = Progress::start(index.table(), Some(oid));
    let rows = VectorColumn::of_index(index)?;
    let seed = options.seed;
    let (kind, mut log) = match queries {
        Some(column) => (QueryKind::Log, sample_queries(column, seed, meta.dim)?),
        None => {
            let sample = query_sample::read(target.store(), &meta).map_err(with_index(index))?;
            (QueryKind::Searches, sample.all())
        }
    };
    let shared = !log.is_empty();
    let Sample {
        offered,
        rows: sample,
        ..
    } = sample(&rows, seed, Some(meta.dim), MemoryShare::rows(shared))?;
    let options = RetrainOptions {
        rows_in_table: offered,
        ..*options
    };
    let held_out = split_held_out(&mut log, meta.dim, MAX_HELD_OUT, seed);
    let log = shared.then_some(log);
    check_training_memory(&sample, meta.dim)?;
    let trained = run_training(&index.name(), |monitor| {
        retrain(&model, sample, log.map(Cow::from), &options, monitor)
    })?;
    let trained_at = if trained.report.improved() {
        let unwritten = |source| Error::Model {
            name: index.name(),
            source,
        };
        let encoder = encoder_bytes(target.store(), &target.meta).map_err(with_index(index))?;
        let student = trained
            .model
            .student_bytes_for(&encoder)
            .map_err(unwritten)?;
        replace_student(target.store(), &student, crate::pg::server::random_u64())
            .map_err(with_index(index))?;
        crate::pg::server::commit_durably();
        Some(now())
    } else {
        None
    };
    recalibrate(&locked, &trained, (kind, held_out), trained_at)?;
    Ok(outcome(index.name(), &trained.report, start))
}

/// Measures an index after its training. Without held-out queries of a log, what was measured with such queries before is
/// the better measure: then the lists are chosen as they were, and decide most of the recall.
fn recalibrate(
    locked: &LockedIndex,
    trained: &Trained,
    (kind, held_out): (QueryKind, Vec<f32>),
    trained_at: Option<i64>,
) -> Result<()> {
    let target = OpenIndex::open(locked.index())?;
    let meta = target.meta;
    let training = match trained_at {
        Some(trained_at) => Training {
            built_at: meta.training.built_at,
            code_error: meta.training.code_error,
            trained_at,
            ..training(&trained.report)
        },
        None => meta.training,
    };
    let mut queries = given_queries(locked, &target, kind, &held_out);
    if queries.is_none() && kind == QueryKind::Searches {
        queries = sampled_queries(locked, &target)?;
    }
    let by_log = |it: &Calibration| it.kind == QueryKind::Log;
    if queries.is_none() && meta.calibration.as_ref().is_some_and(by_log) {
        let again = write_calibration(
            target.store(),
            meta.model_version(),
            training,
            meta.calibration,
        );
        again.map_err(with_index(locked.index()))?;
        return Ok(());
    }
    calibrate(locked, &target, &trained.model, queries, training).map(|_| ())
}

fn outcome(model: String, report: &TrainReport, start: Instant) -> Outcome {
    (
        to_server(&model),
        report.rows as i64,
        report.queries as i64,
        report.recall_before,
        report.recall_after,
        start.elapsed().as_secs_f32(),
    )
}

impl TrainRequest {
    fn check(
        table: Oid,
        column: &std::ffi::CStr,
        model: Option<String>,
        metric: Option<String>,
        queries: Option<Oid>,
        query_column: Option<&std::ffi::CStr>,
    ) -> Result<Self> {
        let table_name = relation_name(table).unwrap_or_default();
        let is_index = [
            RelationKind::Index,
            RelationKind::Partitioned,
            RelationKind::OtherIndex,
        ];
        if relation_kind(table).is_some_and(|kind| is_index.contains(&kind)) {
            return Err(Error::IndexAsTable { index: table_name });
        }
        let rows = VectorColumn::find(table, column)?;
        let metric = match metric {
            Some(metric) => metric.parse().map_err(|_| Error::UnknownMetric(metric))?,
            None => Metric::Cosine,
        };
        let queries = query_log(queries, query_column)?;
        let model = model.unwrap_or_else(|| format!("{table_name}_{}", from_c(column)));
        catalog::check_name(&model)?;
        Ok(Self {
            table,
            rows,
            queries,
            model,
            metric,
            options: Options::default(),
            loss: Loss::default(),
            seed: 0,
        })
    }

    fn with_shape(
        self,
        lists: Option<i32>,
        codes: Option<i32>,
        bits: Option<i32>,
        assignments: Option<i32>,
    ) -> Result<Self> {
        let bits = bits.unwrap_or(0);
        if ![0, 4, 8].contains(&bits) {
            return Err(Error::Bits(i64::from(bits)));
        }
        let options = Options {
            lists: in_range("lists", lists, MAX_LISTS)?,
            subquantizers: in_range("subquantizers", codes, max_subquantizers(bits as u8))?,
            bits: bits as usize,
            assignments: in_range("assignments", assignments, MAX_ASSIGNMENTS)?,
            ..Options::default()
        };
        Ok(Self { options, ..self })
    }

    /// Samples, trains and stores.
    fn run(self) -> Result<Outcome> {
        refuse_if_read_only(TRAIN);
        let start = Instant::now();
        let _progress = Progress::start(self.table, None);
        let part = MemoryShare::rows(self.queries.is_some());
        let Sample { dim, offered, rows } = sample(&self.rows, self.seed, None, part)?;
        let mut queries = match &self.queries {
            Some(column) => Some(sample_queries(column, self.seed, dim)?),
            None => None,
        };
        let held_out = queries.as_mut().map_or(Vec::new(), |log| {
            split_held_out(log, dim, MAX_HELD_OUT, self.seed)
        });
        let options = TrainOptions {
            loss: self.loss,
            ..train_options(&self.options, self.metric, (offered, dim), self.seed)
        };
        notice_small_sample(&self.rows.relation, &rows, dim, &options, part.share());
        check_training_memory(&rows, dim)?;
        let trained = run_training(&self.rows.relation, |monitor| {
            train(rows, dim, queries.map(Cow::from), &options, monitor)
        })?;
        let model = trained.model.with_held_out(held_out);
        let model = model.map_err(|source| Error::Model {
            name: self.model.clone(),
            source,
        })?;
        catalog::store(&self.model, &model, &trained.report)?;
        Ok(outcome(self.model, &trained.report, start))
    }
}

/// A parameter that is 0 (automatic) or positive, up to `most`.
fn in_range(name: &'static str, value: Option<i32>, most: usize) -> Result<usize> {
    check_range(name, value.unwrap_or(0).into(), 0..=most as i64)
}
