//! A row with its estimated score, and the order of candidates.

use crate::Tid;
use distillvq_pages::SideLocation;
use std::cmp::Ordering;

/// A row with its estimated score (bigger is nearer).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// The estimate: cosine or inner product `≈ q·x`, L2 `≈ 2 q·x − ‖x‖²`, in the model's space.
    pub score: f32,
    /// The row.
    pub tid: Tid,
    /// Where its refine code is, if the index has any.
    pub refine: SideLocation,
}

impl Candidate {
    /// A row of which nothing is estimated.
    pub fn exact(tid: Tid) -> Self {
        Candidate {
            score: f32::NAN,
            tid,
            refine: SideLocation::default(),
        }
    }
}

/// The order of candidates: score descending, then TID.
pub(crate) fn order(a: &Candidate, b: &Candidate) -> Ordering {
    b.score.total_cmp(&a.score).then_with(|| a.tid.cmp(&b.tid))
}
