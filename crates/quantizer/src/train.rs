//! Training, from the sample to the model.

use crate::encode::Coder;
use crate::kmeans::{Assigner, Nearest, kmeans};
use crate::linalg::{MatRef, ROWS, half_norms};
use crate::model::{Body, Tables};
use crate::options::{MAX_DIM, MAX_LISTS, MIN_TRAIN_ROWS, max_subquantizers};
use crate::scale::Scale;
use crate::space::{Kind, Space};
use crate::{
    Model, Monitor, Report, TrainError, TrainOptions, auto_lists, auto_subquantizers, par, product,
};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// Rows a list that k-means looks at.
const ROWS_PER_LIST: usize = 128;
/// Sampled rows a list that an automatic number of lists leaves at least.
const LEAST_ROWS_PER_LIST: usize = 16;

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
    let coded = quantize(x, options, monitor)?;
    let report = Report {
        rows: x.rows(),
        ..Report::default()
    };
    let body = Body {
        space,
        lists: coded.encoder.centroids.len() / dim,
        bits: options.bits,
        encoder: coded.encoder,
        decoder: None,
        routing: None,
        scale: coded.scale,
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
    let bits = options.bits;
    option(
        bits == 4 || bits == 8,
        "bits",
        usize::from(bits),
        "4 or 8".to_owned(),
    )?;
    option(
        options.lists <= MAX_LISTS,
        "lists",
        options.lists,
        format!("0 to {MAX_LISTS}"),
    )?;
    let most = max_subquantizers(bits).min(dim);
    option(
        options.subquantizers <= most,
        "subquantizers",
        options.subquantizers,
        format!("0 to {most}"),
    )
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
    let work: Vec<_> = rows
        .chunks_mut(dim * ROWS)
        .zip(kinds.chunks_mut(ROWS))
        .collect();
    let mut work = work;
    par::each_mut(&mut work, |chunk, (rows, kinds)| {
        keep_on(monitor)?;
        for (i, (row, kind)) in rows.chunks_exact_mut(dim).zip(kinds.iter_mut()).enumerate() {
            let at = (chunk * ROWS + i) * dim;
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

/// The sample in codes.
pub(crate) struct Coded {
    pub encoder: Tables,
    pub scale: Scale,
    pub nearest: Vec<Nearest>,
    /// `subquantizers` bytes a row.
    pub codes: Vec<u8>,
    /// Norm correction a row, as its byte will say it.
    pub corrections: Vec<f32>,
}

/// Learns lists and codebooks (the reconstruction) and encodes the sample.
fn quantize(
    x: MatRef<'_>,
    options: &TrainOptions,
    monitor: &dyn Monitor,
) -> Result<Coded, TrainError> {
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
    let centroids = kmeans(
        x,
        &choose(n, lists * ROWS_PER_LIST, options.seed),
        lists,
        options.seed ^ 1,
        monitor,
    )?;
    let halves = half_norms(MatRef::new(&centroids, x.cols));
    let mut nearest = vec![Nearest::default(); n];
    let assigner = Assigner::new(MatRef::new(&centroids, x.cols), &halves);
    par::chunks_mut(&mut nearest, ROWS, |i, out| {
        assigner.assign(x.slice(i * ROWS, (i + 1) * ROWS), out, || keep_on(monitor))
    })?;
    let subquantizers = match options.subquantizers {
        0 => auto_subquantizers(x.cols, options.bits),
        m => m,
    };
    let words = 1 << options.bits;
    let rows = choose(
        n,
        if options.bits == 4 { 32_768 } else { 65_536 },
        options.seed ^ 2,
    );
    let view = MatRef::new(&centroids, x.cols);
    let books = product::train(
        x,
        &rows,
        &nearest,
        view,
        (subquantizers, words),
        options.seed ^ 3,
        monitor,
    )?;
    let encoder = Tables { centroids, books };
    let by_dimension = encoder.books.by_dimension();
    let assigner = Assigner::new(MatRef::new(&encoder.centroids, x.cols), &halves);
    let coder = Coder {
        assigner,
        tables: &encoder,
        books: &by_dimension,
    };
    let mut codes = vec![0u8; n * subquantizers];
    let mut corrections = vec![None; n];
    let pieces = codes
        .chunks_mut(ROWS * subquantizers)
        .zip(corrections.chunks_mut(ROWS));
    let mut pieces: Vec<_> = pieces.collect();
    par::each_mut(&mut pieces, |i, (codes, corrections)| {
        keep_on(monitor)?;
        let rows = x.slice(i * ROWS, (i + 1) * ROWS);
        corrections.copy_from_slice(&coder.codes(
            rows,
            &nearest[i * ROWS..i * ROWS + rows.rows()],
            codes,
        ));
        Ok(())
    })?;
    let scale = Scale::fit(corrections.iter().flatten().copied().collect());
    let corrections = corrections
        .iter()
        .map(|k| scale.decode(k.and_then(|k| scale.encode(k)).unwrap_or(0)))
        .collect();
    Ok(Coded {
        encoder,
        scale,
        nearest,
        codes,
        corrections,
    })
}

/// At most `most` of `n` rows, in ascending order.
pub(crate) fn choose(n: usize, most: usize, seed: u64) -> Vec<u32> {
    if most >= n {
        return (0..n as u32).collect();
    }
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut chosen: Vec<u32> = rand::seq::index::sample(&mut rng, n, most)
        .iter()
        .map(|i| i as u32)
        .collect();
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
