//! Rules of the advice about an index.
//!
//! | condition | advice |
//! |---|---|
//! | the named model is missing or does not fit the index | train or reset the model |
//! | no model, and enough rows to train on | rebuild |
//! | more than [`MIN_UNQUANTIZED_ROWS`] rows, and more than [`MAX_UNQUANTIZED_FRACTION`] of all, have no code but would get one from another model | rebuild |
//! | rows were inserted, and one list has more than [`MAX_IMBALANCE`] times the mean number of rows | rebuild |
//! | the quantization error of inserted rows exceeds [`MAX_DRIFT`] times that of the build | rebuild |
//! | more than [`MAX_DEAD_FRACTION`] of the entries are dead | vacuum |
//! | all lists together do not reach the target recall | finer codes, or a lower target ([`FinerCodes`]) |
//! | the rows inserted since the calibration exceed [`MAX_GROWTH`] of the rows at the calibration | retrain |
//! | more than [`MAX_SHRINKAGE`] of the rows were deleted since the calibration | calibrate |
//! | there is a model, but recall was never measured | calibrate |
//!
//! The first condition that holds decides, because a rebuild also resolves the later ones.

use crate::filter::FilterFormat;
use distillvq_model::{CodeShape, MIN_TRAIN_ROWS, refine_bytes};
use distillvq_pages::Balance;
use distillvq_pages::MAX_SIDE_BYTES;

/// Maximum fraction of dead entries. Searches score them in vain.
pub const MAX_DEAD_FRACTION: f64 = 0.2;
/// Maximum quantization error of inserted rows relative to the rows of the build. Above it, lists and codes no longer fit
/// (`docs/training.md`, *Thresholds of the advice*).
pub const MAX_DRIFT: f64 = 1.75;
/// Maximum of rows inserted since the calibration, relative to the rows at the calibration.
pub const MAX_GROWTH: f64 = 0.5;
/// Maximum fraction of rows deleted since the calibration. Beyond it, the neighbors of a query are spread over more lists.
pub const MAX_SHRINKAGE: f64 = 0.5;
/// Minimum number of rows for a calibration.
pub const MIN_MEASURED_ROWS: u64 = 100;
/// Minimum number of rows without a code. Comparing so many takes about as long as the rest of a search.
pub const MIN_UNQUANTIZED_ROWS: u64 = 1_000;
/// The same as a fraction of all rows, because searches of large tables take longer.
pub const MAX_UNQUANTIZED_FRACTION: f64 = 1e-3;
/// Maximum of rows in the longest list, relative to the mean.
pub const MAX_IMBALANCE: f64 = 10.0;
/// Minimum number of rows in the longest list for it to matter.
pub const MIN_UNEVEN_ROWS: u64 = 1_000;
/// Minimum fraction of rows inserted since the build. Below it a rebuild gives the same lists.
pub const MIN_NEW_FRACTION: f64 = 0.1;

/// Figures of an index.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct IndexHealth {
    /// Whether the index has a model.
    pub trained: bool,
    /// Whether the named model is missing or does not fit the index.
    pub model_missing: bool,
    /// Rows without a code that would get one from another model. Every search compares them.
    pub unquantized: u64,
    /// Rows.
    pub rows: u64,
    /// Fraction of dead rows, if known.
    pub dead: Option<f64>,
    /// Rows inserted since the build.
    pub inserted: u64,
    /// The last calibration, if any.
    pub measured: Option<RecallStatus>,
    /// Distribution of rows over lists.
    pub balance: Option<Balance>,
    /// Quantization error of inserted rows relative to the rows of the build, if known.
    pub drift: Option<f64>,
}

/// The last calibration.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RecallStatus {
    /// Rows at the calibration.
    pub rows: u64,
    /// Rows inserted since.
    pub inserted: u64,
    /// Whether all lists together reach the target.
    pub reaches_target: bool,
}

/// The advice.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Advice {
    /// Nothing to do.
    NothingToDo,
    /// Train or reset the named model.
    ModelMissing,
    /// Rebuild: the number of rows without a code.
    Unquantized(u64),
    /// Rebuild: there is no model.
    Untrained,
    /// Rebuild: relative quantization error of inserted rows.
    Drift(f64),
    /// Rebuild: rows of the longest list, relative to the mean.
    Uneven(f64),
    /// Vacuum: fraction of dead entries.
    Dead(f64),
    /// Finer codes, or a lower target, by [`FinerCodes::next_step`].
    TargetMissed,
    /// Retrain: rows inserted since the calibration, relative to the rows at the calibration.
    Grown(f64),
    /// Calibrate: fraction of rows deleted since the calibration.
    Shrunk(f64),
    /// Calibrate: recall was never measured.
    Unmeasured,
}

