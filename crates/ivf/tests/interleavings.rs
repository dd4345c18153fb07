//! Races: whatever the order of the steps of two actors, a search finds every row that was there all the time, and what is
//! left is a sound index with the right rows.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
mod schedule;

use common::*;
use distillvq_ivf::filter::FilterFormat;
use distillvq_ivf::refine::RefineStream;
use distillvq_ivf::rerank::{LateRows, RerankOptions, RerankStream};
use distillvq_ivf::{
    Layout, ListSearch, Meta, Metric, Model, PageStore, Tid, check, insert, load_model,
    replace_student, row_format, vacuum,
};
use distillvq_pages::memory_store::MemoryStore;
use schedule::{Actor, Plan, Work, interleave};
use std::collections::{BTreeSet, HashSet};

/// The list that everything happens in.
const LIST: u32 = 4;
/// The list of all second entries.
const SECOND_LIST: u32 = 7;
/// Rows of the exact list.
const EXACT: usize = 5;

/// An index whose rows are in one list and the exact list.
struct Index {
    store: MemoryStore,
    meta: Meta,
    model: Model,
    rows: BTreeSet<Tid>,
    refine: bool,
}

impl Index {
    /// With so many rows in the list.
    fn new(metric: Metric, bits: u8, refine: bool, rows: usize) -> Index {
        Index::of(model(metric, bits), refine, rows)
    }

    /// With so many rows in two lists.
    fn two_lists(refine: bool, rows: usize) -> Index {
        Index::of(two_list_model(Metric::L2, 4), refine, rows)
    }

    fn of(model: Model, refine: bool, rows: usize) -> Index {
        let store = MemoryStore::new();
        let listed = (0..rows).flat_map(|i| row(&model, refine, i));
        let mut all: Vec<Owned> = listed.collect();
        let exact = (0..EXACT).map(|i| Owned {
            list: LISTS as u32,
            ..row(&model, refine, 10_000 + i).remove(0)
        });
        let (first, second) = {
            let middle = all.len() / 2;
            all.extend(exact);
            all.split_at(middle)
        };
        let meta = build(&store, &model, &[first, second]);
        assert_eq!(meta.refine, refine);
        Index {
            store,
            meta,
            rows: all.iter().map(|row| row.tid.row()).collect(),
            model,
            refine,
        }
    }

    /// The entries of a row.
    fn row(&self, i: usize) -> Vec<Owned> {
        row(&self.model, self.refine, i)
    }

    /// Pages that no actor changes: the model's, unless students are replaced.
    fn fixed(&self) -> Vec<u32> {
        let model = self.meta.pages.base.blocks + self.meta.pages.current.blocks;
        (0..=model).collect()
    }

    fn insert<'a>(&'a self, rows: &'a [usize]) -> Box<Work<'a, ()>> {
        Box::new(move |store: &Actor<'_>| {
            for entry in rows.iter().flat_map(|i| self.row(*i)) {
                insert(store, &self.meta, entry.row()).unwrap();
            }
        })
    }

    /// The searches that can be raced with, by refine codes too where that takes few steps.
    fn searches(&self) -> Vec<(&'static str, Box<Work<'_, Vec<Tid>>>)> {
        let mut searches = vec![("search", self.search())];
        if self.refine && self.rows.len() < 100 {
            searches.push(("refined", self.refined()));
        }
        searches
    }

    /// Everything that a search finds, pulled in pieces.
    fn search<'a>(&'a self) -> Box<Work<'a, Vec<Tid>>> {
        Box::new(move |store| search(store, &self.meta, &self.model))
    }

    /// The same by refine codes.
    fn refined<'a>(&'a self) -> Box<Work<'a, Vec<Tid>>> {
        Box::new(move |store| {
            let searcher = Some(self.model.searcher());
            let search = ListSearch::new(store, &self.meta, searcher, &vectors(1, 4)).unwrap();
            let options = RerankOptions::for_refine_codes(self.meta.shape);
            let refined = RefineStream::new(search, store, options).unwrap();
            // The distances here have nothing to do with the codes: nearly all rows are late.
            let options = RerankOptions {
                late: LateRows::Append,
                ..RerankOptions::for_heap_rows()
            };
            let mut stream = RerankStream::new(refined, options);
            let mut found = Vec::new();
            let mut fetch = distances_by(|tid| f64::from(tid.offset));
            while let Some(hit) = stream.next(&mut fetch).unwrap() {
                found.push(hit.tid);
            }
            found
        })
    }
}

