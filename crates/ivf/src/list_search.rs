//! Searching the lists: candidates with estimated scores, best first.
//!
//! The candidates of all probed lists have one total order: score descending, then TID. A *cursor* per list remembers up to
//! where its candidates were given out, and a later pull takes what comes behind. A list added between two pulls starts
//! without a cursor. NaN scores count as the worst.
//!
//! A list is scanned once: its scores are kept, four bytes per row (`scores`), and later pulls choose among them. Only two
//! things make a search scan codes again: a list for whose scores [`ListSearch::with_memory`] leaves no room is scanned by each
//! pull, and a page on which a vacuum moved rows meanwhile once more.

mod exact;
mod probe;
mod scores;
mod scoring;
mod share;

pub use share::Shares;

use crate::adaptive_probes::AdaptiveProbes;
use crate::candidate::{Candidate, order};
use crate::error::Error;
use crate::index_meta::Meta;
use crate::pq::PqScorer;
use crate::scorer::{BlockFilter, BlockScorer, NoFilter};
use crate::top_candidates::TopCandidates;
use crate::{Metric, Tid};
use distillvq_kernels::LANES;
use distillvq_model::{ListRanking, RefineQuery, Searcher};
use distillvq_pages::{
    ListEntry, Metapage, NO_BLOCK, PageHeader, PageStore, check_link, read_header,
};
use probe::{Cursor, Kept, Probe};
use scores::Scores;
use scoring::Scoring;
use std::cell::Cell;
use std::cmp::Ordering;

/// Bytes of scores that a search keeps unless it is told otherwise.
const DEFAULT_SCORE_BYTES: usize = 4 << 20;

/// Lists scanned by turns, a page of each, so that a page that was asked for has time to arrive.
const LISTS_INTERLEAVED: usize = 4;

/// A search under way. It holds no page between calls.
pub struct ListSearch<S: PageStore, B: BlockScorer = PqScorer, F: BlockFilter = NoFilter> {
    store: S,
    pages: Metapage,
    metric: Metric,
    /// Bytes of a refine code, 0 if there are none.
    refine_bytes: usize,
    /// What the model multiplies vectors by, see [`distillvq_model::Model::scale_factor`].
    unit: f64,
    /// Maximum number of lists per row.
    assignments: u8,
    /// Whether rows may move from the exact list into lists.
    may_move: bool,
    /// Whether lists may have got rows since they were probed that the search has seen in the exact list alone.
    is_stale: bool,
    /// `None` if the index is untrained.
    scoring: Option<Scoring<B>>,
    filter: F,
    /// All lists, best first.
    ranking: ListRanking,
    adaptive_probes: AdaptiveProbes,
    /// The probed lists, in the order of the ranking.
    probes: Vec<Probe<B::List>>,
    /// See [`ListSearch::bound`].
    bound: Option<f32>,
    /// The scores of the lists scanned so far.
    scores: Scores,
    /// The link to the next page of the exact list, and the page that it is on; `None` before the first.
    exact: Option<(u32, u32)>,
    /// See [`ListSearch::scanned`].
    scanned: Cell<u64>,
    /// See [`ListSearch::excluded_by_filter`].
    excluded_by_filter: Cell<u64>,
}

impl<S: PageStore> ListSearch<S> {
    /// Begins a search for a raw query. `store` may be a reference. `model` must be made from the index's own model, `None`
    /// if the index is untrained.
    pub fn new(
        store: S,
        meta: &Meta,
        model: Option<&Searcher>,
        query: &[f32],
    ) -> Result<Self, Error> {
        ListSearch::with_filter(store, meta, model, query, NoFilter)
    }
}

impl<S: PageStore, F: BlockFilter> ListSearch<S, PqScorer, F> {
    /// The query for refine codes and the bytes of one, if the index has any.
    pub(crate) fn refine_query(&self) -> Option<(RefineQuery, usize)> {
        let scoring = self.scoring.as_ref().filter(|_| self.refine_bytes > 0)?;
        Some((scoring.scorer.tables.refine(), self.refine_bytes))
    }

