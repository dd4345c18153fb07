//! What an index learns of its own recall: queries whose true neighbors are known are searched on its finished pages.
//!
//! The truth comes from the pass of the build, or from one of its own over a table that has changed since ([`truth`]).
//! [`measure`] then searches as any scan does, with exact distances from the table, for [`SEARCH_TIME`] at most.

use crate::am::batches::{BuildMemory, RowBatch};
use crate::am::calibration::queries::{CalibrationQueries, rows_as_queries};
use crate::am::failure::with_index;
use crate::am::open_index::OpenIndex;
use crate::am::scan::SearchStream;
use crate::am::training::phases::CALIBRATING;
use crate::error::{Error, Result};
use crate::pg::filter_columns::FilterColumns;
use crate::pg::heap::{HeapDistances, RowFn, VisibleRows};
use crate::pg::relation::{Heap, Index, LockedIndex};
use crate::pg::role::as_role;
use crate::pg::server::now;
use crate::pg::vector_datum::OwnedVector;
use crate::pg::workers::{self, SharedProgress};
use crate::settings::Probing;
use crate::settings::reloptions::Options;
use crate::settings::search::SearchParams;
use distillvq_ivf::adaptive_probes::{AdaptiveProbes, ProbeFit, RankedQuery};
use distillvq_ivf::filter::ColumnFilter;
use distillvq_ivf::rerank::{BANDS, Growth, RANKS};
use distillvq_ivf::write_calibration;
use distillvq_ivf::{
    BandLists, Bands, CALIBRATION_K, Calibration, Candidate, DEEP_QUERIES, GroundTruthCollector,
    Meta, Neighbors, RERANK_MARGINS, RecallCurve, RowEncoder, SampledRecall, Tid, Training, Truth,
    choose_rerank_margin,
};
use distillvq_model::{ListRanking, Model, TrainReport};
use distillvq_training::{TrainError, check_interrupts};
use std::time::{Duration, Instant};

/// Queries that are searched with each number of lists: what searches lose differs little between queries.
const SEARCHED: std::ops::RangeInclusive<usize> = 48..=256;
/// Codes that these searches scan, at the most, if [`SEARCHED`] allows.
const CODES: f64 = 4e7;
/// Most time that all searches of a calibration take: where codes are so coarse that each search compares the whole table,
/// what was measured until then has to do.
const SEARCH_TIME: Duration = Duration::from_secs(10);
/// Fewest searches that tell what searches with a number of lists lose.
const MIN_SEARCHES: usize = 8;
/// Queries that are searched for rows behind the first ten, and the recall that these searches aim at.
const DEEP_SEARCHES: usize = 32;
const DEEP_TARGET: f64 = 0.95;

/// What a report tells of the training of an index that is built now.
pub fn training(report: &TrainReport) -> Training {
    // Nothing is measured where nothing was distilled.
    let known = |recall: f32| Some(recall).filter(|recall| *recall > 0.0);
    let now = now();
    Training {
        built_at: now,
        trained_at: now,
        rows: report.rows as u64,
        queries: report.queries as u64,
        recall_before: known(report.recall_before),
        recall_after: known(report.recall_after),
        ..Training::default()
    }
}

