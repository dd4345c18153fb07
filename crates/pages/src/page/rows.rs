//! Rows of a posting page: read, written and moved at the offsets of the [`Layout`].

use super::Layout;
use crate::bytes::{get_u16, get_u32, put};
use crate::row::{Row, SideLocation};
use crate::row_format::{Column, RowFormat, Stored};
use crate::tid::Tid;
use distillvq_kernels::block::{self, LANES};

/// Up to 32 rows of a posting page.
#[derive(Clone, Copy, Debug)]
pub struct Block<'a> {
    page: &'a [u8],
    layout: &'a Layout,
    index: usize,
}

impl<'a> Block<'a> {
    /// The values of a posting column, by its position in the format; empty for another one.
    #[inline]
    pub fn column(&self, position: usize) -> &'a [u8] {
        self.layout.column(self.page, position, self.index)
    }

    /// The TID of a lane. A lane without a row may have any.
    pub fn tid(&self, lane: usize) -> Tid {
        self.layout.tid(self.page, self.index * LANES + lane)
    }
}

impl Layout {
    /// The columns.
    pub fn format(&self) -> &RowFormat {
        &self.format
    }

    /// The `index`-th block of a posting page.
    #[inline]
    pub fn block<'a>(&'a self, page: &'a [u8], index: usize) -> Block<'a> {
        Block {
            page,
            layout: self,
            index,
        }
    }

