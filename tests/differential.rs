//! Random statements over random tables, answered by the index and by a sequential scan.
//!
//! Each round makes tables, indexes them, and draws statements from a grammar (`grammar/`). Each statement is answered by a
//! sequential scan, and by the index with all lists in all modes of `distillvq.iterative_scan`, and once with fewer lists or
//! other limits. It fails with the seed, the set-up and the statement.
//!
//! | variable | default | |
//! |---|---|---|
//! | `DISTILLVQ_ROUNDS` | 16 | rounds |
//! | `DISTILLVQ_SEED` | 1 | seed of the first one; each next one has the next number |
//!
//! # What must be the same, and what need not
//! Distances are compared bit by bit, ids as sets within ties. What README.md, docs/tuning.md and `distillvq_ivf::stream` promise:
//!
//! * In any mode each row is one that fulfils the conditions, at its very distance, and comes once. The rows are in order;
//!   only with `relaxed_order`, and only when everything else was given out, others follow, in order among themselves.
//! * With `relaxed_order` as many rows come as by a sequential scan, with all lists and also with few. So whatever needs all
//!   rows that fulfil the conditions has the very same ones. The other modes drop rows that come too late. Exempt are
//!   `distillvq.max_probes` with few lists, and limits of the distance, where a search ends when nothing nearer is plausible.
//! * An index over fewer than 1,000 rows compares all: its answers are those of the sequential scan, in any mode.
//! * Else codes say which rows are compared, and a row whose code is much worse than those of others is found late: three or
//!   more standard deviations (`StreamOptions::z`). So with all lists some rows may be missing before the end, and others from
//!   behind take their places: [`TOLERATED`] over all answers with all lists, as README.md promises. With fewer lists more may
//!   be; there only the other rules are checked. In some tables here codes hardly tell rows apart: most vectors lie within a
//!   thousandth of the longest, or on a line that one code covers. There errors are alike among neighbours, an answer can
//!   lack most of its rows, and what may be missed in a round is [`TOLERATED_IN_A_ROUND`]; in one dimension cosine
//!   distances differ by nothing but roundings.
//!
//! Where no plan uses an index, nothing is compared: rows that an index leaves out may be in the answer.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;
mod grammar;

use std::collections::BTreeMap;
use std::env;
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};

use common::{ALL, Database, Sql, server};
use distillvq_harness::Error;
use grammar::statement::Text;
use grammar::verdict::{Answers, Verdict};
use grammar::world::Layout;
use grammar::{
    BY_TABLE, Delivery, Distance, Frame, Mode, Row, Side, Statement, World, judge, one_in,
};
use postgres::Client;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// Statements a round.
const STATEMENTS: u32 = 24;
/// Share of the rows that may be missed with all lists: of vectors of one dimension, and of others.
const TOLERATED: [f64; 2] = [0.02, 0.01];
/// Share of the rows of one round that may be missed: more is no misfortune any more. Of at least so many rows.
const TOLERATED_IN_A_ROUND: (f64, usize) = (0.25, 1_000);
/// Rounds from which on shares of all of them say something.
const ENOUGH_ROUNDS: u64 = 16;
/// Share of the statements whose plan must use the index.
const BY_INDEX: f64 = 0.8;

/// What surrounds all answers to a statement.
enum Context {
    /// No transaction.
    None,
    Transaction,
    /// After changes in the same transaction.
    Uncommitted(Vec<String>),
    /// After changes that were rolled back to a savepoint.
    RolledBack(Vec<String>),
    /// Under a snapshot older than another session's changes, and perhaps its vacuum.
    Snapshot(Vec<String>),
    /// While another session locks rows.
    Locked,
}

/// What was counted.
#[derive(Default)]
struct Tally {
    /// By frame: statements whose plan used the index, and all.
    plans: BTreeMap<Frame, [u32; 2]>,
    /// Of one dimension, and of others: rows missed, and all.
    rows: [[usize; 2]; 2],
}

