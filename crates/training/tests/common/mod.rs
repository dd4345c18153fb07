//! Data for tests, seeded.
#![allow(dead_code)]

use distillvq_model::{Metric, Model, Placement};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Roughly normal numbers.
pub fn gauss(n: usize, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..n)
        .map(|_| (0..6).map(|_| rng.random::<f32>()).sum::<f32>() * 1.414 - 4.243)
        .collect()
}

/// Rows in groups: 40 centers, noise of `spread` around them; the structure that an index can use.
pub fn groups(n: usize, dim: usize, spread: f32, seed: u64) -> Vec<f32> {
    let centers = gauss(40 * dim, 1000);
    let noise = gauss(n * dim, seed);
    (0..n * dim)
        .map(|i| centers[(i / dim * 7 + i / dim / 40) % 40 * dim + i % dim] + spread * noise[i])
        .collect()
}

/// The exact score, bigger is nearer.
pub fn exact(metric: Metric, query: &[f32], row: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| {
        a.iter()
            .zip(b)
            .map(|(x, y)| f64::from(*x) * f64::from(*y))
            .sum::<f64>()
    };
    match metric {
        Metric::L2 => -query
            .iter()
            .zip(row)
            .map(|(x, y)| (f64::from(*x) - f64::from(*y)).powi(2))
            .sum::<f64>(),
        Metric::InnerProduct => dot(query, row),
        Metric::Cosine => dot(query, row) / dot(row, row).sqrt(),
    }
}

/// Positions of the `k` best scores, best first.
pub fn best(scores: &[f64], k: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    order.truncate(k);
    order
}

/// Scores of all rows by their codes, straight from the definition; rows outside the lists score infinitely.
pub fn by_codes(model: &Model, query: &[f32], rows: &[f32]) -> Vec<f64> {
    let (tables, encoded) = (model.query(query), model.encode(rows));
    let (m, words) = (model.subquantizers(), model.shape().words());
    let codes = encoded.codes.chunks_exact(m);
    let score = |(row, codes): (&distillvq_model::Encoded, &[u8])| {
        let Placement::List(list) = row.placement else {
            return f64::INFINITY;
        };
        let score_params = tables.score_params(list);
        let sum: u32 = codes
            .iter()
            .enumerate()
            .map(|(s, c)| u32::from(tables.lut[s * words + usize::from(*c)]))
            .sum();
        let scale = score_params.correction_min
            + score_params.correction_step * f32::from(row.correction_code);
        let score = scale * (score_params.base + score_params.delta * sum as f32);
        f64::from(if model.shape().has_norm {
            2.0 * score - row.norm
        } else {
            score
        })
    };
    encoded.rows.iter().zip(codes).map(score).collect()
}

/// Share of the exact ten among the best `r` by codes.
pub fn recall(model: &Model, queries: &[f32], rows: &[f32], r: usize) -> f64 {
    let dim = model.dim();
    let mut hits = 0;
    for query in queries.chunks_exact(dim) {
        let scores: Vec<f64> = rows
            .chunks_exact(dim)
            .map(|row| exact(model.metric(), query, row))
            .collect();
        let found = best(&by_codes(model, query, rows), r);
        hits += best(&scores, 10)
            .iter()
            .filter(|i| found.contains(i))
            .count();
    }
    hits as f64 / (10 * queries.len() / dim) as f64
}
