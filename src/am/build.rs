//! Building an index: sample, train, then one pass over the table that encodes its rows into sorted runs ([`load`]).

mod load;
mod run;

pub use load::{Batch, Sizes};

use crate::am::calibrate::Queries;
use crate::error::{Error, Result, of_index};
use crate::functions::models;
use crate::pg::compute;
use crate::pg::heap::{self, IndexInfo, Picked};
use crate::pg::options::Options;
use crate::pg::relation::{Element, Heap, Index};
use crate::pg::store::RelationStore;
use crate::sample::Reservoir;
use distillvq_ivf::{MAX_SIDE_BYTES, create_empty};
use distillvq_quantizer::{
    MAX_HELD_OUT, MIN_TRAIN_ROWS, Metric, Model, Monitor, TrainError, TrainOptions, Trained,
    auto_lists, refine_bytes, refine_dimensions, sample_vectors, split_held_out, train,
};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// Seed of the sample and of the training in a build: the same table gives the same index.
const SEED: u64 = 1;
/// Rows that training looks at, at the most: more would cost time and teach nothing new.
const MOST_SAMPLE_ROWS: usize = 131_072;
/// With fewer sampled rows a list, lists and codes come out noticeably worse.
const FEW_ROWS_PER_LIST: usize = 30;
/// Bytes that training needs for each value of the sample: its own, and half as much for codes.
const BYTES_PER_VALUE: usize = size_of::<f32>() * 3 / 2;

/// A sample of so many rows can spare those that the index is measured with.
const ENOUGH_ROWS: usize = 8_000;

/// Phases of a build, as `pg_stat_progress_create_index` shows them; the numbers are those given to [`phase_name`].
/// Training's own phases follow [`SAMPLING`] in the order of the quantizer's `Phase`.
pub const SAMPLING: i64 = 2;
/// The pass over the table.
const LOADING: i64 = 8;
/// The last rows go to the pages.
const WRITING: i64 = 9;
/// Searches measure the recall.
pub const CALIBRATING: i64 = 10;

/// The name of a phase.
pub fn phase_name(number: i64) -> Option<&'static std::ffi::CStr> {
    match number {
        1 => Some(c"initializing"),
        2 => Some(c"sampling rows"),
        3 => Some(c"training: lists"),
        4 => Some(c"training: codebooks"),
        5 => Some(c"training: teacher"),
        6 => Some(c"training: distillation"),
        7 => Some(c"training: encoding"),
        8 => Some(c"loading rows"),
        9 => Some(c"writing lists"),
        10 => Some(c"calibrating"),
        _ => None,
    }
}

/// What a build counted.
pub struct Counts {
    /// Rows of the table.
    pub heap: f64,
    /// Rows of the index.
    pub index: f64,
}

/// The fixed facts of an index under construction.
struct Plan {
    index: Index,
    element: Element,
    metric: Metric,
    dim: usize,
    options: Options,
    /// Whether rows get refine codes.
    refine: bool,
}

/// A model, and queries to measure the index with.
struct Lesson {
    model: Model,
    queries: Queries,
}

/// Builds the index over the table's rows.
pub fn build(heap: Heap, index: Index, info: &IndexInfo) -> Result<Counts> {
    let (element, dim, options) = (index.element()?, index.dimensions()?, index.options());
    let plan = Plan {
        index,
        element,
        metric: index.metric()?,
        dim,
        refine: refine(element, dim, &options)?,
        options,
    };
    // At a commit, without a snapshot, nothing may fail.
    if plan.options.model.is_none() && crate::pg::has_snapshot() {
        let asked = train_options(&plan.options, plan.metric, 0, SEED);
        asked.check(dim).map_err(|source| Error::Train {
            relation: index.name(),
            source,
        })?;
    }
    if heap.is_empty() || crate::pg::in_binary_upgrade() {
        return over_nothing(&plan);
    }
    let (lesson, rows) = match &plan.options.model {
        Some(name) => {
            let (lesson, rows) = with_queries(&plan, heap, named_model(&plan, name)?)?;
            (Some(lesson), rows)
        }
        None => train_from_table(&plan, heap)?,
    };
    load::load(&plan, heap, info, lesson, rows)
}

