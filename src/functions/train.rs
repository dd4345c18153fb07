//! `distillvq_train(table, column, …)`: a named model from a column of vectors.

use crate::am::build::{run_training, sample_capacity, train_options};
use crate::error::{Error, Result, or_raise};
use crate::functions::models;
use crate::pg::options::Options;
use crate::pg::spi::{VectorColumn, relation_name};
use crate::sample::Reservoir;
use distillvq_quantizer::{MAX_LISTS, Metric, max_subquantizers};
use pgrx::iter::TableIterator;
use pgrx::{name, pg_extern, pg_sys::Oid};
use std::time::Instant;

/// The part of the sample's memory that logged queries take, and rows leave to them.
const QUERY_SHARE: usize = 4;

/// What the caller asks for, checked.
struct Request {
    rows: VectorColumn,
    queries: Option<VectorColumn>,
    model: String,
    metric: Metric,
    options: Options,
    seed: u64,
}

/// The row that the function returns: model, rows, queries, recall before and after, seconds.
type Outcome = (String, i64, i64, f32, f32, f32);

/// Trains a model on a column of vectors, with or without logged queries, and stores it under a name.
#[pg_extern]
#[allow(clippy::too_many_arguments)]
fn distillvq_train(
    table: Option<Oid>,
    column: Option<&std::ffi::CStr>,
    model: Option<&str>,
    metric: Option<&str>,
    queries: Option<Oid>,
    query_column: Option<&std::ffi::CStr>,
    lists: Option<i32>,
    subquantizers: Option<i32>,
    bits: Option<i32>,
    seed: Option<i64>,
) -> TableIterator<
    'static,
    (
        name!(model, String),
        name!(rows, i64),
        name!(queries, i64),
        name!(recall_before, f32),
        name!(recall_after, f32),
        name!(seconds, f32),
    ),
> {
    let (Some(table), Some(column)) = (table, column) else {
        return TableIterator::new(Vec::new());
    };
    let request = Request::check(table, column, model, metric, queries, query_column)
        .and_then(|request| request.with_shape(lists, subquantizers, bits, seed));
    TableIterator::once(or_raise(request.and_then(Request::run)))
}

impl Request {
    fn check(
        table: Oid,
        column: &std::ffi::CStr,
        model: Option<&str>,
        metric: Option<&str>,
        queries: Option<Oid>,
        query_column: Option<&std::ffi::CStr>,
    ) -> Result<Self> {
        let column = column.to_string_lossy();
        let rows = VectorColumn::find(table, &column)?;
        let metric = metric.unwrap_or("cosine");
        let metric = metric
            .parse()
            .map_err(|_| Error::UnknownMetric(metric.to_owned()))?;
        let queries = match (queries, query_column) {
            (Some(relation), Some(column)) => {
                Some(VectorColumn::find(relation, &column.to_string_lossy())?)
            }
            (None, None) => None,
            (Some(_), None) => return Err(Error::HalfQueries("queries", "query_column")),
            (None, Some(_)) => return Err(Error::HalfQueries("query_column", "queries")),
        };
        let default_name = || format!("{}_{column}", relation_name(table).unwrap_or_default());
        let model = model.map_or_else(default_name, str::to_owned);
        models::check_owner(&model)?;
        Ok(Self {
            rows,
            queries,
            model,
            metric,
            options: Options::default(),
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
        let start = Instant::now();
        let (dim, offered, sample) = self.sample(&self.rows, None)?;
        let queries = match &self.queries {
            Some(column) => Some(self.sample(column, Some(dim))?.2),
            None => None,
        };
        let options = train_options(&self.options, self.metric, offered, self.seed);
        let trained = run_training(
            &self.rows.relation,
            &sample,
            dim,
            queries.as_deref(),
            &options,
        )?;
        models::store(&self.model, &trained.model, &trained.report)?;
        let report = trained.report;
        let counts = (report.rows as i64, report.queries as i64);
        let seconds = start.elapsed().as_secs_f32();
        Ok((
            self.model,
            counts.0,
            counts.1,
            report.recall_before,
            report.recall_after,
            seconds,
        ))
    }

    /// A uniform sample of a column: its dimensions, the rows it was drawn from, and the elements. The dimensions are
    /// those wanted, or the type's, or the first row's.
    fn sample(
        &self,
        column: &VectorColumn,
        wanted: Option<usize>,
    ) -> Result<(usize, usize, Vec<f32>)> {
        let mut dim = wanted.or(column.dim).unwrap_or(0);
        let mut reservoir: Option<Reservoir> = None;
        column.scan(&mut |read| {
            if dim == 0 {
                dim = read(&mut Vec::new());
            }
            let capacity = || match (&self.queries, wanted) {
                (None, _) => sample_capacity(dim),
                (Some(_), None) => sample_capacity(dim) * (QUERY_SHARE - 1) / QUERY_SHARE,
                (Some(_), Some(_)) => sample_capacity(dim) / QUERY_SHARE,
            };
            let reservoir =
                reservoir.get_or_insert_with(|| Reservoir::new(capacity(), dim, self.seed));
            reservoir.offer(read).map_err(|found| Error::Dimensions {
                expected: dim,
                found,
            })
        })?;
        Ok(reservoir.map_or((dim.max(1), 0, Vec::new()), |all| {
            (dim, all.offered(), all.into_rows())
        }))
    }
}

/// A parameter that is 0 (automatic) or positive, up to `most`.
fn in_range(name: &'static str, value: Option<i32>, most: usize) -> Result<usize> {
    let value = value.unwrap_or(0);
    match usize::try_from(value) {
        Ok(count) if count <= most => Ok(count),
        _ => Err(Error::OptionRange {
            name,
            value: value.to_string(),
            min: 0,
            max: most as i64,
        }),
    }
}
