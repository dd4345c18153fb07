//! A walk over the pages of an index by their numbers, not by chains: every row that existed when it began is met exactly
//! once, because rows never leave their page. Pages are read one by one, so writers go on meanwhile.

use crate::error::Error;
use crate::store::PageStore;

/// Pages between a hint to read and the reading.
pub(crate) const PREFETCH_PAGES: u32 = 16;

/// Visits all pages from `first` on, those too that are appended meanwhile, with nothing locked, and has the next ones
/// brought from disk. Returns how many pages there are.
pub(crate) fn for_each_page<S: PageStore>(
    store: &S,
    first: u32,
    mut visit: impl FnMut(u32) -> Result<(), Error>,
) -> Result<u32, Error> {
    let (mut block, mut asked, mut blocks) = (first, first, first);
    loop {
        if block >= blocks {
            blocks = store.block_count()?;
            if block >= blocks {
                return Ok(blocks);
            }
        }
        store.check_interrupts()?;
        let ahead = blocks.min(block.saturating_add(PREFETCH_PAGES + 1));
        (asked..ahead).for_each(|block| store.prefetch(block));
        asked = asked.max(ahead);
        visit(block)?;
        block += 1;
    }
}
