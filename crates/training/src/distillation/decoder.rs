//! Distillation of the decoder: list bases and codebooks learn to rank like the teacher (Xiao et al., Distill-VQ, 2022).
//!
//! Lists, codes and norm corrections stay as the encoder made them, so a row's score `κ·(A·q)·x̂` is linear in what is
//! learned of the tables and the loss is convex in it. The query transform `A` starts as the unit matrix: it learns what
//! the codes lose of directions that queries care about, and takes the place of a rotation trained with the codes fixed.
//! Candidates of a batch are the neighbors of all its queries: each query sees its own and, as negatives, everyone else's.
//!
//! With `G` the gradient by the scores, `q' = A·q`, and `D_d = κ_d·Σ_q G_qd·q'` (twice that for L2), the gradients are
//! `∂L/∂O_l = Σ_{d in list l} D_d`, `∂L/∂C_s[j] = Σ_{d with code j} D_d[s]` and `∂L/∂A = Σ_q (Σ_d G_qd·κ_d·x̂_d)·qᵀ`.

use crate::ablation::NegativeSampling;
use crate::distillation::adam::lr_schedule;
use crate::encoded_sample::EncodedSample;
use crate::error::TrainError;
use crate::evaluation::BestSoFar;
use crate::options::Loss;
use crate::progress::{Monitor, Phase};
use crate::teacher::brute_force::NeighborLists;
use crate::teacher::exact::{QuerySet, SampleVectors};
use distillvq_model::params::Decoder;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

mod trainer;

use trainer::DecoderTrainer;

/// Options of the decoder's training.
#[derive(Debug, Clone, Copy)]
pub struct DecoderTrainOptions {
    /// Queries a step.
    pub batch: usize,
    /// Steps.
    pub steps: usize,
    /// Steps between two evaluations on the held-out queries.
    pub eval_interval: usize,
    /// τ of both softmaxes.
    pub temperature: f32,
    /// Loss function.
    pub loss: Loss,
    /// Candidates per query.
    pub sampling: NegativeSampling,
    /// Whether a query transform is trained.
    pub query_transform: bool,
    /// Seed of the order of the queries.
    pub seed: u64,
}

/// Training data of the decoder.
pub struct DecoderTrainSet<'a> {
    /// The rows of the sample.
    pub rows: &'a SampleVectors<'a>,
    /// The same in codes.
    pub coded: &'a EncodedSample,
    /// Training queries.
    pub queries: &'a QuerySet,
    /// Their neighbors.
    pub taught: &'a NeighborLists,
}

/// Half the mean distance between the best and the last taught score: the scale on which errors matter. `None` when
/// scores do not differ.
pub fn temperature(taught: &NeighborLists) -> Option<f32> {
    let spreads = taught
        .best
        .iter()
        .filter_map(|best| Some(best.first()?.0 - best.last()?.0));
    let (sum, count) = spreads.fold((0f64, 0f64), |(sum, n), spread| {
        (sum + f64::from(spread), n + 1.0)
    });
    let temperature = (0.5 * sum / count) as f32;
    (temperature.is_normal() && temperature > 0.0).then_some(temperature)
}

/// Trains the decoder from `start`. `evaluate` gives the recall of every held-out query; the decoder with the best mean is
/// returned with its recalls (the start is not examined here). Ends early when two exams in a row are no better.
pub fn train_decoder(
    set: &DecoderTrainSet<'_>,
    start: &Decoder,
    options: &DecoderTrainOptions,
    monitor: &dyn Monitor,
    evaluate: impl Fn(&Decoder) -> Result<Vec<f32>, TrainError>,
) -> Result<Option<(Decoder, Vec<f32>)>, TrainError> {
    let mut trainer = DecoderTrainer::new(set, start, options, monitor);
    let mut order: Vec<u32> = (0..set.queries.len() as u32).collect();
    let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
    let mut best = BestSoFar::default();
    let mut next = order.len();
    for step in 0..options.steps {
        monitor.phase(Phase::Distilling, step, options.steps);
        if next + options.batch > order.len() {
            order.shuffle(&mut rng);
            next = 0;
        }
        let batch = &order[next..(next + options.batch).min(order.len())];
        next += options.batch;
        trainer.gradients(batch)?;
        trainer.apply_step(lr_schedule(step, options.steps))?;
        if step + 1 == options.steps || (step + 1).is_multiple_of(options.eval_interval) {
            let decoder = trainer.decoder();
            let recalls = evaluate(&decoder)?;
            best.offer(decoder, recalls);
            if best.stalled() {
                break;
            }
        }
    }
    monitor.phase(Phase::Distilling, options.steps, options.steps);
    Ok(best.take())
}

#[cfg(test)]
mod tests;
