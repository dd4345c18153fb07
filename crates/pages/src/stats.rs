//! Counting what is in an index, and drawing samples of it, in one walk over its pages.
//!
//! What writers do meanwhile may be counted or not. The whole index is read, but no row of the table.

use crate::error::Error;
use crate::metapage::Metapage;
use crate::page::{Layout, PageHeader};
use crate::page_walk::for_each_page;
use crate::posting::read_any_header;
use crate::store::PageStore;
use crate::tid::Tid;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// What is in an index.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct IndexStats {
    /// Pages of every kind.
    pub pages: u32,
    /// Entries of each list; the last element is the exact list.
    pub lists: Vec<u64>,
    /// Second entries of rows in two lists.
    pub second_entries: u64,
    /// Rows inserted since the build, those included that were removed later.
    pub inserted: u64,
    /// Those of them that went to the exact list.
    pub inserted_exact: u64,
    /// A uniform sample of all rows.
    pub sampled_tids: Vec<Tid>,
    /// A uniform sample of the first entries of rows in lists that were most likely inserted since the build: the last ones of
    /// their pages, as many as were inserted there. Vacuum moves rows into the places of others, so now and then an older row is
    /// taken for a newer one.
    pub inserted_sample: Vec<InsertedRow>,
}

/// A row that was inserted since the build, and what the index has of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InsertedRow {
    /// Its address.
    pub tid: Tid,
    /// Its list.
    pub list: u32,
    /// The values of the column asked for.
    pub values: Vec<u8>,
}

/// How the rows are spread over the lists, the exact list left out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Balance {
    /// Rows of the shortest list.
    pub min: u64,
    /// Rows of the list in the middle.
    pub median: u64,
    /// Rows of the longest list.
    pub max: u64,
    /// Mean rows per list.
    pub mean: f64,
}

impl IndexStats {
    /// All rows.
    pub fn rows(&self) -> u64 {
        let entries = self.lists.iter().sum::<u64>();
        entries.saturating_sub(self.second_entries)
    }

    /// Rows of the exact list.
    pub fn exact_rows(&self) -> u64 {
        self.lists.last().copied().unwrap_or(0)
    }

    /// The spread of rows over lists, none if there are no lists.
    pub fn balance(&self) -> Option<Balance> {
        let (_exact, lists) = self.lists.split_last()?;
        let mut sorted = lists.to_vec();
        sorted.sort_unstable();
        Some(Balance {
            min: *sorted.first()?,
            median: *sorted.get(sorted.len() / 2)?,
            max: *sorted.last()?,
            mean: sorted.iter().sum::<u64>() as f64 / sorted.len() as f64,
        })
    }
}

/// Reads all pages of an index, in their order, and returns how many there are.
pub fn read_all_pages<S: PageStore>(store: &S) -> Result<u32, Error> {
    for_each_page(store, 0, |block| store.read(block, |_| ()))
}

/// Walks over all pages of an index. `drawn` and `recent` are the maximum numbers of rows of the two
/// samples; `column` is the id of the posting column that inserted rows are returned with.
pub fn collect_stats<S: PageStore>(
    store: &S,
    metapage: &Metapage,
    (drawn, recent): (usize, usize),
    (seed, column): (u64, u8),
) -> Result<IndexStats, Error> {
    let mut stats = IndexStats {
        lists: vec![0; metapage.lists() as usize + 1],
        ..IndexStats::default()
    };
    let mut all = ReservoirSampler::new(drawn, seed);
    let mut new = ReservoirSampler::new(recent, seed);
    let pages = for_each_page(store, 1, |block| {
        store.read(block, |page| {
            let Some((list, head, layout)) = read_any_header(page, block, metapage)? else {
                return Ok(());
            };
            stats.inserted += u64::from(head.inserted);
            if list == metapage.exact_list() {
                stats.inserted_exact += u64::from(head.inserted);
            }
            let (first, second) = count(
                page,
                &head,
                &layout,
                (list, metapage, column),
                &mut all,
                &mut new,
            );
            if let Some(entries) = stats.lists.get_mut(list as usize) {
                *entries += first + second;
            }
            stats.second_entries += second;
            Ok(())
        })?
    })?;
    stats.pages = pages;
    stats.sampled_tids = all.kept;
    stats.inserted_sample = new.kept;
    Ok(stats)
}

