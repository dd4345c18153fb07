//! Computations over a search that may rely on its order: a wrong order gives wrong results here, not only rows in another
//! order.
//!
//! A search is approximate, so its results are not compared with those over all rows. Instead each computation shows the rows
//! that it read, and is computed again from them ([`Computation::check`]). What it shows is then compared with a sequential
//! scan as any search is ([`Shown`]).
//!
//! A new kind of statement is a variant in one of the files here: its SQL, which returns the columns of [`Record`], and its
//! check.

mod aggregate;
mod group;
mod join;
mod set;
mod window;

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

use super::any;
use super::oracle::{Distance, Row};
pub use aggregate::Aggregate;
pub use group::Group;
pub use join::Join;
pub use set::Set;
pub use window::Window;

/// A row of an answer: a row of a search, or what was computed, as each computation says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub row: Row,
    pub ids: Vec<i64>,
    pub values: Vec<Distance>,
}

/// The parts of a computation's SQL.
pub struct Inputs {
    /// A search for `id`, `d`, and `category`.
    pub search: String,
    /// The `id` and `d` of rows by [`is_other`], which are not searched for.
    pub other: String,
}

/// The condition of [`is_other`].
pub const OTHER_SQL: &str = "i.id % 3 = 0";

/// Whether a row of the universe is also one of the exact rows that a search is combined with.
fn is_other(row: &Row) -> bool {
    row.id % 3 == 0
}

/// What an answer shows of the rows that it was computed from.
#[derive(Debug)]
pub enum Shown {
    /// All rows of the search, perhaps in the order of the distance.
    All { rows: Vec<Row>, ordered: bool },
    /// Some distances, which depend on all rows, perhaps in order.
    Some { rows: Vec<Row>, ordered: bool },
}

/// What is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Computation {
    Window(Window),
    Group(Group),
    Aggregate(Aggregate),
    Set(Set),
    Join(Join),
}

impl Computation {
    /// A random one.
    pub fn random(random: &mut ChaCha8Rng) -> Self {
        match random.random_range(0..5) {
            0 => Computation::Window(any(random, &Window::ALL)),
            1 => Computation::Group(any(random, &Group::ALL)),
            2 => Computation::Aggregate(any(random, &Aggregate::ALL)),
            3 => Computation::Set(Set::random(random)),
            _ => Computation::Join(any(random, &Join::ALL)),
        }
    }

    /// A statement that returns the columns of a [`Record`].
    pub fn sql(self, inputs: &Inputs) -> String {
        let Inputs { search, other } = inputs;
        match self {
            Computation::Window(window) => window.sql(search),
            Computation::Group(group) => group.sql(search),
            Computation::Aggregate(aggregate) => aggregate.sql(search),
            Computation::Set(set) => set.sql(search, other),
            Computation::Join(join) => join.sql(search, other),
        }
    }

    /// Computes an answer again from the rows that it shows. `universe` has all rows that fulfil the conditions. An error
    /// says what is wrong.
    pub fn check(self, records: &[Record], universe: &[Row]) -> Result<Shown, String> {
        match self {
            Computation::Window(window) => window.check(records),
            Computation::Group(group) => group.check(records, universe),
            Computation::Aggregate(aggregate) => aggregate.check(records, universe),
            Computation::Set(set) => set.check(records, universe),
            Computation::Join(join) => join.check(records, universe),
        }
    }
}

/// An error with its reason, unless something is so.
fn ensure(so: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if so { Ok(()) } else { Err(what()) }
}

fn sorted(distances: impl IntoIterator<Item = Distance>) -> Vec<Distance> {
    let mut distances: Vec<Distance> = distances.into_iter().collect();
    distances.sort_unstable();
    distances
}

fn distances(records: &[Record]) -> impl Iterator<Item = Distance> {
    records.iter().map(|record| record.row.distance)
}

fn rows(records: &[Record]) -> Vec<Row> {
    records.iter().map(|record| record.row).collect()
}

/// Rows of these ids and distances.
fn rows_of(ids: &[i64], distances: &[Distance]) -> Vec<Row> {
    let row = |(&id, &distance): (&i64, &Distance)| Row {
        search: 0,
        distance,
        id,
    };
    ids.iter().zip(distances).map(row).collect()
}
