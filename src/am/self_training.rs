//! VACUUM trains an index that was built over too few rows, once there are enough, and moves its rows into lists.
//!
//! # Course
//! 1. The rows of the exact list, which are all rows of an untrained index, are sampled and trained on as in a build.
//! 2. The model and empty lists are added to the index (`distillvq_ivf::add_model`), which from then on encodes new rows.
//! 3. The rows move from the exact list into lists, page by page ([`Mover`]).
//! 4. The index is calibrated, with the true neighbors that were found in passing; where an earlier attempt moved some of the
//!    rows, in a pass of its own over the table.
//!
//! An attempt that is canceled or fails in step 1 leaves nothing; later it leaves an index that is searched as any other, and the
//! next VACUUM goes on with step 3 or 4. Reads and writes go on all the time. See [`crate::am::maintenance`] for rights, locks and
//! errors.
//!
//! The pass over the table takes a new snapshot every few blocks. A row that is dead by now, but that older snapshots may see, stays in
//! the exact list; the next VACUUM, which has removed most such rows, looks at its page again.

use crate::am::batches::{BuildMemory, EncodedBatch, Encoding, MIN_RUN_BYTES, RowBatch, encode};
use crate::am::calibration::measure::{measure, training, truth};
use crate::am::calibration::queries::{CalibrationQueries, rows_as_queries};
use crate::am::encoded_run::Run;
use crate::am::failure::with_index;
use crate::am::index_build::{named_model, plan};
use crate::am::open_index::OpenIndex;
use crate::am::training::plan::{BuildModel, BuildPlan};
use crate::am::training::run::train_on_rows;
use crate::error::{Error, Result};
use crate::pg::filter_columns::FilterColumns;
use crate::pg::heap::{HeapDistances, RowFn, VisibleRows, fetch_live};
use crate::pg::page_store::RelationStore;
use crate::pg::relation::{Heap, Index};
use crate::pg::server::{commit_durably, flush_wal, random_u64};
use crate::pg::vector_datum::ReadElements;
use crate::pg::workers::{self, SharedProgress, Workers};
use distillvq_ivf::{
    self as ivf, GroundTruthCollector, Meta, Model, MovedPage, NewModel, PageStore, RowEncoder,
    Tid, Training, Truth, exact_pages, finish_moves, move_rows, query_sample, write_calibration,
};

/// Blocks of the table between two snapshots of a pass over it.
const BLOCKS_PER_SNAPSHOT: usize = 64;

/// Trains an index, or goes on with that.
pub fn train(index: Index, heap: Heap, store: &RelationStore) -> Result<()> {
    let plan = plan(index)?;
    Attempt { plan, store, heap }.run()
}

/// An attempt under way.
struct Attempt<'a> {
    plan: BuildPlan,
    store: &'a RelationStore,
    heap: Heap,
}

