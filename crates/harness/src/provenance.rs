//! Where, when, and from which commit a measurement was made. Every result names it, because times of different machines cannot
//! be compared.

use std::fmt;
use std::fs;
use std::process::Command;
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

/// What the measured programs are compiled from.
const SOURCES: [&str; 5] = ["src", "crates", "sql", "Cargo.toml", "Cargo.lock"];
const SECONDS_PER_DAY: u64 = 86_400;

/// The machine, the commit of the sources, and the date of a measurement.
#[derive(Debug)]
pub struct Provenance {
    /// Model of the processor, number of processors, and memory.
    pub machine: String,
    /// Abbreviated commit, with `+ changes` if sources differ; `unknown` outside of a Git checkout.
    pub commit: String,
    /// `YYYY-MM-DD` in UTC.
    pub date: String,
}

impl Provenance {
    /// Of a measurement that is made now, on this machine, by this checkout.
    #[must_use]
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            machine: machine(),
            commit: commit().unwrap_or_else(|| "unknown".to_owned()),
            date: date(since.map_or(0, |since| since.as_secs() / SECONDS_PER_DAY)),
        }
    }

    /// The members `machine`, `commit` and `date`.
    #[must_use]
    pub fn json(&self) -> Value {
        json!({ "machine": self.machine, "commit": self.commit, "date": self.date })
    }
}

impl fmt::Display for Provenance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            machine,
            commit,
            date,
        } = self;
        write!(f, "Measured on {date} at commit {commit} on {machine}.")
    }
}

fn machine() -> String {
    let processors = thread::available_parallelism().map_or(0, usize::from);
    let model = value("/proc/cpuinfo", "model name");
    let model = model.unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    let memory = value("/proc/meminfo", "MemTotal");
    let kilobytes = memory.and_then(|text| text.split_whitespace().next()?.parse::<f64>().ok());
    let memory = kilobytes.map_or(String::new(), |kb| {
        format!(", {:.0} GB of memory", kb * 1024.0 / 1e9)
    });
    format!("{model}, {processors} processors{memory}")
}

/// The value of the first line `name: value` of a file of `/proc`.
fn value(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    let (_, value) = line.split_once(':')?;
    Some(value.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn commit() -> Option<String> {
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let changes = git(&[&["status", "--porcelain", "--"], &SOURCES[..]].concat())?;
    let mark = if changes.is_empty() { "" } else { " + changes" };
    Some(format!("{commit}{mark}"))
}

fn git(arguments: &[&str]) -> Option<String> {
    let mut git = Command::new("git");
    git.arg("-C").arg(crate::checkout()).args(arguments);
    let output = git.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}

/// The date of a day, counted from 1970-01-01.
fn date(mut day: u64) -> String {
    let leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let mut year = 1970;
    while day >= 365 + u64::from(leap(year)) {
        day -= 365 + u64::from(leap(year));
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let mut month = 1;
    for days in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if day < days {
            break;
        }
        day -= days;
        month += 1;
    }
    format!("{year}-{month:02}-{:02}", day + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_follow_the_calendar() {
        let cases = [
            (0, "1970-01-01"),
            (59, "1970-03-01"),
            (11_016, "2000-02-29"),
            (19_722, "2023-12-31"),
            (19_782, "2024-02-29"),
            (20_089, "2025-01-01"),
        ];
        for (day, expected) in cases {
            assert_eq!(date(day), expected);
        }
    }

    #[test]
    fn a_result_names_its_machine() {
        let now = Provenance::now();
        assert!(now.machine.contains("processors") && !now.commit.is_empty());
        assert_eq!(now.json()["date"], now.date);
    }
}
