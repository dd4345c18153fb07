//! Quality and cost of training on real embeddings.
//!
//! `cargo run --release -p distillvq-quantizer --example quality -- <folder> [--test] [--rows N] [--threads N] [--bits B]
//! [--subquantizers M] [--lists K] [--metric M] [--seed S]`
//!
//! The folder holds `documents.npy` and `queries.npy` (float16, C order). Queries 0..2000 are the test queries,
//! 2000..32000 the query log, 32000.. the validation queries; measured are the validation queries unless `--test` is
//! given. Trains on a sample of N documents (default 100000) without and with the query log, then ranks *all* documents.

use distillvq_kernels::{LANES, kernels};
use distillvq_quantizer::{Metric, Model, Monitor, Phase, Placement, TrainOptions, train};
use rand::SeedableRng;
use std::error::Error;
use std::path::Path;
use std::sync::{Mutex, OnceLock};
use std::time::Instant;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// A float16 matrix in numpy's format.
fn read_npy(path: &Path) -> Outcome<(Vec<f32>, usize)> {
    let bytes = std::fs::read(path)?;
    let header_len = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let header = std::str::from_utf8(&bytes[10..10 + header_len])?;
    if !header.contains("'<f2'") || header.contains("'fortran_order': True") {
        return Err(format!("{}: not float16 in C order: {header}", path.display()).into());
    }
    let shape = header
        .split_once("'shape': (")
        .and_then(|(_, rest)| rest.split_once(')'))
        .ok_or("no shape")?
        .0;
    let cols = shape.split(',').nth(1).ok_or("no matrix")?.trim().parse()?;
    let values = bytes[10 + header_len..].as_chunks::<2>().0.iter();
    Ok((
        values
            .map(|b| half::f16::from_le_bytes(*b).to_f32())
            .collect(),
        cols,
    ))
}

/// Seconds of the clock, and of the processors (Linux; 0 elsewhere), since some moment.
fn now() -> [f64; 2] {
    static START: OnceLock<Instant> = OnceLock::new();
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(11)
        .take(2);
    let ticks: f64 = fields.filter_map(|x| x.parse::<f64>().ok()).sum();
    [
        START.get_or_init(Instant::now).elapsed().as_secs_f64(),
        ticks / 100.0,
    ]
}

/// Seconds a phase.
#[derive(Default)]
struct Laps {
    phase: Option<Phase>,
    since: [f64; 2],
    done: Vec<(&'static str, [f64; 2])>,
}

struct Stopwatch(Mutex<Laps>);

impl Stopwatch {
    fn new() -> Self {
        Stopwatch(Mutex::new(Laps {
            since: now(),
            ..Laps::default()
        }))
    }

    fn lap(&self, phase: Option<Phase>) {
        let Ok(mut laps) = self.0.lock() else { return };
        if laps.phase != phase {
            let (name, now) = (laps.phase.map_or("start", Phase::as_str), now());
            let since = std::mem::replace(&mut laps.since, now);
            laps.done
                .push((name, [now[0] - since[0], now[1] - since[1]]));
            laps.phase = phase;
        }
    }

    fn print(&self) {
        self.lap(None);
        let Ok(laps) = self.0.lock() else { return };
        for (i, what) in ["seconds", "of CPU"].into_iter().enumerate() {
            let total: f64 = laps.done.iter().map(|(_, s)| s[i]).sum();
            let parts: Vec<String> = laps
                .done
                .iter()
                .map(|(name, s)| format!("{name} {:.1}", s[i]))
                .collect();
            println!("  {what}: {} = {total:.1}", parts.join(" + "));
        }
    }
}

impl Monitor for Stopwatch {
    fn interrupted(&self) -> bool {
        false
    }
    fn phase(&self, phase: Phase, _done: usize, _total: usize) {
        self.lap(Some(phase));
    }
}

/// The options of the command line.
struct Arguments {
    folder: String,
    test: bool,
    rows: usize,
    threads: usize,
    options: TrainOptions,
}

fn arguments() -> Outcome<Arguments> {
    let mut args = Arguments {
        folder: String::new(),
        test: false,
        rows: 100_000,
        threads: std::thread::available_parallelism()?.get(),
        options: TrainOptions::default(),
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} needs a value"));
        match word.as_str() {
            "--test" => args.test = true,
            "--rows" => args.rows = value()?.parse()?,
            "--threads" => args.threads = value()?.parse()?,
            "--bits" => args.options.bits = value()?.parse()?,
            "--subquantizers" => args.options.subquantizers = value()?.parse()?,
            "--lists" => args.options.lists = value()?.parse()?,
            "--seed" => args.options.seed = value()?.parse()?,
            "--metric" => args.options.metric = value()?.parse::<Metric>()?,
            _ => args.folder = word,
        }
    }
    Ok(args)
}

