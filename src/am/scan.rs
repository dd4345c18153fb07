//! Searching: the index's pages give candidates, the table gives exact distances, rows come out in exact order.

use crate::am::failure::{PageOpError, with_index};
use crate::am::open_index::OpenIndex;
use crate::am::stage_timer::{self, Stage};
use crate::error::Result;
use crate::pg::page_store::RelationStore;
use crate::pg::relation::Index;
use crate::pg::vector_datum::OwnedVector;
use crate::settings::Probing;
use crate::settings::iterative::ScanLimits;
use crate::settings::reloptions::Options;
use distillvq_ivf::distance_range::DistanceRange;
use distillvq_ivf::refine::RefineStream;
use distillvq_ivf::rerank::{CandidateSource, CandidateStats, Hit, RerankOptions, RerankStream};
use distillvq_ivf::{self as ivf, Candidate, ListSearch, Tid};
use distillvq_model::Searcher;

/// A search under way.
pub struct IndexSearch {
    query: Option<OwnedVector>,
    search: SearchStream,
}

/// What searches have done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SearchStats {
    /// Inverted lists of the index.
    pub lists: u64,
    /// Lists probed.
    pub probed: u64,
    /// Codes scanned.
    pub codes: u64,
    /// Rows ranked by refine codes.
    pub refined: u64,
    /// Rows compared exactly.
    pub compared: u64,
    /// Rows given to the executor.
    pub returned: u64,
    /// Rows dropped because they were found after a farther one was returned.
    pub dropped: u64,
}

impl SearchStats {
    /// The sum with those of an earlier search of the same index.
    pub fn after(self, earlier: Self) -> Self {
        Self {
            lists: self.lists.max(earlier.lists),
            probed: self.probed + earlier.probed,
            codes: self.codes + earlier.codes,
            refined: self.refined + earlier.refined,
            compared: self.compared + earlier.compared,
            returned: self.returned + earlier.returned,
            dropped: self.dropped + earlier.dropped,
        }
    }
}

/// The part of a search that moves.
pub struct SearchStream {
    stream: RerankStream<Timed>,
}

impl IndexSearch {
    /// Begins a search; a NULL query is at the same distance from everything.
    pub fn start(target: &OpenIndex, query: Option<OwnedVector>) -> Result<Self> {
        let elements = query
            .as_ref()
            .map_or_else(|| vec![0.0; target.meta.dim], OwnedVector::elements);
        let limits = ScanLimits::of_session();
        target.check_dimensions(elements.len())?;
        let effort = SearchParams::of_session(target);
        let searcher = target.searcher()?;
        let search = SearchStream::start(target, searcher.as_ref(), &elements, effort, limits)?;
        Ok(Self { query, search })
    }

    /// What was done so far.
    pub fn counters(&self) -> SearchStats {
        self.search.counters()
    }

    /// The query and the moving part, apart.
    pub fn parts(&mut self) -> (Option<&OwnedVector>, &mut SearchStream) {
        (self.query.as_ref(), &mut self.search)
    }
}

/// Gives the exact distances of rows, none for rows that the search may not see.
pub type Fetch<'a> = dyn FnMut(&[Candidate], &mut Vec<Option<f64>>) -> Result<()> + 'a;

/// How much a search looks at first.
#[derive(Clone, Copy, Debug)]
pub struct SearchParams {
    /// Lists probed.
    pub probing: Probing,
    /// How deep it re-ranks ([`ivf::RERANK_MARGINS`]).
    pub rerank_margin: f32,
}

impl SearchParams {
    /// As settings and options ask, and the index has measured.
    fn of_session(target: &OpenIndex) -> Self {
        let measured = target.meta.calibration;
        Self {
            probing: crate::settings::probing(&Options::of(target.index), &target.meta),
            rerank_margin: measured.map_or(ivf::RERANK_MARGINS[0], |it| it.rerank_margin),
        }
    }

    /// Of a search that goes by the errors of these codes.
    fn on(self, options: RerankOptions) -> RerankOptions {
        RerankOptions {
            probes: self.probing.first,
            growth: self.probing.growth,
            ..options.with_rerank_margin(self.rerank_margin)
        }
    }
}

