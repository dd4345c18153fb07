//! The order of results: estimated candidates in, rows in the order of their exact distances out. Pure logic.
//!
//! # Rules
//! 1. `probes` lists are probed first, and every row of the exact list is compared exactly before anything else.
//! 2. A row is given out when no unseen candidate of the probed lists can plausibly beat it: its score must reach the
//!    next estimate plus `μ + z·σ`, where μ and σ are mean and standard deviation of (exact − estimated) over the rows
//!    compared so far. Until then further batches are compared.
//! 3. The more rows are given out, the further the neighbourhood reaches into other lists: beyond the `rows` that the first
//!    probes are meant for, as many lists are probed as the index has measured that the next rows need ([`Growth`]), so that the
//!    hundredth row is found about as surely as the tenth: a filter that few rows pass makes one of the first ten of it. When
//!    all candidates of the probed lists are compared, twice as many are probed before the farther ones among them are given out.
//! 4. The order is never broken: a *late* row, which is compared only after a farther one was returned, is dropped. Once
//!    everything is compared, the rest is sorted, so that no further row is late.
//! 5. No TID is given out twice.
//! 6. Where only rows within a distance are wanted ([`Stream::within`]), the stream ends when the next row is beyond it and no
//!    unseen candidate of the probed lists is plausibly within.
//!
//! [`StreamOptions`] may bend two of them: `max_probes` and `max_compared` end the probing of rule 3, and `late` says what
//! becomes of the rows of rule 4 ([`LateRows`]).
//!
//! # Where things are
//! Here is what becomes of rows once they are compared (rules 1, 2, 4 to 6), and when to go for more. What is not compared yet,
//! and the probing of lists, is in `frontier`; where candidates come from is a [`Source`]; how much to look at, in `options`.

mod frontier;
mod growth;
mod options;
mod source;

pub use growth::{BANDS, Growth, RANKS, ROWS};
pub use options::{LateRows, StreamOptions};
pub use source::{Source, Work};

use crate::Tid;
use crate::error::Error;
use crate::search::Candidate;
use crate::tidset::TidSet;
use frontier::Frontier;
use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

/// Rows of the exact list compared at a time.
const EXACT_BATCH: usize = 1024;

/// A row with its exact distance. Ordered by distance (NaN last, as in PostgreSQL), then TID.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hit {
    /// The row.
    pub tid: Tid,
    /// Its distance, as `fetch` gave it.
    pub distance: f64,
}

impl Hit {
    fn new(tid: Tid, distance: f64) -> Hit {
        // One NaN and one zero, so that the total order of floats is PostgreSQL's.
        let distance = if distance.is_nan() {
            f64::NAN.abs()
        } else {
            distance + 0.0
        };
        Hit { tid, distance }
    }
}

impl Eq for Hit {}

impl PartialOrd for Hit {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Hit {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_distance = self.distance.total_cmp(&other.distance);
        by_distance.then_with(|| self.tid.cmp(&other.tid))
    }
}

/// What a stream has done, for EXPLAIN and tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamStats {
    /// Rows given out.
    pub given: u64,
    /// Late rows that were dropped.
    pub dropped: u64,
    /// Rows handed to `fetch`.
    pub compared: u64,
    /// Candidates pulled from the source.
    pub pulled: u64,
    /// Lists probed.
    pub probed: usize,
    /// What the source did.
    pub work: Work,
}

/// Running mean and variance (Welford) of the error of the estimates.
#[derive(Clone, Copy, Debug, Default)]
struct Errors {
    count: usize,
    mean: f64,
    squares: f64,
}

impl Errors {
    fn add(&mut self, error: f64) {
        if error.is_finite() {
            self.count += 1;
            let delta = error - self.mean;
            self.mean += delta / self.count as f64;
            self.squares += delta * (error - self.mean);
        }
    }

    /// Mean plus `z` standard deviations.
    fn margin(&self, z: f64) -> f64 {
        let degrees = self.count.saturating_sub(1).max(1);
        self.mean + z * (self.squares / degrees as f64).sqrt()
    }
}

