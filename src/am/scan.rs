//! Searching: the index's pages give candidates, the table gives exact distances, rows come out in exact order.

use crate::am::failure::{PageOpError, with_index};
use crate::am::open_index::OpenIndex;
use crate::am::query_sample;
use crate::am::stage_timer::{self, Stage, Timed, timed};
use crate::error::{Error, Result};
use crate::pg::heap::HeapDistances;
use crate::pg::page_store::RelationStore;
use crate::pg::relation::Index;
use crate::pg::vector_datum::OwnedVector;
use crate::settings::reloptions::Options;
use crate::settings::search::SearchParams;
use distillvq_ivf::distance_range::DistanceRange;
use distillvq_ivf::filter::ColumnFilter;
use distillvq_ivf::filter_key::ColumnTest;
use distillvq_ivf::refine::RefineStream;
use distillvq_ivf::rerank::{CandidateSource, Hit, RerankOptions, RerankStats, RerankStream};
use distillvq_ivf::{self as ivf, Candidate, ListSearch, PqScorer, Tid};
use distillvq_model::Searcher;
use std::borrow::Cow;

/// What searches have done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SearchStats {
    /// Inverted lists of the index.
    pub lists: u64,
    /// Lists probed.
    pub probed: u64,
    /// Codes scanned.
    pub codes: u64,
    /// Rows that the conditions on filter columns excluded before their codes were scored.
    pub excluded: u64,
    /// Rows ranked by refine codes.
    pub refined: u64,
    /// Rows compared exactly.
    pub reranked: u64,
    /// Rows given to the executor.
    pub returned: u64,
    /// Rows dropped because they were found after a farther one was returned.
    pub dropped: u64,
}

impl SearchStats {
    /// The sum with those of an earlier search of the same index.
    pub fn plus(self, earlier: Self) -> Self {
        Self {
            lists: self.lists.max(earlier.lists),
            probed: self.probed + earlier.probed,
            codes: self.codes + earlier.codes,
            excluded: self.excluded + earlier.excluded,
            refined: self.refined + earlier.refined,
            reranked: self.reranked + earlier.reranked,
            returned: self.returned + earlier.returned,
            dropped: self.dropped + earlier.dropped,
        }
    }
}

/// A search under way.
pub struct IndexSearch {
    query: Option<OwnedVector>,
    stream: SearchStream,
    /// Tests of filter columns, by their numbers.
    tests: Vec<(usize, ColumnTest)>,
    /// No row fulfils the conditions.
    is_empty: bool,
    /// See [`SearchStream::set_max_distance`].
    range: Option<DistanceRange>,
    /// What was done before the search began again.
    before: SearchStats,
}

impl IndexSearch {
    /// Begins a search for the rows that pass tests of filter columns, by their numbers; a NULL query is at the same distance from
    /// everything.
    pub fn start(
        target: &OpenIndex,
        query: Option<OwnedVector>,
        tests: Vec<(usize, ColumnTest)>,
    ) -> Result<Self> {
        let elements = query.as_ref().map_or_else(
            || Cow::Owned(vec![0.0; target.meta.dim]),
            OwnedVector::elements,
        );
        target.check_dimensions(elements.len())?;
        let params = SearchParams::of_session(&Options::of(target.index), &target.meta);
        let filter = ColumnFilter::new(&target.meta.pages.format, tests.clone());
        let filter = filter.ok_or_else(|| Error::FilterFormat(target.index.named()))?;
        let is_empty = filter.admits_nothing();
        let model = target.searcher()?;
        let stream = SearchStream::start(target, model, &elements, (params, filter))?;
        if query.is_some() {
            query_sample::sample(target, &elements);
        }
        Ok(Self {
            query,
            stream,
            tests,
            is_empty,
            range: None,
            before: SearchStats::default(),
        })
    }

    /// What was done so far.
    pub fn counters(&self) -> SearchStats {
        self.stream.counters().plus(self.before)
    }

    /// See [`SearchStream::set_max_distance`].
    pub fn set_max_distance(&mut self, range: &DistanceRange) {
        self.stream.set_max_distance(range);
        self.range = Some(*range);
    }

    /// The next row in exact order, or none after the last. If the index `open`, in which the search began, was untrained and has
    /// a model now, it is opened again, and the search goes on there.
    pub fn next(
        &mut self,
        open: &mut OpenIndex,
        distances: &mut HeapDistances,
    ) -> Result<Option<Hit>> {
        if self.is_empty {
            return Ok(None);
        }
        match self.stream.next(self.query.as_ref(), distances) {
            Err(Error::Pages {
                source: ivf::Error::ModelAdded,
                ..
            }) => {}
            found => return found,
        }
        *open = OpenIndex::open(open.index)?;
        let before = self.counters();
        let returned_before = self.stream.returned_before();
        let tests = std::mem::take(&mut self.tests);
        let mut again = Self::start(open, self.query.take(), tests)?;
        again.before = before;
        if let Some(range) = &self.range {
            again.set_max_distance(range);
        }
        if let Some(hit) = returned_before {
            again.stream.begin_at(hit);
        }
        *self = again;
        self.stream.next(self.query.as_ref(), distances)
    }
}