/// Builds the index of an empty table. That happens at each commit to those of temporary tables `ON COMMIT DELETE ROWS`, where
/// nobody waits for an answer, and nothing may fail: then it says nothing, and does without a model that is gone.
fn over_nothing(plan: &Plan) -> Result<Counts> {
    let at_commit = !crate::pg::has_snapshot();
    let model = match &plan.options.model {
        // The tables are empty, that of the models too: the old index's file takes the place of what is built here.
        Some(_) if crate::pg::in_binary_upgrade() => None,
        Some(name) => match crate::pg::with_snapshot(|| named_model(plan, name)) {
            Ok(model) => Some(model),
            Err(_) if at_commit => None,
            Err(error) => return Err(error),
        },
        None if at_commit => None,
        None => {
            too_few_rows(plan, 0);
            None
        }
    };
    load::load_nothing(plan, model.as_ref())?;
    Ok(Counts {
        heap: 0.0,
        index: 0.0,
    })
}

/// Whether the index keeps refine codes. Unless it is told, it does where vectors do not lie in the table's own pages: there
/// each exact comparison costs as much as ranking dozens of rows by such codes.
fn refine(element: Element, dim: usize, options: &Options) -> Result<bool> {
    /// Vectors of more bytes are stored out of line (TOAST_TUPLE_THRESHOLD, less what else a row has).
    const INLINE: usize = 1_900;
    let fits = refine_bytes(dim) <= MAX_SIDE_BYTES;
    match options.refine {
        Some(true) if !fits => Err(Error::RefineDimensions {
            dim,
            most: refine_dimensions(MAX_SIDE_BYTES),
        }),
        Some(wanted) => Ok(wanted),
        None => Ok(fits && element.bytes() * dim > INLINE),
    }
}

/// The named model, if it fits the index.
fn named_model(plan: &Plan, name: &str) -> Result<Model> {
    let model = models::load(name)?;
    let name = name.to_owned();
    if model.dim() != plan.dim {
        return Err(Error::ModelDimensions {
            name,
            model: model.dim(),
            index: plan.dim,
        });
    }
    if model.metric() != plan.metric {
        return Err(Error::ModelMetric {
            name,
            model: model.metric(),
            index: plan.metric,
            element: plan.element,
        });
    }
    let options = &plan.options;
    let asked = [
        ("lists", options.lists, model.lists()),
        (
            "subquantizers",
            options.subquantizers,
            model.subquantizers(),
        ),
        ("bits", options.bits, usize::from(model.bits())),
    ];
    match asked
        .into_iter()
        .find(|&(_, option, trained)| option != 0 && option != trained)
    {
        Some((name, option, trained)) => {
            let model = options.model.clone().unwrap_or_default();
            Err(Error::OptionAgainstModel {
                name,
                option,
                trained,
                model,
            })
        }
        None => Ok(model),
    }
}

/// A named model with the queries that it brings, or with rows of the table; and the number of these.
fn with_queries(plan: &Plan, heap: Heap, model: Model) -> Result<(Lesson, usize)> {
    let (dim, known) = (plan.dim, heap.estimated_rows());
    let (queries, rows) = match Queries::of_log(model.held_out(), dim, known) {
        Some(queries) => (queries, known),
        None => rows_as_queries(heap, plan.index, dim)?,
    };
    Ok((Lesson { model, queries }, rows))
}

/// Rows that pose as queries, and the number of all of them.
pub fn rows_as_queries(heap: Heap, index: Index, dim: usize) -> Result<(Queries, usize)> {
    crate::pg::report_phase(SAMPLING);
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    let element = index.element()?;
    let Picked { vectors, rows } = heap::pick(heap, index, element, MAX_HELD_OUT, &mut random)?;
    let queries = Queries::of_rows(dim, rows, |wanted| {
        sample_vectors(&vectors, dim, wanted, SEED)
    });
    Ok((queries, rows))
}

/// Takes queries out of a sample of so many rows, or copies of some of its rows if training needs them all.
fn queries_of_sample(sample: &mut Vec<f32>, dim: usize, rows: usize) -> Queries {
    Queries::of_rows(dim, rows, |wanted| {
        if sample.len() / dim.max(1) >= ENOUGH_ROWS {
            split_held_out(sample, dim, wanted, SEED)
        } else {
            sample_vectors(sample, dim, wanted, SEED)
        }
    })
}