/// Finds the true neighbors of queries in a pass over the rows of the table, which `scan` passes on.
pub fn truth(
    heap: Heap,
    target: &OpenIndex,
    model: &Model,
    queries: CalibrationQueries,
    scan: impl FnOnce(&mut RowFn<'_>) -> Result<()>,
) -> Result<Truth> {
    crate::pg::progress::report_phase(CALIBRATING);
    let OpenIndex { index, meta, .. } = target;
    let collector = GroundTruthCollector::new(model, queries.kind, queries.vectors);
    // Codes are not wanted, but where a row is depends on them in rare cases.
    let meta = Meta {
        refine: false,
        ..*meta
    };
    let encoder =
        RowEncoder::new(&meta, Some(model)).map_err(crate::am::failure::with_index(*index))?;
    let (sizes, expected) = (BuildMemory::new(), heap.estimated_rows());
    let work = |batch: RowBatch, progress: &SharedProgress| {
        let check = || check_interrupts(progress);
        let encoded = encoder.try_encode(&batch.vectors, check)?;
        collector.offer(&batch.tids, &batch.vectors, &encoded, check)?;
        Ok(batch.tids.len())
    };
    workers::with_workers(sizes.workers, work, |mut workers| {
        let (mut batch, mut done) = (RowBatch::default(), 0);
        let mut count = |offered: std::result::Result<usize, TrainError>| {
            done += offered.map_err(|source| Error::Train {
                relation: index.name(),
                source,
            })?;
            crate::pg::progress::report_progress(done, expected.max(done));
            Ok::<(), Error>(())
        };
        let element = index.element()?;
        scan(&mut |tid, row| {
            let dim = row.append_elements(element, &mut batch.vectors);
            target.check_dimensions(dim)?;
            batch.tids.push(tid);
            if batch.vectors.len() + dim > sizes.batch {
                if workers.full()
                    && let Some(offered) = workers.next_result()?
                {
                    count(offered)?;
                }
                workers.submit(std::mem::take(&mut batch));
            }
            Ok(())
        })?;
        workers.submit(std::mem::take(&mut batch));
        while let Some(offered) = workers.next_result()? {
            count(offered)?;
        }
        Ok(())
    })?;
    Ok(collector.finish())
}

/// Measures a trained index with queries whose truth is known; nothing if none of their neighbors is visible. `distances` are
/// those of the rows that count.
pub fn measure(
    target: &OpenIndex,
    model: &Model,
    truth: &Truth,
    distances: HeapDistances,
) -> Result<Option<Calibration>> {
    crate::pg::progress::report_phase(CALIBRATING);
    let mut bench = Calibrator {
        target,
        model,
        distances,
        adaptive_probes: AdaptiveProbes::default(),
    };
    let each = truth.queries.chunks_exact(target.meta.dim.max(1));
    let mut questions = Vec::new();
    for (elements, neighbors) in each.zip(&truth.neighbors) {
        questions.extend(bench.question(elements, neighbors)?);
    }
    if questions.is_empty() {
        return Ok(None);
    }
    let lists = target.meta.lists();
    let ranked: Vec<RankedQuery> = questions
        .iter_mut()
        .map(|it| std::mem::take(&mut it.ranked))
        .collect();
    let fit = ProbeFit::choose(lists, &ranked);
    for (question, ranked) in questions.iter_mut().zip(&ranked) {
        question.reached = fit.means_needed(&ranked.scores, &ranked.places);
        question.further = fit.means_needed(&ranked.scores, &question.further);
    }
    bench.adaptive_probes = fit.probes();
    let reached = questions.iter().map(|it| it.reached.clone());
    let mut curve = RecallCurve::new(lists, reached.collect());
    let settings = curve.probes_to_measure();
    let widest = settings.last().copied().unwrap_or(lists);
    let mut clock = Clock::start();
    let searched = bench.query_budget(truth.rows, widest, &questions);
    let rerank_margin = choose_rerank_margin(|rerank_margin| {
        let until = clock.share(settings.len() + 2);
        let (recalls, compared) = bench.search_all(searched, (widest, rerank_margin), until)?;
        let enough = clock.is_enough(recalls.len(), searched.len());
        let compared = if enough { compared } else { f64::INFINITY };
        Ok::<_, Error>((curve.loss(widest, &recalls), compared))
    })?;
    for (done, &probes) in settings.iter().enumerate() {
        crate::pg::progress::report_progress(done, settings.len());
        let searched = bench.query_budget(truth.rows, probes, &questions);
        let until = clock.share(settings.len() + 1 - done);
        let (recalls, compared) = bench.search_all(searched, (probes, rerank_margin), until)?;
        if clock.is_enough(recalls.len(), searched.len()) {
            curve.measured(probes, &recalls, compared);
        }
    }
    let (queries, k) = (questions.len() as u32, CALIBRATION_K as u8);
    let measured = Calibration::new(truth.kind, queries, k, truth.rows, now());
    let measured = measured
        .with_rerank_margin(rerank_margin)
        .with_adaptive_probes(bench.adaptive_probes)
        .with_points(&curve.points());
    let bands = bench.bands(&questions, &measured, &mut clock)?;
    clock.tell(target.index);
    Ok(Some(measured.with_bands(bands)))
}

/// The recall of the searches that users run, with queries whose truth is known; none if none of their neighbors is visible.
pub fn recall_of_searches(
    target: &OpenIndex,
    model: &Model,
    truth: &Truth,
    distances: HeapDistances,
) -> Result<Option<SampledRecall>> {
    let probing = crate::settings::probing(&Options::of(target.index), &target.meta);
    let margin = target
        .meta
        .calibration
        .map_or(RERANK_MARGINS[0], |it| it.rerank_margin);
    let params = SearchParams::unlimited(probing, margin);
    let mut bench = Calibrator {
        target,
        model,
        distances,
        adaptive_probes: probing.adaptive,
    };
    let mut recalls = Vec::new();
    let each = truth.queries.chunks_exact(target.meta.dim.max(1));
    for (elements, neighbors) in each.zip(&truth.neighbors) {
        if let Some(question) = bench.question(elements, neighbors)? {
            recalls.push(bench.search(&question, params)?.0);
        }
    }
    Ok(SampledRecall::of(&recalls))
}

/// The time that searches may take.
struct Clock {
    start: Instant,
    searches: usize,
    /// Searches that there was no time for.
    missed: usize,
}

impl Clock {
    fn start() -> Self {
        Clock {
            start: Instant::now(),
            searches: 0,
            missed: 0,
        }
    }

    /// Until when one of so many parts may take that are left.
    fn share(&self, parts: usize) -> Instant {
        let left = SEARCH_TIME.saturating_sub(self.start.elapsed());
        Instant::now() + left / parts.max(1) as u32
    }

    /// Counts searches that were done of those wanted; whether they are enough to go by.
    fn is_enough(&mut self, done: usize, wanted: usize) -> bool {
        self.searches += done;
        self.missed += wanted - done.min(wanted);
        done >= MIN_SEARCHES.min(wanted)
    }

    /// Reports searches that were left out because they took too long.
    fn tell(&self, index: Index) {
        if self.missed == 0 {
            return;
        }
        let each = 1000.0 * self.start.elapsed().as_secs_f64() / self.searches.max(1) as f64;
        crate::pg::report::notice(
            &format!(
                "recall of index \"{}\" was measured with {} of {} searches",
                index.name(),
                self.searches,
                self.searches + self.missed
            ),
            &format!(
                "A search took {each:.1} ms on average, and a calibration searches for at most {} s.",
                SEARCH_TIME.as_secs()
            ),
            "Increase \"subquantizers\", or set bits = 8 or refine = sq7.",
        );
    }
}

/// Where questions are put.
struct Calibrator<'a> {
    target: &'a OpenIndex,
    model: &'a Model,
    distances: HeapDistances,
    adaptive_probes: AdaptiveProbes,
}

