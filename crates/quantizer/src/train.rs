//! Training, from the sample to the model.

use crate::coarse::flat::Assignment;
use crate::codebooks::Codebooks;
use crate::distillation::{Distillation, DistilledParts};
use crate::encoded_sample::EncodedSample;
use crate::kmeans::{assign_rows, kmeans};
use crate::linalg::{MatRef, ROWS, half_norms, squared_norm};
use crate::norm_correction::NormCorrection;
use crate::options::{MAX_DIM, MAX_TRANSFORM_DIM, MIN_TRAIN_ROWS};
use crate::orthogonal::{random, rotate as rotate_rows, structured};
use crate::params::{Encoder, IvfPqTables, ModelData, Student};
use crate::pq::Residuals;
use crate::preprocess::{Preprocess, RowClass};
use crate::progress::{check_interrupts, with_interrupts};
use crate::training_set::SampleVectors;
use crate::{
    Metric, Model, Monitor, Rotation, TrainError, TrainOptions, TrainReport, auto_lists,
    auto_subquantizers, bf16, opq, par, pq,
};
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use std::borrow::Cow;

/// Rows a list that k-means looks at.
const ROWS_PER_LIST: usize = 64;
/// Minimum number of sampled rows per list of an automatic number of lists.
const MIN_ROWS_PER_LIST: usize = 16;
/// Rows that codebooks of 16 words are learned from.
const CODEBOOK_ROWS_4: usize = 32_768;
/// Rows that codebooks of 256 words are learned from.
const CODEBOOK_ROWS_8: usize = 65_536;
/// Rows that a rotation is learned from, with 16 and with 256 words.
const ROTATION_ROWS_4: usize = 16_384;
const ROTATION_ROWS_8: usize = 24_576;

/// A model and what its training did.
#[derive(Debug, Clone)]
pub struct Trained {
    /// The model.
    pub model: Model,
    /// The model's own report, unless a model was trained again and nothing of it was kept.
    pub report: TrainReport,
}