    /// A posting column of the `b`-th block.
    #[inline]
    fn column<'a>(&self, page: &'a [u8], position: usize, b: usize) -> &'a [u8] {
        let (Some(start), Some(bytes)) =
            (self.starts.get(position), self.block_bytes.get(position))
        else {
            return &[];
        };
        let at = start + b * bytes;
        page.get(at..at + bytes).unwrap_or(&[])
    }

    fn column_mut<'a>(&self, page: &'a mut [u8], position: usize, b: usize) -> &'a mut [u8] {
        let start = self.starts.get(position).copied().unwrap_or_default();
        let bytes = self.block_bytes.get(position).copied().unwrap_or_default();
        let at = start + b * bytes;
        page.get_mut(at..at + bytes).unwrap_or(&mut [])
    }

    /// Location of the side column of the `i`-th row of posting page `owner`, if there is one.
    pub fn side_location(&self, page: &[u8], owner: u32, i: usize) -> SideLocation {
        if self.side == 0 {
            return SideLocation::default();
        }
        let (p, at) = self.side_position(i);
        SideLocation {
            block: self.side_page(page, p),
            owner,
            at: at as u16,
        }
    }

    /// The `p`-th side page, [`NO_BLOCK`](super::NO_BLOCK) if there is none yet.
    pub(crate) fn side_page(&self, page: &[u8], p: usize) -> u32 {
        get_u32(page, self.side_link(p))
    }

    /// Sets the `p`-th side page.
    pub(crate) fn put_side_page(&self, page: &mut [u8], p: usize, block: u32) {
        put(page, self.side_link(p), &block.to_le_bytes());
    }

    /// The TID of row `i`.
    pub fn tid(&self, page: &[u8], i: usize) -> Tid {
        Tid {
            block: get_u32(page, self.tid_blocks + 4 * i),
            offset: get_u16(page, self.tid_offsets + 2 * i),
        }
    }

    /// Stores the TID of row `i`.
    pub(crate) fn put_tid(&self, page: &mut [u8], i: usize, tid: Tid) {
        put(page, self.tid_blocks + 4 * i, &tid.block.to_le_bytes());
        put(page, self.tid_offsets + 2 * i, &tid.offset.to_le_bytes());
    }

    /// The posting columns of these pages with their positions.
    fn posting_columns(&self) -> impl Iterator<Item = (usize, &Column)> {
        let all = self.format.columns().iter().enumerate();
        all.filter(|(position, _)| self.has_column(*position))
    }

    /// A value of row `i`: of a posting column, by its position in the format, and of a plane.
    pub fn value(&self, page: &[u8], (position, plane): (usize, usize), i: usize) -> u32 {
        let bits = self
            .format
            .columns()
            .get(position)
            .map_or(8, |column| column.bits);
        let block = self.column(page, position, i / LANES);
        block::get(block, (plane, i % LANES), bits)
    }

    /// The values of a posting column of row `i`, as [`crate::Value::Bytes`] has them; none if these pages lack the column.
    pub fn values(&self, page: &[u8], position: usize, i: usize) -> Vec<u8> {
        let column = self.format.columns().get(position);
        let is_here = |column: &&Column| self.has_column(position) || self.is_side(column);
        let Some(column) = column.filter(is_here) else {
            return Vec::new();
        };
        let mut out = Vec::with_capacity(column.row_bytes());
        for plane in 0..usize::from(column.planes) {
            let value = self.value(page, (position, plane), i).to_le_bytes();
            out.extend_from_slice(value.get(..column.value_bytes()).unwrap_or_default());
        }
        out
    }

    fn is_side(&self, column: &Column) -> bool {
        self.has_side() && column.stored == Stored::Side
    }

    /// Stores the posting columns and the TID of a row as row `i`.
    pub(crate) fn put_row(&self, page: &mut [u8], i: usize, row: &Row<'_>) {
        for (position, column) in self.posting_columns() {
            let value = row.columns.get(position).copied().unwrap_or_default();
            let block = self.column_mut(page, position, i / LANES);
            for plane in 0..usize::from(column.planes) {
                block::put(
                    block,
                    (plane, i % LANES),
                    column.bits,
                    value.plane(plane, column),
                );
            }
        }
        self.put_tid(page, i, row.tid);
    }

    /// Copies row `from` over row `to`.
    pub(crate) fn move_row(&self, page: &mut [u8], from: usize, to: usize) {
        for (position, column) in self.posting_columns() {
            for plane in 0..usize::from(column.planes) {
                let value = self.value(page, (position, plane), from);
                let block = self.column_mut(page, position, to / LANES);
                block::put(block, (plane, to % LANES), column.bits, value);
            }
        }
        let tid = self.tid(page, from);
        self.put_tid(page, to, tid);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::page::PAGE_SIZE;
    use crate::page::layout::tests::format;
    use crate::row::Value;
    use crate::row_format::MAX_COLUMNS;
    use proptest::prelude::*;

    fn row<'a>(tid: Tid, codes: &'a [u8], byte: u8, word: f32) -> Row<'a> {
        let mut columns = [Value::default(); MAX_COLUMNS];
        columns[0] = Value::Bytes(codes);
        columns[1] = Value::Number(byte.into());
        columns[2] = Value::Number(word.to_bits());
        Row {
            list: 0,
            tid,
            columns,
        }
    }

    #[test]
    fn codes_lie_as_the_kernels_read_them() {
        for bits in [4, 8] {
            let layout = Layout::new(&format(3, bits, false, 0).unwrap()).unwrap();
            let mut page = vec![0; PAGE_SIZE];
            // Row 32 + 20 is lane 20 of the second block; sub-quantizer 2 has code 11.
            layout.put_row(&mut page, 52, &row(Tid::default(), &[0, 0, 11], 7, 0.0));
            let block = layout.block(&page, 1);
            let mut expected = vec![0; layout.block_bytes[0]];
            if bits == 4 {
                expected[2 * 16 + 4] = 11 << 4;
            } else {
                expected[2 * 32 + 20] = 11;
            }
            assert_eq!(block.column(0), expected);
            assert_eq!(block.column(1)[20], 7);
        }
    }

    proptest! {
        #[test]
        fn rows_are_kept_and_moved_without_touching_others(
            m in 1..50u16, eight in any::<bool>(), word in any::<bool>(),
            places in prop::collection::hash_set(0..32usize, 3), seed in any::<u8>(),
        ) {
            let layout = Layout::new(&format(m, if eight { 8 } else { 4 }, word, 0).unwrap()).unwrap();
            let mut page = vec![0; PAGE_SIZE];
            let places: Vec<usize> = places.into_iter().collect();
            let mask = if eight { 255 } else { 15 };
            let codes = |i: usize| -> Vec<u8> {
                (0..usize::from(m)).map(|s| (s * 31 + i * 17 + usize::from(seed)) as u8 & mask).collect()
            };
            let tid = |i: usize| Tid { block: 1 << 20 | i as u32, offset: 1 + i as u16 };
            for &i in &places {
                layout.put_row(&mut page, i, &row(tid(i), &codes(i), i as u8, i as f32));
            }
            let holds = |page: &[u8], place: usize, i: usize| {
                layout.values(page, 0, place) == codes(i)
                    && layout.tid(page, place) == tid(i)
                    && layout.values(page, 1, place) == [i as u8]
                    && (!word || layout.values(page, 2, place) == (i as f32).to_le_bytes())
            };
            prop_assert!(places.iter().all(|&i| holds(&page, i, i)));
            layout.move_row(&mut page, places[0], places[1]);
            prop_assert!(holds(&page, places[1], places[0]));
            prop_assert!(holds(&page, places[2], places[2]));
        }
    }
}
