//! Models and rows for tests of trained indexes.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use distillvq_ivf::SideLocation;
use distillvq_ivf::filter::FilterFormat;
use distillvq_ivf::{
    Builder, Candidate, CodeShape, CreateOptions, Error, ListSearch, Meta, Metric, Model,
    PageStore, Row, Tid,
};
use distillvq_kernels::{LANES, kernels};
use distillvq_linalg::testing::never_interrupt;
use distillvq_model::{Encoded, Placement, refine_bytes};
use distillvq_pages::memory_store::MemoryStore;
use distillvq_pages::read_any_header;
use distillvq_training::{NoMonitor, RetrainOptions, TrainOptions, retrain, train};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Mutex, OnceLock, PoisonError};

/// Dimensions of all vectors.
pub const DIM: usize = 24;
/// Lists of all models.
pub const LISTS: usize = 12;

/// Clumped vectors, row-major.
pub fn vectors(n: usize, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut center_rng = ChaCha8Rng::seed_from_u64(99);
    let centers: Vec<f32> = (0..20 * DIM)
        .map(|_| center_rng.random_range(-1.0..1.0))
        .collect();
    let mut out = Vec::with_capacity(n * DIM);
    for _ in 0..n {
        let clump = rng.random_range(0..20);
        let center = &centers[clump * DIM..(clump + 1) * DIM];
        out.extend(center.iter().map(|c| c + rng.random_range(-0.5..0.5f32)));
    }
    out
}

/// A row of an index without lists.
pub fn exact_row(tid: Tid) -> Row<'static> {
    Row {
        list: 0,
        tid,
        scale: 0,
        norm: 0.0,
        codes: &[],
        refine: &[],
        filters: &[],
    }
}

/// A distilled model, and one with the same encoder that was distilled once more; `queries` makes those of a seed.
pub fn distilled_models(options: TrainOptions, queries: impl Fn(u64) -> Vec<f32>) -> [Model; 2] {
    let options = TrainOptions {
        subquantizers: 7,
        rows_in_table: 100_000,
        ..options
    };
    let log = |seed| Some(queries(seed).into());
    let model = train(vectors(1200, 1), DIM, log(3), &options, &NoMonitor);
    let model = model.unwrap().model;
    let options = RetrainOptions {
        seed: 7,
        rows_in_table: 100_000,
        ..RetrainOptions::default()
    };
    let retrained = retrain(&model, vectors(1000, 4), log(5), &options, &NoMonitor);
    let retrained = retrained.unwrap().model;
    [model, retrained]
}

/// A small model of rows in one list, trained once a process.
pub fn model(metric: Metric, bits: u8) -> Model {
    model_of(metric, bits, 1)
}

/// A small model of rows in two lists, trained once a process.
pub fn two_list_model(metric: Metric, bits: u8) -> Model {
    model_of(metric, bits, 2)
}

fn model_of(metric: Metric, bits: u8, assignments: u8) -> Model {
    type Models = HashMap<(Metric, u8, u8), Model>;
    static MODELS: OnceLock<Mutex<Models>> = OnceLock::new();
    let models = MODELS.get_or_init(Mutex::default);
    let mut models = models.lock().unwrap_or_else(PoisonError::into_inner);
    let train = || {
        let options = TrainOptions {
            metric,
            lists: LISTS,
            subquantizers: 7,
            bits,
            assignments,
            distill: false,
            ..TrainOptions::default()
        };
        train(vectors(1200, 1), DIM, None, &options, &NoMonitor)
            .unwrap()
            .model
    };
    let key = (metric, bits, assignments);
    models.entry(key).or_insert_with(train).clone()
}

/// Models with the encoder of [`model`] and students of several sizes, trained once a process. The first is [`model`].
pub fn students(metric: Metric, bits: u8) -> Vec<Model> {
    type Students = HashMap<(Metric, u8), Vec<Model>>;
    static STUDENTS: OnceLock<Mutex<Students>> = OnceLock::new();
    let students = STUDENTS.get_or_init(Mutex::default);
    let mut students = students.lock().unwrap_or_else(PoisonError::into_inner);
    let train = || {
        let mut queries = vectors(600, 3);
        queries.iter_mut().step_by(3).for_each(|x| *x *= 1.5);
        let mut all = vec![model(metric, bits)];
        // With some seeds nothing is gained, and the model stays.
        for seed in 1..9 {
            let options = RetrainOptions {
                // As for a large table, or the codebooks would stay those of the encoder.
                rows_in_table: 100_000,
                seed,
                ..RetrainOptions::default()
            };
            let trained = retrain(
                &all[0],
                vectors(1200, 1),
                Some((&queries).into()),
                &options,
                &NoMonitor,
            );
            all.push(trained.unwrap().model);
        }
        let bytes = |model: &Model| model.student_bytes().unwrap();
        let different: HashSet<Vec<u8>> = all.iter().map(bytes).collect();
        assert!(different.len() >= 4, "{}", different.len());
        let mut seen = HashSet::new();
        all.retain(|model| seen.insert(bytes(model)));
        all.truncate(4);
        all
    };
    students.entry((metric, bits)).or_insert_with(train).clone()
}

