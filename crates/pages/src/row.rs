//! A row to store, and the location of its side column.

use crate::row_format::{Column, MAX_COLUMNS, RowFormat};
use crate::tid::Tid;

/// The values of a column of one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// One value per byte; values of 16 and 32 bits are little-endian.
    Bytes(&'a [u8]),
    /// The value of a column with one plane.
    Number(u32),
}

impl Default for Value<'_> {
    fn default() -> Self {
        Value::Number(0)
    }
}

impl Value<'_> {
    /// Whether it has as many values as the column.
    pub(crate) fn fits(&self, column: &Column) -> bool {
        match self {
            Value::Bytes(bytes) => bytes.len() == column.row_bytes(),
            Value::Number(_) => column.planes == 1,
        }
    }

    /// The value of a plane; missing ones count as 0.
    pub(crate) fn plane(&self, plane: usize, column: &Column) -> u32 {
        match self {
            Value::Bytes(bytes) => {
                let width = column.value_bytes();
                let bytes = bytes.get(plane * width..).unwrap_or_default().iter();
                let shifted = bytes
                    .take(width)
                    .zip(0..)
                    .map(|(byte, i)| u32::from(*byte) << (8 * i));
                shifted.fold(0, |value, byte| value | byte)
            }
            Value::Number(number) if plane == 0 => *number,
            Value::Number(_) => 0,
        }
    }
}

/// A row to store.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Row<'a> {
    /// Its list; the number of lists stands for the exact list.
    pub list: u32,
    /// Its address.
    pub tid: Tid,
    /// Values in the order of the columns of the index; those that the pages of its list lack are ignored.
    pub columns: [Value<'a>; MAX_COLUMNS],
}

impl<'a> Row<'a> {
    /// The bytes of the side column, empty if the format has none.
    pub(crate) fn side(&self, format: &RowFormat) -> &'a [u8] {
        let value = format.side().and_then(|(i, _)| self.columns.get(i));
        match value {
            Some(Value::Bytes(bytes)) => bytes,
            _ => &[],
        }
    }
}

/// Location of the side column of a row: page and offset.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SideLocation {
    /// The page, 0 if there is none.
    pub block: u32,
    /// The posting page of the row, which the side page names too.
    pub owner: u32,
    /// Offset of the first byte.
    pub at: u16,
}
