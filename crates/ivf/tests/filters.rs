//! Filter columns: kept by build, insert, vacuum and check, and searched by, in the lists and in the exact list.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::*;
use distillvq_ivf::filter::{ColumnFilter, FilterFormat};
use distillvq_ivf::filter_key::ColumnTest;
use distillvq_ivf::refine::RefineStream;
use distillvq_ivf::rerank::{CandidateSource, RerankOptions, RerankStats, RerankStream};
use distillvq_ivf::{
    Builder, CreateOptions, Error, ListSearch, Meta, Metric, Model, MovedPage, NewModel, PageStore,
    PageWrite, Row, RowFn, Training, add_model, check_against, exact_pages, finish_moves, insert,
    move_rows, vacuum,
};
use distillvq_pages::memory_store::MemoryStore;
use distillvq_pages::{
    Column, Error as PageError, NewLists, RowFormat, add_lists, read_any_header,
};
use std::ops::Range;

/// Rows that the index is built with; further ones are inserted.
const BUILT: usize = 1500;
const ALL: usize = BUILT + 500;
/// Bytes of the keys of the filter columns.
const WIDTHS: [u8; 4] = [1, 4, 8, 2];

/// The keys of a row, by its number.
fn keys(i: usize) -> [Option<u64>; 4] {
    let unless = |is_null: bool, key: usize| (!is_null).then_some(key as u64);
    [
        Some(i as u64 % 3),
        unless(i.is_multiple_of(11), i / 7),
        unless(i % 5 == 1, (i % 100) << 40 | i),
        unless(i.is_multiple_of(2), i % 1000),
    ]
}

/// Conditions, from those that most rows pass to those that none does.
fn conditions() -> Vec<Vec<(usize, ColumnTest)>> {
    let range = ColumnTest::Range;
    vec![
        vec![],
        vec![(0, range(1, 2))],
        vec![(1, ColumnTest::NotNull), (3, ColumnTest::Null)],
        vec![(2, ColumnTest::OneOf((0..40).map(|i| i << 40 | i).collect()))],
        vec![(2, range(20 << 40, 30 << 40)), (0, range(0, 0))],
        vec![(3, ColumnTest::OneOf(vec![5, 77, 401]))],
        vec![(1, range(100, 100))],
        vec![(1, range(3, 9)), (3, range(0, 60)), (0, range(2, 2))],
        vec![(0, range(3, 255))],
    ]
}

fn passes(tests: &[(usize, ColumnTest)], i: usize) -> bool {
    let keys = keys(i);
    tests
        .iter()
        .all(|(number, test)| test.admits(keys[*number]))
}

struct Index {
    store: MemoryStore,
    meta: Meta,
    model: Option<Model>,
    vectors: Vec<f32>,
    /// The rows that are in it.
    rows: Vec<usize>,
}

impl Index {
    fn build(model: Option<Model>, metric: Metric, refine: bool) -> Index {
        let store = MemoryStore::new();
        let create = CreateOptions {
            metric,
            dim: DIM,
            model: model.as_ref(),
            refine,
            filters: FilterFormat::new(&WIDTHS).unwrap(),
            model_version: 5,
        };
        let mut vectors = vectors(ALL, 2);
        // Too long for the codes: rows of the exact list.
        for row in (0..ALL).step_by(97) {
            vectors[row * DIM..][..DIM]
                .iter_mut()
                .for_each(|x| *x *= 500.0);
        }
        let builder = Builder::create(&store, create).unwrap();
        let meta = *builder.meta();
        let mut index = Index {
            store: MemoryStore::new(),
            meta,
            model: model.clone(),
            vectors,
            rows: (0..BUILT).collect(),
        };
        let mut entries: Vec<(Owned, Vec<u8>)> =
            (0..BUILT).flat_map(|i| index.entries(i)).collect();
        entries.sort_by_key(|(row, _)| row.list);
        let mut builder = builder;
        for run in entries.chunks(400) {
            builder.append(run.iter().map(row)).unwrap();
        }
        index.meta = builder.finish().unwrap();
        index.store = store;
        assert_eq!(Meta::read(&index.store).unwrap(), index.meta);
        assert_eq!(index.meta.filters.widths(), WIDTHS);
        index
    }

