//! Batches of raw rows, which workers encode, and how `maintenance_work_mem` is divided among them.

use crate::pg::memory::maintenance_bytes;
use crate::pg::workers::{SharedProgress, max_in_flight, threads};
use distillvq_ivf::{GroundTruthCollector, RowEncoder, Tid};
use distillvq_model::EncodedRows;
use distillvq_training::{TrainError, check_interrupts};

/// Bytes of raw vectors in a batch: small enough to keep many workers busy, large enough to be worth a worker's waking.
const BATCH_BYTES: std::ops::RangeInclusive<usize> = 256 << 10..=1 << 20;
/// Batches under way take this share of `maintenance_work_mem`, if their least size allows.
const BATCHES_DIVISOR: usize = 8;
/// Bytes of a run, however little `maintenance_work_mem` is: a shorter one would be all last pages of lists.
pub const MIN_RUN_BYTES: usize = 8 << 20;
/// Bytes of a run, however large `maintenance_work_mem` is: its entries, of 12 bytes or more, are counted with 32 bits.
const MAX_RUN_BYTES: usize = 32 << 30;

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

/// What a worker makes of a batch.
pub struct EncodedBatch {
    /// Their addresses.
    pub tids: Vec<Tid>,
    /// What the index stores of their vectors.
    pub encoded: EncodedRows,
    /// Values of the filter columns, as in [`RowBatch`].
    pub filters: Vec<u8>,
}

/// A worker gives up in the middle of a batch when the command ends before it.
pub type Encoding = std::result::Result<EncodedBatch, TrainError>;

/// Encodes a batch, and offers it to a search for true neighbors.
pub fn encode(
    encoder: RowEncoder<'_>,
    truth: Option<&GroundTruthCollector<'_>>,
    batch: RowBatch,
    progress: &SharedProgress,
) -> Encoding {
    let RowBatch {
        tids,
        vectors,
        filters,
    } = batch;
    let check = || check_interrupts(progress);
    let encoded = encoder.try_encode(&vectors, check)?;
    if let Some(truth) = truth {
        truth.offer(&tids, &vectors, &encoded, check)?;
    }
    Ok(EncodedBatch {
        tids,
        encoded,
        filters,
    })
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
            run: memory
                .saturating_sub(beside)
                .clamp(MIN_RUN_BYTES, MAX_RUN_BYTES),
        }
    }
}
