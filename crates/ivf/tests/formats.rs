//! Format versions: indexes and exported models of every released format are read and used, and those of a format to come are
//! refused by their version.
//!
//! With the feature `next-format` the library is one of a made-up next format, which reads the released ones.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
mod fixture;

use common::*;
use distillvq_ivf::refine::RefineStream;
use distillvq_ivf::rerank::{CandidateSource, RerankOptions, RerankStream};
use distillvq_ivf::{
    Error, ListSearch, Meta, Model, ModelError, PAGE_SIZE, PageStore, PageWrite, RowFn, Tid, check,
    check_against, copy_without_rows, count_rows, encoder_bytes, insert, load_model, query_sample,
    replace_student, vacuum, write_calibration,
};
use distillvq_pages::memory_store::MemoryStore;
use distillvq_pages::{Error as PageError, FORMAT};
use distillvq_training::{NoMonitor, RetrainOptions, retrain};
use fixture::*;
use std::collections::BTreeSet;
use std::fs;
use std::ops::Range;

/// The newest format of a release.
const RELEASED: u8 = if cfg!(feature = "next-format") {
    FORMAT - 1
} else {
    FORMAT
};
/// Offset of the version in the metapage, and of the format in the header of a page: the same in all formats, as are kind
/// and magic.
const VERSION: usize = 72;
const PAGE_FORMAT: usize = 25;

fn file(version: u8, name: &str, ending: &str) -> Vec<u8> {
    fs::read(folder(version).join(format!("{name}.{ending}"))).unwrap()
}

fn store(pages: &[u8]) -> MemoryStore {
    let store = MemoryStore::new();
    for page in pages.chunks(PAGE_SIZE) {
        let mut write = store.write().unwrap();
        let (_, slot) = write.extend().unwrap();
        write.page(slot).copy_from_slice(page);
        write.commit().unwrap();
    }
    store
}

/// An index in use, and what its rows should be.
struct Index {
    store: MemoryStore,
    meta: Meta,
    model: Option<Model>,
    vectors: Vec<f32>,
    rows: BTreeSet<Tid>,
}

impl Index {
    fn open(version: u8, recipe: Recipe) -> Index {
        let store = store(&file(version, recipe.name, "index"));
        let mut meta = Meta::read(&store).unwrap();
        let model = load_model(&store, &mut meta).unwrap();
        Index {
            store,
            meta,
            model,
            vectors: table(),
            rows: rows().into_iter().collect(),
        }
    }

    fn vector(&self, tid: Tid) -> &[f32] {
        &self.vectors[row_number(tid) * DIM..][..DIM]
    }

    /// Reads the metapage and the model again.
    fn reopen(&mut self) {
        self.meta = Meta::read(&self.store).unwrap();
        self.model = load_model(&self.store, &mut self.meta).unwrap();
    }

    /// Verifies all pages and the codes of all rows, and searches.
    fn expect_right(&self) {
        let mut table = |blocks: Range<u32>, each: &mut RowFn<'_, Error>| -> Result<(), Error> {
            let mut here = self.rows.iter().filter(|tid| blocks.contains(&tid.block));
            here.try_for_each(|tid| each(*tid, self.vector(*tid), &[]))
        };
        let report = check_against(&self.store, usize::MAX, &mut table).unwrap();
        assert_eq!(report.problems, []);
        assert_eq!(report.compared, self.rows.len() as u64);
        let entries = report.entries.iter().sum::<u64>() as usize;
        match self.meta.assignments {
            1 => assert_eq!(entries, self.rows.len()),
            _ => assert!((self.rows.len() + 1..=2 * self.rows.len()).contains(&entries)),
        }
        assert_eq!(count_rows(&self.store).unwrap(), self.rows.len() as u64);
        for query in vectors(3, 40).chunks(DIM) {
            let distance = |tid: Tid| distance(self.meta.metric, query, self.vector(tid));
            let mut expected: Vec<Tid> = self.rows.iter().copied().collect();
            expected.sort_by(|a, b| distance(*a).total_cmp(&distance(*b)));
            expected.truncate(10);
            assert_eq!(self.nearest(query), expected);
        }
    }

    /// The ten nearest rows. The search compares all rows, so these are exact.
    fn nearest(&self, query: &[f32]) -> Vec<Tid> {
        let searcher = self.model.as_ref().map(Model::searcher);
        let search = ListSearch::new(&self.store, &self.meta, searcher, query).unwrap();
        let all = |options| RerankOptions {
            probes: usize::MAX,
            all_from: 0.001,
            ..options
        };
        if self.meta.refine {
            let options = all(RerankOptions::for_refine_codes(self.meta.shape));
            let refined = RefineStream::new(search, &self.store, options).unwrap();
            self.first_ten(
                query,
                RerankStream::new(refined, all(RerankOptions::for_heap_rows())),
            )
        } else {
            self.first_ten(
                query,
                RerankStream::new(search, all(RerankOptions::default())),
            )
        }
    }

    fn first_ten<S: CandidateSource>(
        &self,
        query: &[f32],
        mut stream: RerankStream<S>,
    ) -> Vec<Tid> {
        let exact = |tid| distance(self.meta.metric, query, self.vector(tid));
        let mut fetch = distances_by(exact);
        let hits = std::iter::from_fn(|| stream.next(&mut fetch).unwrap());
        hits.take(10).map(|hit| hit.tid).collect()
    }

    /// Inserts further rows.
    fn insert(&mut self, count: usize, seed: u64) {
        let (from, new) = (self.vectors.len() / DIM, vectors(count, seed));
        let rows: Vec<Owned> = match &self.model {
            Some(model) if self.meta.refine => encode_refined(model, &new, from),
            Some(model) => encode(model, &new, from),
            None => Vec::new(),
        };
        for row in &rows {
            insert(&self.store, &self.meta, row.row()).unwrap();
        }
        if self.model.is_none() {
            for i in from..from + count {
                insert(&self.store, &self.meta, exact_row(tid(i))).unwrap();
            }
        }
        self.vectors.extend(new);
        self.rows.extend((from..from + count).map(tid));
    }

    /// Trains a student anew.
    fn retrain(&mut self) {
        let Some(model) = &self.model else { return };
        let options = RetrainOptions {
            seed: 9,
            rows_in_table: 100_000,
            ..RetrainOptions::default()
        };
        let queries = Some(vectors(600, 50).into());
        let trained = retrain(model, vectors(1100, 51), queries, &options, &NoMonitor).unwrap();
        let encoder = encoder_bytes(&self.store, &self.meta).unwrap();
        let student = trained.model.student_bytes_for(&encoder).unwrap();
        let meta = replace_student(&self.store, &student, 77).unwrap();
        write_calibration(&self.store, 77, meta.training, None).unwrap();
        self.reopen();
        assert_eq!(
            (self.meta.model_version(), self.meta.calibration),
            (77, None)
        );
        let stored = self.model.as_ref().unwrap();
        assert_eq!(stored.student_bytes_for(&encoder).unwrap(), student);
    }
}

