//! The sample of queries: which are kept, and what may happen to its pages.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::*;
use distillvq_ivf::query_sample::{
    MAX_QUERIES, QuerySample, counters, make_room, mark_checked, offer, read, remove,
};
use distillvq_ivf::{Draw, Meta, Metric, Offer, PageStore, PageWrite, check};
use distillvq_pages::memory_store::{MemoryStore, StoreChange};
use std::sync::mpsc;
use std::thread;

const SECOND: i64 = 1_000_000;

/// An index with room for the queries of an index over so many rows.
fn index(store: &MemoryStore, rows: u64) -> Meta {
    let model = model(Metric::L2, 4);
    build(store, &model, &[&encode(&model, &vectors(600, 2), 0)]);
    make_room(store, &Meta::read(store).unwrap(), rows).unwrap()
}

fn draw(now: i64) -> Draw {
    Draw {
        now,
        interval: SECOND,
        random: (now / 7) as u32,
    }
}

/// The `i`-th query.
fn query(meta: &Meta, i: usize) -> Vec<f32> {
    (0..meta.dim)
        .map(|j| (i + 1) as f32 + j as f32 / 64.0)
        .collect()
}

fn ask(store: &MemoryStore, meta: &Meta, i: usize, now: i64) -> Offer {
    offer(store, meta, &query(meta, i), draw(now)).unwrap()
}

/// The first element of each query, newest first.
fn firsts(sample: &QuerySample) -> Vec<usize> {
    sample
        .queries
        .iter()
        .map(|it| it.elements[0] as usize - 1)
        .collect()
}

fn is_sound(store: &MemoryStore) -> bool {
    check(store).unwrap().is_sound()
}

#[test]
fn places_are_filled_in_turn_and_then_one_a_second() {
    let store = MemoryStore::new();
    let meta = index(&store, 64 * 200);
    let room = counters(&store, &meta).unwrap().capacity as usize;
    assert!((200..MAX_QUERIES).contains(&room));
    for i in 0..room {
        assert_eq!(ask(&store, &meta, i, 5), Offer::Kept);
    }
    let sample = read(&store, &meta).unwrap();
    assert_eq!(firsts(&sample), (0..room).rev().collect::<Vec<_>>());
    assert_eq!(ask(&store, &meta, 900, 6), Offer::NotBefore(5 + SECOND));
    for (i, now) in (900..903).zip([2, 3, 4]) {
        assert_eq!(ask(&store, &meta, i, now * SECOND), Offer::Kept);
        let after = ask(&store, &meta, i, now * SECOND + 1);
        assert_eq!(after, Offer::NotBefore((now + 1) * SECOND));
    }
    let sample = read(&store, &meta).unwrap();
    assert_eq!(firsts(&sample)[..3], [902, 901, 900]);
    assert_eq!(sample.queries.len(), room);
    // A clock that is set back does not stop it for long.
    assert_eq!(ask(&store, &meta, 904, 0), Offer::Kept);
    // After a check all places are filled again.
    mark_checked(&store, &meta, sample.counters).unwrap();
    for i in 1_000..1_000 + room - 1 {
        assert_eq!(ask(&store, &meta, i, 1), Offer::Kept);
    }
    let sample = read(&store, &meta).unwrap();
    assert_eq!(sample.recent().len(), (room - 1) * meta.dim);
    assert_eq!(firsts(&sample)[0], 1_000 + room - 2);
    assert!(is_sound(&store));
}

#[test]
fn few_new_queries_are_taken_with_the_old_ones() {
    let store = MemoryStore::new();
    let meta = index(&store, 64 * 200);
    (0..150).for_each(|i| assert_eq!(ask(&store, &meta, i, 1), Offer::Kept));
    mark_checked(&store, &meta, counters(&store, &meta).unwrap()).unwrap();
    (150..213).for_each(|i| assert_eq!(ask(&store, &meta, i, 1), Offer::Kept));
    let count = |store: &MemoryStore| read(store, &meta).unwrap().recent().len() / meta.dim;
    assert_eq!(count(&store), firsts(&read(&store, &meta).unwrap()).len());
    assert_eq!(ask(&store, &meta, 213, 1), Offer::Kept);
    assert_eq!(count(&store), 64);
}

