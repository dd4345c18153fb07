//! A small grammar of searches, and how it is played. Everything is drawn from one seeded generator, and becomes SQL that says
//! the same in `psql`.
//!
//! | module | what it has |
//! |---|---|
//! | `world` | the tables that are searched: their columns, rows, and indexes; what is indexed: `world/target.rs` |
//! | `statement` | a search, and how its rows are fetched: its frames are in `statement/frame.rs`, limits of the distance in `statement/radius.rs`, its SQL in `statement/render.rs` |
//! | `computation` | windows, groups, aggregates, sets, and joins over a search; each with its SQL and its check |
//! | `mode` | settings of searches, and what each promises |
//! | `context` | transactions, isolation, other sessions |
//! | `access` | roles and their rights |
//! | `round` | tables and statements of one seed: what is compared with what |
//! | `tally` | what all rounds count |
//! | `run` | one way to run a statement |
//! | `verdict` | what an answer must have in common with that of a sequential scan |

pub mod access;
pub mod computation;
pub mod context;
pub mod mode;
pub mod round;
pub mod run;
pub mod statement;
pub mod tally;
pub mod verdict;
pub mod world;

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

pub use access::Access;
pub use context::Context;
pub use mode::{BY_TABLE, Mode};
pub use run::Run;
pub use statement::{Delivery, Frame, Side, Statement};
pub use verdict::{Distance, Promise, Row, judge};
pub use world::World;

/// True once in so many times.
pub fn one_in(random: &mut ChaCha8Rng, times: u32) -> bool {
    random.random_range(0..times) == 0
}

/// One of some values.
pub fn any<T: Clone>(random: &mut ChaCha8Rng, values: &[T]) -> T {
    values[random.random_range(0..values.len())].clone()
}
