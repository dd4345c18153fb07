//! The directory: where each list begins.
//!
//! Entries of 16 bytes, `{ first u32, insert block u32, rows u64 }`: one per list, on consecutive blocks, and one more for the
//! exact list on a page of its own, which stays where it is when an index without lists gets some ([`crate::add_lists`]).
//! `first` never changes once set, but that of the exact list passes over closed pages without rows. An insert starts to look
//! for room at the insert block, which is never needed for correctness; `rows` counts at build or the last vacuum.

use crate::bytes::{get_u32, get_u64, put};
use crate::chain::Extent;
use crate::error::Error;
use crate::page::{BODY, BODY_SIZE, EXACT_LIST, NO_BLOCK, PageHeader, PageKind};
use crate::store::PageStore;
use std::ops::Range;

const ENTRY_SIZE: usize = 16;
/// Directory entries per page.
const ENTRIES_PER_PAGE: usize = BODY_SIZE / ENTRY_SIZE;

/// An entry of the directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListEntry {
    /// First posting page, 0 if the list has none.
    pub first: u32,
    /// Where an insert starts to look for room.
    pub insert_block: u32,
    /// Rows at build or the last vacuum.
    pub rows: u64,
}

impl ListEntry {
    /// Reads the entry at an offset of a directory page.
    pub fn read(page: &[u8], at: usize) -> ListEntry {
        ListEntry {
            first: get_u32(page, at),
            insert_block: get_u32(page, at + 4),
            rows: get_u64(page, at + 8),
        }
    }

    /// Writes the entry at an offset of a directory page.
    pub(crate) fn write(&self, page: &mut [u8], at: usize) {
        put(page, at, &self.first.to_le_bytes());
        put(page, at + 4, &self.insert_block.to_le_bytes());
        put(page, at + 8, &self.rows.to_le_bytes());
    }
}

/// The pages of the directory and the number of lists, the exact list not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Directory {
    /// The pages of the lists' entries.
    pub extent: Extent,
    /// Lists, without the exact list.
    pub lists: u32,
    /// The page of the exact list's entry.
    pub exact: u32,
}

impl Directory {
    /// Pages that the entries of this many lists take.
    pub(crate) fn blocks_for(lists: u32) -> u32 {
        lists.div_ceil(ENTRIES_PER_PAGE as u32)
    }

    /// All pages, each with the lists whose entries it holds.
    pub(crate) fn pages(&self) -> impl Iterator<Item = (u32, Range<u32>)> {
        let (start, lists) = (self.extent.start, self.lists);
        let each = ENTRIES_PER_PAGE as u32;
        let pages = (0..Directory::blocks_for(lists)).map(move |ordinal| {
            let from = ordinal * each;
            (start.wrapping_add(ordinal), from..lists.min(from + each))
        });
        pages.chain([(self.exact, lists..lists + 1)])
    }

    /// The number of a page among those of its kind, and how many entries it has.
    fn ordinal_and_entries(&self, block: u32) -> (u32, usize) {
        if block == self.exact {
            return (EXACT_LIST, 1);
        }
        let ordinal = block.wrapping_sub(self.extent.start);
        let before = (ordinal as usize).saturating_mul(ENTRIES_PER_PAGE);
        let entries = (self.lists as usize).saturating_sub(before);
        (ordinal, entries.min(ENTRIES_PER_PAGE))
    }

    /// Block and offset of a list's entry.
    pub fn entry_location(&self, list: u32) -> Result<(u32, usize), Error> {
        if list > self.lists {
            return Err(Error::Mismatch("there is no list of this number"));
        }
        let slot = if list == self.lists {
            0
        } else {
            list as usize % ENTRIES_PER_PAGE
        };
        Ok((self.entry_page(list), entry_offset(slot)))
    }

    /// Block of a list's entry, if there is such a list.
    pub fn entry_page(&self, list: u32) -> u32 {
        if list == self.lists {
            return self.exact;
        }
        self.extent
            .start
            .wrapping_add(list / ENTRIES_PER_PAGE as u32)
    }

    /// Checks the header of a directory page.
    pub fn check_page(&self, page: &[u8], block: u32) -> Result<(), Error> {
        let header = PageHeader::read(page, block)?;
        let (ordinal, entries) = self.ordinal_and_entries(block);
        if header.kind != PageKind::Directory || header.list != ordinal {
            let what = "not the directory page expected here";
            return Err(Error::damaged(block, what));
        }
        if usize::from(header.count) != entries {
            return Err(Error::damaged(block, "wrong number of directory entries"));
        }
        Ok(())
    }

    /// Writes a whole page; entries that are not given are empty.
    pub(crate) fn write_page(&self, block: u32, entries: &[ListEntry], page: &mut [u8]) {
        let (ordinal, count) = self.ordinal_and_entries(block);
        PageHeader {
            kind: PageKind::Directory,
            count: count as u16,
            list: ordinal,
            next: NO_BLOCK,
            inserted: 0,
            moves: 0,
            closed: false,
        }
        .write(page);
        for i in 0..count {
            let entry = entries.get(i).copied().unwrap_or_default();
            entry.write(page, entry_offset(i));
        }
    }

    /// Reads the entry of a list.
    pub fn entry<S: PageStore>(&self, store: &S, list: u32) -> Result<ListEntry, Error> {
        let (block, at) = self.entry_location(list)?;
        store.read(block, |page| {
            self.check_page(page, block)?;
            Ok(ListEntry::read(page, at))
        })?
    }

    /// Reads the entries of some lists, each page once.
    pub fn entries_of<S: PageStore>(
        &self,
        store: &S,
        lists: &[u32],
    ) -> Result<Vec<ListEntry>, Error> {
        // Lists in the order of the directory, each with its position here: one number, so that sorting is quick.
        let places = lists.iter().zip(0u64..);
        let mut places: Vec<u64> = places.map(|(list, i)| u64::from(*list) << 32 | i).collect();
        places.sort_unstable();
        let list = |place: &u64| (*place >> 32) as u32;
        let mut entries = vec![ListEntry::default(); lists.len()];
        let is_same_page = |a: &u64, b: &u64| self.entry_page(list(a)) == self.entry_page(list(b));
        for same_page in places.chunk_by(is_same_page) {
            let Some(first) = same_page.first() else {
                continue;
            };
            let (block, _) = self.entry_location(list(first))?;
            store.read(block, |page| {
                self.check_page(page, block)?;
                for place in same_page {
                    if let Some(entry) = entries.get_mut(*place as u32 as usize) {
                        *entry = ListEntry::read(page, self.entry_location(list(place))?.1);
                    }
                }
                Ok::<(), Error>(())
            })??;
        }
        Ok(entries)
    }

    /// Reads all entries, in the order of lists; the last one is that of the exact list.
    pub fn entries<S: PageStore>(&self, store: &S) -> Result<Vec<ListEntry>, Error> {
        let mut entries = Vec::with_capacity(self.lists as usize + 1);
        for (block, lists) in self.pages() {
            store.check_interrupts()?;
            store.read(block, |page| {
                self.check_page(page, block)?;
                entries.extend((0..lists.len()).map(|i| ListEntry::read(page, entry_offset(i))));
                Ok::<(), Error>(())
            })??;
        }
        Ok(entries)
    }
}

/// Offset of the `slot`-th entry on its directory page.
pub(crate) fn entry_offset(slot: usize) -> usize {
    BODY + slot * ENTRY_SIZE
}
