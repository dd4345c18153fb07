//! Odd data and odd calls: a clean error or a model of finite numbers, never a panic.
#![allow(clippy::unwrap_used)]

mod common;

use common::{by_codes, gauss, groups};
use distillvq_linalg::testing::never_interrupt;
use distillvq_model::{MAX_DIM, MIN_TRAIN_ROWS, Metric, Model, Placement};
use distillvq_training::{Monitor, NoMonitor, Phase, TrainError, TrainOptions, train};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use std::borrow::Cow;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

const METRICS: [Metric; 3] = [Metric::L2, Metric::InnerProduct, Metric::Cosine];

/// Trains, stores, reads and uses a model; every number that comes out must be finite.
fn use_all(rows: &[f32], dim: usize, options: &TrainOptions) -> Model {
    let trained = train(
        rows,
        dim,
        Some(rows[..50 * dim].into()),
        options,
        &NoMonitor,
    )
    .unwrap();
    let model = Model::from_bytes(&trained.model.to_bytes().unwrap()).unwrap();
    let some = &rows[..100 * dim];
    for query in [
        &some[..dim],
        &vec![0.0; dim],
        &vec![f32::MAX; dim],
        &vec![1e-44; dim],
    ] {
        let tables = model.query(query);
        assert!(tables.delta.is_finite() && tables.lut_bias.is_finite());
        assert_eq!(tables.lut.len(), model.shape().lut_bytes());
        assert!(
            tables
                .ranking()
                .all()
                .iter()
                .all(|(score, _)| score.is_finite())
        );
        assert!(
            tables.score_params(0).base.is_finite()
                && tables.score_params(u32::MAX).base.is_finite()
        );
        assert!(
            by_codes(&model, query, some)
                .iter()
                .all(|score| !score.is_nan())
        );
    }
    model
}

#[test]
fn few_dimensions() {
    for metric in METRICS {
        for dim in [1, 2, 3] {
            for bits in [4, 8] {
                let rows = gauss(MIN_TRAIN_ROWS * dim, 1);
                use_all(
                    &rows,
                    dim,
                    &TrainOptions {
                        metric,
                        bits,
                        ..TrainOptions::default()
                    },
                );
            }
        }
    }
}

#[test]
fn the_model_of_few_rows_is_a_fraction_of_them() {
    for (dim, rows, share) in [(60, 1_000, 0.25), (130, 1_000, 0.125), (400, 1_100, 0.125)] {
        let options = TrainOptions {
            metric: Metric::L2,
            ..TrainOptions::default()
        };
        let model = use_all(&groups(rows, dim, 0.5, 1), dim, &options);
        let bytes = model.to_bytes().unwrap().len() as f64;
        let vectors = (4 * dim * rows) as f64;
        assert!(bytes <= share * vectors, "{dim}: {bytes} of {vectors}");
    }
}

#[test]
fn an_encoder_alone_encodes_as_the_whole_model() {
    let (dim, rows) = (24, groups(1_000, 24, 0.5, 1));
    let trained = train(&rows, dim, None, &TrainOptions::default(), &NoMonitor).unwrap();
    let model = Model::from_encoder(&trained.model.encoder_bytes().unwrap()).unwrap();
    assert_eq!(model.encode(&rows), trained.model.encode(&rows));
    assert_eq!(model.shape(), trained.model.shape());
    assert!(Model::from_encoder(&trained.model.student_bytes().unwrap()).is_err());
}

#[test]
fn constant_rows_and_few_distinct_ones() {
    for metric in METRICS {
        let model = use_all(
            &[0.3; 5000],
            5,
            &TrainOptions {
                metric,
                ..TrainOptions::default()
            },
        );
        let encoded = model.encode(&[0.3; 5]);
        assert!(
            matches!(encoded.rows[0].placement, Placement::List(_)),
            "{metric}: {encoded:?}"
        );
        let few: Vec<f32> = (0..1200 * 4)
            .map(|i| ((i / 4) % 3 + i % 4) as f32)
            .collect();
        use_all(
            &few,
            4,
            &TrainOptions {
                metric,
                lists: 50,
                ..TrainOptions::default()
            },
        );
    }
}

#[test]
fn sizes_at_both_ends() {
    for metric in METRICS {
        for size in [1e-38f32, 1e-25, 1e25, 1e37] {
            let rows: Vec<f32> = groups(1100, 6, 0.3, 1).iter().map(|x| x * size).collect();
            let model = use_all(
                &rows,
                6,
                &TrainOptions {
                    metric,
                    ..TrainOptions::default()
                },
            );
            let encoded = model.encode(&rows);
            let inside = encoded
                .rows
                .iter()
                .filter(|r| matches!(r.placement, Placement::List(_)))
                .count();
            assert!(inside > 1080, "{metric} {size}: {inside}");
        }
    }
}

