//! Uniform samples of the vectors of a column, within the memory that training may use.

use crate::am::training::phases::SAMPLING;
use crate::am::training::reservoir::VectorReservoir;
use crate::am::training::run::sample_capacity;
use crate::error::{Error, Result};
use crate::pg::vector_column::VectorColumn;
use distillvq_model::MIN_TRAIN_ROWS;

/// The part of the sample's memory that logged queries take, and rows leave to them.
const QUERY_SHARE: usize = 4;
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
    crate::pg::progress::report_phase(SAMPLING);
    let mut dim = wanted.or(column.dim).unwrap_or(0);
    let mut reservoir: Option<VectorReservoir> = None;
    column.scan(&mut |read| {
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
