//! The order of results: estimated candidates in, rows in the order of their exact distances out. Pure logic.
//!
//! # Rules
//! 1. `probes` lists are probed first, and every row of the exact list is compared exactly before anything else.
//! 2. A row is given out when no unseen candidate of the probed lists can plausibly beat it: its score must reach the
//!    next estimate plus `μ + z·σ`, where μ and σ are mean and standard deviation of (exact − estimated) over the rows
//!    compared so far. Until then further batches are compared. The first rows may be nearly alike, and share their errors: so
//!    among the first `ENOUGH_ERRORS` rows σ is at least `MIN_ERROR_FRACTION` of what the codes let expect.
//! 3. The more rows are given out, the further the neighborhood reaches into other lists: beyond the `rows` that the first
//!    probes are meant for, as many lists are probed as the index has measured that the next rows need ([`Growth`]), so that the
//!    hundredth row is found about as surely as the tenth: a filter that few rows pass makes one of the first ten of it. When
//!    all candidates of the probed lists are compared, twice as many are probed before the farther ones among them are given out.
//!    Where conditions on filter columns admit a fraction of the rows, ranks are those among all rows: so further lists are probed
//!    for the first rows too. If no more than [`FEW_ADMITTED`] rows are admitted in all, all of them are compared.
//! 4. The order is never broken: a *late* row, which is compared only after a farther one was returned, is dropped. Once
//!    everything is compared, the rest is sorted, so that no further row is late.
//! 5. No TID is given out twice.
//! 6. Where only rows within a distance are wanted ([`RerankStream::set_max_distance`]), the stream ends when the next row is beyond it and no
//!    unseen candidate of the probed lists is plausibly within.
//!
//! [`RerankOptions`] may bend two of them: `max_probes` and `max_reranked` end the probing of rule 3, and `late` says what
//! becomes of the rows of rule 4 ([`LateRows`]).
//!
//! # Looking ahead
//! Each row returned makes more rows late: those nearer than it in lists that are not probed yet, and those whose estimate is off
//! by more than the margin. So beyond the first `rows` the search is kept ahead of what it returns by a share of what it has
//! done ([`RerankOptions::ahead`]): as many more rows are compared, and lists are probed for as many more rows, before the next one is
//! returned. Once a share of all rows was compared ([`RerankOptions::all_from`]), all of them are before the next one is
//! returned, if there is memory for so many. Where the distance is limited ([`RerankStream::set_max_distance`]), rows up to the limit are compared early, for they will be anyway.
//!
//! # Memory
//! Rows that were compared and not returned take at most `memory` bytes. Beyond that the farther half is dropped; where those
//! are reached, the source begins again, and they are found in another pass. A query with a LIMIT hardly ever gets there; one that
//! needs many passes fails ([`Error::WaitingRows`]).
//!
//! # Where things are
//! Here is what becomes of rows once they are compared (rules 1, 2, 4 to 6), and when to go for more. What is not compared yet,
//! and the probing of lists, is in `candidate_queue`; where candidates come from is a [`CandidateSource`]; how much to look at, in `options`.

mod candidate_queue;
mod growth;
mod options;
mod ready;
mod source;

pub use growth::{BANDS, BASE_ROWS, Growth, RANKS};
pub use options::{FIRST_PULL, LARGEST_PULL, LateRows, RerankOptions};
pub use source::{CandidateSource, CandidateStats};

use crate::Tid;
use crate::candidate::Candidate;
use crate::error::Error;
use crate::tidset::TidSet;
use candidate_queue::{CandidateQueue, TAKEN_DIVISOR};
use ready::Ready;
use std::cmp::Ordering;

/// By which share of the rows returned the search compares ahead of them where the distance is limited.
const AHEAD_WITHIN: f64 = 4.0;

/// Maximum number of rows that are all compared before the first one is returned, where conditions on filter columns exclude others.
pub const FEW_ADMITTED: f64 = 256.0;

/// Minimum standard deviation of the errors, as a fraction of the expected one. Errors of ordinary rows exceed it.
const MIN_ERROR_FRACTION: f64 = 0.5;
/// Number of errors from which on that minimum does not apply. It limits the additional rows that a search compares.
const ENOUGH_ERRORS: usize = 1_000;

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
pub struct RerankStats {
    /// Rows given out.
    pub returned: u64,
    /// Late rows that were dropped.
    pub dropped: u64,
    /// Rows handed to `fetch`.
    pub reranked: u64,
    /// Candidates pulled from the source.
    pub pulled: u64,
    /// Lists probed.
    pub probed: usize,
    /// What the source did.
    pub work: CandidateStats,
}