fn search(store: &impl PageStore, meta: &Meta, model: &Model) -> Vec<Tid> {
    let mut search = ListSearch::new(store, meta, Some(model.searcher()), &vectors(1, 4)).unwrap();
    let mut found = exact_rows(&mut search);
    search.probe(usize::MAX).unwrap();
    let mut candidates = Vec::new();
    while search.bound().is_some() {
        search.pull(400, &mut candidates).unwrap();
    }
    found.extend(candidates.iter().map(|candidate| candidate.tid));
    if meta.assignments == 2 {
        found.sort_unstable();
        found.dedup();
    }
    found
}

/// The entries of the `i`-th row, of one of a few vectors, in the lists of this test.
fn row(model: &Model, refine: bool, i: usize) -> Vec<Owned> {
    let vector = vectors(6, 8)[i % 6 * DIM..][..DIM].to_vec();
    let encode = if refine { encode_refined } else { encode };
    let mut entries = encode(model, &vector, i);
    assert_eq!(entries.len(), model.assignments());
    for (entry, list) in entries.iter_mut().zip([LIST, SECOND_LIST]) {
        entry.list = list;
    }
    entries
}

/// Rows that fit a page of the list.
fn capacity(refine: bool) -> usize {
    let bytes = if refine { DIM + 8 } else { 0 };
    let format = row_format(
        model(Metric::L2, 4).shape(),
        &FilterFormat::default(),
        bytes,
    )
    .unwrap();
    Layout::new(&format).unwrap().capacity()
}

/// Judges outcomes: the rows that are left, each state of the pages once.
#[derive(Default)]
struct Judge(HashSet<u32>);

impl Judge {
    #[track_caller]
    fn expect(&mut self, index: &Index, store: &MemoryStore, rows: &BTreeSet<Tid>) {
        let mut crc = 0;
        for block in 0..store.block_count().unwrap() {
            crc = store
                .read(block, |page| crc32c::crc32c_append(crc, page))
                .unwrap();
        }
        if !self.0.insert(crc) {
            return;
        }
        let report = check(store).unwrap();
        assert_eq!(report.problems, []);
        assert_eq!(report.orphan_pages, 0);
        let meta = Meta::read(store).unwrap();
        if meta.assignments == 2 {
            let lists = |row: &Tid| {
                let is_exact = *row >= tid(10_000);
                [Some(*row), (!is_exact).then(|| row.second())]
            };
            let expected: BTreeSet<Tid> = rows.iter().flat_map(lists).flatten().collect();
            let entries: BTreeSet<Tid> = entries(store, &meta).into_keys().collect();
            assert!(entries == expected, "{} entries", entries.len());
        }
        let found = search(store, &meta, &index.model);
        let once: BTreeSet<Tid> = found.iter().copied().collect();
        assert_eq!(once.len(), found.len(), "no row twice");
        assert!(once == *rows, "{} rows, not {}", once.len(), rows.len());
    }
}

/// Fails unless a search found all rows that were there all the time, none twice, and none that never was there.
#[track_caller]
fn expect_found(found: &[Tid], always: &BTreeSet<Tid>, ever: &BTreeSet<Tid>) {
    let once: BTreeSet<Tid> = found.iter().copied().collect();
    assert_eq!(once.len(), found.len(), "a row was found twice");
    let missing: Vec<&Tid> = always.difference(&once).collect();
    assert!(missing.is_empty(), "missing: {missing:?}");
    let strange: Vec<&Tid> = once.difference(ever).collect();
    assert!(strange.is_empty(), "never there: {strange:?}");
}

