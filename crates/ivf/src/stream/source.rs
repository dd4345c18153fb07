//! Where the candidates of a stream come from.

use crate::Tid;
use crate::candidate::Candidate;
use crate::error::Error;
use crate::search::Search;
use distillvq_pages::PageStore;

/// Where candidates come from: a [`Search`], or something made up in tests.
pub trait Source {
    /// Number of lists.
    fn lists(&self) -> usize;
    /// Number of lists probed so far.
    fn probed(&self) -> usize;
    /// About how many rows all lists have; 0 if that is not known.
    fn rows(&self) -> u64 {
        0
    }
    /// Whether a row may come more than once, from several lists.
    fn repeats(&self) -> bool {
        false
    }
    /// Probes this many further lists.
    fn probe(&mut self, more: usize) -> Result<(), Error>;
    /// Appends the next `n` candidates of the probed lists, see [`Search::pull`].
    fn pull(&mut self, n: usize, out: &mut Vec<Candidate>) -> Result<(), Error>;
    /// Upper bound of the scores of what was not pulled, see [`Search::bound`].
    fn bound(&self) -> Option<f32>;
    /// Appends candidates of lists added since the last pull, see [`Search::catch_up`].
    fn catch_up(&mut self, n: usize, out: &mut Vec<Candidate>) -> Result<(), Error> {
        self.pull(n, out)
    }
    /// The score of an exact distance on the scale of the estimates, see [`Search::score`].
    fn score(&self, distance: f64) -> f64;
    /// The standard deviation that the errors of estimates are expected to have, 0 if nothing is: rows that are nearly alike
    /// share their errors, which then vary less.
    fn expected_error(&self) -> f64 {
        0.0
    }
    /// Appends the next of the rows that are always compared exactly, see [`Search::next_exact`].
    fn next_exact(&mut self, out: &mut Vec<Tid>) -> Result<(), Error>;
    /// Begins again, see [`Search::rewind`].
    fn rewind(&mut self);
    /// What finding the candidates took so far.
    fn work(&self) -> Work {
        Work::default()
    }
    /// Has a source that probes lists by itself stop at those that it has.
    fn close(&mut self) {}
    /// Has the source pass over this row.
    fn leave_out(&mut self, _tid: Tid) {}
}

/// What finding candidates took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Codes scanned.
    pub codes: u64,
    /// Rows ranked by refine codes.
    pub refined: u64,
}

impl<S: PageStore> Source for Search<S> {
    fn lists(&self) -> usize {
        Search::lists(self)
    }

    fn probed(&self) -> usize {
        Search::probed(self)
    }

    fn rows(&self) -> u64 {
        Search::rows(self)
    }

    fn repeats(&self) -> bool {
        Search::repeats(self)
    }

    fn probe(&mut self, more: usize) -> Result<(), Error> {
        Search::probe(self, more)
    }

    fn pull(&mut self, n: usize, out: &mut Vec<Candidate>) -> Result<(), Error> {
        Search::pull(self, n, out)
    }

    fn bound(&self) -> Option<f32> {
        Search::bound(self)
    }

    fn catch_up(&mut self, n: usize, out: &mut Vec<Candidate>) -> Result<(), Error> {
        Search::catch_up(self, n, out)
    }

    fn score(&self, distance: f64) -> f64 {
        Search::score(self, distance)
    }

    fn expected_error(&self) -> f64 {
        Search::expected_error(self)
    }

    fn next_exact(&mut self, out: &mut Vec<Tid>) -> Result<(), Error> {
        Search::next_exact(self, out)
    }

    fn rewind(&mut self) {
        Search::rewind(self);
    }

    fn work(&self) -> Work {
        Work {
            codes: self.scanned(),
            refined: 0,
        }
    }

    fn leave_out(&mut self, tid: Tid) {
        Search::leave_out(self, tid);
    }
}
