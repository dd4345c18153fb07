//! A small grammar of searches: the tables that they go over ([`World`]), the statements that hold them ([`Statement`]), the
//! settings that they are run with ([`Mode`]), and what an answer is worth ([`Promise`]).
//!
//! Everything is drawn from one seeded generator, and becomes SQL that says the same in `psql`.

pub mod mode;
pub mod statement;
pub mod verdict;
pub mod world;

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

pub use mode::{BY_TABLE, Mode};
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
