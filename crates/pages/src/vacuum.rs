//! Removing dead rows.
//!
//! A page is read, then `dead` is asked about its rows with nothing locked, and only a page with dead rows is locked and
//! compacted. Rows that were added meanwhile stay. At most one vacuum may run on an index.

use crate::directory::{ListEntry, entry_offset};
use crate::error::Error;
use crate::metapage::{Metapage, raise_version};
use crate::page::{Layout, NO_BLOCK, PageHeader};
use crate::page_walk::for_each_page;
use crate::posting::{check_link, clear_rows, read_any_header, read_header, remove_rows};
use crate::store::{PageStore, PageWrite};
use crate::tid::Tid;

/// What a vacuum found and did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VacuumStats {
    /// Rows removed.
    pub removed: u64,
    /// Rows that stay.
    pub remaining: u64,
    /// Pages of the index, of every kind.
    pub pages: u32,
    /// Posting pages without a row, kept for later inserts.
    pub empty_pages: u32,
}

/// What the walk learns of a list.
#[derive(Clone, Copy, Default)]
struct ListSummary {
    /// First page with room.
    room: u32,
    rows: u64,
}

/// Calls `dead` once per entry, with the address of its row, and removes the entries for which it returns true. Afterwards inserts
/// start at the first page with room again.
pub fn vacuum<S: PageStore>(
    store: &S,
    dead: &mut dyn FnMut(Tid) -> bool,
) -> Result<VacuumStats, Error> {
    let metapage = Metapage::read(store)?;
    let mut lists = vec![ListSummary::default(); metapage.lists() as usize + 1];
    let mut stats = VacuumStats::default();
    let mut tids = Vec::new();
    let pages = for_each_page(store, 1, |block| {
        tids.clear();
        let page = store.read(block, |page| collect(page, block, &metapage, &mut tids))??;
        let Some((list, head, layout)) = page else {
            return Ok(());
        };
        let mut left = tids.len();
        let rows = count_first(&tids);
        tids.retain(|&tid| dead(tid.row()));
        let removed = count_first(&tids);
        stats.removed += removed;
        stats.remaining += rows - removed;
        if !tids.is_empty() {
            tids.sort_unstable();
            raise_version(store, &metapage)?;
            left = remove(store, block, list, &layout, &tids)?;
        }
        stats.empty_pages += u32::from(left == 0);
        if let Some(found) = lists.get_mut(list as usize) {
            found.rows += left as u64;
            if found.room == NO_BLOCK && left < layout.capacity() && !head.closed {
                found.room = block;
            }
        }
        Ok(())
    })?;
    stats.pages = pages;
    update_directory(store, &metapage, &lists)?;
    Ok(stats)
}

/// Number of first entries.
fn count_first(tids: &[Tid]) -> u64 {
    tids.iter().filter(|tid| !tid.is_second()).count() as u64
}

/// Counts the rows of an index, of which only directory and posting pages are read. What writers do meanwhile may be counted or
/// not.
pub fn count_rows<S: PageStore>(store: &S) -> Result<u64, Error> {
    let metapage = Metapage::read(store)?;
    let (mut rows, mut blocks) = (0, store.block_count()?);
    for (list, entry) in (0u32..).zip(metapage.directory.entries(store)?) {
        let layout = metapage.layout(list)?;
        let (mut from, mut block) = (metapage.directory.entry_page(list), entry.first);
        while block != NO_BLOCK {
            store.check_interrupts()?;
            check_link(store, from, block, &mut blocks)?;
            let (next, found) = store.read(block, |page| {
                let head = read_header(page, block, list, &layout)?;
                let all = 0..usize::from(head.count);
                let tids = all.map(|i| layout.tid(page, i));
                let first = tids.filter(|tid| tid.offset != 0 && !tid.is_second());
                let found = first.count();
                Ok::<_, Error>((head.next, found as u64))
            })??;
            rows += found;
            (from, block) = (block, next);
        }
    }
    Ok(rows)
}

/// Copies the addresses of the entries of a posting page; `None` for a page of another kind.
fn collect(
    page: &[u8],
    block: u32,
    metapage: &Metapage,
    tids: &mut Vec<Tid>,
) -> Result<Option<(u32, PageHeader, Layout)>, Error> {
    let Some((list, head, layout)) = read_any_header(page, block, metapage)? else {
        return Ok(None);
    };
    let rows = (0..usize::from(head.count)).map(|i| layout.tid(page, i));
    tids.extend(rows.filter(|tid| tid.row().offset != 0));
    Ok(Some((list, head, layout)))
}

/// Removes rows from a page. Returns the rows left.
fn remove<S: PageStore>(
    store: &S,
    block: u32,
    list: u32,
    layout: &Layout,
    dead_tids: &[Tid],
) -> Result<usize, Error> {
    let mut write = store.write()?;
    let slot = write.lock(block)?;
    let head = read_header(write.page(slot), block, list, layout)?;
    let page = write.page(slot);
    let left = if layout.has_side() {
        clear_rows(page, head, layout, dead_tids)
    } else {
        remove_rows(page, head, layout, dead_tids)
    };
    write.commit()?;
    Ok(left)
}

/// Sets hints and row counts, one change a directory page that needs it.
fn update_directory<S: PageStore>(
    store: &S,
    metapage: &Metapage,
    lists: &[ListSummary],
) -> Result<(), Error> {
    for (block, numbers) in metapage.directory.pages() {
        store.check_interrupts()?;
        let numbers = numbers.start as usize..numbers.end as usize;
        let found = lists.get(numbers).unwrap_or_default();
        let stale = store.read(block, |page| {
            metapage.directory.check_page(page, block)?;
            let mut all = found.iter().enumerate();
            Ok::<_, Error>(all.any(|(i, found)| {
                let entry = ListEntry::read(page, entry_offset(i));
                entry != found.apply_to(entry)
            }))
        })??;
        if !stale {
            continue;
        }
        let mut write = store.write()?;
        let slot = write.lock(block)?;
        let page = write.page(slot);
        metapage.directory.check_page(page, block)?;
        for (i, found) in found.iter().enumerate() {
            let entry = ListEntry::read(page, entry_offset(i));
            found.apply_to(entry).write(page, entry_offset(i));
        }
        write.commit()?;
    }
    Ok(())
}

impl ListSummary {
    /// The directory entry with this knowledge in it.
    fn apply_to(&self, mut entry: ListEntry) -> ListEntry {
        entry.rows = self.rows;
        if self.room != NO_BLOCK {
            entry.insert_block = self.room;
        }
        entry
    }
}
