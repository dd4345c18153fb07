//! Training, from the sample to the model.

use crate::coded::Coded;
use crate::kmeans::{Assigner, Nearest, kmeans};
use crate::lessons::Exact;
use crate::linalg::{MatRef, ROWS, half_norms, norm2};
use crate::model::{Body, Tables};
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
    /// The same as the model's own report.
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
    let space = Space::fit(options.metric, dim, sample);
    let rows = usable_rows(&space, sample, monitor)?;
    let x = MatRef::new(&rows, dim);
    let given = sample.len() / dim;
    if x.rows() < MIN_TRAIN_ROWS {
        return Err(TrainError::TooFewRows {
            given,
            usable: x.rows(),
            needed: MIN_TRAIN_ROWS,
        });
    }
    let base = quantize(x, options, monitor)?;
    let queries = usable_queries(&space, queries.unwrap_or_default());
    let mut report = Report {
        rows: x.rows(),
        queries: queries.len() / dim,
        ..Report::default()
    };
    let graduates = if options.distill {
        let norms: Option<Vec<f32>> = (options.metric == Metric::L2)
            .then(|| (0..x.rows()).map(|i| norm2(x.row(i))).collect());
        let school = School {
            rows: &Exact {
                x,
                norms: norms.as_deref(),
            },
            coded: &base.coded,
            encoder: &base.encoder,
            half_norms: &base.half_norms,
            options,
            monitor,
        };
        school.run(MatRef::new(&queries, dim), &mut report)?
    } else {
        Graduates::default()
    };
    let body = Body {
        space,
        lists: base.half_norms.len(),
        bits: options.bits,
        encoder: base.encoder,
        decoder: graduates.decoder,
        routing: graduates.routing,
        scale: base.scale,
        report: report.clone(),
    };
    let model = Model::new(body).map_err(TrainError::Model)?;
    Ok(Trained { model, report })
}

fn check(
    sample: &[f32],
    dim: usize,
    queries: Option<&[f32]>,
    options: &TrainOptions,
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

/// The internal vectors of the rows that can be learned from.
fn usable_rows(
    space: &Space,
    sample: &[f32],
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
        .filter(|(_, kind)| **kind == Kind::Usable)
    {
        rows.copy_within(i * dim..(i + 1) * dim, kept * dim);
        kept += 1;
    }
    rows.truncate(kept * dim);
    Ok(rows)
}

/// The internal vectors of the queries that can be learned from.
fn usable_queries(space: &Space, queries: &[f32]) -> Vec<f32> {
    let mut usable = Vec::new();
    let mut vector = vec![0f32; space.dim];
    for query in queries.chunks_exact(space.dim) {
        space.query(query, &mut vector);
        let zero = space.metric != Metric::L2 && vector.iter().all(|x| *x == 0.0);
        if query.iter().all(|x| x.is_finite()) && !zero {
            usable.extend_from_slice(&vector);
        }
    }
    usable
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

/// Stops when the monitor wants it.
pub(crate) fn keep_on(monitor: &dyn Monitor) -> Result<(), TrainError> {
    if monitor.interrupted() {
        Err(TrainError::Interrupted)
    } else {
        Ok(())
    }
}
