//! The decoder's gradients against central differences, and training on a small course.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::Quiet;
use crate::kmeans::{Assigner, Nearest};
use crate::lessons::teach;
use crate::linalg::{half_norms, norm2};

const DIM: usize = 5;
const TEMPERATURE: f32 = 0.4;

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

/// Calls `test` with a small course, for products and for L2.
fn with_course(test: impl Fn(&Course<'_>, &Tables)) {
    let x = noise(60 * DIM as u32, 1);
    let x = MatRef::new(&x, DIM);
    let mut books = Codebooks::zeros(DIM, 3, 16);
    books.values = noise(books.values.len() as u32, 2)
        .iter()
        .map(|x| x / 3.0)
        .collect();
    let tables = Tables {
        centroids: noise(4 * DIM as u32, 3),
        books,
    };
    let halves = half_norms(MatRef::new(&tables.centroids, DIM));
    let mut nearest = vec![Nearest::default(); 60];
    Assigner::new(MatRef::new(&tables.centroids, DIM), &halves)
        .assign(x, &mut nearest, || Ok::<_, TrainError>(()))
        .unwrap();
    let (coded, _) = Coded::new(x, nearest, &halves, &tables, &Quiet).unwrap();
    let norms: Vec<f32> = (0..60).map(|i| norm2(x.row(i))).collect();
    let mut queries = Queries::default();
    queries.add_rows(x, &[3, 8, 21]);
    queries.add_foreign(noise(2 * DIM as u32, 9).chunks_exact(DIM));
    for norms in [None, Some(&norms[..])] {
        let rows = Exact { x, norms };
        let taught = teach(&rows, &queries, 12, &Quiet).unwrap();
        test(
            &Course {
                rows: &rows,
                coded: &coded,
                queries: &queries,
                taught: &taught,
            },
            &tables,
        );
    }
}

/// The loss of a batch in double precision, straight from its definition.
fn loss(course: &Course<'_>, tables: &Tables, batch: &[u32]) -> f64 {
    let rows = candidates(course, batch);
    let score = |query: &[f32], vector: &[f64], row: u32| {
        let dot: f64 = query
            .iter()
            .zip(vector)
            .map(|(q, x)| f64::from(*q) * x)
            .sum();
        course
            .rows
            .norms
            .map_or(dot, |norms| 2.0 * dot - f64::from(norms[row as usize]))
    };
    let softmax = |scores: Vec<f64>| -> Vec<f64> {
        let exps: Vec<f64> = scores
            .iter()
            .map(|s| (s / f64::from(TEMPERATURE)).exp())
            .collect();
        exps.iter().map(|e| e / exps.iter().sum::<f64>()).collect()
    };
    let mut sum = 0.0;
    for query in batch {
        let query = &course.queries.vectors[*query as usize * DIM..][..DIM];
        let side = |vector: &dyn Fn(u32) -> Vec<f64>| {
            softmax(
                rows.iter()
                    .map(|row| score(query, &vector(*row), *row))
                    .collect(),
            )
        };
        let teacher = side(&|row| {
            course
                .rows
                .x
                .row(row as usize)
                .iter()
                .map(|x| f64::from(*x))
                .collect()
        });
        let student = side(&|row| {
            let row = row as usize;
            let base = &tables.centroids[course.coded.list(row) * DIM..][..DIM];
            let word = |t: usize| {
                tables.books.word(
                    t / tables.books.width,
                    course.coded.codes(row)[t / tables.books.width],
                )[t % tables.books.width]
            };
            let correction = f64::from(course.coded.correction(row));
            (0..DIM)
                .map(|t| correction * (f64::from(base[t]) + f64::from(word(t))))
                .collect()
        });
        sum -= teacher
            .iter()
            .zip(&student)
            .map(|(t, s)| t * s.ln())
            .sum::<f64>();
    }
    sum / batch.len() as f64
}

#[test]
fn gradients_are_slopes() {
    with_course(|course, tables| {
        let batch = [0, 1, 2, 3, 4];
        let mut decoder = Decoder::new(tables, DIM);
        let mut parts = Vec::new();
        gradients(
            course,
            &mut decoder,
            &mut parts,
            &batch,
            TEMPERATURE,
            &Quiet,
        )
        .unwrap();
        sum_lists(course, &mut decoder, &parts, |_| {}).unwrap();
        sum_books(course, &mut decoder, &parts, |_| {}).unwrap();
        let lists: Vec<f32> = decoder
            .lists
            .iter()
            .flat_map(|p| p.gradient.clone())
            .collect();
        let books: Vec<f32> = decoder
            .groups
            .iter()
            .flat_map(|p| p.gradient.clone())
            .collect();
        let slope = |pick: &dyn Fn(&mut Tables) -> &mut f32| {
            let at = |by: f32| {
                let mut moved = tables.clone();
                let value = pick(&mut moved);
                *value += by;
                (f64::from(*value), loss(course, &moved, &batch))
            };
            let (high, low) = (at(1e-3), at(-1e-3));
            (high.1 - low.1) / (high.0 - low.0)
        };
        for (i, got) in lists.iter().enumerate() {
            let want = slope(&|t| &mut t.centroids[i]);
            assert!(
                (want - f64::from(*got)).abs() < 1e-4 * (1.0 + want.abs()),
                "list {i}: {got} {want}"
            );
        }
        let width = tables.books.width;
        for (i, got) in books.iter().enumerate() {
            // Values of the padding take part in nothing.
            let padding = i / tables.books.stride() * width + i % width >= DIM;
            let want = if padding {
                0.0
            } else {
                slope(&|t| &mut t.books.values[i])
            };
            assert!(
                (want - f64::from(*got)).abs() < 1e-4 * (1.0 + want.abs()),
                "word {i}: {got} {want}"
            );
        }
        assert!(books.iter().any(|g| g.abs() > 1e-3) && lists.iter().any(|g| g.abs() > 1e-3));
    });
}

#[test]
fn training_lowers_the_loss() {
    with_course(|course, tables| {
        let plan = Plan {
            batch: 5,
            steps: 60,
            exam_every: 1000,
            temperature: TEMPERATURE,
            seed: 1,
        };
        let after = distill(course, tables, &plan, &Quiet, |_| Ok(vec![0.0]))
            .unwrap()
            .unwrap()
            .0;
        let batch = [0, 1, 2, 3, 4];
        assert!(loss(course, &after, &batch) < loss(course, tables, &batch));
    });
}

#[test]
fn scores_without_spread_have_no_temperature() {
    let taught = |best: Vec<(f32, u32)>| Ranked { best: vec![best] };
    assert_eq!(temperature(&taught(vec![(1.0, 0), (0.5, 1)])), Some(0.25));
    assert_eq!(temperature(&taught(vec![(1.0, 0), (1.0, 1)])), None);
    assert_eq!(temperature(&taught(vec![])), None);
    assert_eq!(
        temperature(&taught(vec![(f32::INFINITY, 0), (1.0, 1)])),
        None
    );
}
