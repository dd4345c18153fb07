//! What is indexed: the column or an expression, and the condition of the index.

use distillvq_harness::Metric;
use rand_chacha::ChaCha8Rng;

use super::TestTables;
use crate::sqlgen::{any, one_in};

/// What is indexed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Column,
    /// The column, of type `vector`, as `halfvec`.
    Halved,
    /// Its first so many dimensions.
    Part(usize),
    /// The rows of one model, in a column that has vectors of other dimensions too.
    Model,
    /// An expression that fails for rows that the index's condition leaves out.
    Checked,
}

/// The condition of the index, which is one of every search.
pub fn predicate(target: Target, random: &mut ChaCha8Rng) -> Option<&'static str> {
    match target {
        Target::Model => Some("model = 1"),
        Target::Checked => Some("category > 0"),
        _ => one_in(random, 4).then(|| {
            any(
                random,
                &["category = 2", "price < 0.7", "category IS NOT NULL"],
            )
        }),
    }
}

impl TestTables {
    /// The type of the column.
    pub fn column_type(&self) -> String {
        match self.target {
            Target::Model => self.kind.to_owned(),
            _ => format!("{}({})", self.kind, self.dim),
        }
    }

    /// Type and dimensions of what is indexed.
    pub fn searched(&self) -> (&'static str, usize) {
        match self.target {
            Target::Column => (self.kind, self.dim),
            Target::Halved => ("halfvec", self.dim),
            Target::Model | Target::Checked => (self.kind, self.dim),
            Target::Part(dim) => (self.kind, dim),
        }
    }

    /// What is indexed, in a table called `alias`.
    pub fn target(&self, alias: &str) -> String {
        let (kind, dim) = self.searched();
        match self.target {
            Target::Column => format!("{alias}embedding"),
            Target::Halved => format!("({alias}embedding::halfvec({dim}))"),
            Target::Part(_) => format!("(subvector({alias}embedding, 1, {dim})::{kind}({dim}))"),
            Target::Model => format!("({alias}embedding::{kind}({dim}))"),
            Target::Checked => format!(
                "(subvector({alias}embedding, 1, {dim} + 0 * (1 / {alias}category))::{kind}({dim}))"
            ),
        }
    }

    /// Which rows an index holds; what it leaves out, documented, no search by it returns. The planner may put the index's
    /// condition behind an expression that costs no more, so this must not compute one that fails for other rows.
    pub fn indexed(&self, alias: &str) -> String {
        let target = self.target(alias);
        match (self.metric, self.searched().0) {
            (Metric::Cosine, "halfvec") => format!("l2_norm({target}) > 0"),
            (Metric::Cosine, _) => format!("vector_norm({target}) > 0"),
            _ => format!("{alias}embedding IS NOT NULL"),
        }
    }

    /// A row, as what follows FROM: none if there is none, or if no index would have it.
    pub fn row(&self, id: i64) -> String {
        format!(
            "items WHERE id = {id} AND {}",
            self.predicate.unwrap_or("true")
        )
    }
}
