//! Gradients against central differences, shares, sizes, the quick teacher, and training on a shifted log.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::progress::NoMonitor;
use distillvq_linalg::matrix::matmul_nn;
use distillvq_linalg::testing::noise;
use std::f32::consts::TAU;

const DIM: usize = 3;
const LISTS: usize = 70;

/// The loss with this query transform, in double precision.
fn cost(
    start: &Routing,
    query_transform: &[f32],
    queries: MatRef<'_>,
    shares: &[&ListTargets],
) -> f64 {
    let mut vectors = vec![0f32; start.vectors.len()];
    matmul_nn(
        MatRef::new(&start.vectors, DIM),
        MatRef::new(query_transform, DIM),
        &mut vectors,
    );
    let one = |q: usize| {
        let score = |l: usize| {
            let vector = vectors[l * DIM..(l + 1) * DIM].iter();
            let dot = vector
                .zip(queries.row(q))
                .map(|(w, x)| f64::from(*w) * f64::from(*x));
            (dot.sum::<f64>() + f64::from(start.biases[l])) / 0.5
        };
        let sum: f64 = (0..LISTS).map(|l| score(l).exp()).sum();
        let found = shares[q].iter();
        found
            .map(|(l, share)| f64::from(*share) * (sum.ln() - score(*l as usize)))
            .sum::<f64>()
    };
    (0..queries.rows()).map(one).sum::<f64>() / queries.rows() as f64
}

#[test]
fn gradients_are_slopes() {
    let start = Routing {
        vectors: noise(LISTS * DIM, 1),
        biases: noise(LISTS, 2),
    };
    let query_transform = noise(DIM * DIM, 9);
    // More queries than the router works on together.
    let queries = noise(40 * DIM, 5);
    let queries = MatRef::new(&queries, DIM);
    let some = [
        vec![(0, 0.6), (69, 0.4)],
        vec![(3, 1.0)],
        vec![(1, 0.5), (64, 0.25), (65, 0.25)],
    ];
    let shares: Vec<&ListTargets> = some.iter().cycle().take(40).collect();
    let mut trainer = RouterTrainer::new(&start, DIM, 0.5, 1.0);
    trainer
        .query_transform
        .values
        .copy_from_slice(&query_transform);
    trainer.gradients(queries, &shares, &NoMonitor).unwrap();
    let at = |move_it: &dyn Fn(&mut Routing, &mut [f32], f32), by: f32| {
        let (mut routing, mut query_transform) = (start.clone(), query_transform.clone());
        move_it(&mut routing, &mut query_transform, by);
        cost(&routing, &query_transform, queries, &shares)
    };
    let slope = |move_it: &dyn Fn(&mut Routing, &mut [f32], f32)| {
        (at(move_it, 0.0078125) - at(move_it, -0.0078125)) / 0.015625
    };
    for l in 0..LISTS {
        let shard = &trainer.shards[l / 64];
        let bias = f64::from(shard.biases.gradient[l % 64]);
        assert!((bias - slope(&|r, _, by| r.biases[l] += by)).abs() < 1e-4);
        for t in 0..DIM {
            let got = f64::from(shard.vectors.gradient[l % 64 * DIM + t]);
            assert!((got - slope(&|r, _, by| r.vectors[l * DIM + t] += by)).abs() < 1e-4);
        }
    }
    for t in 0..DIM * DIM {
        let got = f64::from(trainer.query_transform.gradient[t]);
        assert!(
            (got - slope(&|_, query_transform, by| query_transform[t] += by)).abs()
                < 1e-3 * got.abs().max(0.1)
        );
    }
}

#[test]
fn the_turn_is_folded_into_the_vectors() {
    let start = Routing {
        vectors: noise(LISTS * DIM, 1),
        biases: noise(LISTS, 2),
    };
    let mut trainer = RouterTrainer::new(&start, DIM, 0.5, 1.0);
    assert_eq!(trainer.routing(&NoMonitor).unwrap().vectors, start.vectors);
    let query_transform = noise(DIM * DIM, 9);
    trainer
        .query_transform
        .values
        .copy_from_slice(&query_transform);
    let routing = trainer.routing(&NoMonitor).unwrap();
    assert_eq!(routing.biases, start.biases);
    for t in 0..DIM {
        let want: f32 = (0..DIM)
            .map(|j| start.vectors[69 * DIM + j] * query_transform[j * DIM + t])
            .sum();
        assert!((routing.vectors[69 * DIM + t] - want).abs() < 1e-6);
    }
}

#[test]
fn shares_follow_scores() {
    let near = [(3.0, 7), (2.0, 1), (3.0, 1), (1.0, 7)];
    assert_eq!(shares(&near, None), [(1, 0.5), (7, 0.5)]);
    let e = (-1.0f32).exp();
    let sum = (1.0 + e) + (1.0 + e * e);
    let got = shares(&near, Some(1.0));
    assert_eq!([got[0].0, got[1].0], [1, 7]);
    assert!((got[0].1 - (1.0 + e) / sum).abs() < 1e-6);
    assert!((got[1].1 - (1.0 + e * e) / sum).abs() < 1e-6);
    assert!(shares(&[], None).is_empty());
}

