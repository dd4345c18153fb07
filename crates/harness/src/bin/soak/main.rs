//! Crashes, cancels, replication, mixed load, and long sessions: repeats at random moments, hundreds of times, what `tests/` tests in
//! seconds.
//!
//! `soak --minutes M [--seed N] [--only PART,PART…] [--output FILE] [--table FILE]`: parts are `crash`, `cancel`, `replica`,
//! `mixed`, `session`. The first violated guarantee ends the run with an error. The figures are written to FILE as JSON, and as a line
//! of the table in `docs/reliability.md`.

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

use distillvq_harness::{Arguments, Error, Result};
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

/// What the whole run is to do.
struct Run {
    minutes: f64,
    seed: u64,
    only: String,
    output: Option<PathBuf>,
    table: Option<PathBuf>,
}

impl Run {
    fn read() -> Result<Self> {
        let mut given = Arguments::of_this_program();
        let run = Self {
            minutes: given.number("--minutes", FULL_MINUTES)?,
            seed: given.number("--seed", 1)?,
            only: given.text("--only").unwrap_or_default(),
            output: given.path("--output"),
            table: given.path("--table"),
        };
        given.end()?;
        if run.minutes > 0.0 && run.minutes.is_finite() {
            Ok(run)
        } else {
            Err(Error::Argument("--minutes is not positive".into()))
        }
    }

    fn wants(&self, part: &Part) -> bool {
        self.only.is_empty() || self.only.split(',').any(|name| name == part.name)
    }
}

fn main() -> Result<()> {
    soak(&Run::read()?)
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