#[test]
fn a_locked_page_is_left_alone() {
    let store = MemoryStore::new();
    let meta = index(&store, 1);
    let first = meta.pages.sample;
    for block in [first, first + 1] {
        let (locked, is_locked) = mpsc::channel();
        let (done, is_done) = mpsc::channel::<()>();
        thread::scope(|scope| {
            let store = &store;
            scope.spawn(move || {
                let mut write = store.write().unwrap();
                write.lock(block).unwrap();
                locked.send(()).unwrap();
                is_done.recv().unwrap();
            });
            is_locked.recv().unwrap();
            assert_eq!(ask(store, &meta, 1, 1), Offer::Busy);
            done.send(()).unwrap();
        });
    }
    assert!(read(&store, &meta).unwrap().queries.is_empty());
    assert_eq!(ask(&store, &meta, 1, 1), Offer::Kept);
}

#[test]
fn torn_and_lost_records_are_none() {
    let store = MemoryStore::recording();
    let meta = index(&store, 1);
    (0..40).for_each(|i| assert_eq!(ask(&store, &meta, i, 1), Offer::Kept));
    // A crash takes away any of the hints.
    let history = store.history();
    for lost in 0..4 {
        let crashed = MemoryStore::new();
        for (i, change) in history.iter().enumerate() {
            if !matches!(change, StoreChange::Hint(..)) || i % 4 != lost {
                crashed.apply(change);
            }
        }
        assert!(is_sound(&crashed));
        let meta = Meta::read(&crashed).unwrap();
        let queries = read(&crashed, &meta).unwrap().queries;
        assert!(queries.len() <= 40);
        (40..300).for_each(|i| {
            ask(&crashed, &meta, i, 1);
        });
        assert!(!read(&crashed, &meta).unwrap().queries.is_empty());
    }
    // Half of a page is older than the other.
    let before = firsts(&read(&store, &meta).unwrap());
    store.mutate(meta.pages.sample + 1, |page| page[1024..].fill(0));
    let after = firsts(&read(&store, &meta).unwrap());
    assert!(after.len() < before.len() && after.iter().all(|it| before.contains(it)));
    assert!(is_sound(&store));
}

#[test]
fn removed_queries_are_nowhere() {
    let store = MemoryStore::new();
    let meta = index(&store, 1);
    (0..60).for_each(|i| assert_eq!(ask(&store, &meta, i, 1), Offer::Kept));
    remove(&store, &meta).unwrap();
    assert!(read(&store, &meta).unwrap().queries.is_empty());
    assert_eq!(counters(&store, &meta).unwrap().newest, 0);
    for block in meta.pages.sample + 1..store.block_count().unwrap() {
        let is_empty = |page: &[u8]| page[64..].iter().all(|byte| *byte == 0);
        assert!(store.read(block, is_empty).unwrap());
    }
    assert_eq!(ask(&store, &meta, 1, 1), Offer::Kept);
}

#[test]
fn room_is_made_once_and_grows() {
    let store = MemoryStore::new();
    let meta = index(&store, 1);
    let blocks = store.block_count().unwrap();
    assert_eq!(make_room(&store, &meta, 1).unwrap(), meta);
    assert_eq!(store.block_count().unwrap(), blocks);
    (0..20).for_each(|i| assert_eq!(ask(&store, &meta, i, 1), Offer::Kept));
    assert_eq!(make_room(&store, &meta, u64::MAX).unwrap(), meta);
    assert!(counters(&store, &meta).unwrap().capacity as usize >= MAX_QUERIES);
    assert_eq!(firsts(&read(&store, &meta).unwrap()).len(), 20);
    assert!(is_sound(&store));
}

#[test]
fn damage_is_reported_and_fails_nothing_else() {
    let damages: [fn(&mut [u8]); 4] = [
        |page| page[24] = 4,
        |page| page[28] = 9,
        |page| page[80..84].fill(255),
        |page| page[88..92].fill(255),
    ];
    for (i, damage) in damages.into_iter().enumerate() {
        let store = MemoryStore::new();
        let meta = index(&store, 1);
        store.mutate(meta.pages.sample, damage);
        assert!(!is_sound(&store), "{i}");
        assert!(read(&store, &meta).is_err(), "{i}");
    }
    let store = MemoryStore::new();
    let meta = index(&store, 1);
    store.mutate(meta.pages.sample + 1, |page| page[28] = 7);
    assert!(!is_sound(&store));
    assert!(offer(&store, &meta, &query(&meta, 1), draw(1)).is_err());
}