impl Tally {
    fn count(&mut self, dim: usize, verdict: Verdict) {
        let [missed, rows] = &mut self.rows[usize::from(dim > 1)];
        *missed += verdict.missed;
        *rows += verdict.rows;
    }

    fn all_rows(&self) -> [usize; 2] {
        [0, 1].map(|i| self.rows.iter().map(|counts| counts[i]).sum())
    }

    fn add(&mut self, other: &Tally) {
        for (frame, counts) in &other.plans {
            let own = self.plans.entry(*frame).or_default();
            (0..2).for_each(|i| own[i] += counts[i]);
        }
        for (own, counts) in self.rows.iter_mut().zip(other.rows) {
            (0..2).for_each(|i| own[i] += counts[i]);
        }
    }

    /// Fails if too many rows were missed, or too few plans used the index.
    fn keeps_promises(&self) {
        for ([missed, rows], tolerated) in self.rows.into_iter().zip(TOLERATED) {
            assert!(
                missed as f64 <= tolerated * rows as f64,
                "{missed} of {rows} rows missed"
            );
        }
        let sum = |i: usize| self.plans.values().map(|counts| counts[i]).sum::<u32>();
        assert!(
            f64::from(sum(0)) >= BY_INDEX * f64::from(sum(1)),
            "{:?}",
            self.plans
        );
    }
}

/// A round: its tables, its sessions, and what was run to get there.
struct Round {
    seed: u64,
    random: ChaCha8Rng,
    world: World,
    session: Client,
    other: Client,
    history: Vec<String>,
}

