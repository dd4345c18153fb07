//! Context of a statement: transactions, isolation, and other sessions.

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

use super::test_tables::Layout;
use super::{Statement, TestTables, any};

/// How a transaction begins.
pub const LEVELS: [&str; 3] = [
    "BEGIN ISOLATION LEVEL READ COMMITTED",
    "BEGIN ISOLATION LEVEL REPEATABLE READ",
    SERIALIZABLE,
];
pub const SERIALIZABLE: &str = "BEGIN ISOLATION LEVEL SERIALIZABLE";

/// What surrounds all answers to a statement.
pub enum Context {
    /// No transaction.
    None,
    Transaction(&'static str),
    /// After changes in the same transaction.
    Uncommitted(&'static str, Vec<String>),
    /// After changes that were rolled back to a savepoint.
    RolledBack(Vec<String>),
    /// After another session's changes, and perhaps its vacuum, which began later.
    Meanwhile(&'static str, Vec<String>),
    /// While another session locks rows.
    Locked,
}

impl Context {
    /// A random one that a statement can be run in.
    pub fn random(statement: &Statement, tables: &mut TestTables, random: &mut ChaCha8Rng) -> Self {
        let changes = tables.changes(random);
        let alone = tables.layout == Layout::Temporary;
        let level = any(random, &LEVELS);
        match random.random_range(0..8) {
            0 => Context::Uncommitted(level, changes),
            1 => Context::RolledBack(changes),
            2 if !alone && !statement.locks() => Context::Meanwhile(level, changes),
            3 if !alone && statement.skips_locked() => Context::Locked,
            4 => Context::Transaction(level),
            _ if statement.needs_transaction() => Context::Transaction(level),
            _ => Context::None,
        }
    }

    /// What the session runs before its answers.
    pub fn begin(&self) -> Vec<String> {
        let begin = |level: &str| vec![level.to_owned()];
        match self {
            Context::None => Vec::new(),
            Context::Locked => begin("BEGIN"),
            Context::Transaction(level) => begin(level),
            Context::Uncommitted(level, changes) => [begin(level), changes.clone()].concat(),
            Context::RolledBack(changes) => [
                begin("BEGIN"),
                begin("SAVEPOINT s"),
                changes.clone(),
                begin("ROLLBACK TO s"),
            ]
            .concat(),
            // Later levels than READ COMMITTED see the rows as they are now.
            Context::Meanwhile(level, _) => {
                [begin(level), begin("SELECT count(*) FROM items")].concat()
            }
        }
    }

    /// What the session runs after its answers.
    pub fn end(&self) -> Option<&'static str> {
        match self {
            Context::None => None,
            Context::Uncommitted(..) => Some("ROLLBACK"),
            _ => Some("COMMIT"),
        }
    }
}
