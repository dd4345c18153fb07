//! Progress of a training, and its interruption.

use crate::error::TrainError;

/// The phases of training, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// k-means over the lists.
    Clustering,
    /// Codebooks of the residuals.
    Codebooks,
    /// Exact neighbors of the training queries.
    Teaching,
    /// Learning to rank like the teacher.
    Distilling,
}

impl Phase {
    /// Name for progress reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Clustering => "clustering",
            Phase::Codebooks => "codebooks",
            Phase::Teaching => "teaching",
            Phase::Distilling => "distilling",
        }
    }
}

/// Watches a computation. Both methods are called every few milliseconds, from any thread of the pool: they must be
/// quick and must not block.
pub trait Monitor: Sync {
    /// Whether to stop with [`crate::TrainError::Interrupted`] at the next chance.
    fn interrupted(&self) -> bool;
    /// `done` of `total` steps of `phase` are finished.
    fn phase(&self, phase: Phase, done: usize, total: usize);
}

/// A monitor that never interrupts and reports nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoMonitor;

impl Monitor for NoMonitor {
    fn interrupted(&self) -> bool {
        false
    }
    fn phase(&self, _phase: Phase, _done: usize, _total: usize) {}
}

/// The same items; interrupts are checked every 1024 of them.
pub fn with_interrupts<'a, T>(
    items: impl Iterator<Item = T> + 'a,
    monitor: &'a dyn Monitor,
) -> impl Iterator<Item = Result<T, TrainError>> + 'a {
    let ask = |i: usize| match i % 1024 {
        0 => check_interrupts(monitor),
        _ => Ok(()),
    };
    items
        .enumerate()
        .map(move |(i, item)| ask(i).map(|()| item))
}

/// Returns [`TrainError::Interrupted`] if the monitor interrupts.
pub fn check_interrupts(monitor: &dyn Monitor) -> Result<(), TrainError> {
    if monitor.interrupted() {
        Err(TrainError::Interrupted)
    } else {
        Ok(())
    }
}
