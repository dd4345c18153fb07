//! Golden values: the bytes of models and index pages, and the results and counters of searches, must not change.
//!
//! Every metric, code size and kind of refine codes is trained, built, searched, changed and searched again. The
//! checksums are compared with `golden/expected.txt`. After an intended change, write that file anew with
//! `DISTILLVQ_BLESS=1 cargo test -p distillvq-ivf --test golden` and say in the commit why the values differ.
//!
//! The values must be the same on every x86-64 machine. Sums of floats depend on the instruction set, so the test uses
//! the portable kernels; the tests of the kernels compare the others with them. The matrix products of training come
//! from the crate matrixmultiply, which rounds differently on a processor without FMA: the test needs FMA.
//! Results do not depend on the number of threads.
#![cfg(target_arch = "x86_64")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::*;
use distillvq_ivf::refine::RefineStream;
use distillvq_ivf::rerank::{CandidateSource, Growth, LateRows, RerankOptions, RerankStream};
use distillvq_ivf::{
    Calibration, Candidate, Error, ListSearch, Meta, Metric, Model, PageStore, Point, QueryKind,
    Tid, Training, check, insert, load_model, replace_student, vacuum, write_calibration,
};
use distillvq_pages::memory_store::MemoryStore;
use distillvq_training::TrainOptions;
use std::fmt::Write;
use std::fs;
use std::path::Path;

/// Rows of the built index.
const BUILT: usize = 1500;
/// Rows inserted later.
const INSERTED: usize = 500;

#[test]
fn bytes_and_results_are_the_expected_ones() {
    assert!(distillvq_kernels::use_portable());
    assert!(is_x86_feature_detected!("fma"), "see the module's comment");
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build();
    let found = pool.unwrap().install(all_cases);
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/expected.txt");
    if std::env::var_os("DISTILLVQ_BLESS").is_some() {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, &found).unwrap();
    }
    let differences = differences(&fs::read_to_string(file).unwrap(), &found);
    assert!(differences.is_empty(), "{differences}");
}

/// Lines `case, part: values`.
fn all_cases() -> String {
    let mut out = String::new();
    for metric in [Metric::L2, Metric::InnerProduct, Metric::Cosine] {
        for bits in [4, 8] {
            cases(
                &mut out,
                &format!("{metric} {bits} bits"),
                &models(metric, bits, 1),
            );
        }
    }
    cases(&mut out, "l2 4 bits two lists", &models(Metric::L2, 4, 2));
    out
}

/// The lines of two models and of the indexes with them.
fn cases(out: &mut String, case: &str, models: &[Model; 2]) {
    for (model, name) in models.iter().zip(["model", "retrained"]) {
        let parts = [
            model.encoder_bytes(),
            model.student_bytes(),
            model.to_bytes(),
        ];
        line(out, case, name, parts.map(|bytes| crc(&bytes.unwrap())));
    }
    for refine in ["none", "sq7"] {
        let case = format!("{case}, refine {refine}");
        index(out, &case, models, refine == "sq7");
    }
}

fn line(out: &mut String, case: &str, part: &str, values: impl IntoIterator<Item = String>) {
    let values: Vec<String> = values.into_iter().collect();
    writeln!(out, "{case}, {part}: {}", values.join(" ")).unwrap();
}

fn crc(bytes: &[u8]) -> String {
    format!("{:08x}", crc32c::crc32c(bytes))
}

/// A distilled model, and one with the same encoder that was distilled once more.
fn models(metric: Metric, bits: u8, assignments: u8) -> [Model; 2] {
    let options = TrainOptions {
        metric,
        lists: LISTS,
        bits,
        assignments,
        ..TrainOptions::default()
    };
    distilled_models(options, |seed| {
        let mut queries = vectors(600, seed);
        queries.iter_mut().step_by(3).for_each(|x| *x *= 1.5);
        queries
    })
}

/// Vectors of all rows. Some go to the exact list: too long for the codes, or of length 0.
fn table() -> Vec<f32> {
    let mut data = vectors(BUILT + INSERTED, 2);
    for row in [5, 700, BUILT + 9] {
        data[row * DIM..][..DIM]
            .iter_mut()
            .for_each(|x| *x *= 500.0);
    }
    for row in [11, BUILT + 20] {
        data[row * DIM..][..DIM].fill(0.0);
    }
    data
}

