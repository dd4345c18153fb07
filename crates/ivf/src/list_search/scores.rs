//! The scores of pages that were scanned, so that no code is scanned twice.
//!
//! A page is known by its block, its rows by their places there. Places change only when rows are moved to those of removed
//! ones, which the page counts ([`distillvq_pages::PageHeader::moves`]). A row put on a page later is not visible to this search.

use distillvq_kernels::LANES;
use distillvq_pages::PageHeader;

/// A scanned page.
#[derive(Clone, Copy, Debug)]
pub(super) struct ScannedPage {
    /// The page.
    pub block: u32,
    /// Index of its list among the probed ones.
    pub probe: u32,
    /// Rows at the time of the scan.
    pub rows: u16,
    /// `moves` at the time of the scan.
    pub moves: u32,
    /// Index of the first score, in units of [`LANES`].
    start: u32,
}

impl ScannedPage {
    /// Where the scores of the page's rows are.
    pub fn range(&self) -> std::ops::Range<usize> {
        let start = self.start as usize * LANES;
        start..start + usize::from(self.rows)
    }
}

/// Scores of the rows of scanned pages, up to so many bytes.
#[derive(Debug)]
pub(super) struct Scores {
    max_bytes: usize,
    pub pages: Vec<ScannedPage>,
    /// [`LANES`] scores per block of codes; only those of the rows in its mask mean something.
    pub scores: Vec<f32>,
    /// Which rows of each block may be returned, a bit per row.
    masks: Vec<u32>,
}

/// Bytes that a block of scores takes.
const BLOCK_BYTES: usize = LANES * size_of::<f32>() + size_of::<u32>();

/// A state of [`Scores`] to return to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark(usize, usize);

impl Scores {
    /// No scores, and room for at most `max_bytes` of them.
    pub fn new(max_bytes: usize) -> Self {
        Scores {
            max_bytes,
            pages: Vec::new(),
            scores: Vec::new(),
            masks: Vec::new(),
        }
    }

    /// Asks for memory for so many more rows on so many pages or more, as far as there may be so many.
    pub fn reserve(&mut self, rows: u64, pages: usize) {
        let blocks = (rows / LANES as u64).saturating_add(pages as u64);
        let blocks = blocks.min(self.free_blocks() as u64);
        // Without the memory, pages find no room one by one.
        let _ = self.scores.try_reserve_exact(blocks as usize * LANES);
        let _ = self.masks.try_reserve_exact(blocks as usize);
    }

    fn free_blocks(&self) -> usize {
        let taken =
            size_of_val(&*self.scores) + size_of_val(&*self.masks) + size_of_val(&*self.pages);
        self.max_bytes.saturating_sub(taken) / BLOCK_BYTES
    }

    /// Adds a page, whose scores are to be pushed next; false if there is no memory for it.
    pub fn begin_page(&mut self, block: u32, probe: u32, head: &PageHeader) -> bool {
        let blocks = usize::from(head.count).div_ceil(LANES);
        let has_room = blocks < self.free_blocks()
            && self.scores.try_reserve(blocks * LANES).is_ok()
            && self.masks.try_reserve(blocks).is_ok()
            && self.pages.try_reserve(1).is_ok();
        if has_room {
            self.pages.push(ScannedPage {
                block,
                probe,
                rows: head.count,
                moves: head.moves,
                start: (self.scores.len() / LANES) as u32,
            });
        }
        has_room
    }

    /// Adds the scores of a block of the page begun last, and the mask of the rows that may be returned. There is room for them.
    pub fn push(&mut self, scores: &[f32; LANES], mask: u32) {
        self.scores.extend_from_slice(scores);
        self.masks.push(mask);
    }

    /// Replaces the scores and the mask of a block of a page, as far as the page has been that long.
    pub fn replace(&mut self, page: &ScannedPage, block: usize, scores: &[f32; LANES], mask: u32) {
        if block * LANES < usize::from(page.rows)
            && let Some(old) = self.masks.get_mut(page.start as usize + block)
        {
            *old = mask;
        }
        let rows = self.scores.get_mut(page.range()).unwrap_or_default();
        if let Some(old) = rows.chunks_mut(LANES).nth(block) {
            old.iter_mut()
                .zip(scores)
                .for_each(|(old, new)| *old = *new);
        }
    }

    /// The present state.
    pub fn mark(&self) -> Mark {
        Mark(self.pages.len(), self.scores.len())
    }

    /// Removes what was added since.
    pub fn return_to(&mut self, Mark(pages, scores): Mark) {
        self.pages.truncate(pages);
        self.scores.truncate(scores);
        self.masks.truncate(scores / LANES);
    }

    /// The places of rows that may be returned and whose scores are not below `from` and not above `to`, NaN being among them.
    #[allow(clippy::neg_cmp_op_on_partial_ord)]
    pub fn places(&self, page: &ScannedPage, from: f32, to: f32, out: &mut Vec<(u16, f32)>) {
        out.clear();
        let scores = self.scores.get(page.range()).unwrap_or_default();
        let masks = self.masks.get(page.start as usize..).unwrap_or_default();
        let blocks = scores.chunks(LANES).zip(masks).zip((0u16..).step_by(LANES));
        for ((block, mask), first) in blocks.filter(|((_, mask), _)| **mask != 0) {
            let fits = |score: f32| !(score < from) & !(score > to);
            // Without branches: hardly any block has such a row.
            if block.iter().fold(false, |any, score| any | fits(*score)) {
                let each = (0u16..).zip(block.iter().copied());
                let each = each.filter(|(lane, score)| mask >> lane & 1 == 1 && fits(*score));
                out.extend(each.map(|(lane, score)| (first + lane, score)));
            }
        }
    }
}
