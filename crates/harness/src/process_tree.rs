//! Signals, parents and children of processes, and what processes use.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, kill_process};

pub use rustix::process::Signal;

use crate::error::{Error, Result};

/// Sends a signal to processes. Ignores processes that have ended.
pub fn send(signal: Signal, processes: &[u32]) {
    for process in processes {
        let _ = Pid::from_raw(process.cast_signed()).map(|pid| kill_process(pid, signal));
    }
}

/// The living children of a process, by `/proc`.
pub(crate) fn children(parent: u32) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|&process| status(process).is_some_and(|(_, of)| of == parent))
        .collect()
}

/// Memory of a process that it shares with no other, in bytes; 0 if it is gone, or where there is no `/proc`.
#[must_use]
pub fn private_memory(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let mut lines = status.lines();
    let line = lines.find_map(|line| line.strip_prefix("RssAnon:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    kilobytes.unwrap_or(0u64) * 1024
}

/// Processor time of a process; 0 if it is gone, or where there is no `/proc`.
#[must_use]
pub fn cpu_time(process: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{process}/schedstat")).unwrap_or_default();
    let nanoseconds = stat
        .split_whitespace()
        .next()
        .and_then(|it| it.parse().ok());
    Duration::from_nanos(nanoseconds.unwrap_or(0))
}

/// The segments of dynamic shared memory that a process has mapped (PostgreSQL's, in POSIX shared memory).
pub(crate) fn shared_segments(process: u32) -> Vec<PathBuf> {
    let maps = fs::read_to_string(format!("/proc/{process}/maps")).unwrap_or_default();
    let names = maps
        .lines()
        .filter_map(|line| line.split_whitespace().nth(5));
    let segments = names.filter(|name| name.starts_with("/dev/shm/PostgreSQL."));
    segments.map(PathBuf::from).collect()
}

/// Waits until processes are gone, or dead and only waiting to be buried.
pub(crate) fn wait_for_end(processes: &[u32]) -> Result<()> {
    let start = Instant::now();
    while processes
        .iter()
        .any(|&process| status(process).is_some_and(|(state, _)| state != 'Z'))
    {
        if start.elapsed() > Duration::from_secs(10) {
            return Err(Error::Argument("killed processes do not end".into()));
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// State and parent of a process, from `/proc/PID/stat`: `PID (name) S PARENT …`, where the name may hold anything.
fn status(process: u32) -> Option<(char, u32)> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let state = fields.next()?.chars().next()?;
    Some((state, fields.next()?.parse().ok()?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_child_is_found_and_ended() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        assert!(children(std::process::id()).contains(&child.id()));
        send(Signal::KILL, &[child.id(), u32::MAX >> 1]);
        wait_for_end(&[child.id()]).unwrap();
        child.wait().unwrap();
        assert!(!children(std::process::id()).contains(&child.id()));
    }
}
