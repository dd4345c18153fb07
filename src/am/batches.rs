//! Batches of raw rows, which workers encode, and how `maintenance_work_mem` is divided among them.

use crate::pg::memory::maintenance_bytes;
use crate::pg::workers::{max_in_flight, threads};
use distillvq_ivf::Tid;

/// Bytes of raw vectors in a batch: small enough to keep many workers busy, large enough to be worth a worker's waking.
const BATCH_BYTES: std::ops::RangeInclusive<usize> = 256 << 10..=1 << 20;
/// Batches under way take this share of `maintenance_work_mem`, if their least size allows.
const BATCHES_DIVISOR: usize = 8;
/// Bytes of a run, however little `maintenance_work_mem` is: a shorter one would be all last pages of lists.
pub const MIN_RUN_BYTES: usize = 8 << 20;

/// Raw rows.
#[derive(Default)]
pub struct RowBatch {
    /// Their addresses.
    pub tids: Vec<Tid>,
    /// Elements, row-major.
    pub vectors: Vec<f32>,
    /// Values of the filter columns, one row after the other.
    pub filters: Vec<u8>,
}

/// How `maintenance_work_mem` is dealt out.
pub struct BuildMemory {
    /// Threads.
    pub workers: usize,
    /// Elements of a batch, at least a row.
    pub batch: usize,
    /// Bytes of a run.
    pub run: usize,
}

impl BuildMemory {
    /// By what there is now.
    pub fn new() -> Self {
        let workers = threads();
        let memory = maintenance_bytes();
        let most = max_in_flight(workers);
        let (least, largest) = BATCH_BYTES.into_inner();
        let batch = (memory / BATCHES_DIVISOR / most).clamp(least, largest);
        // A batch more is being filled, and each worker has about as much again for its arithmetic.
        let beside = (most + 1 + workers) * batch;
        Self {
            workers,
            batch: batch / size_of::<f32>(),
            run: memory.saturating_sub(beside).max(MIN_RUN_BYTES),
        }
    }
}
