//! The pass over the table: this thread reads rows and writes pages, workers encode in between.
//!
//! Raw rows gather to a batch, batches are encoded beside the scan, encoded batches gather to a run in the order of the
//! table, and a run goes to the pages sorted by list: the index depends on the table alone, not on the workers' pace.
//!
//! A run that outgrows `maintenance_work_mem` is written, and the next one goes on where the lists' last pages end. So
//! little memory costs neither pages nor rows, but lists lie scattered. Sorting the runs through temporary files would
//! keep each list together, and was found not worth its code: of 1,000,000 rows of 384 dimensions in 4,000 lists, fifteen
//! runs or one gave the same number of pages (11,587), took no longer to build, and were searched equally fast, warm
//! (0.4 ms) and with the file out of memory (3.3 and 4.0 ms): a list has three pages, read one by one anyhow.

use super::BuildCounts;
use crate::am::batches::{BuildMemory, EncodedBatch, Encoding, MIN_RUN_BYTES, RowBatch, encode};
use crate::am::calibration::measure;
use crate::am::encoded_run::Run;
use crate::am::failure::with_index;
use crate::am::open_index::OpenIndex;
use crate::am::training::phases::{LOADING, WRITING};
use crate::am::training::plan::{BuildModel, BuildPlan};
use crate::error::{Error, Result};
use crate::pg::filter_columns::RowValues;
use crate::pg::heap::{self, HeapDistances, IndexInfo};
use crate::pg::memory::trim_malloc;
use crate::pg::page_store::RelationStore;
use crate::pg::relation::Heap;
use crate::pg::workers::{self, SharedProgress, Workers};
use distillvq_ivf::query_sample::{self, QuerySample};
use distillvq_ivf::{
    Builder, CreateOptions, GroundTruthCollector, QueryKind, RowEncoder, Tid, Training, Truth,
    write_calibration,
};
use distillvq_model::Model;

/// What the pages are made with.
fn create<'a>(plan: &BuildPlan, model: Option<&'a Model>) -> CreateOptions<'a> {
    CreateOptions {
        metric: plan.metric,
        dim: plan.dim,
        model,
        refine: plan.refine,
        filters: plan.filters.format(),
        model_version: crate::pg::server::random_u64(),
    }
}

/// Builds the pages over a table without rows.
pub fn load_nothing(plan: &BuildPlan, model: Option<&Model>) -> Result<()> {
    let store = RelationStore::for_build(plan.index);
    let build = || -> std::result::Result<(), distillvq_ivf::Error> {
        let meta = Builder::create(&store, create(plan, model))?.finish()?;
        if let Some(model) = model {
            let training = measure::training(model.report());
            write_calibration(&store, meta.model_version(), training, None)?;
        }
        Ok(())
    };
    build().map_err(with_index(plan.index))?;
    store.log_all();
    Ok(())
}

/// Builds the pages over the table's rows, of which there should be `expected`, with the sampled queries of another index.
pub fn load(
    plan: &BuildPlan,
    heap: Heap,
    info: &IndexInfo,
    build_model: Option<BuildModel>,
    (expected, sample): (usize, &QuerySample),
) -> Result<BuildCounts> {
    crate::pg::progress::report_phase(LOADING);
    crate::pg::progress::report_progress(0, expected);
    let (model, queries) =
        build_model.map_or((None, None), |it| (Some(it.model), Some(it.queries)));
    let model = model.as_ref();
    let by_sample = queries
        .as_ref()
        .is_some_and(|it| it.kind == QueryKind::Searches);
    let truth = model
        .zip(queries)
        .map(|(model, queries)| GroundTruthCollector::new(model, queries.kind, queries.vectors));
    let store = RelationStore::for_build(plan.index);
    let builder = Builder::create(&store, create(plan, model)).map_err(with_index(plan.index))?;
    let encoder = RowEncoder::new(builder.meta(), model).map_err(with_index(plan.index))?;
    let mut sizes = BuildMemory::new();
    let beside = truth.as_ref().map_or(0, |it| it.bytes(sizes.workers));
    sizes.run = sizes.run.saturating_sub(beside).max(MIN_RUN_BYTES);
    let mut loader = Loader {
        plan,
        builder,
        sizes,
        batch: RowBatch::default(),
        run: Run::default(),
        loaded: 0,
        expected,
    };
    let work = |batch: RowBatch, progress: &SharedProgress| {
        encode(encoder, truth.as_ref(), batch, progress)
    };
    let rows = workers::with_workers(loader.sizes.workers, work, |mut workers| {
        loader.scan_table(&mut workers, heap, info)
    })?;
    trim_malloc();
    loader.finish()?;
    let indexed = loader.builder.rows();
    let meta = loader.builder.finish().map_err(with_index(plan.index))?;
    if let (Some(model), Some(truth)) = (model, truth) {
        let target = OpenIndex::built(plan.index, meta);
        calibrate(heap, &target, &store, model, &truth.finish())?;
    }
    if plan.options.samples_queries() {
        let failed = with_index(plan.index);
        let meta = query_sample::make_room(&store, &meta, indexed).map_err(&failed)?;
        query_sample::fill(&store, &meta, sample, by_sample).map_err(&failed)?;
    }
    // A concurrent build goes on to wait for others: what it has loaded stays to be read.
    crate::pg::progress::report_progress(loader.loaded, loader.loaded);
    store.log_all();
    Ok(BuildCounts {
        heap: rows,
        index: indexed as f64,
    })
}