/// Documents, queries and their exact ten nearest documents.
struct Task<'a> {
    documents: &'a [f32],
    queries: &'a [f32],
    dim: usize,
    metric: Metric,
    truth: Vec<Vec<usize>>,
}

impl<'a> Task<'a> {
    fn new(documents: &'a [f32], queries: &'a [f32], dim: usize, metric: Metric) -> Self {
        let norms: Vec<f32> = documents
            .chunks_exact(dim)
            .map(|x| (kernels().dot)(x, x))
            .collect();
        let truth = parallel(queries.chunks_exact(dim), |query| {
            let mut scores = vec![0f32; norms.len()];
            (kernels().dots)(query, documents, &mut scores);
            for (score, norm) in scores.iter_mut().zip(&norms) {
                match metric {
                    Metric::L2 => *score = 2.0 * *score - norm,
                    Metric::Cosine => *score /= norm.sqrt(),
                    Metric::InnerProduct => {}
                }
            }
            best(&scores, 10)
        });
        Task {
            documents,
            queries,
            dim,
            metric,
            truth,
        }
    }

    /// Recall 10@10, 10@50 and 10@100 of ranking all documents by their codes, through the kernels.
    fn ranking(&self, model: &Model, index: &Index) -> [f64; 3] {
        let hits = parallel(
            self.queries.chunks_exact(self.dim).zip(&self.truth),
            |(query, truth)| {
                let order = best(&index.scores(model, query), 100);
                [10, 50, 100].map(|r| order[..r].iter().filter(|i| truth.contains(i)).count())
            },
        );
        [0, 1, 2]
            .map(|i| hits.iter().map(|h| h[i]).sum::<usize>() as f64 / (10 * hits.len()) as f64)
    }

    /// Share of the true ten in the first 5, 10 and 15 % of the lists, and the share of rows in those lists.
    fn probing(&self, model: &Model, index: &Index) -> [(f64, f64); 3] {
        let shares = parallel(
            self.queries.chunks_exact(self.dim).zip(&self.truth),
            |(query, truth)| {
                let ranking = model.query(query).ranking();
                [0.05, 0.1, 0.15].map(|share| {
                    let probes = (model.lists() as f64 * share).round().max(1.0) as usize;
                    let lists: Vec<usize> =
                        ranking[..probes].iter().map(|(_, l)| *l as usize).collect();
                    let found = truth
                        .iter()
                        .filter(|i| lists.contains(&index.list_of[**i]))
                        .count();
                    let read: usize = lists.iter().map(|l| index.lists[*l].rows.len()).sum();
                    (
                        found as f64 / 10.0,
                        read as f64 / index.list_of.len() as f64,
                    )
                })
            },
        );
        [0, 1, 2].map(|i| {
            let mean = |of: fn(&(f64, f64)) -> f64| {
                shares.iter().map(|s| of(&s[i])).sum::<f64>() / shares.len() as f64
            };
            (mean(|s| s.0), mean(|s| s.1))
        })
    }

    fn report(&self, name: &str, model: &Model) {
        let started = Instant::now();
        let index = Index::new(model, self.documents);
        let encoding = started.elapsed().as_secs_f64();
        let [a, b, c] = self.ranking(model, &index);
        println!(
            "  {name:<26} 10@10 {a:.4}  10@50 {b:.4}  10@100 {c:.4}   (encoding {encoding:.1} s, {} outside the lists)",
            index.outside
        );
        let probes: Vec<String> = self
            .probing(model, &index)
            .iter()
            .zip([5, 10, 15])
            .map(|((found, read), share)| {
                format!("{share} %: {found:.4} (rows {:.1} %)", 100.0 * read)
            })
            .collect();
        println!(
            "  {:<26} true ten in the lists probed: {}",
            "",
            probes.join("  ")
        );
        let _ = self.metric;
    }
}

/// One list's rows in blocks.
#[derive(Default)]
struct List {
    rows: Vec<usize>,
    scales: Vec<u8>,
    norms: Vec<u8>,
    codes: Vec<u8>,
}

/// All documents in codes.
struct Index {
    lists: Vec<List>,
    list_of: Vec<usize>,
    outside: usize,
}

impl Index {
    fn new(model: &Model, documents: &[f32]) -> Index {
        let encoded = model.encode(documents);
        let (shape, m) = (model.shape(), model.subquantizers());
        let mut index = Index {
            lists: Vec::new(),
            list_of: vec![usize::MAX; encoded.rows.len()],
            outside: 0,
        };
        index.lists.resize_with(model.lists(), List::default);
        for (i, (row, codes)) in encoded
            .rows
            .iter()
            .zip(encoded.codes.chunks_exact(m))
            .enumerate()
        {
            let Placement::List(list) = row.placement else {
                index.outside += 1;
                continue;
            };
            index.list_of[i] = list as usize;
            let list = &mut index.lists[list as usize];
            let (lane, block) = (list.rows.len() % LANES, list.rows.len() / LANES);
            if lane == 0 {
                list.codes.resize((block + 1) * shape.block_bytes(), 0);
                list.scales.resize((block + 1) * LANES, 0);
                list.norms.resize((block + 1) * LANES * 4, 0);
            }
            list.rows.push(i);
            list.scales[block * LANES + lane] = row.scale;
            list.norms[(block * LANES + lane) * 4..][..4].copy_from_slice(&row.norm.to_le_bytes());
            let bytes = &mut list.codes[block * shape.block_bytes()..];
            for (s, code) in codes.iter().enumerate() {
                match shape.bits {
                    4 => bytes[16 * s + lane % 16] |= code << (lane / 16 * 4),
                    _ => bytes[32 * s + lane] = *code,
                }
            }
        }
        index
    }