#[test]
fn rows_that_cannot_be_represented() {
    let dim = 8;
    let rows = groups(2000, dim, 0.3, 1);
    for metric in METRICS {
        let mut dirty = rows.clone();
        dirty[3] = f32::NAN;
        dirty[dim * 7 + 1] = f32::INFINITY;
        dirty[dim * 9..dim * 10].fill(3e38);
        dirty[dim * 11..dim * 12].fill(0.0);
        let options = TrainOptions {
            metric,
            distill: false,
            ..TrainOptions::default()
        };
        let trained = train(&dirty, dim, None, &options, &NoMonitor).unwrap();
        let encoded = trained.model.encode(&dirty);
        let placed = |i: usize| encoded.rows[i].placement;
        assert_eq!((placed(0), placed(7)), (Placement::Exact, Placement::Exact));
        match metric {
            Metric::Cosine => {
                assert!(matches!(placed(9), Placement::List(_) | Placement::Exact));
                assert_eq!(placed(11), Placement::Unindexed);
            }
            Metric::InnerProduct => assert_eq!(
                (placed(9), placed(11)),
                (Placement::Exact, Placement::Exact)
            ),
            Metric::L2 => assert_eq!(placed(9), Placement::Exact),
        }
        assert!(encoded.rows.iter().all(|r| r.norm.is_finite()));
        let outside = encoded
            .rows
            .iter()
            .filter(|r| !matches!(r.placement, Placement::List(_)))
            .count();
        assert!(outside < 12, "{metric}: {outside}");
        let m = trained.model.subquantizers();
        assert!(encoded.codes[..m].iter().all(|c| *c == 0));
    }
}

#[test]
fn many_dimensions_are_fast() {
    let bits = |i: u32| i.wrapping_mul(2_654_435_761).rotate_left(11);
    let rows: Vec<f32> = (0..(MIN_TRAIN_ROWS * MAX_DIM) as u32)
        .map(|i| (bits(i) % 2000) as f32 / 1000.0 - 1.0)
        .collect();
    let started = Instant::now();
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(2)
        .build()
        .unwrap();
    let options = TrainOptions {
        metric: Metric::L2,
        ..TrainOptions::default()
    };
    let trained = pool
        .install(|| train(&rows, MAX_DIM, None, &options, &NoMonitor))
        .unwrap();
    assert_eq!(trained.model.encode(&rows[..MAX_DIM]).rows.len(), 1);
    // It takes some 6 seconds on two quiet cores; the limit only tells a quadratic mistake from a busy machine.
    assert!(started.elapsed().as_secs() < 600, "{:?}", started.elapsed());
}

#[test]
fn more_lists_than_rows_and_odd_shapes() {
    let rows = groups(1000, 10, 0.3, 1);
    let train_with = |options| train(&rows, 10, None, &options, &NoMonitor).unwrap().model;
    assert_eq!(
        train_with(TrainOptions {
            lists: 5000,
            distill: false,
            ..TrainOptions::default()
        })
        .lists(),
        1000
    );
    assert_eq!(
        train_with(TrainOptions {
            lists: 1,
            ..TrainOptions::default()
        })
        .lists(),
        1
    );
    let auto = train_with(TrainOptions {
        rows_in_table: 100_000_000,
        ..TrainOptions::default()
    });
    assert!((1..=1000 / 16).contains(&auto.lists()));
    for m in 1..=10 {
        use_all(
            &rows,
            10,
            &TrainOptions {
                subquantizers: m,
                distill: m % 2 == 0,
                ..TrainOptions::default()
            },
        );
    }
}