    fn vector(&self, i: usize) -> &[f32] {
        &self.vectors[i * DIM..][..DIM]
    }

    fn filters(&self, i: usize) -> Vec<u8> {
        let mut out = Vec::new();
        self.meta.filters.encode(&keys(i), &mut out);
        out
    }

    fn entries(&self, i: usize) -> Vec<(Owned, Vec<u8>)> {
        let entries = match &self.model {
            None => vec![Owned {
                list: 0,
                tid: tid(i),
                scale: 0,
                norm: 0.0,
                codes: Vec::new(),
                refine: Vec::new(),
            }],
            Some(model) if self.meta.refine => encode_refined(model, self.vector(i), i),
            Some(model) => encode(model, self.vector(i), i),
        };
        let filters = self.filters(i);
        entries
            .into_iter()
            .map(|entry| (entry, filters.clone()))
            .collect()
    }

    fn insert(&mut self, i: usize) {
        for entry in self.entries(i) {
            insert(&self.store, &self.meta, row(&entry)).unwrap();
        }
        self.rows.push(i);
    }

    /// Gives an untrained index a model.
    fn add_model(&mut self, model: Model, refine: bool) {
        let new = NewModel {
            model: &model,
            refine,
            rows: self.rows.len() as u64,
            training: Training::default(),
            model_version: 6,
        };
        self.meta = add_model(&self.store, &new).unwrap();
        self.model = Some(model);
    }

    /// Moves the rows of at most so many pages of the exact list. Returns how many there were.
    fn move_pages(&self, most: usize) -> usize {
        let (mut pages, mut tids) = (exact_pages(&self.store, &self.meta), Vec::new());
        for moved in 0..most {
            let Some(block) = pages.next(&mut tids).unwrap() else {
                return moved;
            };
            let rows = tids.iter().map(|tid| row_number(*tid));
            let mut entries: Vec<(Owned, Vec<u8>)> = rows.flat_map(|i| self.entries(i)).collect();
            entries.sort_by_key(|(row, _)| row.list);
            let page = MovedPage {
                block,
                closes: true,
            };
            move_rows(&self.store, &self.meta, entries.iter().map(row), &[page]).unwrap();
        }
        most
    }

