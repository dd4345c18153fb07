//! An index that gets its model after its build: every search finds each row once, before, during and after the move of its
//! rows into lists, and so it does after a crash at any moment.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
mod schedule;

use common::*;
use distillvq_ivf::filter::FilterFormat;
use distillvq_ivf::rerank::{Hit, LateRows, RerankOptions, RerankStream};
use distillvq_ivf::{
    Builder, CreateOptions, Error, ListSearch, Meta, Metric, Model, MovedPage, NewModel, PageStore,
    Row, Tid, Training, add_model, check, collect_stats, copy_without_rows, count_rows,
    exact_pages, finish_moves, insert, move_rows, vacuum,
};
use distillvq_pages::memory_store::MemoryStore;
use distillvq_pages::{Error as PageError, RowMoves};
use schedule::{Actor, Plan, Work, interleave};
use std::collections::{BTreeMap, BTreeSet};

/// Rows that fit a page of the exact list.
const PAGE_ROWS: usize = 1344;

/// A table, and what its rows are in an index with a model.
struct Table {
    model: Model,
    refine: bool,
    entries: BTreeMap<Tid, Vec<Owned>>,
}

impl Table {
    fn new(model: Model, refine: bool, rows: usize) -> Table {
        let mut all = vectors(rows, 21);
        // Some that codes cannot represent.
        all.chunks_exact_mut(DIM)
            .skip(3)
            .step_by(50)
            .for_each(|row| row[1] = f32::INFINITY);
        let encoded = if refine {
            encode_refined(&model, &all, 0)
        } else {
            encode(&model, &all, 0)
        };
        let mut entries: BTreeMap<Tid, Vec<Owned>> = BTreeMap::new();
        for entry in encoded {
            entries.entry(entry.tid.row()).or_default().push(entry);
        }
        Table {
            model,
            refine,
            entries,
        }
    }

    /// An untrained index over the first rows.
    fn build(&self, store: &MemoryStore, rows: usize) -> Meta {
        let create = CreateOptions {
            metric: self.model.metric(),
            dim: DIM,
            model: None,
            refine: self.refine,
            filters: FilterFormat::default(),
            model_version: 5,
        };
        let mut builder = Builder::create(store, create).unwrap();
        let tids: Vec<Tid> = (0..rows).map(tid).collect();
        builder
            .append(tids.iter().map(|tid| exact_row(*tid)))
            .unwrap();
        builder.finish().unwrap()
    }

    fn has_no_code(&self, row: &Tid) -> bool {
        self.entries[row]
            .iter()
            .any(|entry| entry.list == LISTS as u32)
    }

    fn add_model<S: PageStore>(&self, store: &S, model_version: u64) -> Meta {
        let new = NewModel {
            model: &self.model,
            refine: self.refine,
            rows: 77,
            training: Training::default(),
            model_version,
        };
        add_model(store, &new).unwrap()
    }

    /// Inserts a row as a session does whose copy of the metapage this is.
    fn insert<S: PageStore>(&self, store: &S, meta: &Meta, i: usize) {
        if !meta.has_model() {
            return insert(store, meta, exact_row(tid(i))).unwrap();
        }
        for entry in &self.entries[&tid(i)] {
            insert(store, meta, entry.row()).unwrap();
        }
    }

    /// Moves the rows of some pages of the exact list at a time, those that are alive.
    fn move_all<S: PageStore>(
        &self,
        store: &S,
        pages_at_once: usize,
        is_alive: &dyn Fn(Tid) -> bool,
    ) -> Meta {
        let meta = Meta::read(store).unwrap();
        let (mut pages, mut tids) = (exact_pages(store, &meta), Vec::new());
        let (mut moved, mut rows, mut is_finished) = (Vec::new(), Vec::new(), true);
        loop {
            let block = pages.next(&mut tids).unwrap();
            if let Some(block) = block {
                let all = tids.len();
                tids.retain(|tid| is_alive(*tid));
                let closes = tids.len() == all;
                is_finished &= closes;
                moved.push(MovedPage { block, closes });
                rows.extend(tids.iter().flat_map(|tid| &self.entries[tid]));
            }
            if block.is_none() || moved.len() == pages_at_once {
                rows.sort_by_key(|row| row.list);
                let entries = rows.iter().map(|row| row.row());
                move_rows(store, &meta, entries, &moved).unwrap();
                (moved, rows) = (Vec::new(), Vec::new());
            }
            if block.is_none() {
                return finish_moves(store, is_finished).unwrap();
            }
        }
    }

