//! `distillvq_last_scan`: what the session's last search has done.

use crate::am::last_scan;
use pgrx::iter::TableIterator;
use pgrx::{name, pg_sys::Oid};

/// The index and the counters of the last scan that returned or looked for a row, if there was any.
#[allow(clippy::type_complexity)] // the columns, as pgrx wants them
pub fn distillvq_last_scan() -> TableIterator<
    'static,
    (
        name!(index, Oid),
        name!(lists, i64),
        name!(probed, i64),
        name!(codes, i64),
        name!(excluded, i64),
        name!(refined, i64),
        name!(reranked, i64),
        name!(returned, i64),
        name!(dropped, i64),
    ),
> {
    let row = last_scan::get().map(|(index, counters)| {
        let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        (
            index,
            number(counters.lists),
            number(counters.probed),
            number(counters.codes),
            number(counters.excluded),
            number(counters.refined),
            number(counters.reranked),
            number(counters.returned),
            number(counters.dropped),
        )
    });
    TableIterator::new(row)
}
