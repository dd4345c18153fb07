//! Compares the planner's choice with the measured times of all possible plans.
//!
//! `situations` defines tables and queries, `plan_kinds` finds and times plans, `report` formats the results.

mod plan_kinds;
mod report;
mod situations;

use postgres::Client;

pub use plan_kinds::{Kind, Plan, RunBudget};
pub use report::report;
pub use situations::{Shape, Situation, Table, tables};

use crate::error::Result;
use crate::vectors::Vectors;
use plan_kinds::{PLAN_KINDS, explain, median_time};
use situations::situations_of;

/// Settings of a server that plans are measured on: all tables fit its buffers, and nobody interferes.
pub const SETTINGS: [(&str, &str); 3] = [
    ("shared_buffers", "768MB"),
    ("maintenance_work_mem", "256MB"),
    ("autovacuum_naptime", "1d"),
];

/// A chosen plan is good if it takes at most this many times as long as the fastest one.
pub const TOLERANCE: f64 = 1.5;

/// A situation and its plans.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The situation.
    pub situation: Situation,
    /// The plan of default settings.
    pub chosen: Plan,
    /// All plans that were measured, the chosen one among them.
    pub plans: Vec<Plan>,
}

impl Outcome {
    /// How many times as long as the fastest plan the chosen one takes.
    #[must_use]
    pub fn loss(&self) -> f64 {
        let times = self.plans.iter().map(|plan| plan.time);
        self.chosen.time
            / times
                .fold(self.chosen.time, f64::min)
                .max(f64::MIN_POSITIVE)
    }

    /// Whether the chosen plan is good enough.
    #[must_use]
    pub fn good(&self) -> bool {
        self.loss() <= TOLERANCE
    }
}

/// The share of situations whose plan is good enough.
#[must_use]
pub fn share_of_good(outcomes: &[Outcome]) -> f64 {
    let good = outcomes.iter().filter(|outcome| outcome.good()).count();
    good as f64 / outcomes.len().max(1) as f64
}

impl Situation {
    /// Lets the planner choose, and measures that plan and all others there are.
    ///
    /// # Errors
    /// If a query fails.
    pub fn measure(
        &self,
        client: &mut Client,
        (queries, radius): (&Vectors, f64),
        budget: RunBudget,
    ) -> Result<Outcome> {
        let sqls: Vec<String> = queries
            .iter()
            .map(|query| self.sql(query, radius))
            .collect();
        let first = sqls.first().map_or("", String::as_str);
        let base = format!("RESET ALL; SET distillvq.probes = {}", self.probes);
        client.batch_execute(&base)?;
        let mut chosen = explain(client, first)?;
        let mut kinds = vec![(base.clone(), chosen.clone())];
        for (kind, settings) in PLAN_KINDS {
            let settings = format!("{base}; {settings}");
            client.batch_execute(&settings)?;
            let plan = explain(client, first)?;
            let known = kinds.iter().any(|(_, other)| other.nodes == plan.nodes);
            if plan.kind == kind && !known {
                kinds.push((settings, plan));
            }
        }
        let mut plans = Vec::new();
        for (settings, plan) in kinds {
            client.batch_execute(&settings)?;
            let time = median_time(client, &sqls, budget)?;
            plans.push(Plan { time, ..plan });
        }
        client.batch_execute("RESET ALL")?;
        chosen.time = plans.first().map_or(0.0, |plan| plan.time);
        Ok(Outcome {
            situation: *self,
            chosen,
            plans,
        })
    }
}

/// Makes the tables and measures their situations.
///
/// # Errors
/// If a statement fails.
pub fn measure(client: &mut Client, tables: &[Table], budget: RunBudget) -> Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    for table in tables {
        let queries = table.make(client)?;
        let asked = (&queries, table.radius(client, &queries)?);
        for situation in situations_of(table) {
            let mut outcome = situation.measure(client, asked, budget)?;
            if budget.again && !outcome.good() {
                outcome = situation.measure(client, asked, RunBudget::FULL)?;
            }
            outcomes.push(outcome);
        }
    }
    Ok(outcomes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(kind: Kind, time: f64) -> Plan {
        Plan {
            kind,
            nodes: String::new(),
            cost: 7.0,
            time,
        }
    }

    #[test]
    fn the_loss_is_against_the_fastest() {
        let outcome = |chosen: f64, other: f64| Outcome {
            situation: Situation::nearest("tiny", 10),
            chosen: plan(Kind::Search, chosen),
            plans: vec![plan(Kind::Search, chosen), plan(Kind::Btree, other)],
        };
        assert_eq!(outcome(30.0, 15.0).loss(), 2.0);
        assert_eq!(outcome(30.0, 60.0).loss(), 1.0);
        let outcomes = [outcome(30.0, 15.0), outcome(30.0, 25.0)];
        assert_eq!(share_of_good(&outcomes), 0.5);
        let text = report(&tables(false), &outcomes);
        assert!(text.contains("| 50 × 8 | LIMIT 10 |"), "{text}");
        assert!(
            text.contains("0.030 ms (7) | 0.015 ms (7) | – | – | 2.00 **!** |"),
            "{text}"
        );
    }
}
