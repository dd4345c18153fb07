//! Quality and cost of training on real embeddings: one side of `make bench-quality`, and a tool for development.
//!
//! `cargo run --release -p distillvq-training --example quality -- --help` lists the arguments.
//!
//! `data.rs` says what the folder holds. Every variant (`variants.rs`) is trained on the same N documents (131,072 or all),
//! encodes *all* documents, and ranks them for every query of the split with the index's own kernels. Measured are the
//! validation queries unless `--split test` is given, as development must not use the test queries. A summary of each variant
//! goes to standard output, and its figures as a JSON line to the file of `--output`.

mod data;
mod index;
mod measure;
mod phase_timer;
mod variants;

use anyhow::Result;
use clap::Parser;
use data::{DataSet, Split};
use distillvq_kernels::kernels;
use distillvq_model::TrainReport;
use distillvq_training::{TrainOptions, train};
use index::Index;
use measure::Figures;
use phase_timer::Watch;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;
use variants::Variant;

/// Trains quantizers on a data set, and measures their quality and cost
#[derive(Parser)]
struct Arguments {
    /// Directory of the data set
    folder: PathBuf,
    /// Queries to measure with
    #[arg(long, value_enum, default_value_t = Split::Validation)]
    split: Split,
    /// Sizes of a code, separated by commas
    #[arg(long, value_delimiter = ',', default_values_t = [8, 16, 24, 32, 48])]
    bytes: Vec<usize>,
    /// Bits per subquantizer, separated by commas
    #[arg(long, value_delimiter = ',', default_values_t = [4, 8])]
    bits: Vec<u8>,
    /// Part of the names of the only variants to measure
    #[arg(long, default_value = "")]
    only: String,
    /// Measures training without one of its parts, instead of the usual variants
    #[arg(long)]
    ablation: bool,
    /// Documents to train with
    #[arg(long, default_value_t = 131_072)]
    rows: usize,
    /// Lists; as many as FAISS gets by default
    #[arg(long)]
    lists: Option<usize>,
    /// Seed of the training
    #[arg(long, default_value_t = TrainOptions::default().seed)]
    seed: u64,
    /// Threads; 0 uses all processors
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// File of JSON lines
    #[arg(long)]
    output: Option<PathBuf>,
}

/// The first line of the results.
#[derive(Serialize)]
struct RunLine {
    kind: &'static str,
    side: &'static str,
    version: &'static str,
    split: Split,
    kernels: &'static str,
    threads: usize,
    documents: usize,
    queries: usize,
    log: usize,
    train_rows: usize,
}

/// One variant's line.
#[derive(Serialize)]
struct VariantLine<'a> {
    kind: &'static str,
    side: &'static str,
    name: &'static str,
    bytes: usize,
    bits: u8,
    subquantizers: usize,
    norm: bool,
    lists: usize,
    model_bytes: usize,
    seconds: BTreeMap<&'static str, f64>,
    encoding_seconds: f64,
    query_microseconds: f64,
    outside: usize,
    report: &'a TrainReport,
    #[serde(flatten)]
    figures: Figures,
}

/// What all variants share.
struct Bench {
    set: DataSet,
    sample: Vec<f32>,
    truth: Vec<Vec<usize>>,
    output: Option<File>,
    /// Of the variants' lines.
    kind: &'static str,
}

impl Bench {
    fn write(&mut self, line: &impl Serialize) -> Result<()> {
        if let Some(file) = &mut self.output {
            writeln!(file, "{}", serde_json::to_string(line)?)?;
        }
        Ok(())
    }

    /// Trains and measures one variant.
    fn run(&mut self, variant: &Variant) -> Result<()> {
        let watch = Watch::new();
        let log = variant.log.then_some(self.set.log.as_slice().into());
        let trained = train(&self.sample, self.set.dim, log, &variant.options, &watch)?;
        let seconds = watch.stop();
        let model = &trained.model;
        let started = Instant::now();
        let index = Index::new(model, &self.set.documents);
        let encoding_seconds = (started.elapsed().as_secs_f64() * 10.0).round() / 10.0;
        let query_microseconds = measure::query_microseconds(&self.set, model);
        let figures = measure::measure(&self.set, &self.truth, model, &index);
        let total: f64 = seconds.values().sum();
        println!(
            "{:3} bytes, {} bits  {:22} {}; rows for .95 {:.4}, for .975 {:.4}; {total:.1} s",
            variant.bytes,
            model.bits(),
            variant.name,
            serde_json::to_string(&figures.recall)?,
            figures.routing.rows_for.p95,
            figures.routing.rows_for.p975,
        );
        self.write(&VariantLine {
            kind: self.kind,
            side: "ours",
            name: variant.name,
            bytes: variant.bytes,
            bits: model.bits(),
            subquantizers: model.subquantizers(),
            norm: true,
            lists: model.lists(),
            model_bytes: model.to_bytes()?.len(),
            seconds,
            encoding_seconds,
            query_microseconds,
            outside: index.outside,
            report: &trained.report,
            figures,
        })
    }
}

fn run(args: &Arguments) -> Result<()> {
    let set = DataSet::open(&args.folder, args.split)?;
    let output = args.output.as_ref();
    let output = output.map(|path| File::create(path).map_err(distillvq_harness::Error::io(path)));
    let rows = set.documents.len() / set.dim;
    // As many lists as FAISS gets: fewer than the default.
    let lists = (rows as f64).sqrt().round() as usize;
    let options = TrainOptions {
        rows_in_table: rows,
        lists: args.lists.unwrap_or(lists),
        seed: args.seed,
        ..TrainOptions::default()
    };
    let (kind, variants) = if args.ablation {
        ("ablation", variants::ablations(set.dim, options))
    } else {
        let sizes = variants::compared(&args.bytes, &args.bits, set.dim, options);
        ("variant", sizes)
    };
    let mut bench = Bench {
        sample: set.sample(args.rows),
        truth: measure::truth(&set),
        output: output.transpose()?,
        kind,
        set,
    };
    let dim = bench.set.dim;
    bench.write(&RunLine {
        kind: "run",
        side: "ours",
        version: env!("CARGO_PKG_VERSION"),
        split: args.split,
        kernels: kernels().name,
        threads: rayon::current_num_threads(),
        documents: rows,
        queries: bench.truth.len(),
        log: bench.set.log.len() / dim,
        train_rows: bench.sample.len() / dim,
    })?;
    for variant in variants.iter().filter(|v| v.name.contains(&args.only)) {
        bench.run(variant)?;
    }
    Ok(())
}

fn main() -> Result<()> {
    let args = Arguments::parse();
    let threads = rayon::ThreadPoolBuilder::new().num_threads(args.threads);
    threads.build()?.install(|| run(&args))
}
