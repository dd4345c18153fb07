//! How many rows lie within a distance, estimated by the codes of a few lists.

use super::ListSearch;
use crate::error::Error;
use crate::pq::PqScorer;
use crate::scorer::{BlockFilter, BlockScorer};
use distillvq_kernels::LANES;
use distillvq_pages::{ListEntry, NO_BLOCK, PageStore, check_link, read_header};
use std::ops::Range;

/// Lists of the ranking that are all read; behind them each stretch is as long as everything before it.
const FIRST_LISTS: usize = 4;
/// Lists read of each further stretch.
const LISTS_PER_STRETCH: usize = 2;

/// Fractions of an index's rows, estimated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shares {
    /// Rows at most as far away as the upper limit.
    pub within: f64,
    /// Those of them that are at least as far away as the lower limit.
    pub between: f64,
}

/// Rows counted.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    rows: f64,
    within: f64,
    between: f64,
}

impl Counts {
    fn add(&mut self, other: Counts, weight: f64) {
        self.rows += weight * other.rows;
        self.within += weight * other.within;
        self.between += weight * other.between;
    }

    fn of_page(scores: impl Iterator<Item = f64>, [lower, upper]: [f64; 2]) -> Counts {
        let mut counts = Counts::default();
        for score in scores {
            let within = score >= upper;
            counts.rows += 1.0;
            counts.within += f64::from(u8::from(within));
            counts.between += f64::from(u8::from(within && score <= lower));
        }
        counts
    }
}

impl<S: PageStore, F: BlockFilter> ListSearch<S, PqScorer, F> {
    /// Estimates the fractions of the rows that lie within two distances, by the scores of their codes; `None` if that is not
    /// possible. To be called instead of probing.
    ///
    /// Lists are taken in the order of the ranking: the first few, and of each stretch behind them, which is as long as all
    /// before it, two spread evenly. Of each the first page is read. It ends with the first stretch without a row within: so at
    /// most two pages per doubling of the number of lists are read, and where few rows are within, less.
    pub fn shares(&mut self, lower: f64, upper: f64) -> Result<Option<Shares>, Error> {
        let Some(scoring) = &self.scoring else {
            return Ok(None);
        };
        // What the estimates of this query leave out.
        let constant = scoring.scorer.tables.constant();
        let limits = [lower, upper].map(|distance| match distance {
            f64::INFINITY => f64::NEG_INFINITY,
            f64::NEG_INFINITY => f64::INFINITY,
            distance => self.score(distance) + constant,
        });
        if limits.iter().any(|score| score.is_nan()) {
            return Ok(None);
        }
        let (lists, mut all) = (self.lists(), Counts::default());
        let mut read = 0;
        for stretch in stretches(lists) {
            let mut counts = Counts::default();
            let ranks = picked(&stretch);
            for &rank in &ranks {
                counts.add(self.list_counts(rank, limits)?, 1.0);
            }
            all.add(counts, stretch.len() as f64 / ranks.len().max(1) as f64);
            read = stretch.end;
            if counts.rows > 0.0 && counts.within == 0.0 {
                break;
            }
        }
        if all.rows < 1.0 {
            return Ok(None);
        }
        // The rows of lists behind those are as many as before.
        let rows = all.rows * lists as f64 / read.max(1) as f64;
        // Half a row more, so that nothing is impossible.
        let share = |counted: f64| ((counted + 0.5) / (rows + 1.0)).min(1.0);
        Ok(Some(Shares {
            within: share(all.within),
            between: share(all.between),
        }))
    }

    /// The rows of a list, those of its first page standing for all.
    fn list_counts(&mut self, rank: usize, limits: [f64; 2]) -> Result<Counts, Error> {
        let Some(list) = self.ranking.lists(rank, rank + 1).next() else {
            return Ok(Counts::default());
        };
        let Some(scoring) = &self.scoring else {
            return Ok(Counts::default());
        };
        let entry = self.pages.directory.entry(&self.store, list)?;
        let ListEntry { first, rows, .. } = entry;
        if first == NO_BLOCK {
            return Ok(Counts::default());
        }
        check_link(&self.store, 0, first, &mut self.store.block_count()?)?;
        let (scorer, layout) = (&scoring.scorer, &scoring.layout);
        let params = scorer.tables.score_params(list);
        let (page, is_last) = self.store.read(first, |page| {
            let head = read_header(page, first, list, layout)?;
            let mut scores = [0.0; LANES];
            let (mut counts, count) = (Counts::default(), usize::from(head.count));
            for b in 0..count.div_ceil(LANES) {
                let block = layout.block(page, b);
                scorer.score(&params, &block, f32::NEG_INFINITY, &mut scores);
                let used = (b * LANES..count).zip(&scores);
                let used = used.filter(|(i, _)| layout.tid(page, *i).offset != 0);
                let scores = used.map(|(_, score)| f64::from(*score));
                counts.add(Counts::of_page(scores, limits), 1.0);
            }
            Ok::<_, Error>((counts, head.next == NO_BLOCK))
        })??;
        let mut counts = Counts::default();
        let whole = if is_last {
            1.0
        } else {
            (rows as f64 / page.rows.max(1.0)).max(1.0)
        };
        counts.add(page, whole);
        Ok(counts)
    }
}

/// Stretches of the ranking of so many lists.
fn stretches(lists: usize) -> impl Iterator<Item = Range<usize>> {
    let mut start = 0;
    std::iter::from_fn(move || {
        let stretch = start..(2 * start).max(FIRST_LISTS).min(lists);
        start = stretch.end;
        (!stretch.is_empty()).then_some(stretch)
    })
}

/// The ranks that are read of a stretch.
fn picked(stretch: &Range<usize>) -> Vec<usize> {
    if stretch.start == 0 {
        return stretch.clone().collect();
    }
    let step = stretch.len() as f64 / LISTS_PER_STRETCH as f64;
    let mut ranks: Vec<usize> = (0..LISTS_PER_STRETCH)
        .map(|i| stretch.start + ((i as f64 + 0.5) * step) as usize)
        .collect();
    ranks.dedup();
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_cover_all_lists_and_few_are_picked() {
        for lists in [0, 1, 3, 4, 5, 8, 9, 100, 1000, 32_768] {
            let all: Vec<Range<usize>> = stretches(lists).collect();
            assert_eq!(all.iter().map(ExactSizeIterator::len).sum::<usize>(), lists);
            assert!(all.windows(2).all(|pair| pair[0].end == pair[1].start));
            let picks: Vec<usize> = all.iter().flat_map(picked).collect();
            assert!(picks.is_sorted_by(|a, b| a < b) && picks.len() <= 30);
            let inside = |s: &Range<usize>| picked(s).iter().all(|rank| s.contains(rank));
            assert!(all.iter().all(inside), "{all:?}");
        }
    }
}