    /// As [`ListSearch::new`], for the rows that a filter admits.
    pub fn with_filter(
        store: S,
        meta: &Meta,
        model: Option<&Searcher>,
        query: &[f32],
        filter: F,
    ) -> Result<Self, Error> {
        if query.len() != meta.dim {
            return Err(Error::mismatch("the query has another dimension"));
        }
        let mut search = ListSearch {
            store,
            pages: meta.pages,
            metric: meta.metric,
            refine_bytes: meta.refine_bytes(),
            unit: 1.0,
            assignments: meta.assignments,
            may_move: meta.has_rows_to_move(),
            is_stale: false,
            scoring: None,
            filter,
            ranking: ListRanking::default(),
            adaptive_probes: AdaptiveProbes::default(),
            probes: Vec::new(),
            bound: None,
            scores: Scores::new(DEFAULT_SCORE_BYTES),
            exact: None,
            scanned: Cell::new(0),
            excluded_by_filter: Cell::new(0),
        };
        if meta.has_model() {
            let model = model.ok_or(Error::mismatch("the index has a model"))?;
            if model.lists() != meta.lists() as usize || model.shape() != meta.shape {
                return Err(Error::mismatch("the model is another index's"));
            }
            search.unit = f64::from(model.scale_factor());
            let tables = model.query(query);
            search.ranking = tables.ranking();
            let scorer = PqScorer::new(&meta.pages.format, tables);
            search.scoring = Some(Scoring {
                scorer: scorer.ok_or(Error::mismatch("the rows of the index have no codes"))?,
                layout: meta.pages.layout(0)?,
                excluded: None,
            });
        }
        Ok(search)
    }
}

impl<S: PageStore, B: BlockScorer, F: BlockFilter> ListSearch<S, B, F> {
    /// The same, keeping at most so many bytes of scores.
    #[must_use]
    pub fn with_memory(self, bytes: usize) -> Self {
        ListSearch {
            scores: Scores::new(bytes),
            ..self
        }
    }

    /// The same, probing as many lists as these say for its query.
    #[must_use]
    pub fn with_adaptive_probes(self, adaptive_probes: AdaptiveProbes) -> Self {
        ListSearch {
            adaptive_probes,
            ..self
        }
    }

    /// The lists that this query probes, where queries probe `mean` lists in the mean.
    pub fn lists_for(&mut self, mean: usize) -> usize {
        self.adaptive_probes.lists_for(&mut self.ranking, mean)
    }

    /// Has this row's codes passed over, as if the lists did not have it. To be called before the first pull.
    pub fn exclude(&mut self, tid: Tid) {
        if let Some(scoring) = &mut self.scoring {
            scoring.excluded = Some(tid);
        }
    }

    /// Number of lists, without the exact list.
    pub fn lists(&self) -> usize {
        self.ranking.len()
    }

    /// Number of lists probed so far.
    pub fn probed(&self) -> usize {
        self.probes.len()
    }

    /// Whether a row may be a candidate of several lists, or of one while it is in the exact list too.
    pub fn has_duplicates(&self) -> bool {
        self.assignments > 1 || self.may_move
    }

    /// Approximate number of rows in all lists, extrapolated from the probed ones; 0 before the first.
    pub fn rows(&self) -> u64 {
        let rows = self.probes.iter().map(|probe| probe.rows);
        let rows = rows.fold(0, u64::saturating_add) as f64;
        let entries = rows * self.lists() as f64 / self.probes.len().max(1) as f64;
        (entries / f64::from(self.assignments)) as u64
    }

    /// See [`BlockScorer::expected_error`].
    pub fn expected_error(&self) -> f64 {
        let scoring = self.scoring.as_ref();
        scoring.map_or(0.0, |it| f64::from(it.scorer.expected_error()))
    }

    /// Rows of lists scanned so far; those that had to be scanned again count again.
    pub fn scanned(&self) -> u64 {
        self.scanned.get()
    }

