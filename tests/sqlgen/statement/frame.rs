//! What stands around a search.

use rand_chacha::ChaCha8Rng;

use crate::sqlgen::computation::Computation;
use crate::sqlgen::{any, one_in};

/// What stands around a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Frame {
    Bare,
    Subquery,
    With,
    WithMaterialized,
    /// A search for every row of `queries`.
    Lateral,
    LeftLateral,
    /// The same as an expression, which gives one row.
    Scalar,
    Exists,
    In,
    /// Two searches, one after the other.
    UnionAll,
    /// Numbered by a window function, which LIMIT and OFFSET become conditions on.
    Window,
    Delete,
    Update,
    /// Into the table that is searched.
    Insert,
    /// A computation that may rely on the order of the search.
    Computed(Computation),
}

const FRAMES: [Frame; 14] = [
    Frame::Bare,
    Frame::Subquery,
    Frame::With,
    Frame::WithMaterialized,
    Frame::Lateral,
    Frame::LeftLateral,
    Frame::Scalar,
    Frame::Exists,
    Frame::In,
    Frame::UnionAll,
    Frame::Window,
    Frame::Delete,
    Frame::Update,
    Frame::Insert,
];

impl Frame {
    /// A random one.
    pub fn random(random: &mut ChaCha8Rng) -> Self {
        if one_in(random, 3) {
            Frame::Computed(Computation::random(random))
        } else if one_in(random, 3) {
            Frame::Bare
        } else {
            any(random, &FRAMES)
        }
    }

    /// The computation, if it is one.
    pub fn computation(self) -> Option<Computation> {
        match self {
            Frame::Computed(computation) => Some(computation),
            _ => None,
        }
    }

    pub fn is_lateral(self) -> bool {
        matches!(self, Frame::Lateral | Frame::LeftLateral | Frame::Scalar)
    }

    /// Whether rows of two inputs are joined by their distances.
    pub fn is_join(self) -> bool {
        matches!(self, Frame::Computed(Computation::Join(_)))
    }

    /// Whether rows are changed.
    pub fn changes(self) -> bool {
        matches!(self, Frame::Delete | Frame::Update | Frame::Insert)
    }

    /// Whether the rows come in the order of the search.
    pub fn keeps_order(self) -> bool {
        !matches!(
            self,
            Frame::Exists | Frame::In | Frame::Delete | Frame::Update
        )
    }
}
