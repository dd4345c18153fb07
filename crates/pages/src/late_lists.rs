//! Lists for an index that was built without any, because its table had too few rows then.
//!
//! # Protocol
//! 1. *Prepare*. The blobs, and empty directory pages, are written to pages that the metapage names as they are appended, each
//!    in one atomic change. Readers of an index without lists do not look at them. What an aborted attempt left is written
//!    over by the next one.
//! 2. *Switch* ([`add_lists`] ends with it). One change of the metapage sets columns, lists, directory, and blobs, and
//!    [`RowMoves::Unfinished`].
//! 3. *Move* ([`move_rows`]). The rows of some pages of the exact list ([`ExactPages`]) are inserted into their lists, each entry in
//!    a change of its own and only if it is not there already. Then each page loses these rows in one change, and is *closed* in
//!    the same change: it takes no further rows.
//! 4. *Finish* ([`finish_moves`]). Once no row is left that is in a list too, [`RowMoves::Finished`] is set. Closed pages
//!    without rows at the start of the exact list are passed over: its directory entry names a later page.
//!
//! # Invariants
//! * The exact list keeps its directory page, its pages and their layout. A writer whose copy of the metapage has no lists puts
//!   rows where all searches look.
//! * A row leaves the exact list only after the switch, and when all its entries are in lists. So a search with lists that reads the
//!   exact list first finds every row, some of them twice while moves are unfinished: it drops the second.
//! * A search whose copy of the metapage has no lists reads the metapage again at the end of the exact list. If there are lists by
//!   then, rows may have left before it came to them, and it begins again. If not, it has seen all rows.
//! * A page is closed, and later passed over, under its lock and that of the directory page: no row is put on a page that
//!   searches do not reach. A closed page is never opened again, and no page of the exact list is reused.
//! * A crash leaves a prefix of these steps, of which each is one of the states above. The next attempt goes on there.
//!
//! At most one attempt may be under way, and no vacuum meanwhile; searches, inserts, and a standby that replays the changes go on.

use crate::blob_swap::{ChainOf, write_unused};
use crate::chain::Extent;
use crate::directory::{Directory, ListEntry};
use crate::error::Error;
use crate::insert::insert_entry;
use crate::metapage::{Metapage, RowMoves, change, raise_version};
use crate::page::{FORMAT, Layout, NO_BLOCK, PageHeader, PageKind};
use crate::posting::{EntryOrigin, check_link, extend_after, read_header, remove_rows};
use crate::row::Row;
use crate::row_format::RowFormat;
use crate::store::{PageStore, PageWrite};
use crate::tid::Tid;

/// What an index gets.
#[derive(Clone, Copy, Debug)]
pub struct NewLists<'a> {
    /// Columns of rows. Those that rows of the exact list have too stay the same, in the same order.
    pub format: RowFormat,
    /// Lists, without the exact list.
    pub lists: u32,
    /// The base and the current blob.
    pub blobs: [&'a [u8]; 2],
    /// A random number that marks the current blob, see [`Metapage::blob_version`].
    pub blob_version: u64,
    /// Rows that the index has.
    pub rows: u64,
    /// The new body of the metapage.
    pub body: &'a [u8],
}

/// Prepares the pages of lists, and switches the index to them. Its rows are still in the exact list afterwards.
///
/// # Errors
/// [`Error::Mismatch`] if the index has lists, or the columns do not fit a page, or are others in the exact list than before.
pub fn add_lists<S: PageStore>(store: &S, new: &NewLists<'_>) -> Result<Metapage, Error> {
    let metapage = Metapage::read(store)?;
    if metapage.lists() > 0 {
        return Err(Error::Mismatch("the index has lists"));
    }
    if new.lists == 0 || Layout::new(&new.format).is_none() {
        return Err(Error::Mismatch("the columns do not fit a page"));
    }
    if !new
        .format
        .exact_columns()
        .eq(metapage.format.exact_columns())
    {
        let what = "rows of the exact list would have other columns";
        return Err(Error::Mismatch(what));
    }
    raise_version(store, &metapage)?;
    let [base, current] = new.blobs;
    let base = write_unused(store, ChainOf(|it| &mut it.base), &[metapage.current], base)?;
    let current = write_unused(store, ChainOf(|it| &mut it.current), &[base], current)?;
    let directory = prepare_directory(store, new.lists)?;
    change(store.write()?, Some(new.body), |metapage| {
        metapage.format = new.format;
        metapage.directory = directory;
        (metapage.base, metapage.current) = (base, current);
        metapage.blob_version = new.blob_version;
        metapage.rows_at_build = new.rows;
        metapage.row_moves = RowMoves::Unfinished;
    })
}