/// Running mean and variance (Welford) of the error of the estimates.
#[derive(Clone, Copy, Debug, Default)]
struct ErrorStats {
    count: usize,
    mean: f64,
    squares: f64,
}

impl ErrorStats {
    fn add(&mut self, error: f64) {
        if error.is_finite() {
            self.count += 1;
            let delta = error - self.mean;
            self.mean += delta / self.count as f64;
            self.squares += delta * (error - self.mean);
        }
    }

    /// Mean plus `z` standard deviations, which are `least` or more.
    fn margin(&self, z: f64, least: f64) -> f64 {
        let degrees = self.count.saturating_sub(1).max(1);
        self.mean + z * (self.squares / degrees as f64).sqrt().max(least)
    }
}

/// The rows of a source in the order of their exact distances.
pub struct RerankStream<C: CandidateSource> {
    queue: CandidateQueue<C>,
    options: RerankOptions,
    /// The exact list was compared in this pass.
    started: bool,
    /// Rows compared, nearest first.
    ready: Ready,
    /// Rows in `ready` that are within `max_distance`.
    wanted: usize,
    /// Late rows that follow at the end.
    late_rows: Vec<Hit>,
    /// Everything else is exhausted; `late_rows` is sorted, nearest last.
    draining: bool,
    /// The largest distance given out.
    last: Option<f64>,
    /// Distance beyond which no row is wanted.
    max_distance: Option<f64>,
    /// Whether rows at a distance of NaN are wanted nevertheless.
    keeps_nan: bool,
    /// Whether a row of the lists is at a distance of NaN: then any may be.
    sees_nan: bool,
    /// A row that is not there for this search.
    excluded: Option<Tid>,
    /// Rows that a source which repeats rows may not repeat: those returned at the distance `last`, or all where late rows
    /// are returned at the end.
    returned: TidSet,
    /// Visible candidates compared so far, and their errors.
    visible: usize,
    errors: ErrorStats,
    stats: RerankStats,
    /// Rows compared after which all others are too before the next one is returned; 0 if that is not known.
    row_limit: u64,
    /// Lists probed and codes scanned when that was computed.
    computed_at: (usize, u64),
    /// See [`CandidateStats::admitted_fraction`].
    admitted: f64,
    /// Buffers of [`RerankStream::compare_batch`].
    batch: Vec<Candidate>,
    distances: Vec<Option<f64>>,
}

/// Exact distances of a batch of candidates, which come ordered by TID: one entry appended for each, `None` for a row that is
/// not visible. NaN sorts last. Rows of the exact list have no estimate: their score is NaN.
pub type DistanceFn<'f, E> = dyn FnMut(&[Candidate], &mut Vec<Option<f64>>) -> Result<(), E> + 'f;

impl<C: CandidateSource> RerankStream<C> {
    /// A stream over a source of which nothing has been probed or pulled.
    pub fn new(source: C, options: RerankOptions) -> Self {
        let options = RerankOptions {
            probes: options.probes.max(1),
            rows: options.rows.max(1),
            batch: options.batch.max(1),
            first_batch: options.first_batch.max(2),
            largest_pull: options.largest_pull.max(1),
            ..options
        };
        // A quarter for the rows returned, and another for late rows.
        let for_others = if options.late == LateRows::Append {
            2
        } else {
            4
        };
        let for_taken = if source.has_duplicates() {
            options.memory / TAKEN_DIVISOR
        } else {
            0
        };
        RerankStream {
            queue: CandidateQueue::new(source, &options, for_taken),
            options,
            started: false,
            ready: Ready::new(options.memory - options.memory / for_others - for_taken),
            wanted: 0,
            late_rows: Vec::new(),
            draining: false,
            last: None,
            max_distance: None,
            keeps_nan: false,
            sees_nan: false,
            excluded: None,
            returned: TidSet::new(options.memory / 4),
            visible: 0,
            errors: ErrorStats::default(),
            stats: RerankStats::default(),
            row_limit: 0,
            computed_at: (0, 0),
            admitted: 1.0,
            batch: Vec::new(),
            distances: Vec::new(),
        }
    }