#[test]
fn indexes_of_released_formats_are_used() {
    for (version, recipe) in (1..=RELEASED).flat_map(|version| RECIPES.map(|it| (version, it))) {
        let mut index = Index::open(version, recipe);
        let meta = index.meta;
        assert_eq!(meta.pages.version, version.into());
        assert_eq!(
            (meta.metric, meta.dim, meta.refine),
            (recipe.metric, DIM, recipe.refine)
        );
        assert_eq!(meta.has_model(), recipe.trained);
        let sample = query_sample::read(&index.store, &meta).unwrap();
        let expected = if recipe.samples {
            sampled()
        } else {
            Vec::new()
        };
        let kept = sample.queries.iter().rev().flat_map(|it| &it.elements);
        assert_eq!(kept.clone().count(), expected.len());
        for (kept, expected) in kept.zip(expected) {
            assert!((kept - expected).abs() <= 2e-3 * expected.abs() + 1e-3);
        }
        if recipe.trained {
            assert_eq!(meta.lists() as usize, FEW_LISTS);
            assert_eq!((meta.shape.bits, meta.model_version()), (recipe.bits, 6));
            assert_eq!(meta.assignments, recipe.assignments);
            assert_eq!(
                (meta.training, meta.calibration),
                (training(), Some(calibration()))
            );
        }
        index.expect_right();
        assert_eq!(
            Meta::read(&index.store).unwrap(),
            meta,
            "reading changes nothing"
        );

        let copy = MemoryStore::new();
        let empty = copy_without_rows(&index.store, &copy).unwrap();
        assert_eq!(
            empty.pages.version,
            FORMAT.into(),
            "new pages are of the newest format"
        );
        assert!(check(&copy).unwrap().is_sound());

        index.insert(60, 60);
        index.reopen();
        assert_eq!(
            index.meta.pages.version,
            FORMAT.into(),
            "a change raises the version"
        );
        index.expect_right();
        vacuum(&index.store, &mut |tid| tid.offset.is_multiple_of(4)).unwrap();
        index.rows.retain(|tid| !tid.offset.is_multiple_of(4));
        index.expect_right();
        index.retrain();
        index.expect_right();
        index.insert(60, 61);
        index.expect_right();
    }
}

#[test]
fn each_kind_of_change_raises_the_version() {
    type Change = fn(&Index);
    let changes: [(&str, Change); 4] = [
        ("insert", |index| {
            let row = encode_refined(index.model.as_ref().unwrap(), &vectors(1, 9), ROWS);
            insert(&index.store, &index.meta, row[0].row()).unwrap();
        }),
        ("vacuum", |index| {
            vacuum(&index.store, &mut |tid| tid.offset == 2).unwrap();
        }),
        ("a student", |index| {
            let encoder = encoder_bytes(&index.store, &index.meta).unwrap();
            let model = index.model.as_ref().unwrap();
            let student = model.student_bytes_for(&encoder).unwrap();
            replace_student(&index.store, &student, 8).unwrap();
        }),
        ("a calibration", |index| {
            write_calibration(&index.store, 6, training(), None).unwrap();
        }),
    ];
    for (what, change) in changes {
        let index = Index::open(1, RECIPES[1]);
        change(&index);
        let meta = Meta::read(&index.store).unwrap();
        assert_eq!(meta.pages.version, FORMAT.into(), "{what}");
        let newest = (0..index.store.block_count().unwrap())
            .map(|block| index.store.read(block, |page| page[PAGE_FORMAT]).unwrap());
        assert_eq!(newest.max(), Some(FORMAT), "{what}");
    }
}