/// Samples the table and trains on it; no model if it holds too little to learn from. The number is that of its rows.
fn train_from_table(plan: &Plan, heap: Heap) -> Result<(Option<Lesson>, usize)> {
    crate::pg::report_phase(SAMPLING);
    let mut reservoir = Reservoir::new(sample_capacity(plan.dim), plan.dim, SEED);
    heap::sample(heap, plan.index, plan.element, &mut reservoir)?;
    let rows = reservoir.offered();
    if rows < MIN_TRAIN_ROWS {
        too_few_rows(plan, rows);
        return Ok((None, rows));
    }
    let options = train_options(&plan.options, plan.metric, rows, SEED);
    let mut sample = reservoir.into_rows();
    let dim = plan.dim;
    tell_of_small_sample(&plan.index.name(), &sample, dim, &options, (1, 1));
    let queries = queries_of_sample(&mut sample, dim, rows);
    memory_for_training(&sample, dim)?;
    let job = |monitor: &dyn Monitor| train(sample, dim, None, &options, monitor);
    match run_training(&plan.index.name(), job) {
        Ok(Trained { model, .. }) => Ok((Some(Lesson { model, queries }), rows)),
        Err(Error::Train {
            source: TrainError::TooFewRows { usable, .. },
            ..
        }) => {
            too_few_rows(plan, usable);
            Ok((None, rows))
        }
        Err(error) => Err(error),
    }
}

/// Options of a training from those of an index; `rows` are those of the whole table.
pub fn train_options(options: &Options, metric: Metric, rows: usize, seed: u64) -> TrainOptions {
    TrainOptions {
        metric,
        lists: options.lists,
        subquantizers: options.subquantizers,
        bits: if options.bits == 8 { 8 } else { 4 },
        seed,
        rows_in_table: rows,
        ..TrainOptions::default()
    }
}

/// Rows to sample, so that training stays within `maintenance_work_mem`.
pub fn sample_capacity(dim: usize) -> usize {
    let whole = crate::pg::maintenance_bytes();
    let left = whole.saturating_sub(beside_sample(dim)).max(whole / 4);
    (left / (dim * BYTES_PER_VALUE)).clamp(MIN_TRAIN_ROWS, MOST_SAMPLE_ROWS)
}

/// Says so when `maintenance_work_mem` leaves the training fewer rows than are good for its lists, and what would be enough.
/// Of the sample's memory, rows have so many parts of so many.
pub fn tell_of_small_sample(
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
    let most = rows.min(MOST_SAMPLE_ROWS * parts / of);
    let wanted = (FEW_ROWS_PER_LIST * lists).min(most);
    if sampled >= wanted {
        return;
    }
    let enough = beside_sample(dim) + wanted * dim * BYTES_PER_VALUE * of / parts;
    crate::pg::notice(
        &format!(
            "training on \"{relation}\" looks at {sampled} of {rows} rows, as many as maintenance_work_mem allows"
        ),
        &format!(
            "With {lists} lists at least {wanted} rows are good: fewer make searches less accurate."
        ),
        &format!(
            "Before, SET maintenance_work_mem = '{}MB' or more.",
            enough.div_ceil(MB) + 1
        ),
    );
}

/// What training holds beside the sample and its codes: buffers of a fixed number of rows, and what any training needs
/// (measured).
fn beside_sample(dim: usize) -> usize {
    const BUFFERED_ROWS: usize = 8_192;
    const BASE: usize = 24 << 20;
    BASE + BUFFERED_ROWS * dim * size_of::<f32>()
}

/// Refuses a training for whose sample (and half as much for its codes) there is no memory.
pub fn memory_for_training(sample: &[f32], dim: usize) -> Result<()> {
    let bytes = size_of_val(sample) / 2 + beside_sample(dim);
    Error::unless_memory_for(bytes, "training")
}

/// Trains on threads, reporting progress. `relation` names the source of the rows in errors.
pub fn run_training(
    relation: &str,
    job: impl FnOnce(&dyn Monitor) -> std::result::Result<Trained, TrainError> + Send,
) -> Result<Trained> {
    let report = |phase: usize, done, total| {
        if phase > 0 {
            crate::pg::report_phase(SAMPLING + phase as i64);
            crate::pg::report_progress(done, total);
        }
    };
    let trained = compute::run(report, job);
    compute::return_memory();
    trained?.map_err(|source| Error::Train {
        relation: relation.to_owned(),
        source,
    })
}

fn too_few_rows(plan: &Plan, rows: usize) {
    let index = plan.index.name();
    crate::pg::notice(
        &format!(
            "index \"{index}\" has no trained quantizer: its table holds {rows} rows, training needs {MIN_TRAIN_ROWS}"
        ),
        "Searches are exact, by looking at every row; they slow down as the table grows.",
        &format!(
            "Once the table is filled, train with REINDEX INDEX {}.",
            plan.index.quoted_name()
        ),
    );
}

/// Fills the init fork of an unlogged index: the same model without rows, what the index is after a crash.
pub fn build_empty(index: Index) -> Result<()> {
    let (built, init) = (
        RelationStore::new(index),
        RelationStore::for_init_fork(index),
    );
    create_empty(&built, &init).map_err(of_index(index))?;
    init.log_all();
    Ok(())
}
