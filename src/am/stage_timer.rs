//! Where the time of searches goes, by stage: for measuring, and compiled out unless the feature `timing` is on.
//!
//! A backend adds up the time of each stage and writes it to the server's log as it exits, as one line of JSON:
//! `distillvq timing: {"searches": 1000, "route": 12.3, …}`, in microseconds a search. `make bench` builds the library so
//! once more, and prints what the log says.

/// A stage of a search. Each one's time is its own, without that of the stages called within it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "timing"), allow(dead_code))]
pub enum Stage {
    /// The model, once a session.
    Load,
    /// Metapage, the cache of models, and the query's copy.
    Open,
    /// The query's look-up table and the order of the lists.
    Route,
    /// The chosen lists' entries of the directory.
    Probe,
    /// Codes.
    Scan,
    /// Exact distances of rows of the table.
    Compare,
    /// The order of results.
    Order,
}

/// Does some work as a stage.
#[cfg(not(feature = "timing"))]
#[inline(always)]
pub fn stage<T>(_: Stage, work: impl FnOnce() -> T) -> T {
    work()
}

/// Counts a search, and rows that it compares.
#[cfg(not(feature = "timing"))]
#[inline(always)]
pub fn count(_searches: u64, _rows: u64) {}

/// A source of candidates with the time that finding them takes.
#[cfg(not(feature = "timing"))]
pub type Timed<S> = S;

/// Has the time taken that a source needs.
#[cfg(not(feature = "timing"))]
pub fn timed<S>(source: S) -> S {
    source
}

#[cfg(feature = "timing")]
pub use on::{Timed, count, stage, timed};

#[cfg(feature = "timing")]
mod on {
    use super::Stage;
    use distillvq_ivf::rerank::{CandidateSource, CandidateStats};
    use distillvq_ivf::{Candidate, Error, Tid};
    use std::cell::RefCell;
    use std::time::{Duration, Instant};

    const STAGES: [(Stage, &str); 7] = [
        (Stage::Load, "load"),
        (Stage::Open, "open"),
        (Stage::Route, "route"),
        (Stage::Probe, "probe"),
        (Stage::Scan, "scan"),
        (Stage::Compare, "compare"),
        (Stage::Order, "order"),
    ];

    #[derive(Default)]
    struct Sums {
        registered: bool,
        searches: u64,
        rows: u64,
        times: [Duration; STAGES.len()],
        /// Time of stages within the one that runs.
        inner: Duration,
    }

    thread_local! {
        static SUMS: RefCell<Sums> = RefCell::default();
    }

    /// Does some work as a stage.
    pub fn stage<T>(stage: Stage, work: impl FnOnce() -> T) -> T {
        let outer = SUMS.with_borrow_mut(|sums| std::mem::take(&mut sums.inner));
        let start = Instant::now();
        let result = work();
        let time = start.elapsed();
        SUMS.with_borrow_mut(|sums| {
            sums.times[stage as usize] += time.saturating_sub(sums.inner);
            sums.inner = outer + time;
        });
        result
    }

    /// Counts a search, and rows that it compares.
    pub fn count(searches: u64, rows: u64) {
        let register = SUMS.with_borrow_mut(|sums| {
            sums.searches += searches;
            sums.rows += rows;
            !std::mem::replace(&mut sums.registered, true)
        });
        if register {
            crate::pg::report::at_exit(report);
        }
    }

    /// A source of candidates with the time that finding them takes.
    pub struct Timed<S>(S);

    /// Has the time taken that a source needs.
    pub fn timed<S>(source: S) -> Timed<S> {
        Timed(source)
    }

    impl<S: CandidateSource> CandidateSource for Timed<S> {
        fn lists(&self) -> usize {
            self.0.lists()
        }

        fn probed(&self) -> usize {
            self.0.probed()
        }

        fn rows(&self) -> u64 {
            self.0.rows()
        }

        fn probe(&mut self, more: usize) -> Result<(), Error> {
            stage(Stage::Probe, || self.0.probe(more))
        }

        fn pull(&mut self, n: usize, out: &mut Vec<Candidate>) -> Result<(), Error> {
            stage(Stage::Scan, || self.0.pull(n, out))
        }

        fn bound(&self) -> Option<f32> {
            self.0.bound()
        }

        fn pull_new_lists(&mut self, n: usize, out: &mut Vec<Candidate>) -> Result<(), Error> {
            stage(Stage::Scan, || self.0.pull_new_lists(n, out))
        }

        fn score(&self, distance: f64) -> f64 {
            self.0.score(distance)
        }

        fn expected_error(&self) -> f64 {
            self.0.expected_error()
        }

        fn next_exact(&mut self, out: &mut Vec<Tid>) -> Result<(), Error> {
            stage(Stage::Probe, || self.0.next_exact(out))
        }

        fn rewind(&mut self) {
            self.0.rewind();
        }

        fn work(&self) -> CandidateStats {
            self.0.work()
        }

        fn stop_probing(&mut self) {
            self.0.stop_probing();
        }

        fn exclude(&mut self, tid: Tid) {
            self.0.exclude(tid);
        }
    }

    fn report() {
        SUMS.with_borrow(|sums| {
            let each = |time: &Duration| time.as_secs_f64() * 1e6 / sums.searches.max(1) as f64;
            let times: String = STAGES
                .iter()
                .map(|(stage, name)| {
                    format!(", \"{name}\": {:.1}", each(&sums.times[*stage as usize]))
                })
                .collect();
            let rows = sums.rows as f64 / sums.searches.max(1) as f64;
            crate::pg::report::log(&format!(
                "distillvq timing: {{\"searches\": {}, \"rows\": {rows:.1}{times}}}",
                sums.searches
            ));
        });
    }
}
