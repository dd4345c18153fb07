//! Statements: a search, the query around it, and how its rows are fetched.

mod frame;
mod radius;
mod render;

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

use super::oracle::Wanted;
use super::test_tables::{Layout, QUERIES, TestTables};
use super::{any, one_in};
pub use frame::Frame;
use radius::{Bound, Form, Radius};
use render::Renderer;

/// Who is to answer a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// A search by the index.
    Index,
    /// A sequential scan, of the rows that an index holds.
    Table,
    /// The same, of all rows that fulfil the conditions, whatever LIMIT and OFFSET are.
    Universe,
}

/// The vector that is searched for.
#[derive(Clone, Debug)]
enum Query {
    /// A constant, or a parameter.
    Value(String),
    /// That of a row of the table, by a sub-select.
    OfRow(i64),
    /// That of a row of `queries`, by a sub-select.
    Listed(i32),
    /// That of the outer row.
    Outer,
}

/// A condition on other columns.
#[derive(Clone, Debug)]
enum Filter {
    Sql(&'static str),
    Category(String),
    Ids(i64, i64),
    OuterCategory,
}

/// What a search goes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Table,
    /// With `labels`, which drops rows.
    Join,
    LeftJoin,
    /// The parts of a divided table.
    Union,
}

/// How the rows are fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    Plain,
    /// By a prepared statement with a generic plan, executed for NULLs before.
    Prepared,
    /// In pieces, with changes between them; a cursor that scrolls goes back at the end.
    Cursor {
        scroll: bool,
        pieces: Vec<u32>,
        changes: Vec<String>,
    },
    /// By a loop in PL/pgSQL.
    Loop,
}

/// A statement that returns numbers of searches, ids of rows, and distances.
#[derive(Clone, Debug)]
pub struct Statement {
    pub frame: Frame,
    pub delivery: Delivery,
    source: Source,
    query: Query,
    /// Whether the query stands before the column.
    swapped: bool,
    filters: Vec<Filter>,
    radius: Option<Radius>,
    limit: Option<i64>,
    offset: Option<i64>,
    /// Whether the id settles ties.
    by_id: bool,
    lock: Option<&'static str>,
    /// Whether the planner may hash: otherwise it sorts, or relies on the order of the index.
    hashes: bool,
}

/// SQL with its parameters.
pub struct Text {
    pub sql: String,
    /// Types and values; empty if values stand in the SQL.
    pub parameters: Vec<(String, String)>,
}

impl Statement {
    /// One at random. `distance` evaluates an expression that gives one.
    pub fn new(
        tables: &mut TestTables,
        random: &mut ChaCha8Rng,
        distance: &mut dyn FnMut(&str) -> Option<f64>,
    ) -> Self {
        let frame = Frame::random(random);
        let mut statement = Statement {
            frame,
            delivery: Delivery::Plain,
            source: source(tables, frame, random),
            query: query(tables, frame, random),
            swapped: one_in(random, 5),
            filters: filters(tables, frame, random),
            radius: None,
            limit: limit(frame, random),
            offset: one_in(random, 5).then(|| random.random_range(0..40)),
            by_id: one_in(random, 6),
            lock: None,
            hashes: one_in(random, 4),
        };
        if frame == Frame::Scalar {
            statement.limit = Some(1);
        }
        if one_in(random, 3) {
            statement.radius = Some(statement.some_radius(tables, random, distance));
        }
        statement.delivery = statement.some_delivery(tables, random);
        statement.lock = statement.some_lock(random);
        statement
    }

    /// The same with a query of other dimensions than the index has.
    pub fn of_other_dimensions(self, tables: &TestTables, random: &mut ChaCha8Rng) -> Self {
        let dim = tables.searched().1;
        let other = any(random, &[dim + 1, 2 * dim + 1, (dim / 2).max(1)]);
        let other = if other == dim { dim + 2 } else { other };
        Statement {
            query: Query::Value(tables.query_of(other, random)),
            ..self
        }
    }

    /// What a LIMIT and an OFFSET leave of each search.
    pub fn wanted(&self, tables: &TestTables) -> Wanted {
        Wanted {
            offset: self.offset.unwrap_or(0) as usize,
            by_id: self.by_id && self.frame.keeps_order(),
            ordered: self.frame.keeps_order(),
            mixed: self.by_id || tables.is_divided(),
        }
    }

    /// Settings of the planner that belong to it, for all sides.
    pub fn settings(&self) -> String {
        let hashes = if self.hashes { "on" } else { "off" };
        let loops = if self.frame.is_join() && !self.hashes {
            "off"
        } else {
            "on"
        };
        format!(
            "SET enable_hashagg = {hashes}; SET enable_hashjoin = {hashes}; SET enable_nestloop = {loops}"
        )
    }

    /// Whether it changes rows while they are fetched.
    pub fn changes_meanwhile(&self) -> bool {
        matches!(&self.delivery, Delivery::Cursor { changes, .. } if !changes.is_empty())
    }

    /// Whether the distance is limited.
    pub fn has_radius(&self) -> bool {
        self.radius.is_some()
    }

    /// Whether it can be run in a transaction beside one that changes the same rows.
    pub fn locks(&self) -> bool {
        self.lock.is_some() || self.frame.changes() || self.changes_meanwhile()
    }

