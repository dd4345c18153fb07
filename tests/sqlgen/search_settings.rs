//! Settings of searches, and their guarantees.

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

use super::{Guarantee, Statement, TestTables, any};
use crate::common::ALL;

/// The value of `distillvq.iterative_scan` with which rows may come late.
pub const RELAXED: Option<&str> = Some("relaxed_order");
/// The others, and the default, with which none does.
pub const KEEP_ORDER: [Option<&str>; 4] = [None, None, Some("strict_order"), Some("off")];

/// The settings of a search by the index.
#[derive(Clone, Copy, Debug)]
pub struct SearchSettings {
    /// None: the default.
    pub iterative_scan: Option<&'static str>,
    pub probes: i32,
    pub max_probes: i32,
    pub max_scan_tuples: i32,
}

impl SearchSettings {
    pub fn all_lists(iterative_scan: Option<&'static str>) -> Self {
        SearchSettings {
            iterative_scan,
            probes: ALL,
            max_probes: 0,
            max_scan_tuples: 0,
        }
    }

    /// Few lists, or few rows, by one of some values of `distillvq.iterative_scan`.
    pub fn any(random: &mut ChaCha8Rng, iterative_scan: &[Option<&'static str>]) -> Self {
        let settings = SearchSettings::all_lists(any(random, iterative_scan));
        let probes = any(random, &[1, 2, 5, 0]);
        match random.random_range(0..4) {
            0 => SearchSettings {
                probes,
                max_probes: random.random_range(1..8),
                ..settings
            },
            1 => SearchSettings {
                probes,
                max_scan_tuples: random.random_range(1..200),
                ..settings
            },
            2 => SearchSettings {
                max_scan_tuples: random.random_range(1..200),
                ..settings
            },
            _ => SearchSettings { probes, ..settings },
        }
    }

    pub fn sql(&self) -> String {
        format!(
            "SET enable_seqscan = off; SET enable_sort = off; SET enable_bitmapscan = off; SET enable_indexscan = on;
             SET distillvq.iterative_scan = {}; SET distillvq.probes = {};
             SET distillvq.max_probes = {}; SET distillvq.max_scan_tuples = {}",
            self.iterative_scan.unwrap_or("DEFAULT"),
            self.probes, self.max_probes, self.max_scan_tuples
        )
    }

    pub fn guarantee(&self, tables: &TestTables, statement: &Statement) -> Guarantee {
        let relaxed = self.iterative_scan == RELAXED;
        let goes_on = self.max_probes == 0 && self.max_scan_tuples == 0;
        let exact = !tables.may_be_trained();
        Guarantee {
            full: exact || relaxed && !statement.has_radius() && (self.probes == ALL || goes_on),
            late_rows_follow: relaxed,
            exact,
        }
    }
}

/// The settings of a sequential scan.
pub const BY_TABLE: &str = "SET enable_seqscan = on; SET enable_sort = on; SET enable_bitmapscan = off; SET enable_indexscan = off";
