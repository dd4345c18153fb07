//! Addresses of rows of the table.

/// Address of a row in the table: page and line number. Offset 0 is no row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tid {
    /// Block of the table.
    pub block: u32,
    /// Line number in the block, from 1; with [`SECOND`] for the second entry of the row.
    pub offset: u16,
}

/// Marks the address of the second entry of a row that is in two lists. Line numbers are far smaller.
const SECOND: u16 = 1 << 15;

impl Tid {
    /// The address of the second entry of this row.
    #[must_use]
    pub fn second(self) -> Tid {
        Tid {
            offset: self.offset | SECOND,
            ..self
        }
    }

    /// Whether it is that of a second entry.
    pub fn is_second(self) -> bool {
        self.offset & SECOND != 0
    }

    /// The address of the row, whichever of its entries this is.
    #[must_use]
    pub fn row(self) -> Tid {
        Tid {
            offset: self.offset & !SECOND,
            ..self
        }
    }
}
