//! Offsets of the parts of a posting page, computed from the columns of the rows.
//!
//! Body of a posting page of a list, with `n` blocks of 32 lanes ([`Layout`]):
//! ```text
//!   posting columns   per column: n × its block (`distillvq_kernels::block`)
//!   TID blocks        n × 32 × u32
//!   TID offsets       n × 32 × u16
//!   side pages        p × u32          (with a side column only)
//! ```
//! Posting pages of the exact list lack the columns that only rows in lists have ([`Stored`]). Row `i` is lane `i % 32` of block `i / 32`; rows `0..count` are in use,
//! without holes. Columns of lanes beyond `count` mean nothing.
//!
//! # The side column
//! It lies on pages of its own, `r` rows per page: that of row `i` is the `i % r`-th of the page that entry `i / r` of the
//! posting page's side pages names (0 = no row has needed it yet). Such a page belongs to one posting page: `list` is that
//! page's list, `next` its block. With a side column rows never move: a row that vacuum removes leaves a hole, a TID of
//! zeros, which a later row takes. So `0..count` may then have holes.

use super::{BODY, BODY_SIZE, EXACT_LIST, PG_HEADER_SIZE};
use crate::row_format::{MAX_COLUMNS, RowFormat, Stored};
use distillvq_kernels::block::LANES;
use std::ops::Range;

/// Offsets of the parts of a posting page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    pub(super) format: RowFormat,
    /// Offset of the first block of each column.
    pub(super) starts: [usize; MAX_COLUMNS],
    /// Bytes of a block of each column; 0 for a column that is not on these pages.
    pub(super) block_bytes: [usize; MAX_COLUMNS],
    blocks: usize,
    /// Rows that fit a page.
    capacity: usize,
    pub(super) tid_blocks: usize,
    pub(super) tid_offsets: usize,
    /// Bytes of the side column per row, 0: none.
    pub(super) side: usize,
    /// Whether it is that of the exact list.
    is_exact: bool,
}

impl Layout {
    /// Layout of the pages of lists; `None` if there are no columns, or not even one block of rows fits a page.
    pub fn new(format: &RowFormat) -> Option<Layout> {
        let side = format.side().map_or(0, |(_, column)| column.row_bytes());
        let layout = Layout::of(format, side, |_| true);
        (!format.columns().is_empty() && layout.blocks > 0).then_some(layout)
    }

    /// Layout of the pages of the exact list, where columns have the same positions; `None` if not even one block of rows fits a
    /// page.
    pub fn exact(format: &RowFormat) -> Option<Layout> {
        let layout = Layout::of(format, 0, |stored| stored == Stored::EveryPosting);
        (layout.blocks > 0).then_some(Layout {
            is_exact: true,
            ..layout
        })
    }

    fn of(format: &RowFormat, side: usize, is_here: impl Fn(Stored) -> bool) -> Layout {
        let mut block_bytes = [0; MAX_COLUMNS];
        for (bytes, column) in block_bytes.iter_mut().zip(format.columns()) {
            if is_here(column.stored) {
                *bytes = column.block_bytes();
            }
        }
        let block = block_bytes.iter().sum::<usize>() + 6 * LANES;
        let links = |blocks: usize| match side {
            0 => 0,
            _ => (blocks * LANES).div_ceil(rows_per_side_page(side)) * size_of::<u32>(),
        };
        let mut blocks = BODY_SIZE / block;
        while blocks * block + links(blocks) > BODY_SIZE {
            blocks -= 1;
        }
        let (mut starts, mut next) = ([0; MAX_COLUMNS], BODY);
        for (start, bytes) in starts.iter_mut().zip(block_bytes) {
            *start = next;
            next += blocks * bytes;
        }
        Layout {
            format: *format,
            starts,
            block_bytes,
            blocks,
            capacity: capacity(blocks * LANES, side),
            tid_blocks: next,
            tid_offsets: next + blocks * 4 * LANES,
            side,
            is_exact: false,
        }
    }

    /// The number that a list has on its pages.
    pub fn list_on_page(&self, list: u32) -> u32 {
        if self.is_exact { EXACT_LIST } else { list }
    }

    /// Whether rows have a side column.
    pub fn has_side(&self) -> bool {
        self.side > 0
    }

    /// Which side page of its posting page a row's side column is on, and its offset there.
    pub(crate) fn side_position(&self, i: usize) -> (usize, usize) {
        let each = rows_per_side_page(self.side);
        (i / each, BODY + i % each * self.side)
    }

    /// Number of side pages of this number of rows.
    pub fn side_pages(&self, rows: usize) -> usize {
        match (self.side, rows) {
            (0, _) | (_, 0) => 0,
            (_, rows) => self.side_position(rows - 1).0 + 1,
        }
    }

    /// Offset of the number of the `p`-th side page.
    pub(super) fn side_link(&self, p: usize) -> usize {
        self.tid_offsets + self.blocks * 2 * LANES + size_of::<u32>() * p
    }

    /// The bytes that are read of the first rows of a page: the headers, and the posting columns at the positions that `is_read`
    /// accepts. Ranges of other columns are empty.
    pub fn bytes_read(
        &self,
        rows: u64,
        is_read: impl Fn(usize) -> bool,
    ) -> [Range<usize>; MAX_COLUMNS + 1] {
        let blocks = (rows.max(1).div_ceil(LANES as u64) as usize).min(self.blocks);
        std::array::from_fn(|part| match part.checked_sub(1) {
            None => PG_HEADER_SIZE..BODY,
            Some(position) if is_read(position) => {
                let start = self.starts.get(position).copied().unwrap_or(BODY);
                let bytes = self.block_bytes.get(position).copied().unwrap_or(0);
                start..start + blocks * bytes
            }
            Some(_) => BODY..BODY,
        })
    }

