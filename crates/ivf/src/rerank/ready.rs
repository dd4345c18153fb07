//! Rows that were compared and not returned yet, nearest first, in bounded memory.

use super::Hit;
use crate::error::Error;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Minimum number of hits that there is room for.
const MIN_HITS: usize = 8192;
/// Maximum number of passes after the first: a search that needs more would compare all rows again and again.
const MAX_PASSES: usize = 32;

/// A heap of the nearest hits. When it is full, the farther half is dropped, to be found again in another pass over the rows.
#[derive(Debug)]
pub(super) struct Ready {
    heap: BinaryHeap<Reverse<Hit>>,
    max_hits: usize,
    /// Passes begun after the first.
    passes: usize,
    /// Hits before this one were returned in an earlier pass.
    from: Option<Hit>,
    /// The nearest hit that was dropped in this pass.
    dropped: Option<Hit>,
}

impl Ready {
    /// An empty heap that takes at most `bytes`.
    pub(super) fn new(bytes: usize) -> Self {
        Ready {
            heap: BinaryHeap::new(),
            max_hits: (bytes / size_of::<Hit>()).max(MIN_HITS),
            passes: 0,
            from: None,
            dropped: None,
        }
    }

    /// Whether there is room for so many hits.
    pub(super) fn has_room_for(&self, hits: u64) -> bool {
        hits <= self.max_hits as u64
    }

    /// Adds a hit; false if it belongs to another pass.
    pub(super) fn push(&mut self, hit: Hit) -> Result<bool, Error> {
        if self.from.is_some_and(|from| hit < from) {
            return Ok(false);
        }
        if self.heap.len() >= self.max_hits {
            self.drop_farther_half();
        }
        if self.dropped.is_some_and(|dropped| hit >= dropped) {
            return Ok(false);
        }
        if self.heap.len() == self.heap.capacity() {
            let room = self.max_hits - self.heap.len();
            let more = self.heap.len().max(64).min(room);
            let reserved = self.heap.try_reserve_exact(more);
            reserved.map_err(|_| Error::out_of_memory())?;
        }
        self.heap.push(Reverse(hit));
        Ok(true)
    }

    fn drop_farther_half(&mut self) {
        let mut hits = std::mem::take(&mut self.heap).into_vec();
        let half = hits.len() / 2;
        if half > 0 {
            let (_, first, _) = hits.select_nth_unstable_by_key(half, |Reverse(hit)| *hit);
            self.dropped = Some(first.0);
            hits.truncate(half);
        }
        self.heap = BinaryHeap::from(hits);
    }

    /// The nearest hit.
    pub(super) fn peek(&self) -> Option<Hit> {
        self.heap.peek().map(|Reverse(hit)| *hit)
    }

    /// Takes the nearest hit.
    pub(super) fn pop(&mut self) -> Option<Hit> {
        self.heap.pop().map(|Reverse(hit)| hit)
    }

    /// The nearest hit that is known of, there or dropped.
    pub(super) fn nearest(&self) -> Option<Hit> {
        self.peek().or(self.dropped)
    }

    /// Whether hits were dropped, and all others were taken: the dropped ones are next.
    pub(super) fn needs_pass(&self) -> bool {
        self.heap.is_empty() && self.dropped.is_some()
    }

    /// Begins the pass over all rows that finds the dropped hits again.
    pub(super) fn begin_pass(&mut self) -> Result<(), Error> {
        self.passes += 1;
        if self.passes > MAX_PASSES {
            let bytes = self.max_hits * size_of::<Hit>();
            return Err(Error::WaitingRows { bytes });
        }
        self.from = self.dropped.take();
        Ok(())
    }

    /// The hit that this pass begins with, none in the first pass.
    pub(super) fn returned_before(&self) -> Option<Hit> {
        self.from
    }

    /// Begins with this hit: those before it were returned by another search.
    pub(super) fn begin_at(&mut self, hit: Hit) {
        self.from = Some(hit);
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.heap.clear();
        (self.from, self.dropped) = (None, None);
    }
}
