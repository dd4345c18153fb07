//! The check against a table: it finds every kind of damage, and nothing in sound indexes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::*;
use distillvq_ivf::filter::FilterFormat;
use distillvq_ivf::{
    Builder, CheckReport, CreateOptions, Error, Meta, Metric, Model, PageStore, Row, RowEncoder,
    RowFn, Tid, check, check_against, check_within, insert, vacuum,
};
use distillvq_model::refine_bytes;
use distillvq_pages::Error as PageError;
use distillvq_pages::memory_store::MemoryStore;
use std::ops::Range;

/// A table and an index over it.
struct Case {
    store: MemoryStore,
    meta: Meta,
    model: Option<Model>,
    rows: Vec<(Tid, Vec<f32>)>,
}

impl Case {
    fn new(metric: Metric, bits: u8, refine: bool, rows: usize) -> Case {
        Case::of(metric, Some(model(metric, bits)), refine, rows)
    }

    /// With every 50th row in the exact list and every 77th zero.
    fn of(metric: Metric, model: Option<Model>, refine: bool, rows: usize) -> Case {
        let mut all = vectors(rows, 31);
        for (i, vector) in all.chunks_exact_mut(DIM).enumerate() {
            match i {
                i if i % 50 == 3 => vector[0] = 3e38,
                i if i % 77 == 5 => vector.fill(0.0),
                _ => {}
            }
        }
        let rows: Vec<(Tid, Vec<f32>)> = all
            .chunks_exact(DIM)
            .enumerate()
            .map(|(i, v)| (tid(i), v.to_vec()))
            .collect();
        let store = MemoryStore::new();
        let create = CreateOptions {
            metric,
            dim: DIM,
            model: model.as_ref(),
            refine,
            filters: FilterFormat::default(),
            model_version: 5,
        };
        let mut builder = Builder::create(&store, create).unwrap();
        let meta = *builder.meta();
        let encoder = RowEncoder::new(&meta, model.as_ref()).unwrap();
        let built = rows.len() / 2;
        let encoded = encoder.encode(&all[..built * DIM]);
        let mut run: Vec<Row<'_>> = (0..built)
            .filter_map(|i| Row::of(&meta, &encoded, i, rows[i].0))
            .collect();
        run.sort_by_key(|row| row.list);
        builder.append(run).unwrap();
        let meta = builder.finish().unwrap();
        let case = Case {
            store,
            meta,
            model,
            rows,
        };
        for (tid, vector) in &case.rows[built..] {
            case.insert(*tid, vector);
        }
        case
    }

    /// Inserts a row as the index wants it, if it wants it.
    fn insert(&self, tid: Tid, vector: &[f32]) {
        let encoder = RowEncoder::new(&self.meta, self.model.as_ref()).unwrap();
        let encoded = encoder.encode(vector);
        if let Some(row) = Row::of(&self.meta, &encoded, 0, tid) {
            insert(&self.store, &self.meta, row).unwrap();
        }
    }

    fn report(&self) -> CheckReport {
        self.report_within(usize::MAX)
    }

