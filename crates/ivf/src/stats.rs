//! Statistics of an index, with the codes of inserted rows.

use crate::error::Error;
use crate::index_meta::Meta;
use crate::pq::CODES;
use distillvq_pages::{self as pages, IndexStats, PageStore};

/// Walks over all pages of an index. `drawn` and `recent` are the maximum numbers of rows of the two samples; the inserted
/// rows come with their codes.
pub fn collect_stats<S: PageStore>(
    store: &S,
    meta: &Meta,
    samples: (usize, usize),
    seed: u64,
) -> Result<IndexStats, Error> {
    Ok(pages::collect_stats(
        store,
        &meta.pages,
        samples,
        (seed, CODES),
    )?)
}
