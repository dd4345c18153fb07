//! What the teacher says: training and held-out queries with their exact neighbours within the sample.

use crate::linalg::{MatRef, norm2};
use crate::rank::{Ranked, Rows, rank};
use crate::{Monitor, Phase, TrainError};
use distillvq_kernels::kernels;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Neighbours that a query's truth consists of.
pub const TRUTH: usize = 10;
/// Rows closer than this share of a pseudo-query's squared length are its copies: they would be found in any case.
const COPY: f32 = 1e-3;
/// [`Queries::own`] of a query that is no row.
pub const FOREIGN: u32 = u32::MAX;

/// The rows of the sample, exact.
pub struct Exact<'a> {
    /// Internal vectors.
    pub x: MatRef<'a>,
    /// Squared norms, for L2.
    pub norms: Option<&'a [f32]>,
}

/// Queries to learn from or to be measured on.
#[derive(Debug, Clone, Default)]
pub struct Queries {
    /// Internal vectors, row-major.
    pub vectors: Vec<f32>,
    /// The row that a query was made from, or [`FOREIGN`].
    pub own: Vec<u32>,
}

impl Queries {
    pub fn len(&self) -> usize {
        self.own.len()
    }

    /// Adds rows of the sample as pseudo-queries.
    pub fn add_rows(&mut self, x: MatRef<'_>, rows: &[u32]) {
        for row in rows {
            self.vectors.extend_from_slice(x.row(*row as usize));
            self.own.push(*row);
        }
    }

    /// Adds queries that are no rows.
    pub fn add_foreign<'q>(&mut self, queries: impl Iterator<Item = &'q [f32]>) {
        for query in queries {
            self.vectors.extend_from_slice(query);
            self.own.push(FOREIGN);
        }
    }
}

/// Whether a query may find a row: pseudo-queries find neither themselves nor their copies.
pub fn allowed(x: MatRef<'_>, own: u32, row: u32) -> bool {
    if own == FOREIGN {
        return true;
    }
    if own == row {
        return false;
    }
    let (a, b) = (x.row(own as usize), x.row(row as usize));
    norm2(a) + norm2(b) - 2.0 * (kernels().dot)(a, b) > COPY * norm2(a)
}

/// Exact rows as the queries may find them.
struct Found<'a> {
    rows: &'a Exact<'a>,
    own: &'a [u32],
}

impl Rows for Found<'_> {
    fn len(&self) -> usize {
        self.rows.x.rows()
    }

    fn vectors(&self, from: usize, to: usize, out: &mut Vec<f32>) {
        out.extend_from_slice(self.rows.x.slice(from, to).data);
    }

    fn norms(&self) -> Option<&[f32]> {
        self.rows.norms
    }

    fn allowed(&self, query: usize, row: u32) -> bool {
        allowed(self.rows.x, self.own[query], row)
    }
}

/// Asks the teacher for the `k` nearest rows of every query.
pub fn teach(
    rows: &Exact<'_>,
    queries: &Queries,
    k: usize,
    monitor: &dyn Monitor,
) -> Result<Ranked, TrainError> {
    let total = rows.x.rows() * queries.len();
    let done = AtomicUsize::new(0);
    rank(
        MatRef::new(&queries.vectors, rows.x.cols),
        &Found {
            rows,
            own: &queries.own,
        },
        k,
        |scores| {
            let done = done.fetch_add(scores, Ordering::Relaxed);
            monitor.phase(Phase::Teaching, done / 1000, total / 1000);
            if monitor.interrupted() {
                Err(TrainError::Interrupted)
            } else {
                Ok(())
            }
        },
    )
}
