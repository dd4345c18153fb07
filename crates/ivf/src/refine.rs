//! Candidates in the order of their refine codes, which is nearly the exact one: of an index with refine codes, only the rows
//! that a query wants and a few more are compared exactly.
//!
//! It is a [`RerankStream`] over the short codes that "compares" rows by their refine codes, and itself the [`CandidateSource`] of another
//! stream, which compares them exactly. So both steps look at as many rows as the error of the step before asks for. A row
//! that is late among the refine codes is passed on at once: by its exact distance it may be in time.

use crate::candidate::Candidate;
use crate::error::Error;
use crate::list_search::ListSearch;
use crate::pq::PqScorer;
use crate::rerank::{CandidateSource, CandidateStats, Hit, LateRows, RerankOptions, RerankStream};
use crate::scorer::{BlockFilter, NoFilter, RowScorer};
use crate::{CodeShape, Tid};
use distillvq_model::RefineQuery;
use distillvq_pages::{
    BODY, NO_BLOCK, PG_HEADER_SIZE, PageHeader, PageKind, PageStore, SideLocation, check_link,
};
use std::cell::Cell;

/// Rows compared at a time once they are ranked by refine codes: about as many are compared beyond those returned.
pub const REFINED_SPARE: usize = 4;

/// Codes asked for before they are needed.
const AHEAD: usize = 8;

/// The candidates of a search by their refine codes.
pub struct RefineStream<S: PageStore, F: BlockFilter = NoFilter> {
    codes: Codes<S>,
    stream: RerankStream<CodeSource<S, F>>,
    /// The worst score given out: what is still to come is plausibly no better.
    last: f32,
    ended: bool,
}

impl<S: PageStore, F: BlockFilter> RefineStream<S, F> {
    /// The candidates of a search under way over the same store; `options` say how many lists it probes. An index without
    /// refine codes is [`distillvq_pages::Error::Mismatch`].
    pub fn new(
        search: ListSearch<S, PqScorer, F>,
        store: S,
        options: RerankOptions,
    ) -> Result<Self, Error> {
        let (query, bytes) = search
            .refine_query()
            .ok_or(Error::mismatch("the index has no refine codes"))?;
        Ok(RefineStream {
            codes: Codes {
                store,
                query,
                bytes,
                errors: Cell::default(),
            },
            stream: RerankStream::new(
                CodeSource(search),
                RerankOptions {
                    late: LateRows::Return,
                    ..options
                },
            ),
            last: f32::INFINITY,
            ended: false,
        })
    }
}

impl RerankOptions {
    /// For ranking candidates by their refine codes: they cost a fraction of an exact comparison.
    pub fn for_refine_codes(shape: CodeShape) -> Self {
        RerankOptions {
            // What the ten nearest rows are picked from.
            rows: 25,
            first_batch: 48,
            batch: 24,
            ..RerankOptions::for_codes(shape)
        }
    }

    /// For what was ranked by refine codes: it probes no lists by itself, and the estimates are good.
    pub fn for_heap_rows() -> Self {
        RerankOptions {
            max_probes: 0,
            z: 3.0,
            first_batch: 12,
            batch: REFINED_SPARE,
            ahead: 0.2,
            largest_pull: 12,
            ..RerankOptions::default()
        }
    }
}

impl<S: PageStore, F: BlockFilter> CandidateSource for RefineStream<S, F> {
    fn lists(&self) -> usize {
        self.stream.source().lists()
    }

    fn probed(&self) -> usize {
        self.stream.source().probed()
    }

    fn rows(&self) -> u64 {
        self.stream.source().rows()
    }

    fn has_duplicates(&self) -> bool {
        self.stream.source().has_duplicates()
    }

    fn probe(&mut self, _more: usize) -> Result<(), Error> {
        Ok(())
    }

    fn pull(&mut self, n: usize, out: &mut Vec<Candidate>) -> Result<(), Error> {
        let codes = &self.codes;
        for _ in 0..n {
            let next = self
                .stream
                .next(&mut |batch, out| codes.scores(batch, out))?;
            let Some(hit) = next else {
                self.ended = true;
                break;
            };
            let candidate = ranked(hit);
            // A late row is better than those before it.
            self.last = self.last.min(candidate.score);
            out.push(candidate);
        }
        Ok(())
    }

    fn bound(&self) -> Option<f32> {
        (!self.ended).then_some(self.last)
    }

    fn score(&self, distance: f64) -> f64 {
        self.stream.source().0.score(distance)
    }

    fn expected_error(&self) -> f64 {
        self.codes.expected_error()
    }

    fn next_exact(&mut self, out: &mut Vec<Tid>) -> Result<(), Error> {
        self.stream.source_mut().0.next_exact(out)
    }