/// Builds an index, searches it, changes it in every way and searches it again.
fn index(out: &mut String, case: &str, models: &[Model; 2], refine: bool) {
    let data = table();
    let encode = if refine { encode_refined } else { encode };
    let (built, inserted) = data.split_at(BUILT * DIM);
    let rows = encode(&models[0], built, 0);
    let store = MemoryStore::new();
    let (first, second) = rows.split_at(rows.len() / 3);
    build(&store, &models[0], &[first, second]);
    write_calibration(&store, 5, training(), Some(calibration())).unwrap();
    line(out, case, "pages after build", pages(&store));
    searches(out, &format!("{case}, built"), &store, &data);

    let meta = Meta::read(&store).unwrap();
    let new = encode(&models[0], inserted, BUILT);
    let middle = new[new.len() / 2].tid.row();
    let (before, after) = new.split_at(new.partition_point(|row| row.tid.row() < middle));
    for row in before {
        insert(&store, &meta, row.row()).unwrap();
    }
    let dead = |tid: Tid| (tid.block + u32::from(tid.offset)).is_multiple_of(4);
    let stats = vacuum(&store, &mut |tid| dead(tid)).unwrap();
    let stats = [
        stats.removed,
        stats.remaining,
        stats.pages.into(),
        stats.empty_pages.into(),
    ];
    line(out, case, "vacuum", stats.map(|n| n.to_string()));
    for row in after {
        insert(&store, &meta, row.row()).unwrap();
    }
    line(out, case, "pages after changes", pages(&store));
    searches(out, &format!("{case}, changed"), &store, &data);

    replace_student(&store, &models[1].student_bytes().unwrap(), 6).unwrap();
    line(out, case, "pages after retraining", pages(&store));
    searches(out, &format!("{case}, retrained"), &store, &data);
    assert_eq!(check(&store).unwrap().problems, []);
}

fn training() -> Training {
    Training {
        built_at: 1_000_000,
        trained_at: 2_000_000,
        rows: 1200,
        queries: 600,
        recall_before: Some(0.5),
        recall_after: Some(0.75),
        code_error: None,
    }
}

fn calibration() -> Calibration {
    let point = |probes, recall| Point {
        probes,
        recall,
        error: 0.01,
        reranked: 90.0,
    };
    let points = [point(1, 0.5), point(4, 0.9), point(12, 1.0)];
    Calibration::new(QueryKind::Log, 600, 10, BUILT as u64, 3_000_000).with_points(&points)
}

/// The checksum of each page.
fn pages(store: &MemoryStore) -> Vec<String> {
    let blocks = 0..store.block_count().unwrap();
    blocks
        .map(|block| store.read(block, crc).unwrap())
        .collect()
}

/// Searches with every kind of limit and order, of an index as a reader finds it.
fn searches(out: &mut String, case: &str, store: &MemoryStore, data: &[f32]) {
    let mut meta = Meta::read(store).unwrap();
    let model = load_model(store, &mut meta).unwrap().unwrap();
    let mut queries = vectors(5, 30);
    queries.extend(&data[40 * DIM..41 * DIM]);
    queries.extend([0.0; DIM]);
    let index = Index {
        store,
        meta,
        model,
        data,
    };

    let candidates = queries.chunks(DIM).map(|query| index.candidates(query));
    line(out, case, "candidates", candidates);
    let default = RerankOptions {
        probes: 3,
        ..index.options()
    };
    // Few rows at a time, so that the counters depend on the errors of the codes.
    let careful = RerankOptions {
        first_batch: 12,
        batch: 4,
        all_from: 0.9,
        growth: Growth::new(&[3, 4, 5]),
        ..default
    };
    let relaxed = RerankOptions {
        late: LateRows::Append,
        ..careful
    };
    let hasty = RerankOptions { z: 0.5, ..careful };
    let kinds = [
        ("top 10 by default", default, 10),
        ("top 10", careful, 10),
        (
            "top 10 with a wide margin",
            careful.with_rerank_margin(1.5),
            10,
        ),
        ("top 150", careful, 150),
        ("top 150 with a small margin", hasty, 150),
        (
            "top 150 in relaxed order",
            RerankOptions { z: 0.5, ..relaxed },
            150,
        ),
        ("all in relaxed order", relaxed, usize::MAX),
        (
            "at most 4 lists",
            RerankOptions {
                max_probes: 4,
                ..relaxed
            },
            usize::MAX,
        ),
        (
            "at most 100 compared",
            RerankOptions {
                max_reranked: 100,
                ..relaxed
            },
            usize::MAX,
        ),
    ];
    for (name, options, k) in kinds {
        let results = queries
            .chunks(DIM)
            .map(|query| index.search(query, options, k));
        line(out, case, name, results);
    }
}

/// An index opened for searches, and its table.
struct Index<'a> {
    store: &'a MemoryStore,
    meta: Meta,
    model: Model,
    data: &'a [f32],
}