/// The rows of a source in the order of their exact distances.
pub struct Stream<C: Source> {
    frontier: Frontier<C>,
    options: StreamOptions,
    started: bool,
    /// Rows compared, nearest first.
    ready: BinaryHeap<Reverse<Hit>>,
    /// Late rows that follow at the end.
    aside: Vec<Hit>,
    /// Everything else is exhausted; `aside` is sorted, nearest last.
    ending: bool,
    /// The largest distance given out.
    last: Option<f64>,
    /// Distance beyond which no row is wanted.
    farthest: Option<f64>,
    seen: TidSet,
    /// Visible candidates compared so far, and their errors.
    visible: usize,
    errors: Errors,
    stats: StreamStats,
    /// Buffers of [`Stream::compare_batch`].
    batch: Vec<Candidate>,
    distances: Vec<Option<f64>>,
}

/// Exact distances of a batch of candidates, which come ordered by TID: one entry appended for each, `None` for a row that is
/// not visible. NaN sorts last. Rows of the exact list have no estimate: their score is NaN.
pub type Fetch<'f, E> = dyn FnMut(&[Candidate], &mut Vec<Option<f64>>) -> Result<(), E> + 'f;

impl<C: Source> Stream<C> {
    /// A stream over a source of which nothing has been probed or pulled.
    pub fn new(source: C, options: StreamOptions) -> Self {
        let options = StreamOptions {
            probes: options.probes.max(1),
            rows: options.rows.max(1),
            batch: options.batch.max(1),
            first_batch: options.first_batch.max(2),
            largest_pull: options.largest_pull.max(1),
            ..options
        };
        Stream {
            frontier: Frontier::new(source, &options),
            options,
            started: false,
            ready: BinaryHeap::new(),
            aside: Vec::new(),
            ending: false,
            last: None,
            farthest: None,
            seen: TidSet::default(),
            visible: 0,
            errors: Errors::default(),
            stats: StreamStats::default(),
            batch: Vec::new(),
            distances: Vec::new(),
        }
    }

    /// The next row, or `None` after the last.
    pub fn next<E: From<Error>>(&mut self, fetch: &mut Fetch<'_, E>) -> Result<Option<Hit>, E> {
        if !self.started {
            self.compare_exact_list(fetch)?;
            self.started = true;
        }
        while !self.ending {
            self.frontier.widen(self.wanted_probes())?;
            let mut unseen = self.frontier.unseen();
            if !self.may_give(unseen) {
                unseen = self.frontier.refill()?;
            }
            if self.is_complete(unseen) {
                self.end();
                continue;
            }
            if unseen.is_none() && self.frontier.probe(self.source().probed())? {
                continue;
            }
            if let Some(hit) = self.take_ready(unseen) {
                if self.admit(hit) {
                    self.stats.given += 1;
                    return Ok(Some(hit));
                }
                continue;
            }
            if unseen.is_some() {
                self.compare_batch(fetch)?;
            } else {
                self.end();
            }
        }
        let hit = self.aside.pop();
        self.stats.given += u64::from(hit.is_some());
        Ok(hit)
    }

    /// The source.
    pub fn source(&self) -> &C {
        &self.frontier.source
    }

    /// What was done so far.
    pub fn stats(&self) -> StreamStats {
        StreamStats {
            pulled: self.frontier.pulled,
            probed: self.source().probed(),
            work: self.source().work(),
            ..self.stats
        }
    }

    /// Rows farther away than this are not wanted any more. NaN, which sorts last, excludes nothing.
    pub fn within(&mut self, farthest: f64) {
        // One zero, as of hits.
        self.farthest = (!farthest.is_nan()).then_some(farthest + 0.0);
    }

    /// Never compares a row, nor gives it out, as if it were not there: the error of its estimate would tell nothing of those
    /// of others if it is the query itself. To be called before the first row is asked for.
    pub fn leave_out(&mut self, tid: Tid) {
        self.seen.insert(tid);
        self.frontier.source.leave_out(tid);
    }

    /// Probes no further lists but the first ones.
    pub fn close(&mut self) {
        self.frontier.close(self.options.probes);
    }

    /// Rule 4: whether a row is returned now.
    fn admit(&mut self, hit: Hit) -> bool {
        let is_late = |last: f64| hit.distance.total_cmp(&last).is_lt();
        if !self.last.is_some_and(is_late) {
            self.last = Some(hit.distance);
            return true;
        }
        match self.options.late {
            LateRows::Drop => self.stats.dropped += 1,
            LateRows::Append => self.aside.push(hit),
            LateRows::Return => return true,
        }
        false
    }

    /// From here on only what was put aside follows.
    fn end(&mut self) {
        self.aside.sort_unstable_by(|a, b| b.cmp(a));
        self.ending = true;
    }

