//! What an index needs: the rules behind the advice that users are given.
//!
//! | rule | the index needs |
//! |---|---|
//! | the model that it is to be built with is missing, or fits another index | that model, or none to be named |
//! | no model, though there are rows enough to train on | to be built anew |
//! | rows without codes, which another model would give them, are more than [`MIN_UNQUANTIZED_ROWS`] and [`MAX_UNQUANTIZED_FRACTION`] of all | to be built anew |
//! | rows came in numbers, and one list is more than [`MAX_IMBALANCE`] times as long as the average | to be built anew |
//! | the codes of new rows err more than [`MAX_DRIFT`] times as much as those of the build did | to be built anew |
//! | more than [`MAX_DEAD_FRACTION`] of its entries are of dead rows | a vacuum |
//! | all lists together do not reach the target recall | finer codes, or a lower target ([`FinerCodes`]) |
//! | more than [`MAX_GROWTH`] as many rows as there were came since its recall was measured | to be trained again |
//! | more than [`MAX_SHRINKAGE`] of the rows that there were are gone since its recall was measured | to be measured again |
//! | its recall was never measured, though there is a model | to be measured |
//!
//! The first rule that applies is the advice: building anew mends what is below it.

use distillvq_model::{CodeShape, MIN_TRAIN_ROWS, max_subquantizers, refine_bytes};
use distillvq_pages::Balance;
use distillvq_pages::MAX_SIDE_BYTES;

/// Share of dead entries above which a vacuum is worth while: searches compare them in vain.
pub const MAX_DEAD_FRACTION: f64 = 0.2;
/// The error of the codes of new rows, over that of the rows of the build, above which lists and codes do not fit the rows any
/// more.
///
/// Measured on 4,000 embedded texts of 384 dimensions and 2,000 more, changed in several ways, by the recall@10 that building
/// anew gains for queries of the new kind, with 8 probed lists. Rows of the same kind are at 1.3: the model has seen all rows of
/// a small table when it was trained, and errs less on them. (Where it has seen a sample of a large table, they are near 1.)
///
/// | drift | 1.30 | 1.33 | 1.51 | 1.56 | 1.58 | 1.63 | 1.71 | 1.86 | 2.03 | 2.30 | 2.34 | 2.64 | 3.13 |
/// |---|---|---|---|---|---|---|---|---|---|---|---|---|---|
/// | gain | -0.02 | -0.02 | -0.02 | 0.04 | 0.01 | 0.00 | 0.00 | 0.05 | 0.02 | 0.20 | 0.09 | 0.24 | 0.46 |
pub const MAX_DRIFT: f64 = 1.75;
/// Rows that came since the recall was measured, over those that there were, above which it is to be measured again.
pub const MAX_GROWTH: f64 = 0.5;
/// Share of the rows that are gone since the recall was measured, above which it is to be measured again: the neighbours of a
/// query then lie in more lists.
pub const MAX_SHRINKAGE: f64 = 0.5;
/// Fewest rows with which a recall is worth a measurement.
pub const MIN_MEASURED_ROWS: u64 = 100;
/// Rows without codes that a search compares in the time that it takes otherwise.
pub const MIN_UNQUANTIZED_ROWS: u64 = 1_000;
/// The same as a share of all rows: searches of large tables take longer.
pub const MAX_UNQUANTIZED_FRACTION: f64 = 1e-3;
/// Rows of the longest list over those of an average one, above which lists are uneven.
pub const MAX_IMBALANCE: f64 = 10.0;
/// Rows that the longest list has at least, if that matters.
pub const MIN_UNEVEN_ROWS: u64 = 1_000;
/// Rows that came since the build, as a share of all, without which building anew would give the same lists.
pub const MIN_NEW_FRACTION: f64 = 0.1;

/// What is known of an index.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct IndexHealth {
    /// Whether there is a model.
    pub trained: bool,
    /// Whether the index names a model that it cannot be built with again.
    pub model_missing: bool,
    /// Rows without codes that another model would give codes: each is compared by every search.
    pub unquantized: u64,
    /// Rows.
    pub rows: u64,
    /// Share of the rows that are dead, if that is known.
    pub dead: Option<f64>,
    /// Rows inserted since the build.
    pub inserted: u64,
    /// Rows when the recall was measured, and those that came since; none if it was not measured.
    pub measured: Option<RecallStatus>,
    /// How rows are spread over lists.
    pub balance: Option<Balance>,
    /// The error of the codes of new rows over that of the rows of the build, if that is known.
    pub drift: Option<f64>,
}