    /// What an attempt does: it adds the model if there is none, and moves all rows.
    fn attempt<S: PageStore>(&self, store: &S, model_version: u64) -> Meta {
        if !Meta::read(store).unwrap().has_model() {
            self.add_model(store, model_version);
        }
        self.move_all(store, 1, &|_| true)
    }

    /// Fails unless the index has these rows, each in its place alone.
    #[track_caller]
    fn expect_moved(&self, store: &MemoryStore, rows: &BTreeSet<Tid>) {
        let meta = Meta::read(store).unwrap();
        assert_eq!(meta.pages.row_moves, RowMoves::Finished);
        let expected: BTreeMap<Tid, u32> = rows
            .iter()
            .flat_map(|row| &self.entries[row])
            .map(|entry| (entry.tid, entry.list))
            .collect();
        let found = entries(store, &meta);
        let found: BTreeMap<Tid, u32> = found.into_iter().map(|(tid, it)| (tid, it.0)).collect();
        assert!(found == expected, "{} of {}", found.len(), expected.len());
        let report = check(store).unwrap();
        assert_eq!(report.problems, []);
        assert_eq!(count_rows(store).unwrap(), rows.len() as u64);
        self.expect_found(store, rows);
    }

    /// Fails unless a search finds each of these rows once.
    #[track_caller]
    fn expect_found(&self, store: &MemoryStore, rows: &BTreeSet<Tid>) {
        let found = self.search(store);
        let once: BTreeSet<Tid> = found.iter().copied().collect();
        assert_eq!(once.len(), found.len(), "no row twice");
        assert!(once == *rows, "{} rows, not {}", once.len(), rows.len());
    }

    /// All rows that a search finds.
    fn search<S: PageStore>(&self, store: &S) -> Vec<Tid> {
        let mut search = Search::begin(store, self);
        std::iter::from_fn(|| search.next()).collect()
    }
}

/// The distance of a row: many are equal.
fn distance_of(tid: Tid) -> f64 {
    f64::from(tid.block * 7919 % 61)
}

/// A search that begins again when the index got a model, as a scan does.
struct Search<'a, S: PageStore> {
    store: &'a S,
    table: &'a Table,
    stream: RerankStream<ListSearch<&'a S>>,
    /// Times that it began again.
    restarts: usize,
}

impl<'a, S: PageStore> Search<'a, S> {
    fn begin(store: &'a S, table: &'a Table) -> Self {
        Search {
            store,
            table,
            stream: Self::stream(store, table),
            restarts: 0,
        }
    }