    /// The next row, or `None` after the last.
    pub fn next<E: From<Error>>(
        &mut self,
        fetch: &mut DistanceFn<'_, E>,
    ) -> Result<Option<Hit>, E> {
        while !self.draining {
            if !self.started {
                self.compare_exact_list(fetch)?;
                self.started = true;
            }
            self.probe_wanted()?;
            let mut unseen = self.queue.unseen();
            if !self.can_return(unseen) {
                unseen = self.queue.refill()?;
            }
            if self.is_complete(unseen) {
                self.end();
                continue;
            }
            if unseen.is_none() && self.queue.probe(self.source().probed())? {
                continue;
            }
            if let Some(hit) = self.take_ready(unseen) {
                if self.admit(hit)? {
                    self.stats.returned += 1;
                    return Ok(Some(hit));
                }
                continue;
            }
            if unseen.is_some() {
                self.compare_batch(fetch)?;
            } else if self.ready.needs_pass() {
                self.ready.begin_pass()?;
                self.queue.rewind();
                (self.started, self.wanted) = (false, 0);
            } else {
                self.end();
            }
        }
        let hit = self.late_rows.pop().or_else(|| self.next_nan());
        self.stats.returned += u64::from(hit.is_some());
        Ok(hit)
    }

    /// The hit before which all rows were returned in an earlier pass, if there was one.
    pub fn returned_before(&self) -> Option<Hit> {
        self.ready.returned_before()
    }

    /// Leaves out all rows before this hit. To be called before the first row is asked for.
    pub fn begin_at(&mut self, hit: Hit) {
        self.ready.begin_at(hit);
    }

    /// The source.
    pub fn source(&self) -> &C {
        &self.queue.source
    }

    pub(crate) fn source_mut(&mut self) -> &mut C {
        &mut self.queue.source
    }

    /// What was done so far.
    pub fn stats(&self) -> RerankStats {
        RerankStats {
            pulled: self.queue.pulled,
            probed: self.source().probed(),
            work: self.source().work(),
            ..self.stats
        }
    }

    /// Rows farther away than this are not wanted any more. NaN, which sorts last, excludes nothing.
    pub fn set_max_distance(&mut self, max_distance: f64) {
        // One zero, as of hits.
        self.max_distance = (!max_distance.is_nan()).then_some(max_distance + 0.0);
    }

    /// Rows at a distance of NaN are wanted also where [`RerankStream::set_max_distance`] ends the stream: they follow at the end, where they
    /// belong in the order. Rows that make such distances are in the exact list, all of which is compared. Where the query makes
    /// them, as a vector of zeros does by cosine, all rows are compared.
    pub fn keep_nan(&mut self) {
        self.keeps_nan = true;
    }

    /// Never compares a row, nor gives it out, as if it were not there: the error of its estimate would tell nothing of those
    /// of others if it is the query itself. To be called before the first row is asked for.
    pub fn exclude(&mut self, tid: Tid) {
        self.excluded = Some(tid);
        self.queue.source.exclude(tid);
    }

    /// Probes no further lists but the first ones.
    pub fn stop_probing(&mut self) {
        self.queue.stop_probing(self.options.probes);
    }

    /// Begins again: every row comes once more.
    pub(crate) fn rewind(&mut self) {
        self.queue.rewind();
        self.ready.clear();
        self.returned.clear();
        self.late_rows = Vec::new();
        (self.started, self.draining) = (false, false);
        (self.last, self.wanted) = (None, 0);
    }

    /// Rules 4 and 5: whether a row is returned now.
    fn admit(&mut self, hit: Hit) -> Result<bool, Error> {
        let order = self.last.map(|last| hit.distance.total_cmp(&last));
        let keeps_all = self.options.late == LateRows::Append;
        if order == Some(Ordering::Greater) && !keeps_all {
            self.returned.clear();
        }
        let is_late = order == Some(Ordering::Less);
        if keeps_all || !is_late {
            match self.returned.try_insert(hit.tid) {
                Some(true) => {}
                Some(false) => return Ok(false),
                // The row could be returned twice, unless the consumer prevents that.
                None if self.source().has_duplicates() && self.options.late != LateRows::Return => {
                    let bytes = self.options.memory / 4;
                    return Err(Error::ReturnedRows { bytes });
                }
                None => {}
            }
        }
        if !is_late {
            self.last = Some(hit.distance);
            return Ok(true);
        }
        match self.options.late {
            LateRows::Drop => self.stats.dropped += 1,
            LateRows::Append => self.defer(hit)?,
            LateRows::Return => return Ok(true),
        }
        Ok(false)
    }

