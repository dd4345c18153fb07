//! The columns that an index keeps of each row in a list, beside its TID.
//!
//! Every row has a TID, so the format does not list it; rows of the exact list have only the columns of
//! [`Stored::EveryPosting`] beside it. Posting columns lie on the posting pages in the order of the format, in blocks of 32 rows
//! as [`distillvq_kernels::block`] describes. The side column lies on pages of its own, which are read only for the rows that
//! need it.

use crate::bytes::{BODY_SIZE, get, get_u16, put};
use distillvq_kernels::block;

/// Maximum number of columns.
pub const MAX_COLUMNS: usize = 16;
/// Bytes of a column in the metapage.
const COLUMN_SIZE: usize = 8;

/// Which pages hold a column.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Stored {
    /// The posting pages of the lists, but not those of the exact list.
    #[default]
    Posting = 0,
    /// Pages of their own.
    Side = 1,
    /// All posting pages.
    EveryPosting = 2,
}

/// One column: `planes` values of `bits` bits per row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Column {
    /// What the column means, chosen by the crate that interprets it.
    pub id: u8,
    /// Values per row.
    pub planes: u16,
    /// Bits per value: 1, 4, 8, 16 or 32; 8 for a side column.
    pub bits: u8,
    /// Which pages hold it.
    pub stored: Stored,
}

impl Column {
    /// Bytes of a value in [`crate::Value::Bytes`].
    pub(crate) fn value_bytes(&self) -> usize {
        usize::from(self.bits).div_ceil(8)
    }

    /// Bytes of a row's values in [`crate::Value::Bytes`].
    pub fn row_bytes(&self) -> usize {
        usize::from(self.planes) * self.value_bytes()
    }

    /// Bytes of a block of 32 rows on a posting page.
    pub fn block_bytes(&self) -> usize {
        match self.stored {
            Stored::Posting | Stored::EveryPosting => block::bytes(self.planes.into(), self.bits),
            Stored::Side => 0,
        }
    }

    fn is_valid(&self) -> bool {
        let is_possible = match self.stored {
            Stored::Posting | Stored::EveryPosting => block::WIDTHS.contains(&self.bits),
            Stored::Side => self.bits == 8 && usize::from(self.planes) <= BODY_SIZE,
        };
        self.planes > 0 && is_possible
    }
}

/// The columns of an index, at most one of which is a side column.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RowFormat {
    columns: [Column; MAX_COLUMNS],
    len: u8,
}

impl RowFormat {
    /// A format of these columns; `None` if there cannot be such columns.
    pub fn new(columns: &[Column]) -> Option<RowFormat> {
        let mut format = RowFormat::default();
        for (i, column) in columns.iter().enumerate() {
            if format.position(column.id).is_some() || !column.is_valid() {
                return None;
            }
            if column.stored == Stored::Side && format.side().is_some() {
                return None;
            }
            *format.columns.get_mut(i)? = *column;
            format.len += 1;
        }
        Some(format)
    }

    /// The columns, in the order of the pages.
    pub fn columns(&self) -> &[Column] {
        self.columns
            .get(..usize::from(self.len))
            .unwrap_or_default()
    }

    /// Position of the column with an id.
    pub fn position(&self, id: u8) -> Option<usize> {
        self.columns().iter().position(|column| column.id == id)
    }

    /// The column with an id.
    pub fn column(&self, id: u8) -> Option<&Column> {
        self.columns().iter().find(|column| column.id == id)
    }

    /// Position of the side column, and the column.
    pub fn side(&self) -> Option<(usize, &Column)> {
        let mut all = self.columns().iter().enumerate();
        all.find(|(_, column)| column.stored == Stored::Side)
    }

    /// Whether rows in lists have columns that those of the exact list lack.
    pub(crate) fn has_list_columns(&self) -> bool {
        let is_of_lists = |column: &Column| column.stored != Stored::EveryPosting;
        self.columns().iter().any(is_of_lists)
    }

    /// The columns that rows of the exact list have too.
    pub(crate) fn exact_columns(&self) -> impl Iterator<Item = &Column> {
        let is_there = |column: &&Column| column.stored == Stored::EveryPosting;
        self.columns().iter().filter(is_there)
    }

    /// Reads the format at an offset of the metapage.
    pub(crate) fn read(page: &[u8], at: usize, len: u8) -> Option<RowFormat> {
        let column = |i: usize| {
            let at = at + i * COLUMN_SIZE;
            let [id, stored, bits] = get(page, at);
            let stored = match stored {
                0 => Stored::Posting,
                1 => Stored::Side,
                2 => Stored::EveryPosting,
                _ => return None,
            };
            Some(Column {
                id,
                planes: get_u16(page, at + 4),
                bits,
                stored,
            })
        };
        let columns: Option<Vec<Column>> = (0..usize::from(len)).map(column).collect();
        RowFormat::new(&columns?)
    }

    /// Writes the format at an offset of the metapage.
    pub(crate) fn write(&self, page: &mut [u8], at: usize) {
        put(page, at, &[0; MAX_COLUMNS * COLUMN_SIZE]);
        for (i, column) in self.columns().iter().enumerate() {
            let at = at + i * COLUMN_SIZE;
            put(page, at, &[column.id, column.stored as u8, column.bits]);
            put(page, at + 4, &column.planes.to_le_bytes());
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn column(id: u8, planes: u16, bits: u8, stored: Stored) -> Column {
        Column {
            id,
            planes,
            bits,
            stored,
        }
    }

    #[test]
    fn formats_are_kept_and_impossible_ones_refused() {
        let posting = column(1, 7, 4, Stored::Posting);
        let side = column(2, 100, 8, Stored::Side);
        let format = RowFormat::new(&[posting, side]).unwrap();
        let mut page = vec![7; 512];
        format.write(&mut page, 100);
        assert_eq!(RowFormat::read(&page, 100, 2), Some(format));
        let every = column(9, 2, 32, Stored::EveryPosting);
        let all = RowFormat::new(&[posting, every, side]).unwrap();
        let mut other = page.clone();
        all.write(&mut other, 100);
        assert_eq!(RowFormat::read(&other, 100, 3), Some(all));
        assert_eq!((every.block_bytes(), every.row_bytes()), (256, 8));
        assert!(all.has_list_columns() && !RowFormat::new(&[every]).unwrap().has_list_columns());
        assert_eq!(RowFormat::read(&page, 100, 1), RowFormat::new(&[posting]));
        assert_eq!((format.position(2), format.position(3)), (Some(1), None));
        assert_eq!(
            (
                posting.block_bytes(),
                posting.row_bytes(),
                side.block_bytes()
            ),
            (128, 7, 0)
        );
        let impossible: [&[Column]; 6] = [
            &[posting, posting],
            &[side, column(3, 5, 8, Stored::Side)],
            &[column(1, 0, 8, Stored::Posting)],
            &[column(1, 1, 5, Stored::Posting)],
            &[column(1, 9, 16, Stored::Side)],
            &[column(1, 9000, 8, Stored::Side)],
        ];
        assert!(
            impossible
                .iter()
                .all(|columns| RowFormat::new(columns).is_none())
        );
        let many: Vec<Column> = (0..17)
            .map(|id| column(id, 1, 1, Stored::Posting))
            .collect();
        assert!(RowFormat::new(&many[..16]).is_some() && RowFormat::new(&many).is_none());
    }
}
