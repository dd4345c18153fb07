//! `distillvq_recall`: the recall of an index, measured against exact search, and the time that both take.
//!
//! Nothing is estimated from the index: the named index is searched through the server's own interface of access methods,
//! with the settings of the session, whatever its method is, so that it can be compared with pgvector's. The truth comes from
//! one pass over the table for all queries, with the operator's own function and the same snapshot.

use crate::am::open_index::OpenIndex;
use crate::am::query_sample::paused;
use crate::am::training::reservoir::VectorReservoir;
use crate::error::{Error, Operation, Result};
use crate::functions::{check_all_rows, check_kind, check_range, check_readable, query_log};
use crate::pg::filter_columns::FilterColumns;
use crate::pg::names::quoted_relation;
use crate::pg::privileges::may_read;
use crate::pg::recall_search::{RecallQuery, RecallSearch};
use crate::pg::relation::{Index, LockedIndex, access_method_of, table_of};
use crate::pg::report::or_raise;
use crate::pg::server::setting;
use crate::pg::vector_column::VectorColumn;
use crate::settings::reloptions::Options;
use distillvq_ivf::Tid;
use distillvq_ivf::recall_estimate::{RecallEstimate, estimate_recall};
use pgrx::iter::TableIterator;
use pgrx::{name, pg_sys::Oid};
use std::time::{Duration, Instant};

/// Most neighbors to ask for.
const MAX_K: i64 = 10_000;
/// Most queries.
const MAX_QUERIES: i64 = 100_000;
/// Single exact searches that are timed, as long as they take no longer than [`EXACT_TIME`] together.
const EXACT_PASSES: usize = 3;
/// See [`EXACT_PASSES`].
const EXACT_TIME: Duration = Duration::from_secs(5);
/// Seed of the sample: of the same rows, the same are queries for every index.
const SEED: u64 = 1;