    /// Problems that a check finds.
    fn problems(&self) -> Vec<String> {
        let mut table = |blocks: Range<u32>, each: &mut RowFn<'_, Error>| {
            let mut here = self
                .rows
                .iter()
                .filter(|i| blocks.contains(&tid(**i).block));
            here.try_for_each(|i| each(tid(*i), self.vector(*i), &self.filters(*i)))
        };
        let report = check_against(&self.store, usize::MAX, &mut table).unwrap();
        assert_eq!(report.compared, self.rows.len() as u64);
        report.problems.iter().map(ToString::to_string).collect()
    }

    /// All rows that a search returns.
    fn search(
        &self,
        query: &[f32],
        tests: &[(usize, ColumnTest)],
        memory: usize,
    ) -> (Vec<usize>, RerankStats) {
        let filter = ColumnFilter::new(&self.meta.pages.format, tests.to_vec()).unwrap();
        let model = self.model.as_ref().map(Model::searcher);
        let search = ListSearch::with_filter(&self.store, &self.meta, model, query, filter);
        let search = search.unwrap().with_memory(memory);
        // What the search returns first must be exact.
        let options = RerankOptions {
            probes: 2,
            first_batch: 100,
            z: 8.0,
            ..RerankOptions::default()
        };
        if self.meta.refine {
            let stream = RefineStream::new(search, &self.store, options).unwrap();
            let options = RerankOptions {
                first_batch: 100,
                z: 8.0,
                ..RerankOptions::for_heap_rows()
            };
            self.drain(stream, query, options)
        } else {
            self.drain(search, query, options)
        }
    }

    fn drain(
        &self,
        source: impl CandidateSource,
        query: &[f32],
        options: RerankOptions,
    ) -> (Vec<usize>, RerankStats) {
        let mut stream = RerankStream::new(source, options);
        let mut fetch =
            distances_by(|tid| distance(self.meta.metric, query, self.vector(row_number(tid))));
        let mut found = Vec::new();
        while let Some(hit) = stream.next(&mut fetch).unwrap() {
            found.push(row_number(hit.tid));
        }
        (found, stream.stats())
    }

    fn expect(&self) {
        assert_eq!(self.problems(), [""; 0]);
        for query in vectors(2, 7).chunks(DIM) {
            for tests in conditions() {
                let passing = self.rows.iter().copied().filter(|i| passes(&tests, *i));
                let mut expected: Vec<usize> = passing.collect();
                let distance = |i: usize| distance(self.meta.metric, query, self.vector(i));
                expected.sort_by(|a, b| {
                    distance(*a)
                        .total_cmp(&distance(*b))
                        .then(tid(*a).cmp(&tid(*b)))
                });
                for memory in [1 << 20, 0] {
                    let (mut found, stats) = self.search(query, &tests, memory);
                    let is_few = expected.len() <= 200;
                    if is_few {
                        assert_eq!(found, expected, "{tests:?}");
                    }
                    // Late rows are dropped.
                    let missing = expected.len() - found.len();
                    assert_eq!(missing as u64, stats.dropped, "{tests:?}");
                    assert!(
                        missing * 20 <= expected.len(),
                        "{missing} of {}",
                        expected.len()
                    );
                    assert!(
                        found
                            .windows(2)
                            .all(|two| distance(two[0]) <= distance(two[1]))
                    );
                    found.sort_unstable();
                    found.dedup();
                    assert_eq!(found.len() + missing, expected.len());
                    assert!(found.iter().all(|i| expected.contains(i)));
                    if memory > 0 && self.model.is_some() && stats.work.codes > 0 {
                        let is_excluding = expected.len() < self.rows.len();
                        assert_eq!(stats.work.excluded > 0, is_excluding, "{tests:?}");
                    }
                }
            }
        }
    }
}

fn row((entry, filters): &(Owned, Vec<u8>)) -> Row<'_> {
    entry.row().with_filters(filters)
}

fn expect_all(mut index: Index) {
    index.expect();
    (BUILT..ALL - 200).for_each(|i| index.insert(i));
    index.expect();
    let is_dead = |i: usize| i % 3 == 1;
    vacuum(&index.store, &mut |tid| is_dead(row_number(tid))).unwrap();
    index.rows.retain(|i| !is_dead(*i));
    index.expect();
    (ALL - 200..ALL).for_each(|i| index.insert(i));
    index.expect();
}

#[test]
fn rows_in_lists_are_kept_and_filtered() {
    expect_all(Index::build(Some(model(Metric::L2, 4)), Metric::L2, false));
    expect_all(Index::build(
        Some(model(Metric::Cosine, 8)),
        Metric::Cosine,
        false,
    ));
}

#[test]
fn rows_with_refine_codes_are_kept_and_filtered() {
    expect_all(Index::build(Some(model(Metric::L2, 8)), Metric::L2, true));
}

#[test]
fn rows_in_two_lists_are_kept_and_filtered() {
    expect_all(Index::build(
        Some(two_list_model(Metric::L2, 4)),
        Metric::L2,
        false,
    ));
}

#[test]
fn rows_without_a_model_are_kept_and_filtered() {
    expect_all(Index::build(None, Metric::L2, false));
}

#[test]
fn rows_that_move_into_lists_are_kept_and_filtered() {
    for (model, refine) in [
        (model(Metric::L2, 4), false),
        (model(Metric::L2, 8), true),
        (two_list_model(Metric::L2, 4), false),
    ] {
        let mut index = Index::build(None, Metric::L2, false);
        let untrained = index.meta;
        index.add_model(model, refine);
        assert_eq!(index.meta.filters, untrained.filters);
        assert_eq!(index.meta.refine, refine);
        (BUILT..BUILT + 100).for_each(|i| index.insert(i));
        // As a session does that knows no model.
        for i in BUILT + 100..BUILT + 200 {
            let filters = index.filters(i);
            let row = exact_row(tid(i)).with_filters(&filters);
            insert(&index.store, &untrained, row).unwrap();
            index.rows.push(i);
        }
        index.expect();
        assert_eq!(index.move_pages(2), 2);
        index.expect();
        assert!(index.move_pages(100) > 1);
        index.expect();
        index.meta = finish_moves(&index.store, true).unwrap();
        assert!(!index.meta.has_rows_to_move());
        vacuum(&index.store, &mut |tid| row_number(tid) % 3 == 1).unwrap();
        index.rows.retain(|i| i % 3 != 1);
        (BUILT + 200..BUILT + 300).for_each(|i| index.insert(i));
        index.expect();
    }
}

