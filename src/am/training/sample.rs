//! Uniform samples of rows, within the memory that training may use.

use crate::am::training::phases::SAMPLING;
use crate::am::training::reservoir::VectorReservoir;
use crate::error::{Error, Result};
use crate::pg::vector_column::VectorColumn;
use crate::pg::vector_datum::ReadElements;
use distillvq_model::MIN_TRAIN_ROWS;

/// Rows that training looks at, at the most: more would cost time and teach nothing new.
pub(super) const MAX_SAMPLE_ROWS: usize = 131_072;
/// Bytes that training needs for each value of the sample: its own, and half as much for codes.
pub(super) const BYTES_PER_VALUE: usize = size_of::<f32>() * 3 / 2;
/// The part of the sample's memory that logged queries take, and rows leave to them.
const QUERY_SHARE: usize = 4;

/// Rows to sample, so that training stays within `maintenance_work_mem`.
fn sample_capacity(dim: usize) -> usize {
    let whole = crate::pg::memory::maintenance_bytes();
    let left = whole
        .saturating_sub(training_overhead_bytes(dim))
        .max(whole / 4);
    (left / (dim * BYTES_PER_VALUE)).clamp(MIN_TRAIN_ROWS, MAX_SAMPLE_ROWS)
}

/// What training holds beside the sample and its codes: buffers of a fixed number of rows, and what any training needs
/// (measured).
pub(super) fn training_overhead_bytes(dim: usize) -> usize {
    const BUFFERED_ROWS: usize = 8_192;
    const BASE: usize = 24 << 20;
    BASE + BUFFERED_ROWS * dim * size_of::<f32>()
}

/// Whose part of the sample's memory is used.
#[derive(Clone, Copy)]
pub enum MemoryShare {
    /// Rows, without queries beside them.
    Whole,
    /// Rows beside queries.
    Rows,
    /// Logged queries.
    Queries,
}

impl MemoryShare {
    /// The part of the rows.
    pub fn rows(beside_queries: bool) -> Self {
        if beside_queries {
            Self::Rows
        } else {
            Self::Whole
        }
    }

    /// Of the sample's memory, so many parts of so many.
    pub fn share(self) -> (usize, usize) {
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
pub struct Sample {
    /// Their dimensions.
    pub dim: usize,
    /// Vectors that they were drawn from.
    pub offered: usize,
    /// Elements, row-major.
    pub rows: Vec<f32>,
}

/// A uniform sample of a column. Its dimensions are those wanted, or the type's, or the first row's.
pub fn sample(
    column: &VectorColumn,
    seed: u64,
    wanted: Option<usize>,
    part: MemoryShare,
) -> Result<Sample> {
    let dim = wanted.or(column.dim);
    sample_rows(|each| column.scan(each), seed, dim, part)
}

/// A uniform sample of the rows that `scan` passes on. Their dimensions are those given, or the first row's.
pub fn sample_rows(
    scan: impl FnOnce(&mut dyn FnMut(&ReadElements<'_>) -> Result<()>) -> Result<()>,
    seed: u64,
    dim: Option<usize>,
    part: MemoryShare,
) -> Result<Sample> {
    crate::pg::progress::report_phase(SAMPLING);
    let mut dim = dim.unwrap_or(0);
    let mut reservoir: Option<VectorReservoir> = None;
    scan(&mut |read| {
        if dim == 0 {
            dim = read(&mut Vec::new());
        }
        let new = || VectorReservoir::new(part.capacity(dim), dim, seed);
        let reservoir = reservoir.get_or_insert_with(new);
        reservoir.offer(read)
    })?;
    Ok(Sample {
        dim: dim.max(1),
        offered: reservoir.as_ref().map_or(0, VectorReservoir::offered),
        rows: reservoir.map_or(Vec::new(), VectorReservoir::into_rows),
    })
}

/// A uniform sample of logged queries. A log that is empty, as an unlogged table is after a crash, is an error: a training
/// without it would undo what an earlier one has learned from queries.
pub fn sample_queries(log: &VectorColumn, seed: u64, dim: usize) -> Result<Vec<f32>> {
    let rows = sample(log, seed, Some(dim), MemoryShare::Queries)?.rows;
    if rows.is_empty() {
        return Err(Error::NoQueries(log.relation.clone()));
    }
    Ok(rows)
}
