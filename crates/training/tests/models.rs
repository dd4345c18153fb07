//! Models of ordinary data: they rank, they encode consistently, they are reproducible.
#![allow(clippy::unwrap_used)]

mod common;

use common::{gauss, groups, recall};
use distillvq_model::coarse::two_level;
use distillvq_model::{Metric, Model, Placement};
use distillvq_training::{NoMonitor, TrainOptions, train};

const METRICS: [Metric; 3] = [Metric::L2, Metric::InnerProduct, Metric::Cosine];

#[test]
fn codes_rank_like_the_exact_scores() {
    let dim = 24;
    let (rows, queries) = (groups(3000, dim, 0.5, 1), groups(40, dim, 0.5, 2));
    for metric in METRICS {
        for bits in [4, 8] {
            let options = TrainOptions {
                metric,
                bits,
                subquantizers: 12,
                ..TrainOptions::default()
            };
            let model = train(&rows, dim, None, &options, &NoMonitor).unwrap().model;
            let found = recall(&model, &queries, &rows, 50);
            assert!(found > 0.95, "{metric} {bits}: {found}");
            let read = Model::from_bytes(&model.to_bytes().unwrap()).unwrap();
            assert_eq!(
                recall(&read, &queries[..5 * dim], &rows, 10),
                recall(&model, &queries[..5 * dim], &rows, 10)
            );
        }
    }
}

#[test]
fn the_first_lists_hold_the_nearest_rows() {
    let dim = 16;
    let (rows, queries) = (groups(4000, dim, 0.4, 1), groups(50, dim, 0.4, 2));
    for metric in METRICS {
        let options = TrainOptions {
            metric,
            lists: 40,
            distill: false,
            ..TrainOptions::default()
        };
        let model = train(&rows, dim, None, &options, &NoMonitor).unwrap().model;
        let encoded = model.encode(&rows);
        let mut hits = 0;
        for query in queries.chunks_exact(dim) {
            let ranking = model.query(query).ranking().all();
            assert_eq!(ranking.len(), 40);
            assert!(ranking.is_sorted_by(|a, b| a.0 >= b.0));
            let scores: Vec<f64> = rows
                .chunks_exact(dim)
                .map(|row| common::exact(metric, query, row))
                .collect();
            let near = common::best(&scores, 10);
            let probed = |i: &&usize| {
                ranking[..8]
                    .iter()
                    .any(|(_, l)| encoded.rows[**i].placement == Placement::List(*l))
            };
            hits += near.iter().filter(probed).count();
        }
        assert!(hits > 450, "{metric}: {hits} of 500");
    }
}

#[test]
fn the_result_depends_on_the_seed_alone() {
    let dim = 12;
    let (rows, queries) = (groups(2500, dim, 0.6, 1), groups(300, dim, 0.6, 2));
    let run = |seed| {
        let options = TrainOptions {
            seed,
            metric: Metric::L2,
            ..TrainOptions::default()
        };
        train(&rows, dim, Some((&queries).into()), &options, &NoMonitor)
            .unwrap()
            .model
            .to_bytes()
            .unwrap()
    };
    let alone = run(1);
    assert_eq!(alone, run(1));
    assert_ne!(alone, run(2));
    for threads in [1, 3] {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        assert!(alone == pool.install(|| run(1)), "{threads} threads");
    }
}

#[test]
fn rows_are_encoded_alike_alone_and_together() {
    let dim = 20;
    let rows = groups(1500, dim, 0.7, 1);
    for metric in METRICS {
        let options = TrainOptions {
            metric,
            distill: false,
            ..TrainOptions::default()
        };
        let model = train(&rows, dim, None, &options, &NoMonitor).unwrap().model;
        let together = model.encode(&rows);
        let m = model.subquantizers();
        let alike = (0..1500).filter(|i| {
            let alone = model.encode(&rows[i * dim..(i + 1) * dim]);
            alone.rows[0].placement == together.rows[*i].placement
                && alone.codes == together.codes[i * m..(i + 1) * m]
        });
        // Rounding may decide a tie differently.
        assert!(alike.count() >= 1495);
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(2)
            .build()
            .unwrap();
        assert!(pool.install(|| model.encode(&rows)) == together);
    }
}

#[test]
fn noise_is_never_made_worse() {
    // Without structure there is nothing to learn: whatever the gate decides, fresh queries must not suffer.
    let dim = 16;
    let (rows, queries) = (gauss(2000 * dim, 1), gauss(100 * dim, 2));
    for metric in METRICS {
        let options = TrainOptions {
            metric,
            subquantizers: 4,
            ..TrainOptions::default()
        };
        let trained = train(&rows, dim, None, &options, &NoMonitor).unwrap();
        let plain = train(
            &rows,
            dim,
            None,
            &TrainOptions {
                distill: false,
                ..options
            },
            &NoMonitor,
        )
        .unwrap();
        assert!(trained.report.recall_after >= trained.report.recall_before);
        assert_eq!(
            trained.report.decoder_kept,
            trained.report.recall_after > trained.report.recall_before
        );
        let (after, before) = (
            recall(&trained.model, &queries, &rows, 10),
            recall(&plain.model, &queries, &rows, 10),
        );
        assert!(after >= before - 0.02, "{metric}: {before} to {after}");
    }
}

#[test]
fn distillation_gains_from_queries_of_another_kind() {
    // Queries look along a few dimensions only: errors across them do not matter for the order of neighbors.
    let dim = 32;
    let rows = groups(4000, dim, 0.5, 1);
    let mut queries = groups(1500, dim, 0.5, 2);
    for query in queries.chunks_exact_mut(dim) {
        query[8..].fill(0.0);
    }
    let options = TrainOptions {
        subquantizers: 8,
        ..TrainOptions::default()
    };
    let trained = train(&rows, dim, Some((&queries).into()), &options, &NoMonitor);
    let report = trained.unwrap().report;
    assert!(
        report.decoder_kept && report.recall_after > report.recall_before + 0.01,
        "{report:?}"
    );
}

#[test]
fn a_query_log_is_used() {
    let dim = 16;
    let rows = groups(3000, dim, 0.5, 1);
    let log: Vec<f32> = groups(1000, dim, 0.5, 2)
        .iter()
        .enumerate()
        .map(|(i, x)| x + if i % dim == 0 { 1.5 } else { 0.0 })
        .collect();
    let trained = train(
        &rows,
        dim,
        Some((&log).into()),
        &TrainOptions::default(),
        &NoMonitor,
    )
    .unwrap();
    assert_eq!(trained.report.queries, 1000);
    assert_eq!(&trained.report, trained.model.report());
}

#[test]
fn a_model_of_many_lists_encodes_a_row_as_it_encodes_many() {
    let (dim, lists) = (24, two_level::MIN_CENTROIDS);
    let rows = groups(lists + 500, dim, 0.5, 6);
    let options = TrainOptions {
        lists,
        distill: false,
        ..TrainOptions::default()
    };
    let model = train(&rows, dim, None, &options, &NoMonitor).unwrap().model;
    let all = model.encode(&rows);
    // As another session does that has the model from its bytes.
    let parts = (
        model.encoder_bytes().unwrap(),
        model.student_bytes().unwrap(),
    );
    let again = Model::from_parts(&parts.0, &parts.1).unwrap();
    for (row, encoded) in rows.chunks_exact(dim).zip(&all.rows).take(500) {
        assert_eq!(again.encode(row).rows, [*encoded]);
    }
}
