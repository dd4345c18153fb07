//! Training, from the sample to the model.

use crate::ablation::Rotation;
#[cfg(feature = "ablation")]
use crate::ablation::structured_rotation;
use crate::distillation::{Distillation, DistilledParts};
use crate::encoded_sample::EncodedSample;
use crate::error::TrainError;
use crate::kmeans::{assign_rows, assign_to_two, kmeans};
use crate::options::{MAX_TRANSFORM_DIM, TrainOptions, auto_lists, auto_subquantizers};
use crate::pq::{self, PqShape, Residuals};
use crate::progress::{Monitor, check_interrupts};
use crate::sample::{
    check_count, check_shapes, row_norms, sample_indices, usable_queries, usable_rows,
};
use crate::teacher::exact::SampleVectors;
use crate::{opq, preprocess};
use distillvq_linalg::matrix::{MatRef, half_norms};
#[cfg(feature = "ablation")]
use distillvq_linalg::orthogonal::random;
use distillvq_linalg::orthogonal::rotate as rotate_rows;
use distillvq_model::bf16;
use distillvq_model::coarse::flat::Assignment;
use distillvq_model::codebooks::Codebooks;
use distillvq_model::model::Model;
use distillvq_model::norm_correction::NormCorrection;
use distillvq_model::params::{Encoder, IvfPqTables, ModelData, Student, TrainReport};
use distillvq_model::preprocess::Preprocess;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use std::borrow::Cow;
use std::ops::RangeInclusive;

/// Rows per list that k-means uses, as far as the sample has them. With more rows, lists are more even.
const ROWS_PER_LIST: RangeInclusive<usize> = 64..=256;
/// Maximum number of products of a row with a centroid per round of k-means, unless the minimum of rows per list needs more.
const PRODUCTS_PER_ROUND: usize = 1 << 30;
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
/// [`TrainError`] for options and shapes out of range, for fewer than [`distillvq_model::MIN_TRAIN_ROWS`] usable rows, and when
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
    let mut space = preprocess::fit(options.metric, dim, &sample, monitor)?;
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
            assignments: options.assignments,
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

fn check(
    sample: &[f32],
    dim: usize,
    queries: Option<&[f32]>,
    options: &TrainOptions,
) -> Result<(), TrainError> {
    check_shapes(sample, dim, queries)?;
    options.check(dim)
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
    let x = MatRef::new(rows, space.dim);
    let Lists {
        mut centroids,
        nearest,
        second,
    } = lists(x, options, monitor)?;
    let (shape, most) = shape(space.dim, options);
    let chosen = sample_indices(nearest.len() + second.len(), most, options.seed ^ 2);
    let start = rotate(
        (&mut *rows, &mut centroids),
        (&nearest, &second),
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
        second: &second,
        centroids: MatRef::new(&centroids, x.cols),
    };
    let mut books = pq::train(&residuals, shape, start, options.seed ^ 3, monitor)?;
    bf16::round_to_bf16(&mut books.values, x.cols);
    let half_norms = half_norms(MatRef::new(&centroids, x.cols));
    let encoder = IvfPqTables { centroids, books };
    let (coded, scale) = EncodedSample::new(x, (nearest, second), &half_norms, &encoder, monitor)?;
    Ok(BaseQuantizer {
        encoder,
        half_norms,
        scale,
        coded,
    })
}

/// Lists, and which rows of the sample are in them.
struct Lists {
    centroids: Vec<f32>,
    nearest: Vec<Assignment>,
    /// Second list of each row; empty if rows have one list.
    second: Vec<u32>,
}

/// Clusters the rows of the sample into lists.
fn lists(
    x: MatRef<'_>,
    options: &TrainOptions,
    monitor: &dyn Monitor,
) -> Result<Lists, TrainError> {
    let n = x.rows();
    let lists = match options.lists {
        0 => auto_lists(options.table_rows(n)).min(n / MIN_ROWS_PER_LIST),
        lists => lists.min(n),
    };
    let chosen = sample_indices(n, lists * rows_per_list(lists), options.seed);
    let centroids = kmeans(x, &chosen, lists, options.seed ^ 1, monitor)?;
    if options.assignments == 2 {
        let (nearest, second) = assign_to_two(x, &centroids, monitor)?;
        return Ok(Lists {
            centroids,
            nearest,
            second,
        });
    }
    let mut nearest = vec![Assignment::default(); n];
    let all = sample_indices(n, n, options.seed);
    assign_rows(x, &all, &centroids, &mut nearest, monitor)?;
    Ok(Lists {
        centroids,
        nearest,
        second: Vec::new(),
    })
}

/// Rows per list that k-means uses.
fn rows_per_list(lists: usize) -> usize {
    let (least, most) = ROWS_PER_LIST.into_inner();
    (PRODUCTS_PER_ROUND / (lists * lists).max(1)).clamp(least, most)
}

/// Shape of the codebooks, and the maximum number of rows that they are trained on.
fn shape(dim: usize, options: &TrainOptions) -> (PqShape, usize) {
    let subquantizers = match options.subquantizers {
        0 => auto_subquantizers(dim, options.bits),
        given => given,
    };
    let most = if options.bits == 4 {
        CODEBOOK_ROWS_4
    } else {
        CODEBOOK_ROWS_8
    };
    let shape = PqShape {
        subquantizers,
        codewords: 1 << options.bits,
    };
    (shape, most)
}

/// Rotates rows, centroids and space as the options want it; a rotation that is learned brings codebooks with it.
fn rotate(
    (rows, centroids): (&mut [f32], &mut [f32]),
    (nearest, second): (&[Assignment], &[u32]),
    space: &mut Preprocess,
    shape: PqShape,
    options: &TrainOptions,
    monitor: &dyn Monitor,
) -> Result<Option<Codebooks>, TrainError> {
    let (dim, seed) = (space.dim, options.seed ^ 7);
    let rounds = opq::rounds(dim, shape.codewords, options.table_rows(nearest.len()));
    let (mut rotation, books) = match options.ablation().rotation {
        #[cfg(feature = "ablation")]
        Rotation::None => return Ok(None),
        Rotation::Auto
            if shape.subquantizers == dim
                || (options.bits == 4 && dim > MAX_TRANSFORM_DIM)
                || rounds.is_none() =>
        {
            return Ok(None);
        }
        #[cfg(feature = "ablation")]
        Rotation::Random => (random(dim, seed, || check_interrupts(monitor))?, None),
        #[cfg(feature = "ablation")]
        Rotation::Structured => (structured_rotation(dim, seed), None),
        _ => {
            let n = nearest.len() + second.len();
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
                second,
                centroids: MatRef::new(centroids, dim),
            };
            let rounds = rounds.unwrap_or(opq::MIN_ROUNDS);
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
