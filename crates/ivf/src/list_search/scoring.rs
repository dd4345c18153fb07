//! The rows of a page: which the filter admits, their scores, and those that are offered as candidates.

use super::probe::Probe;
use crate::Tid;
use crate::candidate::Candidate;
use crate::scorer::{BlockFilter, BlockScorer};
use crate::top_candidates::TopCandidates;
use distillvq_kernels::LANES;
use distillvq_pages::{Layout, PageHeader};

/// What scoring needs beside the page.
pub(super) struct Scoring<B> {
    pub scorer: B,
    pub layout: Layout,
    /// A row that the lists are searched without.
    pub excluded: Option<Tid>,
}

impl<B: BlockScorer> Scoring<B> {
    /// Scores the rows of a page that the filter admits and offers them to `best`. The page is given by its number and its bytes.
    /// `show` gets the scores of each block of rows and the mask of those admitted. Returns the number of rows admitted.
    pub fn scan_page<F: BlockFilter>(
        &self,
        (number, page): (u32, &[u8]),
        (head, probe): (&PageHeader, &Probe<B::List>),
        filter: &F,
        best: &mut TopCandidates,
        mut show: impl FnMut(usize, &[f32; LANES], u32),
    ) -> u64 {
        let (count, mut all_admitted) = (usize::from(head.count), 0);
        let mut scores = [0.0; LANES];
        for b in 0..count.div_ceil(LANES) {
            let block = self.layout.block(page, b);
            let admitted = filter.admit(&block) & mask_of(count - b * LANES);
            let mut wanted = admitted;
            if admitted != 0 {
                all_admitted += u64::from(admitted.count_ones());
                let threshold = best.threshold();
                wanted &= self
                    .scorer
                    .score(&probe.params, &block, threshold, &mut scores);
            }
            show(b, &scores, admitted);
            while wanted != 0 {
                let lane = wanted.trailing_zeros() as usize;
                wanted &= wanted - 1;
                let score = scores[lane];
                if best.may_accept(score) {
                    self.offer((number, page), b * LANES + lane, score, probe, best);
                }
            }
        }
        all_admitted
    }

    /// Offers a row of a page, given by its number and its bytes.
    pub fn offer(
        &self,
        (number, page): (u32, &[u8]),
        row: usize,
        score: f32,
        probe: &Probe<B::List>,
        best: &mut TopCandidates,
    ) {
        let candidate = Candidate {
            score,
            tid: self.layout.tid(page, row).row(),
            refine: self.layout.side_location(page, number, row),
        };
        best.offer(candidate, |c| {
            probe.cursor.is_before(c) && self.excluded != Some(c.tid)
        });
    }
}

/// The lanes of the first `rows` rows of a block.
fn mask_of(rows: usize) -> u32 {
    if rows < LANES {
        (1 << rows) - 1
    } else {
        u32::MAX
    }
}