/// The row that the function returns.
type Row = TableIterator<
    'static,
    (
        name!(k, i32),
        name!(queries_used, i32),
        name!(recall, Option<f32>),
        name!(recall_low, Option<f32>),
        name!(recall_high, Option<f32>),
        name!(index_ms, Option<f32>),
        name!(exact_ms, Option<f32>),
        name!(setting, Option<String>),
        name!(query_source, &'static str),
    ),
>;

/// Measures the recall of an index.
pub fn distillvq_recall(
    index: Option<Oid>,
    k: Option<i32>,
    sample: Option<i32>,
    queries: Option<Oid>,
    query_column: Option<&std::ffi::CStr>,
) -> Row {
    let index = or_raise(index.ok_or(Error::NullIndex(Operation::Measure)));
    let k = or_raise(check_range("k", k.unwrap_or(10).into(), 1..=MAX_K));
    let sample = sample.unwrap_or(100).into();
    let sample = or_raise(check_range("query_count", sample, 1..=MAX_QUERIES));
    let queries = or_raise(query_log(queries, query_column));
    let outcome = or_raise(measure(index, k, sample, queries.as_ref()));
    let share = |of: fn(&RecallEstimate) -> f64| outcome.recall.map(|mean| of(&mean) as f32);
    TableIterator::once((
        k as i32,
        outcome.queries as i32,
        share(|it| it.mean),
        share(|it| it.low),
        share(|it| it.high),
        outcome.by_index.map(milliseconds),
        outcome.exact.map(milliseconds),
        outcome.setting,
        if queries.is_some() { "log" } else { "rows" },
    ))
}

fn milliseconds(time: Duration) -> f32 {
    time.as_secs_f32() * 1e3
}

/// What was measured.
struct Outcome {
    /// Queries that have neighbors.
    queries: usize,
    recall: Option<RecallEstimate>,
    /// Mean time of a search by the index, and of one without.
    by_index: Option<Duration>,
    exact: Option<Duration>,
    setting: Option<String>,
}

fn measure(oid: Oid, k: usize, sample: usize, log: Option<&VectorColumn>) -> Result<Outcome> {
    let locked = open(oid)?;
    let index = locked.index();
    let mut search = RecallSearch::new(&locked)?;
    let queries = draw(&search, index, (k, sample), log)?;
    let nearest = search.exact(&queries, k);
    let exact = time_exact(&mut search, &queries, k);
    // The first search of a session reads the model, or what else the access method keeps.
    let first = queries.get(..1).unwrap_or_default();
    let found = paused(|| {
        search.by_index(first, k);
        search.by_index(&queries, k)
    });
    let (mut shares, mut time) = (Vec::new(), Duration::ZERO);
    for (nearest, (found, took)) in nearest.iter().zip(&found) {
        if let Some(share) = nearest.recall(found) {
            shares.push(share);
            time += *took;
        }
    }
    Ok(Outcome {
        queries: shares.len(),
        recall: estimate_recall(&shares, k),
        by_index: mean_time(time, shares.len()),
        exact,
        setting: settings_in_force(index),
    })
}

/// Opens an index of any access method, if the caller may read all that is behind it.
fn open(oid: Oid) -> Result<LockedIndex> {
    let operation = Operation::Measure;
    check_kind(oid, operation)?;
    if !may_read(oid) {
        return Err(Error::NoSelect(quoted_relation(table_of(oid))?));
    }
    check_all_rows(oid, operation)?;
    let locked = LockedIndex::for_reading(oid);
    check_readable(&locked, operation)?;
    Ok(locked)
}

/// Draws queries: of those logged, or rows of the table.
fn draw(
    search: &RecallSearch,
    index: Index,
    (k, sample): (usize, usize),
    log: Option<&VectorColumn>,
) -> Result<Vec<RecallQuery>> {
    let (element, dim) = (index.element()?, index.dimensions()?);
    // Elements, drawn and as a value, and distances, those of the truth and those found.
    let each = 2 * (dim * size_of::<f32>() + k * size_of::<f64>()) + size_of::<RecallQuery>();
    let most = crate::pg::memory::maintenance_bytes();
    let capacity = sample.min(most / each);
    let mut reservoir = VectorReservoir::new(capacity, dim, SEED);
    let mut rows: Vec<Tid> = Vec::new();
    match log {
        Some(column) => column.scan(&mut |read| reservoir.offer(read))?,
        None => {
            let filters = FilterColumns::default();
            search
                .rows()
                .for_each(0..u32::MAX, &filters, &mut |tid, row| {
                    let read = |out: &mut Vec<f32>| row.append_elements(element, out);
                    if let Some(place) = reservoir.offer_at(read)? {
                        rows.resize(rows.len().max(place + 1), tid);
                        rows[place] = tid;
                    }
                    Ok(())
                });
        }
    }
    let queries = sample.min(reservoir.offered());
    if queries > capacity {
        let bytes = queries * each;
        return Err(Error::ManyQueries {
            queries,
            bytes,
            most,
        });
    }
    let vectors = reservoir.into_rows();
    let queries = vectors.chunks_exact(dim).enumerate();
    let queries =
        queries.map(|(i, vector)| RecallQuery::new(vector, element, rows.get(i).copied()));
    queries.collect()
}

/// The mean time of an exact search for one query.
fn time_exact(search: &mut RecallSearch, queries: &[RecallQuery], k: usize) -> Option<Duration> {
    let (start, mut passes) = (Instant::now(), 0);
    for query in queries.iter().take(EXACT_PASSES) {
        search.exact(std::slice::from_ref(query), k);
        passes += 1;
        if start.elapsed() > EXACT_TIME {
            break;
        }
    }
    mean_time(start.elapsed(), passes)
}

fn mean_time(all: Duration, count: usize) -> Option<Duration> {
    let count = u32::try_from(count).ok().filter(|&count| count > 0)?;
    Some(all / count)
}

/// What decides how thoroughly the index is searched.
fn settings_in_force(index: Index) -> Option<String> {
    let known = match access_method_of(index).as_str() {
        "distillvq" => {
            let meta = OpenIndex::open(index).ok()?.meta;
            return Some(crate::settings::in_force(&Options::of(index), &meta));
        }
        "hnsw" => c"hnsw.ef_search",
        "ivfflat" => c"ivfflat.probes",
        _ => return None,
    };
    let name = known.to_string_lossy();
    setting(known).map(|value| format!("{name} = {value}"))
}