    fn defer(&mut self, hit: Hit) -> Result<(), Error> {
        let bytes = self.options.memory / 4;
        let most = bytes / size_of::<Hit>();
        if self.late_rows.len() >= most {
            return Err(Error::LateRows { bytes });
        }
        if self.late_rows.len() == self.late_rows.capacity() {
            let more = self
                .late_rows
                .len()
                .max(64)
                .min(most - self.late_rows.len());
            let reserved = self.late_rows.try_reserve_exact(more);
            reserved.map_err(|_| Error::out_of_memory())?;
        }
        self.late_rows.push(hit);
        Ok(())
    }

    /// The next row at a distance of NaN behind the end of the stream, if such rows are wanted.
    fn next_nan(&mut self) -> Option<Hit> {
        let mut rest = std::iter::from_fn(|| self.ready.pop());
        self.keeps_nan
            .then(|| rest.find(|hit| hit.distance.is_nan()))?
    }

    /// From here on only the late rows follow.
    fn end(&mut self) {
        self.late_rows.sort_unstable_by(|a, b| b.cmp(a));
        self.draining = true;
    }

    /// Rule 1.
    fn compare_exact_list<E: From<Error>>(
        &mut self,
        fetch: &mut DistanceFn<'_, E>,
    ) -> Result<(), E> {
        let mut tids = Vec::new();
        loop {
            tids.clear();
            self.queue.source.next_exact(&mut tids)?;
            if tids.is_empty() {
                return Ok(());
            }
            tids.sort_unstable();
            tids.retain(|tid| Some(*tid) != self.excluded);
            self.batch.clear();
            self.batch
                .extend(tids.iter().copied().map(Candidate::exact));
            self.compare(fetch)?;
        }
    }

    /// Compares the rows of `batch`.
    fn compare<E: From<Error>>(&mut self, fetch: &mut DistanceFn<'_, E>) -> Result<(), E> {
        self.stats.reranked += self.batch.len() as u64;
        fetch_into(fetch, &self.batch, &mut self.distances)?;
        for (candidate, distance) in self.batch.iter().zip(&self.distances) {
            let Some(distance) = *distance else { continue };
            let hit = Hit::new(candidate.tid, distance);
            if !candidate.score.is_nan() {
                self.sees_nan |= distance.is_nan();
                let score = self.queue.source.score(hit.distance);
                self.visible += 1;
                self.errors.add(score - f64::from(candidate.score));
            }
            let is_kept = self.ready.push(hit)?;
            self.wanted += usize::from(is_kept && is_within(self.max_distance, &hit));
        }
        Ok(())
    }

    /// The rows returned, and as many more as the search is to be ahead of them; among the first ones it need not be.
    fn ahead_of_returned(&self, share: f64) -> f64 {
        let given = self.stats.returned as f64;
        if self.stats.returned < self.options.rows as u64 {
            return given;
        }
        given * (1.0 + share)
    }

    /// Whether so large a share of all rows was compared that the rest may as well be.
    fn compares_all(&self) -> bool {
        self.row_limit > 0 && self.stats.reranked >= self.row_limit
    }

    /// Has the lists probed that are wanted now.
    fn probe_wanted(&mut self) -> Result<(), Error> {
        self.queue.ensure_probed(self.wanted_probes())?;
        let work = self.source().work();
        let now = (self.source().probed(), work.codes);
        if self.computed_at != now {
            self.computed_at = now;
            self.admitted = work.admitted_fraction();
            self.row_limit = self.row_limit_of(self.source().rows() as f64 * self.admitted);
        }
        Ok(())
    }

    /// See [`RerankStream::compares_all`], where the source has so many rows in all.
    fn row_limit_of(&self, rows: f64) -> u64 {
        if !self.ready.has_room_for(rows as u64) {
            0
        } else if self.admitted < 1.0 && rows <= FEW_ADMITTED {
            1
        } else {
            (rows * self.options.all_from) as u64
        }
    }

