//! Addresses of rows of the table.

/// Address of a row in the table: page and line number. Offset 0 is no row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tid {
    /// Block of the table.
    pub block: u32,
    /// Line number in the block, from 1. Its highest bit is set in the address of a second entry.
    pub offset: u16,
}

/// Bit of the line number that marks the second entry of a row in two lists. Line numbers of heap tables are far smaller.
const SECOND_ENTRY_FLAG: u16 = 1 << 15;

impl Tid {
    /// The address of the second entry of the row.
    #[must_use]
    pub fn second(self) -> Tid {
        Tid {
            offset: self.offset | SECOND_ENTRY_FLAG,
            ..self
        }
    }

    /// Whether this is the address of a second entry.
    pub fn is_second(self) -> bool {
        self.offset & SECOND_ENTRY_FLAG != 0
    }

    /// The address of the row of this entry.
    #[must_use]
    pub fn row(self) -> Tid {
        Tid {
            offset: self.offset & !SECOND_ENTRY_FLAG,
            ..self
        }
    }
}
