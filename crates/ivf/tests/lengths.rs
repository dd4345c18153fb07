//! Searches of rows whose lengths differ by magnitudes: to codes made for the longest, most others are nearly alike, and the
//! errors of the first rows that a search compares say little about those of other rows.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{build, distance, distances_by, encode, encode_refined, row_number};
use distillvq_ivf::refine::RefineStream;
use distillvq_ivf::rerank::{CandidateSource, RerankOptions, RerankStream};
use distillvq_ivf::{ListSearch, Metric, Tid};
use distillvq_pages::memory_store::MemoryStore;
use distillvq_training::{NoMonitor, TrainOptions, train};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const DIM: usize = 13;
const ROWS: usize = 2_600;
const QUERIES: usize = 20;
const LIMIT: usize = 50;

/// Random rows, the `i`-th multiplied by `length(i)`.
fn random(n: usize, seed: u64, length: fn(usize) -> f32) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut value = |i: usize| rng.random_range(-1.0..1.0f32) * length(i / DIM);
    (0..n * DIM).map(&mut value).collect()
}

/// The nearest rows that a stream over all lists finds in strict order, and how many rows were scored by more than their short
/// codes.
fn search<C: CandidateSource>(
    mut stream: RerankStream<C>,
    exact: &dyn Fn(Tid) -> f64,
) -> (Vec<f64>, u64) {
    let mut fetch = distances_by(exact);
    let mut next = || stream.next(&mut fetch).unwrap().map(|hit| hit.distance);
    let found = std::iter::from_fn(&mut next).take(LIMIT).collect();
    let stats = stream.stats();
    (found, stats.reranked.max(stats.work.refined))
}

/// How many of the nearest rows all queries miss, and how many rows each compares.
fn missed_and_compared(data: &[f32], refine: bool) -> (usize, u64) {
    let options = TrainOptions {
        metric: Metric::L2,
        lists: 26,
        subquantizers: 7,
        distill: false,
        ..TrainOptions::default()
    };
    let trained = train(data.to_vec(), DIM, None, &options, &NoMonitor).unwrap();
    let model = trained.model;
    let rows = if refine { encode_refined } else { encode }(&model, data, 0);
    let store = MemoryStore::new();
    let meta = build(&store, &model, &[&rows]);
    let (mut missed, mut compared) = (0, 0);
    for query in random(QUERIES, 9, |_| 1.0).chunks(DIM) {
        let vector = |tid: Tid| &data[row_number(tid) * DIM..][..DIM];
        let exact = |tid: Tid| distance(Metric::L2, query, vector(tid));
        let all_lists = |options: RerankOptions| RerankOptions {
            probes: options.probes.max(model.lists()),
            ..options
        };
        let codes = ListSearch::new(&store, &meta, Some(model.searcher()), query).unwrap();
        let (found, work) = if refine {
            let options = all_lists(RerankOptions::for_refine_codes(meta.shape));
            let refined = RefineStream::new(codes, &store, options).unwrap();
            search(
                RerankStream::new(refined, RerankOptions::for_heap_rows()),
                &exact,
            )
        } else {
            let options = all_lists(RerankOptions::for_codes(meta.shape));
            search(RerankStream::new(codes, options), &exact)
        };
        let mut truth: Vec<f64> = rows.iter().map(|row| exact(row.tid)).collect();
        truth.sort_by(f64::total_cmp);
        truth.truncate(LIMIT);
        missed += truth.iter().filter(|d| !found.contains(d)).count();
        compared += work;
    }
    (missed, compared / QUERIES as u64)
}

#[test]
fn rows_of_all_lengths_are_found() {
    let data = random(ROWS, 1, |i| 0.5 * 10f32.powi(i as i32 % 6 - 3));
    for refine in [false, true] {
        let (missed, _) = missed_and_compared(&data, refine);
        assert!(missed <= QUERIES * LIMIT / 200, "{refine}: {missed}");
    }
}

#[test]
fn rows_of_about_one_length_take_few_comparisons() {
    let data = random(ROWS, 1, |_| 1.0);
    for refine in [false, true] {
        let (missed, compared) = missed_and_compared(&data, refine);
        assert!(missed <= QUERIES * LIMIT / 200, "{refine}: {missed}");
        assert!(compared <= 300, "{refine}: {compared}");
    }
}