/// Writes the empty directory pages of lists, appending those that are missing.
fn prepare_directory<S: PageStore>(store: &S, lists: u32) -> Result<Directory, Error> {
    let needed = Directory::blocks_for(lists);
    let mut directory = Metapage::read(store)?.directory;
    while directory.extent.blocks < needed {
        store.check_interrupts()?;
        directory = append_directory_page(store)?;
    }
    let unused = directory.extent.start + needed..directory.extent.start + directory.extent.blocks;
    directory.lists = lists;
    directory.extent.blocks = needed;
    for (block, _) in directory
        .pages()
        .filter(|(block, _)| *block != directory.exact)
    {
        overwrite(store, block, |page| directory.write_page(block, &[], page))?;
    }
    for block in unused {
        // An earlier attempt had more lists. Nothing leads to the page any more.
        overwrite(store, block, |page| {
            PageHeader {
                kind: PageKind::Empty,
                ..PageHeader::posting(0)
            }
            .write(page);
        })?;
    }
    Ok(directory)
}

/// Appends a page to the unused directory. The pages must follow each other: if others were appended meanwhile, the directory
/// begins again with this page, and those before it stay empty for good.
fn append_directory_page<S: PageStore>(store: &S) -> Result<Directory, Error> {
    let mut write = store.write()?;
    let meta_slot = write.lock(0)?;
    let mut metapage = Metapage::parse(write.page(meta_slot))?;
    let (new, _) = extend_after(&mut write, 0)?;
    let Extent { start, blocks } = metapage.directory.extent;
    metapage.directory.extent = if blocks > 0 && start.checked_add(blocks) == Some(new) {
        Extent {
            start,
            blocks: blocks + 1,
        }
    } else {
        Extent {
            start: new,
            blocks: 1,
        }
    };
    metapage.version = FORMAT.into();
    metapage.write_to(write.page(meta_slot));
    write.commit()?;
    Ok(metapage.directory)
}

/// Changes an unused directory page, which may be empty.
fn overwrite<S: PageStore>(
    store: &S,
    block: u32,
    fill: impl FnOnce(&mut [u8]),
) -> Result<(), Error> {
    store.check_interrupts()?;
    let mut write = store.write()?;
    let slot = write.lock(block)?;
    let header = PageHeader::read(write.page(slot), block)?;
    if !matches!(header.kind, PageKind::Empty | PageKind::Directory) {
        return Err(Error::damaged(block, "an unused page is in use"));
    }
    fill(write.page(slot));
    write.commit()
}

/// A walk over the pages of the exact list that are not closed.
pub struct ExactPages<'a, S> {
    store: &'a S,
    metapage: &'a Metapage,
    /// The page with the link, and where it leads; `None` before the first page.
    link: Option<(u32, u32)>,
    /// Pages of the store, as last asked for.
    blocks: u32,
}

impl<'a, S: PageStore> ExactPages<'a, S> {
    /// Before the first page.
    pub fn new(store: &'a S, metapage: &'a Metapage) -> Self {
        ExactPages {
            store,
            metapage,
            link: None,
            blocks: 0,
        }
    }

    /// The next page, whose rows replace `tids`; `None` after the last.
    pub fn next(&mut self, tids: &mut Vec<Tid>) -> Result<Option<u32>, Error> {
        let list = self.metapage.exact_list();
        let layout = self.metapage.layout(list)?;
        let (mut from, mut block) = match self.link {
            Some(link) => link,
            None => (0, self.metapage.directory.entry(self.store, list)?.first),
        };
        tids.clear();
        while block != NO_BLOCK {
            self.store.check_interrupts()?;
            check_link(self.store, from, block, &mut self.blocks)?;
            let head = self.store.read(block, |page| {
                let head = read_header(page, block, list, &layout)?;
                if !head.closed {
                    let rows = (0..usize::from(head.count)).map(|i| layout.tid(page, i));
                    tids.extend(rows.filter(|tid| tid.offset != 0));
                }
                Ok::<_, Error>(head)
            })??;
            (from, block) = (block, head.next);
            if !head.closed {
                self.link = Some((from, block));
                return Ok(Some(from));
            }
        }
        self.link = Some((from, block));
        Ok(None)
    }
}

/// A page of the exact list whose rows move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MovedPage {
    /// The page.
    pub block: u32,
    /// Whether it is to be closed. Otherwise a later attempt looks at its rows again.
    pub closes: bool,
}