    fn rewind(&mut self) {
        self.stream.rewind();
        self.last = f32::INFINITY;
        self.ended = false;
    }

    fn work(&self) -> CandidateStats {
        let stats = self.stream.stats();
        CandidateStats {
            refined: stats.reranked,
            ..stats.work
        }
    }

    fn stop_probing(&mut self) {
        self.stream.stop_probing();
    }

    fn exclude(&mut self, tid: Tid) {
        self.stream.exclude(tid);
    }
}

/// A candidate that was "compared" by its refine code.
fn ranked(hit: Hit) -> Candidate {
    let score = -hit.distance as f32;
    Candidate {
        score: if score.is_nan() {
            f32::NEG_INFINITY
        } else {
            score
        },
        tid: hit.tid,
        refine: SideLocation::default(),
    }
}

/// A search whose "distances" are negated scores. It returns no rows of the exact list.
struct CodeSource<S: PageStore, F: BlockFilter>(ListSearch<S, PqScorer, F>);

impl<S: PageStore, F: BlockFilter> CandidateSource for CodeSource<S, F> {
    fn lists(&self) -> usize {
        self.0.lists()
    }

    fn probed(&self) -> usize {
        self.0.probed()
    }

    fn rows(&self) -> u64 {
        self.0.rows()
    }

    fn has_duplicates(&self) -> bool {
        self.0.has_duplicates()
    }

    fn probe(&mut self, more: usize) -> Result<(), Error> {
        self.0.probe(more)
    }

    fn pull(&mut self, n: usize, out: &mut Vec<Candidate>) -> Result<(), Error> {
        self.0.pull(n, out)
    }

    fn bound(&self) -> Option<f32> {
        self.0.bound()
    }

    fn pull_new_lists(&mut self, n: usize, out: &mut Vec<Candidate>) -> Result<(), Error> {
        self.0.pull_new_lists(n, out)
    }

    fn score(&self, distance: f64) -> f64 {
        -distance
    }

    fn expected_error(&self) -> f64 {
        self.0.expected_error()
    }

    fn next_exact(&mut self, _out: &mut Vec<Tid>) -> Result<(), Error> {
        Ok(())
    }

    fn rewind(&mut self) {
        self.0.rewind();
    }

    fn work(&self) -> CandidateStats {
        self.0.work()
    }

    fn exclude(&mut self, tid: Tid) {
        self.0.exclude(tid);
    }
}

/// Where the refine codes are, and what they are compared with.
struct Codes<S> {
    store: S,
    query: RefineQuery,
    bytes: usize,
    /// Sum of the expected errors of the codes compared so far, and their number.
    errors: Cell<(f64, f64)>,
}

impl<S: PageStore> Codes<S> {
    /// Appends the scores of candidates, with the sign turned. A code may by now be another row's: then the candidate was
    /// removed, and no search will see it.
    fn scores(&self, batch: &[Candidate], out: &mut Vec<Option<f64>>) -> Result<(), Error> {
        self.store.check_interrupts()?;
        let mut blocks = self.store.block_count()?;
        for candidate in batch {
            check_link(&self.store, 0, candidate.refine.block, &mut blocks)?;
            self.store.prefetch(candidate.refine.block);
        }
        batch
            .iter()
            .take(AHEAD)
            .for_each(|c| self.prefetch_cache_lines(&c.refine));
        for (i, candidate) in batch.iter().enumerate() {
            if let Some(later) = batch.get(i + AHEAD) {
                self.prefetch_cache_lines(&later.refine);
            }
            let (score, error) = self.score(candidate.refine)?;
            let (sum, count) = self.errors.get();
            self.errors.set((sum + f64::from(error), count + 1.0));
            out.push(Some(-f64::from(score)));
        }
        Ok(())
    }

    /// The mean of what is expected of the codes compared so far.
    fn expected_error(&self) -> f64 {
        let (sum, count) = self.errors.get();
        sum / count.max(1.0)
    }

    fn prefetch_cache_lines(&self, place: &SideLocation) {
        let at = usize::from(place.at);
        self.store
            .prefetch_cache_lines(place.block, &[PG_HEADER_SIZE..BODY, at..at + self.bytes]);
    }

    fn score(&self, place: SideLocation) -> Result<(f32, f32), Error> {
        let SideLocation { block, owner, at } = place;
        self.store.read(block, |page| {
            let head = PageHeader::read(page, block)?;
            let code = page.get(usize::from(at)..).unwrap_or_default();
            match (head.kind, code.get(..self.bytes)) {
                (PageKind::Side, Some(code)) if block != NO_BLOCK && head.next == owner => {
                    Ok(RowScorer::score(&self.query, code))
                }
                _ => Err(Error::damaged(
                    block,
                    "not the page of refine codes expected here",
                )),
            }
        })?
    }
}