fn with(rows: &BTreeSet<Tid>, more: &[usize]) -> BTreeSet<Tid> {
    rows.iter()
        .copied()
        .chain(more.iter().map(|&i| tid(i)))
        .collect()
}

fn is_dead(tid: Tid) -> bool {
    tid.block < 200 && tid.offset.is_multiple_of(3)
}

fn without_dead(rows: &BTreeSet<Tid>) -> BTreeSet<Tid> {
    rows.iter().copied().filter(|tid| !is_dead(*tid)).collect()
}

fn vacuuming() -> Box<Work<'static, u64>> {
    Box::new(|store: &Actor<'_>| vacuum(store, &mut is_dead).unwrap().removed)
}

/// Runs the plans; says what that took.
fn races<T: Send, U: Send>(
    what: &str,
    index: &Index,
    fixed: &[u32],
    plans: [Plan; 2],
    works: (&Work<'_, T>, &Work<'_, U>),
    mut judge: impl FnMut(&mut Judge, &MemoryStore, T, U),
) {
    let start = std::time::Instant::now();
    let mut states = Judge::default();
    let mut count = 0;
    for plan in plans {
        count += interleave(&index.store, fixed, plan, works, |store, a, b, switches| {
            let judged = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                judge(&mut states, store, a, b);
            }));
            if let Err(panic) = judged {
                println!("{what}: {switches:?}");
                std::panic::resume_unwind(panic);
            }
        });
    }
    println!(
        "{what}: {count} schedules, {} states, {:?}",
        states.0.len(),
        start.elapsed()
    );
    assert!(count > 10);
}

#[test]
fn the_schedules_are_all_there_are() {
    let store = MemoryStore::new();
    // As many steps as the actor begins, and so many more.
    let steps =
        |n: usize| move |store: &Actor<'_>| (0..n).map(|_| store.block_count().unwrap()).sum();
    for (n, m, expected) in [(0, 0, 2), (1, 1, 6), (2, 2, 20), (3, 2, 35), (4, 4, 252)] {
        let mut seen = HashSet::new();
        let works: (&Work<'_, u32>, &Work<'_, u32>) = (&steps(n), &steps(m));
        let plan = Plan::Exhaustive(usize::MAX);
        let count = interleave(&store, &[], plan, works, |_, _, _, switches| {
            assert!(seen.insert(switches.clone()));
        });
        assert_eq!(count, expected, "{n} and {m} steps more");
    }
}

#[test]
fn two_inserts() {
    for refine in [false, true] {
        let full = capacity(refine);
        for rows in [0, 3, full - 1, full] {
            let index = Index::new(Metric::L2, 4, refine, rows);
            let (one, two) = (&[rows + 1][..], &[rows + 2][..]);
            let expected = with(&index.rows, &[rows + 1, rows + 2]);
            let what = format!("insert, insert, {rows} rows, refine {refine}");
            races(
                &what,
                &index,
                &index.fixed(),
                [Plan::Exhaustive(usize::MAX), Plan::Random(0)],
                (&index.insert(one), &index.insert(two)),
                |states, store, (), ()| states.expect(&index, store, &expected),
            );
        }
    }
}

#[test]
fn inserts_over_the_end_of_a_page() {
    for refine in [false, true] {
        let rows = capacity(refine) - 2;
        let index = Index::new(Metric::Cosine, 4, refine, rows);
        let more: Vec<usize> = (rows + 1..rows + 7).collect();
        let expected = with(&index.rows, &more);
        races(
            &format!("3 inserts, 3 inserts, refine {refine}"),
            &index,
            &index.fixed(),
            [Plan::Exhaustive(1), Plan::Random(300)],
            (&index.insert(&more[..3]), &index.insert(&more[3..])),
            |states, store, (), ()| states.expect(&index, store, &expected),
        );
    }
}