    /// Those of the rows scanned that the filter excluded.
    pub fn excluded_by_filter(&self) -> u64 {
        self.excluded_by_filter.get()
    }

    /// Adds the next lists of the ranking to those probed. Fewer are added when the ranking ends.
    pub fn probe(&mut self, more: usize) -> Result<(), Error> {
        let Some(scoring) = &self.scoring else {
            return Ok(());
        };
        let probed = self.probes.len();
        let lists = self.ranking.lists(probed, probed.saturating_add(more));
        let lists: Vec<u32> = lists.collect();
        let entries = self.pages.directory.entries_of(&self.store, &lists)?;
        let all_params = scoring.scorer.lists(&lists);
        for ((&list, ListEntry { first, rows, .. }), params) in
            lists.iter().zip(entries).zip(all_params)
        {
            let cursor = if first == NO_BLOCK {
                Cursor::End
            } else {
                self.store.prefetch(first);
                Cursor::Start
            };
            self.probes.push(Probe {
                list,
                first,
                rows,
                cursor,
                kept: Kept::Untried,
                params,
            });
        }
        self.update_bound();
        Ok(())
    }

    /// The score of an exact distance, as the operator gives it, on the scale of the estimates and up to a constant.
    pub fn score(&self, distance: f64) -> f64 {
        let scaled = self.unit * distance;
        match self.metric {
            // Nothing is there; the score falls with the distance all the same.
            Metric::L2 if scaled < 0.0 => f64::INFINITY,
            // D² = ‖q‖² − estimate
            Metric::L2 => -(scaled * scaled),
            // D = −estimate
            Metric::InnerProduct => -(self.unit * scaled),
            // D = 1 − estimate
            Metric::Cosine => -distance,
        }
    }

    /// An upper bound of the scores of all candidates of the probed lists that were not given out; infinite if a list was
    /// not scanned yet, `None` if there are no such candidates.
    pub fn bound(&self) -> Option<f32> {
        self.bound
    }

    /// To be called after each change of the probed lists or their cursors: streams ask for the bound at every row.
    fn update_bound(&mut self) {
        let bounds = self.probes.iter().filter_map(|probe| probe.cursor.bound());
        self.bound = bounds.max_by(f32::total_cmp);
    }

    /// Appends the next `n` best candidates of the probed lists that were not given out before, ordered by (score
    /// descending, TID). Fewer than `n` mean that the probed lists are exhausted.
    pub fn pull(&mut self, n: usize, out: &mut Vec<Candidate>) -> Result<(), Error> {
        if n == 0 {
            return Ok(());
        }
        let best = self.collect(n, |_| true, None)?;
        let cut = match best.get(n - 1) {
            Some(&last) => Cursor::After(last),
            None => Cursor::End,
        };
        for probe in &mut self.probes {
            if probe.cursor.progress(&cut) == Ordering::Less {
                probe.cursor = cut;
            }
        }
        self.update_bound();
        out.extend(best);
        Ok(())
    }

    /// Brings lists that were added after a pull to where the others are: appends their candidates that are better than
    /// everything still to come from the others, at most `n`, in order. Scans the new lists only. Without lists that are
    /// under way, this is [`ListSearch::pull`].
    pub fn pull_new_lists(&mut self, n: usize, out: &mut Vec<Candidate>) -> Result<(), Error> {
        let under_way = self.probes.iter().filter_map(|probe| match probe.cursor {
            Cursor::After(last) => Some(last),
            _ => None,
        });
        let Some(start_after) = under_way.min_by(order) else {
            return self.pull(n, out);
        };
        let is_new = |probe: &Probe<B::List>| probe.cursor == Cursor::Start;
        if n == 0 || !self.probes.iter().any(is_new) {
            return Ok(());
        }
        let best = self.collect(n, is_new, Some(start_after))?;
        let cut = Cursor::After(best.get(n - 1).copied().unwrap_or(start_after));
        for probe in self.probes.iter_mut().filter(|probe| is_new(probe)) {
            probe.cursor = cut;
        }
        self.update_bound();
        out.extend(best);
        Ok(())
    }