impl<'a> Index<'a> {
    fn open(&self, query: &[f32]) -> ListSearch<&'a MemoryStore> {
        ListSearch::new(self.store, &self.meta, Some(self.model.searcher()), query).unwrap()
    }

    fn options(&self) -> RerankOptions {
        if self.meta.refine {
            RerankOptions::for_refine_codes(self.meta.shape)
        } else {
            RerankOptions::for_codes(self.meta.shape)
        }
    }

    /// Checksum of rows and scores that two lists, then five, give in pieces.
    fn candidates(&self, query: &[f32]) -> String {
        let mut search = self.open(query);
        let (mut out, mut bytes) = (Vec::new(), Vec::new());
        for (more, n) in [(2, 20), (3, 300)] {
            search.probe(more).unwrap();
            search.pull(n, &mut out).unwrap();
            bytes.extend(search.bound().unwrap_or(f32::NEG_INFINITY).to_le_bytes());
        }
        for candidate in &out {
            bytes.extend(tid_bytes(candidate.tid));
            bytes.extend(candidate.score.to_le_bytes());
        }
        format!("{}:{}", search.scanned(), crc(&bytes))
    }

    /// Counters and the checksum of the first `k` rows and their distances.
    fn search(&self, query: &[f32], options: RerankOptions, k: usize) -> String {
        if self.meta.refine {
            let refined = RefineStream::new(self.open(query), self.store, options).unwrap();
            let exact = RerankOptions {
                late: options.late,
                max_reranked: options.max_reranked,
                z: options.z,
                ..RerankOptions::for_heap_rows()
            };
            self.run(query, RerankStream::new(refined, exact), k)
        } else {
            self.run(query, RerankStream::new(self.open(query), options), k)
        }
    }

    fn run<S: CandidateSource>(
        &self,
        query: &[f32],
        mut stream: RerankStream<S>,
        k: usize,
    ) -> String {
        let mut fetch = |batch: &[Candidate], out: &mut Vec<Option<f64>>| -> Result<(), Error> {
            out.extend(
                batch
                    .iter()
                    .map(|candidate| self.distance(query, candidate.tid)),
            );
            Ok(())
        };
        let hits = std::iter::from_fn(|| stream.next(&mut fetch).unwrap()).take(k);
        let bytes: Vec<u8> = hits
            .flat_map(|hit| [&tid_bytes(hit.tid)[..], &hit.distance.to_le_bytes()].concat())
            .collect();
        let stats = stream.stats();
        let work = [stats.work.codes, stats.work.refined];
        let rows = [stats.pulled, stats.reranked, stats.dropped, stats.returned];
        format!("{}/{work:?}/{rows:?}:{}", stats.probed, crc(&bytes)).replace(", ", "+")
    }

    /// The distance that the operator of the metric gives; some rows are not visible.
    fn distance(&self, query: &[f32], tid: Tid) -> Option<f64> {
        let row = row_number(tid);
        let x = &self.data[row * DIM..][..DIM];
        let product = |a: &[f32], b: &[f32]| -> f64 {
            a.iter()
                .zip(b)
                .map(|(a, b)| f64::from(*a) * f64::from(*b))
                .sum()
        };
        let distance = match self.meta.metric {
            Metric::L2 => (product(query, query) - 2.0 * product(query, x) + product(x, x))
                .max(0.0)
                .sqrt(),
            Metric::InnerProduct => -product(query, x),
            Metric::Cosine => {
                1.0 - product(query, x) / (product(query, query) * product(x, x)).sqrt()
            }
        };
        (!row.is_multiple_of(13)).then_some(distance)
    }
}

fn tid_bytes(tid: Tid) -> [u8; 6] {
    let ([a, b, c, d], [e, f]) = (tid.block.to_le_bytes(), tid.offset.to_le_bytes());
    [a, b, c, d, e, f]
}

/// Which cases and parts differ, and at which of their values.
fn differences(expected: &str, found: &str) -> String {
    let mut out = String::new();
    let split = |line: &str| -> (String, Vec<String>) {
        let (name, values) = line.split_once(": ").unwrap_or((line, ""));
        (
            name.to_owned(),
            values.split(' ').map(str::to_owned).collect(),
        )
    };
    let [expected, found] =
        [expected, found].map(|text| text.lines().map(split).collect::<Vec<_>>());
    if !expected
        .iter()
        .map(|it| &it.0)
        .eq(found.iter().map(|it| &it.0))
    {
        out.push_str("the file has other cases than the test\n");
    }
    for ((name, want), (_, got)) in expected.iter().zip(&found) {
        if want.len() != got.len() {
            writeln!(out, "{name}: {} values, expected {}", got.len(), want.len()).unwrap();
        }
        let values = want.iter().zip(got).enumerate();
        for (i, (want, got)) in values.filter(|(_, (want, got))| want != got) {
            writeln!(out, "{name}: value {i} is {got}, expected {want}").unwrap();
        }
    }
    out
}
