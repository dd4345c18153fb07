//! Where things are on a posting page, as the shape of the codes has it. No byte is looked at here.
//!
//! Body of a posting page of a list, with `n` blocks of 32 lanes ([`Layout`]):
//! ```text
//!   code blocks   n × code block as in `distillvq_kernels`
//!   scale bytes   n × 32
//!   norms         n × 32 × f32     (L2 only)
//!   TID blocks    n × 32 × u32
//!   TID offsets   n × 32 × u16
//!   refine pages  p × u32          (with refine codes only)
//! ```
//! Posting pages of the exact list hold TIDs only. Row `i` is lane `i % 32` of block `i / 32`; rows `0..count` are in use,
//! without holes. Codes, scales and norms of lanes beyond `count` mean nothing.
//!
//! # Refine codes
//! They lie on pages of their own, `r` a page: the code of row `i` is the `i % r`-th of the page that entry `i / r` of the
//! posting page's refine pages names (0 = no row has needed it yet). Such a page belongs to one posting page: `list` is that
//! page's list, `next` its block. With refine codes rows never move: a row that vacuum removes leaves a hole, a TID of zeros,
//! which a later row takes. So `0..count` may then have holes.

use super::{BODY, BODY_SIZE, HEADER_SIZE, PAGE_SIZE};
use crate::CodeShape;
use distillvq_kernels::LANES;
use std::ops::Range;

/// Where the parts of a posting page are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    pub(super) subquantizers: usize,
    pub(super) bits: u8,
    /// Bytes of one block of codes; 0 on pages of the exact list.
    pub(crate) code_block: usize,
    blocks: usize,
    /// Rows that fit a page.
    capacity: usize,
    pub(super) scales: usize,
    /// 0: no norms.
    pub(super) norms: usize,
    pub(super) tid_blocks: usize,
    pub(super) tid_offsets: usize,
    /// Bytes of a refine code, 0: none.
    pub(super) refine: usize,
}

impl Layout {
    /// Layout of the pages of lists; `None` if not even one block of such codes fits a page, or no refine code of so many
    /// bytes (0 = none).
    pub fn coded(shape: CodeShape, refine: usize) -> Option<Layout> {
        let m = shape.subquantizers;
        if m == 0 || m > PAGE_SIZE || !matches!(shape.bits, 4 | 8) {
            return None;
        }
        let layout = Layout::new(m, shape.bits, shape.block_bytes(), shape.has_norm, refine);
        (layout.blocks > 0 && refine <= BODY_SIZE).then_some(layout)
    }

    /// Layout of the pages of the exact list: TIDs only.
    pub fn exact() -> Layout {
        Layout::new(0, 4, 0, false, 0)
    }

    fn new(
        subquantizers: usize,
        bits: u8,
        code_block: usize,
        has_norm: bool,
        refine: usize,
    ) -> Layout {
        let scale_block = if code_block > 0 { LANES } else { 0 };
        let norm_block = if has_norm { 4 * LANES } else { 0 };
        let block = code_block + scale_block + norm_block + 6 * LANES;
        let links = |blocks: usize| match refine {
            0 => 0,
            _ => (blocks * LANES).div_ceil(refine_codes(refine)) * size_of::<u32>(),
        };
        let mut blocks = BODY_SIZE / block;
        while blocks * block + links(blocks) > BODY_SIZE {
            blocks -= 1;
        }
        let scales = BODY + blocks * code_block;
        let norms = scales + blocks * scale_block;
        let tid_blocks = norms + blocks * norm_block;
        Layout {
            subquantizers,
            bits,
            code_block,
            blocks,
            capacity: capacity(blocks * LANES, refine),
            scales,
            norms: if has_norm { norms } else { 0 },
            tid_blocks,
            tid_offsets: tid_blocks + blocks * 4 * LANES,
            refine,
        }
    }

    /// Whether rows have refine codes.
    pub(crate) fn has_refine(&self) -> bool {
        self.refine > 0
    }

    /// Which refine page of its posting page a row's refine code is on, and where on that page.
    pub(crate) fn refine_place(&self, i: usize) -> (usize, usize) {
        let each = refine_codes(self.refine);
        (i / each, BODY + i % each * self.refine)
    }

    /// Number of refine pages that so many rows need.
    pub(crate) fn refine_pages(&self, rows: usize) -> usize {
        match (self.refine, rows) {
            (0, _) | (_, 0) => 0,
            (_, rows) => self.refine_place(rows - 1).0 + 1,
        }
    }

    /// Where the `p`-th refine page is named.
    pub(super) fn refine_link(&self, p: usize) -> usize {
        self.tid_offsets + self.blocks * 2 * LANES + size_of::<u32>() * p
    }

    /// The bytes that scoring the first rows of a page reads.
    pub(crate) fn scored(&self, rows: u64) -> [Range<usize>; 4] {
        let blocks = (rows.max(1).div_ceil(LANES as u64) as usize).min(self.blocks);
        let has_norms = usize::from(self.norms > 0);
        [
            HEADER_SIZE..BODY,
            BODY..BODY + blocks * self.code_block,
            self.scales..self.scales + blocks * LANES,
            self.norms..self.norms + has_norms * blocks * 4 * LANES,
        ]
    }