impl Round {
    fn new(db: &Database, seed: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut round = Round {
            seed,
            world: World::new(&mut random),
            random,
            session: db.session(),
            other: db.session(),
            history: Vec::new(),
        };
        let set_up = round.world.set_up(&mut round.random);
        round.make(set_up);
        round.session.run(
            "CREATE FUNCTION pg_temp.run(sql text) RETURNS TABLE (n int, id bigint, d float8) LANGUAGE plpgsql AS $$
                 BEGIN FOR n, id, d IN EXECUTE sql LOOP RETURN NEXT; END LOOP; END $$;
             SET plan_cache_mode = force_generic_plan; SET statement_timeout = '60s'",
        );
        if round.world.parallel && server().installation().version() >= 16 {
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
        if let Err(error) = self.session.batch_execute(sql) {
            self.fail(sql, &format!("{:?}", Error::from(error)));
        }
    }

    fn fail(&self, statement: &str, what: &str) -> ! {
        let mut text = format!(
            "{what}\n\nDISTILLVQ_SEED={} DISTILLVQ_ROUNDS=1\n{:?}\n",
            self.seed, self.world
        );
        for line in &self.history {
            writeln!(text, "{line};").unwrap();
        }
        panic!("{text}\n{statement}");
    }

    fn play(&mut self, tally: &mut Tally) {
        for _ in 0..STATEMENTS {
            if one_in(&mut self.random, 6) {
                self.change();
            }
            let session = &mut self.session;
            let mut distance = |sql: &str| {
                session
                    .query_opt(sql, &[])
                    .unwrap()
                    .and_then(|row| row.get(0))
            };
            let statement = Statement::new(&mut self.world, &mut self.random, &mut distance);
            self.compare(&statement, tally);
        }
    }

    /// Changes that stay, and perhaps a vacuum.
    fn change(&mut self) {
        let mut changes = self.world.changes(&mut self.random);
        match self.random.random_range(0..8) {
            0 | 1 => changes.push("VACUUM items".to_owned()),
            2 => changes.push(self.world.reindex()),
            _ => {}
        }
        self.make(changes);
    }

    /// Answers a statement in all ways.
    fn compare(&mut self, statement: &Statement, tally: &mut Tally) {
        let context = self.context(statement);
        let begun = self.enter(&context);
        let by_table = Run {
            settings: BY_TABLE.to_owned(),
            side: Side::Table,
            ..Run::of(statement, &begun)
        };
        let truth = self.answer(&by_table).rows;
        if self.by_an_index(&by_table, tally) {
            for iterative_scan in ["relaxed_order", "strict_order", "off"] {
                self.compare_in(Mode::all_lists(iterative_scan), &by_table, &truth, tally);
            }
            let mode = Mode::any(&mut self.random);
            self.compare_in(mode, &by_table, &truth, tally);
        }
        self.leave(&context);
    }

    /// Whether a statement's plan uses an index. Else rows that an index leaves out may be in the answer.
    fn by_an_index(&mut self, by_table: &Run, tally: &mut Tally) -> bool {
        let settings = Mode::all_lists("relaxed_order").sql();
        let run = Run {
            settings,
            side: Side::Index,
            ..by_table.clone()
        };
        let uses = searches(&self.answer(&run).plan);
        let [used, all] = tally.plans.entry(run.statement.frame).or_default();
        *used += u32::from(uses);
        *all += 1;
        uses
    }

    /// Answers a statement by the index, and compares.
    fn compare_in(&mut self, mode: Mode, by_table: &Run, truth: &[Row], tally: &mut Tally) {
        let by_index = Run {
            settings: mode.sql(),
            side: Side::Index,
            explain: false,
            ..by_table.clone()
        };
        let universe = Run {
            side: Side::Universe,
            explain: false,
            delivery: Delivery::Plain,
            ..by_table.clone()
        };
        let found = self.answer(&by_index).rows;
        let statement = by_table.statement;
        let (wanted, promise) = (
            statement.wanted(&self.world),
            mode.promise(&self.world, statement),
        );
        let answers = Answers {
            found: &found,
            truth,
            universe: &mut || self.answer(&universe).rows,
        };
        match judge(answers, wanted, promise) {
            Ok(verdict) => {
                if mode.probes == ALL {
                    tally.count(self.world.searched().1, verdict);
                }
            }
            Err(what) => {
                let rows = format!(
                    "by the index: {}\nby a scan: {}",
                    brief(&found),
                    brief(truth)
                );
                self.fail(&by_index.told(&self.world), &format!("{what}\n{rows}"))
            }
        }
    }

    fn context(&mut self, statement: &Statement) -> Context {
        let changes = self.world.changes(&mut self.random);
        let alone = self.world.layout == Layout::Temporary;
        match self.random.random_range(0..8) {
            0 => Context::Uncommitted(changes),
            1 => Context::RolledBack(changes),
            2 if !alone && !statement.locks() => Context::Snapshot(changes),
            3 if !alone && statement.skips_locked() => Context::Locked,
            4 => Context::Transaction,
            _ if statement.needs_transaction() => Context::Transaction,
            _ => Context::None,
        }
    }

    /// Returns what was run.
    fn enter(&mut self, context: &Context) -> Vec<String> {
        let begin = || vec!["BEGIN".to_owned()];
        let begun = match context {
            Context::None => Vec::new(),
            Context::Transaction | Context::Locked => begin(),
            Context::Uncommitted(changes) => [begin(), changes.clone()].concat(),
            Context::RolledBack(changes) => [
                begin(),
                vec!["SAVEPOINT s".to_owned()],
                changes.clone(),
                vec!["ROLLBACK TO s".to_owned()],
            ]
            .concat(),
            Context::Snapshot(_) => vec![
                "BEGIN ISOLATION LEVEL REPEATABLE READ".to_owned(),
                "SELECT count(*) FROM items".to_owned(),
            ],
        };
        for statement in &begun {
            self.must(statement);
        }
        match context {
            Context::Snapshot(changes) => {
                for sql in changes {
                    self.other.run(sql);
                }
                if one_in(&mut self.random, 2) {
                    self.other.run("VACUUM (TRUNCATE false) items");
                }
                self.history.push(
                    "BEGIN ISOLATION LEVEL REPEATABLE READ -- and the rest in another session"
                        .to_owned(),
                );
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
        match context {
            Context::None => {}
            Context::Locked => {
                self.other.run("COMMIT");
                self.must("COMMIT");
            }
            Context::Uncommitted(_) => self.must("ROLLBACK"),
            _ => self.must("COMMIT"),
        }
    }

    /// Runs a statement. In a transaction what it changes is rolled back.
    fn answer(&mut self, run: &Run) -> Answer {
        self.must(&run.settings);
        let text = run.text(&self.world);
        if !run.begun.is_empty() {
            self.must("SAVEPOINT run");
        }
        let answer = match &run.delivery {
            Delivery::Plain => self.plain(run, &text.sql, &text.sql),
            Delivery::Loop => {
                let looped = format!("SELECT * FROM pg_temp.run($sql${}$sql$)", text.sql);
                self.plain(run, &text.sql, &looped)
            }
            Delivery::Prepared => self.prepared(run, &text),
            Delivery::Cursor {
                scroll,
                pieces,
                changes,
            } => {
                let plan = self.plan(run, &text.sql);
                Answer {
                    plan,
                    rows: self.cursor(run, &text.sql, *scroll, pieces, changes),
                }
            }
        };
        if !run.begun.is_empty() {
            self.must("ROLLBACK TO run; RELEASE run");
        }
        if run.side != Side::Index && searches(&answer.plan) {
            self.fail(&text.sql, &format!("by an index: {}", answer.plan));
        }
        answer
    }

    fn plan(&mut self, run: &Run, sql: &str) -> String {
        if !run.explain {
            return String::new();
        }
        let lines = self.query(run, &format!("EXPLAIN (COSTS OFF) {sql}"));
        lines.iter().fold(String::new(), |all, line| {
            all + line.get::<_, &str>(0) + "\n"
        })
    }

    fn query(&mut self, run: &Run, sql: &str) -> Vec<postgres::Row> {
        match self.session.query(sql, &[]) {
            Ok(rows) => rows,
            Err(error) => self.fail(
                &format!("{}\n{sql}", run.told(&self.world)),
                &format!("{:?}", Error::from(error)),
            ),
        }
    }

    fn plain(&mut self, run: &Run, explained: &str, sql: &str) -> Answer {
        let plan = self.plan(run, explained);
        Answer {
            plan,
            rows: rows(&self.query(run, sql)),
        }
    }

    fn prepared(&mut self, run: &Run, text: &Text) -> Answer {
        let join = |part: fn(&(String, String)) -> &str| {
            text.parameters
                .iter()
                .map(part)
                .collect::<Vec<_>>()
                .join(", ")
        };
        let list = |values: String| {
            if values.is_empty() {
                values
            } else {
                format!("({values})")
            }
        };
        let (types, values) = (list(join(|p| &p.0)), list(join(|p| &p.1)));
        let nulls = list(vec!["NULL"; text.parameters.len()].join(", "));
        self.must(&format!("PREPARE s{types} AS {}", text.sql));
        if run.begun.is_empty() {
            self.query(run, &format!("EXECUTE s{nulls}"));
        }
        let execute = format!("EXECUTE s{values}");
        let answer = self.plain(run, &execute, &execute);
        self.must("DEALLOCATE s");
        answer
    }

    fn cursor(
        &mut self,
        run: &Run,
        sql: &str,
        scroll: bool,
        pieces: &[u32],
        changes: &[String],
    ) -> Vec<Row> {
        let kind = if scroll {
            "SCROLL CURSOR"
        } else {
            "NO SCROLL CURSOR"
        };
        self.must(&format!("DECLARE c {kind} FOR {sql}"));
        let mut found = Vec::new();
        for (piece, size) in pieces.iter().cycle().enumerate() {
            let more = rows(&self.query(run, &format!("FETCH {size} FROM c")));
            found.extend(&more);
            if more.len() < *size as usize {
                break;
            }
            if let Some(change) = changes.get(piece) {
                self.must(change);
            }
        }
        if scroll {
            let mut back = rows(&self.query(run, "FETCH BACKWARD ALL FROM c"));
            back.reverse();
            if back != found {
                self.fail(
                    &format!("{}\n{sql}", run.told(&self.world)),
                    &format!("forward {found:?}\nbackward {back:?}"),
                );
            }
        }
        self.must("CLOSE c");
        found
    }
}

/// Whether a plan searches an index of vectors. Partitions name their indexes themselves.
fn searches(plan: &str) -> bool {
    let ours = |name: &str| {
        name.starts_with("vq") && !name.contains("_id_idx") && !name.contains("_category_idx")
    };
    plan.split("Index Scan using ").skip(1).any(ours)
}

/// One answer to a statement.
#[derive(Clone, Debug)]
struct Run<'a> {
    statement: &'a Statement,
    /// What was run before, in the same transaction; without any there is no transaction.
    begun: &'a [String],
    settings: String,
    side: Side,
    delivery: Delivery,
    explain: bool,
}

impl<'a> Run<'a> {
    fn of(statement: &'a Statement, begun: &'a [String]) -> Self {
        Run {
            statement,
            begun,
            settings: String::new(),
            side: Side::Index,
            delivery: statement.delivery.clone(),
            explain: true,
        }
    }

    /// All of it, to be read and repeated.
    fn told(&self, world: &World) -> String {
        let text = self.text(world);
        format!(
            "{};\n{};\n{};\n{:?} {:?}",
            self.begun.join(";\n"),
            self.settings,
            text.sql,
            text.parameters,
            self.delivery
        )
    }

    fn text(&self, world: &World) -> Text {
        self.statement
            .text(world, self.side, self.delivery == Delivery::Prepared)
    }
}

/// The first rows of an answer.
fn brief(rows: &[Row]) -> String {
    let row = |row: &Row| format!("({}, {}, {:?})", row.search, row.id, row.distance.0);
    rows.iter().take(100).map(row).collect::<Vec<_>>().join(" ")
}

struct Answer {
    plan: String,
    rows: Vec<Row>,
}

fn rows(rows: &[postgres::Row]) -> Vec<Row> {
    let row = |row: &postgres::Row| Row {
        search: row.get(0),
        id: row.get(1),
        distance: Distance(row.get(2)),
    };
    rows.iter().map(row).collect()
}

fn number(variable: &str, default: u64) -> u64 {
    env::var(variable).map_or(default, |text| text.parse().unwrap())
}

#[test]
fn the_index_answers_as_a_sequential_scan() {
    let mut db = Database::new("differential");
    let mut tally = Tally::default();
    let first = number("DISTILLVQ_SEED", 1);
    let rounds = number("DISTILLVQ_ROUNDS", 16);
    // A round that fails says so at once, and the others go on.
    let failed = (first..first + rounds).filter(|&seed| !passes(&mut db, seed, &mut tally));
    assert_eq!(failed.collect::<Vec<_>>(), [0; 0], "rounds that failed");
    if rounds >= ENOUGH_ROUNDS {
        tally.keeps_promises();
    }
}

/// Plays a round.
fn passes(db: &mut Database, seed: u64, tally: &mut Tally) -> bool {
    let mut own = Tally::default();
    let play = || {
        let mut round = Round::new(db, seed);
        round.play(&mut own);
        let [missed, rows] = own.all_rows();
        let (tolerated, least) = TOLERATED_IN_A_ROUND;
        if rows >= least && missed as f64 > tolerated * rows as f64 {
            round.fail("", &format!("{missed} of {rows} rows missed"));
        }
        common::verified(db);
    };
    let passed = catch_unwind(AssertUnwindSafe(play)).is_ok();
    tally.add(&own);
    passed
}
