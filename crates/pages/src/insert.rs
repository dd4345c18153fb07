//! Inserting one row.
//!
//! Directory hint → page → follow the chain → extend it. All decisions are taken again under the exclusive lock, so what
//! was read before is only advice. The row and the link to its page appear in one atomic change; the hint follows in
//! another one, and a hint that was never moved only makes the next insert walk further.

use crate::directory::ListEntry;
use crate::error::Error;
use crate::metapage::{Metapage, raise_version};
use crate::page::{Layout, NO_BLOCK, PageHeader, PageKind};
use crate::posting::{
    EntryOrigin, check_link, check_row, extend_after, find_free_slot, insert_row, read_header,
};
use crate::row::Row;
use crate::store::{PageStore, PageWrite};

/// Inserts a row into its list. Safe under concurrency with everything else.
pub fn insert<S: PageStore>(store: &S, metapage: &Metapage, row: Row<'_>) -> Result<(), Error> {
    insert_entry(store, metapage, (&row, EntryOrigin::Inserted))
}

/// Inserts an entry of a row into its list.
pub(crate) fn insert_entry<S: PageStore>(
    store: &S,
    metapage: &Metapage,
    (row, origin): (&Row<'_>, EntryOrigin),
) -> Result<(), Error> {
    check_row(metapage, row)?;
    raise_version(store, metapage)?;
    let layout = metapage.layout(row.list)?;
    loop {
        store.check_interrupts()?;
        let entry = metapage.directory.entry(store, row.list)?;
        if entry.first == NO_BLOCK {
            if start_chain(store, metapage, &layout, (row, origin))? {
                return Ok(());
            }
            continue; // somebody else started the chain meanwhile
        }
        let block = insert_into_chain(store, &layout, (row, origin), &entry)?;
        if block != entry.insert_block {
            update_insert_block(store, metapage, row.list, entry.insert_block, block)?;
        }
        return Ok(());
    }
}

/// Gives a list its first page, with the row in it; false if the list has one by now.
fn start_chain<S: PageStore>(
    store: &S,
    metapage: &Metapage,
    layout: &Layout,
    (row, origin): (&Row<'_>, EntryOrigin),
) -> Result<bool, Error> {
    let (block, at) = metapage.directory.entry_location(row.list)?;
    let mut write = store.write()?;
    let directory = write.lock(block)?;
    metapage
        .directory
        .check_page(write.page(directory), block)?;
    let mut entry = ListEntry::read(write.page(directory), at);
    if entry.first != NO_BLOCK {
        return Ok(false);
    }
    let (new, slot) = extend_after(&mut write, block)?;
    let header = PageHeader::posting(layout.list_on_page(row.list));
    insert_row(&mut write, (new, slot), header, layout, (row, origin))?;
    entry.first = new;
    entry.insert_block = new;
    entry.write(write.page(directory), at);
    write.commit()?;
    Ok(true)
}

/// Puts the row into the first page with room from the hint on, or into a new page at the end. Returns the page.
fn insert_into_chain<S: PageStore>(
    store: &S,
    layout: &Layout,
    (row, origin): (&Row<'_>, EntryOrigin),
    entry: &ListEntry,
) -> Result<u32, Error> {
    let mut blocks = store.block_count()?;
    check_link(store, 0, entry.first, &mut blocks)?;
    let peek = |block: u32| {
        store.read(block, |page| {
            let header = read_header(page, block, row.list, layout)?;
            Ok::<_, Error>((header, find_free_slot(page, &header, layout).is_none()))
        })?
    };
    let hinted = (entry.insert_block > entry.first && entry.insert_block < blocks)
        .then(|| peek(entry.insert_block).ok())
        .flatten()
        .filter(|(header, _)| header.kind == PageKind::Posting);
    let (mut block, (mut header, mut full)) = match hinted {
        Some(seen) => (entry.insert_block, seen),
        None => (entry.first, peek(entry.first)?),
    };
    loop {
        store.check_interrupts()?;
        let next = if full && header.next != NO_BLOCK {
            header.next
        } else {
            match try_page(store, layout, (row, origin), block)? {
                InsertOutcome::Done(block) => return Ok(block),
                InsertOutcome::Full { next } => next,
            }
        };
        check_link(store, block, next, &mut blocks)?;
        block = next;
        (header, full) = peek(next)?;
    }
}

/// What became of an attempt to use a page.
enum InsertOutcome {
    /// The row is in this page.
    Done(u32),
    /// The page is full, and the chain goes on.
    Full { next: u32 },
}

/// Puts the row into this page, or into a new one behind it if it is full and the last.
fn try_page<S: PageStore>(
    store: &S,
    layout: &Layout,
    (row, origin): (&Row<'_>, EntryOrigin),
    block: u32,
) -> Result<InsertOutcome, Error> {
    let mut write = store.write()?;
    let slot = write.lock(block)?;
    let mut header = read_header(write.page(slot), block, row.list, layout)?;
    if find_free_slot(write.page(slot), &header, layout).is_some() {
        insert_row(&mut write, (block, slot), header, layout, (row, origin))?;
        write.commit()?;
        return Ok(InsertOutcome::Done(block));
    }
    if header.next != NO_BLOCK {
        return Ok(InsertOutcome::Full { next: header.next });
    }
    let (new, new_slot) = extend_after(&mut write, block)?;
    let new_header = PageHeader::posting(layout.list_on_page(row.list));
    insert_row(
        &mut write,
        (new, new_slot),
        new_header,
        layout,
        (row, origin),
    )?;
    header.next = new;
    header.write(write.page(slot));
    write.commit()?;
    Ok(InsertOutcome::Done(new))
}

/// Moves the hint, unless somebody moved it meanwhile.
fn update_insert_block<S: PageStore>(
    store: &S,
    metapage: &Metapage,
    list: u32,
    from: u32,
    to: u32,
) -> Result<(), Error> {
    let (block, at) = metapage.directory.entry_location(list)?;
    let mut write = store.write()?;
    let slot = write.lock(block)?;
    metapage.directory.check_page(write.page(slot), block)?;
    let mut entry = ListEntry::read(write.page(slot), at);
    if entry.insert_block != from {
        return Ok(());
    }
    entry.insert_block = to;
    entry.write(write.page(slot), at);
    write.commit()
}
