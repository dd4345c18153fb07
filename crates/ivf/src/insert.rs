//! Inserting one row.
//!
//! Directory hint → page → follow the chain → extend it. All decisions are taken again under the exclusive lock, so what
//! was read before is only advice. The row and the link to its page appear in one atomic change; the hint follows in
//! another one, and a hint that was never moved only makes the next insert walk further.

use crate::Row;
use crate::error::Error;
use crate::meta::{Entry, Meta, check_directory_page};
use crate::page::{Head, Kind, Layout, NO_BLOCK};
use crate::posting::{check_link, check_row, extend_after, free_row, open, put};
use crate::store::{PageStore, PageWrite};

/// Inserts a row into its list. Safe under concurrency with everything else.
pub fn insert<S: PageStore>(store: &S, meta: &Meta, row: Row<'_>) -> Result<(), Error> {
    check_row(meta, &row)?;
    let layout = meta.layout(row.list)?;
    loop {
        store.interrupts()?;
        let entry = Entry::of(store, meta, row.list)?;
        if entry.first == NO_BLOCK {
            if start_chain(store, meta, &layout, &row)? {
                return Ok(());
            }
            continue; // somebody else started the chain meanwhile
        }
        let place = place(store, &layout, &row, &entry)?;
        if place != entry.hint {
            move_hint(store, meta, row.list, entry.hint, place)?;
        }
        return Ok(());
    }
}

/// Gives a list its first page, with the row in it; false if the list has one by now.
fn start_chain<S: PageStore>(
    store: &S,
    meta: &Meta,
    layout: &Layout,
    row: &Row<'_>,
) -> Result<bool, Error> {
    let (block, at) = meta.entry_place(row.list)?;
    let mut write = store.write()?;
    let directory = write.lock(block)?;
    check_directory_page(write.page(directory), block, meta)?;
    let mut entry = Entry::read(write.page(directory), at);
    if entry.first != NO_BLOCK {
        return Ok(false);
    }
    let (new, slot) = extend_after(&mut write, block)?;
    let head = Head::posting(row.list);
    put(&mut write, (new, slot), head, layout, row)?;
    entry.first = new;
    entry.hint = new;
    entry.write(write.page(directory), at);
    write.commit()?;
    Ok(true)
}

/// Puts the row into the first page with room from the hint on, or into a new page at the end. Returns the page.
fn place<S: PageStore>(
    store: &S,
    layout: &Layout,
    row: &Row<'_>,
    entry: &Entry,
) -> Result<u32, Error> {
    let mut blocks = store.blocks()?;
    check_link(store, 0, entry.first, &mut blocks)?;
    let peek = |block: u32| {
        store.read(block, |page| {
            let head = open(page, block, row.list, layout)?;
            Ok::<_, Error>((head, free_row(page, &head, layout).is_none()))
        })?
    };
    let hinted = (entry.hint > entry.first && entry.hint < blocks)
        .then(|| peek(entry.hint).ok())
        .flatten()
        .filter(|(head, _)| head.kind == Kind::Posting);
    let (mut block, (mut head, mut full)) = match hinted {
        Some(seen) => (entry.hint, seen),
        None => (entry.first, peek(entry.first)?),
    };
    loop {
        store.interrupts()?;
        let next = if full && head.next != NO_BLOCK {
            head.next
        } else {
            match place_here(store, layout, row, block)? {
                Place::Done(block) => return Ok(block),
                Place::Full { next } => next,
            }
        };
        check_link(store, block, next, &mut blocks)?;
        block = next;
        (head, full) = peek(next)?;
    }
}

/// What became of an attempt to use a page.
enum Place {
    /// The row is in this page.
    Done(u32),
    /// The page is full, and the chain goes on.
    Full { next: u32 },
}

/// Puts the row into this page, or into a new one behind it if it is full and the last.
fn place_here<S: PageStore>(
    store: &S,
    layout: &Layout,
    row: &Row<'_>,
    block: u32,
) -> Result<Place, Error> {
    let mut write = store.write()?;
    let slot = write.lock(block)?;
    let mut head = open(write.page(slot), block, row.list, layout)?;
    if free_row(write.page(slot), &head, layout).is_some() {
        put(&mut write, (block, slot), head, layout, row)?;
        write.commit()?;
        return Ok(Place::Done(block));
    }
    if head.next != NO_BLOCK {
        return Ok(Place::Full { next: head.next });
    }
    let (new, new_slot) = extend_after(&mut write, block)?;
    let new_head = Head::posting(row.list);
    put(&mut write, (new, new_slot), new_head, layout, row)?;
    head.next = new;
    head.write(write.page(slot));
    write.commit()?;
    Ok(Place::Done(new))
}

/// Moves the hint, unless somebody moved it meanwhile.
fn move_hint<S: PageStore>(
    store: &S,
    meta: &Meta,
    list: u32,
    from: u32,
    to: u32,
) -> Result<(), Error> {
    let (block, at) = meta.entry_place(list)?;
    let mut write = store.write()?;
    let slot = write.lock(block)?;
    check_directory_page(write.page(slot), block, meta)?;
    let mut entry = Entry::read(write.page(slot), at);
    if entry.hint != from {
        return Ok(());
    }
    entry.hint = to;
    entry.write(write.page(slot), at);
    write.commit()
}