impl IndexHealth {
    /// The first advice whose condition holds.
    pub fn advice(&self) -> Advice {
        let enough = self.rows >= MIN_TRAIN_ROWS as u64;
        if self.model_missing {
            return Advice::ModelMissing;
        }
        if !self.trained {
            return if enough {
                Advice::Untrained
            } else {
                Advice::NothingToDo
            };
        }
        let most = (MAX_UNQUANTIZED_FRACTION * self.rows as f64) as u64;
        if self.unquantized > most.max(MIN_UNQUANTIZED_ROWS) {
            return Advice::Unquantized(self.unquantized);
        }
        if let Some(times) = self.uneven() {
            return Advice::Uneven(times);
        }
        if let Some(drift) = self.drift.filter(|&drift| drift > MAX_DRIFT) {
            return Advice::Drift(drift);
        }
        if let Some(dead) = self.dead.filter(|&dead| dead > MAX_DEAD_FRACTION) {
            return Advice::Dead(dead);
        }
        match self.measured {
            None if enough => Advice::Unmeasured,
            None => Advice::NothingToDo,
            Some(it) if !it.reaches_target => Advice::TargetMissed,
            Some(it) => {
                let growth = it.inserted as f64 / it.rows.max(1) as f64;
                let shrinkage = 1.0 - self.rows as f64 / it.rows.max(1) as f64;
                if growth > MAX_GROWTH && enough {
                    Advice::Grown(growth)
                } else if shrinkage > MAX_SHRINKAGE && self.rows >= MIN_MEASURED_ROWS {
                    Advice::Shrunk(shrinkage)
                } else {
                    Advice::NothingToDo
                }
            }
        }
    }

    /// Rows of the longest list relative to the mean, if it is too long and inserted rows may be the cause.
    fn uneven(&self) -> Option<f64> {
        let Balance { max, mean, .. } = self.balance?;
        let grown = self.inserted as f64 >= MIN_NEW_FRACTION * self.rows as f64;
        let times = max as f64 / mean.max(f64::MIN_POSITIVE);
        (grown && max >= MIN_UNEVEN_ROWS && times > MAX_IMBALANCE).then_some(times)
    }
}

/// Bits per dimension of a refine code.
const REFINE_BITS: usize = 7;

/// The next step to finer codes, by gain in recall (`docs/training.md`, *Thresholds of the advice*).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinerCodes {
    /// Number of subquantizers.
    Subquantizers(usize),
    /// 8 bits, with this number of subquantizers.
    Bits(usize),
    /// Refine codes.
    Refine,
    /// No finer codes exist.
    Nothing,
}

