//! A model that is trained again: the same codes, never a worse student.
#![allow(clippy::unwrap_used)]

mod common;

use common::{by_codes, gauss, groups, recall};
use distillvq_model::{Metric, Model, Placement};
use distillvq_training::{
    Monitor, NoMonitor, Phase, RetrainOptions, TrainError, TrainOptions, Trained, retrain, train,
};
use std::borrow::Cow;
use std::sync::atomic::{AtomicUsize, Ordering};

const DIM: usize = 32;
const METRICS: [Metric; 3] = [Metric::L2, Metric::InnerProduct, Metric::Cosine];

/// Groups on a plane of few dimensions: errors across the plane do not matter for the order of neighbors.
fn flat(n: usize, seed: u64) -> Vec<f32> {
    let mut rows = groups(n, DIM, 0.3, seed);
    rows.iter_mut()
        .enumerate()
        .for_each(|(i, x)| *x *= if i % DIM < 8 { 1.0 } else { 0.3 });
    rows
}

/// Queries that lie aside of the rows.
fn log(n: usize, seed: u64) -> Vec<f32> {
    let mut log = flat(n, seed);
    log.iter_mut().step_by(DIM).for_each(|x| *x += 1.5);
    log
}

/// A model without distillation.
fn plain(rows: &[f32], metric: Metric) -> Model {
    let options = TrainOptions {
        metric,
        subquantizers: 8,
        distill: false,
        ..TrainOptions::default()
    };
    train(rows, DIM, None, &options, &NoMonitor).unwrap().model
}

fn again(model: &Model, rows: &[f32], queries: Option<&[f32]>, seed: u64) -> Trained {
    retrain(
        model,
        rows,
        queries.map(Cow::from),
        &RetrainOptions {
            seed,
            ..RetrainOptions::default()
        },
        &NoMonitor,
    )
    .unwrap()
}

#[test]
fn a_model_gains_and_keeps_its_codes() {
    let mut routed = 0;
    for metric in METRICS {
        let (rows, queries, fresh) = (flat(4000, 1), log(1500, 2), log(150, 3));
        let model = plain(&rows, metric);
        let Trained {
            model: better,
            report,
        } = again(&model, &rows, Some(&queries), 1);
        assert!(report.decoder_kept, "{metric}: {report:?}");
        routed += usize::from(report.routing_kept);
        assert!(report.recall_after >= report.recall_before);
        assert_eq!((report.rows, report.queries), (4000, 1500));
        assert_eq!(better.report(), &report);
        assert_eq!(
            better.encoder_bytes().unwrap(),
            model.encoder_bytes().unwrap()
        );
        assert!(better.encode(&rows) == model.encode(&rows));
        let (before, after) = (
            recall(&model, &fresh, &rows, 10),
            recall(&better, &fresh, &rows, 10),
        );
        assert!(after > before, "{metric}: {before} to {after}");
    }
    // Not where the centroids are as good.
    assert!(routed > 0);
}

#[test]
fn the_current_student_is_what_must_be_beaten() {
    let (rows, queries) = (flat(4000, 1), log(1500, 2));
    let first = again(&plain(&rows, Metric::Cosine), &rows, Some(&queries), 1);
    assert!(first.report.improved(), "{:?}", first.report);
    assert_eq!(first.report.queries, 1500);
    let second = again(&first.model, &rows, Some(&queries), 1);
    // The same queries are held out: what was gained is to be beaten.
    assert_eq!(second.report.recall_before, first.report.recall_after);
    assert!(second.report.recall_after >= second.report.recall_before);
    // A training that keeps one of both leaves the other as it was.
    let third = again(&first.model, &rows, None, 2);
    let ranking = |model: &Model| model.query(&queries[..DIM]).ranking().all();
    assert_eq!(ranking(&third.model), ranking(&first.model));
}

#[test]
fn what_does_not_win_changes_nothing() {
    let rows = gauss(2000 * DIM, 1);
    for metric in METRICS {
        let mut model = plain(&rows, metric);
        let mut unchanged = 0;
        for seed in 0..4 {
            let trained = again(&model, &rows, None, seed);
            if !trained.report.improved() {
                unchanged += 1;
                assert_eq!(trained.report.recall_after, trained.report.recall_before);
                assert_eq!(trained.model.to_bytes().unwrap(), model.to_bytes().unwrap());
            }
            model = trained.model;
        }
        assert!(unchanged > 0, "{metric}");
    }
}