/// A query whose answer is known.
struct CalibrationQuery {
    query: OwnedVector,
    elements: Vec<f32>,
    own: Option<Tid>,
    /// How many neighbors are visible, and the distance of the farthest of them.
    neighbors: usize,
    farthest: f64,
    /// Its lists and the places of the neighbors, until it is known how many lists each query probes.
    ranked: RankedQuery,
    /// Lists that queries must probe in the mean, so that this one reaches each of them.
    reached: Vec<u32>,
    /// The same for the neighbors behind them, by rank; places in the ranking at first.
    further: Vec<u32>,
    /// The neighbors at each of [`RANKS`].
    edges: Vec<Tid>,
}

impl Calibrator<'_> {
    /// What can be asked: neighbors that are not visible, as a build meets them in rows that others still see, are none.
    fn question(
        &mut self,
        elements: &[f32],
        neighbors: &Neighbors,
    ) -> Result<Option<CalibrationQuery>> {
        let query = OwnedVector::of(elements, self.target.index.element()?);
        let near = neighbors.rows.len().min(CALIBRATION_K);
        let (near, further) = neighbors.rows.split_at(near);
        let mut rows = near.to_vec();
        rows.sort_unstable();
        let tids = rows.iter().map(|(tid, _)| *tid);
        let distances = self.distances(&query, tids)?;
        let visible = rows.iter().zip(&distances);
        let visible: Vec<([u32; 2], f64)> = visible
            .filter_map(|((_, lists), distance)| Some((*lists, (*distance)?)))
            .collect();
        let farthest = visible.iter().map(|(_, distance)| *distance);
        let farthest = farthest.fold(f64::NEG_INFINITY, f64::max);
        if !farthest.is_finite() {
            return Ok(None);
        }
        let (scores, places) = places(self.model.query(elements).ranking());
        // Rows of the exact list are always compared. A row in two lists is found in the one that is probed first.
        let place = |list: u32| places.get(list as usize).copied().unwrap_or(1);
        let reached = |[first, second]: [u32; 2]| place(first).min(place(second));
        let edges = RANKS
            .iter()
            .map_while(|rank| neighbors.rows.get(*rank as usize - 1));
        Ok(Some(CalibrationQuery {
            query,
            elements: elements.to_vec(),
            own: neighbors.own,
            neighbors: visible.len(),
            farthest,
            ranked: RankedQuery {
                scores,
                places: visible.iter().map(|(lists, _)| reached(*lists)).collect(),
            },
            reached: Vec::new(),
            further: further.iter().map(|(_, lists)| reached(*lists)).collect(),
            edges: edges.map(|(tid, _)| *tid).collect(),
        }))
    }

    /// The exact distances of rows in the order of the table, none of those that are not visible.
    fn distances(
        &mut self,
        query: &OwnedVector,
        tids: impl Iterator<Item = Tid>,
    ) -> Result<Vec<Option<f64>>> {
        let candidates: Vec<Candidate> = tids.map(Candidate::exact).collect();
        let mut distances = Vec::new();
        self.distances
            .distances(Some(query), &candidates, &mut distances)?;
        Ok(distances)
    }

    /// The lists that the rows behind the first ten need: from where the neighbors lie, and what searches lose of them.
    fn bands(
        &mut self,
        questions: &[CalibrationQuery],
        measured: &Calibration,
        clock: &mut Clock,
    ) -> Result<BandLists> {
        let lists = self.target.meta.lists();
        let deep = questions.iter().filter(|it| !it.further.is_empty());
        let deep: Vec<&CalibrationQuery> = deep.take(DEEP_QUERIES).collect();
        let reached: Vec<Vec<u32>> = deep.iter().map(|it| it.further.clone()).collect();
        let bands = Bands::new(lists, &reached);
        if bands.is_empty() {
            return Ok(BandLists::default());
        }
        let probing = Probing {
            first: measured.probes_for(DEEP_TARGET).unwrap_or(lists) as usize,
            adaptive: self.adaptive_probes,
            growth: bands.lists(&[]).growth(DEEP_TARGET),
        };
        let effort = SearchParams::unlimited(probing, measured.rerank_margin);
        let probed = |band: usize| {
            let returned = RANKS.get(band).map_or(0.0, |rank| f64::from(*rank));
            probing.growth.lists(probing.first as f64, returned) as u32
        };
        let (mut lost, mut searched) = (vec![0.0; bands.len()], 0);
        let until = clock.share(1);
        let mut wanted = deep.len().min(DEEP_SEARCHES);
        for (i, question) in deep.iter().enumerate().take(wanted) {
            if searched > 0 && Instant::now() > until {
                break;
            }
            let Some(found) = self.search_deep(question, bands.len(), effort)? else {
                wanted -= 1;
                continue;
            };
            searched += 1;
            for (band, (lost, found)) in lost.iter_mut().zip(found).enumerate() {
                *lost += bands.share(band, i, probed(band)).unwrap_or(0.0) - found;
            }
        }
        if !clock.is_enough(searched, wanted) || searched == 0 {
            return Ok(bands.lists(&[]));
        }
        lost.iter_mut().for_each(|lost| *lost /= searched as f64);
        Ok(bands.lists(&lost))
    }

    /// The share of the neighbors that a search finds in each of so many bands, as far as it returns rows in order; none if a
    /// row is not visible that a band ends with.
    fn search_deep(
        &mut self,
        question: &CalibrationQuery,
        bands: usize,
        effort: SearchParams,
    ) -> Result<Option<Vec<f64>>> {
        let mut edges = Vec::new();
        for tid in question.edges.iter().take(bands + 1) {
            let distance = self.distances(&question.query, std::iter::once(*tid))?;
            let Some(Some(distance)) = distance.first() else {
                return Ok(None);
            };
            edges.push((*distance, 0u32));
        }
        let Some(&(farthest, _)) = edges.last() else {
            return Ok(None);
        };
        let most = RANKS.get(bands).copied().unwrap_or(0);
        self.search_for(question, effort, most as usize, &mut |distance| {
            for (edge, within) in &mut edges {
                *within += u32::from(distance <= *edge);
            }
            distance <= farthest
        })?;
        let edges = edges.iter().zip(RANKS);
        let found: Vec<(u32, u32)> = edges
            .map(|((_, within), rank)| ((*within).min(rank), rank))
            .collect();
        let share = |pair: &[(u32, u32)]| match pair {
            [(nearer, from), (within, to)] => {
                f64::from(within.saturating_sub(*nearer)) / f64::from(to - from)
            }
            _ => 0.0,
        };
        Ok(Some(found.windows(2).map(share).collect()))
    }

    /// The first questions, as many as may be searched with so many lists.
    fn query_budget<'q>(
        &self,
        rows: u64,
        probes: u32,
        questions: &'q [CalibrationQuery],
    ) -> &'q [CalibrationQuery] {
        let meta = &self.target.meta;
        let entries = rows as f64 * f64::from(meta.assignments);
        let codes = entries * f64::from(probes) / f64::from(meta.lists().max(1));
        let (least, most) = SEARCHED.into_inner();
        let searched = ((CODES / codes.max(1.0)) as usize).clamp(least, most);
        questions.get(..searched).unwrap_or(questions)
    }

    /// The recall of each search that probes so many lists in the mean and no others, with a re-ranking margin: as many searches
    /// as begin in time and at least one, and how many rows they compared in the mean.
    fn search_all(
        &mut self,
        questions: &[CalibrationQuery],
        (probes, rerank_margin): (u32, f32),
        until: Instant,
    ) -> Result<(Vec<f32>, f64)> {
        let probing = Probing {
            first: probes as usize,
            adaptive: self.adaptive_probes,
            growth: Growth::new(&[0; BANDS]),
        };
        let effort = SearchParams::unlimited(probing, rerank_margin);
        let (mut recalls, mut compared) = (Vec::new(), 0);
        for question in questions {
            if !recalls.is_empty() && Instant::now() > until {
                break;
            }
            let (recall, rows) = self.search(question, effort)?;
            recalls.push(recall);
            compared += rows;
        }
        let mean = compared as f64 / recalls.len().max(1) as f64;
        Ok((recalls, mean))
    }

    /// The recall of a search, and how many rows it compared. Rows as near as the farthest neighbor are as good as that.
    fn search(&mut self, question: &CalibrationQuery, effort: SearchParams) -> Result<(f32, u64)> {
        let mut found = 0;
        let compared = self.search_for(question, effort, question.neighbors, &mut |distance| {
            found += usize::from(distance <= question.farthest);
            true
        })?;
        Ok((found as f32 / question.neighbors as f32, compared))
    }

    /// Searches for so many rows, while `each` wants more: it gets their distances. Returns how many rows were compared.
    fn search_for(
        &mut self,
        question: &CalibrationQuery,
        effort: SearchParams,
        rows: usize,
        each: &mut dyn FnMut(f64) -> bool,
    ) -> Result<u64> {
        let searcher = Some(self.model.searcher());
        let mut search = SearchStream::start(
            self.target,
            searcher,
            &question.elements,
            (effort, ColumnFilter::default()),
        )?;
        // A row that meets itself is a search unlike others: its estimate is far off, and the search compares more rows.
        question.own.into_iter().for_each(|own| search.exclude(own));
        for _ in 0..rows {
            let hit = search.next(Some(&question.query), &mut self.distances)?;
            if !hit.is_some_and(|hit| each(hit.distance)) {
                break;
            }
        }
        Ok(search.counters().reranked)
    }
}

