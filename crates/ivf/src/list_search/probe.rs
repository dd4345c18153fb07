//! A list being probed, and how far its candidates were returned.

use crate::candidate::{Candidate, order};
use std::cmp::Ordering;

/// Up to which candidate those of a list were returned.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Cursor {
    /// None was returned.
    Start,
    /// This one and all better ones.
    After(Candidate),
    /// All were returned.
    End,
}

impl Cursor {
    /// How far the cursor is: less is nearer to the start.
    pub(super) fn progress(&self, other: &Cursor) -> Ordering {
        match (self, other) {
            (Cursor::After(a), Cursor::After(b)) => order(a, b),
            _ => self.stage().cmp(&other.stage()),
        }
    }

    fn stage(&self) -> u8 {
        match self {
            Cursor::Start => 0,
            Cursor::After(_) => 1,
            Cursor::End => 2,
        }
    }

    /// Whether the candidate is still to be returned.
    pub(super) fn is_before(&self, candidate: &Candidate) -> bool {
        match self {
            Cursor::Start => true,
            Cursor::After(last) => order(last, candidate) == Ordering::Less,
            Cursor::End => false,
        }
    }

    /// The best score that may be behind the cursor.
    pub(super) fn bound(&self) -> Option<f32> {
        match self {
            Cursor::Start => Some(f32::INFINITY),
            Cursor::After(last) => Some(last.score),
            Cursor::End => None,
        }
    }
}

/// Whether all scores of a list are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// It was not scanned yet.
    Untried,
    Yes,
    /// There was no room.
    No,
}

/// A list being probed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Probe<L> {
    pub(super) list: u32,
    pub(super) first: u32,
    /// Rows at build or the last vacuum.
    pub(super) rows: u64,
    pub(super) cursor: Cursor,
    pub(super) kept: Kept,
    pub(super) params: L,
}