/// Moves rows from pages of the exact list: `entries`, sorted by list, are inserted where they are not there yet, and then the rows
/// whose first entries are among them are removed from the pages. All entries of a row must be given at once.
pub fn move_rows<'r, S: PageStore>(
    store: &S,
    metapage: &Metapage,
    entries: impl IntoIterator<Item = Row<'r>>,
    pages: &[MovedPage],
) -> Result<(), Error> {
    let mut entries = entries.into_iter().peekable();
    let (mut moved, mut of_list) = (Vec::new(), Vec::new());
    while let Some(list) = entries.peek().map(|row| row.list) {
        if list >= metapage.lists() {
            return Err(Error::Mismatch("a row cannot move to this list"));
        }
        of_list.clear();
        while let Some(row) = entries.next_if(|row| row.list == list) {
            of_list.push(row);
        }
        insert_missing(store, metapage, list, &mut of_list)?;
        let first = of_list.iter().filter(|row| !row.tid.is_second());
        moved.extend(first.map(|row| row.tid));
    }
    moved.sort_unstable();
    let layout = metapage.layout(metapage.exact_list())?;
    for page in pages {
        store.check_interrupts()?;
        remove_moved(store, metapage, &layout, page, &moved)?;
    }
    Ok(())
}

/// Inserts the entries that a list does not have. Sorts them.
fn insert_missing<S: PageStore>(
    store: &S,
    metapage: &Metapage,
    list: u32,
    entries: &mut [Row<'_>],
) -> Result<(), Error> {
    entries.sort_unstable_by_key(|row| row.tid);
    let mut is_there = vec![false; entries.len()];
    let layout = metapage.layout(list)?;
    let mut blocks = store.block_count()?;
    let mut from = metapage.directory.entry_page(list);
    let mut block = metapage.directory.entry(store, list)?.first;
    while block != NO_BLOCK {
        store.check_interrupts()?;
        check_link(store, from, block, &mut blocks)?;
        let next = store.read(block, |page| {
            let head = read_header(page, block, list, &layout)?;
            for tid in (0..usize::from(head.count)).map(|i| layout.tid(page, i)) {
                if let Ok(i) = entries.binary_search_by_key(&tid, |row| row.tid)
                    && let Some(is_there) = is_there.get_mut(i)
                {
                    *is_there = true;
                }
            }
            Ok::<_, Error>(head.next)
        })??;
        (from, block) = (block, next);
    }
    let missing = entries.iter().zip(is_there);
    for row in missing.filter_map(|(row, is_there)| (!is_there).then_some(row)) {
        insert_entry(store, metapage, (row, EntryOrigin::Moved))?;
    }
    Ok(())
}

/// Removes those rows of a page of the exact list that are among `moved`, which is sorted, and closes it.
fn remove_moved<S: PageStore>(
    store: &S,
    metapage: &Metapage,
    layout: &Layout,
    page: &MovedPage,
    moved: &[Tid],
) -> Result<(), Error> {
    let (block, list) = (page.block, metapage.exact_list());
    let mut write = store.write()?;
    let slot = write.lock(block)?;
    let bytes = write.page(slot);
    let head = read_header(bytes, block, list, layout)?;
    remove_rows(bytes, head, layout, moved);
    if page.closes {
        let head = read_header(bytes, block, list, layout)?;
        PageHeader {
            kind: PageKind::Posting,
            closed: true,
            inserted: 0,
            ..head
        }
        .write(bytes);
    }
    write.commit()
}

/// Ends an attempt that came to the end of the exact list. The moves are finished if no row may be in a list and the exact list
/// at once. Returns the new metapage.
pub fn finish_moves<S: PageStore>(store: &S, is_finished: bool) -> Result<Metapage, Error> {
    let metapage = Metapage::read(store)?;
    pass_closed_pages(store, &metapage)?;
    if !is_finished || metapage.row_moves != RowMoves::Unfinished {
        return Ok(metapage);
    }
    change(store.write()?, None, |metapage| {
        metapage.row_moves = RowMoves::Finished;
    })
}

/// Has the exact list begin behind closed pages without rows. Its last page stays: an insert may be about to continue there.
fn pass_closed_pages<S: PageStore>(store: &S, metapage: &Metapage) -> Result<(), Error> {
    let list = metapage.exact_list();
    let layout = metapage.layout(list)?;
    let entry = metapage.directory.entry(store, list)?;
    let (mut first, mut blocks) = (entry.first, store.block_count()?);
    while first != NO_BLOCK {
        store.check_interrupts()?;
        check_link(store, entry.first, first, &mut blocks)?;
        let head = store.read(first, |page| read_header(page, first, list, &layout))??;
        if !head.closed || head.count > 0 || head.next == NO_BLOCK {
            break;
        }
        first = head.next;
    }
    if first == entry.first {
        return Ok(());
    }
    let (block, at) = metapage.directory.entry_location(list)?;
    let mut write = store.write()?;
    let slot = write.lock(block)?;
    let page = write.page(slot);
    metapage.directory.check_page(page, block)?;
    let now = ListEntry::read(page, at);
    ListEntry {
        first,
        insert_block: now.insert_block.max(first),
        ..now
    }
    .write(page, at);
    write.commit()
}
