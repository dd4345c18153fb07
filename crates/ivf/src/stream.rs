//! The order of results: estimated candidates in, rows in the order of their exact distances out. Pure logic.
//!
//! # Rules
//! 1. `probes` lists are probed first, and every row of the exact list is compared exactly before anything else.
//! 2. A row is given out when no unseen candidate of the probed lists can plausibly beat it: its score must reach the
//!    next estimate plus `μ + z·σ`, where μ and σ are mean and standard deviation of (exact − estimated) over the rows
//!    compared so far. Until then further batches are compared.
//! 3. The more rows are given out, the further the neighbourhood reaches into other lists: at least `probes·given/25` are
//!    probed. Scanning codes is cheaper than the exact rows that were paid for until then. When all candidates of the
//!    probed lists are compared, twice as many are probed before the farther ones among them are given out.
//! 4. The order is never broken: a row that turns out nearer than the last one given out is put aside, and follows, in
//!    order, after everything else. So a LIMIT reached before sees an exact order, and a filtered query never comes back
//!    short.
//! 5. No TID is given out twice.

use crate::error::Error;
use crate::reservoir::order;
use crate::search::{Candidate, Search};
use crate::store::PageStore;
use crate::tidset::TidSet;
use crate::{CodeShape, Tid};
use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

/// Candidates of the first pull; later pulls double.
const FIRST_PULL: usize = 64;
/// Rows of the exact list compared at a time.
const EXACT_BATCH: usize = 1024;
/// Rows given out for which the first probes are meant.
const ROWS_PER_PROBES: f64 = 25.0;
/// Lists are added by this factor at least: each addition may scan the older lists again.
const WIDEN: f64 = 1.5;

/// Where candidates come from: a [`Search`], or something made up in tests.
pub trait Source {
    /// Number of lists.
    fn lists(&self) -> usize;
    /// Number of lists probed so far.
    fn probed(&self) -> usize;
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
    /// Appends the rows that are always compared exactly.
    fn exact(&mut self, out: &mut Vec<Tid>) -> Result<(), Error>;
}

impl<S: PageStore> Source for Search<S> {
    fn lists(&self) -> usize {
        Search::lists(self)
    }

    fn probed(&self) -> usize {
        Search::probed(self)
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

    fn exact(&mut self, out: &mut Vec<Tid>) -> Result<(), Error> {
        Search::exact(self, out)
    }
}

/// How much to look at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StreamOptions {
    /// Lists probed for the first results, at least 1.
    pub probes: usize,
    /// Most lists probed ever; `usize::MAX` is no limit.
    pub max_probes: usize,
    /// Standard deviations of the estimate's error that a row must be ahead of all unseen ones to be given out.
    pub z: f64,
    /// Visible rows to compare before the first one is given out, unless there are fewer.
    pub first_batch: usize,
    /// Rows to compare at a time after that.
    pub batch: usize,
    /// Most candidates pulled at a time.
    pub largest_pull: usize,
}

/// Fewest sub-quantizers whose errors add up to one that is nearly normal.
const MANY_SUBQUANTIZERS: usize = 32;

impl Default for StreamOptions {
    /// For errors of any kind.
    fn default() -> Self {
        StreamOptions {
            probes: 1,
            max_probes: usize::MAX,
            z: 3.5,
            first_batch: 64,
            batch: 32,
            largest_pull: 4096,
        }
    }
}

