//! The router's gradients against central differences, and training on a shifted log.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::Quiet;
use std::f32::consts::TAU;

fn noise(n: u32, salt: u32) -> Vec<f32> {
    let bits = |i: u32| {
        (i ^ salt.wrapping_mul(77_777))
            .wrapping_mul(2_654_435_761)
            .rotate_left(11)
    };
    (0..n)
        .map(|i| (bits(i) % 2000) as f32 / 1000.0 - 1.0)
        .collect()
}

const DIM: usize = 3;
const LISTS: usize = 70;

fn loss(routing: &Routing, queries: MatRef<'_>, lists: &[&[u32]], temperature: f64) -> f64 {
    let one = |q: usize| {
        let score = |l: usize| {
            let vector = &routing.vectors[l * DIM..(l + 1) * DIM];
            let dot: f64 = vector
                .iter()
                .zip(queries.row(q))
                .map(|(w, x)| f64::from(*w) * f64::from(*x))
                .sum();
            (dot + f64::from(routing.biases[l])) / temperature
        };
        let sum: f64 = (0..LISTS).map(|l| score(l).exp()).sum();
        lists[q]
            .iter()
            .map(|l| sum.ln() - score(*l as usize))
            .sum::<f64>()
            / lists[q].len() as f64
    };
    (0..queries.rows()).map(one).sum::<f64>() / queries.rows() as f64
}

#[test]
fn gradients_are_slopes() {
    let start = Routing {
        vectors: noise((LISTS * DIM) as u32, 1),
        biases: noise(LISTS as u32, 2),
    };
    let queries = noise(4 * DIM as u32, 5);
    let queries = MatRef::new(&queries, DIM);
    let lists: [&[u32]; 4] = [&[0, 0, 69], &[3], &[64, 65, 1, 1], &[12, 13]];
    let mut router = Router::new(&start, DIM, 0.5, 1.0);
    router.gradients(queries, &lists, &Quiet).unwrap();
    let slope = |pick: &dyn Fn(&mut Routing) -> &mut f32| {
        let at = |by: f32| {
            let mut moved = start.clone();
            let value = pick(&mut moved);
            *value += by;
            (f64::from(*value), loss(&moved, queries, &lists, 0.5))
        };
        let (high, low) = (at(1e-3), at(-1e-3));
        (high.1 - low.1) / (high.0 - low.0)
    };
    for l in 0..LISTS {
        let part = &router.parts[l / PART];
        let bias = f64::from(part.biases.gradient[l % PART]);
        assert!((bias - slope(&|r| &mut r.biases[l])).abs() < 1e-4);
        for t in 0..DIM {
            let got = f64::from(part.vectors.gradient[l % PART * DIM + t]);
            assert!((got - slope(&|r| &mut r.vectors[l * DIM + t])).abs() < 1e-4);
        }
    }
}

#[test]
fn recall_counts_lists_within_the_budget() {
    // Three lists of 10, 80 and 910 rows; budgets of 2, 5 and 10 % of 1000 rows.
    let sizes = [10, 80, 910];
    assert_eq!(recall(&[3.0, 2.0, 1.0], &sizes, 1000, &[0, 0]), 1.0);
    assert!((recall(&[3.0, 2.0, 1.0], &sizes, 1000, &[1]) - 1.0 / 3.0).abs() < 1e-6);
    assert_eq!(recall(&[3.0, 2.0, 1.0], &sizes, 1000, &[2]), 0.0);
    // The first list counts, however large.
    assert_eq!(recall(&[1.0, 2.0, 3.0], &sizes, 1000, &[2]), 1.0);
}

#[test]
fn a_shifted_log_is_learned() {
    // Queries lie some lists away from the lists that hold their neighbours.
    let turned = |angle: f32| [(angle + 0.5).cos(), (angle + 0.5).sin()];
    let angles: Vec<f32> = (0..2000u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 % 6283.0 / 1000.0)
        .collect();
    let centroids: Vec<f32> = (0..32)
        .flat_map(|l| {
            let a = l as f32 * TAU / 32.0;
            [a.cos(), a.sin()]
        })
        .collect();
    let vectors: Vec<f32> = angles.iter().flat_map(|a| turned(*a)).collect();
    let lists = |from: usize| {
        angles[from..]
            .iter()
            .map(|a| vec![((a / TAU * 32.0).round() as u32) % 32])
            .collect::<Vec<_>>()
    };
    let near = lists(0);
    let routes = Routes {
        queries: MatRef::new(&vectors, 2),
        lists: &near,
    };
    let start = by_centroids(Metric::Cosine, MatRef::new(&centroids, 2), &[0.5; 32]);
    let sizes = [100; 32];
    let before = mean(&routes.recalls(&start, &sizes).unwrap());
    let (best, _) = train(&routes, &start, 40, 1, &Quiet, |r| {
        routes.recalls(r, &sizes)
    })
    .unwrap()
    .unwrap();
    let after = mean(&routes.recalls(&best, &sizes).unwrap());
    assert!(before < 0.1 && after > before + 0.1, "{before} {after}");
}
