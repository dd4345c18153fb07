//! Training a model again: a new student beside the same encoder, so that rows which are encoded stay valid.

use crate::distillation::Distillation;
use crate::encoded_sample::EncodedSample;
use crate::error::TrainError;
use crate::options::{Loss, TrainOptions};
use crate::progress::{Monitor, check_interrupts};
use crate::sample::{check_count, check_shapes, row_norms, usable_queries, usable_rows};
use crate::teacher::exact::SampleVectors;
use crate::train::Trained;
use distillvq_linalg::matrix::MatRef;
use distillvq_model::encode::Placement;
use distillvq_model::model::Model;
use distillvq_model::params::{ModelData, Student, TrainReport};
use std::borrow::Cow;

/// How to train again.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct RetrainOptions {
    /// Seed of every random choice.
    pub seed: u64,
    /// The loss of the decoder's distillation.
    pub loss: Loss,
    /// Rows of the whole table; 0 = as many as the sample has.
    pub rows_in_table: usize,
}

/// Distills a model again, with the rows as its encoder sees them: decoder and routing are trained again, starting at the
/// encoder.
///
/// `sample` and `queries` are as in [`crate::train()`]; rows that the encoder cannot place in a list are left out.
/// What does not beat the current decoder or routing on held-out queries is dropped, so the model never gets worse for the
/// sample; if both are dropped, the model comes back unchanged. The encoder's own tables compete with the new decoder: where
/// they do best, the model goes back to them. The report counts what this training saw, its recall before is the current
/// student's. Without queries, rows are used as queries and the routing stays.
///
/// # Errors
/// As [`crate::train()`].
pub fn retrain<'a>(
    model: &Model,
    sample: impl Into<Cow<'a, [f32]>>,
    queries: Option<Cow<'_, [f32]>>,
    options: &RetrainOptions,
    monitor: &dyn Monitor,
) -> Result<Trained, TrainError> {
    let dim = model.dim();
    let sample = sample.into();
    check_shapes(&sample, dim, queries.as_deref())?;
    let given = sample.len() / dim;
    let ModelData {
        encoder,
        student,
        held_out,
    } = model.data();
    let encoded = model.try_encode(&sample, false, || check_interrupts(monitor))?;
    let placed = |i: usize| {
        let row = encoded.rows.get(i);
        row.is_some_and(|row| matches!(row.placement, Placement::List(_)))
    };
    let rows = usable_rows(&encoder.space, sample.into_owned(), placed, monitor)?;
    let x = MatRef::new(&rows, dim);
    check_count(given, x)?;
    let coded = EncodedSample::from_encoded(&encoded, model.subquantizers(), &encoder.scale);
    let queries = usable_queries(
        &encoder.space,
        queries.unwrap_or_default().into_owned(),
        monitor,
    )?;
    let mut report = TrainReport {
        rows: x.rows(),
        queries: queries.len() / dim,
        ..TrainReport::default()
    };
    let norms = row_norms(model.metric(), x);
    let distillation = Distillation {
        rows: &SampleVectors {
            x,
            norms: norms.as_deref(),
        },
        coded: &coded,
        encoder: &encoder.tables,
        student,
        half_norms: model.half_norms(),
        options: &TrainOptions {
            metric: model.metric(),
            seed: options.seed,
            loss: options.loss,
            rows_in_table: options.rows_in_table,
            ..TrainOptions::default()
        },
        monitor,
    };
    let distilled = distillation.run(MatRef::new(&queries, dim), &mut report)?;
    if !report.improved() {
        let model = model.clone();
        return Ok(Trained { model, report });
    }
    let body = ModelData {
        encoder: encoder.clone(),
        student: Student {
            decoder: distilled.decoder.into_decoder(student.decoder.as_ref()),
            routing: distilled.routing.or_else(|| student.routing.clone()),
            report: report.clone(),
        },
        held_out: held_out.clone(),
    };
    let model = Model::new(body).map_err(TrainError::Model)?;
    Ok(Trained { model, report })
}
