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

use super::run::Run;
use super::{Counts, LOADING, Lesson, Plan, WRITING};
use crate::am::calibrate;
use crate::am::scan::Target;
use crate::error::{Error, Result, of_index};
use crate::pg::compute::{self, Crew};
use crate::pg::datum::ReadElements;
use crate::pg::heap::{self, IndexInfo};
use crate::pg::relation::Heap;
use crate::pg::store::RelationStore;
use distillvq_ivf::{Builder, Create, RowEncoder, Tid, Training, Truth, TruthCollector, describe};
use distillvq_quantizer::{EncodedRows, Model, Monitor, TrainError};

/// Bytes of raw vectors in a batch: small enough to keep many workers busy, large enough to be worth a worker's waking.
const BATCH_BYTES: std::ops::RangeInclusive<usize> = 256 << 10..=1 << 20;
/// Batches under way take this share of `maintenance_work_mem`, if their least size allows.
const BATCHES_SHARE: usize = 8;
/// Bytes of a run, however little `maintenance_work_mem` is: a shorter one would be all last pages of lists.
const LEAST_RUN_BYTES: usize = 8 << 20;

/// Raw rows.
#[derive(Default)]
pub struct Batch {
    /// Their addresses.
    pub tids: Vec<Tid>,
    /// Elements, row-major.
    pub vectors: Vec<f32>,
}

/// What a worker makes of a batch.
struct Done {
    tids: Vec<Tid>,
    encoded: EncodedRows,
}

/// How `maintenance_work_mem` is dealt out.
pub struct Sizes {
    /// Threads.
    pub workers: usize,
    /// Elements of a batch, at least a row.
    pub batch: usize,
    /// Bytes of a run.
    run: usize,
}

impl Sizes {
    /// By what there is now.
    pub fn new() -> Self {
        let workers = compute::threads();
        let memory = crate::pg::maintenance_bytes();
        let most = Crew::<Batch, Encoding>::most(workers);
        let (least, largest) = BATCH_BYTES.into_inner();
        let batch = (memory / BATCHES_SHARE / most).clamp(least, largest);
        // A batch more is being filled, and each worker has about as much again for its arithmetic.
        let beside = (most + 1 + workers) * batch;
        Self {
            workers,
            batch: batch / size_of::<f32>(),
            run: memory.saturating_sub(beside).max(LEAST_RUN_BYTES),
        }
    }
}

/// A worker gives up in the middle of a batch when the build ends before it.
type Encoding = std::result::Result<Done, TrainError>;

fn encode(
    encoder: RowEncoder<'_>,
    truth: Option<&TruthCollector<'_>>,
    batch: Batch,
    monitor: &dyn Monitor,
) -> Encoding {
    let Batch { tids, vectors } = batch;
    let encoded = encoder.encode_watched(&vectors, monitor)?;
    if let Some(truth) = truth {
        truth.offer(&tids, &vectors, &encoded, monitor)?;
    }
    Ok(Done { tids, encoded })
}

/// What the pages are made with.
fn create<'a>(plan: &Plan, model: Option<&'a Model>) -> Create<'a> {
    Create {
        metric: plan.metric,
        dim: plan.dim,
        model,
        refine: plan.refine,
        build_id: crate::pg::random_u64(),
    }
}

/// Builds the pages over a table without rows.
pub fn load_nothing(plan: &Plan, model: Option<&Model>) -> Result<()> {
    let store = RelationStore::for_build(plan.index);
    let build = || -> std::result::Result<(), distillvq_ivf::Error> {
        let meta = Builder::create(&store, create(plan, model))?.finish()?;
        if let Some(model) = model {
            let training = calibrate::training(model.report());
            describe(&store, meta.model_version(), training, None)?;
        }
        Ok(())
    };
    build().map_err(of_index(plan.index))?;
    store.log_all();
    Ok(())
}

