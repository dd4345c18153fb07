//! The truth that a build finds in passing is what brute force finds.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::*;
use distillvq_ivf::{
    CALIBRATION_K, DEEP_QUERIES, GroundTruthCollector, Metric, Model, Neighbors, QueryKind, Tid,
};
use distillvq_linalg::testing::never_interrupt;
use distillvq_model::{EncodedRows, Placement};
use std::collections::HashSet;

const ROWS: usize = 3000;

/// All rows by their distance from a query by brute force, without the row `own`.
fn brute(metric: Metric, rows: &[f32], query: &[f32], own: Option<usize>) -> Vec<Tid> {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        let pairs = a.iter().zip(b);
        pairs.map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
    };
    let distance = |row: &[f32]| match metric {
        Metric::L2 => dot(row, row) - 2.0 * dot(row, query),
        Metric::InnerProduct => -dot(row, query),
        Metric::Cosine => -dot(row, query) / dot(row, row).sqrt(),
    };
    let mut all: Vec<(f64, usize)> = rows.chunks(DIM).map(distance).zip(0..).collect();
    all.retain(|(_, row)| Some(*row) != own);
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    all.iter().map(|(_, row)| tid(*row)).collect()
}

/// Whether these are the first of the rows in order; of many, rounding may exchange the last ones.
#[track_caller]
fn are_first(found: &[(Tid, [u32; 2])], all: &[Tid], count: usize) {
    let found: Vec<Tid> = found.iter().map(|(tid, _)| *tid).collect();
    assert_eq!(found.len(), count);
    assert_eq!(found[..CALIBRATION_K], all[..CALIBRATION_K]);
    let first: HashSet<Tid> = all[..count].iter().copied().collect();
    let others = found.iter().filter(|tid| !first.contains(tid)).count();
    assert!(others <= 1, "{others} of {count}");
}

fn part(encoded: &EncodedRows, m: usize, rows: std::ops::Range<usize>) -> EncodedRows {
    EncodedRows {
        rows: encoded.rows[rows.clone()].to_vec(),
        codes: encoded.codes[rows.start * m..rows.end * m].to_vec(),
        second_rows: encoded.second_rows.get(rows).unwrap_or_default().to_vec(),
        ..EncodedRows::default()
    }
}

/// Offers all rows in batches of this size, the last ones first if wanted.
fn collect(
    model: &Model,
    kind: QueryKind,
    rows: &[f32],
    queries: &[f32],
    (batch, backwards): (usize, bool),
) -> Vec<Neighbors> {
    let encoded = model.encode(rows);
    let collector = GroundTruthCollector::new(model, kind, queries.to_vec());
    let mut starts: Vec<usize> = (0..ROWS).step_by(batch).collect();
    if backwards {
        starts.reverse();
    }
    std::thread::scope(|scope| {
        for starts in starts.chunks(starts.len().div_ceil(2)) {
            let (collector, encoded, m) = (&collector, &encoded, model.subquantizers());
            scope.spawn(move || {
                for &from in starts {
                    let to = (from + batch).min(ROWS);
                    let tids: Vec<Tid> = (from..to).map(tid).collect();
                    let vectors = &rows[from * DIM..to * DIM];
                    let encoded = part(encoded, m, from..to);
                    collector
                        .offer(&tids, vectors, &encoded, never_interrupt)
                        .unwrap();
                }
            });
        }
    });
    let truth = collector.finish();
    assert_eq!(truth.rows, ROWS as u64);
    assert!((0.0..1.0).contains(&truth.code_error.unwrap()));
    let lists = |tid: Tid| {
        let row = row_number(tid);
        let first = match encoded.rows[row].placement {
            Placement::List(list) => list,
            _ => model.lists() as u32,
        };
        match encoded.second_rows.get(row).map(|row| row.placement) {
            Some(Placement::List(second)) => [first, second],
            _ => [first, first],
        }
    };
    let mut near = truth.neighbors.iter().flat_map(|it| &it.rows);
    assert!(near.all(|(tid, found)| lists(*tid) == *found));
    let in_two = encoded
        .second_rows
        .iter()
        .filter(|row| row.placement != Placement::Unindexed);
    assert_eq!(in_two.count() > ROWS / 2, model.assignments() == 2);
    truth.neighbors
}

#[test]
fn the_neighbors_are_those_of_brute_force() {
    let (rows, queries) = (vectors(ROWS, 5), vectors(DEEP_QUERIES + 12, 6));
    for metric in [Metric::L2, Metric::InnerProduct, Metric::Cosine] {
        let model = model(metric, 4);
        let found = collect(&model, QueryKind::Log, &rows, &queries, (700, false));
        assert_eq!(found.len(), DEEP_QUERIES + 12);
        for (i, (found, query)) in found.iter().zip(queries.chunks(DIM)).enumerate() {
            let count = if i < DEEP_QUERIES {
                1000
            } else {
                CALIBRATION_K
            };
            are_first(&found.rows, &brute(metric, &rows, query, None), count);
            assert_eq!(found.own, None);
        }
        for how in [(1, false), (97, true), (ROWS, false)] {
            let again = collect(&model, QueryKind::Log, &rows, &queries, how);
            assert_eq!(again, found, "{metric} {how:?}");
        }
    }
}

#[test]
fn neighbors_in_two_lists_have_both() {
    let (rows, queries) = (vectors(ROWS, 5), vectors(12, 6));
    let model = two_list_model(Metric::L2, 4);
    let found = collect(&model, QueryKind::Log, &rows, &queries, (700, false));
    let again = collect(&model, QueryKind::Log, &rows, &queries, (97, true));
    assert_eq!(again, found);
    let neighbors = found.iter().flat_map(|found| &found.rows);
    assert!(neighbors.filter(|(_, [a, b])| a != b).count() > 1000);
}

#[test]
fn a_row_that_poses_as_a_query_is_left_out_once() {
    let mut rows = vectors(ROWS, 5);
    // The row 7 stands in the table five times.
    for copy in [100, 2000, 2001, 2999] {
        rows.copy_within(7 * DIM..8 * DIM, copy * DIM);
    }
    let queries = [&rows[7 * DIM..8 * DIM], &rows[500 * DIM..501 * DIM]].concat();
    for metric in [Metric::L2, Metric::InnerProduct, Metric::Cosine] {
        let found = collect(
            &model(metric, 4),
            QueryKind::Rows,
            &rows,
            &queries,
            (256, true),
        );
        for (found, (row, query)) in found.iter().zip([7, 500].iter().zip(queries.chunks(DIM))) {
            if metric == Metric::InnerProduct && found.own.is_none() {
                // Longer rows are nearer to it than it is itself.
                are_first(&found.rows, &brute(metric, &rows, query, None), 1000);
            } else {
                assert_eq!(found.own, Some(tid(*row)));
                are_first(&found.rows, &brute(metric, &rows, query, Some(*row)), 1000);
            }
        }
    }
}

#[test]
fn a_cancel_stops_it() {
    let model = model(Metric::L2, 4);
    let rows = vectors(10, 5);
    let collector = GroundTruthCollector::new(&model, QueryKind::Log, vectors(2, 6));
    let tids: Vec<Tid> = (0..10).map(tid).collect();
    let outcome = collector.offer(&tids, &rows, &model.encode(&rows), || Err("cancel"));
    assert_eq!(outcome, Err("cancel"));
}