/// What the measurement of the recall says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RecallStatus {
    /// Rows then.
    pub rows: u64,
    /// Rows that came since.
    pub inserted: u64,
    /// Whether all lists together reach the target.
    pub reaches_target: bool,
}

/// What an index needs most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Advice {
    /// Nothing.
    NothingToDo,
    /// The model that it names, or another name.
    ModelMissing,
    /// To be built anew, for so many rows have no codes.
    Unquantized(u64),
    /// To be built anew, for it has no model.
    Untrained,
    /// To be built anew, for new rows are of another kind: their error over that of old ones.
    Drift(f64),
    /// To be built anew, for new rows crowd in some lists: rows of the longest over those of an average one.
    Uneven(f64),
    /// To be vacuumed: the share of dead entries.
    Dead(f64),
    /// FinerCodes codes: [`FinerCodes::next_step`] says which.
    TargetMissed,
    /// To be trained again, for it has grown: rows that came, over those that there were.
    Grown(f64),
    /// To be measured again: the share of the rows that are gone.
    Shrunk(f64),
    /// To be measured, for nobody has measured its recall.
    Unmeasured,
}

impl IndexHealth {
    /// What is most needed.
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

    /// How much longer than the average the longest list is, if it is too long and rows that came later may be why.
    fn uneven(&self) -> Option<f64> {
        let Balance { max, mean, .. } = self.balance?;
        let grown = self.inserted as f64 >= MIN_NEW_FRACTION * self.rows as f64;
        let times = max as f64 / mean.max(f64::MIN_POSITIVE);
        (grown && max >= MIN_UNEVEN_ROWS && times > MAX_IMBALANCE).then_some(times)
    }
}

/// Bits of a refine code for a dimension.
const REFINE_BITS: usize = 7;

/// How codes get finer: what brings most of that which was not done yet.
///
/// Measured on 4,000 rows of noise, by the recall@10 of a search of all lists:
///
/// | dimensions | subquantizers | 4 bits | 8 bits | 4 bits and refine codes | 8 bits and refine codes |
/// |---|---|---|---|---|---|
/// | 64 | 8 | 0.968 | 0.990 | 0.968 | 0.989 |
/// | | 16 | 0.986 | 0.998 | 0.986 | 0.998 |
/// | | 32 | 0.987 | 1.000 | 0.992 | 1.000 |
/// | 768 | 240 | 0.968 | 0.997 | | 1.000 |
/// | | 480 | 0.991 | | 0.997 | |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinerCodes {
    /// So many subquantizers.
    Subquantizers(usize),
    /// 8 bits a subquantizer, of which there are at most so many then.
    Bits(usize),
    /// Refine codes.
    Refine,
    /// Nothing more: what the index reaches is what there is.
    Nothing,
}

impl FinerCodes {
    /// What makes such codes of so many dimensions finer, with refine codes or without.
    pub fn next_step(shape: CodeShape, refine: bool, dim: usize) -> Self {
        let codes = shape.subquantizers;
        let most = max_subquantizers(shape.bits).min(dim);
        if codes < most {
            return Self::Subquantizers((2 * codes).min(most));
        }
        if shape.bits < 8 {
            return Self::Bits(codes.min(max_subquantizers(8)));
        }
        // Refine codes that are no finer only lose: of one dimension, where 8 bits are the code of the rest that a list leaves.
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
        // Nobody came since: the same lists would come out.
        assert_eq!(uneven(1_100, 900), Advice::NothingToDo);
    }

    #[test]
    fn codes_get_finer_step_by_step() {
        // From the coarsest codes of so many dimensions, as long as something is finer.
        let steps = |dim: usize| {
            let mut shape = CodeShape {
                subquantizers: 1,
                bits: 4,
                has_norm: false,
            };
            let (mut refine, mut steps) = (false, Vec::new());
            loop {
                let step = FinerCodes::next_step(shape, refine, dim);
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
        // Whose refine codes do not fit a page.
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
