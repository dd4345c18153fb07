//! The decoder's gradients against central differences, and training on a small set.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::progress::NoMonitor;
use crate::teacher::exact::exact_neighbors;
use distillvq_linalg::matrix::{MatRef, half_norms, squared_norm};
use distillvq_linalg::testing::noise;
use distillvq_model::coarse::Assigner;
use distillvq_model::coarse::flat::Assignment;
use distillvq_model::codebooks::Codebooks;
use distillvq_model::params::IvfPqTables;

const DIM: usize = 5;
const TEMPERATURE: f32 = 0.4;

/// Calls `test` with a small set and a decoder, for products and for L2.
fn with_course(test: impl Fn(&DecoderTrainSet<'_>, &Decoder)) {
    let x = noise(60 * DIM, 1);
    let x = MatRef::new(&x, DIM);
    let mut books = Codebooks::zeros(DIM, 3, 16);
    books.values = noise(books.values.len(), 2)
        .iter()
        .map(|x| x / 3.0)
        .collect();
    let tables = IvfPqTables {
        centroids: noise(4 * DIM, 3),
        books,
    };
    let halves = half_norms(MatRef::new(&tables.centroids, DIM));
    let mut nearest = vec![Assignment::default(); 60];
    Assigner::new(MatRef::new(&tables.centroids, DIM), &halves)
        .assign(x, &mut nearest, || Ok::<_, TrainError>(()))
        .unwrap();
    let (coded, _) = EncodedSample::new(x, nearest, &halves, &tables, &NoMonitor).unwrap();
    let norms: Vec<f32> = (0..60).map(|i| squared_norm(x.row(i))).collect();
    let mut queries = QuerySet::default();
    queries.add_rows(x, &[3, 8, 21]);
    queries.add_logged(noise(2 * DIM, 9).chunks_exact(DIM));
    for norms in [None, Some(&norms[..])] {
        let rows = SampleVectors { x, norms };
        let taught = exact_neighbors(&rows, &queries, 12, &NoMonitor).unwrap();
        let set = DecoderTrainSet {
            rows: &rows,
            coded: &coded,
            queries: &queries,
            taught: &taught,
        };
        let noise = noise(DIM * DIM, 12);
        let unit = distillvq_linalg::orthogonal::identity(DIM);
        let query_transform = unit.iter().zip(noise).map(|(u, n)| u + n / 5.0);
        let decoder = Decoder {
            tables: tables.clone(),
            query_transform: query_transform.collect(),
        };
        test(&set, &decoder);
    }
}

fn options(sampling: NegativeSampling) -> DecoderTrainOptions {
    DecoderTrainOptions {
        batch: 5,
        steps: 60,
        eval_interval: 1000,
        temperature: TEMPERATURE,
        loss: Loss::ListNet,
        sampling,
        query_transform: true,
        seed: 1,
    }
}

/// What a query of the batch is compared on.
fn candidates(
    set: &DecoderTrainSet<'_>,
    batch: &[u32],
    query: u32,
    sampling: NegativeSampling,
) -> Vec<u32> {
    let near = |q: u32, most: usize| set.taught.best[q as usize].iter().take(most);
    let mut rows: Vec<u32> = match sampling {
        NegativeSampling::OwnNeighbors => near(query, 100).map(|(_, row)| *row).collect(),
        _ => {
            let most = if sampling == NegativeSampling::Both {
                100
            } else {
                1
            };
            let all = batch.iter().flat_map(|q| near(*q, most));
            all.map(|(_, row)| *row).collect()
        }
    };
    rows.sort_unstable();
    rows.dedup();
    rows
}

/// The decoder's vector of a row.
fn decoded(set: &DecoderTrainSet<'_>, tables: &IvfPqTables, row: usize) -> Vec<f64> {
    let base = &tables.centroids[set.coded.list(row) * DIM..][..DIM];
    let mut words = vec![0f32; DIM];
    tables.books.add_decoded(set.coded.codes(row), &mut words);
    let correction = f64::from(set.coded.correction(row));
    let value = |t: usize| correction * (f64::from(base[t]) + f64::from(words[t]));
    (0..DIM).map(value).collect()
}

/// The ListNet loss of a batch in double precision, straight from its definition.
fn loss(
    set: &DecoderTrainSet<'_>,
    decoder: &Decoder,
    batch: &[u32],
    sampling: NegativeSampling,
) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let wide = |x: &[f32]| x.iter().map(|x| f64::from(*x)).collect::<Vec<f64>>();
    let score = |query: &[f64], vector: &[f64], row: u32| {
        let product = dot(query, vector);
        let norms = set.rows.norms;
        norms.map_or(product, |n| 2.0 * product - f64::from(n[row as usize]))
    };
    let softmax = |scores: Vec<f64>| -> Vec<f64> {
        let exps = scores.iter().map(|s| (s / f64::from(TEMPERATURE)).exp());
        let exps: Vec<f64> = exps.collect();
        exps.iter().map(|e| e / exps.iter().sum::<f64>()).collect()
    };
    let of = |q: &u32| {
        let query = wide(&set.queries.vectors[*q as usize * DIM..][..DIM]);
        let query_transform = decoder.query_transform.chunks_exact(DIM).map(wide);
        let transformed: Vec<f64> = query_transform.map(|row| dot(&row, &query)).collect();
        let rows = candidates(set, batch, *q, sampling);
        let exact = |row: &u32| score(&query, &wide(set.rows.x.row(*row as usize)), *row);
        let coded = |row: &u32| {
            let vector = decoded(set, &decoder.tables, *row as usize);
            score(&transformed, &vector, *row)
        };
        let teacher = softmax(rows.iter().map(exact).collect());
        let student = softmax(rows.iter().map(coded).collect());
        let pairs = teacher.iter().zip(&student);
        pairs.map(|(t, s)| -t * s.ln()).sum::<f64>()
    };
    batch.iter().map(of).sum::<f64>() / batch.len() as f64
}