#[test]
fn lists_with_other_filter_columns_are_refused() {
    let index = Index::build(None, Metric::L2, false);
    let codes = Column {
        id: 1,
        planes: 8,
        bits: 4,
        ..Column::default()
    };
    let filters = index.meta.pages.format.columns();
    let (first, others) = filters.split_at(1);
    let without_first = [&[codes][..], others].concat();
    let swapped = [&[codes][..], others, first].concat();
    for columns in [vec![codes], without_first, swapped] {
        let new = NewLists {
            format: RowFormat::new(&columns).unwrap(),
            lists: 5,
            blobs: [&[1], &[2]],
            blob_version: 6,
            rows: BUILT as u64,
            body: &[],
        };
        let refused = add_lists(&index.store, &new);
        assert!(
            matches!(refused, Err(PageError::Mismatch(_))),
            "{refused:?}"
        );
        assert_eq!(Meta::read(&index.store).unwrap(), index.meta);
    }
}

#[test]
fn rows_with_values_of_another_length_are_refused() {
    for model in [None, Some(model(Metric::L2, 4))] {
        let index = Index::build(model, Metric::L2, false);
        for length in [0, index.meta.filters.row_bytes() - 1] {
            let mut entry = index.entries(ALL - 1).remove(0);
            entry.1.truncate(length);
            assert!(insert(&index.store, &index.meta, row(&entry)).is_err());
        }
    }
}

#[test]
fn a_check_finds_every_wrong_value() {
    for (model, refine) in [(None, false), (Some(two_list_model(Metric::L2, 4)), false)] {
        let index = Index::build(model, Metric::L2, refine);
        let format = index.meta.pages.format;
        let first = format.columns().len() - index.meta.filters.len() - 1;
        for block in 1..index.store.block_count().unwrap() {
            let posting = |page: &[u8]| {
                let found = read_any_header(page, block, &index.meta.pages).unwrap();
                found.filter(|(_, head, _)| head.count > 0)
            };
            let Some((_, head, layout)) = index.store.read(block, posting).unwrap() else {
                continue;
            };
            // Of the last row: each column, and the NULL bits.
            let i = usize::from(head.count) - 1;
            for position in first..format.columns().len() {
                let at = layout.bytes_read(u64::MAX, |it| it == position)[position + 1].start;
                let bytes = layout.format().columns()[position].block_bytes();
                let bits = usize::from(layout.format().columns()[position].bits);
                let at = at + i / 32 * bytes + i % 32 * bits / 8;
                let flip = |mask: u8| {
                    let mut write = index.store.write().unwrap();
                    let slot = write.lock(block).unwrap();
                    write.page(slot)[at] ^= mask;
                    write.commit().unwrap();
                };
                let mask = if bits == 1 { 1 << (i % 8) } else { 1 };
                flip(mask);
                let problems = index.problems();
                assert!(
                    problems.len() == 1 && problems[0].contains("wrong values of filter columns"),
                    "{problems:?}"
                );
                flip(mask);
            }
        }
        assert_eq!(index.problems(), [""; 0]);
    }
}

#[test]
fn a_value_of_a_column_is_the_one_that_was_stored() {
    let index = Index::build(Some(model(Metric::L2, 4)), Metric::L2, false);
    let stored = entries(&index.store, &index.meta);
    let first = index.meta.pages.format.columns().len() - WIDTHS.len() - 1;
    for (tid, (_, columns)) in stored {
        let filters: Vec<u8> = columns[first..].concat();
        assert_eq!(filters, index.filters(row_number(tid)));
    }
}
