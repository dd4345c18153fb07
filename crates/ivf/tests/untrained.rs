//! An index without a model, and what does not depend on one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use distillvq_ivf::filter::FilterFormat;
use distillvq_ivf::rerank::{RerankOptions, RerankStream};
use distillvq_ivf::{
    Builder, Candidate, CreateOptions, Error, ListSearch, Meta, Metric, PageStore, Row, Tid, check,
    copy_without_rows, insert, load_model, vacuum,
};
use distillvq_pages::memory_store::MemoryStore;
use distillvq_pages::{Error as PageError, Metapage};
use std::collections::BTreeSet;

fn create() -> CreateOptions<'static> {
    CreateOptions {
        metric: Metric::L2,
        dim: 3,
        model: None,
        refine: false,
        filters: FilterFormat::default(),
        model_version: 7,
    }
}

fn row(i: u32) -> Row<'static> {
    Row {
        list: 0,
        tid: tid(i),
        scale: 0,
        norm: 0.0,
        codes: &[],
        refine: &[],
        filters: &[],
    }
}

fn tid(i: u32) -> Tid {
    Tid {
        block: i / 50,
        offset: (i % 50) as u16 + 1,
    }
}

fn build(store: &MemoryStore, rows: u32) -> Meta {
    let mut builder = Builder::create(store, create()).unwrap();
    builder.append((0..rows).map(row)).unwrap();
    builder.finish().unwrap()
}

fn tids(store: &MemoryStore, meta: &Meta) -> BTreeSet<Tid> {
    let mut search = ListSearch::new(store, meta, None, &[0.0; 3]).unwrap();
    let mut tids = Vec::new();
    let mut before = None;
    while before != Some(tids.len()) {
        before = Some(tids.len());
        search.next_exact(&mut tids).unwrap();
    }
    let set: BTreeSet<Tid> = tids.iter().copied().collect();
    assert_eq!(set.len(), tids.len(), "no row twice");
    set
}

fn expect_sound(store: &MemoryStore, rows: u64) {
    let report = check(store).unwrap();
    assert_eq!(report.problems, []);
    assert_eq!(report.entries.iter().sum::<u64>(), rows);
    assert_eq!(report.orphan_pages, 0);
}

/// Rows of each list by its directory entry.
fn counted_rows(store: &MemoryStore, meta: &Meta) -> Vec<u64> {
    let entries = meta.pages.directory.entries(store).unwrap();
    entries.iter().map(|entry| entry.rows).collect()
}

#[test]
fn empty() {
    let store = MemoryStore::new();
    let meta = build(&store, 0);
    assert_eq!(Meta::read(&store).unwrap(), meta);
    assert!(!meta.has_model());
    assert!(load_model(&store, &mut meta.clone()).unwrap().is_none());
    expect_sound(&store, 0);
    let mut search = ListSearch::new(&store, &meta, None, &[0.0; 3]).unwrap();
    search.probe(5).unwrap();
    let mut out = Vec::new();
    search.pull(10, &mut out).unwrap();
    assert_eq!((search.lists(), search.probed(), out.len()), (0, 0, 0));
    assert_eq!(vacuum(&store, &mut |_| true).unwrap().removed, 0);
}

#[test]
fn every_page_of_a_run_is_written_once() {
    let store = MemoryStore::recording();
    build(&store, 5000);
    let mut written = std::collections::HashMap::new();
    for change in store.history() {
        if let distillvq_pages::memory_store::StoreChange::Commit(pages) = change {
            pages
                .iter()
                .for_each(|(block, _)| *written.entry(*block).or_insert(0) += 1);
        }
    }
    let postings = (2..store.block_count().unwrap()).map(|block| written[&block]);
    assert_eq!(postings.collect::<Vec<_>>(), [1, 1, 1, 1]);
}

