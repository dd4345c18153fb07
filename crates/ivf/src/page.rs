//! The bytes of a page: its head, and the places of rows in posting pages.
//!
//! # Page map (format version 1, little-endian)
//! ```text
//!    0 ..   24   PostgreSQL's page header
//!   24 ..   40   head { kind u8, format u8, count u16, list u32, next u32, flags u32 }
//!   40 ..   64   reserved, zero (rows then start on a cache line)
//!   64 .. 8192   body, no hole
//! ```
//! `kind` 0 is a page that was never initialised: legal, and empty. Block 0 is the metapage, so `next` 0 means "none".
//! Links only ever lead to higher block numbers, because a chain grows by pages appended to the file: a chain cannot be
//! endless, and the order of a chain is the order of its block numbers.
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

use crate::search::Place;
use crate::{CodeShape, Row, Tid};
use distillvq_kernels::LANES;
use std::ops::Range;

/// Size of a page.
pub const PAGE_SIZE: usize = 8192;
/// Bytes at the start of a page which belong to PostgreSQL.
pub const HEADER_SIZE: usize = 24;
/// Where the body of a page starts.
pub(crate) const BODY: usize = 64;
/// Bytes of the body of a page.
pub(crate) const BODY_SIZE: usize = PAGE_SIZE - BODY;
/// The longest refine code that fits a page.
pub const MOST_REFINE_BYTES: usize = BODY_SIZE;
/// "No page" in links. Block 0 is the metapage.
pub(crate) const NO_BLOCK: u32 = 0;
/// Format of the pages this library writes.
pub(crate) const PAGE_FORMAT: u8 = 1;

/// What a page is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// Never initialised.
    Empty = 0,
    /// Block 0.
    Meta = 1,
    /// A piece of the model's bytes.
    Model = 2,
    /// Entries of lists.
    Directory = 3,
    /// Rows of one list.
    Posting = 4,
    /// Refine codes of the rows of one posting page.
    Refine = 5,
}

/// The head of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// What the page is for.
    pub kind: Kind,
    /// Rows (posting), entries (directory), bytes (model).
    pub count: u16,
    /// The list (posting), or the ordinal of the page in its extent or chain.
    pub list: u32,
    /// Next page of the chain, or [`NO_BLOCK`].
    pub next: u32,
}

impl Head {
    /// Head of an empty posting page at the end of a chain.
    pub fn posting(list: u32) -> Head {
        Head {
            kind: Kind::Posting,
            count: 0,
            list,
            next: NO_BLOCK,
        }
    }

    /// Head of a page with the refine codes of a posting page.
    pub fn refine(list: u32, owner: u32) -> Head {
        Head {
            kind: Kind::Refine,
            count: 0,
            list,
            next: owner,
        }
    }

    /// Reads the head of a page; an unknown kind or format, or a page of the wrong size, is an error text.
    pub fn read(page: &[u8]) -> Result<Head, &'static str> {
        if page.len() != PAGE_SIZE {
            return Err("the page has a wrong size");
        }
        let [kind, format] = get(page, 24);
        let kind = match kind {
            0 => Kind::Empty,
            1 => Kind::Meta,
            2 => Kind::Model,
            3 => Kind::Directory,
            4 => Kind::Posting,
            5 => Kind::Refine,
            _ => return Err("unknown kind of page"),
        };
        if kind != Kind::Empty && format != PAGE_FORMAT {
            return Err("unknown page format");
        }
        Ok(Head {
            kind,
            count: get_u16(page, 26),
            list: get_u32(page, 28),
            next: get_u32(page, 32),
        })
    }

    /// Writes the head into a page.
    pub fn write(&self, page: &mut [u8]) {
        let format = if self.kind == Kind::Empty {
            0
        } else {
            PAGE_FORMAT
        };
        put(page, 24, &[self.kind as u8, format]);
        put(page, 26, &self.count.to_le_bytes());
        put(page, 28, &self.list.to_le_bytes());
        put(page, 32, &self.next.to_le_bytes());
        put(page, 36, &[0; 4]);
    }
}

/// `N` bytes at an offset; zeros beyond the end of the page.
pub(crate) fn get<const N: usize>(page: &[u8], at: usize) -> [u8; N] {
    page.get(at..)
        .and_then(|rest| rest.first_chunk::<N>())
        .copied()
        .unwrap_or([0; N])
}

