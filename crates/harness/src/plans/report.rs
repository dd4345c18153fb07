//! Formats the results of the comparison of plans.

use std::fmt::Write as _;

use super::Outcome;
use super::plan_kinds::{Kind, PLAN_KINDS};
use super::situations::{SHARES, Shape, Situation, Table};

/// The outcomes as a table in Markdown.
#[must_use]
pub fn report(tables: &[Table], outcomes: &[Outcome]) -> String {
    let mut text = String::from(
        "| rows × dimensions | query | filter keeps | probes | chosen | distillvq | btree | seq. scan | parallel | chosen / fastest |\n\
         | --- | --- | --: | --: | --- | --: | --: | --: | --: | --: |\n",
    );
    for outcome in outcomes {
        let Outcome {
            situation, chosen, ..
        } = outcome;
        let found = tables.iter().find(|table| table.name == situation.table);
        let kind = found.map_or_else(String::new, Table::words);
        let cells: Vec<String> = PLAN_KINDS
            .iter()
            .map(|&(kind, _)| cell(outcome, kind))
            .collect();
        let _ = writeln!(
            text,
            "| {kind} | {} | {} | {} | {} | {} | {:.2}{} |",
            situation.words(),
            situation.filter_words(),
            match situation.probes {
                0 => "default".to_owned(),
                32_768 => "all".to_owned(),
                some => some.to_string(),
            },
            chosen.kind.word(),
            cells.join(" | "),
            outcome.loss(),
            if outcome.good() { "" } else { " **!**" },
        );
    }
    text
}

/// Time and cost of the fastest plan of a kind.
fn cell(outcome: &Outcome, kind: Kind) -> String {
    let plans = outcome.plans.iter().filter(|plan| plan.kind == kind);
    let fastest = plans.min_by(|a, b| a.time.total_cmp(&b.time));
    fastest.map_or_else(
        || "–".into(),
        |plan| format!("{:.3} ms ({:.0})", plan.time / 1000.0, plan.cost),
    )
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Kind::Search => "distillvq",
            Kind::Btree => "btree",
            Kind::Sequential => "seq. scan",
            Kind::Parallel => "parallel",
        }
    }
}

impl Situation {
    fn words(&self) -> String {
        let limit = self
            .limit
            .map_or_else(|| "all rows".into(), |limit| format!("LIMIT {limit}"));
        let shape = match self.shape {
            Shape::Plain => "",
            Shape::Wide => ", all columns",
            Shape::FurtherKey => ", a further key",
            Shape::Lateral => ", of 8 rows by LATERAL",
            Shape::Join => ", joined with 8 rows",
            Shape::Allowed => ", of the 1 % that a table allows",
            Shape::Docs => ", joined with a table of which 1 % are kept",
            Shape::Within => " within a distance",
            Shape::Negated => " within a distance, negated",
            Shape::Between => " between two distances",
            Shape::LateralWithin => " within a distance of 8 rows by LATERAL",
        };
        limit + shape
    }

    fn filter_words(&self) -> String {
        let words: Vec<String> = self
            .filters
            .iter()
            .map(|&(column, share)| {
                let what = match column {
                    "loose" => ", no btree",
                    "spot" => ", in the table's order",
                    _ => "",
                };
                format!("{} %{what}", f64::from(share) * 100.0 / f64::from(SHARES))
            })
            .collect();
        words.join("; ")
    }
}

impl Table {
    fn words(&self) -> String {
        let Self {
            rows, dim, rest, ..
        } = self;
        let element = match self.element {
            "halfvec" => " `halfvec`",
            _ => "",
        };
        let rest = match *rest {
            "" => String::new(),
            rest => format!(" `{rest}`"),
        };
        format!("{rows} × {dim}{element}{rest}")
    }
}
