//! Replacing the student of a live index.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::*;
use distillvq_ivf::filter::FilterFormat;
use distillvq_ivf::{
    Builder, CreateOptions, Error, Meta, Metric, Model, PageStore, Problem, check,
    copy_without_rows, insert, load_model, replace_student,
};
use distillvq_pages::Error as PageError;
use distillvq_pages::memory_store::MemoryStore;
use std::cell::Cell;

const METRIC: Metric = Metric::L2;
const BITS: u8 = 8;

/// An index with the first of the students, and its rows.
fn index(rows: usize) -> (MemoryStore, Vec<Model>, Vec<Owned>) {
    let students = students(METRIC, BITS);
    let rows = encode(&students[0], &vectors(rows, 2), 0);
    let store = MemoryStore::new();
    build(&store, &students[0], &[&rows]);
    (store, students, rows)
}

fn replace(store: &MemoryStore, model: &Model, model_version: u64) -> Meta {
    let meta = replace_student(store, &model.student_bytes().unwrap(), model_version).unwrap();
    assert_eq!(Meta::read(store).unwrap(), meta);
    assert_eq!(meta.model_version(), model_version);
    meta
}

fn load<S: PageStore>(store: &S, meta: &mut Meta) -> Vec<u8> {
    let model = load_model(store, meta).unwrap().unwrap();
    model.to_bytes().unwrap()
}

fn pages(store: &MemoryStore, wanted: impl Fn(u32) -> bool) -> Vec<Vec<u8>> {
    let blocks = (0..store.block_count().unwrap()).filter(|block| wanted(*block));
    blocks
        .map(|block| store.read(block, |page| page.to_vec()).unwrap())
        .collect()
}

#[test]
fn scores_and_probing_change_and_nothing_else() {
    let (store, students, mut rows) = index(2000);
    let old = Meta::read(&store).unwrap();
    let blocks = store.block_count().unwrap();
    let kept = |block: u32| block != 0 && block < blocks;
    let before = pages(&store, kept);
    let query = vectors(1, 5);
    let mut expected_old = scores(&students[0], &rows, &query);
    for (id, model) in (10..).zip(&students[1..]) {
        let mut meta = replace(&store, model, id);
        assert_eq!(load(&store, &mut meta), model.to_bytes().unwrap());
        let found = pull_all(&store, &meta, model, &query, 5000);
        assert_eq!(found, scores(model, &rows, &query));
        assert_ne!(found, expected_old);
        expected_old = found;
        let report = check(&store).unwrap();
        assert_eq!((report.problems, report.orphan_pages), (vec![], 0));
        if id == 10 {
            assert!(pages(&store, kept) == before, "only new pages are written");
        }
        // Rows that come later have the same codes, and the old metapage still serves an insert.
        let new = encode(model, &vectors(50, id), rows.len());
        for row in &new {
            insert(&store, &old, row.row()).unwrap();
        }
        rows.extend(new);
        let found = pull_all(&store, &meta, model, &query, 5000);
        assert_eq!(found, scores(model, &rows, &query));
        expected_old.clone_from(&found);
    }
}

#[test]
fn the_pages_of_the_last_but_one_are_used_again() {
    let (store, students, _) = index(1500);
    // Two chains, each as long as the longest student that was written to it: an odd number of students in turn has
    // been in both after two rounds.
    let mut last = 0;
    for (id, i) in (10..).zip([1, 2, 3].repeat(4)) {
        let mut meta = replace(&store, &students[i], id);
        assert_eq!(load(&store, &mut meta), students[i].to_bytes().unwrap());
        assert!(check(&store).unwrap().is_sound());
        let blocks = store.block_count().unwrap();
        assert!(id <= 16 || blocks == last, "the index grows on");
        last = blocks;
    }
    assert!(Meta::read(&store).unwrap().pages.current.blocks > 1);
}