    /// Rule 1.
    fn compare_exact_list<E: From<Error>>(&mut self, fetch: &mut Fetch<'_, E>) -> Result<(), E> {
        let mut tids = Vec::new();
        self.frontier.source.exact(&mut tids)?;
        tids.retain(|&tid| self.seen.insert(tid));
        tids.sort_unstable();
        for batch in tids.chunks(EXACT_BATCH) {
            self.batch.clear();
            self.batch
                .extend(batch.iter().map(|tid| Candidate::exact(*tid)));
            self.stats.compared += batch.len() as u64;
            fetch_into(fetch, &self.batch, &mut self.distances)?;
            for (&tid, distance) in batch.iter().zip(&self.distances) {
                let hit = distance.map(|distance| Reverse(Hit::new(tid, distance)));
                self.ready.extend(hit);
            }
        }
        Ok(())
    }

    /// Rule 3: the lists that the number of rows given out asks for.
    fn wanted_probes(&self) -> usize {
        self.options.wanted_probes(self.stats.given)
    }

    /// Rule 2: whether nothing unseen can plausibly beat the nearest row. No row at all may not be given.
    fn may_give(&self, unseen: Option<f32>) -> bool {
        let Some(Reverse(head)) = self.ready.peek() else {
            return false;
        };
        let Some(unseen) = unseen else { return true };
        let rival = self.rival(unseen);
        self.knows_errors()
            && self.source().score(head.distance) >= rival
            && !head.distance.is_nan()
    }

    /// The best score that is plausible for what is unseen.
    fn rival(&self, unseen: f32) -> f64 {
        f64::from(unseen) + self.errors.margin(self.options.z)
    }

    /// Whether enough rows were compared to judge the estimates.
    fn knows_errors(&self) -> bool {
        self.visible >= self.options.first_batch
    }

    /// Rule 6: whether all rows that are wanted, and plausibly in the probed lists, were given out.
    fn is_complete(&self, unseen: Option<f32>) -> bool {
        let Some(farthest) = self.farthest else {
            return false;
        };
        let is_beyond = |hit: &Reverse<Hit>| hit.0.distance.total_cmp(&farthest).is_gt();
        let next_is_beyond = self.ready.peek().map(is_beyond);
        match (next_is_beyond, unseen) {
            (Some(false), _) | (None, None) => false,
            (_, Some(unseen)) => {
                self.knows_errors() && self.source().score(farthest) > self.rival(unseen)
            }
            (Some(true), None) => self.knows_errors() || self.frontier.probes_left() == 0,
        }
    }

    /// Takes the nearest row if it may be given.
    fn take_ready(&mut self, unseen: Option<f32>) -> Option<Hit> {
        let next = self.may_give(unseen).then(|| self.ready.pop());
        next.flatten().map(|Reverse(hit)| hit)
    }

    /// Compares the best candidates of the queue exactly.
    fn compare_batch<E: From<Error>>(&mut self, fetch: &mut Fetch<'_, E>) -> Result<(), E> {
        let missing = self.options.first_batch.saturating_sub(self.visible);
        let size = missing.max(self.options.batch);
        self.batch.clear();
        self.frontier.take(size, &mut self.seen, &mut self.batch);
        self.batch.sort_unstable_by_key(|candidate| candidate.tid);
        self.stats.compared += self.batch.len() as u64;
        fetch_into(fetch, &self.batch, &mut self.distances)?;
        for (candidate, distance) in self.batch.iter().zip(&self.distances) {
            let Some(distance) = *distance else { continue };
            let hit = Hit::new(candidate.tid, distance);
            let score = self.source().score(hit.distance);
            self.visible += 1;
            self.errors.add(score - f64::from(candidate.score));
            self.ready.push(Reverse(hit));
        }
        if self.stats.compared >= self.options.max_compared {
            self.close();
        }
        Ok(())
    }
}

/// Calls `fetch` and checks that it answered for every TID.
fn fetch_into<E: From<Error>>(
    fetch: &mut Fetch<'_, E>,
    batch: &[Candidate],
    distances: &mut Vec<Option<f64>>,
) -> Result<(), E> {
    distances.clear();
    if batch.is_empty() {
        return Ok(());
    }
    fetch(batch, distances)?;
    if distances.len() == batch.len() {
        Ok(())
    } else {
        Err(Error::Mismatch("not as many distances as rows were asked for").into())
    }
}
