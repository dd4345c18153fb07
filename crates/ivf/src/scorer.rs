//! What a search needs of the columns of rows: scores of whole blocks, filters on blocks, scores of side columns.
//!
//! A new kind of code is a [`BlockScorer`] over its own columns, a filter column a [`BlockFilter`]. Both are type parameters
//! of the search, so that nothing is called dynamically per block.

use distillvq_kernels::LANES;
use distillvq_pages::Block;

/// Estimated scores of the rows of a block (bigger is nearer).
pub trait BlockScorer {
    /// What all rows of a list share.
    type List: Copy;

    /// The parameters of lists, in their order.
    fn lists(&self, lists: &[u32]) -> impl Iterator<Item = Self::List>;

    /// Scores the 32 lanes of a block. Returns a mask of the lanes whose score is not below `at_least`, lane 0 being the
    /// lowest bit; NaN counts as not below. Lanes without a row may have any score.
    fn score(
        &self,
        list: &Self::List,
        block: &Block<'_>,
        at_least: f32,
        out: &mut [f32; LANES],
    ) -> u32;

    /// Expected standard deviation of the errors of scores, 0 if none is known.
    fn expected_error(&self) -> f32 {
        0.0
    }

    /// Whether it reads the column at this position.
    fn is_read(&self, _position: usize) -> bool {
        true
    }
}

/// Which rows of a block a search may return. Blocks of the exact list are filtered too; they lack the columns that only rows
/// in lists have.
pub trait BlockFilter {
    /// A mask of the lanes, lane 0 being the lowest bit. Lanes without a row may have any bit.
    fn admit(&self, block: &Block<'_>) -> u32;

    /// Whether it reads the column at this position.
    fn is_read(&self, _position: usize) -> bool {
        true
    }
}

/// Admits every row.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoFilter;

impl BlockFilter for NoFilter {
    #[inline]
    fn admit(&self, _block: &Block<'_>) -> u32 {
        u32::MAX
    }

    fn is_read(&self, _position: usize) -> bool {
        false
    }
}

/// Estimated score of a row by its side column.
pub trait RowScorer {
    /// The score, and the expected standard deviation of its error.
    fn score(&self, side: &[u8]) -> (f32, f32);
}

impl RowScorer for distillvq_model::RefineQuery {
    fn score(&self, side: &[u8]) -> (f32, f32) {
        distillvq_model::RefineQuery::score(self, side)
    }
}