#[test]
fn chains_may_be_interleaved_with_inserts() {
    let (store, students, mut rows) = index(1100);
    let meta = Meta::read(&store).unwrap();
    let inserted = encode(&students[0], &vectors(3000, 6), rows.len());
    let next = Cell::new(0);
    // A few pages' rows between any two pages of the new student.
    let meddling = Meddling {
        every: true,
        ..Meddling::new(&store, 0, || {
            for row in inserted.iter().skip(next.get()).take(300) {
                insert(&store, &meta, row.row()).unwrap();
            }
            next.set(next.get() + 300);
        })
    };
    let student = students[1].student_bytes().unwrap();
    let mut new = replace_student(&meddling, &student, 9).unwrap();
    drop(meddling);
    let done = next.get().min(inserted.len());
    assert!(done > 900);
    rows.extend_from_slice(&inserted[..done]);
    assert_eq!(load(&store, &mut new), students[1].to_bytes().unwrap());
    let report = check(&store).unwrap();
    assert_eq!((report.problems.clone(), report.orphan_pages), (vec![], 0));
    assert_eq!(report.entries.iter().sum::<u64>(), rows.len() as u64);
    let query = vectors(1, 5);
    let found = pull_all(&store, &new, &students[1], &query, 5000);
    assert_eq!(found, scores(&students[1], &rows, &query));
    assert!(new.pages.current.blocks > 1);
}

#[test]
fn a_student_of_another_encoder_is_refused() {
    let (store, _, _) = index(1000);
    let blocks = store.block_count().unwrap();
    let other = model(Metric::L2, 4).student_bytes().unwrap();
    for bytes in [&other[..], &other[..20], &[]] {
        let result = replace_student(&store, bytes, 9);
        assert!(matches!(result, Err(Error::Model(_))));
    }
    assert_eq!(store.block_count().unwrap(), blocks);
    let untrained = MemoryStore::new();
    let create = CreateOptions {
        metric: METRIC,
        dim: DIM,
        model: None,
        refine: false,
        filters: FilterFormat::default(),
        model_version: 1,
    };
    let builder = Builder::create(&untrained, create).unwrap();
    builder.finish().unwrap();
    let result = replace_student(&untrained, &other, 9);
    assert!(matches!(result, Err(Error::Pages(PageError::Mismatch(_)))));
}

#[test]
fn an_empty_copy_has_the_new_student() {
    let (store, students, _) = index(1000);
    replace(&store, &students[1], 9);
    let copy = MemoryStore::new();
    let mut meta = copy_without_rows(&store, &copy).unwrap();
    assert_eq!(load(&copy, &mut meta), students[1].to_bytes().unwrap());
    assert_eq!((meta.model_version(), meta.pages.spare.blocks), (9, 0));
    assert!(check(&copy).unwrap().is_sound());
    replace(&copy, &students[2], 10);
    assert!(check(&copy).unwrap().is_sound());
}

/// A store that does something before a page is read: at one moment, or at all of them.
struct Meddling<'a> {
    store: &'a MemoryStore,
    asked: Cell<u32>,
    at: u32,
    every: bool,
    /// Rather after the size was asked for, once.
    at_size: bool,
    action: Box<dyn Fn() + 'a>,
}

impl<'a> Meddling<'a> {
    fn new(store: &'a MemoryStore, at: u32, action: impl Fn() + 'a) -> Self {
        Meddling {
            store,
            asked: Cell::new(0),
            at,
            every: false,
            at_size: false,
            action: Box::new(action),
        }
    }
}

impl PageStore for Meddling<'_> {
    type Write<'a>
        = <MemoryStore as PageStore>::Write<'a>
    where
        Self: 'a;

    fn block_count(&self) -> Result<u32, PageError> {
        let blocks = self.store.block_count()?;
        if self.at_size && self.asked.replace(1) == 0 {
            (self.action)();
        }
        Ok(blocks)
    }

    fn read<T>(&self, block: u32, f: impl FnOnce(&[u8]) -> T) -> Result<T, PageError> {
        self.store.read(block, f)
    }

    fn write(&self) -> Result<Self::Write<'_>, PageError> {
        self.store.write()
    }

    fn check_interrupts(&self) -> Result<(), PageError> {
        let asked = self.asked.replace(self.asked.get() + 1);
        if self.every || asked == self.at {
            (self.action)();
        }
        Ok(())
    }
}