#[test]
fn insert_and_vacuum() {
    for refine in [false, true] {
        let full = capacity(refine);
        for rows in [3, full, full + 5] {
            let index = Index::new(Metric::L2, 4, refine, rows);
            // One that the vacuum would call dead: it came later.
            let more = [rows + 40 - rows % 40 + 2, rows + 40 - rows % 40 + 3];
            assert!(is_dead(tid(more[0])));
            let dead = index.rows.len() - without_dead(&index.rows).len();
            races(
                &format!("insert, vacuum, {rows} rows, refine {refine}"),
                &index,
                &index.fixed(),
                [Plan::Exhaustive(3), Plan::Random(100)],
                (&index.insert(&more[1..]), &vacuuming()),
                |states, store, (), removed| {
                    assert_eq!(removed as usize, dead);
                    states.expect(&index, store, &with(&without_dead(&index.rows), &more[1..]));
                },
            );
        }
    }
}

#[test]
fn search_and_insert() {
    for (refine, rows) in [
        (false, capacity(false)),
        (false, 2),
        (true, capacity(true)),
        (true, 30),
    ] {
        let index = Index::new(Metric::L2, 4, refine, rows);
        let more = [rows + 1, rows + 2];
        let (all, insert) = (with(&index.rows, &more), index.insert(&more));
        for (what, search) in index.searches() {
            races(
                &format!("{what}, 2 inserts, {rows} rows, refine {refine}"),
                &index,
                &index.fixed(),
                [Plan::Exhaustive(2), Plan::Random(100)],
                (&search, &insert),
                |states, store, found, ()| {
                    expect_found(&found, &index.rows, &all);
                    states.expect(&index, store, &all);
                },
            );
        }
    }
}

#[test]
fn search_and_vacuum() {
    for (refine, rows) in [
        (false, capacity(false) + 9),
        (false, 40),
        (true, capacity(true) + 9),
        (true, 30),
    ] {
        let index = Index::new(Metric::L2, 4, refine, rows);
        let left = without_dead(&index.rows);
        for (what, search) in index.searches() {
            races(
                &format!("{what}, vacuum, {rows} rows, refine {refine}"),
                &index,
                &index.fixed(),
                [Plan::Exhaustive(3), Plan::Random(100)],
                (&search, &vacuuming()),
                |states, store, found, _| {
                    expect_found(&found, &left, &index.rows);
                    states.expect(&index, store, &left);
                },
            );
        }
    }
}

/// Each insert makes two changes. A vacuum or a search may come between them.
#[test]
fn changes_of_two_lists() {
    for refine in [false, true] {
        let full = capacity(refine);
        for rows in [3, full - 1] {
            let index = Index::two_lists(refine, rows);
            let (one, two) = (&[rows + 1][..], &[rows + 2][..]);
            races(
                &format!("insert, insert, {rows} rows in two lists, refine {refine}"),
                &index,
                &index.fixed(),
                [Plan::Exhaustive(2), Plan::Random(100)],
                (&index.insert(one), &index.insert(two)),
                |states, store, (), ()| {
                    let expected = with(&index.rows, &[rows + 1, rows + 2]);
                    states.expect(&index, store, &expected);
                },
            );
            let more = [rows + 40 - rows % 40 + 3];
            assert!(!is_dead(tid(more[0])));
            let left = without_dead(&index.rows);
            races(
                &format!("insert, vacuum, {rows} rows in two lists, refine {refine}"),
                &index,
                &index.fixed(),
                [Plan::Exhaustive(2), Plan::Random(100)],
                (&index.insert(&more), &vacuuming()),
                |states, store, (), removed| {
                    assert_eq!(removed as usize, index.rows.len() - left.len());
                    states.expect(&index, store, &with(&left, &more));
                },
            );
        }
    }
}