#[test]
fn recall_counts_lists_within_the_budget() {
    // Three lists of 10, 80 and 910 rows; budgets of 2, 5, 10 and 20 % of 1000 rows.
    let sizes = [10, 80, 910];
    let recall =
        |scores: &[f32], shares: &[(u32, f32)]| recall(scores, &sizes, 1000, &shares.to_vec());
    assert_eq!(recall(&[3.0, 2.0, 1.0], &[(0, 1.0)]), 1.0);
    assert!((recall(&[3.0, 2.0, 1.0], &[(1, 1.0)]) - 0.5).abs() < 1e-6);
    assert!((recall(&[3.0, 2.0, 1.0], &[(0, 0.5), (1, 0.5)]) - 0.75).abs() < 1e-6);
    assert_eq!(recall(&[3.0, 2.0, 1.0], &[(2, 1.0)]), 0.0);
    // The first list counts, however large.
    assert_eq!(recall(&[1.0, 2.0, 3.0], &[(2, 1.0)]), 1.0);
}

#[test]
fn long_lists_are_discounted() {
    let mut biases = [1.0, 1.0, 1.0];
    penalize_long_lists(&mut biases, &[10, 0, 20], 0.5);
    assert!((biases[0] - 1.0).abs() < 1e-6);
    assert!((biases[1] - (1.0 + 0.5 * 10f32.ln())).abs() < 1e-6);
    assert!((biases[2] - (1.0 - 0.5 * 2f32.ln())).abs() < 1e-6);
}

#[test]
fn a_shifted_log_is_learned() {
    // Queries lie some lists away from the lists that hold their neighbors.
    let transformed = |angle: f32| [(angle + 0.5).cos(), (angle + 0.5).sin()];
    let angles: Vec<f32> = (0..2000u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 % 6283.0 / 1000.0)
        .collect();
    let centroids: Vec<f32> = (0..32)
        .flat_map(|l| {
            let a = l as f32 * TAU / 32.0;
            [a.cos(), a.sin()]
        })
        .collect();
    let vectors: Vec<f32> = angles.iter().flat_map(|a| transformed(*a)).collect();
    let list = |a: &f32| ((a / TAU * 32.0).round() as u32) % 32;
    let near: Vec<ListTargets> = angles.iter().map(|a| vec![(list(a), 1.0)]).collect();
    let picked: Vec<u32> = (0..2000).collect();
    let set = RoutingSet {
        vectors: MatRef::new(&vectors, 2),
        picked: &picked,
        shares: &near,
    };
    let start = untrained(Metric::Cosine, MatRef::new(&centroids, 2), &[0.5; 32]);
    let sizes = [100; 32];
    let evaluate = |routing: &Routing| set.recalls(routing, &sizes, &NoMonitor);
    let before = mean(&evaluate(&start).unwrap());
    let (best, after) = train(&set, &start, &sizes, 1, &NoMonitor, evaluate)
        .unwrap()
        .unwrap();
    assert_eq!(after, evaluate(&best).unwrap());
    let after = mean(&after);
    assert!(before < 0.3 && after > before + 0.3, "{before} {after}");
}

/// A monitor that interrupts at the n-th question.
struct Impatient(std::sync::atomic::AtomicUsize, usize);

impl Monitor for Impatient {
    fn interrupted(&self) -> bool {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1 >= self.1
    }
    fn phase(&self, _: crate::progress::Phase, _: usize, _: usize) {}
}

#[test]
fn every_step_asks_the_monitor() {
    let start = Routing {
        vectors: noise(LISTS * DIM, 1),
        biases: noise(LISTS, 2),
    };
    let vectors = noise(300 * DIM, 5);
    let picked: Vec<u32> = (0..300).collect();
    let near = vec![vec![(3, 1.0)]; 300];
    let set = RoutingSet {
        vectors: MatRef::new(&vectors, DIM),
        picked: &picked,
        shares: &near,
    };
    let evaluate = |routing: &Routing| set.recalls(routing, &[1; LISTS], &NoMonitor);
    let patience = Impatient(Default::default(), usize::MAX);
    train(&set, &start, &[1; LISTS], 1, &patience, evaluate).unwrap();
    let asked = patience.0.into_inner();
    assert!(asked > 20 * 2 * 4, "{asked}");
    for at in [1, 2, 40, asked / 2, asked] {
        let patience = Impatient(Default::default(), at);
        let outcome = train(&set, &start, &[1; LISTS], 1, &patience, evaluate);
        assert!(matches!(outcome, Err(TrainError::Interrupted)), "{at}");
    }
    let impatient = Impatient(Default::default(), 3);
    assert!(set.recalls(&start, &[1; LISTS], &impatient).is_err());
}