/// The scores of the lists, best first, and the place of each list in that order, from 1.
fn places(ranking: ListRanking) -> (Vec<f32>, Vec<u32>) {
    let ranked = ranking.all();
    let mut places = vec![0; ranked.len()];
    for (place, (_, list)) in (1..).zip(&ranked) {
        if let Some(it) = places.get_mut(*list as usize) {
            *it = place;
        }
    }
    (ranked.into_iter().map(|(score, _)| score).collect(), places)
}

/// Reports an index that cannot reach its target recall.
pub fn notice_target_missed(index: Index, calibration: &Calibration) {
    let target = crate::settings::target_recall::target_recall(Options::of(index).target_recall);
    let (None, Some(best)) = (calibration.probes_for(target), calibration.best()) else {
        return;
    };
    if target >= 1.0 {
        return;
    }
    let name = index.name();
    crate::pg::report::notice(
        &format!("index \"{name}\" reaches a recall of {best:.3}, below the target of {target}"),
        "Searches probe all lists unless \"probes\" is set.",
        "Increase \"subquantizers\", set bits = 8 or refine = sq7, or lower \"target_recall\".",
    );
}

/// Measures an index with queries, or with rows used as queries, and writes what it found and how the model was
/// trained into the metapage.
pub fn calibrate(
    locked: &LockedIndex,
    target: &OpenIndex,
    model: &Model,
    queries: Option<CalibrationQueries>,
    training: Training,
) -> Result<Option<Calibration>> {
    let (heap, index) = (locked.heap(), locked.index());
    let dim = target.meta.dim;
    let work = || -> Result<Option<Calibration>> {
        let queries = match queries {
            Some(queries) => queries,
            None => rows_as_queries(heap, index, dim)?.0,
        };
        let truth = truth(heap, target, model, queries, |each| {
            let filters = FilterColumns::default();
            VisibleRows::new(heap, index)?.for_each(0..u32::MAX, &filters, each);
            Ok(())
        })?;
        measure(target, model, &truth, HeapDistances::of_latest(heap, index))
    };
    // Functions in the index's definition run as the owner of the table, as in REINDEX.
    let measured = as_role(index.owner(), work)?;
    write_calibration(
        target.store(),
        target.meta.model_version(),
        training,
        measured,
    )
    .map_err(with_index(index))?;
    crate::pg::server::commit_durably();
    Ok(measured)
}
