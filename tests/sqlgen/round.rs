//! A round: creates tables, generates statements, and compares their answers.

use std::fmt::Write as _;

use distillvq_harness::Metric;
use postgres::Client;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::access::FIGURES;
use super::computation::{Computation, Record, Shown};
use super::context::SERIALIZABLE;
use super::oracle::{Answers, Comparison, check_some};
use super::run::{self, Failure, execute};
use super::search_settings::{KEEP_ORDER, RELAXED};
use super::tally::Tally;
use super::{
    Access, BY_TABLE, Context, Delivery, Guarantee, Row, Run, SearchSettings, Side, Statement,
    TestTables, any, check_answer, one_in, test_tables::Target,
};
use crate::common::{ALL, Database, Sql as _, server};

/// Statements per round.
const STATEMENTS: u32 = 24;
/// Queries of other dimensions per round.
const OTHER_DIMENSIONS: u32 = 4;
/// What a vector of another dimension is refused with, and a role without rights.
const OTHER_DIMENSION: &str = "22000";
const NO_RIGHTS: &str = "42501";
/// A round: its tables, its sessions, and what was run to get there.
pub struct Round {
    seed: u64,
    random: ChaCha8Rng,
    tables: TestTables,
    session: Client,
    other: Client,
    history: Vec<String>,
    /// The statement that missed most rows, and how many.
    pub most_missed: (usize, String),
}

impl Round {
    pub fn new(db: &Database, seed: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut round = Round {
            seed,
            tables: TestTables::new(&mut random),
            random,
            session: db.session(),
            other: db.session(),
            history: Vec::new(),
            most_missed: (0, String::new()),
        };
        let set_up = round.tables.set_up(&mut round.random);
        round.make(set_up);
        round.session.run(run::PREPARE);
        if round.tables.parallel && server().installation().version() >= 16 {
            round.session.run("SET debug_parallel_query = on");
        }
        round
    }

    /// Runs statements that stay.
    fn make(&mut self, statements: Vec<String>) {
        for statement in statements {
            self.history.push(statement.clone());
            self.must(&statement);
        }
    }

    fn must(&mut self, sql: &str) {
        if let Err(failure) = execute(&mut self.session, sql) {
            self.fail(sql, &failure.error);
        }
    }

    pub fn fail(&self, statement: &str, what: &str) -> ! {
        let mut text = format!(
            "{what}\n\nDISTILLVQ_SEED={} DISTILLVQ_ROUNDS=1\n{:?}\n",
            self.seed, self.tables
        );
        for line in &self.history {
            writeln!(text, "{line};").unwrap();
        }
        panic!("{text}\n{statement}");
    }

    pub fn play(&mut self, tally: &mut Tally) {
        for _ in 0..STATEMENTS {
            if one_in(&mut self.random, 6) {
                self.change();
            }
            let statement = self.statement();
            let access = Access::random(&mut self.random);
            if access.is_refused() {
                self.compare_refusals(&statement, access);
            } else {
                self.compare(&statement, access, tally);
            }
            if one_in(&mut self.random, 6) {
                self.explain_takes_no_locks(&statement);
            }
        }
        for _ in 0..OTHER_DIMENSIONS {
            self.compare_dimensions_refused();
        }
        self.figures_need_rights();
    }

    /// A random statement.
    fn statement(&mut self) -> Statement {
        let session = &mut self.session;
        let mut distance = |sql: &str| {
            let row = session.query_opt(sql, &[]).unwrap();
            row.and_then(|row| row.get(0))
        };
        Statement::new(&mut self.tables, &mut self.random, &mut distance)
    }

    /// Changes that stay, and perhaps a vacuum.
    fn change(&mut self) {
        let mut changes = self.tables.changes(&mut self.random);
        match self.random.random_range(0..8) {
            0 | 1 => changes.push("VACUUM items".to_owned()),
            2 => changes.push(self.tables.reindex()),
            _ => {}
        }
        self.make(changes);
    }

    /// Answers a statement in all ways.
    fn compare(&mut self, statement: &Statement, access: Access, tally: &mut Tally) {
        // A role that sees some rows only may not make others.
        let access = match access {
            Access::Policy if statement.changes_meanwhile() => Access::Owner,
            access => access,
        };
        let context = Context::random(statement, &mut self.tables, &mut self.random);
        let begun = self.enter(&context);
        let by_table = Run {
            settings: BY_TABLE.to_owned(),
            side: Side::Table,
            ..Run::of(statement, access, &begun)
        };
        let plan = self.plan(&by_table);
        if searches(&plan) {
            self.fail(
                &by_table.told(&self.tables),
                &format!("by an index: {plan}"),
            );
        }
        let truth = self.answer(&by_table);
        if self.by_an_index(&by_table, tally) {
            for settings in self.settings(statement) {
                self.compare_with(settings, &by_table, &truth, tally);
            }
        }
        self.leave(&context);
    }

