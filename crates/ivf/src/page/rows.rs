//! Rows of a posting page read, written, and moved, where the [`Layout`] says that they are.

use super::{BODY, Layout, get, get_u16, get_u32, put};
use crate::candidate::Place;
use crate::{Row, Tid};
use distillvq_kernels::LANES;

impl Layout {
    /// Where the refine code of a row starts, if there are any.
    pub(crate) fn refine_of(&self, page: &[u8], i: usize) -> Place {
        if self.refine == 0 {
            return Place::default();
        }
        let (p, at) = self.refine_place(i);
        Place {
            block: self.refine_page(page, p),
            at: at as u16,
        }
    }

    /// The `p`-th refine page, [`NO_BLOCK`](super::NO_BLOCK) if there is none yet.
    pub(crate) fn refine_page(&self, page: &[u8], p: usize) -> u32 {
        get_u32(page, self.refine_link(p))
    }

    /// Sets the `p`-th refine page.
    pub(crate) fn put_refine_page(&self, page: &mut [u8], p: usize, block: u32) {
        put(page, self.refine_link(p), &block.to_le_bytes());
    }

    /// The TID of row `i`.
    pub(crate) fn tid(&self, page: &[u8], i: usize) -> Tid {
        Tid {
            block: get_u32(page, self.tid_blocks + 4 * i),
            offset: get_u16(page, self.tid_offsets + 2 * i),
        }
    }

