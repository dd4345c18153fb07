//! Addresses of rows of the table.

/// Address of a row in the table: page and line number. Offset 0 is no row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tid {
    /// Block of the table.
    pub block: u32,
    /// Line number in the block, from 1.
    pub offset: u16,
}