    fn report_within(&self, memory: usize) -> CheckReport {
        let mut table = |blocks: Range<u32>, each: &mut RowFn<'_, Error>| {
            let inside = |row: &&(Tid, Vec<f32>)| blocks.contains(&row.0.block);
            self.rows
                .iter()
                .filter(inside)
                .try_for_each(|(tid, vector)| each(*tid, vector, &[]))
        };
        check_against(&self.store, memory, &mut table).unwrap()
    }

    fn problems(&self) -> Vec<String> {
        let problems = self.report().problems;
        problems.iter().map(ToString::to_string).collect()
    }

    /// Where a row is: its page, and which of its rows.
    fn find(&self, tid: Tid) -> (u32, usize) {
        let mut places = self.places();
        places
            .find(|&(block, i)| self.tid_at(block, i) == tid)
            .unwrap()
    }

    fn places(&self) -> impl Iterator<Item = (u32, usize)> {
        let posting = |block: &u32| self.store.read(*block, |page| page[24]).unwrap() == 4;
        let blocks = (0..self.store.block_count().unwrap()).filter(posting);
        blocks.flat_map(|block| {
            let count = self
                .store
                .read(block, |page| u16::from_le_bytes([page[26], page[27]]));
            (0..usize::from(count.unwrap())).map(move |i| (block, i))
        })
    }

    /// Rows that a page of a list has places for: its capacity, and with refine codes a few more.
    fn places_of_a_page(&self) -> usize {
        let [_, codes, ..] = self
            .meta
            .pages
            .layout(0)
            .unwrap()
            .bytes_read(u64::MAX, |_| true);
        codes.len() / self.meta.shape.block_bytes() * 32
    }

    /// Offset of the codes' part of a page, the scales, the norms, the addresses' blocks and lines.
    fn parts(&self) -> [usize; 5] {
        let (n, shape) = (self.places_of_a_page(), self.meta.shape);
        let scales = 64 + n / 32 * shape.block_bytes();
        let norms = scales + n;
        let blocks = norms + if shape.has_norm { 4 * n } else { 0 };
        [64, scales, norms, blocks, blocks + 4 * n]
    }

    fn tid_at(&self, block: u32, i: usize) -> Tid {
        let list = self.store.read(block, |page| page[28]).unwrap();
        let [.., blocks, offsets] = if u32::from(list) == self.meta.lists() {
            [0, 0, 0, 64, 64 + 4 * 1344]
        } else {
            self.parts()
        };
        self.store
            .read(block, |page| Tid {
                block: u32::from_le_bytes(page[blocks + 4 * i..][..4].try_into().unwrap()),
                offset: u16::from_le_bytes(page[offsets + 2 * i..][..2].try_into().unwrap()),
            })
            .unwrap()
    }
}

#[test]
fn sound_indexes_are_sound() {
    for metric in [Metric::L2, Metric::InnerProduct, Metric::Cosine] {
        for (bits, refine) in [(4, false), (4, true), (8, false), (8, true)] {
            let case = Case::new(metric, bits, refine, 1500);
            let report = case.report();
            assert_eq!(report.problems, [], "{metric} {bits} {refine}");
            assert_eq!(report.compared, 1500);
            let exact = *report.entries.last().unwrap();
            // Zero vectors are nowhere by cosine, and exact by inner product; huge ones are exact, by cosine if need be.
            let zeros = case
                .rows
                .iter()
                .filter(|row| row.1.iter().all(|x| *x == 0.0));
            let (zeros, huge) = (zeros.count() as u64, 30);
            let (expected, indexed) = match metric {
                Metric::L2 => (huge..=huge + zeros, 1500),
                Metric::InnerProduct => (huge + zeros..=huge + zeros, 1500),
                Metric::Cosine => (0..=huge, 1500 - zeros),
            };
            assert!(expected.contains(&exact), "{metric}: {exact}");
            assert_eq!(report.entries.iter().sum::<u64>(), indexed, "{metric}");
        }
        let untrained = Case::of(metric, None, false, 900);
        assert_eq!(untrained.report().problems, []);
    }
}

#[test]
fn an_index_is_encoded_with_its_own_model() {
    let trained = Case::new(Metric::L2, 4, false, 200);
    let untrained = Case::of(Metric::L2, None, false, 10);
    for (meta, model) in [
        (trained.meta, None),
        (untrained.meta, trained.model.as_ref()),
    ] {
        let result = RowEncoder::new(&meta, model);
        assert!(matches!(result, Err(Error::Pages(PageError::Mismatch(_)))));
    }
}

#[test]
fn rows_that_are_not_there_are_missed() {
    for refine in [false, true] {
        let case = Case::new(Metric::L2, 4, refine, 1500);
        // One of a list, one of the exact list (i % 50 == 3).
        let gone = [tid(700), tid(53)];
        vacuum(&case.store, &mut |tid| gone.contains(&tid)).unwrap();
        let expected = gone.map(|tid| {
            let Tid { block, offset } = tid;
            format!("row ({block},{offset}) of the table is not in the index")
        });
        let mut problems = case.problems();
        problems.sort_unstable();
        let mut expected = expected.to_vec();
        expected.sort_unstable();
        assert_eq!(problems, expected);
        assert!(check(&case.store).unwrap().is_sound(), "the structure is");
        for tid in gone {
            let row = case.rows.iter().find(|row| row.0 == tid).unwrap();
            case.insert(row.0, &row.1);
        }
        assert_eq!(case.problems(), [""; 0]);
    }
}