    /// Whether most blocks have a row that the filter admits, judging by the blocks scanned so far.
    fn scores_most_blocks(&self) -> bool {
        let admitted = self.scanned.get() - self.excluded_by_filter.get();
        admitted >= self.scanned.get() / LANES as u64
    }

    /// Has what will be read of a page brought near.
    fn prefetch_cache_lines(
        &self,
        scoring: &Scoring<B>,
        turn: Option<&ListPageCursor<'_, B::List>>,
    ) {
        if let Some(turn) = turn {
            let scores = self.scores_most_blocks();
            let is_read = |position: usize| {
                scores && scoring.scorer.is_read(position) || self.filter.is_read(position)
            };
            let parts = scoring.layout.bytes_read(turn.rows, is_read);
            self.store.prefetch_cache_lines(turn.block, &parts);
        }
    }

    /// Searches the chosen lists for the `n` best candidates behind their cursors, and better than `start_after`.
    fn collect(
        &mut self,
        n: usize,
        chosen: impl Fn(&Probe<B::List>) -> bool,
        start_after: Option<Candidate>,
    ) -> Result<Vec<Candidate>, Error> {
        let mut best = TopCandidates::new(n, start_after)?;
        let mut scores = std::mem::replace(&mut self.scores, Scores::new(0));
        let mark = scores.mark();
        let scanned = self
            .choose_kept(&mut scores, &chosen, &mut best)
            .and_then(|mut changed| {
                changed.extend(self.scan(&mut scores, &chosen, &mut best)?);
                Ok(changed)
            });
        if scanned.is_err() {
            scores.return_to(mark);
        }
        self.scores = scores;
        for (index, kept) in scanned? {
            if let Some(probe) = self.probes.get_mut(index as usize) {
                probe.kept = kept;
            }
        }
        Ok(best.finish())
    }

    /// Offers the candidates of the lists whose scores are kept. Returns the lists whose scores cannot be kept any more.
    fn choose_kept(
        &self,
        scores: &mut Scores,
        chosen: &impl Fn(&Probe<B::List>) -> bool,
        best: &mut TopCandidates,
    ) -> Result<Vec<(u32, Kept)>, Error> {
        let mut lost = Vec::new();
        let Some(scoring) = &self.scoring else {
            return Ok(lost);
        };
        let mut places = Vec::new();
        for i in 0..scores.pages.len() {
            let Some(page) = scores.pages.get(i).copied() else {
                break;
            };
            let probe = self.probes.get(page.probe as usize);
            let Some(probe) = probe.filter(|probe| probe.kept == Kept::Yes && chosen(probe)) else {
                continue;
            };
            let Some(bound) = probe.cursor.bound().filter(|bound| best.may_accept(*bound)) else {
                continue;
            };
            scores.places(&page, best.threshold(), bound, &mut places);
            if places.is_empty() {
                continue;
            }
            self.store.check_interrupts()?;
            let moves = self.store.read(page.block, |bytes| {
                let head = read_header(bytes, page.block, probe.list, &scoring.layout)?;
                if head.moves == page.moves {
                    for &(row, score) in &places {
                        let page = (page.block, bytes);
                        scoring.offer(page, usize::from(row), score, probe, best);
                    }
                } else {
                    let mut has_places = true;
                    let replace = |block, new: &[f32; LANES], mask| {
                        has_places &= scores.replace(&page, block, new, mask);
                    };
                    let place = (page.block, bytes);
                    let admitted =
                        scoring.scan_page(place, (&head, probe), &self.filter, best, replace);
                    self.count_scanned(&head, admitted);
                    if !has_places {
                        lost.push((page.probe, Kept::No));
                    }
                }
                Ok::<u32, Error>(head.moves)
            })??;
            if let Some(page) = scores.pages.get_mut(i) {
                page.moves = moves;
            }
        }
        Ok(lost)
    }

