//! The order of results: estimated candidates in, rows in the order of their exact distances out. Pure logic.
//!
//! # Rules
//! 1. `probes` lists are probed first, and every row of the exact list is compared exactly before anything else.
//! 2. A row is given out when no unseen candidate of the probed lists can plausibly beat it: its score must reach the
//!    next estimate plus `μ + z·σ`, where μ and σ are mean and standard deviation of (exact − estimated) over the rows
//!    compared so far. Until then further batches are compared.
//! 3. The more rows are given out, the further the neighbourhood reaches into other lists: beyond the `rows` that they are
//!    meant for, at least `probes·(given/rows)^0.6` are probed ([`growth`]), so that the hundredth row is found about as surely
//!    as the tenth: a filter that few rows pass makes one of the first ten of it. Scanning codes is cheaper than the exact rows
//!    that were paid for until then. When all candidates of the probed lists are compared, twice as many are probed before the
//!    farther ones among them are given out.
//! 4. The order is never broken: a row that turns out nearer than the last one given out is put aside, and follows, in
//!    order, after everything else. So a LIMIT reached before sees an exact order, and a filtered query never comes back
//!    short.
//! 5. No TID is given out twice.
//! 6. Where only rows within a distance are wanted ([`Stream::within`]), the stream ends when the next row is beyond it and no
//!    unseen candidate of the probed lists is plausibly within. Rows put aside still follow.
//!
//! [`StreamOptions`] may bend two of them: `max_probes` and `max_compared` end the probing of rule 3, and `strict` drops the
//! rows of rule 4 that would follow.

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
/// How the lists grow with the rows: the power that finds the rows behind a filter as surely as without one.
const GROWTH: f64 = 0.6;
/// Lists are added by this factor at least: each addition may scan the older lists again.
const WIDEN: f64 = 1.5;

/// Rows of a search for which its first probes are meant.
pub const ROWS: usize = 10;

/// By how much more lists are probed once so many rows were given out, where the first probes are meant for `rows`.
pub fn growth(given: f64, rows: f64) -> f64 {
    let share = given / rows;
    if share > 1.0 { share.powf(GROWTH) } else { 1.0 }
}

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
    /// What finding the candidates took so far.
    fn work(&self) -> Work {
        Work::default()
    }
    /// Has a source that probes lists by itself stop at those that it has.
    fn close(&mut self) {}
    /// Appends what the source holds back for its end.
    fn late(&mut self, _out: &mut Vec<Candidate>) {}
    /// Has a source that compares rows by itself never compare this one.
    fn leave_out(&mut self, _tid: Tid) {}
}

/// What finding candidates took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Codes scanned, once for each time.
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

    fn work(&self) -> Work {
        Work {
            codes: self.scanned(),
            refined: 0,
        }
    }
}

/// How much to look at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StreamOptions {
    /// Lists probed for the first results, at least 1.
    pub probes: usize,
    /// Rows given out for which those are meant, at least 1.
    pub rows: usize,
    /// Most lists probed ever; `usize::MAX` is no limit.
    pub max_probes: usize,
    /// Rows compared after which no further lists are probed; `u64::MAX` is no limit.
    pub max_compared: u64,
    /// Whether rows found too late to stand in order are never given out.
    pub strict: bool,
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
            rows: ROWS,
            max_probes: usize::MAX,
            max_compared: u64::MAX,
            strict: false,
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
        Stream {
            source,
            options: StreamOptions {
                probes: options.probes.max(1),
                rows: options.rows.max(1),
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
            self.widen()?;
            let mut unseen = self.unseen();
            if !self.may_give(unseen) {
                unseen = self.refill()?;
            }
            if self.is_complete(unseen) {
                self.end_early();
                continue;
            }
            if unseen.is_none() && self.probe(self.source.probed())? {
                continue;
            }
            if let Some(hit) = self.take_ready(unseen) {
                let is_late = |last: f64| hit.distance.total_cmp(&last).is_lt();
                if self.last.is_some_and(is_late) {
                    self.put_aside(hit);
                    continue;
                }
                self.last = Some(hit.distance);
                self.stats.given += 1;
                return Ok(Some(hit));
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
        &self.source
    }

    /// What was done so far.
    pub fn stats(&self) -> StreamStats {
        StreamStats {
            probed: self.source.probed(),
            work: self.source.work(),
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
        self.source.leave_out(tid);
    }

    /// Probes no further lists but the first ones.
    pub fn close(&mut self) {
        let now = self.source.probed().max(self.options.probes);
        self.options.max_probes = self.options.max_probes.min(now);
        self.source.close();
    }

    /// The rows that were put aside so far.
    pub(crate) fn take_aside(&mut self) -> Vec<Hit> {
        std::mem::take(&mut self.aside)
    }

    fn put_aside(&mut self, hit: Hit) {
        if !self.options.strict {
            self.aside.push(hit);
        }
    }

    /// From here on only what was put aside follows.
    fn end(&mut self) {
        self.aside.sort_unstable_by(|a, b| b.cmp(a));
        self.ending = true;
    }

    /// Rule 6: ends the stream, after what the source held back has been looked at too.
    fn end_early(&mut self) {
        let before = self.queue.len();
        self.source.late(&mut self.queue);
        if self.queue.len() == before {
            self.end();
        } else {
            self.queue.sort_unstable_by(|a, b| order(b, a));
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
        let growth = growth(self.stats.given as f64, self.options.rows as f64);
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
        let more = more.max(1).min(self.probes_left());
        if more == 0 {
            return Ok(false);
        }
        self.source.probe(more)?;
        self.fresh = true;
        Ok(self.source.probed() > probed)
    }

    /// Lists that may still be probed.
    fn probes_left(&self) -> usize {
        let most = self.source.lists().min(self.options.max_probes);
        most.saturating_sub(self.source.probed())
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
        let rival = self.rival(unseen);
        self.knows_errors() && self.source.score(head.distance) >= rival && !head.distance.is_nan()
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
                self.knows_errors() && self.source.score(farthest) > self.rival(unseen)
            }
            (Some(true), None) => self.knows_errors() || self.probes_left() == 0,
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
