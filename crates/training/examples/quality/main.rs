//! Quality and cost of training on real embeddings: one side of `make bench-quality`, and a tool for development.
//!
//! ```text
//! cargo run --release -p distillvq-training --example quality -- FOLDER [--validation | --test] [--bytes 8,16,24,32,48]
//!     [--bits 4,8] [--only NAME] [--ablation] [--rows N] [--lists K] [--seed S] [--threads N] [--output FILE]
//! ```
//!
//! `data.rs` says what the folder holds. Every variant (`variants.rs`) is trained on the same N documents (131,072 or all),
//! encodes *all* documents, and ranks them for every query of the split with the index's own kernels. Measured are the
//! validation queries unless `--test` is given: whoever develops must not look at the test queries. A line for people
//! goes to standard output; with `--output`, a JSON line a variant goes to the file.

mod data;
mod error;
mod index;
mod measure;
mod phase_timer;
mod variants;

use data::{DataSet, Split};
use distillvq_kernels::kernels;
use distillvq_model::TrainReport;
use distillvq_training::{TrainOptions, train};
use error::{Error, Result};
use index::Index;
use measure::Figures;
use phase_timer::Watch;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Instant;
use variants::Variant;

/// The command line.
struct Arguments {
    folder: PathBuf,
    split: Split,
    bytes: Vec<usize>,
    bits: Vec<u8>,
    only: String,
    ablation: bool,
    rows: usize,
    threads: usize,
    options: TrainOptions,
    output: Option<PathBuf>,
}

impl Arguments {
    fn read() -> Result<Self> {
        let mut args = Arguments {
            folder: PathBuf::new(),
            split: Split::Validation,
            bytes: vec![8, 16, 24, 32, 48],
            bits: vec![4, 8],
            only: String::new(),
            ablation: false,
            rows: 131_072,
            threads: 0,
            options: TrainOptions::default(),
            output: None,
        };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let mut value = || {
                let missing = || Error::Arguments(format!("{word} needs a value"));
                words.next().ok_or_else(missing)
            };
            match word.as_str() {
                "--test" => args.split = Split::Test,
                "--validation" => args.split = Split::Validation,
                "--bytes" => args.bytes = numbers(&value()?)?,
                "--bits" => args.bits = numbers(&value()?)?,
                "--ablation" => args.ablation = true,
                "--only" => args.only = value()?,
                "--rows" => args.rows = number(&value()?)?,
                "--lists" => args.options.lists = number(&value()?)?,
                "--seed" => args.options.seed = number(&value()?)?,
                "--threads" => args.threads = number(&value()?)?,
                "--output" => args.output = Some(value()?.into()),
                option if option.starts_with('-') => {
                    return Err(Error::Arguments(format!("unknown option {option}")));
                }
                _ => args.folder = word.into(),
            }
        }
        if args.folder.as_os_str().is_empty() {
            return Err(Error::Arguments("which folder holds the data set?".into()));
        }
        Ok(args)
    }
}

fn number<T: FromStr>(word: &str) -> Result<T> {
    let bad = |_| Error::Arguments(format!("{word} is not a number of the right size"));
    word.parse().map_err(bad)
}

fn numbers<T: FromStr>(words: &str) -> Result<Vec<T>> {
    words.split(',').map(number).collect()
}

/// The first line of the results.
#[derive(Serialize)]
struct RunLine {
    kind: &'static str,
    side: &'static str,
    version: &'static str,
    split: &'static str,
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
    let output = args
        .output
        .as_ref()
        .map(|path| File::create(path).map_err(distillvq_harness::Error::io(path)));
    let rows = set.documents.len() / set.dim;
    // As many lists as FAISS gets: fewer than the default.
    let lists = match args.options.lists {
        0 => (rows as f64).sqrt().round() as usize,
        given => given,
    };
    let options = TrainOptions {
        rows_in_table: rows,
        lists,
        ..args.options
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
        split: args.split.as_str(),
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

fn main() -> ExitCode {
    let outcome = Arguments::read().and_then(|args| {
        let threads = rayon::ThreadPoolBuilder::new().num_threads(args.threads);
        threads.build()?.install(|| run(&args))
    });
    if let Err(error) = outcome {
        eprintln!("error: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