    fn stream(store: &'a S, table: &'a Table) -> RerankStream<ListSearch<&'a S>> {
        let meta = Meta::read(store).unwrap();
        let searcher = meta.has_model().then(|| table.model.searcher());
        let search = ListSearch::new(store, &meta, searcher, &vectors(1, 4)).unwrap();
        let options = RerankOptions {
            // The distances here have nothing to do with the codes: nearly all rows are late.
            late: LateRows::Append,
            all_from: 0.0,
            ahead: 1e9,
            memory: 1 << 18,
            ..RerankOptions::default()
        };
        RerankStream::new(search, options)
    }

    fn next(&mut self) -> Option<Tid> {
        let mut fetch = distances_by(distance_of);
        loop {
            let found: Result<Option<Hit>, Error> = self.stream.next(&mut fetch);
            match found {
                Ok(found) => return found.map(|hit| hit.tid),
                Err(Error::ModelAdded) => {
                    let returned_before = self.stream.returned_before();
                    self.stream = Self::stream(self.store, self.table);
                    returned_before
                        .into_iter()
                        .for_each(|hit| self.stream.begin_at(hit));
                    self.restarts += 1;
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
}

fn tids(rows: std::ops::Range<usize>) -> BTreeSet<Tid> {
    rows.map(tid).collect()
}

fn tables(rows: usize) -> [Table; 4] {
    [
        Table::new(model(Metric::L2, 4), false, rows),
        Table::new(model(Metric::L2, 8), true, rows),
        Table::new(two_list_model(Metric::Cosine, 4), false, rows),
        Table::new(two_list_model(Metric::L2, 4), true, rows),
    ]
}

#[test]
fn all_rows_move() {
    for table in tables(4_000) {
        let store = MemoryStore::new();
        let untrained = table.build(&store, 3_000);
        let added = table.add_model(&store, 6);
        assert_eq!(added, Meta::read(&store).unwrap());
        assert!(added.has_model() && added.has_rows_to_move());
        assert_eq!(added.pages.rows_at_build, 77);
        // Before the first move: one session knows the model, and one does not.
        (3_000..3_400).for_each(|i| table.insert(&store, &added, i));
        (3_400..3_500).for_each(|i| table.insert(&store, &untrained, i));
        table.expect_found(&store, &tids(0..3_500));
        assert_eq!(check(&store).unwrap().problems, []);
        let has_duplicates = |meta: &Meta| {
            let searcher = Some(table.model.searcher());
            let search = ListSearch::new(&store, meta, searcher, &vectors(1, 4)).unwrap();
            search.has_duplicates()
        };
        assert!(has_duplicates(&added));
        let done = table.move_all(&store, 2, &|_| true);
        assert_eq!(has_duplicates(&done), table.model.assignments() > 1);
        assert_eq!(done.pages.row_moves, RowMoves::Finished);
        table.expect_moved(&store, &tids(0..3_500));
        // The exact list is as short as it can be: searches read all of it.
        let without_codes = |rows| {
            let rows = tids(rows);
            rows.iter().filter(|row| table.has_no_code(row)).count() as u64
        };
        let stats = collect_stats(&store, &done, (0, 0), 1).unwrap();
        assert!(without_codes(0..3_500) >= 70);
        assert_eq!(stats.exact_rows(), without_codes(0..3_500));
        // Rows that moved are not counted, nor are those of closed pages.
        assert_eq!(stats.inserted, 400 - without_codes(3_000..3_400));
        // A session that still has the metapage of before puts rows where they are found.
        (3_500..4_000).for_each(|i| table.insert(&store, &untrained, i));
        table.expect_found(&store, &tids(0..4_000));
        assert_eq!(check(&store).unwrap().problems, []);
        vacuum(&store, &mut |row| row >= tid(3_500)).unwrap();
        table.expect_moved(&store, &tids(0..3_500));
        let copy = MemoryStore::new();
        copy_without_rows(&store, &copy).unwrap();
        table.expect_found(&copy, &BTreeSet::new());
    }
}

#[test]
fn searches_pass_over_pages_without_rows() {
    let table = Table::new(model(Metric::L2, 4), false, 10);
    let mut table = Table {
        entries: BTreeMap::new(),
        ..table
    };
    // Rows that all have codes.
    for entry in encode(&table.model, &vectors(4 * PAGE_ROWS, 3), 0) {
        table.entries.insert(entry.tid, vec![entry]);
    }
    let store = MemoryStore::new();
    table.build(&store, 4 * PAGE_ROWS);
    let meta = table.attempt(&store, 6);
    let first = |store: &MemoryStore| {
        let entry = meta.pages.directory.entry(store, meta.exact_list());
        entry.unwrap().first
    };
    // Metapage and directory, then the pages of the exact list: the last one stays.
    assert_eq!(first(&store), 5);
    table.expect_moved(&store, &tids(0..4 * PAGE_ROWS));
    // The closed page takes no row.
    let blocks = store.block_count().unwrap();
    insert(
        &store,
        &meta,
        Row {
            list: meta.exact_list(),
            ..exact_row(tid(9_999))
        },
    )
    .unwrap();
    assert_eq!(store.block_count().unwrap(), blocks + 1);
    let mut search = ListSearch::new(&store, &meta, Some(table.model.searcher()), &vectors(1, 4));
    assert_eq!(exact_rows(search.as_mut().unwrap()), [tid(9_999)]);
    assert_eq!(check(&store).unwrap().problems, []);
}

#[test]
fn rows_that_are_not_alive_stay_for_another_attempt() {
    for table in tables(2_000) {
        let store = MemoryStore::new();
        table.build(&store, 2_000);
        table.add_model(&store, 6);
        let is_alive = |row: Tid| row != tid(5);
        let meta = table.move_all(&store, 9, &is_alive);
        assert!(meta.has_rows_to_move());
        table.expect_found(&store, &tids(0..2_000));
        vacuum(&store, &mut |row| !is_alive(row)).unwrap();
        table.attempt(&store, 7);
        let mut left = tids(0..2_000);
        left.remove(&tid(5));
        table.expect_moved(&store, &left);
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let table = Table::new(model(Metric::L2, 4), false, 100);
    let store = MemoryStore::new();
    let untrained = table.build(&store, 100);
    let other = model(Metric::Cosine, 4);
    let new = NewModel {
        model: &other,
        refine: false,
        rows: 0,
        training: Training::default(),
        model_version: 6,
    };
    let refused = |result: Result<Meta, Error>| {
        assert!(matches!(result, Err(Error::Pages(PageError::Mismatch(_)))));
    };
    refused(add_model(&store, &new));
    assert_eq!(Meta::read(&store).unwrap(), untrained);
    let meta = table.add_model(&store, 6);
    refused(add_model(
        &store,
        &NewModel {
            model: &table.model,
            ..new
        },
    ));
    let wrong = Row {
        list: meta.lists() + 1,
        ..exact_row(tid(1))
    };
    assert!(move_rows(&store, &meta, [wrong], &[]).is_err());
    assert_eq!(Meta::read(&store).unwrap(), meta);
}

/// A search that keeps too few rows to need one pass only: what moves between two passes is neither missed nor returned twice.
#[test]
fn searches_of_several_passes_follow_the_rows() {
    for table in tables(9_500) {
        for add_early in [false, true] {
            for moved_first in [0, 3, 9] {
                let store = MemoryStore::new();
                table.build(&store, 9_500);
                if add_early {
                    table.add_model(&store, 6);
                }
                let mut search = Search::begin(&store, &table);
                let mut found: Vec<Tid> =
                    std::iter::from_fn(|| search.next()).take(4_000).collect();
                if !add_early {
                    table.add_model(&store, 6);
                }
                if moved_first > 0 {
                    table.move_all(&store, moved_first, &|_| true);
                }
                found.extend(std::iter::from_fn(|| search.next()));
                assert_eq!(search.restarts, usize::from(!add_early));
                let once: BTreeSet<Tid> = found.iter().copied().collect();
                assert_eq!(once.len(), found.len(), "no row twice");
                assert_eq!(once, tids(0..9_500));
            }
        }
    }
}

/// After every prefix of the changes of an attempt all rows are found, and another attempt comes to the same end.
#[test]
fn every_crash_leaves_all_rows() {
    for (table, seed) in tables(PAGE_ROWS + 60).iter().zip(0..) {
        let store = MemoryStore::recording();
        let rows = PAGE_ROWS + 20;
        let untrained = table.build(&store, rows);
        let built = store.history().len();
        let meta = table.add_model(&store, 6);
        let switched = store.history().len();
        table.insert(&store, &meta, rows);
        table.insert(&store, &untrained, rows + 1);
        let inserted = store.history().len();
        table.move_all(&store, 1, &|_| true);
        table.expect_moved(&store, &tids(0..rows + 2));
        let history = store.history();
        let replayed = MemoryStore::new();
        for (done, change) in (1..).zip(&history) {
            replayed.apply(change);
            if done < built {
                continue;
            }
            let is_early = done <= inserted;
            let is_late = done + 10 > history.len();
            if !is_early && !is_late && done % 61 != seed {
                continue;
            }
            let meta = Meta::read(&replayed).unwrap();
            assert_eq!(meta.has_model(), done >= switched, "after {done} changes");
            let found = table.search(&replayed);
            let once: BTreeSet<Tid> = found.iter().copied().collect();
            assert_eq!(once.len(), found.len(), "a row twice after {done} changes");
            assert!(once.is_superset(&tids(0..rows)), "after {done} changes");
            assert!(once.is_subset(&tids(0..rows + 2)), "after {done} changes");
            let report = check(&replayed).unwrap();
            assert_eq!(report.problems, [], "after {done} changes");
            if is_early && done % 3 != seed % 3 {
                continue;
            }
            let again = replayed.copy();
            vacuum(&again, &mut |_| false).unwrap();
            table.attempt(&again, 7);
            if done < switched || done >= inserted {
                table.expect_moved(&again, &once);
            }
        }
    }
}

/// An attempt that was cut short had more lists, or longer blobs.
#[test]
fn pages_of_another_attempt_are_used_again() {
    let table = Table::new(model(Metric::L2, 8), false, 50);
    let store = MemoryStore::recording();
    table.build(&store, 50);
    let built = store.history().len();
    table.add_model(&store, 6);
    let switch = store.history().len() - 1;
    let (cut, blocks) = (MemoryStore::new(), store.block_count().unwrap());
    store.history()[..switch]
        .iter()
        .for_each(|change| cut.apply(change));
    assert!(!Meta::read(&cut).unwrap().has_model());
    assert!(switch > built + 3);
    assert_eq!(check(&cut).unwrap().orphan_pages, 0);
    // The same model needs no further page.
    let copy = cut.copy();
    table.add_model(&copy, 7);
    assert_eq!(copy.block_count().unwrap(), blocks);
    // Another one is of another size.
    let other = Table::new(model(Metric::L2, 4), false, 50);
    other.attempt(&cut, 7);
    other.expect_moved(&cut, &tids(0..50));
}

/// Races over a few rows.
struct Race {
    table: Table,
    store: MemoryStore,
    /// Before the race.
    meta: Meta,
    rows: BTreeSet<Tid>,
    /// Number of the first row that is not there.
    next: usize,
}

impl Race {
    /// An exact list of one page, or of two, the first of which has room again.
    fn new(model: Model, refine: bool, is_trained: bool, has_two_pages: bool) -> Race {
        let built = if has_two_pages { PAGE_ROWS + 1 } else { 3 };
        let table = Table::new(model, refine, built + 2);
        let store = MemoryStore::new();
        let mut meta = table.build(&store, built);
        let mut rows = tids(0..built);
        if has_two_pages {
            rows.retain(|row| *row < tid(2) || *row == tid(built - 1));
            vacuum(&store, &mut |row| !rows.contains(&row)).unwrap();
        }
        if is_trained {
            meta = table.add_model(&store, 6);
        }
        Race {
            table,
            store,
            meta,
            rows,
            next: built,
        }
    }

    fn attempt(&self) -> Box<Work<'_, ()>> {
        Box::new(|store: &Actor<'_>| {
            self.table.attempt(store, 6);
        })
    }

    fn search(&self) -> Box<Work<'_, Vec<Tid>>> {
        Box::new(|store: &Actor<'_>| self.table.search(store))
    }

    /// An insert by a session that read the metapage before, and one that reads it now.
    fn inserts(&self) -> Box<Work<'_, ()>> {
        Box::new(|store: &Actor<'_>| {
            self.table.insert(store, &self.meta, self.next);
            let meta = Meta::read(store).unwrap();
            self.table.insert(store, &meta, self.next + 1);
        })
    }
}