    /// The byte of a code and the shift of its nibble (4 bits).
    pub(super) fn code_place(&self, i: usize, s: usize) -> (usize, u32) {
        let (block, lane) = (BODY + i / LANES * self.code_block, i % LANES);
        if self.bits == 8 {
            return (block + s * LANES + lane, 0);
        }
        let half = LANES / 2;
        let shift = if lane < half { 0 } else { 4 };
        (block + s * half + lane % half, shift)
    }

    /// Rows that fit a page: a multiple of 32, or with refine codes somewhat less: as many as fill refine pages.
    pub fn capacity(&self) -> usize {
        self.capacity
    }
}

/// Refine codes of so many bytes on a page.
fn refine_codes(refine: usize) -> usize {
    (BODY_SIZE / refine.max(1)).max(1)
}

/// Rows of a page that has room for `room`: as many, or only those that fill all refine pages but a last, nearly empty one, if
/// so more rows fall to a page on the whole.
fn capacity(room: usize, refine: usize) -> usize {
    if refine == 0 {
        return room;
    }
    let each = refine_codes(refine);
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
    use super::super::MOST_REFINE_BYTES;
    use super::*;
    use distillvq_model::{MAX_DIM, max_subquantizers, refine_bytes};
    use distillvq_training::auto_subquantizers;

    pub(in crate::page) fn shape(subquantizers: usize, bits: u8, has_norm: bool) -> CodeShape {
        CodeShape {
            subquantizers,
            bits,
            has_norm,
        }
    }

    #[test]
    fn capacities() {
        let capacity = |m, bits, norm| Layout::coded(shape(m, bits, norm), 0).map(|l| l.capacity());
        assert_eq!(Layout::exact().capacity(), 1344);
        assert_eq!(capacity(16, 4, false), Some(512));
        assert_eq!(capacity(96, 4, false), Some(128));
        assert_eq!(capacity(96, 4, true), Some(128));
        assert_eq!(capacity(192, 4, true), Some(64));
        assert_eq!(capacity(478, 4, true), Some(32));
        assert_eq!(capacity(239, 8, true), Some(32));
        assert_eq!(capacity(0, 4, false), None);
        assert_eq!(capacity(500, 4, true), None);
        assert_eq!(capacity(260, 8, true), None);
        assert_eq!(capacity(usize::MAX, 8, true), None);
        assert_eq!(capacity(16, 5, true), None);
    }

    #[test]
    fn every_shape_of_a_model_fits_and_wastes_less_than_a_block() {
        for (bits, most) in [(4, 478), (8, 239)] {
            assert_eq!(most, distillvq_model::max_subquantizers(bits));
            for (m, norm) in (1..=most).flat_map(|m| [(m, false), (m, true)]) {
                let shape = shape(m, bits, norm);
                let layout = Layout::coded(shape, 0).unwrap();
                let block = shape.block_bytes() + LANES * if norm { 11 } else { 7 };
                let used = layout.tid_offsets + 2 * layout.capacity();
                assert_eq!(used, BODY + layout.capacity() / LANES * block);
                assert!(used <= PAGE_SIZE && used + block > PAGE_SIZE, "{shape:?}");
            }
        }
    }

    #[test]
    fn codes_of_every_dimension_fit() {
        for (dim, bits) in (1..=MAX_DIM).flat_map(|dim| [(dim, 4), (dim, 8)]) {
            let most = max_subquantizers(bits).min(dim);
            let auto = auto_subquantizers(dim, bits);
            assert!(auto <= most, "{dim} {bits}");
            let refine = refine_bytes(dim);
            for (m, norm) in [auto, most]
                .into_iter()
                .flat_map(|m| [(m, false), (m, true)])
            {
                let shape = shape(m, bits, norm);
                assert!(Layout::coded(shape, 0).is_some(), "{dim} {shape:?}");
                let refined = Layout::coded(shape, refine).is_some();
                assert_eq!(refined, refine <= MOST_REFINE_BYTES, "{dim} {shape:?}");
            }
        }
    }

    #[test]
    fn refine_pages_are_full() {
        // Dimensions, sub-quantizers, rows of a page, its refine pages: one more row would begin a page that stays empty.
        for (dim, m, rows, pages) in [
            (384, 96, 120, 5),
            (768, 192, 60, 5),
            (1536, 384, 30, 5),
            (100, 25, 355, 5),
        ] {
            let layout =
                Layout::coded(shape(m, 4, false), distillvq_model::refine_bytes(dim)).unwrap();
            assert_eq!(
                (layout.capacity(), layout.refine_pages(layout.capacity())),
                (rows, pages),
                "{dim}"
            );
        }
    }

    #[test]
    fn refine_codes_have_places_of_their_own() {
        for refine in [1, 9, 100, 338, 674, 1346, 4000, 8128] {
            let layout = Layout::coded(shape(16, 4, true), refine).unwrap();
            let pages = layout.refine_pages(layout.capacity());
            assert!(layout.refine_link(pages) <= PAGE_SIZE);
            let places = (0..layout.capacity()).map(|i| layout.refine_place(i));
            let mut next = (0, BODY);
            for (p, at) in places {
                assert!((p, at) == next || (p, at) == (next.0 + 1, BODY));
                assert!(p < pages && at + refine <= PAGE_SIZE);
                next = (p, at + refine);
            }
            assert_eq!(layout.refine_pages(0), 0);
            assert_eq!(layout.refine_pages(1), 1);
        }
        assert_eq!(Layout::coded(shape(16, 4, true), 8129), None);
    }
}