#[test]
fn runs_continue_where_the_last_one_ended() {
    let store = MemoryStore::new();
    let mut builder = Builder::create(&store, create()).unwrap();
    // A page holds 1344 rows: runs end inside, at and behind its end.
    for run in [0..10, 10..1344, 1344..1345, 1345..2688, 2688..6000] {
        builder.append(run.map(row)).unwrap();
    }
    assert_eq!(builder.rows(), 6000);
    let meta = builder.finish().unwrap();
    assert_eq!(meta.pages.rows_at_build, 6000);
    assert_eq!(counted_rows(&store, &meta), [6000]);
    expect_sound(&store, 6000);
    assert_eq!(tids(&store, &meta), (0..6000).map(tid).collect());
    assert_eq!(store.block_count().unwrap(), 2 + 5);
}

#[test]
fn an_unfinished_build_is_refused() {
    let store = MemoryStore::new();
    assert!(matches!(
        Meta::read(&store),
        Err(Error::Pages(PageError::NotAnIndex))
    ));
    let mut builder = Builder::create(&store, create()).unwrap();
    builder.append((0..10).map(row)).unwrap();
    assert!(matches!(
        Meta::read(&store),
        Err(Error::Pages(PageError::Incomplete))
    ));
    assert!(matches!(
        check(&store),
        Err(Error::Pages(PageError::Incomplete))
    ));
    assert!(matches!(
        vacuum(&store, &mut |_| false),
        Err(PageError::Incomplete)
    ));
    builder.finish().unwrap();
    assert!(Builder::create(&store, create()).is_err(), "not empty");
}

#[test]
fn rows_that_do_not_fit_are_refused() {
    let store = MemoryStore::new();
    let mut builder = Builder::create(&store, create()).unwrap();
    let bad = [
        Row { list: 1, ..row(0) },
        Row {
            tid: Tid::default(),
            ..row(0)
        },
    ];
    for bad in bad {
        assert!(matches!(
            builder.append([bad]),
            Err(Error::Pages(PageError::Mismatch(_)))
        ));
    }
    let meta = builder.finish().unwrap();
    for bad in bad {
        let refused = insert(&store, &meta, bad);
        assert!(matches!(refused, Err(Error::Pages(PageError::Mismatch(_)))));
    }
    assert!(ListSearch::new(&store, &meta, None, &[0.0; 2]).is_err());
}

#[test]
fn insert_then_vacuum_then_reuse() {
    let store = MemoryStore::new();
    let meta = build(&store, 0);
    for i in 0..4000 {
        insert(&store, &meta, row(i)).unwrap();
    }
    let blocks = store.block_count().unwrap();
    assert_eq!(blocks, 2 + 3);
    expect_sound(&store, 4000);

    let mut asked = Vec::new();
    let stats = vacuum(&store, &mut |tid| {
        asked.push(tid);
        false
    })
    .unwrap();
    assert_eq!((stats.removed, stats.remaining), (0, 4000));
    assert_eq!(asked.len(), 4000, "every row is asked about once");
    let asked: BTreeSet<Tid> = asked.into_iter().collect();
    assert_eq!(asked, (0..4000).map(tid).collect());

    let stats = vacuum(&store, &mut |tid| tid.offset.is_multiple_of(2)).unwrap();
    assert_eq!((stats.removed, stats.remaining), (2000, 2000));
    assert_eq!(counted_rows(&store, &meta), [2000]);
    expect_sound(&store, 2000);
    for i in (0..4000).filter(|&i| tid(i).offset.is_multiple_of(2)) {
        insert(&store, &meta, row(i)).unwrap();
    }
    assert_eq!(store.block_count().unwrap(), blocks, "room is used again");
    assert_eq!(tids(&store, &meta), (0..4000).map(tid).collect());

    let stats = vacuum(&store, &mut |_| true).unwrap();
    assert_eq!((stats.removed, stats.empty_pages), (4000, 3));
    expect_sound(&store, 0);
    insert(&store, &meta, row(9)).unwrap();
    assert_eq!(tids(&store, &meta), BTreeSet::from([tid(9)]));
}