/// An entry of a row that owns its codes.
#[derive(Clone, Debug)]
pub struct Owned {
    pub list: u32,
    pub tid: Tid,
    pub scale: u8,
    pub norm: f32,
    pub codes: Vec<u8>,
    /// Empty unless asked for.
    pub refine: Vec<u8>,
}

impl Owned {
    pub fn row(&self) -> Row<'_> {
        Row {
            list: self.list,
            tid: self.tid,
            scale: self.scale,
            norm: self.norm,
            codes: &self.codes,
            refine: &self.refine,
            filters: &[],
        }
    }
}

/// The address of the `i`-th row.
pub fn tid(i: usize) -> Tid {
    Tid {
        block: (i / 40) as u32,
        offset: (i % 40 + 1) as u16,
    }
}

/// The number of the row at an address of [`tid`].
pub fn row_number(tid: Tid) -> usize {
    tid.block as usize * 40 + usize::from(tid.offset) - 1
}

/// The argument of [`distillvq_ivf::rerank::RerankStream::next`], by the distance of each row.
pub fn distances_by(
    distance: impl Fn(Tid) -> f64,
) -> impl FnMut(&[Candidate], &mut Vec<Option<f64>>) -> Result<(), Error> {
    move |batch, out| {
        out.extend(batch.iter().map(|c| Some(distance(c.tid))));
        Ok(())
    }
}

/// Encodes vectors as the entries of rows `from..`.
pub fn encode(model: &Model, vectors: &[f32], from: usize) -> Vec<Owned> {
    let mut rows = encode_refined(model, vectors, from);
    rows.iter_mut().for_each(|row| row.refine.clear());
    rows
}

/// The same with refine codes.
pub fn encode_refined(model: &Model, vectors: &[f32], from: usize) -> Vec<Owned> {
    let Ok(encoded) = model.try_encode(vectors, true, never_interrupt);
    let bytes = refine_bytes(model.dim());
    let m = model.subquantizers();
    let entry = |i: usize, rows: &[Encoded], codes: &[u8], tid: Tid| {
        let row = rows.get(i)?;
        let list = match row.placement {
            Placement::List(list) => list,
            Placement::Exact => model.lists() as u32,
            Placement::Unindexed => return None,
        };
        Some(Owned {
            list,
            tid,
            scale: row.correction_code,
            norm: row.norm,
            codes: codes[i * m..(i + 1) * m].to_vec(),
            refine: encoded.refine[i * bytes..(i + 1) * bytes].to_vec(),
        })
    };
    let entries = (0..encoded.rows.len()).flat_map(|i| {
        let tid = tid(from + i);
        let first = entry(i, &encoded.rows, &encoded.codes, tid);
        let (rows, codes) = (&encoded.second_rows, &encoded.second_codes);
        [first, entry(i, rows, codes, tid.second())]
    });
    entries.flatten().collect()
}

/// Builds an index in runs, with refine codes if the rows have any.
pub fn build(store: &MemoryStore, model: &Model, runs: &[&[Owned]]) -> Meta {
    let create = CreateOptions {
        metric: model.metric(),
        dim: model.dim(),
        model: Some(model),
        refine: runs
            .iter()
            .any(|run| run.iter().any(|row| !row.refine.is_empty())),
        filters: FilterFormat::default(),
        model_version: 5,
    };
    let mut builder = Builder::create(store, create).unwrap();
    for run in runs {
        let mut run = run.to_vec();
        run.sort_by_key(|row| row.list);
        builder.append(run.iter().map(Owned::row)).unwrap();
    }
    builder.finish().unwrap()
}

/// Entries of an index: their addresses, lists and columns.
pub type Entries = BTreeMap<Tid, (u32, Vec<Vec<u8>>)>;

