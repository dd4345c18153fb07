//! Crashes, cancels, replication, mixed load, and long sessions: repeats at random moments, hundreds of times, what `tests/` tests in
//! seconds.
//!
//! `soak --help` lists the arguments. The first violated guarantee ends the run with an error.

mod cancel;
mod client_tasks;
mod crash;
mod mixed;
mod replica;
mod report;
mod session;
mod table_state;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Parser;
use distillvq_harness::Result;
use serde_json::{Map, Value, json};

/// What a full run of so many minutes does: the counts promised in `docs/reliability.md` are for this.
const FULL_MINUTES: f64 = 30.0;

/// A part of the run, and its share of the time.
struct Part {
    name: &'static str,
    share: f64,
    run: fn(&Plan) -> Result<Value>,
}

const PARTS: [Part; 5] = [
    Part {
        name: "crash",
        share: 0.30,
        run: crash::run,
    },
    Part {
        name: "cancel",
        share: 0.20,
        run: cancel::run,
    },
    Part {
        name: "replica",
        share: 0.07,
        run: replica::run,
    },
    Part {
        name: "mixed",
        share: 0.34,
        run: mixed::run,
    },
    Part {
        name: "session",
        share: 0.09,
        run: session::run,
    },
];

/// What a part is to do.
pub struct Plan {
    /// How long it may take.
    pub time: Duration,
    /// This run's part of a full one.
    pub scale: f64,
    /// Seed of everything random.
    pub seed: u64,
}

/// Runs crashes, cancels, replication, mixed load, and long sessions
#[derive(Parser)]
struct Run {
    /// Duration of the whole run
    #[arg(long, default_value_t = FULL_MINUTES, value_parser = minutes)]
    minutes: f64,
    /// Seed of everything random
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The only parts to run, separated by commas
    #[arg(long, value_delimiter = ',', value_parser = PARTS.map(|part| part.name))]
    only: Vec<String>,
    /// JSON file of the figures
    #[arg(long)]
    output: Option<PathBuf>,
    /// Markdown file with a table that gets a line of figures
    #[arg(long)]
    table: Option<PathBuf>,
}

fn minutes(text: &str) -> std::result::Result<f64, &'static str> {
    let number = text.parse().ok();
    let positive = number.filter(|minutes: &f64| *minutes > 0.0 && minutes.is_finite());
    positive.ok_or("not a positive number")
}

impl Run {
    fn wants(&self, part: &Part) -> bool {
        self.only.is_empty() || self.only.iter().any(|name| name == part.name)
    }
}

fn main() -> Result<()> {
    soak(&Run::parse())
}

fn soak(run: &Run) -> Result<()> {
    let start = Instant::now();
    let mut figures = Map::new();
    for part in PARTS.iter().filter(|part| run.wants(part)) {
        let plan = Plan {
            time: Duration::from_secs_f64(run.minutes * 60.0 * part.share),
            scale: run.minutes / FULL_MINUTES,
            seed: run.seed,
        };
        eprintln!("==> {}: {:.0} seconds", part.name, plan.time.as_secs_f64());
        let result = (part.run)(&plan)?;
        eprintln!("    {result}");
        figures.insert(part.name.into(), result);
    }
    let figures = json!({
        "minutes": (start.elapsed().as_secs_f64() / 6.0).round() / 10.0,
        "seed": run.seed,
        "parts": figures,
    });
    report::write(&figures, run.output.as_deref(), run.table.as_deref())
}