    /// Scores of all documents.
    fn scores(&self, model: &Model, query: &[f32]) -> Vec<f32> {
        let (tables, shape) = (model.query(query), model.shape());
        let mut scores = vec![f32::NEG_INFINITY; self.list_of.len()];
        let (mut sums, mut out) = ([0u16; LANES], [0f32; LANES]);
        let scan = if shape.bits == 4 {
            kernels().scan4
        } else {
            kernels().scan8
        };
        for (l, list) in self.lists.iter().enumerate() {
            let affine = tables.affine(l as u32);
            let scales = list.scales.as_chunks::<LANES>().0.iter();
            let norms = list.norms.as_chunks::<{ 4 * LANES }>().0.iter();
            let blocks = list.codes.chunks_exact(shape.block_bytes());
            for (((codes, rows), scales), norms) in
                blocks.zip(list.rows.chunks(LANES)).zip(scales).zip(norms)
            {
                scan(codes, &tables.lut, &mut sums);
                (kernels().finish)(
                    &sums,
                    scales,
                    shape.has_norm.then_some(norms),
                    &affine,
                    &mut out,
                );
                rows.iter()
                    .zip(out)
                    .for_each(|(row, score)| scores[*row] = score);
            }
        }
        scores
    }
}

/// Positions of the `k` best scores, best first.
fn best(scores: &[f32], k: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    let by = |a: &usize, b: &usize| scores[*b].total_cmp(&scores[*a]);
    order.select_nth_unstable_by(k, by);
    let mut order = order[..k].to_vec();
    order.sort_by(by);
    order
}

fn parallel<I: Send, T: Send>(
    items: impl Iterator<Item = I>,
    work: impl Fn(I) -> T + Sync + Send,
) -> Vec<T> {
    use rayon::prelude::*;
    items
        .collect::<Vec<_>>()
        .into_par_iter()
        .map(work)
        .collect()
}

fn run(args: &Arguments) -> Outcome<()> {
    let folder = Path::new(&args.folder);
    let (documents, dim) = read_npy(&folder.join("documents.npy"))?;
    let (queries, _) = read_npy(&folder.join("queries.npy"))?;
    let measured = if args.test { 0..2000 } else { 32_000..35_000 };
    let rows = documents.len() / dim;
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(args.options.seed);
    let mut chosen = rand::seq::index::sample(&mut rng, rows, args.rows.min(rows)).into_vec();
    chosen.sort_unstable();
    let sample: Vec<f32> = chosen
        .iter()
        .flat_map(|i| &documents[i * dim..(i + 1) * dim])
        .copied()
        .collect();
    let log = &queries[2000 * dim..32_000 * dim];
    let task = Task::new(
        &documents,
        &queries[measured.start * dim..measured.end * dim],
        dim,
        args.options.metric,
    );
    let options = TrainOptions {
        rows_in_table: rows,
        ..args.options
    };
    println!(
        "{} of {rows} rows, {} queries measured",
        chosen.len(),
        task.truth.len()
    );
    for (name, distill, log) in [
        ("reconstruction", false, None),
        ("distilled, rows only", true, None),
        ("distilled, query log", true, Some(log)),
    ] {
        if std::env::var("ONLY").is_ok_and(|only| !name.contains(&only)) {
            continue;
        }
        let watch = Stopwatch::new();
        let trained = train(
            &sample,
            dim,
            log,
            &TrainOptions { distill, ..options },
            &watch,
        )?;
        println!("{name}: {:?}", trained.report);
        watch.print();
        println!(
            "  lists {}, sub-quantizers {}, bits {}, model {:.1} MB",
            trained.model.lists(),
            trained.model.subquantizers(),
            trained.model.bits(),
            trained.model.to_bytes()?.len() as f64 / 1e6
        );
        task.report(name, &trained.model);
    }
    Ok(())
}

fn main() -> Outcome<()> {
    let args = arguments()?;
    if args.folder.is_empty() {
        return Err("which folder holds documents.npy and queries.npy?".into());
    }
    rayon::ThreadPoolBuilder::new()
        .num_threads(args.threads)
        .build()?
        .install(|| run(&args))
}