/// All entries of an index.
pub fn entries(store: &MemoryStore, meta: &Meta) -> Entries {
    let mut entries = BTreeMap::new();
    for block in 1..store.block_count().unwrap() {
        let found = store.read(block, |page| {
            let Some((list, head, layout)) = read_any_header(page, block, &meta.pages).unwrap()
            else {
                return Vec::new();
            };
            let columns = |i: usize| {
                let columns = 0..layout.format().columns().len();
                columns
                    .map(|column| layout.values(page, column, i))
                    .collect()
            };
            let rows = 0..usize::from(head.count);
            let used = rows.filter(|i| layout.tid(page, *i) != Tid::default());
            used.map(|i| (layout.tid(page, i), (list, columns(i))))
                .collect()
        });
        for (tid, entry) in found.unwrap() {
            assert!(entries.insert(tid, entry).is_none(), "{tid:?} twice");
        }
    }
    entries
}

/// The order of candidates.
pub fn order(a: &Candidate, b: &Candidate) -> Ordering {
    b.score.total_cmp(&a.score).then(a.tid.cmp(&b.tid))
}

/// Scores of rows in lists, each computed alone in a block packed by hand. In order.
pub fn scores(model: &Model, rows: &[Owned], query: &[f32]) -> Vec<Candidate> {
    let tables = model.query(query);
    let shape = model.shape();
    let coded = rows
        .iter()
        .filter(|row| (row.list as usize) < model.lists());
    let mut out: Vec<Candidate> = coded
        .map(|row| {
            let lane = row.tid.offset as usize % LANES;
            let block = pack(shape, &row.codes, lane);
            let mut sums = [0; LANES];
            let scan = if shape.bits == 8 {
                kernels().scan8
            } else {
                kernels().scan4
            };
            scan(&block, &tables.lut, &mut sums);
            let norms: Vec<u8> = [row.norm; LANES]
                .iter()
                .flat_map(|n| n.to_le_bytes())
                .collect();
            let norms: &[u8; 4 * LANES] = norms.as_slice().try_into().unwrap();
            let norms = shape.has_norm.then_some(norms);
            let mut scores = [0.0; LANES];
            let score_params = tables.score_params(row.list);
            (kernels().score_block)(
                &sums,
                &[row.scale; LANES],
                norms,
                &score_params,
                f32::NEG_INFINITY,
                &mut scores,
            );
            Candidate {
                score: scores[lane],
                tid: row.tid,
                refine: SideLocation::default(),
            }
        })
        .collect();
    out.sort_by(order);
    out
}

/// A block with one row's codes in a lane.
fn pack(shape: CodeShape, codes: &[u8], lane: usize) -> Vec<u8> {
    let mut block = vec![0; shape.block_bytes()];
    for (s, &code) in codes.iter().enumerate() {
        match (shape.bits, lane < 16) {
            (8, _) => block[s * 32 + lane] = code,
            (_, true) => block[s * 16 + lane] = code,
            (_, false) => block[s * 16 + lane - 16] = code << 4,
        }
    }
    block
}

/// The rows of the exact list.
pub fn exact_rows<S: PageStore>(search: &mut ListSearch<S>) -> Vec<Tid> {
    let mut tids = Vec::new();
    loop {
        let before = tids.len();
        search.next_exact(&mut tids).unwrap();
        if tids.len() == before {
            return tids;
        }
    }
}

/// Pulls everything from all lists, `n` at a time. Where refine codes are is left out.
pub fn pull_all(
    store: &MemoryStore,
    meta: &Meta,
    model: &Model,
    query: &[f32],
    n: usize,
) -> Vec<Candidate> {
    let mut search = ListSearch::new(store, meta, Some(model.searcher()), query).unwrap();
    search.probe(usize::MAX).unwrap();
    assert_eq!(search.probed(), model.lists());
    let mut out = Vec::new();
    loop {
        let before = out.len();
        search.pull(n, &mut out).unwrap();
        if out.len() < before + n {
            assert_eq!(search.bound(), None);
            out.iter_mut()
                .for_each(|c| c.refine = SideLocation::default());
            return out;
        }
    }
}

/// The distance that the operator of a metric gives.
pub fn distance(metric: Metric, q: &[f32], x: &[f32]) -> f64 {
    let pairs = || q.iter().zip(x).map(|(q, x)| (f64::from(*q), f64::from(*x)));
    let dot: f64 = pairs().map(|(q, x)| q * x).sum();
    let norm = |v: &[f32]| v.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    match metric {
        Metric::L2 => pairs().map(|(q, x)| (q - x).powi(2)).sum::<f64>().sqrt(),
        Metric::InnerProduct => -dot,
        Metric::Cosine => 1.0 - dot / (norm(q) * norm(x)),
    }
}