#[test]
fn rows_without_a_place_in_the_index_are_found() {
    let case = Case::new(Metric::Cosine, 4, false, 900);
    let zero = case.rows[5].0;
    let other = &case.rows[6].1;
    case.insert(zero, other);
    let problems = case.problems();
    assert_eq!(problems.len(), 1);
    assert!(
        problems[0].contains("where rows of its kind have no place"),
        "{problems:?}"
    );
}

/// Damages a row and returns what is said of it.
fn damaged(metric: Metric, refine: bool, damage: impl FnOnce(&Case, u32, usize)) -> String {
    let case = Case::new(metric, 4, refine, 1500);
    let (block, i) = case.find(tid(700));
    damage(&case, block, i);
    let problems = case.problems();
    assert_eq!(problems.len(), 1, "{problems:?}");
    let Tid { block: b, offset } = tid(700);
    let prefix = format!("block {block}: row ({b},{offset}) of the table ");
    problems[0]
        .strip_prefix(&prefix)
        .expect(&problems[0])
        .to_owned()
}

#[test]
fn wrong_bytes_of_a_row_are_found() {
    for refine in [false, true] {
        // A code of the row: its nibble of some sub-quantizer.
        let codes = damaged(Metric::L2, refine, |case, block, i| {
            let at = 64 + i / 32 * case.meta.shape.block_bytes() + 3 * 16 + i % 16;
            let bit = if i % 32 < 16 { 1 } else { 16 };
            case.store.mutate(block, |page| page[at] ^= bit);
        });
        assert_eq!(codes, "has wrong codes");
        let scale = damaged(Metric::Cosine, refine, |case, block, i| {
            let [_, scales, ..] = case.parts();
            case.store.mutate(block, |page| page[scales + i] ^= 64);
        });
        assert_eq!(scale, "has a wrong norm correction");
        let norm = damaged(Metric::L2, refine, |case, block, i| {
            let [_, _, norms, ..] = case.parts();
            case.store
                .mutate(block, |page| page[norms + 4 * i + 2] ^= 64);
        });
        assert_eq!(norm, "has a wrong norm");
    }
    let refine = damaged(Metric::Cosine, true, |case, block, i| {
        let [.., offsets] = case.parts();
        let links = offsets + 2 * case.places_of_a_page();
        let bytes = refine_bytes(DIM);
        let each = (8192 - 64) / bytes;
        let link = case
            .store
            .read(block, |page| page[links + i / each * 4..][..4].to_vec());
        let link = u32::from_le_bytes(link.unwrap().try_into().unwrap());
        let at = 64 + i % each * bytes;
        case.store.mutate(link, |page| page[at + 7] ^= 2);
    });
    assert_eq!(refine, "has a wrong refine code");
    // A link to nowhere is told, and the other rows are looked at nevertheless.
    let case = Case::new(Metric::Cosine, 4, true, 1500);
    let (block, _) = case.find(tid(700));
    let [.., offsets] = case.parts();
    let link = offsets + 2 * case.places_of_a_page();
    case.store
        .mutate(block, |page| page[link..link + 4].fill(0x77));
    let report = case.report();
    assert_eq!(report.compared, 1500);
    let what = report.problems.iter().map(|it| it.what.as_str());
    let what: std::collections::BTreeSet<&str> = what.collect();
    assert!(what.contains("side page beyond the end"), "{what:?}");
    assert!(what.contains("link leads beyond the end"), "{what:?}");
}