#[test]
fn searches_of_two_lists() {
    for refine in [false, true] {
        for rows in [capacity(refine), 30] {
            let index = Index::two_lists(refine, rows);
            let more = [rows + 1];
            let (all, left) = (with(&index.rows, &more), without_dead(&index.rows));
            for (what, search) in index.searches() {
                races(
                    &format!("{what}, insert, {rows} rows in two lists, refine {refine}"),
                    &index,
                    &index.fixed(),
                    [Plan::Exhaustive(1), Plan::Random(100)],
                    (&search, &index.insert(&more)),
                    |states, store, found, ()| {
                        expect_found(&found, &index.rows, &all);
                        states.expect(&index, store, &all);
                    },
                );
                races(
                    &format!("{what}, vacuum, {rows} rows in two lists, refine {refine}"),
                    &index,
                    &index.fixed(),
                    [Plan::Exhaustive(2), Plan::Random(100)],
                    (&search, &vacuuming()),
                    |states, store, found, _| {
                        expect_found(&found, &left, &index.rows);
                        states.expect(&index, store, &left);
                    },
                );
            }
            let checking = |store: &Actor<'_>| check(store).unwrap();
            races(
                &format!("check, insert, {rows} rows in two lists, refine {refine}"),
                &index,
                &index.fixed(),
                [Plan::Exhaustive(1), Plan::Random(100)],
                (&checking, &index.insert(&more)),
                |states, store, report, ()| {
                    assert_eq!(report.problems, []);
                    states.expect(&index, store, &all);
                },
            );
        }
    }
}

#[test]
fn check_and_inserts() {
    for (refine, rows) in [
        (false, 0),
        (false, capacity(false)),
        (true, 0),
        (true, capacity(true)),
    ] {
        let index = Index::new(Metric::L2, 4, refine, rows);
        let more = [rows + 1, rows + 2];
        let (all, insert) = (with(&index.rows, &more), index.insert(&more));
        let checking = |store: &Actor<'_>| check(store).unwrap();
        races(
            &format!("check, 2 inserts, {rows} rows, refine {refine}"),
            &index,
            &index.fixed(),
            [Plan::Exhaustive(2), Plan::Random(100)],
            (&checking, &insert),
            |states, store, report, ()| {
                assert_eq!(report.problems, []);
                states.expect(&index, store, &all);
            },
        );
    }
}

/// Replaces the student, several times.
fn replacing(students: &[Vec<u8>]) -> Box<Work<'_, ()>> {
    Box::new(move |store: &Actor<'_>| {
        for (student, id) in students.iter().zip(100..) {
            replace_student(store, student, id).unwrap();
        }
    })
}

/// An index and students for it. Its encoder's pages never change.
fn with_students(rows: usize) -> (Index, Vec<u32>, Vec<Vec<u8>>) {
    let index = Index::new(Metric::L2, 8, false, rows);
    let students = students(Metric::L2, 8);
    let bytes = students.iter().map(|model| model.student_bytes().unwrap());
    let fixed = (1..=index.meta.pages.base.blocks).collect();
    (index, fixed, bytes.collect())
}

#[test]
fn search_and_replacements() {
    let (index, fixed, students) = with_students(60);
    let searching = |store: &Actor<'_>| {
        let mut meta = Meta::read(store).unwrap();
        let model = load_model(store, &mut meta).unwrap().unwrap();
        let student = model.student_bytes().unwrap();
        (search(store, &meta, &model), meta.model_version(), student)
    };
    races(
        "search, 3 replacements",
        &index,
        &fixed,
        [Plan::Exhaustive(1), Plan::Random(150)],
        (&searching, &replacing(&students[1..])),
        |states, store, (found, id, student), ()| {
            expect_found(&found, &index.rows, &index.rows);
            let expected = if id == 5 { 0 } else { id as usize - 99 };
            assert!(student == students[expected], "student {expected}");
            states.expect(&index, store, &index.rows);
        },
    );
}

#[test]
fn insert_and_replacements() {
    let (index, fixed, students) = with_students(60);
    let inserting = |store: &Actor<'_>| {
        let mut meta = Meta::read(store).unwrap();
        let model = load_model(store, &mut meta).unwrap().unwrap();
        let row = encode(&model, &vectors(1, 9), 70).pop().unwrap();
        insert(store, &meta, row.row()).unwrap();
    };
    let all = with(&index.rows, &[70]);
    races(
        "insert, 2 replacements",
        &index,
        &fixed,
        [Plan::Exhaustive(1), Plan::Random(150)],
        (&inserting, &replacing(&students[1..3])),
        |states, store, (), ()| states.expect(&index, store, &all),
    );
}
