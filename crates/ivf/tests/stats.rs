//! What a census counts.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::*;
use distillvq_ivf::{Metric, Tid, collect_stats, count_rows, insert, vacuum};
use distillvq_pages::memory_store::MemoryStore;
use std::collections::BTreeSet;

/// Rows of a census' sample.
fn drawn(tids: impl IntoIterator<Item = Tid>) -> BTreeSet<Tid> {
    tids.into_iter().collect()
}

#[test]
fn inserts_are_counted_with_and_without_refine_codes() {
    let model = model(Metric::L2, 4);
    let all = vectors(900, 5);
    for refine in [false, true] {
        let rows = match refine {
            true => encode_refined(&model, &all, 0),
            false => encode(&model, &all, 0),
        };
        let store = MemoryStore::new();
        let (built, later) = rows.split_at(600);
        let meta = build(&store, &model, &[built]);
        assert_eq!(meta.refine, refine);
        let census = |most: (usize, usize)| collect_stats(&store, &meta, most, 1).unwrap();
        let fresh = census((10_000, 10_000));
        assert_eq!((fresh.rows(), fresh.inserted), (600, 0));
        assert_eq!(fresh.inserted_sample, []);
        for row in later {
            insert(&store, &meta, row.row()).unwrap();
        }
        let grown = census((10_000, 10_000));
        assert_eq!((grown.rows(), grown.inserted), (900, 300));
        for row in &grown.inserted_sample {
            let is_it = |later: &&Owned| later.tid == row.tid;
            let wanted = later.iter().find(is_it).unwrap();
            assert_eq!((row.list, &row.values), (wanted.list, &wanted.codes));
        }
        assert_eq!(grown.inserted_sample.len(), 300);
        assert_eq!(
            drawn(grown.sampled_tids),
            drawn(rows.iter().map(|row| row.tid))
        );
        // Each list has what was put there.
        let of = |list: usize| rows.iter().filter(|row| row.list as usize == list).count() as u64;
        assert_eq!(grown.lists, (0..=LISTS).map(of).collect::<Vec<_>>());
        // Removed rows stay counted as inserted.
        vacuum(&store, &mut |tid| tid.block % 2 == 0).unwrap();
        let left = census((50, 20));
        let kept: BTreeSet<Tid> = drawn(
            rows.iter()
                .map(|row| row.tid)
                .filter(|tid| tid.block % 2 == 1),
        );
        assert_eq!((left.rows(), left.inserted), (kept.len() as u64, 300));
        assert_eq!(count_rows(&store).unwrap(), kept.len() as u64);
        assert_eq!(
            (left.sampled_tids.len(), left.inserted_sample.len()),
            (50, 20)
        );
        assert!(left.sampled_tids.iter().all(|tid| kept.contains(tid)));
        assert!(
            left.inserted_sample
                .iter()
                .all(|row| kept.contains(&row.tid))
        );
        // Nor does room that is used again change that.
        for row in encode_refined(&model, &vectors(40, 6), 2_000) {
            let row = if refine {
                row
            } else {
                Owned {
                    refine: Vec::new(),
                    ..row
                }
            };
            insert(&store, &meta, row.row()).unwrap();
        }
        assert_eq!(census((0, 0)).inserted, 340);
    }
}
