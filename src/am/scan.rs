//! Searching: the index's pages give candidates, the table gives exact distances, rows come out in exact order.

use crate::cache;
use crate::error::{Error, Failure, Result, of_index};
use crate::pg::datum::OwnedVector;
use crate::pg::relation::Index;
use crate::pg::store::RelationStore;
use crate::timing::{self, Stage};
use distillvq_ivf::refined::Refined;
use distillvq_ivf::stream::{Hit, Source, Stream, StreamOptions};
use distillvq_ivf::{self as ivf, Candidate, Meta, Model, Search, Tid};
use distillvq_quantizer::Searcher;

/// An index opened for a search or a change, with its metapage as it is now.
pub struct Target {
    /// The index.
    pub index: Index,
    /// What the metapage says.
    pub meta: Meta,
}

impl Target {
    /// Reads the metapage.
    pub fn open(index: Index) -> Result<Self> {
        let store = RelationStore::for_search(index);
        let meta = Meta::read(&store).map_err(of_index(index))?;
        Ok(Self { index, meta })
    }

    /// The model from the backend's cache or the pages, unless the index is untrained.
    pub fn model(&self) -> Result<Option<Model>> {
        self.trained(cache::model)
    }

    /// What a search needs of it.
    pub fn searcher(&self) -> Result<Option<Searcher>> {
        self.trained(cache::searcher)
    }

    fn trained<T>(
        &self,
        get: impl FnOnce(Index, &RelationStore, &Meta) -> Result<T>,
    ) -> Result<Option<T>> {
        let store = RelationStore::new(self.index);
        let got = self
            .meta
            .trained()
            .then(|| get(self.index, &store, &self.meta));
        got.transpose()
    }

    /// Refuses a vector whose length is not the index's.
    pub fn check_dimensions(&self, found: usize) -> Result<()> {
        if found == self.meta.dim {
            Ok(())
        } else {
            Err(Error::Dimensions {
                expected: self.meta.dim,
                found,
            })
        }
    }
}

/// A search under way.
pub struct Scan {
    query: Option<OwnedVector>,
    search: Searching,
}

/// The part of a search that moves.
pub struct Searching {
    stream: Stream<Timed>,
}

impl Scan {
    /// Begins a search; a NULL query is at the same distance from everything.
    pub fn start(target: &Target, query: Option<OwnedVector>) -> Result<Self> {
        let elements = query
            .as_ref()
            .map_or_else(|| vec![0.0; target.meta.dim], OwnedVector::elements);
        target.check_dimensions(elements.len())?;
        let probes = crate::settings::probes(&target.index.options(), &target.meta);
        let search = Searching::start(target, target.searcher()?.as_ref(), &elements, probes)?;
        Ok(Self { query, search })
    }

    /// The query and the moving part, apart.
    pub fn parts(&mut self) -> (Option<&OwnedVector>, &mut Searching) {
        (self.query.as_ref(), &mut self.search)
    }
}

/// Gives the exact distances of rows, none for rows that the search may not see.
pub type Fetch<'a> = dyn FnMut(&[Candidate], &mut Vec<Option<f64>>) -> Result<()> + 'a;

impl Searching {
    /// Begins a search that probes so many lists first.
    pub fn start(
        target: &Target,
        model: Option<&Searcher>,
        query: &[f32],
        probes: usize,
    ) -> Result<Self> {
        let store = RelationStore::for_search(target.index);
        let search = timing::stage(Stage::Route, || {
            Search::new(store, &target.meta, model, query)
        })
        .map_err(of_index(target.index))?;
        let stream = if target.meta.refine {
            let options = StreamOptions {
                probes,
                ..StreamOptions::for_refining(target.meta.shape)
            };
            let store = RelationStore::for_search(target.index);
            let refined = Refined::new(search, store, options).map_err(of_index(target.index))?;
            Stream::new(Timed(Box::new(refined)), StreamOptions::for_refined())
        } else {
            let options = StreamOptions {
                probes,
                ..StreamOptions::for_codes(target.meta.shape)
            };
            Stream::new(Timed(Box::new(search)), options)
        };
        Ok(Self { stream })
    }

    /// Rows compared exactly so far.
    pub fn compared(&self) -> u64 {
        self.stream.stats().compared
    }

    /// The next row in exact order, or none after the last.
    pub fn next(&mut self, index: Index, fetch: &mut Fetch<'_>) -> Result<Option<Hit>> {
        let mut exact = |rows: &[Candidate], out: &mut Vec<Option<f64>>| {
            fetch(rows, out).map_err(Failure::Other)
        };
        match timing::stage(Stage::Order, || self.stream.next(&mut exact)) {
            Ok(hit) => Ok(hit),
            Err(failure) => Err(failure.of(index)),
        }
    }
}

/// The candidates of the index's lists, by short codes or by refine codes, with the time that finding them takes.
struct Timed(Box<dyn Source>);

impl Source for Timed {
    fn lists(&self) -> usize {
        self.0.lists()
    }

    fn probed(&self) -> usize {
        self.0.probed()
    }

    fn probe(&mut self, more: usize) -> std::result::Result<(), ivf::Error> {
        timing::stage(Stage::Probe, || self.0.probe(more))
    }

    fn pull(&mut self, n: usize, out: &mut Vec<Candidate>) -> std::result::Result<(), ivf::Error> {
        timing::stage(Stage::Scan, || self.0.pull(n, out))
    }

    fn bound(&self) -> Option<f32> {
        self.0.bound()
    }

    fn catch_up(
        &mut self,
        n: usize,
        out: &mut Vec<Candidate>,
    ) -> std::result::Result<(), ivf::Error> {
        timing::stage(Stage::Scan, || self.0.catch_up(n, out))
    }

    fn score(&self, distance: f64) -> f64 {
        self.0.score(distance)
    }

    fn exact(&mut self, out: &mut Vec<Tid>) -> std::result::Result<(), ivf::Error> {
        timing::stage(Stage::Probe, || self.0.exact(out))
    }
}