impl Attempt<'_> {
    fn run(&self) -> Result<()> {
        let meta = Meta::read(self.store).map_err(self.failed())?;
        OpenIndex::built(self.plan.index, meta).filters()?;
        if meta.has_model() {
            return self.go_on(meta);
        }
        let Some((BuildModel { model, queries }, rows)) = self.new_model()? else {
            return Ok(());
        };
        let new = NewModel {
            model: &model,
            refine: self.plan.refine,
            rows: rows as u64,
            training: training(model.report()),
            model_version: random_u64(),
        };
        let meta = ivf::add_model(self.store, &new).map_err(self.failed())?;
        flush_wal();
        let collector = GroundTruthCollector::new(&model, queries.kind, queries.vectors);
        let meta = self.move_all(meta, &model, Some(&collector))?;
        self.calibrate(meta, &model, &collector.finish())
    }

    /// Ends what an earlier attempt began.
    fn go_on(&self, meta: Meta) -> Result<()> {
        let target = OpenIndex::built(self.plan.index, meta);
        let Some(model) = target.model()? else {
            return Ok(());
        };
        let meta = if meta.has_rows_to_move() {
            self.move_all(meta, &model, None)?
        } else {
            meta
        };
        if meta.calibration.is_some() {
            return Ok(());
        }
        let (queries, _) = rows_as_queries(self.heap, self.plan.index, self.plan.dim)?;
        let target = OpenIndex::built(self.plan.index, meta);
        let truth = truth(self.heap, &target, &model, queries, |each| {
            self.scan_table(each)
        })?;
        self.calibrate(meta, &model, &truth)
    }

    fn failed(&self) -> impl Fn(ivf::Error) -> Error + use<> {
        with_index(self.plan.index)
    }

    /// The named model, or one trained on the rows, whose number is returned too; none if there are too few.
    fn new_model(&self) -> Result<Option<(BuildModel, usize)>> {
        let plan = &self.plan;
        if let Some(name) = &plan.options.model {
            let model = named_model(plan, name)?;
            let (rows_as_queries, rows) = rows_as_queries(self.heap, plan.index, plan.dim)?;
            let queries = CalibrationQueries::of_log(model.held_out(), plan.dim, rows);
            let queries = queries.unwrap_or(rows_as_queries);
            return Ok(Some((BuildModel { model, queries }, rows)));
        }
        let trained = train_on_rows(plan, |each| self.each_row(each), |_, _| {})?;
        Ok(trained.model.map(|model| (model, trained.rows)))
    }

    /// Passes the rows of the exact list that are alive to `each`.
    fn each_row(&self, each: &mut dyn FnMut(&ReadElements<'_>) -> Result<()>) -> Result<()> {
        let meta = Meta::read(self.store).map_err(self.failed())?;
        let mut pages = exact_pages(self.store, &meta);
        let (mut tids, mut outcome) = (Vec::new(), Ok(()));
        while pages
            .next(&mut tids)
            .map_err(with_index(self.plan.index))?
            .is_some()
        {
            tids.sort_unstable();
            let filters = FilterColumns::default();
            fetch_live(
                self.heap,
                self.plan.index,
                &filters,
                &tids,
                &mut |_, row| {
                    self.delay();
                    if outcome.is_ok() {
                        outcome = each(&|out| row.append_elements(self.plan.element, out));
                    }
                },
            )?;
            if outcome.is_err() {
                break;
            }
        }
        outcome
    }

    /// Passes all rows of the table that belong to the index to `each`.
    fn scan_table(&self, each: &mut RowFn<'_>) -> Result<()> {
        let (heap, index) = (self.heap, self.plan.index);
        let filters = FilterColumns::default();
        if !heap.is_heap_am() {
            VisibleRows::new(heap, index)?.for_each(0..u32::MAX, &filters, each);
            return Ok(());
        }
        for from in (0..heap.blocks()).step_by(BLOCKS_PER_SNAPSHOT) {
            self.delay();
            let blocks = from..from.saturating_add(BLOCKS_PER_SNAPSHOT as u32);
            VisibleRows::new(heap, index)?.for_each(blocks, &filters, each);
        }
        Ok(())
    }

    /// Lets VACUUM sleep and be canceled.
    fn delay(&self) {
        // It returns no error: what is pending is raised.
        let _ = self.store.check_interrupts();
    }

    /// Moves all rows of the exact list that the model has codes for. Returns the new metapage.
    fn move_all(
        &self,
        meta: Meta,
        model: &Model,
        collector: Option<&GroundTruthCollector<'_>>,
    ) -> Result<Meta> {
        let encoder = RowEncoder::new(&meta, Some(model)).map_err(self.failed())?;
        let mut sizes = BuildMemory::new();
        let beside = collector.map_or(0, |it| it.bytes(sizes.workers));
        sizes.run = sizes.run.saturating_sub(beside).max(MIN_RUN_BYTES);
        let mut mover = Mover {
            attempt: self,
            meta,
            sizes,
            batch: RowBatch::default(),
            run: Run::default(),
            pages: Vec::new(),
            is_finished: true,
        };
        let work = |batch: RowBatch, progress: &SharedProgress| {
            encode(encoder, collector, batch, progress)
        };
        workers::with_workers(mover.sizes.workers, work, |mut workers| {
            mover.move_all(&mut workers)
        })?;
        let meta = finish_moves(self.store, mover.is_finished).map_err(self.failed())?;
        let meta = if self.plan.options.samples_queries() {
            let rows = meta.pages.rows_at_build;
            query_sample::make_room(self.store, &meta, rows).map_err(self.failed())?
        } else {
            meta
        };
        commit_durably();
        // Counts the rows of the lists, and finds where there is room.
        ivf::vacuum(self.store, &mut |_| false).map_err(with_index(self.plan.index))?;
        Ok(meta)
    }

    /// Measures the recall, and writes it into the index.
    fn calibrate(&self, meta: Meta, model: &Model, truth: &Truth) -> Result<()> {
        let index = self.plan.index;
        let target = OpenIndex::built(index, meta);
        let distances = HeapDistances::of_live(self.heap, index);
        let calibration = measure(&target, model, truth, distances)?;
        let training = Training {
            code_error: truth.code_error,
            ..meta.training
        };
        write_calibration(self.store, meta.model_version(), training, calibration)
            .map_err(self.failed())?;
        commit_durably();
        Ok(())
    }
}

