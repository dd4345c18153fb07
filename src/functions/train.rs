//! `distillvq_train`, in two forms: a named model from a column of vectors, and a live index trained again in place.
//!
//! The second form changes decoder and routing alone, in the index's pages and not by transaction: nothing that a later
//! rollback would have to undo, since a model changes no result but its quality.

use crate::am::build::{
    SAMPLING, memory_for_training, run_training, sample_capacity, tell_of_small_sample,
    train_options,
};
use crate::am::calibrate::{now, training};
use crate::am::scan::Target;
use crate::error::{Error, Purpose, Result, of_index, or_raise};
use crate::functions::calibrate::{calibrate, logged};
use crate::functions::{
    check_all_rows, check_index, check_readable, in_range_of, models, query_log,
};
use crate::pg::Progress;
use crate::pg::options::Options;
use crate::pg::relation::{Maintained, RelationKind, refuse_if_read_only, relation_kind};
use crate::pg::spi::{VectorColumn, relation_name};
use crate::pg::store::RelationStore;
use crate::pg::text::{from_c, from_server, to_server};
use crate::sample::Reservoir;
use distillvq_ivf::{Calibration, QueryKind, Training, describe, replace_student};
use distillvq_quantizer::{
    Loss, MAX_HELD_OUT, MAX_LISTS, MIN_TRAIN_ROWS, Metric, RetrainOptions, TrainOptions,
    TrainReport, Trained, max_subquantizers, retrain, split_held_out, train,
};
use pgrx::iter::TableIterator;
use pgrx::{name, pg_sys::Oid};
use std::borrow::Cow;
use std::time::Instant;

/// The part of the sample's memory that logged queries take, and rows leave to them.
const QUERY_SHARE: usize = 4;
/// What messages call both forms.
const TRAIN: &std::ffi::CStr = c"distillvq_train()";

/// What the caller asks for, checked.
struct Request {
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
    seed: Option<i64>,
    loss: Option<&[u8]>,
) -> Row {
    let table = or_raise(table.ok_or(Error::Null("table")));
    let column = or_raise(column.ok_or(Error::Null("column")));
    let (model, metric) = (model.map(from_server), metric.map(from_server));
    let request = Request::check(table, column, model, metric, queries, query_column)
        .and_then(|request| request.with_shape(lists, subquantizers, bits, seed))
        .and_then(|request| {
            let loss = loss_named(loss)?;
            Ok(Request { loss, ..request })
        });
    TableIterator::once(or_raise(request.and_then(Request::run)))
}

/// Trains the model of a live index again, beside reads and writes.
pub fn distillvq_train_index(
    index: Option<Oid>,
    queries: Option<Oid>,
    query_column: Option<&std::ffi::CStr>,
    seed: Option<i64>,
    loss: Option<&[u8]>,
) -> Row {
    let index = or_raise(index.ok_or(Error::NullIndex(Purpose::Train)));
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
    check_index(oid, Purpose::Train)?;
    check_all_rows(oid, Purpose::Train)?;
    let locked = Maintained::for_change(oid, TRAIN);
    let index = locked.index();
    check_readable(&locked, Purpose::Train)?;
    let target = Target::open(index)?;
    let meta = target.meta;
    let model = target
        .model()?
        .ok_or_else(|| Error::Untrained(index.named()))?;
    let _progress = Progress::start(index.table(), Some(oid));
    let rows = VectorColumn::of_index(index)?;
    let shared = queries.is_some();
    let seed = options.seed;
    let Sample {
        offered,
        rows: sample,
        ..
    } = sample(&rows, seed, Some(meta.dim), Part::rows(shared))?;
    let options = RetrainOptions {
        rows_in_table: offered,
        ..*options
    };
    let mut log = match queries {
        Some(column) => Some(sample_queries(column, seed, meta.dim)?),
        None => None,
    };
    let held_out = log.as_mut().map_or(Vec::new(), |log| {
        split_held_out(log, meta.dim, MAX_HELD_OUT, seed)
    });
    memory_for_training(&sample, meta.dim)?;
    let trained = run_training(&index.name(), |monitor| {
        retrain(&model, sample, log.map(Cow::from), &options, monitor)
    })?;
    let trained_at = if trained.report.improved() {
        let unwritten = |source| Error::Model {
            name: index.name(),
            source,
        };
        let student = trained.model.student_bytes().map_err(unwritten)?;
        let store = RelationStore::new(index);
        replace_student(&store, &student, crate::pg::random_u64()).map_err(of_index(index))?;
        crate::pg::commit_durably();
        Some(now())
    } else {
        None
    };
    measure_again(&locked, &trained, held_out, trained_at)?;
    Ok(outcome(index.name(), &trained.report, start))
}