impl StreamOptions {
    /// As the default, or less careful where the errors of the estimates are sums of many: a few rows tell those well, and
    /// none is far out.
    pub fn for_codes(shape: CodeShape) -> Self {
        let default = StreamOptions::default();
        if shape.subquantizers < MANY_SUBQUANTIZERS {
            return default;
        }
        StreamOptions {
            z: 3.0,
            first_batch: 24,
            batch: 12,
            ..default
        }
    }
}

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
    /// Rows handed to `fetch`.
    pub compared: u64,
    /// Candidates pulled from the source.
    pub pulled: u64,
    /// Lists probed.
    pub probed: usize,
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
    source: C,
    options: StreamOptions,
    started: bool,
    /// Lists were probed whose candidates were not pulled yet.
    fresh: bool,
    pull_size: usize,
    /// Candidates not compared yet, best last.
    queue: Vec<Candidate>,
    /// Rows compared, nearest first.
    ready: BinaryHeap<Reverse<Hit>>,
    /// Rows found too late.
    aside: Vec<Hit>,
    /// Everything else is exhausted; `aside` is sorted, nearest last.
    ending: bool,
    /// Distance of the last row given out.
    last: Option<f64>,
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
        Stream {
            source,
            options: StreamOptions {
                probes: options.probes.max(1),
                batch: options.batch.max(1),
                first_batch: options.first_batch.max(2),
                largest_pull: options.largest_pull.max(1),
                ..options
            },
            started: false,
            fresh: false,
            pull_size: FIRST_PULL.min(options.largest_pull),
            queue: Vec::new(),
            ready: BinaryHeap::new(),
            aside: Vec::new(),
            ending: false,
            last: None,
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
            self.widen()?;
            let mut unseen = self.unseen();
            if !self.may_give(unseen) {
                unseen = self.refill()?;
            }
            if unseen.is_none() && self.probe(self.source.probed())? {
                continue;
            }
            if let Some(hit) = self.take_ready(unseen) {
                let is_late = |last: f64| hit.distance.total_cmp(&last).is_lt();
                if self.last.is_some_and(is_late) {
                    self.aside.push(hit);
                    continue;
                }
                self.last = Some(hit.distance);
                self.stats.given += 1;
                return Ok(Some(hit));
            }
            if unseen.is_some() {
                self.compare_batch(fetch)?;
            } else {
                self.aside.sort_unstable_by(|a, b| b.cmp(a));
                self.ending = true;
            }
        }
        let hit = self.aside.pop();
        self.stats.given += u64::from(hit.is_some());
        Ok(hit)
    }

    /// The source.
    pub fn source(&self) -> &C {
        &self.source
    }

    /// What was done so far.
    pub fn stats(&self) -> StreamStats {
        StreamStats {
            probed: self.source.probed(),
            ..self.stats
        }
    }

    /// Rule 1.
    fn compare_exact_list<E: From<Error>>(&mut self, fetch: &mut Fetch<'_, E>) -> Result<(), E> {
        let mut tids = Vec::new();
        self.source.exact(&mut tids)?;
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

    /// Rule 3: probes as many lists as the number of rows given out asks for.
    fn widen(&mut self) -> Result<(), Error> {
        let growth = (self.stats.given as f64 / ROWS_PER_PROBES).max(1.0);
        let wanted = (self.options.probes as f64 * growth).ceil() as usize;
        let probed = self.source.probed();
        if probed < wanted {
            let step = (probed as f64 * WIDEN).ceil() as usize;
            self.probe(wanted.max(step) - probed)?;
        }
        Ok(())
    }

    /// Probes further lists (at least one) if there are any; false if not.
    fn probe(&mut self, more: usize) -> Result<bool, Error> {
        let probed = self.source.probed();
        let most = self.source.lists().min(self.options.max_probes);
        let more = more.max(1).min(most.saturating_sub(probed));
        if more == 0 {
            return Ok(false);
        }
        self.source.probe(more)?;
        self.fresh = true;
        Ok(self.source.probed() > probed)
    }

    /// An upper bound of the estimates of all candidates that were not compared, as far as is known without pulling.
    fn unseen(&self) -> Option<f32> {
        let best = self.queue.last().map(|candidate| candidate.score);
        match (best, self.source.bound()) {
            (Some(best), Some(bound)) => Some(best.max(bound)),
            (best, bound) => best.or(bound),
        }
    }

    /// Pulls until the best of the queue is the best of all candidates that were not compared. Returns its estimate,
    /// `None` if the probed lists are exhausted.
    fn refill(&mut self) -> Result<Option<f32>, Error> {
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
                self.source.catch_up(self.pull_size, &mut self.queue)?;
            } else {
                self.source.pull(self.pull_size, &mut self.queue)?;
            }
            self.stats.pulled += (self.queue.len() - before) as u64;
            if self.queue.len() == before && !caught_up && self.source.bound().is_some() {
                // A source that neither gives nor ends.
                return Ok(best);
            }
            // What a pull gives is in order, but best first.
            if before == 0 {
                self.queue.reverse();
            } else {
                self.queue.sort_unstable_by(|a, b| order(b, a));
            }
            self.pull_size = (2 * self.pull_size).min(self.options.largest_pull);
        }
    }

    /// Rule 2: whether nothing unseen can plausibly beat the nearest row. No row at all may not be given.
    fn may_give(&self, unseen: Option<f32>) -> bool {
        let Some(Reverse(head)) = self.ready.peek() else {
            return false;
        };
        let Some(unseen) = unseen else { return true };
        let enough = self.visible >= self.options.first_batch;
        let rival = f64::from(unseen) + self.errors.margin(self.options.z);
        enough && self.source.score(head.distance) >= rival && !head.distance.is_nan()
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
        let bound = self.source.bound();
        self.batch.clear();
        while self.batch.len() < size
            && let Some(best) = self.queue.last().copied()
        {
            // Behind the first, what may be worse than something not pulled yet has to wait.
            if !self.batch.is_empty() && bound.is_some_and(|bound| best.score < bound) {
                break;
            }
            self.queue.pop();
            if self.seen.insert(best.tid) {
                self.batch.push(best);
            }
        }
        self.batch.sort_unstable_by_key(|candidate| candidate.tid);
        self.stats.compared += self.batch.len() as u64;
        fetch_into(fetch, &self.batch, &mut self.distances)?;
        for (candidate, distance) in self.batch.iter().zip(&self.distances) {
            let Some(distance) = *distance else { continue };
            let hit = Hit::new(candidate.tid, distance);
            let score = self.source.score(hit.distance);
            self.visible += 1;
            self.errors.add(score - f64::from(candidate.score));
            self.ready.push(Reverse(hit));
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
