//! Pulling candidates from pages in memory: 40 000 rows of 384 dimensions, 96 four-bit codes each, in 64 lists.
#![allow(clippy::unwrap_used, missing_docs)]

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use distillvq_ivf::filter::FilterFormat;
use distillvq_ivf::{Builder, CreateOptions, ListSearch, Metric, Model, Row, Tid};
use distillvq_model::Placement;
use distillvq_pages::memory_store::MemoryStore;
use distillvq_training::{NoMonitor, TrainOptions, train};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const DIM: usize = 384;
const ROWS: usize = 40_000;

fn vectors(n: usize, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..n * DIM).map(|_| rng.random_range(-1.0..1.0)).collect()
}

fn model(metric: Metric) -> Model {
    let options = TrainOptions {
        metric,
        lists: 64,
        subquantizers: 96,
        bits: 4,
        distill: false,
        ..TrainOptions::default()
    };
    let trained = train(vectors(2000, 1), DIM, None, &options, &NoMonitor);
    trained.unwrap().model
}

fn build(store: &MemoryStore, model: &Model) {
    let encoded = model.encode(&vectors(ROWS, 2));
    let rows = encoded
        .rows
        .iter()
        .zip(encoded.codes.chunks(96))
        .zip(0u32..);
    let mut rows: Vec<Row<'_>> = rows
        .map(|((row, codes), i)| Row {
            list: match row.placement {
                Placement::List(list) => list,
                _ => model.lists() as u32,
            },
            tid: Tid {
                block: i / 2,
                offset: (i % 2) as u16 + 1,
            },
            scale: row.correction_code,
            norm: row.norm,
            codes,
            refine: &[],
            filters: &[],
        })
        .collect();
    rows.sort_by_key(|row| row.list);
    let create = CreateOptions {
        metric: model.metric(),
        dim: DIM,
        model: Some(model),
        refine: false,
        filters: FilterFormat::default(),
        model_version: 0,
    };
    let mut builder = Builder::create(store, create).unwrap();
    builder.append(rows).unwrap();
    builder.finish().unwrap();
}

fn pulls(c: &mut Criterion) {
    for metric in [Metric::Cosine, Metric::L2] {
        let model = model(metric);
        let store = MemoryStore::new();
        build(&store, &model);
        let meta = distillvq_ivf::Meta::read(&store).unwrap();
        let query = vectors(1, 3);
        let mut group = c.benchmark_group(format!("pull/{metric}"));
        group.throughput(Throughput::Elements(ROWS as u64));
        for n in [100, 256, 4096] {
            group.bench_function(format!("{n} of all lists"), |b| {
                let search = || {
                    let mut search =
                        ListSearch::new(&store, &meta, Some(model.searcher()), &query).unwrap();
                    search.probe(64).unwrap();
                    search
                };
                b.iter_batched(
                    search,
                    |mut search| {
                        let mut out = Vec::new();
                        search.pull(n, &mut out).unwrap();
                        out
                    },
                    BatchSize::SmallInput,
                );
            });
        }
        group.finish();
    }
}

criterion_group!(benches, pulls);
criterion_main!(benches);