impl FinerCodes {
    /// The step after codes of this shape, with or without refine codes, beside these filter columns.
    pub fn next_step(shape: CodeShape, refine: bool, dim: usize, filters: &FilterFormat) -> Self {
        let codes = shape.subquantizers;
        let most = filters.max_subquantizers(shape.bits).min(dim);
        if codes < most {
            return Self::Subquantizers((2 * codes).min(most));
        }
        if shape.bits < 8 {
            return Self::Bits(codes.min(filters.max_subquantizers(8)));
        }
        // Refine codes no finer than the codes lower recall: in one dimension, 8 bits encode the residual of the list.
        let finer = codes * usize::from(shape.bits) < REFINE_BITS * dim;
        if finer && !refine && refine_bytes(dim) <= MAX_SIDE_BYTES {
            Self::Refine
        } else {
            Self::Nothing
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FINE: IndexHealth = IndexHealth {
        trained: true,
        model_missing: false,
        unquantized: 1_000,
        rows: 10_000,
        dead: Some(0.1),
        inserted: 4_000,
        measured: Some(RecallStatus {
            rows: 8_000,
            inserted: 4_000,
            reaches_target: true,
        }),
        balance: Some(Balance {
            min: 0,
            median: 90,
            max: 1_000,
            mean: 100.0,
        }),
        drift: Some(1.7),
    };

    #[test]
    fn each_rule_applies_above_its_bound() {
        assert_eq!(FINE.advice(), Advice::NothingToDo);
        let change = |change: fn(&mut IndexHealth)| {
            let mut condition = FINE;
            change(&mut condition);
            condition.advice()
        };
        assert_eq!(change(|it| it.dead = Some(0.21)), Advice::Dead(0.21));
        assert_eq!(change(|it| it.dead = None), Advice::NothingToDo);
        assert_eq!(change(|it| it.drift = Some(1.8)), Advice::Drift(1.8));
        assert_eq!(change(|it| it.drift = None), Advice::NothingToDo);
        assert_eq!(change(|it| it.measured = None), Advice::Unmeasured);
        assert_eq!(change(|it| it.trained = false), Advice::Untrained);
        assert_eq!(change(|it| it.model_missing = true), Advice::ModelMissing);
        assert_eq!(
            change(|it| it.unquantized = 1_001),
            Advice::Unquantized(1_001)
        );
        let many = |it: &mut IndexHealth| (it.rows, it.unquantized) = (10_000_000, 10_000);
        assert_eq!(change(many), Advice::NothingToDo);
        let gone = |rows: u64| IndexHealth { rows, ..FINE }.advice();
        assert_eq!(
            (gone(4_000), gone(2_000)),
            (Advice::NothingToDo, Advice::Shrunk(0.75))
        );
        assert_eq!(
            (gone(100), gone(99)),
            (Advice::Shrunk(0.9875), Advice::NothingToDo)
        );
        let measured = |it: &mut IndexHealth, inserted, reaches_target| {
            it.measured = Some(RecallStatus {
                rows: 8_000,
                inserted,
                reaches_target,
            });
            it.advice()
        };
        assert_eq!(measured(&mut FINE.clone(), 4_800, true), Advice::Grown(0.6));
        assert_eq!(measured(&mut FINE.clone(), 0, false), Advice::TargetMissed);
        let uneven = |max, inserted| {
            let balance = FINE.balance.map(|it| Balance { max, ..it });
            IndexHealth {
                balance,
                inserted,
                ..FINE
            }
            .advice()
        };
        assert_eq!(uneven(1_100, 4_000), Advice::Uneven(11.0));
        // Too few inserted rows: a rebuild would give the same lists.
        assert_eq!(uneven(1_100, 900), Advice::NothingToDo);
    }

    #[test]
    fn codes_get_finer_step_by_step() {
        // All steps from the coarsest codes.
        let steps = |dim: usize| {
            let mut shape = CodeShape {
                subquantizers: 1,
                bits: 4,
                has_norm: false,
            };
            let (mut refine, mut steps) = (false, Vec::new());
            loop {
                let step = FinerCodes::next_step(shape, refine, dim, &FilterFormat::default());
                match step {
                    FinerCodes::Subquantizers(codes) => shape.subquantizers = codes,
                    FinerCodes::Bits(codes) => (shape.subquantizers, shape.bits) = (codes, 8),
                    FinerCodes::Refine => refine = true,
                    FinerCodes::Nothing => return steps,
                }
                steps.push(step);
            }
        };
        use FinerCodes::{Bits, Refine, Subquantizers};
        assert_eq!(steps(1), [Bits(1)]);
        assert_eq!(
            steps(6),
            [
                Subquantizers(2),
                Subquantizers(4),
                Subquantizers(6),
                Bits(6)
            ]
        );
        let long = steps(768);
        assert_eq!(
            long[long.len() - 3..],
            [Subquantizers(478), Bits(239), Refine]
        );
        // Refine codes of this dimension do not fit on a page.
        assert_eq!(steps(16_000).last(), Some(&Bits(239)));
    }

    #[test]
    fn small_tables_need_nothing() {
        let small = IndexHealth {
            rows: 500,
            ..IndexHealth::default()
        };
        assert_eq!(small.advice(), Advice::NothingToDo);
        let trained = IndexHealth {
            trained: true,
            ..small
        };
        assert_eq!(trained.advice(), Advice::NothingToDo);
    }

    #[test]
    fn building_anew_comes_before_what_it_mends() {
        let all = IndexHealth {
            dead: Some(0.5),
            drift: Some(2.0),
            measured: None,
            ..FINE
        };
        assert_eq!(all.advice(), Advice::Drift(2.0));
        assert_eq!(
            IndexHealth { drift: None, ..all }.advice(),
            Advice::Dead(0.5)
        );
    }
}