/// Moves rows: those of some pages of the exact list are looked up, encoded by workers, and gathered to a run as large as memory
/// allows, which then goes into the lists, and leaves the pages.
struct Mover<'a> {
    attempt: &'a Attempt<'a>,
    meta: Meta,
    sizes: BuildMemory,
    /// Rows not yet submitted to the workers.
    batch: RowBatch,
    run: Run,
    /// The pages of the rows in the run.
    pages: Vec<MovedPage>,
    /// Whether all rows so far were alive.
    is_finished: bool,
}

impl Mover<'_> {
    fn move_all(&mut self, workers: &mut Workers<'_, RowBatch, Encoding>) -> Result<()> {
        let (store, meta) = (self.attempt.store, self.meta);
        let (mut pages, mut tids) = (exact_pages(store, &meta), Vec::new());
        while let Some(block) = pages.next(&mut tids).map_err(with_index(self.index()))? {
            tids.sort_unstable();
            let closes = self.gather(workers, &tids)? == tids.len();
            self.is_finished &= closes;
            self.pages.push(MovedPage { block, closes });
            if self.run.bytes() >= self.sizes.run {
                self.flush(workers)?;
            }
        }
        self.flush(workers)
    }

    fn index(&self) -> Index {
        self.attempt.plan.index
    }

    /// Submits the rows at these addresses that are alive, and returns how many there are.
    fn gather(
        &mut self,
        workers: &mut Workers<'_, RowBatch, Encoding>,
        tids: &[Tid],
    ) -> Result<usize> {
        let attempt = self.attempt;
        let BuildPlan {
            element,
            dim,
            ref filters,
            ..
        } = attempt.plan;
        let (mut alive, mut outcome) = (0, Ok(()));
        fetch_live(attempt.heap, self.index(), filters, tids, &mut |i, row| {
            attempt.delay();
            let found = row.append_elements(element, &mut self.batch.vectors);
            if found != dim {
                outcome = Err(Error::Dimensions {
                    expected: dim,
                    found,
                });
            }
            if outcome.is_err() {
                return;
            }
            row.append_filters(filters, &mut self.batch.filters);
            self.batch.tids.extend(tids.get(i));
            alive += 1;
            if self.batch.vectors.len() + dim > self.sizes.batch {
                outcome = self.submit_batch(workers);
            }
        })?;
        outcome.map(|()| alive)
    }

    /// Submits the batch to the workers, and takes a result if as much is under way as may be.
    fn submit_batch(&mut self, workers: &mut Workers<'_, RowBatch, Encoding>) -> Result<()> {
        if workers.full()
            && let Some(done) = workers.next_result()?
        {
            self.add_to_run(done)?;
        }
        workers.submit(std::mem::take(&mut self.batch));
        Ok(())
    }

    fn add_to_run(&mut self, done: Encoding) -> Result<()> {
        let EncodedBatch {
            tids,
            encoded,
            filters,
        } = done.map_err(|source| Error::Train {
            relation: self.index().name(),
            source,
        })?;
        self.run.add(&tids, &encoded, &filters)
    }

    /// Moves the rows gathered so far.
    fn flush(&mut self, workers: &mut Workers<'_, RowBatch, Encoding>) -> Result<()> {
        self.submit_batch(workers)?;
        while let Some(done) = workers.next_result()? {
            self.add_to_run(done)?;
        }
        let (run, pages) = (
            std::mem::take(&mut self.run),
            std::mem::take(&mut self.pages),
        );
        let order = run.order(&self.meta)?;
        let entries = run.rows(&self.meta, &order);
        move_rows(self.attempt.store, &self.meta, entries, &pages).map_err(with_index(self.index()))
    }
}