#[test]
fn indexes_of_a_format_to_come_are_refused_by_their_version() {
    let newer = FORMAT + 1;
    for recipe in RECIPES {
        let index = Index::open(RELEASED, recipe);
        for block in 0..index.store.block_count().unwrap() {
            index.store.mutate(block, |page| {
                page[PAGE_FORMAT] = newer;
                if block == 0 {
                    // Only kind, magic and version are where they were.
                    page[26..64].fill(0xA5);
                    page[VERSION..].fill(0xA5);
                    page[VERSION..VERSION + 4].copy_from_slice(&u32::from(newer).to_le_bytes());
                }
            });
        }
        let before = pages(&index.store);
        let store = &index.store;
        let refusals: [Error; 7] = [
            Meta::read(store).unwrap_err(),
            check(store).unwrap_err(),
            vacuum(store, &mut |_| true).unwrap_err().into(),
            count_rows(store).unwrap_err().into(),
            copy_without_rows(store, &MemoryStore::new()).unwrap_err(),
            replace_student(store, &[1, 2, 3], 8).unwrap_err(),
            write_calibration(store, 6, training(), None).unwrap_err(),
        ];
        for refusal in refusals {
            let text = refusal.to_string();
            let expected =
                format!("format version {newer}; this library reads versions up to {FORMAT}");
            assert!(text.contains(&expected), "{text}");
            let Error::Pages(PageError::UnsupportedVersion { found, newest }) = refusal else {
                panic!("{refusal}");
            };
            assert_eq!((found, newest), (newer.into(), FORMAT.into()));
        }
        // A session that read the metapage before the update names the version of the newer pages, and does not change them.
        let stale = match &index.model {
            None => insert(store, &index.meta, exact_row(tid(999))).unwrap_err(),
            Some(model) => {
                let search = ListSearch::new(
                    store,
                    &index.meta,
                    Some(model.searcher()),
                    &index.vectors[..DIM],
                );
                let all = search.and_then(|mut search| {
                    search.probe(FEW_LISTS)?;
                    search.pull(ROWS, &mut Vec::new())
                });
                all.unwrap_err()
            }
        };
        // The first newer page names it, or the metapage if a change has to raise the version first.
        let named = match stale {
            Error::Pages(PageError::NewerPage { found, .. }) => u32::from(found),
            Error::Pages(PageError::UnsupportedVersion { found, .. }) => found,
            other => panic!("{other}"),
        };
        assert_eq!(named, u32::from(newer));
        assert!(pages(store) == before, "nothing was changed");
    }
}

fn pages(store: &MemoryStore) -> Vec<Vec<u8>> {
    let blocks = 0..store.block_count().unwrap();
    blocks
        .map(|block| store.read(block, <[u8]>::to_vec).unwrap())
        .collect()
}

#[test]
fn exported_models_of_released_formats_are_read_and_newer_ones_named() {
    let trained = RECIPES.iter().filter(|recipe| recipe.trained);
    for (version, recipe) in (1..=RELEASED).flat_map(|v| trained.clone().map(move |it| (v, it))) {
        let bytes = file(version, recipe.name, "model");
        let model = Model::from_bytes(&bytes).unwrap();
        let index = Index::open(version, *recipe);
        let stored = index.model.as_ref().unwrap();
        assert_eq!(
            (model.metric(), model.dim(), model.lists()),
            (recipe.metric, DIM, FEW_LISTS)
        );
        assert_eq!(
            model.encoder_bytes().unwrap(),
            stored.encoder_bytes().unwrap()
        );
        assert_eq!(
            model.student_bytes().unwrap(),
            stored.student_bytes().unwrap()
        );
        assert!(!model.held_out().is_empty());
        // Envelopes begin with a magic and their version.
        let stated = |bytes: &[u8]| u32::from_le_bytes(bytes[8..12].try_into().unwrap());
        assert_eq!(stated(&bytes), version.into());
        let again = model.to_bytes().unwrap();
        assert_eq!(
            stated(&again),
            FORMAT.into(),
            "written in the newest version"
        );
        assert_eq!(
            Model::from_bytes(&again).unwrap().to_bytes().unwrap(),
            again
        );
        let mut newer = bytes.clone();
        newer[8..12].copy_from_slice(&9u32.to_le_bytes());
        let Err(refusal) = Model::from_bytes(&newer) else {
            panic!("{} of version 9 was read", recipe.name);
        };
        assert!(
            matches!(refusal, ModelError::UnsupportedVersion { found: 9, .. }),
            "{refusal}"
        );
    }
}
