//! The queries that an index is calibrated with: logged ones, or rows of the table.

use crate::am::failure::with_index;
use crate::am::model_store::catalog;
use crate::am::open_index::OpenIndex;
use crate::am::training::phases::SAMPLING;
use crate::error::{Error, Result};
use crate::pg::heap::{self, SampledRows};
use crate::pg::relation::{Heap, Index, LockedIndex};
use crate::settings::reloptions::Options;
use distillvq_ivf::QueryKind;
use distillvq_ivf::query_sample::{self, QuerySample};
use distillvq_model::Model;
use distillvq_training::{MAX_HELD_OUT, sample_vectors, split_held_out};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// Seed of the choice of queries.
const SEED: u64 = 1;
/// Multiply-adds that finding the truth of all queries may take: less than three seconds of a processor with AVX2.
const PRODUCTS: usize = 120_000_000_000;
/// Minimum number of queries, whatever that takes.
const MIN_QUERIES: usize = 128;
/// With few rows, so many of them for each query.
const ROWS_A_QUERY: usize = 8;
/// A sample of so many rows can spare those that the index is measured with.
const ENOUGH_ROWS: usize = 8_000;

/// Queries to measure an index with.
#[derive(Clone, Debug)]
pub struct CalibrationQueries {
    /// What they are.
    pub kind: QueryKind,
    /// Raw elements, row-major.
    pub vectors: Vec<f32>,
}

impl CalibrationQueries {
    /// Logged queries, as many of them as an index over so many rows is measured with; none if there are none.
    pub fn of_log(vectors: &[f32], dim: usize, rows: usize) -> Option<Self> {
        Self::of_kind(QueryKind::Log, vectors, dim, rows)
    }

    fn of_kind(kind: QueryKind, vectors: &[f32], dim: usize, rows: usize) -> Option<Self> {
        let vectors = sample_vectors(vectors, dim, query_budget(rows, dim), SEED);
        (!vectors.is_empty()).then_some(Self { kind, vectors })
    }

    /// The recent queries of a sample, as many of them as an index over so many rows is measured with; none if they are too few.
    pub fn of_sample(sample: &QuerySample, dim: usize, rows: usize) -> Option<Self> {
        Self::of_kind(QueryKind::Searches, &sample.recent(), dim, rows)
    }

    /// Sampled queries, at most so many of them.
    pub fn of_searches(vectors: &[f32], dim: usize, most: usize) -> Self {
        Self {
            kind: QueryKind::Searches,
            vectors: sample_vectors(vectors, dim, most, SEED),
        }
    }

    /// Rows of a table of so many, picked from a sample by `take`, which is told how many.
    fn of_rows(dim: usize, rows: usize, take: impl FnOnce(usize) -> Vec<f32>) -> Self {
        Self {
            kind: QueryKind::Rows,
            vectors: take(query_budget(rows, dim).min(rows / ROWS_A_QUERY)),
        }
    }
}

/// How many queries are measured with as far as their costs go. Of a table that was never analyzed nothing is known.
fn query_budget(rows: usize, dim: usize) -> usize {
    let query_budget = PRODUCTS / rows.saturating_mul(dim).max(1);
    query_budget.clamp(MIN_QUERIES, MAX_HELD_OUT)
}

/// Rows used as queries, and the number of all rows.
pub fn rows_as_queries(
    heap: Heap,
    index: Index,
    dim: usize,
) -> Result<(CalibrationQueries, usize)> {
    crate::pg::progress::report_phase(SAMPLING);
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    let element = index.element()?;
    let SampledRows { vectors, rows } =
        heap::sample_blocks(heap, index, element, MAX_HELD_OUT, &mut random)?;
    let queries = CalibrationQueries::of_rows(dim, rows, |wanted| {
        sample_vectors(&vectors, dim, wanted, SEED)
    });
    Ok((queries, rows))
}

/// Takes queries out of a sample of so many rows, or copies of some of its rows if training needs them all.
pub fn queries_of_sample(sample: &mut Vec<f32>, dim: usize, rows: usize) -> CalibrationQueries {
    CalibrationQueries::of_rows(dim, rows, |wanted| {
        if sample.len() / dim.max(1) >= ENOUGH_ROWS {
            split_held_out(sample, dim, wanted, SEED)
        } else {
            sample_vectors(sample, dim, wanted, SEED)
        }
    })
}

/// Given queries of a kind, as many as are wanted.
pub fn given_queries(
    locked: &LockedIndex,
    target: &OpenIndex,
    kind: QueryKind,
    vectors: &[f32],
) -> Option<CalibrationQueries> {
    let (dim, rows) = (target.meta.dim, locked.heap().estimated_rows());
    CalibrationQueries::of_kind(kind, vectors, dim, rows)
}

/// The recent queries of searches, if the index has sampled enough of them.
pub fn sampled_queries(
    locked: &LockedIndex,
    target: &OpenIndex,
) -> Result<Option<CalibrationQueries>> {
    let sample = query_sample::read(target.store(), &target.meta);
    let sample = sample.map_err(with_index(target.index))?;
    let (dim, rows) = (target.meta.dim, locked.heap().estimated_rows());
    Ok(CalibrationQueries::of_sample(&sample, dim, rows))
}

/// The held-out queries of the model that the index was built with, if that is still there.
pub fn model_queries(
    locked: &LockedIndex,
    target: &OpenIndex,
    model: &Model,
) -> Result<Option<CalibrationQueries>> {
    let Some(name) = Options::of(locked.index()).model else {
        return Ok(None);
    };
    let named = match catalog::load(&name) {
        Ok(named) => named,
        Err(Error::NoModel(_)) => return Ok(None),
        Err(error) => return Err(error),
    };
    let same = named.dim() == model.dim() && named.metric() == model.metric();
    let queries = given_queries(locked, target, QueryKind::Log, named.held_out());
    Ok(queries.filter(|_| same))
}