#[test]
fn a_stale_decoder_gives_way_to_the_encoder() {
    let rows = gauss(3000 * DIM, 1);
    // In the rows that were there before, every other dimension hardly counted.
    let mut gone = rows.clone();
    gone.iter_mut().step_by(2).for_each(|x| *x *= 0.05);
    let mut without = 0;
    for metric in METRICS {
        let plain = plain(&rows, metric);
        let stale = again(&plain, &gone, None, 1);
        assert!(stale.report.decoder_kept, "{metric}: {:?}", stale.report);
        let scores = |model: &Model| by_codes(model, &rows[..DIM], &rows);
        for seed in 0..4 {
            let Trained { model, report } = again(&stale.model, &rows, None, seed);
            assert!(report.improved(), "{metric}: {report:?}");
            assert!(report.recall_after > report.recall_before);
            // With the same seed the same queries are held out.
            let encoder = again(&plain, &rows, None, seed).report.recall_before;
            assert!(
                report.recall_after >= encoder,
                "{metric}: {report:?}, {encoder}"
            );
            if !report.decoder_kept {
                assert_eq!(report.recall_after, encoder);
                assert_eq!(scores(&model), scores(&plain));
                without += 1;
            }
        }
    }
    assert!(without > 0);
}

#[test]
fn rows_that_the_encoder_cannot_place_are_left_out() {
    let rows = flat(2000, 1);
    for metric in METRICS {
        let model = plain(&rows, metric);
        let mut sample = rows.clone();
        sample[..DIM].fill(f32::NAN);
        sample[DIM..2 * DIM].fill(1e30);
        sample[2 * DIM..3 * DIM].fill(0.0);
        let encoded = model.encode(&sample);
        let in_list = |row: &&distillvq_model::Encoded| matches!(row.placement, Placement::List(_));
        let placed = encoded.rows.iter().filter(in_list).count();
        assert!((1900..2000).contains(&placed));
        let trained = again(&model, &sample, Some(&sample[..10 * DIM]), 1);
        assert_eq!(trained.report.rows, placed);
        assert!(trained.model.query(&rows[..DIM]).delta.is_finite());
    }
}

#[test]
fn the_result_depends_on_the_seed_alone() {
    let (rows, queries) = (flat(2000, 1), log(300, 2));
    let model = plain(&rows, Metric::Cosine);
    let run = |seed| {
        let trained = again(&model, &rows, Some(&queries), seed);
        trained.model.student_bytes().unwrap()
    };
    let alone = run(1);
    assert_ne!(alone, run(2));
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(2)
        .build()
        .unwrap();
    assert!(alone == pool.install(|| run(1)));
}

#[test]
fn wrong_calls_are_errors() {
    let rows = flat(1500, 1);
    let model = plain(&rows, Metric::L2);
    let run = |rows: &[f32], queries: Option<&[f32]>| {
        retrain(
            &model,
            rows,
            queries.map(Cow::from),
            &RetrainOptions::default(),
            &NoMonitor,
        )
        .map(|_| ())
    };
    for (rows, queries) in [(&rows[1..], None), (&rows[..], Some(&rows[..5]))] {
        assert!(matches!(
            run(rows, queries),
            Err(TrainError::Ragged { dim: DIM, .. })
        ));
    }
    assert_eq!(
        run(&rows[..999 * DIM], None),
        Err(TrainError::TooFewRows {
            given: 999,
            usable: 999,
            needed: 1000
        })
    );
}

/// Interrupts at the n-th question.
struct Stop {
    at: usize,
    asked: AtomicUsize,
}

impl Monitor for Stop {
    fn interrupted(&self) -> bool {
        self.asked.fetch_add(1, Ordering::Relaxed) >= self.at
    }
    fn phase(&self, _phase: Phase, done: usize, total: usize) {
        assert!(done <= total);
    }
}

#[test]
fn interrupts_are_heeded_everywhere() {
    let (rows, queries) = (flat(1500, 1), log(200, 2));
    let model = plain(&rows, Metric::L2);
    let run = |at| {
        let stop = Stop {
            at,
            asked: AtomicUsize::new(0),
        };
        let options = RetrainOptions::default();
        let result = retrain(&model, &rows, Some((&queries).into()), &options, &stop);
        (result.map(|_| ()), stop.asked.into_inner())
    };
    let (result, asked) = run(usize::MAX);
    result.unwrap();
    assert!(asked > 50);
    for at in (0..asked).step_by(asked / 20) {
        assert_eq!(run(at), (Err(TrainError::Interrupted), at + 1));
    }
}
