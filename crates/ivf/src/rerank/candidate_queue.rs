//! The candidates that were not compared yet: which lists they come from, and which of them is the best.

use super::source::CandidateSource;
use super::{FIRST_PULL, RerankOptions};
use crate::Tid;
use crate::candidate::{Candidate, order};
use crate::error::Error;
use crate::tidset::TidSet;

/// Lists are added by this factor at least.
const MIN_PROBE_GROWTH: f64 = 1.5;

/// A source, and what was pulled from it but not compared.
pub(super) struct CandidateQueue<C> {
    pub(super) source: C,
    /// Most lists probed ever.
    max_probes: usize,
    /// A mean number of lists that was asked for last, and the lists of this query.
    lists_for: (usize, usize),
    /// Lists were probed whose candidates were not pulled yet.
    fresh: bool,
    pull_size: usize,
    largest_pull: usize,
    /// Candidates pulled so far.
    pub(super) pulled: u64,
    /// Candidates not compared yet, best last.
    queue: Vec<Candidate>,
    /// Rows whose better estimate was taken, as far as there is memory; `None` if the source has no duplicates. The other estimate
    /// of such a row is dropped.
    taken: Option<TidSet>,
}

/// Part of a stream's memory for the addresses of the rows taken.
pub(super) const TAKEN_DIVISOR: usize = 8;

impl<C: CandidateSource> CandidateQueue<C> {
    /// The candidates of a source of which nothing has been probed or pulled.
    pub(super) fn new(mut source: C, options: &RerankOptions, memory_for_taken: usize) -> Self {
        let first = source.lists_for(options.probes);
        CandidateQueue {
            taken: source
                .has_duplicates()
                .then(|| TidSet::new(memory_for_taken)),
            source,
            max_probes: match options.max_probes {
                0 => 0,
                most => most.max(first),
            },
            lists_for: (options.probes, first),
            fresh: false,
            pull_size: FIRST_PULL.min(options.largest_pull),
            largest_pull: options.largest_pull,
            pulled: 0,
            queue: Vec::new(),
        }
    }

    /// The lists of this query where queries probe `mean` on average.
    fn lists_for(&mut self, mean: usize) -> usize {
        if self.lists_for.0 != mean {
            self.lists_for = (mean, self.source.lists_for(mean));
        }
        self.lists_for.1
    }

    /// Has at least as many lists probed as queries probe where they probe `mean` on average, as far as there are so many.
    pub(super) fn ensure_probed(&mut self, mean: usize) -> Result<(), Error> {
        let wanted = self.lists_for(mean);
        let probed = self.source.probed();
        if probed < wanted {
            let step = (probed as f64 * MIN_PROBE_GROWTH).ceil() as usize;
            self.probe(wanted.max(step) - probed)?;
        }
        Ok(())
    }

    /// Probes further lists (at least one) if there are any; false if not.
    pub(super) fn probe(&mut self, more: usize) -> Result<bool, Error> {
        let probed = self.source.probed();
        let more = more.max(1).min(self.probes_left());
        if more == 0 {
            return Ok(false);
        }
        self.source.probe(more)?;
        self.fresh = true;
        Ok(self.source.probed() > probed)
    }

    /// Lists that may still be probed.
    pub(super) fn probes_left(&self) -> usize {
        let most = self.source.lists().min(self.max_probes);
        most.saturating_sub(self.source.probed())
    }

    /// An upper bound of the estimates of all candidates that were not compared, as far as is known without pulling.
    pub(super) fn unseen(&self) -> Option<f32> {
        let best = self.queue.last().map(|candidate| candidate.score);
        match (best, self.source.bound()) {
            (Some(best), Some(bound)) => Some(best.max(bound)),
            (best, bound) => best.or(bound),
        }
    }

    /// Pulls until the best of the queue is the best of all candidates that were not compared. Returns its estimate,
    /// `None` if the probed lists are exhausted.
    pub(super) fn refill(&mut self) -> Result<Option<f32>, Error> {
        loop {
            let best = self.queue.last().map(|candidate| candidate.score);
            match (best, self.source.bound()) {
                (best, None) => return Ok(best),
                (Some(best), Some(bound)) if best >= bound => return Ok(Some(best)),
                _ => {}
            }
            let before = self.queue.len();
            let caught_up = std::mem::take(&mut self.fresh);
            if caught_up {
                self.source
                    .pull_new_lists(self.pull_size, &mut self.queue)?;
            } else {
                self.source.pull(self.pull_size, &mut self.queue)?;
            }
            self.pulled += (self.queue.len() - before) as u64;
            if self.queue.len() == before && !caught_up && self.source.bound().is_some() {
                // A source that neither gives nor ends.
                return Ok(best);
            }
            // A pull gives runs that are in order, best first, which is what the sort is quickest with.
            self.queue.sort_unstable_by(|a, b| order(b, a));
            self.pull_size = (2 * self.pull_size).min(self.largest_pull);
        }
    }

    /// Begins again with all candidates of the probed lists.
    pub(super) fn rewind(&mut self) {
        self.source.rewind();
        self.queue.clear();
        if let Some(taken) = &mut self.taken {
            taken.clear();
        }
        self.fresh = false;
    }

    /// Moves up to `size` of the best candidates to `out`, but not the row left out.
    pub(super) fn take(&mut self, size: usize, excluded: Option<Tid>, out: &mut Vec<Candidate>) {
        let bound = self.source.bound();
        while out.len() < size
            && let Some(best) = self.queue.last().copied()
        {
            // Behind the first, what may be worse than something not pulled yet has to wait.
            if !out.is_empty() && bound.is_some_and(|bound| best.score < bound) {
                break;
            }
            self.queue.pop();
            let is_new = |taken: &mut TidSet| taken.insert(best.tid);
            if Some(best.tid) != excluded && self.taken.as_mut().is_none_or(is_new) {
                out.push(best);
            }
        }
    }

    /// Has no further list probed but those for a mean of `first`.
    pub(super) fn stop_probing(&mut self, first: usize) {
        let now = self.source.probed().max(self.lists_for(first));
        self.max_probes = self.max_probes.min(now);
        self.source.stop_probing();
    }
}
