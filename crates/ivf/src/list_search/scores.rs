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
    /// Index of the mask of the first block of rows.
    first_mask: u32,
    /// Index of the first score, in units of [`LANES`].
    first_score: u32,
}

impl ScannedPage {
    /// Blocks of rows.
    fn blocks(&self) -> usize {
        usize::from(self.rows).div_ceil(LANES)
    }
}

/// Scores of the rows of scanned pages, up to so many bytes.
#[derive(Debug)]
pub(super) struct Scores {
    max_bytes: usize,
    pub pages: Vec<ScannedPage>,
    /// Which rows of each block may be returned, a bit per row.
    masks: Vec<u32>,
    /// [`LANES`] scores for each mask that is not 0; only those of the rows in the mask mean something.
    scores: Vec<f32>,
}

/// Bytes of a block of scores and its mask.
const BLOCK_BYTES: usize = LANES * size_of::<f32>() + size_of::<u32>();

/// A state of [`Scores`] to return to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    pages: usize,
    masks: usize,
    scores: usize,
}

impl Scores {
    /// No scores, and room for at most `max_bytes` of them.
    pub fn new(max_bytes: usize) -> Self {
        Scores {
            max_bytes,
            pages: Vec::new(),
            masks: Vec::new(),
            scores: Vec::new(),
        }
    }

    /// The same without scores.
    pub fn cleared(&self) -> Self {
        Scores::new(self.max_bytes)
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
        let page = ScannedPage {
            block,
            probe,
            rows: head.count,
            moves: head.moves,
            first_mask: self.masks.len() as u32,
            first_score: (self.scores.len() / LANES) as u32,
        };
        let blocks = page.blocks();
        let has_room = blocks < self.free_blocks()
            && self.scores.try_reserve(blocks * LANES).is_ok()
            && self.masks.try_reserve(blocks).is_ok()
            && self.pages.try_reserve(1).is_ok();
        if has_room {
            self.pages.push(page);
        }
        has_room
    }

    /// Adds the mask of a block of the page begun last, and its scores if a row may be returned. There is room for them.
    pub fn push(&mut self, scores: &[f32; LANES], mask: u32) {
        self.masks.push(mask);
        if mask != 0 {
            self.scores.extend_from_slice(scores);
        }
    }

    /// Replaces the scores and the mask of a block of a page, as far as the page has been that long. False if there is no place for
    /// the scores, or no need of their place any more: then the scores of the page are not to be used again.
    #[must_use]
    pub fn replace(
        &mut self,
        page: &ScannedPage,
        block: usize,
        scores: &[f32; LANES],
        mask: u32,
    ) -> bool {
        if block >= page.blocks() {
            return true;
        }
        let first = page.first_mask as usize;
        let masks = self.masks.get_mut(first..=first + block);
        let Some((old, before)) = masks.and_then(<[u32]>::split_last_mut) else {
            return false;
        };
        if (*old == 0) != (mask == 0) {
            return false;
        }
        *old = mask;
        let stored = before.iter().filter(|mask| **mask != 0).count();
        let from = (page.first_score as usize + stored) * LANES;
        if mask != 0
            && let Some(old) = self.scores.get_mut(from..from + LANES)
        {
            old.copy_from_slice(scores);
        }
        true
    }

    /// The present state.
    pub fn mark(&self) -> Mark {
        Mark {
            pages: self.pages.len(),
            masks: self.masks.len(),
            scores: self.scores.len(),
        }
    }

    /// Removes what was added since.
    pub fn return_to(&mut self, mark: Mark) {
        self.pages.truncate(mark.pages);
        self.masks.truncate(mark.masks);
        self.scores.truncate(mark.scores);
    }

    /// The places of rows that may be returned and whose scores are not below `from` and not above `to`, NaN being among them.
    #[allow(clippy::neg_cmp_op_on_partial_ord)]
    pub fn places(&self, page: &ScannedPage, from: f32, to: f32, out: &mut Vec<(u16, f32)>) {
        out.clear();
        let masks = self.masks.iter().skip(page.first_mask as usize);
        let masks = masks.zip((0u16..).step_by(LANES)).take(page.blocks());
        let scores = self.scores.get(page.first_score as usize * LANES..);
        let (blocks, _) = scores.unwrap_or_default().as_chunks::<LANES>();
        for (block, (mask, first)) in blocks.iter().zip(masks.filter(|(mask, _)| **mask != 0)) {
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use distillvq_pages::PageHeader;
    use proptest::prelude::*;

    /// The score of a row of a block.
    fn score(seed: u32, block: usize, lane: usize) -> f32 {
        ((seed as usize * 31 + block * 7 + lane * 13) % 50) as f32
    }

    fn scores(seed: u32, block: usize) -> [f32; LANES] {
        std::array::from_fn(|lane| score(seed, block, lane))
    }

    fn expected(seed: u32, masks: &[u32], from: f32, to: f32) -> Vec<(u16, f32)> {
        let rows = (0..masks.len()).flat_map(|block| (0..LANES).map(move |lane| (block, lane)));
        let admitted = rows.filter(|(block, lane)| masks[*block] >> lane & 1 == 1);
        admitted
            .map(|(block, lane)| ((block * LANES + lane) as u16, score(seed, block, lane)))
            .filter(|(_, score)| (from..=to).contains(score))
            .collect()
    }

    proptest! {
        #[test]
        fn rows_of_masks_are_kept_and_replaced(
            pages in prop::collection::vec(prop::collection::vec(prop_oneof![Just(0u32), any::<u32>()], 1..5), 1..5),
            new in prop::collection::vec(prop_oneof![Just(0u32), any::<u32>()], 4), changed in any::<prop::sample::Index>(),
        ) {
            let mut kept = Scores::new(1 << 20);
            for (i, masks) in (0u32..).zip(&pages) {
                let head = PageHeader { count: (masks.len() * LANES) as u16, ..PageHeader::posting(1) };
                prop_assert!(kept.begin_page(i, i, &head));
                for (block, mask) in masks.iter().enumerate() {
                    kept.push(&scores(i, block), *mask);
                }
            }
            let mark = kept.mark();
            let head = PageHeader { count: 40, ..PageHeader::posting(1) };
            prop_assert!(kept.begin_page(9, 9, &head));
            kept.push(&scores(9, 0), 7);
            kept.return_to(mark);
            let changed = changed.index(pages.len());
            let mut pages = pages;
            let mut seeds: Vec<Vec<u32>> = (0u32..).zip(&pages).map(|(i, masks)| vec![i; masks.len()]).collect();
            for block in 0..pages[changed].len() {
                let page = kept.pages[changed];
                let is_replaced = kept.replace(&page, block, &scores(77, block), new[block]);
                prop_assert_eq!(is_replaced, (pages[changed][block] == 0) == (new[block] == 0));
                if is_replaced {
                    pages[changed][block] = new[block];
                    seeds[changed][block] = 77;
                }
            }
            prop_assert!(kept.replace(&kept.pages[changed].clone(), 1000, &scores(1, 1), 1));
            let mut out = Vec::new();
            for (i, masks) in pages.iter().enumerate() {
                kept.places(&kept.pages[i], 10.0, 30.0, &mut out);
                let blocks = masks.iter().enumerate();
                let all: Vec<(u16, f32)> = blocks
                    .flat_map(|(block, mask)| {
                        let mut alone = vec![0; block];
                        alone.push(*mask);
                        expected(seeds[i][block], &alone, 10.0, 30.0)
                    })
                    .collect();
                prop_assert_eq!(&out, &all);
            }
        }
    }
}
