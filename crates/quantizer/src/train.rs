//! Training, from the sample to the model.

use crate::coded::Coded;
use crate::kmeans::{Assigner, Nearest, kmeans};
use crate::lessons::Exact;
use crate::linalg::{MatRef, ROWS, half_norms, norm2};
use crate::model::{Body, Encoder, Student, Tables};
use crate::options::{MAX_DIM, MAX_LISTS, MIN_TRAIN_ROWS, max_subquantizers};
use crate::scale::Scale;
use crate::school::{Graduates, School};
use crate::space::{Kind, Space};
use crate::{
    Metric, Model, Monitor, Report, TrainError, TrainOptions, auto_lists, auto_subquantizers, par,
    product,
};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// Rows a list that k-means looks at.
const ROWS_PER_LIST: usize = 128;
/// Sampled rows a list that an automatic number of lists leaves at least.
const LEAST_ROWS_PER_LIST: usize = 16;
/// Rows that codebooks of 16 words are learned from.
const CODEBOOK_ROWS_4: usize = 32_768;
/// Rows that codebooks of 256 words are learned from.
const CODEBOOK_ROWS_8: usize = 65_536;

/// A model and what its training did.
#[derive(Debug, Clone)]
pub struct Trained {
    /// The model.
    pub model: Model,
    /// The model's own report, unless a model was trained again and nothing of it was kept.
    pub report: Report,
}

/// Trains a model.
///
/// `sample` holds n×`dim` raw values as they are stored in the table, `queries` m×`dim`. Rows and queries that are not
/// finite, zero rows under cosine, and rows far longer than the others are left out. Called on a thread of a rayon pool
/// it uses that pool, otherwise this thread alone; the result depends on the seed, not on the number of threads. Memory
/// is one copy of the sample and little more.
///
/// # Errors
/// [`TrainError`] for options and shapes out of range, for fewer than [`MIN_TRAIN_ROWS`] usable rows, and when
/// `monitor` interrupts.
pub fn train(
    sample: &[f32],
    dim: usize,
    queries: Option<&[f32]>,
    options: &TrainOptions,
    monitor: &dyn Monitor,
) -> Result<Trained, TrainError> {
    check(sample, dim, queries, options)?;
    let space = Space::fit(options.metric, dim, sample, monitor)?;
    let rows = usable_rows(&space, sample, |_| true, monitor)?;
    let x = MatRef::new(&rows, dim);
    check_count(sample.len() / dim, x)?;
    let base = quantize(x, options, monitor)?;
    let queries = usable_queries(&space, queries.unwrap_or_default(), monitor)?;
    let mut report = Report {
        rows: x.rows(),
        queries: queries.len() / dim,
        ..Report::default()
    };
    let graduates = if options.distill {
        let norms = row_norms(options.metric, x);
        let school = School {
            rows: &Exact {
                x,
                norms: norms.as_deref(),
            },
            coded: &base.coded,
            encoder: &base.encoder,
            student: &Student::default(),
            half_norms: &base.half_norms,
            options,
            monitor,
        };
        school.run(MatRef::new(&queries, dim), &mut report)?
    } else {
        Graduates::default()
    };
    let body = Body {
        encoder: Encoder {
            space,
            lists: base.half_norms.len(),
            bits: options.bits,
            tables: base.encoder,
            scale: base.scale,
        },
        student: Student {
            decoder: graduates.decoder,
            routing: graduates.routing,
            report: report.clone(),
        },
    };
    let model = Model::new(body).map_err(TrainError::Model)?;
    Ok(Trained { model, report })
}

/// Whether there are enough of the `given` rows.
pub(crate) fn check_count(given: usize, usable: MatRef<'_>) -> Result<(), TrainError> {
    if usable.rows() < MIN_TRAIN_ROWS {
        return Err(TrainError::TooFewRows {
            given,
            usable: usable.rows(),
            needed: MIN_TRAIN_ROWS,
        });
    }
    Ok(())
}

/// Squared norms of the rows, which only L2 needs.
pub(crate) fn row_norms(metric: Metric, x: MatRef<'_>) -> Option<Vec<f32>> {
    (metric == Metric::L2).then(|| (0..x.rows()).map(|i| norm2(x.row(i))).collect())
}

/// Whether sample and queries are whole rows of an allowed dimension.
pub(crate) fn check_shapes(
    sample: &[f32],
    dim: usize,
    queries: Option<&[f32]>,
) -> Result<(), TrainError> {
    if dim == 0 || dim > MAX_DIM {
        return Err(TrainError::Dimension { dim, max: MAX_DIM });
    }
    for (what, values) in [("rows", sample), ("queries", queries.unwrap_or_default())] {
        if !values.len().is_multiple_of(dim) {
            return Err(TrainError::Ragged {
                what,
                len: values.len(),
                dim,
            });
        }
    }
    Ok(())
}

fn check(
    sample: &[f32],
    dim: usize,
    queries: Option<&[f32]>,
    options: &TrainOptions,
) -> Result<(), TrainError> {
    check_shapes(sample, dim, queries)?;
    let option = |holds: bool, option, value, allowed: String| {
        if holds {
            Ok(())
        } else {
            Err(TrainError::Option {
                option,
                value,
                allowed,
            })
        }
    };
    let (bits, lists, m) = (options.bits, options.lists, options.subquantizers);
    option(
        bits == 4 || bits == 8,
        "bits",
        usize::from(bits),
        "4 or 8".to_owned(),
    )?;
    option(
        lists <= MAX_LISTS,
        "lists",
        lists,
        format!("0 to {MAX_LISTS}"),
    )?;
    let most = max_subquantizers(bits).min(dim);
    option(m <= most, "subquantizers", m, format!("0 to {most}"))
}

