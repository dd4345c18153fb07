//! Addresses of rows over some blocks of the table, as many as memory allows.

use crate::tid::Tid;
use std::ops::Range;

/// Fewest addresses of a window: more than a page of the table can have, so that there is progress.
const MIN_TIDS: usize = 1 << 17;
/// Most addresses of a window: sorting them, which nobody can interrupt, takes a fraction of a second.
const MAX_TIDS: usize = 1 << 22;

/// An address, and where in the index it is. Ordered by address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TidLocation {
    tid: Tid,
    row: u16,
    block: u32,
}

impl TidLocation {
    /// The `row`-th row of a posting page.
    pub fn new(tid: Tid, block: u32, row: usize) -> Self {
        let row = row as u16;
        TidLocation { tid, row, block }
    }

    /// The address.
    pub fn tid(&self) -> Tid {
        self.tid
    }

    /// The page, and which of its rows.
    pub fn place(&self) -> (u32, usize) {
        (self.block, self.row.into())
    }
}

/// The addresses from some block of the table on, up to where memory ends.
#[derive(Debug, Default)]
pub struct TidWindow {
    from: u32,
    capacity: usize,
    rows: Vec<TidLocation>,
    /// Addresses from this one on are left to the next window.
    cut: Option<Tid>,
}

impl TidWindow {
    /// An empty window from the table's start on, for about so many bytes.
    pub fn new(memory: usize) -> Self {
        // Twice the capacity is gathered before the excess is dropped, and a vector that grows is there one and a half times.
        let capacity = (memory / (3 * size_of::<TidLocation>())).clamp(MIN_TIDS, MAX_TIDS);
        TidWindow {
            capacity,
            ..TidWindow::default()
        }
    }

    /// Empties it, to be filled with addresses from this block on.
    pub fn start(&mut self, from: u32) {
        self.from = from;
        self.cut = None;
        self.rows.clear();
    }

    /// Adds an address, unless it belongs to another window.
    pub fn add(&mut self, row: TidLocation) {
        if row.tid.block < self.from || self.cut.is_some_and(|cut| row.tid >= cut) {
            return;
        }
        self.rows.push(row);
        if self.rows.len() >= 2 * self.capacity {
            self.drop_excess();
        }
    }

    fn drop_excess(&mut self) {
        let (_, &mut cut, _) = self.rows.select_nth_unstable(self.capacity);
        self.rows.retain(|row| row.tid < cut.tid);
        self.cut = Some(cut.tid);
        if self.rows.len() < self.capacity {
            // It is there more than once, perhaps too often to keep them all. Two are enough to tell.
            self.rows.extend([cut; 2]);
            self.cut = Some(successor(cut.tid));
        }
    }

    /// Sorts it, now that all addresses were offered. Returns the blocks of the table that it is complete over, which end
    /// at `u32::MAX` for the last window.
    pub fn finish(&mut self) -> Range<u32> {
        let end = match self.cut {
            None => u32::MAX,
            // More than a page of the table can have: some are there twice, which is told.
            Some(cut) if cut.block == self.from => cut.block.saturating_add(1),
            Some(cut) => cut.block,
        };
        self.rows.retain(|row| row.tid.block < end);
        self.rows.sort_unstable();
        self.from..end
    }

    /// Where an address is, if it is there.
    pub fn find(&self, tid: Tid) -> Option<TidLocation> {
        let at = self.rows.partition_point(|row| row.tid < tid);
        self.rows.get(at).filter(|row| row.tid == tid).copied()
    }

    /// Every row whose address another row had before, behind that one.
    pub fn duplicates(&self) -> impl Iterator<Item = (&TidLocation, &TidLocation)> {
        let pairs = self.rows.iter().zip(self.rows.iter().skip(1));
        pairs.filter(|(a, b)| a.tid == b.tid)
    }
}

/// The next address.
fn successor(tid: Tid) -> Tid {
    match tid.offset.checked_add(1) {
        Some(offset) => Tid { offset, ..tid },
        None => Tid {
            block: tid.block.saturating_add(1),
            offset: 0,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers of the rows that each window holds, in turns of all rows.
    fn windows(rows: &[TidLocation], capacity: usize) -> Vec<(Range<u32>, Vec<Tid>)> {
        let mut window = TidWindow {
            capacity,
            ..TidWindow::default()
        };
        let mut out = Vec::new();
        loop {
            rows.iter().for_each(|&row| window.add(row));
            assert!(window.rows.len() < 2 * capacity);
            let range = window.finish();
            let end = range.end;
            out.push((range, window.rows.iter().map(TidLocation::tid).collect()));
            if end == u32::MAX {
                return out;
            }
            window.start(end);
        }
    }

    fn row(block: u32, offset: u16) -> TidLocation {
        TidLocation::new(Tid { block, offset }, 7, 3)
    }

    #[test]
    fn windows_are_the_rows_in_order() {
        // A permutation of 700 blocks of 5 rows.
        let rows: Vec<TidLocation> = (0..3500u32)
            .map(|i| i * 1237 % 3500)
            .map(|i| row(i / 5 * 3, (i % 5) as u16 + 1))
            .collect();
        let mut sorted: Vec<Tid> = rows.iter().map(TidLocation::tid).collect();
        sorted.sort_unstable();
        for capacity in [5, 6, 16, 100, 1000, 1749, 1750, 1751, 3500, 10_000] {
            let windows = windows(&rows, capacity);
            let all: Vec<Tid> = windows.iter().flat_map(|(_, tids)| tids).copied().collect();
            assert_eq!(all, sorted, "{capacity}");
            let mut next = 0;
            for (range, tids) in &windows {
                assert_eq!(range.start, next);
                assert!(tids.iter().all(|tid| range.contains(&tid.block)));
                next = range.end;
            }
            assert_eq!(windows.len() > 1, capacity < 1751, "{capacity}");
        }
    }

    #[test]
    fn an_address_may_be_there_very_often() {
        for offset in [1, u16::MAX] {
            let mut rows = vec![row(4, offset); 100];
            rows.extend([row(3, 1), row(5, 9), row(5, 2)]);
            let windows = windows(&rows, 10);
            let tids: Vec<Tid> = windows.iter().flat_map(|(_, tids)| tids).copied().collect();
            let once = [row(3, 1), row(4, offset), row(5, 2), row(5, 9)].map(|row| row.tid());
            assert!(tids.iter().filter(|tid| **tid == once[1]).count() > 1);
            let mut seen = tids.clone();
            seen.dedup();
            assert_eq!(seen, once);
        }
    }

    #[test]
    fn what_is_there_twice_is_told() {
        let mut window = TidWindow::new(0);
        for (block, offset) in [(3, 1), (1, 2), (3, 1), (1, 1), (3, 1)] {
            window.add(row(block, offset));
        }
        assert_eq!(window.finish(), 0..u32::MAX);
        assert_eq!(window.duplicates().count(), 2);
        let found = |block, offset| window.find(Tid { block, offset }).is_some();
        assert!(found(3, 1) && found(1, 2) && !found(2, 1) && !found(1, 3) && !found(4, 1));
    }
}