/// Offers the rows whose first entries are on a posting page to both samples. Returns the numbers of first and second entries.
fn count(
    page: &[u8],
    head: &PageHeader,
    layout: &Layout,
    (list, metapage, column): (u32, &Metapage, u8),
    all: &mut ReservoirSampler<Tid>,
    new: &mut ReservoirSampler<InsertedRow>,
) -> (u64, u64) {
    // There may be holes.
    let entries = (0..usize::from(head.count)).filter(|&i| layout.tid(page, i).offset != 0);
    let (second, used): (Vec<usize>, Vec<usize>) =
        entries.partition(|&i| layout.tid(page, i).is_second());
    let tid = |i: Option<&usize>| i.map_or_else(Tid::default, |&i| layout.tid(page, i));
    all.offer(used.len(), |i| tid(used.get(i)));
    if list < metapage.lists() {
        let position = metapage.format.position(column);
        let old = used.len().saturating_sub(head.inserted as usize);
        new.offer(used.len() - old, |i| {
            let place = used.get(old + i);
            InsertedRow {
                tid: tid(place),
                list,
                values: place
                    .zip(position)
                    .map_or_else(Vec::new, |(&i, position)| layout.values(page, position, i)),
            }
        });
    }
    (used.len() as u64, second.len() as u64)
}

/// A uniform sample of a stream whose length nobody knows beforehand, which looks only at the items that it takes (Li 1994,
/// "Reservoir-sampling algorithms of time complexity O(n(1 + log(N/n)))", algorithm L).
struct ReservoirSampler<T> {
    kept: Vec<T>,
    capacity: usize,
    /// Items offered.
    seen: u64,
    /// The item that is taken next.
    next: u64,
    /// The largest of the random numbers that belong to the items kept.
    weight: f64,
    random: ChaCha8Rng,
}

impl<T> ReservoirSampler<T> {
    fn new(capacity: usize, seed: u64) -> Self {
        ReservoirSampler {
            kept: Vec::new(),
            capacity,
            seen: 0,
            next: if capacity > 0 { 0 } else { u64::MAX },
            weight: 1.0,
            random: ChaCha8Rng::seed_from_u64(seed),
        }
    }

    /// Offers so many items at once.
    fn offer(&mut self, items: usize, item: impl Fn(usize) -> T) {
        let end = self.seen + items as u64;
        while self.next < end {
            let taken = item((self.next - self.seen) as usize);
            if self.kept.len() < self.capacity {
                self.kept.push(taken);
            } else {
                let place = self.random.random_range(0..self.capacity);
                if let Some(kept) = self.kept.get_mut(place) {
                    *kept = taken;
                }
            }
            self.next += 1;
            if self.kept.len() == self.capacity {
                self.skip();
            }
        }
        self.seen = end;
    }

    /// Passes over the items that are not taken.
    fn skip(&mut self) {
        let mut uniform = || 1.0 - self.random.random::<f64>();
        self.weight *= (uniform().ln() / self.capacity as f64).exp();
        let skipped = uniform().ln() / (-self.weight).ln_1p();
        self.next = self.next.saturating_add(skipped as u64);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_uniform() {
        let (items, capacity, rounds) = (200, 20, 4_000);
        let mut times = vec![0u32; items];
        for seed in 0..rounds {
            let mut draws = ReservoirSampler::new(capacity, seed);
            // In pieces, as pages come.
            for piece in [0..3, 3..50, 50..50, 50..199, 199..200] {
                draws.offer(piece.len(), |i| piece.start + i);
            }
            assert_eq!(draws.kept.len(), capacity);
            draws.kept.iter().for_each(|&i| times[i] += 1);
        }
        // 400 times each, with a deviation of 19.
        let (least, most) = (times.iter().min().unwrap(), times.iter().max().unwrap());
        assert!(
            (310..=490).contains(least) && (310..=490).contains(most),
            "{least} {most}"
        );
    }

    #[test]
    fn few_items_are_all_taken_and_none_where_none_is_wanted() {
        let mut draws = ReservoirSampler::new(10, 1);
        draws.offer(7, |i| i);
        assert_eq!(draws.kept, [0, 1, 2, 3, 4, 5, 6]);
        let mut none = ReservoirSampler::new(0, 1);
        none.offer(7, |i| i);
        assert_eq!(none.kept, [0; 0]);
    }

    #[test]
    fn balance_leaves_the_exact_list_out() {
        let stats = |lists: &[u64]| IndexStats {
            lists: lists.to_vec(),
            ..IndexStats::default()
        };
        assert_eq!(stats(&[7]).balance(), None);
        let balance = stats(&[5, 1, 9, 0, 3]).balance().unwrap();
        let found = (balance.min, balance.median, balance.max, balance.mean);
        assert_eq!(found, (0, 5, 9, 3.75));
        assert_eq!(stats(&[5, 1, 9, 0, 3]).rows(), 18);
    }
}