    /// The settings to answer a statement with. Computations over rows that come late need not agree with these.
    fn settings(&mut self, statement: &Statement) -> Vec<SearchSettings> {
        let random = &mut self.random;
        let mut all = vec![SearchSettings::all_lists(any(random, &KEEP_ORDER))];
        if statement.frame.computation().is_some() && self.tables.may_be_trained() {
            all.push(SearchSettings::any(random, &KEEP_ORDER));
        } else {
            all.push(SearchSettings::all_lists(RELAXED));
            all.push(SearchSettings::any(random, &[RELAXED, None, Some("off")]));
        }
        all
    }

    /// Whether a statement's plan uses an index. Else rows that an index leaves out may be in the answer.
    fn by_an_index(&mut self, by_table: &Run, tally: &mut Tally) -> bool {
        let run = Run {
            settings: SearchSettings::all_lists(None).sql(),
            side: Side::Index,
            ..by_table.clone()
        };
        let plan = self.plan(&run);
        let uses = searches(&plan);
        tally.count_plan(run.statement.frame, &plan, uses);
        uses
    }

    /// Answers a statement by the index, and compares.
    fn compare_with(
        &mut self,
        settings: SearchSettings,
        by_table: &Run,
        truth: &[Record],
        tally: &mut Tally,
    ) {
        let by_index = Run {
            settings: settings.sql(),
            side: Side::Index,
            ..by_table.clone()
        };
        let found = self.answer(&by_index);
        let guarantee = settings.guarantee(&self.tables, by_table.statement);
        let judged = match by_table.statement.frame.computation() {
            Some(computation) => {
                self.check_computation(computation, by_table, truth, &found, guarantee)
            }
            None => self.check_rows(by_table, &rows(truth), &rows(&found), None, guarantee),
        };
        match judged {
            Ok(comparison) => {
                let dim = self.tables.searched().1;
                // In one dimension cosine distances differ by nothing but rounding: codes cannot tell which is less.
                let is_rounding = dim == 1 && self.tables.metric == Metric::Cosine;
                if settings.probes == ALL && !is_rounding {
                    if comparison.missed > self.most_missed.0 {
                        self.most_missed = (comparison.missed, by_index.told(&self.tables));
                    }
                    tally.count(dim, comparison);
                }
            }
            Err(what) => {
                let answers = format!(
                    "by the index: {}\nby a scan: {}",
                    brief(&found),
                    brief(truth)
                );
                self.fail(&by_index.told(&self.tables), &format!("{what}\n{answers}"))
            }
        }
    }

    /// `ordered` says whether rows come in order where the statement does not.
    fn check_rows(
        &mut self,
        by_table: &Run,
        truth: &[Row],
        found: &[Row],
        ordered: Option<bool>,
        guarantee: Guarantee,
    ) -> Result<Comparison, String> {
        let mut wanted = by_table.statement.wanted(&self.tables);
        if let Some(ordered) = ordered {
            (wanted.ordered, wanted.by_id) = (ordered, false);
        }
        let answers = Answers {
            found,
            truth,
            universe: &mut || self.universe(by_table),
        };
        check_answer(answers, wanted, guarantee)
    }

    fn check_computation(
        &mut self,
        computation: Computation,
        by_table: &Run,
        truth: &[Record],
        found: &[Record],
        guarantee: Guarantee,
    ) -> Result<Comparison, String> {
        let universe = self.universe(by_table);
        let truth = computation
            .check(truth, &universe)
            .map_err(|what| format!("by a scan: {what}"))?;
        let found = computation.check(found, &universe)?;
        match (found, truth) {
            (Shown::All { rows, ordered }, Shown::All { rows: truth, .. }) => {
                self.check_rows(by_table, &truth, &rows, Some(ordered), guarantee)
            }
            (
                Shown::Some { rows, ordered },
                Shown::Some { rows: truth, .. } | Shown::All { rows: truth, .. },
            )
            | (Shown::All { rows, ordered }, Shown::Some { rows: truth, .. }) => {
                check_some(&rows, &truth, ordered, guarantee)
            }
        }
    }