/// Builds the pages over the table's rows, of which there should be `expected`.
pub fn load(
    plan: &Plan,
    heap: Heap,
    info: &IndexInfo,
    lesson: Option<Lesson>,
    expected: usize,
) -> Result<Counts> {
    crate::pg::report_phase(LOADING);
    crate::pg::report_progress(0, expected);
    let (model, queries) = lesson.map_or((None, None), |it| (Some(it.model), Some(it.queries)));
    let model = model.as_ref();
    let truth = model
        .zip(queries)
        .map(|(model, queries)| TruthCollector::new(model, queries.kind, queries.vectors));
    let store = RelationStore::for_build(plan.index);
    let builder = Builder::create(&store, create(plan, model)).map_err(of_index(plan.index))?;
    let encoder = RowEncoder::new(builder.meta(), model).map_err(of_index(plan.index))?;
    let mut sizes = Sizes::new();
    let beside = truth.as_ref().map_or(0, |it| it.bytes(sizes.workers));
    sizes.run = sizes.run.saturating_sub(beside).max(LEAST_RUN_BYTES);
    let mut loader = Loader {
        plan,
        builder,
        sizes,
        batch: Batch::default(),
        run: Run::default(),
        loaded: 0,
        expected,
    };
    let work =
        |batch: Batch, monitor: &dyn Monitor| encode(encoder, truth.as_ref(), batch, monitor);
    let rows = compute::beside(loader.sizes.workers, work, |mut crew| {
        loader.pass(&mut crew, heap, info)
    })?;
    compute::return_memory();
    loader.finish()?;
    let indexed = loader.builder.rows();
    let meta = loader.builder.finish().map_err(of_index(plan.index))?;
    if let (Some(model), Some(truth)) = (model, truth) {
        calibrate(
            heap,
            Target {
                index: plan.index,
                meta,
            },
            &store,
            model,
            &truth.finish(),
        )?;
    }
    // A concurrent build goes on to wait for others: what it has loaded stays to be read.
    crate::pg::report_progress(loader.loaded, loader.loaded);
    store.log_all();
    Ok(Counts {
        heap: rows,
        index: indexed as f64,
    })
}

/// Measures the finished index and writes into it what it knows of itself.
fn calibrate(
    heap: Heap,
    target: Target,
    store: &RelationStore,
    model: &Model,
    truth: &Truth,
) -> Result<()> {
    let Target { index, meta } = target;
    let calibration = calibrate::measure(heap, &target, model, truth)?;
    let training = Training {
        code_error: truth.code_error,
        ..calibrate::training(model.report())
    };
    describe(store, meta.model_version(), training, calibration).map_err(of_index(index))?;
    if let Some(calibration) = &calibration {
        calibrate::tell_if_short(index, calibration);
    }
    Ok(())
}

/// The backend's side of the pass.
struct Loader<'a> {
    plan: &'a Plan,
    builder: Builder<'a, RelationStore>,
    sizes: Sizes,
    /// Rows not yet given to the crew.
    batch: Batch,
    run: Run,
    /// Rows encoded.
    loaded: usize,
    expected: usize,
}

impl Loader<'_> {
    /// Scans the table until all its rows are encoded; returns how many there are, those not to be indexed included.
    fn pass(
        &mut self,
        crew: &mut Crew<'_, Batch, Encoding>,
        heap: Heap,
        info: &IndexInfo,
    ) -> Result<f64> {
        let (index, element) = (self.plan.index, self.plan.element);
        let rows = heap::build_scan(heap, index, info, element, &mut |tid, read| {
            self.add(crew, tid, read)
        });
        self.hand_over(crew)?;
        while let Some(done) = crew.take()? {
            self.gather(done)?;
        }
        Ok(rows)
    }

    fn add(
        &mut self,
        crew: &mut Crew<'_, Batch, Encoding>,
        tid: Tid,
        read: &ReadElements<'_>,
    ) -> Result<()> {
        let dim = read(&mut self.batch.vectors);
        if dim != self.plan.dim {
            return Err(Error::Dimensions {
                expected: self.plan.dim,
                found: dim,
            });
        }
        self.batch.tids.push(tid);
        if self.batch.vectors.len() + dim > self.sizes.batch {
            self.hand_over(crew)?;
        }
        Ok(())
    }

    /// Gives the batch to the crew, and takes what it has done.
    fn hand_over(&mut self, crew: &mut Crew<'_, Batch, Encoding>) -> Result<()> {
        while let Some(done) = crew.ready()? {
            self.gather(done)?;
        }
        if crew.full()
            && let Some(done) = crew.take()?
        {
            self.gather(done)?;
        }
        let next = Batch {
            tids: Vec::with_capacity(self.batch.tids.len()),
            vectors: Vec::with_capacity(self.batch.vectors.len()),
        };
        crew.give(std::mem::replace(&mut self.batch, next));
        Ok(())
    }

    /// Adds encoded rows to the run, and writes that when it is large enough.
    fn gather(&mut self, done: Encoding) -> Result<()> {
        let Done { tids, encoded } = done.map_err(|source| Error::Train {
            relation: self.plan.index.name(),
            source,
        })?;
        self.run.add(&tids, &encoded)?;
        self.loaded += tids.len();
        crate::pg::report_progress(self.loaded, self.expected.max(self.loaded));
        if self.run.bytes() >= self.sizes.run {
            self.flush()?;
        }
        Ok(())
    }

    /// Writes the last run.
    fn finish(&mut self) -> Result<()> {
        crate::pg::report_phase(WRITING);
        crate::pg::report_progress(self.loaded, self.loaded);
        self.flush()
    }

    fn flush(&mut self) -> Result<()> {
        let run = std::mem::take(&mut self.run);
        let meta = *self.builder.meta();
        let order = run.order(&meta)?;
        self.builder
            .append(run.rows(&meta, &order))
            .map_err(of_index(self.plan.index))
    }
}