/// The races with each kind of index.
fn races(mut run: impl FnMut(&Race)) {
    for is_trained in [false, true] {
        for refine in [false, true] {
            for has_two_pages in [false, true] {
                for model in [model(Metric::L2, 4), two_list_model(Metric::L2, 4)] {
                    run(&Race::new(model, refine, is_trained, has_two_pages));
                }
            }
        }
    }
}

#[test]
fn attempts_race_with_searches() {
    races(|race| {
        let mut count = 0;
        for plan in [Plan::Exhaustive(2), Plan::Random(200)] {
            let works: (&Work<'_, Vec<Tid>>, &Work<'_, ()>) = (&race.search(), &race.attempt());
            count += interleave(&race.store, &[], plan, works, |store, found, (), at| {
                let once: BTreeSet<Tid> = found.iter().copied().collect();
                assert_eq!(once.len(), found.len(), "a row twice: {at:?}");
                assert_eq!(once, race.rows, "{at:?}");
                race.table.expect_moved(store, &race.rows);
            });
        }
        println!("{count} schedules");
        assert!(count > 400, "{count}");
    });
}

#[test]
fn attempts_race_with_inserts() {
    races(|race| {
        let mut all = race.rows.clone();
        all.extend(tids(race.next..race.next + 2));
        for plan in [Plan::Exhaustive(2), Plan::Random(200)] {
            let works: (&Work<'_, ()>, &Work<'_, ()>) = (&race.inserts(), &race.attempt());
            interleave(&race.store, &[], plan, works, |store, (), (), at| {
                assert_eq!(check(store).unwrap().problems, [], "{at:?}");
                race.table.expect_found(store, &all);
                let meta = Meta::read(store).unwrap();
                assert_eq!(meta.pages.row_moves, RowMoves::Finished);
            });
        }
    });
}