#[test]
fn an_empty_copy_has_no_rows() {
    let (from, to) = (MemoryStore::new(), MemoryStore::new());
    let meta = build(&from, 2000);
    let copy = copy_without_rows(&from, &to).unwrap();
    let expected = Meta {
        pages: Metapage {
            rows_at_build: 0,
            ..meta.pages
        },
        ..meta
    };
    assert_eq!(copy, expected);
    expect_sound(&to, 0);
    insert(&to, &copy, row(1)).unwrap();
    assert_eq!(tids(&to, &copy).len(), 1);
}

#[test]
fn a_stream_orders_all_rows() {
    let store = MemoryStore::new();
    let meta = build(&store, 3000);
    let search = ListSearch::new(&store, &meta, None, &[0.0; 3]).unwrap();
    let mut stream = RerankStream::new(search, RerankOptions::default());
    let distance = |tid: &Tid| f64::from(tid.block * 7919 % 61) + f64::from(tid.offset);
    let mut fetch = |batch: &[Candidate], out: &mut Vec<Option<f64>>| -> Result<(), Error> {
        out.extend(batch.iter().map(|c| Some(distance(&c.tid))));
        Ok(())
    };
    let mut last = f64::MIN;
    for _ in 0..3000 {
        let hit = stream.next(&mut fetch).unwrap().unwrap();
        assert!(hit.distance >= last);
        last = hit.distance;
    }
    assert_eq!(stream.next(&mut fetch).unwrap(), None);
}

#[test]
fn orphans_are_harmless() {
    let store = MemoryStore::new();
    let meta = build(&store, 1344);
    {
        use distillvq_ivf::PageWrite;
        let mut write = store.write().unwrap();
        write.extend().unwrap(); // and never commit: a crash leaves an all-zero page
    }
    for i in 1344..1400 {
        insert(&store, &meta, row(i)).unwrap();
    }
    let report = check(&store).unwrap();
    assert_eq!((report.problems.len(), report.orphan_pages), (0, 1));
    assert_eq!(vacuum(&store, &mut |_| false).unwrap().remaining, 1400);
    assert_eq!(tids(&store, &meta).len(), 1400);
}

#[test]
fn a_wrong_hint_does_no_harm() {
    let store = MemoryStore::new();
    let meta = build(&store, 3000);
    // The hint of the exact list's entry: nowhere, the metapage, the directory, beyond the end.
    for hint in [0, 0, 1, 1000u32] {
        store.mutate(1, |page| {
            page[64 + 4..64 + 8].copy_from_slice(&hint.to_le_bytes());
        });
        insert(&store, &meta, row(3000 + hint)).unwrap();
        store.mutate(1, |page| {
            assert_ne!(page[64 + 4..64 + 8], hint.to_le_bytes())
        });
        vacuum(&store, &mut |tid| tid.block >= 60).unwrap();
    }
    expect_sound(&store, 3000);
}

#[test]
fn threads_insert_while_others_read_and_vacuum() {
    let store = MemoryStore::new();
    let meta = build(&store, 100);
    let is_doomed = |tid: Tid| tid.block >= 1000 && tid.offset == 2;
    std::thread::scope(|threads| {
        for thread in 0..4u32 {
            let store = &store;
            threads.spawn(move || {
                for i in 0..2000 {
                    let offset = if i % 2 == 0 { 1 } else { 2 };
                    let block = 1000 + thread * 10_000 + i;
                    let tid = Tid { block, offset };
                    insert(store, &meta, Row { tid, ..row(0) }).unwrap();
                }
            });
        }
        for _ in 0..20 {
            vacuum(&store, &mut |tid| is_doomed(tid)).unwrap();
            assert!(tids(&store, &meta).len() >= 100);
        }
    });
    vacuum(&store, &mut |tid| is_doomed(tid)).unwrap();
    expect_sound(&store, 100 + 4 * 1000);
}
