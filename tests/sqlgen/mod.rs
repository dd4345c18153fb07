//! Generates random searches from one seeded generator, as SQL that can be repeated in `psql`.
//!
//! | module | contents |
//! |---|---|
//! | `test_tables` | tables: columns, rows, and indexes; indexed expressions: `test_tables/target.rs` |
//! | `statement` | a search, and how its rows are fetched; frames: `statement/frame.rs`, distance limits: `statement/radius.rs`, SQL: `statement/render.rs` |
//! | `computation` | windows, groups, aggregates, set operations, and joins over a search, each with its SQL and its check |
//! | `search_settings` | settings of searches, and their guarantees |
//! | `context` | transactions, isolation, other sessions |
//! | `access` | roles and their privileges |
//! | `round` | tables and statements of one seed, and the comparisons |
//! | `tally` | counters of all rounds |
//! | `run` | runs a statement |
//! | `oracle` | compares an answer with that of a sequential scan |

pub mod access;
pub mod computation;
pub mod context;
pub mod oracle;
pub mod round;
pub mod run;
pub mod search_settings;
pub mod statement;
pub mod tally;
pub mod test_tables;

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

pub use access::Access;
pub use context::Context;
pub use oracle::{Distance, Guarantee, Row, check_answer};
pub use run::Run;
pub use search_settings::{BY_TABLE, SearchSettings};
pub use statement::{Delivery, Frame, Side, Statement};
pub use test_tables::TestTables;

/// True once in so many times.
pub fn one_in(random: &mut ChaCha8Rng, times: u32) -> bool {
    random.random_range(0..times) == 0
}

/// One of some values.
pub fn any<T: Clone>(random: &mut ChaCha8Rng, values: &[T]) -> T {
    values[random.random_range(0..values.len())].clone()
}