/// Measures the finished index and writes into it what it knows of itself.
fn calibrate(
    heap: Heap,
    target: &OpenIndex,
    store: &RelationStore,
    model: &Model,
    truth: &Truth,
) -> Result<()> {
    let OpenIndex { index, meta, .. } = target;
    let distances = HeapDistances::of_latest(heap, *index);
    let calibration = measure::measure(target, model, truth, distances)?;
    let training = Training {
        code_error: truth.code_error,
        ..measure::training(model.report())
    };
    write_calibration(store, meta.model_version(), training, calibration)
        .map_err(with_index(*index))?;
    if let Some(calibration) = &calibration {
        measure::notice_target_missed(*index, calibration);
    }
    Ok(())
}

/// The backend's side of the pass.
struct Loader<'a> {
    plan: &'a BuildPlan,
    builder: Builder<'a, RelationStore>,
    sizes: BuildMemory,
    /// Rows not yet submitted to the workers.
    batch: RowBatch,
    run: Run,
    /// Rows encoded.
    loaded: usize,
    expected: usize,
}

impl Loader<'_> {
    /// Scans the table until all its rows are encoded; returns how many there are, those not to be indexed included.
    fn scan_table(
        &mut self,
        workers: &mut Workers<'_, RowBatch, Encoding>,
        heap: Heap,
        info: &IndexInfo,
    ) -> Result<f64> {
        let BuildPlan { index, filters, .. } = self.plan;
        let rows = heap::build_scan(heap, *index, info, filters, &mut |tid, row| {
            self.add(workers, tid, row)
        });
        self.submit_batch(workers)?;
        while let Some(done) = workers.next_result()? {
            self.add_to_run(done)?;
        }
        Ok(rows)
    }

    fn add(
        &mut self,
        workers: &mut Workers<'_, RowBatch, Encoding>,
        tid: Tid,
        row: RowValues<'_>,
    ) -> Result<()> {
        let dim = row.append_elements(self.plan.element, &mut self.batch.vectors);
        if dim != self.plan.dim {
            return Err(Error::Dimensions {
                expected: self.plan.dim,
                found: dim,
            });
        }
        row.append_filters(&self.plan.filters, &mut self.batch.filters);
        self.batch.tids.push(tid);
        if self.batch.vectors.len() + dim > self.sizes.batch {
            self.submit_batch(workers)?;
        }
        Ok(())
    }

    /// Submits the batch to the workers, and takes their results.
    fn submit_batch(&mut self, workers: &mut Workers<'_, RowBatch, Encoding>) -> Result<()> {
        while let Some(done) = workers.try_next_result()? {
            self.add_to_run(done)?;
        }
        if workers.full()
            && let Some(done) = workers.next_result()?
        {
            self.add_to_run(done)?;
        }
        let next = RowBatch {
            tids: Vec::with_capacity(self.batch.tids.len()),
            vectors: Vec::with_capacity(self.batch.vectors.len()),
            filters: Vec::with_capacity(self.batch.filters.len()),
        };
        workers.submit(std::mem::replace(&mut self.batch, next));
        Ok(())
    }

    /// Adds encoded rows to the run, and writes that when it is large enough.
    fn add_to_run(&mut self, done: Encoding) -> Result<()> {
        let EncodedBatch {
            tids,
            encoded,
            filters,
        } = done.map_err(|source| Error::Train {
            relation: self.plan.index.name(),
            source,
        })?;
        self.run.add(&tids, &encoded, &filters)?;
        self.loaded += tids.len();
        crate::pg::progress::report_progress(self.loaded, self.expected.max(self.loaded));
        if self.run.bytes() >= self.sizes.run {
            self.flush()?;
        }
        Ok(())
    }

    /// Writes the last run.
    fn finish(&mut self) -> Result<()> {
        crate::pg::progress::report_phase(WRITING);
        crate::pg::progress::report_progress(self.loaded, self.loaded);
        self.flush()
    }

    fn flush(&mut self) -> Result<()> {
        let run = std::mem::take(&mut self.run);
        let meta = *self.builder.meta();
        let order = run.order(&meta)?;
        self.builder
            .append(run.rows(&meta, &order))
            .map_err(with_index(self.plan.index))
    }
}
