//! Where the candidates of a stream come from.

use crate::Tid;
use crate::candidate::Candidate;
use crate::error::Error;
use crate::list_search::ListSearch;
use crate::pq::PqScorer;
use crate::scorer::BlockFilter;
use distillvq_pages::PageStore;

/// Where candidates come from: a [`ListSearch`], or something made up in tests.
pub trait CandidateSource {
    /// Number of lists.
    fn lists(&self) -> usize;
    /// Number of lists probed so far.
    fn probed(&self) -> usize;
    /// The lists that this query probes, where queries probe `mean` lists on average.
    fn lists_for(&mut self, mean: usize) -> usize {
        mean
    }
    /// About how many rows all lists have; 0 if that is not known.
    fn rows(&self) -> u64 {
        0
    }
    /// Whether a row may be a candidate of several lists.
    fn has_duplicates(&self) -> bool {
        false
    }
    /// Probes this many further lists.
    fn probe(&mut self, more: usize) -> Result<(), Error>;
    /// Appends the next `n` candidates of the probed lists, see [`ListSearch::pull`].
    fn pull(&mut self, n: usize, out: &mut Vec<Candidate>) -> Result<(), Error>;
    /// Upper bound of the scores of what was not pulled, see [`ListSearch::bound`].
    fn bound(&self) -> Option<f32>;
    /// Appends candidates of lists added since the last pull, see [`ListSearch::pull_new_lists`].
    fn pull_new_lists(&mut self, n: usize, out: &mut Vec<Candidate>) -> Result<(), Error> {
        self.pull(n, out)
    }
    /// The score of an exact distance on the scale of the estimates, see [`ListSearch::score`].
    fn score(&self, distance: f64) -> f64;
    /// The standard deviation that the errors of estimates are expected to have, 0 if nothing is: rows that are nearly alike
    /// share their errors, which then vary less.
    fn expected_error(&self) -> f64 {
        0.0
    }
    /// Appends the next of the rows that are always compared exactly, see [`ListSearch::next_exact`].
    fn next_exact(&mut self, out: &mut Vec<Tid>) -> Result<(), Error>;
    /// Begins again, see [`ListSearch::rewind`].
    fn rewind(&mut self);
    /// What finding the candidates took so far.
    fn work(&self) -> CandidateStats {
        CandidateStats::default()
    }
    /// Has a source that probes lists by itself stop at those that it has.
    fn stop_probing(&mut self) {}
    /// Has the source pass over this row.
    fn exclude(&mut self, _tid: Tid) {}
}

/// What finding candidates took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CandidateStats {
    /// Rows of lists scanned.
    pub codes: u64,
    /// Those of them that the conditions on filter columns excluded, before their codes were scored.
    pub excluded: u64,
    /// Rows ranked by refine codes.
    pub refined: u64,
}

impl CandidateStats {
    /// Estimated fraction of the rows that the conditions on filter columns admit; above 0.
    pub fn admitted_fraction(&self) -> f64 {
        let (codes, excluded) = (self.codes as f64, self.excluded as f64);
        // Half a row more, so that nothing is impossible.
        (codes - excluded + 0.5) / (codes + 0.5)
    }
}

impl<S: PageStore, F: BlockFilter> CandidateSource for ListSearch<S, PqScorer, F> {
    fn lists(&self) -> usize {
        ListSearch::lists(self)
    }

    fn probed(&self) -> usize {
        ListSearch::probed(self)
    }

    fn lists_for(&mut self, mean: usize) -> usize {
        ListSearch::lists_for(self, mean)
    }

    fn rows(&self) -> u64 {
        ListSearch::rows(self)
    }

    fn has_duplicates(&self) -> bool {
        ListSearch::has_duplicates(self)
    }

    fn probe(&mut self, more: usize) -> Result<(), Error> {
        ListSearch::probe(self, more)
    }

    fn pull(&mut self, n: usize, out: &mut Vec<Candidate>) -> Result<(), Error> {
        ListSearch::pull(self, n, out)
    }

    fn bound(&self) -> Option<f32> {
        ListSearch::bound(self)
    }

    fn pull_new_lists(&mut self, n: usize, out: &mut Vec<Candidate>) -> Result<(), Error> {
        ListSearch::pull_new_lists(self, n, out)
    }

    fn score(&self, distance: f64) -> f64 {
        ListSearch::score(self, distance)
    }

    fn expected_error(&self) -> f64 {
        ListSearch::expected_error(self)
    }

    fn next_exact(&mut self, out: &mut Vec<Tid>) -> Result<(), Error> {
        ListSearch::next_exact(self, out)
    }

    fn rewind(&mut self) {
        ListSearch::rewind(self);
    }

    fn work(&self) -> CandidateStats {
        CandidateStats {
            codes: self.scanned(),
            excluded: self.excluded_by_filter(),
            refined: 0,
        }
    }

    fn exclude(&mut self, tid: Tid) {
        ListSearch::exclude(self, tid);
    }
}