#[test]
fn gradients_are_slopes() {
    for sampling in [
        NegativeSampling::Both,
        NegativeSampling::OwnNeighbors,
        NegativeSampling::InBatch,
    ] {
        with_course(|set, decoder| {
            let batch = [0, 1, 2, 3, 4];
            let options = options(sampling);
            let mut trainer = DecoderTrainer::new(set, decoder, &options, &NoMonitor);
            trainer.gradients(&batch).unwrap();
            let slope = |pick: &dyn Fn(&mut Decoder) -> &mut f32| {
                let at = |by: f32| {
                    let mut moved = decoder.clone();
                    let value = pick(&mut moved);
                    *value += by;
                    (f64::from(*value), loss(set, &moved, &batch, sampling))
                };
                let (high, low) = (at(1e-3), at(-1e-3));
                (high.1 - low.1) / (high.0 - low.0)
            };
            let check = |what: &str, i: usize, got: f32, want: f64| {
                let close = (want - f64::from(got)).abs() < 1e-4 * (1.0 + want.abs());
                assert!(close, "{what} {i}: {got} {want}");
            };
            let [lists, books, query_transform] = trainer.flat_gradients();
            for (i, got) in lists.iter().enumerate() {
                check("list", i, *got, slope(&|d| &mut d.tables.centroids[i]));
            }
            let of = &decoder.tables.books;
            for (i, got) in books.iter().enumerate() {
                // Values of the padding take part in nothing.
                let padding = i % of.width >= of.range(i / of.stride()).len();
                let want = match padding {
                    true => 0.0,
                    false => slope(&|d| &mut d.tables.books.values[i]),
                };
                check("word", i, *got, want);
            }
            for (i, got) in query_transform.iter().enumerate() {
                check(
                    "query_transform",
                    i,
                    *got,
                    slope(&|d| &mut d.query_transform[i]),
                );
            }
            for all in [lists, books, query_transform] {
                assert!(all.iter().any(|g| g.abs() > 1e-3));
            }
        });
    }
}

#[test]
fn training_lowers_the_loss() {
    with_course(|set, decoder| {
        let options = options(NegativeSampling::Both);
        let after = train_decoder(set, decoder, &options, &NoMonitor, |_| Ok(vec![0.0]));
        let after = after.unwrap().unwrap().0;
        let loss = |decoder: &Decoder| loss(set, decoder, &[0, 1, 2, 3, 4], NegativeSampling::Both);
        assert!(loss(&after) < loss(decoder));
    });
}

#[test]
fn scores_without_spread_have_no_temperature() {
    let taught = |best: Vec<(f32, u32)>| NeighborLists { best: vec![best] };
    assert_eq!(temperature(&taught(vec![(1.0, 0), (0.5, 1)])), Some(0.25));
    assert_eq!(temperature(&taught(vec![(1.0, 0), (1.0, 1)])), None);
    assert_eq!(temperature(&taught(vec![])), None);
    assert_eq!(
        temperature(&taught(vec![(f32::INFINITY, 0), (1.0, 1)])),
        None
    );
}