/// Measures an index after its training. Without held-out queries of a log, what was measured with such queries before is
/// the better measure: then the lists are chosen as they were, and decide most of the recall.
fn measure_again(
    locked: &Maintained,
    trained: &Trained,
    held_out: Vec<f32>,
    trained_at: Option<i64>,
) -> Result<()> {
    let target = Target::open(locked.index())?;
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
    let queries = logged(locked, &target, &held_out);
    let by_log = |it: &Calibration| it.kind == QueryKind::Log;
    if queries.is_none() && meta.calibration.as_ref().is_some_and(by_log) {
        let store = RelationStore::new(locked.index());
        let again = describe(&store, meta.model_version(), training, meta.calibration);
        again.map_err(of_index(locked.index()))?;
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

/// Whose part of the sample's memory is used.
#[derive(Clone, Copy)]
enum Part {
    /// Rows, without queries beside them.
    Whole,
    /// Rows beside queries.
    Rows,
    /// Queries.
    Queries,
}

impl Part {
    /// The part of the rows.
    fn rows(beside_queries: bool) -> Self {
        if beside_queries {
            Self::Rows
        } else {
            Self::Whole
        }
    }

    /// Of the sample's memory, so many parts of so many.
    fn share(self) -> (usize, usize) {
        match self {
            Self::Whole => (1, 1),
            Self::Rows => (QUERY_SHARE - 1, QUERY_SHARE),
            Self::Queries => (1, QUERY_SHARE),
        }
    }

    fn capacity(self, dim: usize) -> usize {
        let (parts, of) = self.share();
        let rows = sample_capacity(dim) * parts / of;
        match self {
            Self::Whole | Self::Rows => rows.max(MIN_TRAIN_ROWS),
            Self::Queries => rows,
        }
    }
}

/// Vectors drawn from a column.
struct Sample {
    dim: usize,
    /// Vectors that they were drawn from.
    offered: usize,
    /// Elements, row-major.
    rows: Vec<f32>,
}

/// A uniform sample of a column. Its dimensions are those wanted, or the type's, or the first row's.
fn sample(column: &VectorColumn, seed: u64, wanted: Option<usize>, part: Part) -> Result<Sample> {
    crate::pg::report_phase(SAMPLING);
    let mut dim = wanted.or(column.dim).unwrap_or(0);
    let mut reservoir: Option<Reservoir> = None;
    column.scan(&mut |read| {
        if dim == 0 {
            dim = read(&mut Vec::new());
        }
        let new = || Reservoir::new(part.capacity(dim), dim, seed);
        let reservoir = reservoir.get_or_insert_with(new);
        reservoir.offer(read)
    })?;
    Ok(Sample {
        dim: dim.max(1),
        offered: reservoir.as_ref().map_or(0, Reservoir::offered),
        rows: reservoir.map_or(Vec::new(), Reservoir::into_rows),
    })
}

/// A uniform sample of logged queries. A log that is empty, as an unlogged table is after a crash, is an error: a training
/// without it would undo what an earlier one has learned from queries.
pub(super) fn sample_queries(log: &VectorColumn, seed: u64, dim: usize) -> Result<Vec<f32>> {
    let rows = sample(log, seed, Some(dim), Part::Queries)?.rows;
    if rows.is_empty() {
        return Err(Error::NoQueries(log.relation.clone()));
    }
    Ok(rows)
}

impl Request {
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
        models::check_new(&model)?;
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
        seed: Option<i64>,
    ) -> Result<Self> {
        let bits = bits.unwrap_or(4);
        if ![4, 8].contains(&bits) {
            return Err(Error::Bits(i64::from(bits)));
        }
        let options = Options {
            lists: in_range("lists", lists, MAX_LISTS)?,
            subquantizers: in_range("subquantizers", codes, max_subquantizers(bits as u8))?,
            bits: bits as usize,
            ..Options::default()
        };
        Ok(Self {
            options,
            seed: seed.unwrap_or(0) as u64,
            ..self
        })
    }

    /// Samples, trains and stores.
    fn run(self) -> Result<Outcome> {
        refuse_if_read_only(TRAIN);
        let start = Instant::now();
        let _progress = Progress::start(self.table, None);
        let part = Part::rows(self.queries.is_some());
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
            ..train_options(&self.options, self.metric, offered, self.seed)
        };
        tell_of_small_sample(&self.rows.relation, &rows, dim, &options, part.share());
        memory_for_training(&rows, dim)?;
        let trained = run_training(&self.rows.relation, |monitor| {
            train(rows, dim, queries.map(Cow::from), &options, monitor)
        })?;
        let model = trained.model.with_held_out(held_out);
        let model = model.map_err(|source| Error::Model {
            name: self.model.clone(),
            source,
        })?;
        models::store(&self.model, &model, &trained.report)?;
        Ok(outcome(self.model, &trained.report, start))
    }
}

/// A parameter that is 0 (automatic) or positive, up to `most`.
fn in_range(name: &'static str, value: Option<i32>, most: usize) -> Result<usize> {
    in_range_of(name, value.unwrap_or(0).into(), 0..=most as i64)
}