    /// Scans the chosen lists whose scores are not kept, and keeps them if there is room. Returns the lists that were scanned.
    fn scan(
        &self,
        scores: &mut Scores,
        chosen: &impl Fn(&Probe<B::List>) -> bool,
        best: &mut TopCandidates,
    ) -> Result<Vec<(u32, Kept)>, Error> {
        let mut scanned = Vec::new();
        let Some(scoring) = &self.scoring else {
            return Ok(scanned);
        };
        let mut blocks = self.store.block_count()?;
        let probes = (0u32..).zip(&self.probes);
        let mut waiting: Vec<(u32, &Probe<B::List>)> = probes
            .filter(|(_, probe)| probe.kept != Kept::Yes && chosen(probe))
            .collect();
        let rows = waiting.iter().map(|(_, probe)| probe.rows);
        scores.reserve(rows.fold(0, u64::saturating_add), waiting.len());
        // Lists with more to give come first: they raise the threshold, and the rest may not need a scan at all.
        waiting.sort_by(|(_, a), (_, b)| a.cursor.progress(&b.cursor));
        let mut waiting = waiting.into_iter().peekable();
        let mut turns: Vec<ListPageCursor<'_, B::List>> = Vec::with_capacity(LISTS_INTERLEAVED);
        let mut turn = 0;
        loop {
            while turns.len() < LISTS_INTERLEAVED
                && let Some((index, probe)) =
                    waiting.next_if(|(_, probe)| best.may_take(probe.cursor.bound()))
            {
                check_link(&self.store, 0, probe.first, &mut blocks)?;
                turns.push(ListPageCursor::new(index, probe));
                self.prefetch_cache_lines(scoring, turns.last());
            }
            turn = if turn < turns.len() { turn } else { 0 };
            let Some(ListPageCursor {
                index,
                probe,
                block,
                rows,
                keeps,
            }) = turns.get_mut(turn)
            else {
                return Ok(scanned);
            };
            self.store.check_interrupts()?;
            let head = self.store.read(*block, |page| {
                let head = read_header(page, *block, probe.list, &scoring.layout)?;
                *keeps = *keeps && scores.begin_page(*block, *index, &head);
                let keep = |_, new: &[f32; LANES], mask| {
                    if *keeps {
                        scores.push(new, mask);
                    }
                };
                let place = (*block, page);
                let admitted = scoring.scan_page(place, (&head, probe), &self.filter, best, keep);
                self.count_scanned(&head, admitted);
                Ok::<PageHeader, Error>(head)
            })??;
            if head.next == NO_BLOCK {
                scanned.push((*index, if *keeps { Kept::Yes } else { Kept::No }));
                turns.swap_remove(turn);
            } else {
                check_link(&self.store, *block, head.next, &mut blocks)?;
                self.store.prefetch(head.next);
                *block = head.next;
                *rows = rows.saturating_sub(scoring.layout.capacity() as u64);
                self.prefetch_cache_lines(scoring, turns.get(turn));
                turn += 1;
            }
        }
    }
}

impl<S: PageStore, B: BlockScorer, F: BlockFilter> ListSearch<S, B, F> {
    /// Counts the rows of a page that was scanned.
    fn count_scanned(&self, head: &PageHeader, admitted: u64) {
        let count = u64::from(head.count);
        self.scanned.set(self.scanned.get() + count);
        let excluded = count.saturating_sub(admitted);
        self.excluded_by_filter
            .set(self.excluded_by_filter.get() + excluded);
    }
}

/// A list whose pages are being scanned.
struct ListPageCursor<'a, L> {
    /// Its index among the probed ones.
    index: u32,
    probe: &'a Probe<L>,
    /// The next page.
    block: u32,
    /// Rows expected from there on.
    rows: u64,
    /// There was room for the scores of all pages so far.
    keeps: bool,
}

impl<'a, L> ListPageCursor<'a, L> {
    fn new(index: u32, probe: &'a Probe<L>) -> Self {
        ListPageCursor {
            index,
            probe,
            block: probe.first,
            rows: probe.rows,
            keeps: probe.kept == Kept::Untried,
        }
    }
}
