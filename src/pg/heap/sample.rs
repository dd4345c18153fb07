//! Rows drawn at random: those that a model is trained on, and those that are held out.

use super::values::{Predicate, Values};
use super::{Snapshot, begin_scan};
use crate::error::Result;
use crate::pg::element::ElementType;
use crate::pg::relation::{Heap, Index};
use crate::pg::vector_datum::{ReadElements, append_elements};
use pgrx::pg_sys;
use rand::Rng;

/// Passes every row that has been committed by now to `each`, which decides whether to read its vector.
pub fn sample(
    heap: Heap,
    index: Index,
    element: ElementType,
    each: &mut dyn FnMut(&ReadElements<'_>) -> Result<()>,
) -> Result<()> {
    let mut rows = Values::new(index, heap);
    let predicate = Predicate::new(index, rows.slot);
    let snapshot = Snapshot::latest();
    let Some(scan) = begin_scan(heap, &snapshot, &(0..u32::MAX)) else {
        return Ok(());
    };
    let forward = pg_sys::ScanDirection::ForwardScanDirection;
    let mut outcome = Ok(());
    // SAFETY: the slot holds a row while the scan says so; the scan is ended, or released by the abort after an error.
    unsafe {
        while outcome.is_ok() && pg_sys::table_scan_getnextslot(scan, forward, rows.slot) {
            pgrx::check_for_interrupts!();
            if !predicate.holds() {
                continue;
            }
            if let Some(value) = rows.value() {
                outcome = each(&|out| append_elements(value, element, out));
            }
        }
        pg_sys::table_endscan(scan);
    }
    outcome
}

/// Blocks that [`sample_blocks`] looks at, at the most.
const PICKED_BLOCKS: usize = 1_024;

/// Rows picked at random, and how many there should be in all.
pub struct SampledRows {
    /// Elements, row-major.
    pub vectors: Vec<f32>,
    /// An estimate, if not all blocks were looked at.
    pub rows: usize,
}

/// Picks `wanted` rows at random among those that have been committed by now, or as many as there are. Not all blocks of a large
/// table are looked at, and only the vectors picked are read or computed.
pub fn sample_blocks(
    heap: Heap,
    index: Index,
    element: ElementType,
    wanted: usize,
    random: &mut impl Rng,
) -> Result<SampledRows> {
    let mut rows = Values::new(index, heap);
    let predicate = Predicate::new(index, rows.slot);
    let snapshot = Snapshot::latest();
    let mut tids = Vec::new();
    let blocks = heap.blocks();
    let chosen = sample_of(blocks as usize, PICKED_BLOCKS, random);
    for &block in &chosen {
        let block = block as u32;
        let Some(scan) = begin_scan(heap, &snapshot, &(block..block + 1)) else {
            continue;
        };
        let forward = pg_sys::ScanDirection::ForwardScanDirection;
        // SAFETY: the slot holds a row while the scan says so; the scan is ended, or released by the abort after an error.
        unsafe {
            while pg_sys::table_scan_getnextslot(scan, forward, rows.slot) {
                if predicate.holds() {
                    tids.push((*rows.slot).tts_tid);
                }
            }
            pg_sys::table_endscan(scan);
        }
        pgrx::check_for_interrupts!();
        if !heap.is_heap_am() {
            break;
        }
    }
    let mut vectors = Vec::new();
    for i in sample_of(tids.len(), wanted, random) {
        pgrx::check_for_interrupts!();
        // SAFETY: the slot is the table's, the snapshot registered.
        unsafe {
            let mut tid = tids[i];
            let row = pg_sys::table_tuple_fetch_row_version(
                heap.as_ptr(),
                &mut tid,
                snapshot.0,
                rows.slot,
            );
            if row && let Some(value) = rows.value() {
                append_elements(value, element, &mut vectors);
            }
        }
    }
    let rows = if heap.is_heap_am() {
        tids.len() * blocks as usize / chosen.len().max(1)
    } else {
        tids.len()
    };
    Ok(SampledRows { vectors, rows })
}

/// At most `wanted` of so many, in ascending order.
fn sample_of(all: usize, wanted: usize, random: &mut impl Rng) -> Vec<usize> {
    let mut chosen = rand::seq::index::sample(random, all, wanted.min(all)).into_vec();
    chosen.sort_unstable();
    chosen
}