    /// Rule 3: the lists that the number of rows asks for. Those that are within the distance wanted will be returned.
    fn wanted_probes(&self) -> usize {
        if self.compares_all() {
            return usize::MAX;
        }
        // The first rows come at the price that they have without a limit.
        let is_early = self.stats.returned < self.options.rows as u64;
        let wanted = if is_early { 0.0 } else { self.wanted as f64 };
        let rows = self.ahead_of_returned(self.options.ahead) + wanted;
        self.options.wanted_probes(rows as u64, self.admitted)
    }

    /// Whether the search is far enough ahead of the rows returned, or of all that is within the distance wanted. Rows up to that
    /// distance will have to be compared anyway, as far as no LIMIT comes before.
    fn is_ahead(&self, unseen: f32) -> bool {
        let share = match self.max_distance {
            Some(_) => self.options.ahead.max(AHEAD_WITHIN),
            None => self.options.ahead,
        };
        !self.compares_all() && self.stats.reranked as f64 >= self.ahead_of_returned(share)
            || self.has_passed_limit(unseen)
    }

    /// Whether nothing unseen is plausibly within the distance wanted.
    fn has_passed_limit(&self, unseen: f32) -> bool {
        let passed =
            |max_distance| self.source().score(max_distance) > self.best_unseen_score(unseen);
        let wants_all = self.keeps_nan && self.sees_nan;
        self.knows_errors() && !wants_all && self.max_distance.is_some_and(passed)
    }

    /// Rule 2: whether nothing unseen can plausibly beat the nearest row. No row at all may not be given.
    fn can_return(&self, unseen: Option<f32>) -> bool {
        let Some(head) = self.ready.peek() else {
            return false;
        };
        let Some(unseen) = unseen else { return true };
        self.knows_errors()
            && self.source().score(head.distance) >= self.best_unseen_score(unseen)
            && !head.distance.is_nan()
            && self.is_ahead(unseen)
    }

    /// The best score that is plausible for what is unseen.
    fn best_unseen_score(&self, unseen: f32) -> f64 {
        let is_known = self.errors.count >= ENOUGH_ERRORS;
        let least = if is_known {
            0.0
        } else {
            MIN_ERROR_FRACTION * self.source().expected_error()
        };
        f64::from(unseen) + self.errors.margin(self.options.z, least)
    }

    /// Whether enough rows were compared to judge the estimates.
    fn knows_errors(&self) -> bool {
        self.visible >= self.options.first_batch
    }

    /// Rule 6: whether all rows that are wanted, and plausibly in the probed lists, were given out.
    fn is_complete(&self, unseen: Option<f32>) -> bool {
        if self.max_distance.is_none() {
            return false;
        }
        let next = self.ready.nearest();
        let next_is_within = next.map(|hit| is_within(self.max_distance, &hit));
        match (next_is_within, unseen) {
            (Some(true), _) | (None, None) => false,
            (_, Some(unseen)) => self.has_passed_limit(unseen),
            (Some(false), None) => self.knows_errors() || self.queue.probes_left() == 0,
        }
    }

    /// Takes the nearest row if it may be given.
    fn take_ready(&mut self, unseen: Option<f32>) -> Option<Hit> {
        let hit = self
            .can_return(unseen)
            .then(|| self.ready.pop())
            .flatten()?;
        let was_wanted = is_within(self.max_distance, &hit);
        self.wanted = self.wanted.saturating_sub(usize::from(was_wanted));
        Some(hit)
    }

    /// Compares the best candidates of the queue exactly.
    fn compare_batch<E: From<Error>>(&mut self, fetch: &mut DistanceFn<'_, E>) -> Result<(), E> {
        let missing = self.options.first_batch.saturating_sub(self.visible);
        let size = missing.max(self.options.batch);
        self.batch.clear();
        self.queue.take(size, self.excluded, &mut self.batch);
        self.batch.sort_unstable_by_key(|candidate| candidate.tid);
        self.compare(fetch)?;
        if self.stats.reranked >= self.options.max_reranked {
            self.stop_probing();
        }
        Ok(())
    }
}

/// Whether a row is within a limit of the distance; without a limit none is.
fn is_within(max_distance: Option<f64>, hit: &Hit) -> bool {
    max_distance.is_some_and(|max_distance| hit.distance.total_cmp(&max_distance).is_le())
}

/// Calls `fetch` and checks that it answered for every TID.
fn fetch_into<E: From<Error>>(
    fetch: &mut DistanceFn<'_, E>,
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
        Err(Error::mismatch("not as many distances as rows were asked for").into())
    }
}
