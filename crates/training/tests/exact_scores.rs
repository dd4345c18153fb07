//! Exact scores, and the errors of codes.
#![allow(clippy::unwrap_used)]

use distillvq_linalg::testing::noise;
use distillvq_model::{Metric, Placement, ScoreBuffers};
use distillvq_training::{NoMonitor, TrainOptions, train};

#[test]
fn scores_rank_as_the_metric_does() {
    let dim = 6;
    let sample = noise(1200 * dim, 5);
    let mut rows = noise(40 * dim, 6);
    rows[..dim].fill(0.0);
    rows[dim..2 * dim].fill(f32::MAX);
    let queries = noise(3 * dim, 7);
    for metric in [Metric::L2, Metric::InnerProduct, Metric::Cosine] {
        let options = TrainOptions {
            metric,
            distill: false,
            ..TrainOptions::default()
        };
        let model = train(&sample, dim, None, &options, &NoMonitor)
            .unwrap()
            .model;
        let exact = model.exact_scores(&queries);
        assert_eq!(exact.queries(), 3);
        let mut buffers = ScoreBuffers::default();
        let scores = exact.of(&rows, &mut buffers);
        for (query, scores) in queries.chunks(dim).zip(scores.chunks(40)) {
            let dot = |a: &[f32], b: &[f32]| -> f64 {
                a.iter()
                    .zip(b)
                    .map(|(x, y)| f64::from(*x) * f64::from(*y))
                    .sum()
            };
            let nearness = |row: &[f32]| match metric {
                Metric::L2 => 2.0 * dot(query, row) - dot(row, row),
                Metric::InnerProduct => dot(query, row),
                Metric::Cosine => dot(query, row) / dot(row, row).sqrt(),
            };
            let mut order: Vec<usize> = (2..40).collect();
            order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
            let near: Vec<f64> = order
                .iter()
                .map(|row| nearness(&rows[row * dim..(row + 1) * dim]))
                .collect();
            assert!(
                near.windows(2).all(|pair| pair[0] >= pair[1] - 1e-5),
                "{metric}"
            );
            if metric != Metric::Cosine {
                assert_eq!(scores[1], f32::NEG_INFINITY);
            }
        }
    }
}

#[test]
fn finer_codes_have_smaller_errors() {
    let dim = 8;
    let sample = noise(1500 * dim, 5);
    let error = |subquantizers: usize, bits: u8| -> f64 {
        let options = TrainOptions {
            subquantizers,
            bits,
            lists: 4,
            distill: false,
            ..TrainOptions::default()
        };
        let model = train(&sample, dim, None, &options, &NoMonitor)
            .unwrap()
            .model;
        let encoded = model.encode(&sample);
        let rows = sample.chunks(dim).zip(encoded.codes.chunks(subquantizers));
        let errors = rows.zip(&encoded.rows).filter_map(|((row, codes), one)| {
            let Placement::List(list) = one.placement else {
                return None;
            };
            model.code_error(row, list, codes)
        });
        errors.sum::<f64>() / 1500.0
    };
    let errors = [error(2, 4), error(4, 4), error(8, 8)];
    assert!(
        errors[0] < 1.0 && errors.is_sorted_by(|a, b| a > b),
        "{errors:?}"
    );
    assert!(errors[2] < 0.01, "{errors:?}");
}
