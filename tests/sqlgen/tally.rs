//! Counters of rounds: plans with the index, and missed rows.

use std::collections::BTreeMap;
use std::fmt;

use super::Frame;
use super::oracle::Comparison;

/// Share of the rows that may be missed with all lists: of vectors of one dimension, and of others.
const TOLERATED: [f64; 2] = [0.02, 0.01];
/// Minimum fraction of the statements whose plan uses the index.
const MIN_BY_INDEX: f64 = 0.8;
/// The same up to PostgreSQL 16, whose planner chooses other plans more often.
const MIN_BY_INDEX_16: f64 = 0.6;
/// What plans by the index must have above it at least once.
const NODES: [&str; 7] = [
    "WindowAgg",
    "Unique",
    "GroupAggregate",
    "SetOp",
    "Merge Join",
    "Merge Append",
    "Incremental Sort",
];

/// What was counted.
#[derive(Default)]
pub struct Tally {
    /// By frame: statements whose plan used the index, and all.
    plans: BTreeMap<Frame, [u32; 2]>,
    /// Plans by the index that have each of [`NODES`].
    nodes: [u32; NODES.len()],
    /// Of one dimension, and of others: rows missed, and all.
    rows: [[usize; 2]; 2],
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [statements, by_index] =
            [1, 0].map(|i| self.plans.values().map(|counts| counts[i]).sum::<u32>());
        let [one, other] = self
            .rows
            .map(|[missed, rows]| format!("{missed} of {rows}"));
        write!(
            f,
            "{statements} statements answered, {by_index} by the index; missed {one} rows of one dimension, {other} of more"
        )
    }
}

impl Tally {
    pub fn count(&mut self, dim: usize, comparison: Comparison) {
        let [missed, rows] = &mut self.rows[usize::from(dim > 1)];
        *missed += comparison.missed;
        *rows += comparison.rows;
    }

    pub fn count_plan(&mut self, frame: Frame, plan: &str, uses: bool) {
        let [used, all] = self.plans.entry(frame).or_default();
        *used += u32::from(uses);
        *all += 1;
        for (count, node) in self.nodes.iter_mut().zip(NODES) {
            *count += u32::from(uses && plan.contains(node));
        }
    }

    pub fn all_rows(&self) -> [usize; 2] {
        [0, 1].map(|i| self.rows.iter().map(|counts| counts[i]).sum())
    }

    pub fn add(&mut self, other: &Tally) {
        for (frame, counts) in &other.plans {
            let own = self.plans.entry(*frame).or_default();
            (0..2).for_each(|i| own[i] += counts[i]);
        }
        for (own, count) in self.nodes.iter_mut().zip(other.nodes) {
            *own += count;
        }
        for (own, counts) in self.rows.iter_mut().zip(other.rows) {
            (0..2).for_each(|i| own[i] += counts[i]);
        }
    }

    /// Fails if too many rows were missed, or too few plans used the index.
    pub fn check_guarantees(&self, version: u32) {
        for ([missed, rows], tolerated) in self.rows.into_iter().zip(TOLERATED) {
            assert!(
                missed as f64 <= tolerated * rows as f64,
                "{missed} of {rows} rows missed"
            );
        }
        let least = if version > 16 {
            MIN_BY_INDEX
        } else {
            MIN_BY_INDEX_16
        };
        let sum = |i: usize| self.plans.values().map(|counts| counts[i]).sum::<u32>();
        assert!(
            f64::from(sum(0)) >= least * f64::from(sum(1)),
            "{:?}",
            self.plans
        );
        for (count, node) in self.nodes.into_iter().zip(NODES) {
            assert!(count > 0, "no plan by the index had {node}");
        }
    }
}
