//! Building an index: sample, train, then one pass over the table that encodes its rows into sorted runs ([`load`]).

mod load;

use crate::am::calibration::queries::{CalibrationQueries, rows_as_queries};
use crate::am::failure::with_index;
use crate::am::model_store::catalog;
use crate::am::query_sample;
use crate::am::training::plan::{BuildModel, BuildPlan};
use crate::am::training::run::{SEED, notice_untrained, train_from_table, train_options};
use crate::error::{Error, Result};
use crate::pg::element::ElementType;
use crate::pg::filter_columns::FilterColumns;
use crate::pg::heap::IndexInfo;
use crate::pg::page_store::RelationStore;
use crate::pg::relation::{Heap, Index};
use crate::settings::reloptions::Options;
use distillvq_ivf::filter::FilterFormat;
use distillvq_ivf::query_sample::QuerySample;
use distillvq_ivf::{MAX_SIDE_BYTES, QueryKind, copy_without_rows};
use distillvq_model::{Model, refine_bytes, refine_dimensions};
use distillvq_training::{auto_bits, auto_subquantizers};

/// What a build counted.
pub struct BuildCounts {
    /// Rows of the table.
    pub heap: f64,
    /// Rows of the index.
    pub index: f64,
}

/// Builds the index over the table's rows.
pub fn build(heap: Heap, index: Index, info: &IndexInfo) -> Result<BuildCounts> {
    let plan = plan(index)?;
    let dim = plan.dim;
    // At a commit, without a snapshot, nothing may fail.
    if plan.options.model.is_none() && crate::pg::server::has_snapshot() {
        let asked = train_options(&plan.options, plan.metric, (0, dim), SEED);
        asked.check(dim).map_err(|source| Error::Train {
            relation: index.name(),
            source,
        })?;
    }
    if heap.is_empty() || crate::pg::server::in_binary_upgrade() {
        return over_nothing(&plan);
    }
    let sample = if plan.options.samples_queries() {
        query_sample::inherited(heap, index, dim)
    } else {
        QuerySample::default()
    };
    let (mut build_model, rows) = match &plan.options.model {
        Some(name) => {
            let (build_model, rows) = with_queries(&plan, heap, named_model(&plan, name)?)?;
            (Some(build_model), rows)
        }
        None => train_from_table(&plan, heap)?,
    };
    if let Some(build) = build_model
        .as_mut()
        .filter(|it| it.queries.kind == QueryKind::Rows)
        && let Some(queries) = CalibrationQueries::of_sample(&sample, dim, rows)
    {
        build.queries = queries;
    }
    load::load(&plan, heap, info, build_model, (rows, &sample))
}

/// The fixed facts of an index.
pub fn plan(index: Index) -> Result<BuildPlan> {
    let filters = FilterColumns::of(index)?;
    let (element, dim, mut options) = (index.element()?, index.dimensions()?, Options::of(index));
    let refine = refine(element, dim, &options)?;
    limit_codes(&mut options, dim, &filters.format())?;
    Ok(BuildPlan {
        index,
        element,
        metric: index.metric()?,
        dim,
        refine,
        filters,
        options: Options {
            refine: Some(refine),
            ..options
        },
    })
}

/// Builds the index of an empty table. That happens at each commit to those of temporary tables `ON COMMIT DELETE ROWS`, where
/// nobody waits for an answer, and nothing may fail: then it says nothing, and does without a model that is gone.
fn over_nothing(plan: &BuildPlan) -> Result<BuildCounts> {
    let at_commit = !crate::pg::server::has_snapshot();
    let model = match &plan.options.model {
        // The tables are empty, that of the models too: the old index's file takes the place of what is built here.
        Some(_) if crate::pg::server::in_binary_upgrade() => None,
        Some(name) => match crate::pg::server::with_snapshot(|| named_model(plan, name)) {
            Ok(model) => Some(model),
            Err(_) if at_commit => None,
            Err(error) => return Err(error),
        },
        None if at_commit => None,
        None => {
            notice_untrained(plan, 0);
            None
        }
    };
    load::load_nothing(plan, model.as_ref())?;
    Ok(BuildCounts {
        heap: 0.0,
        index: 0.0,
    })
}

/// Limits the subquantizers to those that fit on a page beside the filter columns.
fn limit_codes(options: &mut Options, dim: usize, filters: &FilterFormat) -> Result<()> {
    if filters.is_empty() {
        return Ok(());
    }
    let bits = match options.bits {
        0 => auto_bits(dim),
        bits => bits as u8,
    };
    let most = filters.max_subquantizers(bits);
    match options.subquantizers {
        0 if auto_subquantizers(dim, bits) > most => options.subquantizers = most,
        subquantizers if subquantizers > most => {
            return Err(Error::FilterSpace {
                subquantizers,
                bits,
                most,
            });
        }
        _ => (),
    }
    Ok(())
}

/// Whether the index keeps refine codes. Unless it is told, it does where vectors do not lie in the table's own pages: there
/// each exact comparison costs as much as ranking dozens of rows by such codes.
fn refine(element: ElementType, dim: usize, options: &Options) -> Result<bool> {
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
pub fn named_model(plan: &BuildPlan, name: &str) -> Result<Model> {
    let model = catalog::load(name)?;
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
            type_name: plan.element.name(),
        });
    }
    let most = plan.filters.format().max_subquantizers(model.bits());
    if model.subquantizers() > most {
        return Err(Error::FilterSpace {
            subquantizers: model.subquantizers(),
            bits: model.bits(),
            most,
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
        ("assignments", options.assignments, model.assignments()),
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
fn with_queries(plan: &BuildPlan, heap: Heap, model: Model) -> Result<(BuildModel, usize)> {
    let (dim, known) = (plan.dim, heap.estimated_rows());
    let (queries, rows) = match CalibrationQueries::of_log(model.held_out(), dim, known) {
        Some(queries) => (queries, known),
        None => rows_as_queries(heap, plan.index, dim)?,
    };
    Ok((BuildModel { model, queries }, rows))
}

/// Fills the init fork of an unlogged index: the same model without rows, what the index is after a crash.
pub fn build_empty(index: Index) -> Result<()> {
    let (built, init) = (
        RelationStore::new(index),
        RelationStore::for_init_fork(index),
    );
    copy_without_rows(&built, &init).map_err(with_index(index))?;
    init.log_all();
    Ok(())
}