#[test]
fn wrong_calls_are_errors() {
    let options = TrainOptions::default();
    let rows = groups(1000, 4, 0.3, 1);
    let fails = |rows: &[f32], dim, queries: Option<&[f32]>, options: &TrainOptions| {
        let error = train(rows, dim, queries.map(Cow::from), options, &NoMonitor).unwrap_err();
        assert!(!error.to_string().is_empty());
        error
    };
    assert_eq!(
        fails(&rows, 0, None, &options),
        TrainError::Dimension {
            dim: 0,
            max: MAX_DIM
        }
    );
    assert!(matches!(
        fails(&rows, MAX_DIM + 1, None, &options),
        TrainError::Dimension { .. }
    ));
    assert_eq!(
        fails(&rows[1..], 4, None, &options),
        TrainError::Ragged {
            what: "rows",
            len: 3999,
            dim: 4
        }
    );
    assert!(matches!(
        fails(&rows, 4, Some(&[1.0]), &options),
        TrainError::Ragged {
            what: "queries",
            ..
        }
    ));
    for wrong in [
        TrainOptions { bits: 5, ..options },
        TrainOptions {
            lists: 40_000,
            ..options
        },
        TrainOptions {
            subquantizers: 5,
            ..options
        },
    ] {
        assert!(matches!(
            fails(&rows, 4, None, &wrong),
            TrainError::Option { .. }
        ));
    }
    let mut holes = rows.clone();
    holes[4] = f32::NAN;
    let few = TrainError::TooFewRows {
        given: 1000,
        usable: 999,
        needed: MIN_TRAIN_ROWS,
    };
    assert_eq!(fails(&holes, 4, None, &options), few);
    assert!(matches!(
        fails(&[], 4, None, &options),
        TrainError::TooFewRows { usable: 0, .. }
    ));
    assert!(matches!(
        fails(&[f32::NAN; 8000], 4, None, &options),
        TrainError::TooFewRows { usable: 0, .. }
    ));
    assert!(matches!(
        fails(&[0.0; 8000], 4, None, &options),
        TrainError::TooFewRows { usable: 0, .. }
    ));
}

#[test]
fn queries_without_use_are_passed_over() {
    let rows = groups(1500, 6, 0.3, 1);
    for queries in [
        &[][..],
        &[f32::NAN; 60],
        &[0.0; 60],
        &[f32::MAX; 60],
        &rows[..6],
    ] {
        for metric in METRICS {
            let options = TrainOptions {
                metric,
                ..TrainOptions::default()
            };
            let report = train(&rows, 6, Some(queries.into()), &options, &NoMonitor)
                .unwrap()
                .report;
            assert!(report.queries <= 10 && report.recall_after.is_finite());
        }
    }
}

/// Interrupts at the n-th question; counts questions and remembers the phases.
struct Stop {
    at: usize,
    asked: AtomicUsize,
    phases: [AtomicUsize; 5],
}

impl Monitor for Stop {
    fn interrupted(&self) -> bool {
        self.asked.fetch_add(1, Ordering::Relaxed) >= self.at
    }
    fn phase(&self, phase: Phase, done: usize, total: usize) {
        assert!(done <= total);
        self.phases[phase as usize].fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn interrupts_are_heeded_everywhere() {
    let rows = groups(1500, 16, 0.4, 1);
    let log = groups(200, 16, 0.4, 2);
    let run = |at| {
        let stop = Stop {
            at,
            asked: AtomicUsize::new(0),
            phases: Default::default(),
        };
        let result = train(
            &rows,
            16,
            Some((&log).into()),
            &TrainOptions::default(),
            &stop,
        );
        (result.map(|_| ()), stop)
    };
    let (result, all) = run(usize::MAX);
    result.unwrap();
    assert!(
        all.phases[..4]
            .iter()
            .all(|p| p.load(Ordering::Relaxed) > 0)
    );
    let asked = all.asked.load(Ordering::Relaxed);
    assert!(asked > 100);
    for at in (0..asked).step_by(asked / 40) {
        let (result, stop) = run(at);
        assert_eq!(
            result,
            Err(TrainError::Interrupted),
            "question {at} of {asked}"
        );
        assert_eq!(stop.asked.load(Ordering::Relaxed), at + 1);
    }
}

/// A model of each metric, trained once.
fn ordinary() -> &'static [Model] {
    static MODELS: OnceLock<Vec<Model>> = OnceLock::new();
    let train = |metric| {
        let options = TrainOptions {
            metric,
            ..TrainOptions::default()
        };
        train(groups(1200, 8, 0.3, 1), 8, None, &options, &NoMonitor)
            .unwrap()
            .model
    };
    MODELS.get_or_init(|| METRICS.map(train).to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(1), failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever bits a row and a query have.
    #[test]
    fn any_bits_have_a_place_and_a_score(bits in prop::collection::vec(any::<u32>(), 24), part in 1usize..8) {
        let values: Vec<f32> = bits.into_iter().map(f32::from_bits).collect();
        let (rows, query) = values.split_at(16);
        for model in ordinary() {
            let Ok(encoded) = model.try_encode(rows, true, never_interrupt);
            for row in &encoded.rows {
                prop_assert!(row.norm.is_finite());
                if let Placement::List(list) = row.placement {
                    prop_assert!((list as usize) < model.lists());
                }
            }
            for query in [query, &query[..part]] {
                let scores = by_codes(model, query, rows);
                prop_assert!(scores.iter().all(|score| !score.is_nan()), "{:?}", scores);
                let lists = model.query(query).ranking().all();
                prop_assert!(lists.iter().all(|(score, _)| score.is_finite()));
                prop_assert_eq!(lists.len(), model.lists());
            }
        }
    }
}