/// The internal vectors of the rows that can be learned from, as far as they are `wanted` (by number).
pub(crate) fn usable_rows(
    space: &Space,
    sample: &[f32],
    wanted: impl Fn(usize) -> bool,
    monitor: &dyn Monitor,
) -> Result<Vec<f32>, TrainError> {
    let dim = space.dim;
    let mut rows = vec![0f32; sample.len()];
    let mut kinds = vec![Kind::Exact; sample.len() / dim];
    let pieces = rows.chunks_mut(dim * ROWS).zip(kinds.chunks_mut(ROWS));
    par::each_mut(&mut pieces.collect::<Vec<_>>(), |piece, (rows, kinds)| {
        keep_on(monitor)?;
        for (i, (row, kind)) in rows.chunks_exact_mut(dim).zip(kinds.iter_mut()).enumerate() {
            let at = (piece * ROWS + i) * dim;
            *kind = space.row(&sample[at..at + dim], row);
        }
        Ok(())
    })?;
    let mut kept = 0;
    for (i, _) in kinds
        .iter()
        .enumerate()
        .filter(|(i, kind)| **kind == Kind::Usable && wanted(*i))
    {
        rows.copy_within(i * dim..(i + 1) * dim, kept * dim);
        kept += 1;
    }
    rows.truncate(kept * dim);
    Ok(rows)
}

/// The internal vectors of the queries that can be learned from.
pub(crate) fn usable_queries(
    space: &Space,
    queries: &[f32],
    monitor: &dyn Monitor,
) -> Result<Vec<f32>, TrainError> {
    let mut usable = Vec::new();
    let mut vector = vec![0f32; space.dim];
    for query in watched(queries.chunks_exact(space.dim), monitor) {
        let query = query?;
        space.query(query, &mut vector);
        let zero = space.metric != Metric::L2 && vector.iter().all(|x| *x == 0.0);
        if query.iter().all(|x| x.is_finite()) && !zero {
            usable.extend_from_slice(&vector);
        }
    }
    Ok(usable)
}

/// What is learned without a teacher: the reconstruction.
struct Base {
    encoder: Tables,
    half_norms: Vec<f32>,
    scale: Scale,
    coded: Coded,
}

/// Learns lists and codebooks and encodes the sample.
fn quantize(
    x: MatRef<'_>,
    options: &TrainOptions,
    monitor: &dyn Monitor,
) -> Result<Base, TrainError> {
    let n = x.rows();
    let table = if options.rows_in_table == 0 {
        n
    } else {
        options.rows_in_table
    };
    let lists = match options.lists {
        0 => auto_lists(table).min(n / LEAST_ROWS_PER_LIST),
        lists => lists.min(n),
    };
    let chosen = choose(n, lists * ROWS_PER_LIST, options.seed);
    let centroids = kmeans(x, &chosen, lists, options.seed ^ 1, monitor)?;
    let half_norms = half_norms(MatRef::new(&centroids, x.cols));
    let mut nearest = vec![Nearest::default(); n];
    let assigner = Assigner::new(MatRef::new(&centroids, x.cols), &half_norms);
    par::chunks_mut(&mut nearest, ROWS, |i, out| {
        assigner.assign(x.slice(i * ROWS, (i + 1) * ROWS), out, || keep_on(monitor))
    })?;
    let (subquantizers, most) = match options.bits {
        4 => (auto_subquantizers(x.cols, 4), CODEBOOK_ROWS_4),
        bits => (auto_subquantizers(x.cols, bits), CODEBOOK_ROWS_8),
    };
    let subquantizers = if options.subquantizers == 0 {
        subquantizers
    } else {
        options.subquantizers
    };
    let shape = (subquantizers, 1 << options.bits);
    let rows = choose(n, most, options.seed ^ 2);
    let view = MatRef::new(&centroids, x.cols);
    let books = product::train(x, &rows, &nearest, view, shape, options.seed ^ 3, monitor)?;
    let encoder = Tables { centroids, books };
    let (coded, scale) = Coded::new(x, nearest, &half_norms, &encoder, monitor)?;
    Ok(Base {
        encoder,
        half_norms,
        scale,
        coded,
    })
}

/// At most `most` of `n` rows, in ascending order.
fn choose(n: usize, most: usize, seed: u64) -> Vec<u32> {
    if most >= n {
        return (0..n as u32).collect();
    }
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let chosen = rand::seq::index::sample(&mut rng, n, most);
    let mut chosen: Vec<u32> = chosen.iter().map(|i| i as u32).collect();
    chosen.sort_unstable();
    chosen
}

/// The same items, the monitor being asked every thousand of them.
pub(crate) fn watched<'a, T>(
    items: impl Iterator<Item = T> + 'a,
    monitor: &'a dyn Monitor,
) -> impl Iterator<Item = Result<T, TrainError>> + 'a {
    let ask = |i: usize| match i % 1024 {
        0 => keep_on(monitor),
        _ => Ok(()),
    };
    items
        .enumerate()
        .map(move |(i, item)| ask(i).map(|()| item))
}

/// Stops when the monitor wants it.
pub(crate) fn keep_on(monitor: &dyn Monitor) -> Result<(), TrainError> {
    if monitor.interrupted() {
        Err(TrainError::Interrupted)
    } else {
        Ok(())
    }
}