#[test]
fn a_reader_gets_one_student_whatever_happens_meanwhile() {
    let (store, students, _) = index(1000);
    replace(&store, &students[1], 9);
    replace(&store, &students[2], 10);
    let whole: Vec<Vec<u8>> = students.iter().map(|m| m.to_bytes().unwrap()).collect();
    let (mut retried, mut id) = (0, 100);
    for replacements in 1..4 {
        for at in 0..20 {
            let next = Cell::new(id);
            let meddling = Meddling::new(&store, at, || {
                for _ in 0..replacements {
                    let i = next.replace(next.get() + 1);
                    replace(&store, &students[i as usize % 4], i);
                }
            });
            let before = Meta::read(&store).unwrap();
            let mut meta = before;
            let bytes = load(&meddling, &mut meta);
            retried += u32::from(meta.model_version() != before.model_version());
            assert!(
                bytes == whole[meta.model_version() as usize % 4] || meta.model_version() < 100
            );
            assert!(whole.contains(&bytes));
            drop(meddling);
            id = next.get();
        }
    }
    assert!(retried > 0, "no reader met a page that was written over");
}

#[test]
fn a_metapage_may_name_pages_younger_than_the_size() {
    let (store, students, _) = index(1000);
    // The first replacement adds pages at the end.
    let meddling = Meddling {
        at_size: true,
        ..Meddling::new(&store, u32::MAX, || {
            replace(&store, &students[1], 9);
        })
    };
    assert_eq!(Meta::read(&meddling).unwrap().model_version(), 9);
}

#[test]
fn a_reader_gives_up_when_it_never_succeeds() {
    let (store, students, _) = index(1000);
    let next = Cell::new(10);
    let meddling = Meddling {
        every: true,
        ..Meddling::new(&store, 0, || {
            for _ in 0..2 {
                let id = next.replace(next.get() + 1);
                let student = &students[1 + id as usize % 3];
                replace_student(&store, &student.student_bytes().unwrap(), id).unwrap();
            }
        })
    };
    let result = load_model(&meddling, &mut Meta::read(&store).unwrap());
    assert!(
        matches!(result, Err(Error::Pages(PageError::Store(_)))),
        "{result:?}"
    );
}

#[test]
fn damaged_chains_are_found() {
    let (store, students, _) = index(1000);
    replace(&store, &students[1], 9);
    let meta = replace(&store, &students[2], 10);
    assert!(meta.pages.spare.blocks > 1 && meta.pages.current.blocks > 1);
    // The head: { kind, format, count }, list, next.
    for (chain, at, value, what) in [
        (
            meta.pages.spare,
            28,
            7u32,
            "not the blob page expected here",
        ),
        (
            meta.pages.spare,
            32,
            1,
            "link to a block that cannot follow",
        ),
        (
            meta.pages.current,
            24,
            0x0001_0104,
            "not the blob page expected here",
        ),
        (
            meta.pages.current,
            32,
            0,
            "link to a block that cannot follow",
        ),
    ] {
        let saved = store.read(chain.start, |page| page.to_vec()).unwrap();
        let put = |page: &mut [u8]| page[at..at + 4].copy_from_slice(&value.to_le_bytes());
        store.mutate(chain.start, put);
        let problems = check(&store).unwrap().problems;
        assert!(problems[0].what.contains(what), "{problems:?}");
        // What the chain was is lost.
        let lost = |problem: &Problem| problem.what == "nothing leads to the page";
        assert!(problems[1..].iter().all(lost), "{problems:?}");
        if chain == meta.pages.spare {
            let student = students[3].student_bytes().unwrap();
            let result = replace_student(&store, &student, 11);
            assert!(matches!(
                result,
                Err(Error::Pages(PageError::Damaged { .. }))
            ));
        }
        store.mutate(chain.start, |page| page.copy_from_slice(&saved));
    }
    // The metapage: the spare chain is the student's.
    store.mutate(0, |page| page.copy_within(136..160, 160));
    assert!(matches!(
        Meta::read(&store),
        Err(Error::Pages(PageError::Damaged { .. }))
    ));
}
