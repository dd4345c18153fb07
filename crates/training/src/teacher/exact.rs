//! Training and held-out queries, and their exact neighbors within the sample.

use crate::error::TrainError;
use crate::progress::{Monitor, Phase, check_interrupts};
use crate::teacher::brute_force::{NeighborLists, RowSource, knn};
use distillvq_kernels::kernels;
use distillvq_linalg::matrix::{MatRef, squared_norm};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Exact neighbors per held-out query: recall is measured at 10.
pub const EVAL_K: usize = 10;
/// Rows closer than this share of a pseudo-query's squared length are its copies: they would be found in any case.
const COPY: f32 = 1e-3;
/// [`QuerySet::source_row`] of a query that is not a row of the sample.
pub const NOT_A_ROW: u32 = u32::MAX;

/// Vectors of the sample.
pub struct SampleVectors<'a> {
    /// Internal vectors.
    pub x: MatRef<'a>,
    /// Squared norms, for L2.
    pub norms: Option<&'a [f32]>,
}

/// Training or held-out queries: rows used as pseudo-queries, and logged queries.
#[derive(Debug, Clone, Default)]
pub struct QuerySet {
    /// Internal vectors, row-major.
    pub vectors: Vec<f32>,
    /// The row that a query was made from, or [`NOT_A_ROW`].
    pub source_row: Vec<u32>,
}

impl QuerySet {
    pub fn len(&self) -> usize {
        self.source_row.len()
    }

    /// Adds rows of the sample as pseudo-queries.
    pub fn add_rows(&mut self, x: MatRef<'_>, rows: &[u32]) {
        for row in rows {
            self.vectors.extend_from_slice(x.row(*row as usize));
            self.source_row.push(*row);
        }
    }

    /// Adds logged queries.
    pub fn add_logged<'q>(&mut self, queries: impl Iterator<Item = &'q [f32]>) {
        for query in queries {
            self.vectors.extend_from_slice(query);
            self.source_row.push(NOT_A_ROW);
        }
    }
}

/// Whether a query may find a row: pseudo-queries find neither themselves nor their copies.
pub fn is_candidate(x: MatRef<'_>, source_row: u32, row: u32) -> bool {
    if source_row == NOT_A_ROW {
        return true;
    }
    if source_row == row {
        return false;
    }
    let (a, b) = (x.row(source_row as usize), x.row(row as usize));
    squared_norm(a) + squared_norm(b) - 2.0 * (kernels().dot)(a, b) > COPY * squared_norm(a)
}

/// The sample's vectors, with the rows that each query may find.
struct SampleRows<'a> {
    rows: &'a SampleVectors<'a>,
    source_row: &'a [u32],
}

impl RowSource for SampleRows<'_> {
    fn len(&self) -> usize {
        self.rows.x.rows()
    }

    fn vectors(&self, from: usize, to: usize, out: &mut Vec<f32>) {
        out.extend_from_slice(self.rows.x.slice(from, to).data);
    }

    fn norms(&self) -> Option<&[f32]> {
        self.rows.norms
    }

    fn is_candidate(&self, query: usize, row: u32) -> bool {
        is_candidate(self.rows.x, self.source_row[query], row)
    }
}

/// The exact `k` nearest rows of every query, by brute force.
pub fn exact_neighbors(
    rows: &SampleVectors<'_>,
    queries: &QuerySet,
    k: usize,
    monitor: &dyn Monitor,
) -> Result<NeighborLists, TrainError> {
    let total = rows.x.rows() * queries.len();
    let done = AtomicUsize::new(0);
    knn(
        MatRef::new(&queries.vectors, rows.x.cols),
        &SampleRows {
            rows,
            source_row: &queries.source_row,
        },
        k,
        |scores| {
            let done = done.fetch_add(scores, Ordering::Relaxed);
            monitor.phase(Phase::Teaching, done / 1000, total / 1000);
            check_interrupts(monitor)
        },
    )
}