/// The rows of an index in the order of their exact distances from a query.
pub struct SearchStream {
    index: Index,
    stream: AnyStream,
}

/// A stream of candidates by short codes, or by refine codes.
enum AnyStream {
    Coded(Box<RerankStream<Timed<ListSearch<RelationStore, PqScorer, ColumnFilter>>>>),
    Refined(Box<RerankStream<Timed<RefineStream<RelationStore, ColumnFilter>>>>),
}

/// Does the same to either stream.
macro_rules! with_stream {
    ($streams:expr, $stream:ident => $work:expr) => {
        match $streams {
            AnyStream::Coded($stream) => $work,
            AnyStream::Refined($stream) => $work,
        }
    };
}

impl SearchStream {
    /// Begins a search for these elements among the rows that a filter admits. `model` must be the index's own, none if it is
    /// untrained.
    pub fn start(
        target: &OpenIndex,
        model: Option<&Searcher>,
        query: &[f32],
        (params, filter): (SearchParams, ColumnFilter),
    ) -> Result<Self> {
        let (index, meta) = (target.index, &target.meta);
        let store = || target.store().clone();
        let search = stage_timer::stage(Stage::Route, || {
            let search = ListSearch::with_filter(store(), meta, model, query, filter);
            search.map(|search| {
                search
                    .with_memory(params.score_bytes())
                    .with_adaptive_probes(params.adaptive_probes())
            })
        })
        .map_err(with_index(index))?;
        let stream = if meta.refine {
            let options = params.probing_options(RerankOptions::for_refine_codes(meta.shape));
            let refined = RefineStream::new(search, store(), options).map_err(with_index(index))?;
            let options = params.comparing_options(RerankOptions::for_heap_rows());
            AnyStream::Refined(Box::new(RerankStream::new(timed(refined), options)))
        } else {
            let options = params.probing_options(RerankOptions::for_codes(meta.shape));
            let options = params.comparing_options(options);
            AnyStream::Coded(Box::new(RerankStream::new(timed(search), options)))
        };
        Ok(Self { index, stream })
    }

    /// What was done so far.
    pub fn counters(&self) -> SearchStats {
        let (stats, lists): (RerankStats, usize) =
            with_stream!(&self.stream, it => (it.stats(), it.source().lists()));
        SearchStats {
            lists: lists as u64,
            probed: stats.probed as u64,
            codes: stats.work.codes,
            excluded: stats.work.excluded,
            refined: stats.work.refined,
            reranked: stats.reranked,
            returned: stats.returned,
            dropped: stats.dropped,
        }
    }

    /// Rows outside this range are not wanted. Nearer ones are returned nevertheless: they come before the others.
    pub fn set_max_distance(&mut self, range: &DistanceRange) {
        if range.upper < f64::INFINITY {
            with_stream!(&mut self.stream, it => {
                it.set_max_distance(range.upper);
                if range.nan {
                    it.keep_nan();
                }
            });
        }
    }

    /// See [`RerankStream::returned_before`].
    fn returned_before(&self) -> Option<Hit> {
        with_stream!(&self.stream, it => it.returned_before())
    }

    /// See [`RerankStream::begin_at`].
    fn begin_at(&mut self, hit: Hit) {
        with_stream!(&mut self.stream, it => it.begin_at(hit));
    }

    /// Searches as if a row were not there. To be called before the first row is asked for.
    pub fn exclude(&mut self, tid: Tid) {
        with_stream!(&mut self.stream, it => it.exclude(tid));
    }

    /// The next row in exact order, or none after the last. The query is that of the search, none for NULL.
    pub fn next(
        &mut self,
        query: Option<&OwnedVector>,
        distances: &mut HeapDistances,
    ) -> Result<Option<Hit>> {
        let mut fetch = |rows: &[Candidate], out: &mut Vec<Option<f64>>| {
            stage_timer::count(0, rows.len() as u64);
            stage_timer::stage(Stage::Compare, || distances.distances(query, rows, out))
                .map_err(PageOpError::Other)
        };
        let next = || with_stream!(&mut self.stream, it => it.next(&mut fetch));
        let index = self.index;
        stage_timer::stage(Stage::Order, next).map_err(|failure| failure.with_index(index))
    }
}
