//! How long the phases of training take.

use distillvq_training::{Monitor, Phase};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Instant;

/// Seconds a phase.
pub struct Watch(Mutex<Laps>);

struct Laps {
    phase: &'static str,
    since: Instant,
    seconds: BTreeMap<&'static str, f64>,
}

impl Watch {
    /// Starts.
    pub fn new() -> Self {
        Watch(Mutex::new(Laps {
            phase: "preparing",
            since: Instant::now(),
            seconds: BTreeMap::new(),
        }))
    }

    /// Stops, and says how long each phase took.
    pub fn stop(self) -> BTreeMap<&'static str, f64> {
        self.lap("");
        let laps = self.0.into_inner();
        let laps = laps.unwrap_or_else(std::sync::PoisonError::into_inner);
        let tenths = |s: f64| (s * 10.0).round() / 10.0;
        let phases = laps.seconds.into_iter().map(|(name, s)| (name, tenths(s)));
        phases.filter(|(_, s)| *s > 0.0).collect()
    }

    fn lap(&self, phase: &'static str) {
        let Ok(mut laps) = self.0.lock() else { return };
        if laps.phase != phase {
            let now = Instant::now();
            let seconds = now.duration_since(laps.since).as_secs_f64();
            let ended = laps.phase;
            *laps.seconds.entry(ended).or_default() += seconds;
            laps.phase = phase;
            laps.since = now;
        }
    }
}

impl Monitor for Watch {
    fn interrupted(&self) -> bool {
        false
    }
    fn phase(&self, phase: Phase, _done: usize, _total: usize) {
        self.lap(phase.as_str());
    }
}