    /// Whether these pages have a posting column.
    pub(super) fn has_column(&self, position: usize) -> bool {
        self.block_bytes
            .get(position)
            .is_some_and(|bytes| *bytes > 0)
    }

    /// Rows that fit a page: a multiple of 32, or with a side column somewhat less: as many as fill side pages.
    pub fn capacity(&self) -> usize {
        self.capacity
    }
}

/// Rows whose side columns fit a page.
fn rows_per_side_page(side: usize) -> usize {
    (BODY_SIZE / side.max(1)).max(1)
}

/// Rows of a page that has room for `room`: as many, or only those that fill all side pages but a last, nearly empty one, if
/// more rows per page result.
fn capacity(room: usize, side: usize) -> usize {
    if side == 0 {
        return room;
    }
    let each = rows_per_side_page(side);
    let full = room - room % each;
    let pages = |rows: usize| 1 + rows.div_ceil(each);
    if full * pages(room) > room * pages(full) {
        full
    } else {
        room
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests {
    use super::super::PAGE_SIZE;
    use super::*;
    use crate::row_format::{Column, Stored};

    /// A column of `m` values of `bits` bits, one of a byte, perhaps one of 32 bits, and perhaps a side column.
    pub(in super::super) fn format(m: u16, bits: u8, word: bool, side: u16) -> Option<RowFormat> {
        let column = |id, planes, bits| Column {
            id,
            planes,
            bits,
            stored: Stored::Posting,
        };
        let mut columns = vec![column(1, m, bits), column(2, 1, 8)];
        columns.extend(word.then(|| column(3, 1, 32)));
        columns.extend((side > 0).then_some(Column {
            id: 4,
            planes: side,
            bits: 8,
            stored: Stored::Side,
        }));
        RowFormat::new(&columns)
    }

    fn layout(m: u16, bits: u8, word: bool, side: u16) -> Option<Layout> {
        Layout::new(&format(m, bits, word, side)?)
    }

    #[test]
    fn capacities() {
        let capacity = |m, bits, word| layout(m, bits, word, 0).map(|l| l.capacity());
        let exact = |format: &RowFormat| Layout::exact(format).map(|layout| layout.capacity());
        assert_eq!(exact(&RowFormat::default()), Some(1344));
        assert_eq!(exact(&format(16, 4, true, 100).unwrap()), Some(1344));
        assert_eq!(Layout::new(&RowFormat::default()), None);
        assert_eq!(capacity(16, 4, false), Some(512));
        assert_eq!(capacity(96, 4, false), Some(128));
        assert_eq!(capacity(96, 4, true), Some(128));
        assert_eq!(capacity(192, 4, true), Some(64));
        assert_eq!(capacity(478, 4, true), Some(32));
        assert_eq!(capacity(239, 8, true), Some(32));
        assert_eq!(capacity(0, 4, false), None);
        assert_eq!(capacity(500, 4, true), None);
        assert_eq!(capacity(260, 8, true), None);
        assert_eq!(capacity(u16::MAX, 32, true), None);
        assert_eq!(capacity(16, 5, true), None);
    }

    #[test]
    fn pages_waste_less_than_a_block() {
        for (bits, most) in [(4, 478), (8, 239)] {
            for (m, word) in (1..=most).flat_map(|m| [(m, false), (m, true)]) {
                let layout = layout(m, bits, word, 0).unwrap();
                let block = layout.block_bytes.iter().sum::<usize>() + 6 * LANES;
                let used = layout.tid_offsets + 2 * layout.capacity();
                assert_eq!(used, BODY + layout.capacity() / LANES * block);
                assert!(
                    used <= PAGE_SIZE && used + block > PAGE_SIZE,
                    "{m} {bits} {word}"
                );
            }
        }
    }

    #[test]
    fn side_pages_are_full() {
        // Bytes of the side column, sub-quantizers, rows of a page, its side pages: one more row would begin a page that
        // stays nearly empty.
        for (side, m, rows, pages) in [
            (338, 96, 120, 5),
            (674, 192, 60, 5),
            (1346, 384, 30, 5),
            (114, 25, 355, 5),
        ] {
            let layout = layout(m, 4, false, side).unwrap();
            assert_eq!(
                (layout.capacity(), layout.side_pages(layout.capacity())),
                (rows, pages),
                "{side}"
            );
        }
    }

    #[test]
    fn side_columns_do_not_overlap() {
        for side in [1, 9, 100, 338, 674, 1346, 4000, 8128] {
            let layout = layout(16, 4, true, side).unwrap();
            let pages = layout.side_pages(layout.capacity());
            assert!(layout.side_link(pages) <= PAGE_SIZE);
            let mut next = (0, BODY);
            for (p, at) in (0..layout.capacity()).map(|i| layout.side_position(i)) {
                assert!((p, at) == next || (p, at) == (next.0 + 1, BODY));
                assert!(p < pages && at + usize::from(side) <= PAGE_SIZE);
                next = (p, at + usize::from(side));
            }
            assert_eq!((layout.side_pages(0), layout.side_pages(1)), (0, 1));
        }
    }
}