    /// All rows that fulfil the conditions.
    fn universe(&mut self, by_table: &Run) -> Vec<Row> {
        let universe = Run {
            side: Side::Universe,
            delivery: Delivery::Plain,
            ..by_table.clone()
        };
        rows(&self.answer(&universe))
    }

    /// Fails unless a role without rights is refused in the same words, however the statement would be run.
    fn compare_refusals(&mut self, statement: &Statement, access: Access) {
        let begun = Vec::new();
        let mut refusals = Vec::new();
        for settings in [BY_TABLE.to_owned(), SearchSettings::all_lists(None).sql()] {
            for explain in ["", "EXPLAIN "] {
                let run = Run {
                    settings: settings.clone(),
                    delivery: Delivery::Plain,
                    ..Run::of(statement, access, &begun)
                };
                self.must(&format!("BEGIN; {}", run.prelude()));
                let sql = format!("{explain}{}", run.text(&self.tables).sql);
                let refusal = execute(&mut self.session, &sql).err();
                self.must("ROLLBACK");
                let error = refusal.map_or_else(|| "none".to_owned(), |failure| failure.error);
                refusals.push(error);
                if !refusals
                    .iter()
                    .all(|other| other.contains(NO_RIGHTS) && *other == refusals[0])
                {
                    let told = format!("{};\n{sql}", run.prelude());
                    self.fail(&told, &format!("refused with {refusals:?}"));
                }
            }
        }
    }

    /// Fails unless a query of other dimensions gets by the index the error that it gets by a sequential scan. A scan refuses
    /// nothing where no row is compared with it; there the index may. EXPLAIN refuses nothing.
    fn compare_dimensions_refused(&mut self) {
        let begun = Vec::new();
        let mut statement = self.statement();
        // Of two inputs one may be empty, and the other need not be read then, depending on the plan.
        while statement.frame.computation().is_some() {
            statement = self.statement();
        }
        let statement = statement.of_other_dimensions(&self.tables, &mut self.random);
        let mut state = |settings: String, side| {
            let run = Run {
                settings,
                side,
                delivery: Delivery::Plain,
                ..Run::of(&statement, Access::Owner, &begun)
            };
            self.must(&format!("BEGIN; {}", run.prelude()));
            let sql = run.text(&self.tables).sql;
            self.must(&format!("EXPLAIN {sql}"));
            let refusal = execute(&mut self.session, &sql).err();
            self.must("ROLLBACK");
            refusal.map(|failure| failure.state)
        };
        let by_table = state(BY_TABLE.to_owned(), Side::Table);
        let by_index = state(SearchSettings::all_lists(None).sql(), Side::Index);
        let may_refuse = by_table.is_none() && by_index.as_deref() == Some(OTHER_DIMENSION);
        if by_index != by_table && !may_refuse {
            let told = statement.text(&self.tables, Side::Index, false).sql;
            self.fail(
                &told,
                &format!("by a scan {by_table:?}, by the index {by_index:?}"),
            );
        }
    }

    /// Fails unless each role gets the figures of indexes that are for it: none without rights, and no drift where it takes an
    /// expression or the condition of the index over rows that the role may not see.
    fn figures_need_rights(&mut self) {
        self.must("RESET ROLE");
        let indexes: Vec<String> = self.session.column(
            "SELECT c.oid::text FROM pg_class c JOIN pg_am a ON a.oid = c.relam
             WHERE amname = 'distillvq' AND relkind = 'i'",
        );
        let runs_functions = self.tables.target != Target::Column
            || self.tables.predicate.is_some()
            || self.tables.filter_columns.contains('(');
        for index in indexes {
            let one = format!("{FIGURES} distillvq_index_info({index}::oid::regclass) f");
            let view =
                format!("{FIGURES} distillvq_indexes f WHERE index = {index}::oid::regclass");
            self.must("RESET ROLE");
            let all = self.figures(&one);
            for access in [
                Access::Owner,
                Access::Policy,
                Access::Monitor,
                Access::NoTable,
                Access::NoVectors,
            ] {
                self.must(access.sql());
                let found = (self.figures(&one), self.figures(&view));
                let mut seen = all.clone();
                if access != Access::Owner && runs_functions {
                    seen.iter_mut()
                        .flatten()
                        .for_each(|(_, drift)| *drift = None);
                }
                let wanted = if access.is_refused() {
                    (Err(NO_RIGHTS.to_owned()), Ok(Vec::new()))
                } else {
                    (seen.clone(), seen)
                };
                if found != wanted {
                    let told = format!(
                        "{};
{one};
{view}",
                        access.sql()
                    );
                    self.fail(&told, &format!("{found:?}, and not {wanted:?}"));
                }
            }
        }
        self.must("RESET ROLE");
    }