    /// The codes of block `b`.
    pub(crate) fn codes<'a>(&self, page: &'a [u8], b: usize) -> &'a [u8] {
        let at = BODY + b * self.code_block;
        page.get(at..at + self.code_block).unwrap_or(&[])
    }

    /// The scale bytes of block `b`.
    pub(crate) fn scale_bytes<'a>(&self, page: &'a [u8], b: usize) -> Option<&'a [u8; LANES]> {
        page.get(self.scales + b * LANES..)?.first_chunk()
    }

    /// The norms of block `b`, `None` if the pages have none.
    pub(crate) fn norm_bytes<'a>(&self, page: &'a [u8], b: usize) -> Option<&'a [u8; 4 * LANES]> {
        if self.norms == 0 {
            return None;
        }
        page.get(self.norms + b * 4 * LANES..)?.first_chunk()
    }

    /// The norm of row `i`, `None` if the pages have none.
    pub(crate) fn norm(&self, page: &[u8], i: usize) -> Option<f32> {
        (self.norms > 0).then(|| f32::from_le_bytes(get(page, self.norms + 4 * i)))
    }

    /// Stores a row as row `i`. The row's codes are one a byte; missing ones count as 0.
    pub(crate) fn put_row(&self, page: &mut [u8], i: usize, row: &Row<'_>) {
        for s in 0..self.subquantizers {
            self.put_code(page, i, s, row.codes.get(s).copied().unwrap_or(0));
        }
        if self.code_block > 0 {
            put(page, self.scales + i, &[row.scale]);
        }
        if self.norms > 0 {
            put(page, self.norms + 4 * i, &row.norm.to_le_bytes());
        }
        self.put_tid(page, i, row.tid);
    }

    /// The codes of row `i`, one a byte, and its scale byte.
    pub(crate) fn codes_of(&self, page: &[u8], i: usize) -> (Vec<u8>, u8) {
        let codes = (0..self.subquantizers).map(|s| self.code(page, i, s));
        let [scale] = get(page, self.scales + i);
        (codes.collect(), scale)
    }

    /// Copies row `from` over row `to`.
    pub(crate) fn move_row(&self, page: &mut [u8], from: usize, to: usize) {
        for s in 0..self.subquantizers {
            let code = self.code(page, from, s);
            self.put_code(page, to, s, code);
        }
        if self.code_block > 0 {
            let scale: [u8; 1] = get(page, self.scales + from);
            put(page, self.scales + to, &scale);
        }
        if self.norms > 0 {
            let norm: [u8; 4] = get(page, self.norms + 4 * from);
            put(page, self.norms + 4 * to, &norm);
        }
        let tid = self.tid(page, from);
        self.put_tid(page, to, tid);
    }

    /// Stores the TID of row `i`.
    pub(crate) fn put_tid(&self, page: &mut [u8], i: usize, tid: Tid) {
        put(page, self.tid_blocks + 4 * i, &tid.block.to_le_bytes());
        put(page, self.tid_offsets + 2 * i, &tid.offset.to_le_bytes());
    }

    /// Code `s` of row `i`.
    pub(crate) fn code(&self, page: &[u8], i: usize, s: usize) -> u8 {
        let (at, shift) = self.code_place(i, s);
        let [byte] = get(page, at);
        if self.bits == 8 {
            byte
        } else {
            (byte >> shift) & 15
        }
    }

    fn put_code(&self, page: &mut [u8], i: usize, s: usize, code: u8) {
        let (at, shift) = self.code_place(i, s);
        if self.bits == 8 {
            put(page, at, &[code]);
        } else {
            let [byte] = get(page, at);
            put(page, at, &[byte & !(15 << shift) | (code & 15) << shift]);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::page::PAGE_SIZE;
    use crate::page::layout::tests::shape;
    use proptest::prelude::*;

    #[test]
    fn codes_lie_as_the_kernels_read_them() {
        for bits in [4, 8] {
            let layout = Layout::coded(shape(3, bits, false), 0).unwrap();
            let mut page = vec![0; PAGE_SIZE];
            // Row 32 + 20 is lane 20 of the second block; sub-quantizer 2 has code 11.
            let row = Row {
                list: 0,
                tid: Tid::default(),
                scale: 7,
                norm: 0.0,
                codes: &[0, 0, 11],
                refine: &[],
            };
            layout.put_row(&mut page, 52, &row);
            let mut expected = vec![0; layout.code_block];
            if bits == 4 {
                expected[2 * 16 + 4] = 11 << 4;
            } else {
                expected[2 * 32 + 20] = 11;
            }
            assert_eq!(layout.codes(&page, 1), expected);
            assert_eq!(layout.scale_bytes(&page, 1).unwrap()[20], 7);
        }
    }

    proptest! {
        #[test]
        fn rows_are_kept_and_moved_without_touching_others(
            m in 1..50usize, eight in any::<bool>(), norm in any::<bool>(),
            places in prop::collection::hash_set(0..32usize, 3), seed in any::<u8>(),
        ) {
            let layout = Layout::coded(shape(m, if eight { 8 } else { 4 }, norm), 0).unwrap();
            let mut page = vec![0; PAGE_SIZE];
            let places: Vec<usize> = places.into_iter().collect();
            let mask = if eight { 255 } else { 15 };
            let codes = |i: usize| -> Vec<u8> {
                (0..m).map(|s| (s * 31 + i * 17 + usize::from(seed)) as u8 & mask).collect()
            };
            let tid = |i: usize| Tid { block: 1 << 20 | i as u32, offset: 1 + i as u16 };
            for &i in &places {
                let codes = codes(i);
                let row = Row { list: 0, tid: tid(i), scale: i as u8, norm: i as f32, codes: &codes, refine: &[] };
                layout.put_row(&mut page, i, &row);
            }
            let holds = |page: &[u8], place: usize, i: usize| {
                let found: Vec<u8> = (0..m).map(|s| layout.code(page, place, s)).collect();
                found == codes(i)
                    && layout.tid(page, place) == tid(i)
                    && layout.scale_bytes(page, 0).unwrap()[place] == i as u8
                    && layout.norm(page, place) == norm.then_some(i as f32)
            };
            prop_assert!(places.iter().all(|&i| holds(&page, i, i)));
            layout.move_row(&mut page, places[0], places[1]);
            prop_assert!(holds(&page, places[1], places[0]));
            prop_assert!(holds(&page, places[2], places[2]));
        }
    }
}
