//! Removing dead rows.
//!
//! A page is read, then `dead` is asked about its rows with nothing locked, and only a page with dead rows is locked and
//! compacted. Rows that were added meanwhile stay. At most one vacuum may run on an index.

use crate::Tid;
use crate::error::Error;
use crate::meta::{Entry, Meta, check_directory_page, entries_on, entry_offset, read_directory};
use crate::page::{Layout, NO_BLOCK};
use crate::posting::{check_link, compact, open, open_any, punch};
use crate::store::{PageStore, PageWrite};
use crate::walk::each_page;

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
struct Found {
    /// First page with room.
    room: u32,
    rows: u64,
}

/// Asks `dead` about every row exactly once and removes those it says yes to. Afterwards inserts start at the first page
/// with room again.
pub fn vacuum<S: PageStore>(
    store: &S,
    dead: &mut dyn FnMut(Tid) -> bool,
) -> Result<VacuumStats, Error> {
    let meta = Meta::read(store)?;
    let mut lists = vec![Found::default(); meta.lists as usize + 1];
    let mut stats = VacuumStats::default();
    let mut tids = Vec::new();
    let pages = each_page(store, 1, |block| {
        tids.clear();
        let page = store.read(block, |page| collect(page, block, &meta, &mut tids))??;
        let Some((list, layout)) = page else {
            return Ok(());
        };
        let mut left = tids.len();
        tids.retain(|&tid| dead(tid));
        stats.removed += tids.len() as u64;
        if !tids.is_empty() {
            tids.sort_unstable();
            left = remove(store, block, list, &layout, &tids)?;
        }
        stats.remaining += left as u64;
        stats.empty_pages += u32::from(left == 0);
        if let Some(found) = lists.get_mut(list as usize) {
            found.rows += left as u64;
            if found.room == NO_BLOCK && left < layout.capacity() {
                found.room = block;
            }
        }
        Ok(())
    })?;
    stats.pages = pages;
    update_directory(store, &meta, &lists)?;
    Ok(stats)
}

/// Counts the rows of an index, of which only directory and posting pages are read. What writers do meanwhile may be counted or
/// not.
pub fn count_rows<S: PageStore>(store: &S) -> Result<u64, Error> {
    let meta = Meta::read(store)?;
    let (mut rows, mut blocks) = (0, store.blocks()?);
    for (list, entry) in (0u32..).zip(read_directory(store, &meta)?) {
        let layout = meta.layout(list)?;
        let (mut from, mut block) = (meta.entry_page(list), entry.first);
        while block != NO_BLOCK {
            store.interrupts()?;
            check_link(store, from, block, &mut blocks)?;
            let (next, found) = store.read(block, |page| {
                let head = open(page, block, list, &layout)?;
                let all = 0..usize::from(head.count);
                let found = all.filter(|&i| layout.tid(page, i).offset != 0).count();
                Ok::<_, Error>((head.next, found as u64))
            })??;
            rows += found;
            (from, block) = (block, next);
        }
    }
    Ok(rows)
}

/// Copies the TIDs of a posting page; `None` for a page of another kind.
fn collect(
    page: &[u8],
    block: u32,
    meta: &Meta,
    tids: &mut Vec<Tid>,
) -> Result<Option<(u32, Layout)>, Error> {
    let Some((head, layout)) = open_any(page, block, meta)? else {
        return Ok(None);
    };
    let rows = (0..usize::from(head.count)).map(|i| layout.tid(page, i));
    tids.extend(rows.filter(|tid| tid.offset != 0));
    Ok(Some((head.list, layout)))
}

/// Removes rows from a page. Returns the rows left.
fn remove<S: PageStore>(
    store: &S,
    block: u32,
    list: u32,
    layout: &Layout,
    victims: &[Tid],
) -> Result<usize, Error> {
    let mut write = store.write()?;
    let slot = write.lock(block)?;
    let head = open(write.page(slot), block, list, layout)?;
    let page = write.page(slot);
    let left = if layout.has_refine() {
        punch(page, head, layout, victims)
    } else {
        compact(page, head, layout, victims)
    };
    write.commit()?;
    Ok(left)
}

/// Sets hints and row counts, one change a directory page that needs it.
fn update_directory<S: PageStore>(store: &S, meta: &Meta, lists: &[Found]) -> Result<(), Error> {
    for ordinal in 0..meta.directory.blocks {
        store.interrupts()?;
        let block = meta.directory.start + ordinal;
        let from = ordinal as usize * crate::meta::ENTRIES;
        let found = lists.get(from..).unwrap_or_default();
        let found = found
            .get(..entries_on(meta.lists, ordinal))
            .unwrap_or_default();
        let stale = store.read(block, |page| {
            check_directory_page(page, block, meta)?;
            let mut all = found.iter().enumerate();
            Ok::<_, Error>(all.any(|(i, found)| {
                let entry = Entry::read(page, entry_offset(i));
                entry != found.applied(entry)
            }))
        })??;
        if !stale {
            continue;
        }
        let mut write = store.write()?;
        let slot = write.lock(block)?;
        let page = write.page(slot);
        check_directory_page(page, block, meta)?;
        for (i, found) in found.iter().enumerate() {
            let entry = Entry::read(page, entry_offset(i));
            found.applied(entry).write(page, entry_offset(i));
        }
        write.commit()?;
    }
    Ok(())
}

impl Found {
    /// The directory entry with this knowledge in it.
    fn applied(&self, mut entry: Entry) -> Entry {
        entry.rows = self.rows;
        if self.room != NO_BLOCK {
            entry.hint = self.room;
        }
        entry
    }
}