/// A little-endian u16 at an offset.
pub(crate) fn get_u16(page: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(get(page, at))
}

/// A little-endian u32 at an offset.
pub(crate) fn get_u32(page: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(get(page, at))
}

/// A little-endian u64 at an offset.
pub(crate) fn get_u64(page: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(get(page, at))
}

/// Stores bytes at an offset; nothing is stored if they do not fit.
pub(crate) fn put(page: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = page.get_mut(at..at.saturating_add(bytes.len())) {
        place.copy_from_slice(bytes);
    }
}

/// Where the parts of a posting page are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    subquantizers: usize,
    bits: u8,
    /// Bytes of one block of codes; 0 on pages of the exact list.
    pub(crate) code_block: usize,
    blocks: usize,
    /// Rows that fit a page.
    capacity: usize,
    scales: usize,
    /// 0: no norms.
    norms: usize,
    tid_blocks: usize,
    tid_offsets: usize,
    /// Bytes of a refine code, 0: none.
    refine: usize,
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

    /// Number of refine pages that so many rows need.
    pub(crate) fn refine_pages(&self, rows: usize) -> usize {
        match (self.refine, rows) {
            (0, _) | (_, 0) => 0,
            (_, rows) => self.refine_place(rows - 1).0 + 1,
        }
    }

    /// The `p`-th refine page, [`NO_BLOCK`] if there is none yet.
    pub(crate) fn refine_page(&self, page: &[u8], p: usize) -> u32 {
        get_u32(page, self.refine_link(p))
    }

    /// Sets the `p`-th refine page.
    pub(crate) fn put_refine_page(&self, page: &mut [u8], p: usize, block: u32) {
        put(page, self.refine_link(p), &block.to_le_bytes());
    }

    fn refine_link(&self, p: usize) -> usize {
        self.tid_offsets + self.blocks * 2 * LANES + size_of::<u32>() * p
    }

    /// Rows that fit a page: a multiple of 32, or with refine codes somewhat less: as many as fill refine pages.
    pub fn capacity(&self) -> usize {
        self.capacity
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

    /// The byte of a code and the shift of its nibble (4 bits).
    fn code_place(&self, i: usize, s: usize) -> (usize, u32) {
        let (block, lane) = (BODY + i / LANES * self.code_block, i % LANES);
        if self.bits == 8 {
            return (block + s * LANES + lane, 0);
        }
        let half = LANES / 2;
        let shift = if lane < half { 0 } else { 4 };
        (block + s * half + lane % half, shift)
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
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shape(subquantizers: usize, bits: u8, has_norm: bool) -> CodeShape {
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
        assert_eq!(capacity(480, 4, true), Some(32));
        assert_eq!(capacity(240, 8, true), Some(32));
        assert_eq!(capacity(0, 4, false), None);
        assert_eq!(capacity(500, 4, true), None);
        assert_eq!(capacity(260, 8, true), None);
        assert_eq!(capacity(usize::MAX, 8, true), None);
        assert_eq!(capacity(16, 5, true), None);
    }

    #[test]
    fn every_shape_of_a_model_fits_and_wastes_less_than_a_block() {
        for (bits, most) in [(4, 480), (8, 240)] {
            assert_eq!(most, distillvq_quantizer::max_subquantizers(bits));
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
                Layout::coded(shape(m, 4, false), distillvq_quantizer::refine_bytes(dim)).unwrap();
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

    #[test]
    fn heads_are_kept_and_strange_ones_refused() {
        let mut page = vec![0; PAGE_SIZE];
        assert_eq!(Head::read(&page).unwrap().kind, Kind::Empty);
        let head = Head {
            count: 17,
            next: 99,
            ..Head::posting(5)
        };
        head.write(&mut page);
        assert_eq!(Head::read(&page), Ok(head));
        assert!(page[..HEADER_SIZE].iter().all(|&byte| byte == 0));
        page[24] = 77;
        assert!(Head::read(&page).is_err());
        page[24] = Kind::Posting as u8;
        page[25] = PAGE_FORMAT + 1;
        assert!(Head::read(&page).is_err());
        assert!(Head::read(&page[..100]).is_err());
    }
}