    /// Figures and drifts, or the SQLSTATE.
    fn figures(&mut self, sql: &str) -> Result<Vec<(String, Option<String>)>, String> {
        let rows = run::query(&mut self.session, sql).map_err(|failure| failure.state)?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// Fails if EXPLAIN, which reads no rows, takes predicate locks. Those of earlier transactions may still be there.
    fn explain_takes_no_locks(&mut self, statement: &Statement) {
        const LOCKS: &str =
            "SELECT DISTINCT format('%s page %s tuple %s', relation::regclass, page, tuple)
             FROM pg_locks WHERE mode = 'SIReadLock' AND pid = pg_backend_pid()";
        let begun = Vec::new();
        let run = Run {
            settings: SearchSettings::all_lists(None).sql(),
            delivery: Delivery::Plain,
            ..Run::of(statement, Access::Owner, &begun)
        };
        let sql = format!("EXPLAIN {}", run.text(&self.tables).sql);
        self.must(&format!("{SERIALIZABLE}; {}", run.prelude()));
        let earlier: Vec<String> = self.session.column(LOCKS);
        self.must(&sql);
        let mut locks: Vec<String> = self.session.column(LOCKS);
        self.must("ROLLBACK");
        locks.retain(|lock| !earlier.contains(lock));
        if !locks.is_empty() {
            let told = format!("{SERIALIZABLE}; {};\n{sql}", run.prelude());
            self.fail(&told, &format!("predicate locks: {locks:?}"));
        }
    }

    /// Returns what was run.
    fn enter(&mut self, context: &Context) -> Vec<String> {
        self.must("RESET ROLE");
        let begun = context.begin();
        for statement in &begun {
            self.must(statement);
        }
        match context {
            Context::Meanwhile(level, changes) => {
                for sql in changes {
                    self.other.run(sql);
                }
                if one_in(&mut self.random, 2) {
                    self.other.run("VACUUM (TRUNCATE false) items");
                }
                self.history
                    .push(format!("{level} -- and the rest in another session"));
                self.history.extend(changes.iter().cloned());
            }
            Context::Locked => self
                .other
                .run("BEGIN; SELECT FROM items WHERE id % 4 = 1 FOR UPDATE"),
            _ => {}
        }
        begun
    }

    fn leave(&mut self, context: &Context) {
        if let Some(end) = context.end() {
            self.must(end);
        }
        if matches!(context, Context::Locked) {
            self.other.run("COMMIT");
        }
        self.must("RESET ROLE");
    }

    /// Runs a statement.
    fn answer(&mut self, run: &Run) -> Vec<Record> {
        let answer = run.answer(&mut self.session, &self.tables);
        answer.unwrap_or_else(|failure| self.fail_with(run, &failure))
    }

    fn plan(&mut self, run: &Run) -> String {
        let plan = run.plan(&mut self.session, &self.tables);
        plan.unwrap_or_else(|failure| self.fail_with(run, &failure))
    }

    fn fail_with(&self, run: &Run, failure: &Failure) -> ! {
        let told = run.told(&self.tables);
        self.fail(&format!("{told}\n{}", failure.sql), &failure.error)
    }
}

/// The rows of an answer that is nothing else.
fn rows(records: &[Record]) -> Vec<Row> {
    records.iter().map(|record| record.row).collect()
}

/// Whether a plan searches an index of vectors. Partitions name their indexes themselves.
fn searches(plan: &str) -> bool {
    let others = [
        "vq_one_id_idx",
        "vq_one_category_idx",
        "vq_two_id_idx",
        "vq_two_category_idx",
    ];
    let ours =
        |name: &str| name.starts_with("vq") && !others.iter().any(|other| name.starts_with(other));
    plan.split("Index Scan using ").skip(1).any(ours)
}

/// The first rows of an answer.
fn brief(records: &[Record]) -> String {
    let text = |Record { row, ids, values }: &Record| {
        let mut text = format!("({}, {}, {:?}", row.search, row.id, row.distance.0);
        if !ids.is_empty() || !values.is_empty() {
            write!(text, ", {ids:?}, {values:?}").unwrap();
        }
        text + ")"
    };
    let mut all = records
        .iter()
        .take(100)
        .map(text)
        .collect::<Vec<_>>()
        .join(" ");
    all.truncate(8_000);
    all
}
