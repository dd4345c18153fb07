//! The best `n` of a stream of candidates, in O(n) memory and amortised O(1) time each.

use crate::candidate::{Candidate, order};
use crate::error::Error;
use std::cmp::Ordering;

/// Keeps up to `2n` candidates; when they are full the better half stays, and its worst score is the new threshold.
pub(crate) struct TopCandidates {
    n: usize,
    kept: Vec<Candidate>,
    /// Scores below cannot be among the best `n`.
    threshold: f32,
    /// Only candidates before this one count.
    start_after: Option<Candidate>,
}

impl TopCandidates {
    /// Room for the best `n` (at least 1) of the candidates that come before `start_after`.
    pub fn new(n: usize, start_after: Option<Candidate>) -> Result<Self, Error> {
        let (n, mut kept) = (n.max(1), Vec::new());
        let reserved = kept.try_reserve_exact(n.saturating_mul(2));
        reserved.map_err(|_| Error::out_of_memory())?;
        Ok(TopCandidates {
            n,
            kept,
            threshold: start_after.map_or(f32::NEG_INFINITY, |start_after| start_after.score),
            start_after,
        })
    }

    /// Whether a score may be among the best. NaN may: it counts as negative infinity.
    #[allow(clippy::neg_cmp_op_on_partial_ord)]
    pub fn may_accept(&self, score: f32) -> bool {
        !(score < self.threshold)
    }

    /// Scores below this cannot be among the best; NaN is not below it.
    pub fn threshold(&self) -> f32 {
        self.threshold
    }

    /// Whether scores up to `bound` may be among the best; `None` stands for no scores at all.
    pub fn may_take(&self, bound: Option<f32>) -> bool {
        bound.is_some_and(|bound| self.may_accept(bound))
    }

    /// Takes a candidate, if `admit` agrees. Without an address it is none.
    pub fn offer(&mut self, mut candidate: Candidate, admit: impl FnOnce(&Candidate) -> bool) {
        if candidate.score.is_nan() {
            candidate.score = f32::NEG_INFINITY;
        }
        let above = |start_after: &Candidate| order(&candidate, start_after) == Ordering::Less;
        if candidate.tid.offset == 0
            || !self.start_after.as_ref().is_none_or(above)
            || !admit(&candidate)
        {
            return;
        }
        self.kept.push(candidate);
        if self.kept.len() >= self.n.saturating_mul(2) {
            self.shrink();
        }
    }

    fn shrink(&mut self) {
        if self.kept.len() > self.n {
            let (_, worst, _) = self.kept.select_nth_unstable_by(self.n - 1, order);
            self.threshold = worst.score;
            self.kept.truncate(self.n);
        }
    }

    /// The best `n`, in order.
    pub fn finish(mut self) -> Vec<Candidate> {
        self.shrink();
        self.kept.sort_unstable_by(order);
        self.kept
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::Tid;
    use distillvq_pages::SideLocation;
    use proptest::prelude::*;

    fn score() -> impl Strategy<Value = f32> {
        prop_oneof![
            8 => -1.0..1.0f32,
            2 => (-2i8..3).prop_map(f32::from),
            1 => Just(f32::NAN),
            1 => Just(f32::INFINITY),
            1 => Just(f32::NEG_INFINITY),
        ]
    }

    proptest! {
        #[test]
        fn keeps_the_best(scores in prop::collection::vec(score(), 0..400), n in 1..50usize, start_after in score()) {
            let candidate = |score, block| Candidate { score, tid: Tid { block, offset: 1 }, refine: SideLocation::default() };
            let start_after = (start_after < 0.0).then_some(candidate(start_after, 100));
            let mut reservoir = TopCandidates::new(n, start_after).unwrap();
            let mut expected = Vec::new();
            for (i, &score) in scores.iter().enumerate() {
                if reservoir.may_accept(score) {
                    reservoir.offer(candidate(score, i as u32), |_| true);
                }
                let score = if score.is_nan() { f32::NEG_INFINITY } else { score };
                expected.push(candidate(score, i as u32));
            }
            expected.retain(|c| start_after.is_none_or(|start_after| order(c, &start_after).is_lt()));
            expected.sort_by(order);
            expected.truncate(n);
            prop_assert_eq!(reservoir.finish(), expected);
        }
    }
}