    /// Whether rows that another transaction locks are left out.
    pub fn skips_locked(&self) -> bool {
        self.lock.is_some_and(|lock| lock.ends_with("SKIP LOCKED"))
    }

    /// Whether it is of no use without a transaction, or must be rolled back.
    pub fn needs_transaction(&self) -> bool {
        self.locks() || matches!(self.delivery, Delivery::Cursor { .. })
    }

    fn some_radius(
        &self,
        tables: &TestTables,
        random: &mut ChaCha8Rng,
        distance: &mut dyn FnMut(&str) -> Option<f64>,
    ) -> Radius {
        let mut text = Renderer::of_values(Side::Table);
        let bound = match Bound::special(random) {
            Some(bound) => bound,
            None if self.frame.is_lateral() => {
                let value = || Bound::Value("1.5".to_owned());
                any(random, &[Bound::Outer, value()])
            }
            None => {
                let query = self.query(tables, &mut text);
                let (target, operator) = (tables.target(""), tables.metric.operator());
                let row = tables.row(tables.some_id(random));
                let sql = format!("SELECT {target} {operator} {query} FROM {row}");
                Bound::Value(distance(&sql).map_or("NULL".to_owned(), |x| format!("'{x:?}'")))
            }
        };
        let form = Form::random(random);
        Radius { form, bound }
    }

    fn some_delivery(&self, tables: &mut TestTables, random: &mut ChaCha8Rng) -> Delivery {
        match random.random_range(0..6) {
            0 | 1 => Delivery::Prepared,
            2 if !self.frame.changes() => Delivery::Cursor {
                scroll: one_in(random, 2),
                pieces: (0..4).map(|_| random.random_range(1..60)).collect(),
                changes: if one_in(random, 2) {
                    tables.changes(random)
                } else {
                    Vec::new()
                },
            },
            3 if !self.frame.changes() => Delivery::Loop,
            _ => Delivery::Plain,
        }
    }

    fn some_lock(&self, random: &mut ChaCha8Rng) -> Option<&'static str> {
        let scrolls = matches!(self.delivery, Delivery::Cursor { scroll: true, .. });
        // Rows changed meanwhile cannot be locked any more: which ones come before that depends on the order of ties.
        let may = matches!(self.frame, Frame::Bare | Frame::Subquery)
            && self.source != Source::Union
            && !scrolls
            && !self.changes_meanwhile();
        (may && one_in(random, 5)).then(|| {
            any(
                random,
                &[
                    "FOR UPDATE OF i",
                    "FOR SHARE OF i",
                    "FOR UPDATE OF i SKIP LOCKED",
                ],
            )
        })
    }
}

fn source(tables: &TestTables, frame: Frame, random: &mut ChaCha8Rng) -> Source {
    let plain = frame.changes() || frame.is_lateral();
    match random.random_range(0..8) {
        0 if !plain => Source::Join,
        1 if !plain => Source::LeftJoin,
        2 | 3 if !plain && tables.is_divided() => Source::Union,
        _ => Source::Table,
    }
}

fn query(tables: &TestTables, frame: Frame, random: &mut ChaCha8Rng) -> Query {
    if frame.is_lateral() {
        return Query::Outer;
    }
    match random.random_range(0..8) {
        0 => Query::OfRow(tables.some_id(random)),
        1 => Query::Listed(random.random_range(0..QUERIES)),
        _ => Query::Value(tables.query(random)),
    }
}

fn limit(frame: Frame, random: &mut ChaCha8Rng) -> Option<i64> {
    if frame.computation().is_some() && one_in(random, 2) {
        return None;
    }
    match random.random_range(0..10) {
        0 => None,
        1 => Some(random.random_range(0..3)),
        2 => Some(random.random_range(100..4_000)),
        _ => Some(random.random_range(1..60)),
    }
}

fn filters(tables: &TestTables, frame: Frame, random: &mut ChaCha8Rng) -> Vec<Filter> {
    const SQL: [&str; 15] = [
        "category IS NULL",
        "category IN (1, 3)",
        "price < 0.2",
        "price IS NOT NULL",
        "price BETWEEN 0.3 AND 0.6::float4",
        "note LIKE 'note 4%'",
        "note = 'early'",
        "string_to_array(note, ' ') && '{7,early}'",
        "string_to_array(note, ' ') @> '{note}'",
        "note > 'note 5' AND category = ANY ('{0,2,NULL}')",
        "i.id % 7 = 3",
        "i.embedding IS NOT NULL",
        "category = (SELECT c FROM queries WHERE n = 1)",
        "i.id IN (SELECT item FROM labels WHERE label = 1)",
        "NOT EXISTS (SELECT FROM labels WHERE item = i.id AND label = 2)",
    ];
    let mut filters = Vec::new();
    if frame.is_lateral() && one_in(random, 3) {
        filters.push(Filter::OuterCategory);
    }
    while one_in(random, 3) && filters.len() < 3 {
        let first = tables.some_id(random);
        filters.push(match random.random_range(0..4) {
            0 => Filter::Category(any(random, &["0", "1", "3", "77", "NULL"]).to_owned()),
            1 => Filter::Ids(first, first + random.random_range(0..500)),
            _ => Filter::Sql(any(random, &SQL)),
        });
    }
    filters
}
