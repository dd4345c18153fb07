//! Trainings of builds and of `distillvq_train`: options, memory, threads, notices.

use crate::am::calibration::queries::queries_of_sample;
use crate::am::training::phases::SAMPLING;
use crate::am::training::plan::{BuildModel, BuildPlan};
use crate::am::training::sample::{
    BYTES_PER_VALUE, MAX_SAMPLE_ROWS, MemoryShare, Sample, sample_rows, training_overhead_bytes,
};
use crate::error::{Error, IndexName, Result};
use crate::pg::memory::trim_malloc;
use crate::pg::relation::Heap;
use crate::pg::vector_datum::ReadElements;
use crate::pg::workers::SharedProgress;
use crate::pg::{heap, workers};
use crate::settings::reloptions::Options;
use distillvq_model::{MIN_TRAIN_ROWS, Metric};
use distillvq_training::{
    Monitor, Phase, TrainError, TrainOptions, Trained, auto_assignments, auto_bits, auto_lists,
    train,
};

/// Seed of the sample and of the training in a build: the same table gives the same index.
pub const SEED: u64 = 1;
/// With fewer sampled rows a list, lists and codes come out noticeably worse.
const FEW_ROWS_PER_LIST: usize = 30;

/// Samples the table and trains on it; no model if it holds too little to learn from. The number is that of its rows.
pub fn train_from_table(plan: &BuildPlan, heap: Heap) -> Result<(Option<BuildModel>, usize)> {
    let tell = |sample: &[f32], options: &TrainOptions| {
        notice_small_sample(&plan.index.name(), sample, plan.dim, options, (1, 1));
    };
    let trained = train_on_rows(
        plan,
        |each| heap::sample(heap, plan.index, plan.element, each),
        tell,
    )?;
    if trained.model.is_none() {
        notice_untrained(plan, trained.usable);
    }
    Ok((trained.model, trained.rows))
}

/// What a training on the rows of a table has given.
pub struct TrainedOnRows {
    /// The model; none if there are too few rows.
    pub model: Option<BuildModel>,
    /// Rows.
    pub rows: usize,
    /// Rows that can be trained on, if they are too few.
    pub usable: usize,
}

/// Trains on a sample of the rows that `scan` passes on, after a call of `tell` with the sample.
pub fn train_on_rows(
    plan: &BuildPlan,
    scan: impl FnOnce(&mut dyn FnMut(&ReadElements<'_>) -> Result<()>) -> Result<()>,
    tell: impl FnOnce(&[f32], &TrainOptions),
) -> Result<TrainedOnRows> {
    let Sample {
        dim,
        offered: rows,
        rows: mut sample,
    } = sample_rows(scan, SEED, Some(plan.dim), MemoryShare::Whole)?;
    let outcome = |model, usable| TrainedOnRows {
        model,
        rows,
        usable,
    };
    if rows < MIN_TRAIN_ROWS {
        return Ok(outcome(None, rows));
    }
    let options = train_options(&plan.options, plan.metric, (rows, dim), SEED);
    tell(&sample, &options);
    let queries = queries_of_sample(&mut sample, dim, rows);
    check_training_memory(&sample, dim)?;
    let job = |monitor: &dyn Monitor| train(sample, dim, None, &options, monitor);
    match run_training(&plan.index.name(), job) {
        Ok(Trained { model, .. }) => Ok(outcome(Some(BuildModel { model, queries }), rows)),
        Err(Error::Train {
            source: TrainError::TooFewRows { usable, .. },
            ..
        }) => Ok(outcome(None, usable)),
        Err(error) => Err(error),
    }
}

/// Options of a training from those of an index, for `dim` dimensions; `rows` are those of the whole table.
pub fn train_options(
    options: &Options,
    metric: Metric,
    (rows, dim): (usize, usize),
    seed: u64,
) -> TrainOptions {
    TrainOptions {
        metric,
        lists: options.lists,
        subquantizers: options.subquantizers,
        bits: match options.bits {
            0 => auto_bits(dim),
            bits => bits as u8,
        },
        assignments: match options.assignments {
            0 if options.refine == Some(true) => 1,
            0 => auto_assignments(dim),
            given => given as u8,
        },
        seed,
        rows_in_table: rows,
        ..TrainOptions::default()
    }
}

/// Reports a sample that is too small for the number of lists, and the `maintenance_work_mem` that would suffice. Rows take
/// `parts / of` of the memory of the sample.
pub fn notice_small_sample(
    relation: &str,
    sample: &[f32],
    dim: usize,
    options: &TrainOptions,
    (parts, of): (usize, usize),
) {
    const MB: usize = 1 << 20;
    let (rows, sampled) = (options.rows_in_table, sample.len() / dim.max(1));
    let lists = match options.lists {
        0 => auto_lists(rows),
        lists => lists,
    };
    let most = rows.min(MAX_SAMPLE_ROWS * parts / of);
    let wanted = (FEW_ROWS_PER_LIST * lists).min(most);
    if sampled >= wanted {
        return;
    }
    let enough = training_overhead_bytes(dim) + wanted * dim * BYTES_PER_VALUE * of / parts;
    crate::pg::report::notice(
        &format!("training on \"{relation}\" uses a sample of {sampled} of {rows} rows"),
        &format!(
            "maintenance_work_mem limits the sample. At least {wanted} rows are recommended for {lists} lists; a smaller sample lowers recall."
        ),
        &format!(
            "SET maintenance_work_mem = '{}MB' or more, and run the command again.",
            enough.div_ceil(MB) + 1
        ),
    );
}

/// Refuses a training for whose sample (and half as much for its codes) there is no memory.
pub fn check_training_memory(sample: &[f32], dim: usize) -> Result<()> {
    let bytes = size_of_val(sample) / 2 + training_overhead_bytes(dim);
    Error::check_memory(bytes, "training")
}

impl Monitor for SharedProgress {
    fn interrupted(&self) -> bool {
        SharedProgress::interrupted(self)
    }

    fn phase(&self, phase: Phase, done: usize, total: usize) {
        self.set(phase as usize + 1, done, total);
    }
}

/// Trains on threads, reporting progress. `relation` names the source of the rows in errors.
pub fn run_training(
    relation: &str,
    job: impl FnOnce(&dyn Monitor) -> std::result::Result<Trained, TrainError> + Send,
) -> Result<Trained> {
    let report = |phase: usize, done, total| {
        if phase > 0 {
            crate::pg::progress::report_phase(SAMPLING + phase as i64);
            crate::pg::progress::report_progress(done, total);
        }
    };
    let trained = workers::run_in_pool(report, |progress| job(progress));
    trim_malloc();
    trained?.map_err(|source| Error::Train {
        relation: relation.to_owned(),
        source,
    })
}

/// How an index without a model gets one.
fn hint_for_untrained(index: &IndexName, trains_itself: bool) -> String {
    let reindex = index.reindex();
    if trains_itself {
        format!(
            "VACUUM, by hand or by autovacuum, trains the index once the table has {MIN_TRAIN_ROWS} rows; {reindex} does so at once."
        )
    } else {
        format!("When the table is filled, run {reindex}.")
    }
}

pub fn notice_untrained(plan: &BuildPlan, rows: usize) {
    let index = plan.index.name();
    crate::pg::report::notice(
        &format!("index \"{index}\" was built without a quantizer"),
        &format!(
            "There are {rows} rows to train on; training needs at least {MIN_TRAIN_ROWS}. Searches compare every row: they are \
             exact, and slow down as the table grows."
        ),
        &hint_for_untrained(&plan.index.named(), plan.options.trains_itself()),
    );
}