/// Trains a model.
///
/// `sample` holds n×`dim` raw values as they are stored in the table, `queries` m×`dim`. Rows and queries that are not
/// finite, zero rows under cosine, and rows far longer than the others are left out. Called on a thread of a rayon pool
/// it uses that pool, otherwise this thread alone; the result depends on the seed, not on the number of threads. Samples
/// that are given away are worked on in place; of borrowed ones a copy is made.
///
/// # Errors
/// [`TrainError`] for options and shapes out of range, for fewer than [`MIN_TRAIN_ROWS`] usable rows, and when
/// `monitor` interrupts.
pub fn train<'a>(
    sample: impl Into<Cow<'a, [f32]>>,
    dim: usize,
    queries: Option<Cow<'_, [f32]>>,
    options: &TrainOptions,
    monitor: &dyn Monitor,
) -> Result<Trained, TrainError> {
    let sample = sample.into();
    check(&sample, dim, queries.as_deref(), options)?;
    let given = sample.len() / dim;
    let mut space = Preprocess::fit(options.metric, dim, &sample, monitor)?;
    let mut rows = usable_rows(&space, sample.into_owned(), |_| true, monitor)?;
    check_count(given, MatRef::new(&rows, dim))?;
    let base = fit_quantizer(&mut rows, &mut space, options, monitor)?;
    let x = MatRef::new(&rows, dim);
    let queries = usable_queries(&space, queries.unwrap_or_default().into_owned(), monitor)?;
    let mut report = TrainReport {
        rows: x.rows(),
        queries: queries.len() / dim,
        ..TrainReport::default()
    };
    let distilled = if options.distill {
        let norms = row_norms(options.metric, x);
        let distillation = Distillation {
            rows: &SampleVectors {
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
        distillation.run(MatRef::new(&queries, dim), &mut report)?
    } else {
        DistilledParts::default()
    };
    let body = ModelData {
        encoder: Encoder {
            space,
            lists: base.half_norms.len(),
            bits: options.bits,
            tables: base.encoder,
            scale: base.scale,
        },
        student: Student {
            decoder: distilled.decoder.into_decoder(None),
            routing: distilled.routing,
            report: report.clone(),
        },
        held_out: Vec::new(),
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
    (metric == Metric::L2).then(|| (0..x.rows()).map(|i| squared_norm(x.row(i))).collect())
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
    options.check(dim)
}

/// Turns raw rows into the internal vectors of those that can be learned from, as far as they are `wanted` (by number).
pub(crate) fn usable_rows(
    space: &Preprocess,
    mut rows: Vec<f32>,
    wanted: impl Fn(usize) -> bool,
    monitor: &dyn Monitor,
) -> Result<Vec<f32>, TrainError> {
    let dim = space.dim;
    let mut kinds = vec![RowClass::Unencodable; rows.len() / dim];
    let pieces = rows.chunks_mut(dim * ROWS).zip(kinds.chunks_mut(ROWS));
    par::each_mut(&mut pieces.collect::<Vec<_>>(), |_, (rows, kinds)| {
        check_interrupts(monitor)?;
        let raw = rows.to_vec();
        kinds.copy_from_slice(&space.rows(MatRef::new(&raw, dim), rows));
        Ok(())
    })?;
    let mut kept = 0;
    for (i, _) in kinds
        .iter()
        .enumerate()
        .filter(|(i, kind)| **kind == RowClass::Encodable && wanted(*i))
    {
        rows.copy_within(i * dim..(i + 1) * dim, kept * dim);
        kept += 1;
    }
    rows.truncate(kept * dim);
    Ok(rows)
}

/// Turns raw queries into the internal vectors of those that can be learned from.
pub(crate) fn usable_queries(
    space: &Preprocess,
    mut queries: Vec<f32>,
    monitor: &dyn Monitor,
) -> Result<Vec<f32>, TrainError> {
    let dim = space.dim;
    let mut vector = vec![0f32; dim];
    let mut kept = 0;
    for i in with_interrupts(0..queries.len() / dim, monitor) {
        let raw = i? * dim;
        let raw = raw..raw + dim;
        let finite = queries[raw.clone()].iter().all(|x| x.is_finite());
        space.query(&queries[raw], &mut vector);
        let zero = space.metric != Metric::L2 && vector.iter().all(|x| *x == 0.0);
        if finite && !zero {
            queries[kept..kept + dim].copy_from_slice(&vector);
            kept += dim;
        }
    }
    queries.truncate(kept);
    Ok(queries)
}

/// The quantizer before distillation.
struct BaseQuantizer {
    encoder: IvfPqTables,
    half_norms: Vec<f32>,
    scale: NormCorrection,
    coded: EncodedSample,
}

/// Trains lists, rotation and codebooks, and encodes the sample. The rows and the space are left rotated.
fn fit_quantizer(
    rows: &mut [f32],
    space: &mut Preprocess,
    options: &TrainOptions,
    monitor: &dyn Monitor,
) -> Result<BaseQuantizer, TrainError> {
    let (mut centroids, nearest) = lists(MatRef::new(rows, space.dim), options, monitor)?;
    let (shape, most) = shape(space.dim, options);
    let chosen = sample_indices(nearest.len(), most, options.seed ^ 2);
    let start = rotate(
        (&mut *rows, &mut centroids, &nearest),
        space,
        shape,
        options,
        monitor,
    )?;
    let x = MatRef::new(rows, space.dim);
    let residuals = Residuals {
        x,
        chosen: &chosen,
        nearest: &nearest,
        centroids: MatRef::new(&centroids, x.cols),
    };
    let mut books = pq::train(&residuals, shape, start, options.seed ^ 3, monitor)?;
    bf16::round_to_bf16(&mut books.values, x.cols);
    let half_norms = half_norms(MatRef::new(&centroids, x.cols));
    let encoder = IvfPqTables { centroids, books };
    let (coded, scale) = EncodedSample::new(x, nearest, &half_norms, &encoder, monitor)?;
    Ok(BaseQuantizer {
        encoder,
        half_norms,
        scale,
        coded,
    })
}

/// Centroids of the lists, and the list of every row.
fn lists(
    x: MatRef<'_>,
    options: &TrainOptions,
    monitor: &dyn Monitor,
) -> Result<(Vec<f32>, Vec<Assignment>), TrainError> {
    let n = x.rows();
    let lists = match options.lists {
        0 => auto_lists(options.table_rows(n)).min(n / MIN_ROWS_PER_LIST),
        lists => lists.min(n),
    };
    let chosen = sample_indices(n, lists * ROWS_PER_LIST, options.seed);
    let centroids = kmeans(x, &chosen, lists, options.seed ^ 1, monitor)?;
    let mut nearest = vec![Assignment::default(); n];
    let all = sample_indices(n, n, options.seed);
    assign_rows(x, &all, &centroids, &mut nearest, monitor)?;
    Ok((centroids, nearest))
}

/// Sub-quantizers and words, and the rows that codebooks are learned from at the most.
fn shape(dim: usize, options: &TrainOptions) -> ((usize, usize), usize) {
    let subquantizers = match options.subquantizers {
        0 => auto_subquantizers(dim, options.bits),
        given => given,
    };
    let most = if options.bits == 4 {
        CODEBOOK_ROWS_4
    } else {
        CODEBOOK_ROWS_8
    };
    ((subquantizers, 1 << options.bits), most)
}

/// Rotates rows, centroids and space as the options want it; a rotation that is learned brings codebooks with it.
fn rotate(
    (rows, centroids, nearest): (&mut [f32], &mut [f32], &[Assignment]),
    space: &mut Preprocess,
    shape: (usize, usize),
    options: &TrainOptions,
    monitor: &dyn Monitor,
) -> Result<Option<Codebooks>, TrainError> {
    let (dim, seed) = (space.dim, options.seed ^ 7);
    let rounds = opq::rounds(dim, shape.1, options.table_rows(nearest.len()));
    let (mut rotation, books) = match options.rotation {
        Rotation::None => return Ok(None),
        Rotation::Auto
            if shape.0 == dim
                || (options.bits == 4 && dim > MAX_TRANSFORM_DIM)
                || rounds.is_none() =>
        {
            return Ok(None);
        }
        Rotation::Random => (random(dim, seed, || check_interrupts(monitor))?, None),
        Rotation::Structured => (structured(dim, seed), None),
        Rotation::Auto | Rotation::Learned => {
            let n = nearest.len();
            let most = if options.bits == 4 {
                ROTATION_ROWS_4
            } else {
                ROTATION_ROWS_8
            };
            let mut chosen = sample_indices(n, most, seed);
            chosen.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
            let residuals = Residuals {
                x: MatRef::new(rows, dim),
                chosen: &chosen,
                nearest,
                centroids: MatRef::new(centroids, dim),
            };
            let rounds = rounds.unwrap_or(opq::FEWEST_ROUNDS);
            let learned = opq::train_opq(&residuals, shape, rounds, seed, monitor)?;
            (learned.rotation, Some(learned.books))
        }
    };
    bf16::round_to_bf16(&mut rotation, dim);
    rotate_rows(&rotation, rows, dim, || check_interrupts(monitor))?;
    rotate_rows(&rotation, centroids, dim, || check_interrupts(monitor))?;
    space.rotation = rotation;
    Ok(books)
}

/// Samples at most `most` of `n` rows, in ascending order.
fn sample_indices(n: usize, most: usize, seed: u64) -> Vec<u32> {
    if most >= n {
        return (0..n as u32).collect();
    }
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let chosen = rand::seq::index::sample(&mut rng, n, most);
    let mut chosen: Vec<u32> = chosen.iter().map(|i| i as u32).collect();
    chosen.sort_unstable();
    chosen
}