#[test]
fn a_row_in_another_list_is_found() {
    let case = Case::new(Metric::L2, 4, false, 1500);
    let vector = &case.rows[700].1;
    vacuum(&case.store, &mut |t| t == tid(700)).unwrap();
    let encoder = RowEncoder::new(&case.meta, case.model.as_ref()).unwrap();
    let encoded = encoder.encode(vector);
    let right = Row::of(&case.meta, &encoded, 0, tid(700)).unwrap();
    for list in [(right.list + 1) % LISTS as u32, LISTS as u32] {
        insert(&case.store, &case.meta, Row { list, ..right }).unwrap();
        let problems = case.problems();
        assert_eq!(problems.len(), 1);
        assert!(
            problems[0].ends_with("is in the wrong list"),
            "{problems:?}"
        );
        vacuum(&case.store, &mut |t| t == tid(700)).unwrap();
    }
    insert(&case.store, &case.meta, right).unwrap();
    insert(&case.store, &case.meta, right).unwrap();
    let problems = case.problems();
    assert_eq!(problems.len(), 1);
    assert!(
        problems[0].ends_with("is in the index twice"),
        "{problems:?}"
    );
}

#[test]
fn a_page_that_nothing_leads_to_is_found() {
    let case = Case::new(Metric::L2, 4, false, 3000);
    // The last page of a chain of several: what leads to it is cut.
    let block = (0..case.store.block_count().unwrap())
        .find(|&block| {
            case.store
                .read(block, |p| p[24] == 4 && p[32] != 0)
                .unwrap()
        })
        .unwrap();
    let next = case.store.read(block, |page| page[32]).unwrap();
    case.store.mutate(block, |page| page[32..36].fill(0));
    let problems = case.problems();
    let orphan = format!("block {next}: nothing leads to the page");
    assert!(problems.contains(&orphan), "{problems:?}");
    assert!(
        problems
            .iter()
            .any(|p| p.ends_with("of the table is not in the index"))
    );
    // A page that was never written is none.
    let sound = Case::new(Metric::L2, 4, false, 1100);
    let write = sound.store.write().unwrap();
    let mut write = write;
    distillvq_ivf::PageWrite::extend(&mut write).unwrap();
    drop(write);
    let report = sound.report();
    assert_eq!((report.problems, report.orphan_pages), (vec![], 1));
}

#[test]
fn problems_are_listed_up_to_a_limit() {
    let case = Case::new(Metric::L2, 4, false, 1500);
    vacuum(&case.store, &mut |tid| tid.block > 5).unwrap();
    let problems = case.problems();
    assert_eq!(problems.len(), CheckReport::MAX_PROBLEMS + 1);
    assert_eq!(problems.last().unwrap(), "there are further problems");
}

#[test]
fn little_memory_takes_more_passes() {
    // More rows than the smallest window gathers.
    let rows = 300_000;
    let create = CreateOptions {
        metric: Metric::L2,
        dim: 1,
        model: None,
        refine: false,
        filters: FilterFormat::default(),
        model_version: 1,
    };
    let store = MemoryStore::new();
    let mut builder = Builder::create(&store, create).unwrap();
    let place = |i: usize| tid(i * 7919 % rows);
    // One is missing, one is there twice.
    let all = (0..rows).map(place).filter(|t| *t != tid(200_001));
    let indexed = all.chain([tid(250_002)]).map(exact_row);
    builder.append(indexed).unwrap();
    builder.finish().unwrap();
    for (memory, passes) in [(0, 2), (usize::MAX, 1)] {
        let mut ranges = Vec::new();
        let mut table = |blocks: Range<u32>, each: &mut RowFn<'_, Error>| {
            ranges.push(blocks.clone());
            let inside = |tid: &Tid| blocks.contains(&tid.block);
            let mut rows = (0..rows).map(tid).filter(inside);
            rows.try_for_each(|tid| each(tid, &[1.0], &[]))
        };
        let report = check_against(&store, memory, &mut table).unwrap();
        assert_eq!(report.compared, rows as u64);
        let what: Vec<&str> = report.problems.iter().map(|p| p.what.as_str()).collect();
        assert_eq!(what.len(), 2, "{what:?}");
        assert!(
            what.iter()
                .any(|w| w.contains("(5000,2) of the table is not in"))
        );
        assert!(
            what.iter()
                .any(|w| w.ends_with("(6250,3) is in the index twice"))
        );
        assert_eq!(ranges.len(), passes);
        assert_eq!((ranges[0].start, ranges[passes - 1].end), (0, u32::MAX));
        assert_eq!(check_within(&store, memory).unwrap().problems.len(), 1);
    }
}