impl SearchStream {
    /// Begins a search that looks at so much first, and at no more rows or lists than the limits allow.
    pub fn start(
        target: &OpenIndex,
        model: Option<&Searcher>,
        query: &[f32],
        effort: SearchParams,
        limits: ScanLimits,
    ) -> Result<Self> {
        let store = RelationStore::for_search(target.index);
        let search = stage_timer::stage(Stage::Route, || {
            let search = ListSearch::new(store, &target.meta, model, query);
            search.map(|search| search.with_memory(limits.score_bytes()))
        })
        .map_err(with_index(target.index))?;
        let stream = if target.meta.refine {
            let options = effort.on(RerankOptions::for_refine_codes(target.meta.shape));
            let options = limits.limit_probes(options);
            let store = RelationStore::for_search(target.index);
            let refined =
                RefineStream::new(search, store, options).map_err(with_index(target.index))?;
            let options = limits.limit_rows(RerankOptions::for_heap_rows());
            RerankStream::new(Timed(Box::new(refined)), options)
        } else {
            let options = effort.on(RerankOptions::for_codes(target.meta.shape));
            let options = limits.limit_probes(options);
            RerankStream::new(Timed(Box::new(search)), limits.limit_rows(options))
        };
        Ok(Self { stream })
    }

    /// What was done so far.
    pub fn counters(&self) -> SearchStats {
        let stats = self.stream.stats();
        SearchStats {
            lists: self.stream.source().lists() as u64,
            probed: stats.probed as u64,
            codes: stats.work.codes,
            refined: stats.work.refined,
            compared: stats.compared,
            returned: stats.returned,
            dropped: stats.dropped,
        }
    }

    /// Rows outside this range are not wanted. Nearer ones are returned nevertheless: they come before the others.
    pub fn within(&mut self, range: &DistanceRange) {
        if range.upper < f64::INFINITY {
            self.stream.set_max_distance(range.upper);
            if range.nan {
                self.stream.keep_nan();
            }
        }
    }

    /// Searches as if a row were not there. To be called before the first row is asked for.
    pub fn exclude(&mut self, tid: Tid) {
        self.stream.exclude(tid);
    }

    /// The next row in exact order, or none after the last.
    pub fn next(&mut self, index: Index, fetch: &mut Fetch<'_>) -> Result<Option<Hit>> {
        let mut exact = |rows: &[Candidate], out: &mut Vec<Option<f64>>| {
            fetch(rows, out).map_err(PageOpError::Other)
        };
        match stage_timer::stage(Stage::Order, || self.stream.next(&mut exact)) {
            Ok(hit) => Ok(hit),
            Err(failure) => Err(failure.with_index(index)),
        }
    }
}

/// The candidates of the index's lists, by short codes or by refine codes, with the time that finding them takes.
struct Timed(Box<dyn CandidateSource>);

impl CandidateSource for Timed {
    fn lists(&self) -> usize {
        self.0.lists()
    }

    fn probed(&self) -> usize {
        self.0.probed()
    }

    fn rows(&self) -> u64 {
        self.0.rows()
    }

    fn probe(&mut self, more: usize) -> std::result::Result<(), ivf::Error> {
        stage_timer::stage(Stage::Probe, || self.0.probe(more))
    }

    fn pull(&mut self, n: usize, out: &mut Vec<Candidate>) -> std::result::Result<(), ivf::Error> {
        stage_timer::stage(Stage::Scan, || self.0.pull(n, out))
    }

    fn bound(&self) -> Option<f32> {
        self.0.bound()
    }

    fn pull_new_lists(
        &mut self,
        n: usize,
        out: &mut Vec<Candidate>,
    ) -> std::result::Result<(), ivf::Error> {
        stage_timer::stage(Stage::Scan, || self.0.pull_new_lists(n, out))
    }

    fn score(&self, distance: f64) -> f64 {
        self.0.score(distance)
    }

    fn expected_error(&self) -> f64 {
        self.0.expected_error()
    }

    fn next_exact(&mut self, out: &mut Vec<Tid>) -> std::result::Result<(), ivf::Error> {
        stage_timer::stage(Stage::Probe, || self.0.next_exact(out))
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
