//! Rows on a posting page: what every operation on them shares.

use crate::error::Error;
use crate::meta::Meta;
use crate::page::{Head, Kind, Layout, NO_BLOCK, put as store_bytes};
use crate::store::{PageStore, PageWrite};
use crate::{Row, Tid};

/// Checks that a row can be stored in this index.
pub(crate) fn check_row(meta: &Meta, row: &Row<'_>) -> Result<(), Error> {
    if row.list > meta.lists {
        return Err(Error::Mismatch("there is no list of this number"));
    }
    if row.tid.offset == 0 {
        return Err(Error::Mismatch("the row has no address"));
    }
    if row.list < meta.lists && row.codes.len() != meta.shape.subquantizers {
        return Err(Error::Mismatch(
            "the row has a wrong number of codes for this index",
        ));
    }
    if row.list < meta.lists && row.refine.len() != meta.refine_bytes() {
        return Err(Error::Mismatch(
            "the row's refine code is not as this index wants it",
        ));
    }
    Ok(())
}

/// Reads and checks the head of a page in the chain of `list`. A page that was never initialised is an empty one at the
/// end of the chain; its kind stays [`Kind::Empty`] until a row is put on it.
pub(crate) fn open(page: &[u8], block: u32, list: u32, layout: &Layout) -> Result<Head, Error> {
    let head = Head::read(page).map_err(|what| Error::damaged(block, what))?;
    let what = match head.kind {
        Kind::Empty => {
            return Ok(Head {
                kind: Kind::Empty,
                ..Head::posting(list)
            });
        }
        Kind::Posting if head.list != list => "the page belongs to another list",
        Kind::Posting if usize::from(head.count) > layout.capacity() => "more rows than fit",
        Kind::Posting if head.next != NO_BLOCK && head.next <= block => "link leads backwards",
        Kind::Posting => return Ok(head),
        _ => "not a posting page",
    };
    Err(Error::damaged(block, what))
}

/// As [`open`], of whichever list; with the layout of its pages. `None` for a page of another kind.
pub(crate) fn open_any(
    page: &[u8],
    block: u32,
    meta: &Meta,
) -> Result<Option<(Head, Layout)>, Error> {
    let head = Head::read(page).map_err(|what| Error::damaged(block, what))?;
    if head.kind != Kind::Posting {
        return Ok(None);
    }
    if head.list > meta.lists {
        return Err(Error::damaged(block, "the page belongs to no list"));
    }
    let layout = meta.layout(head.list)?;
    Ok(Some((open(page, block, head.list, &layout)?, layout)))
}

/// Appends rows to a page that is open for change, as many as fit, taking them from `rows` one by one.
pub(crate) fn fill<'r>(
    page: &mut [u8],
    head: &mut Head,
    layout: &Layout,
    mut rows: impl FnMut() -> Option<Row<'r>>,
) {
    head.kind = Kind::Posting;
    while usize::from(head.count) < layout.capacity() {
        let Some(row) = rows() else { break };
        layout.put_row(page, usize::from(head.count), &row);
        head.count += 1;
    }
    head.write(page);
}

/// Where a row can be put: into a hole, for which there is room among the refine codes, or behind the others.
pub(crate) fn free_row(page: &[u8], head: &Head, layout: &Layout) -> Option<usize> {
    let count = usize::from(head.count);
    // Without refine codes there are no holes.
    let mut rows = 0..if layout.has_refine() { count } else { 0 };
    let hole = rows.find(|&i| layout.tid(page, i).offset == 0);
    hole.or((count < layout.capacity()).then_some(count))
}

/// Puts one row into a page that is open for change and has room, counts it as inserted, and puts its refine code onto the
/// refine page, which is appended if it is not there yet. `block` is the page's number. Touches at most one page beside this one.
pub(crate) fn put<W: PageWrite>(
    write: &mut W,
    (block, slot): (u32, usize),
    mut head: Head,
    layout: &Layout,
    row: &Row<'_>,
) -> Result<(), Error> {
    let Some(i) = free_row(write.page(slot), &head, layout) else {
        return Err(Error::Mismatch("there is no room for the row"));
    };
    if layout.has_refine() {
        let (p, at) = layout.refine_place(i);
        let known = layout.refine_page(write.page(slot), p);
        let refine = if known == NO_BLOCK {
            let (new, refine) = extend_after(write, block)?;
            Head::refine(row.list, block).write(write.page(refine));
            layout.put_refine_page(write.page(slot), p, new);
            refine
        } else {
            let refine = write.lock(known)?;
            check_refine(write.page(refine), known, row.list, block)?;
            refine
        };
        store_bytes(write.page(refine), at, row.refine);
    }
    head.kind = Kind::Posting;
    head.count = head.count.max(i as u16 + 1);
    head.inserted = head.inserted.saturating_add(1);
    layout.put_row(write.page(slot), i, row);
    head.write(write.page(slot));
    Ok(())
}

/// Checks that a page holds the refine codes of a posting page of a list.
pub(crate) fn check_refine(page: &[u8], block: u32, list: u32, owner: u32) -> Result<(), Error> {
    let head = Head::read(page).map_err(|what| Error::damaged(block, what))?;
    if head == Head::refine(list, owner) {
        Ok(())
    } else {
        Err(Error::damaged(block, "not the refine page expected here"))
    }
}

/// Marks the rows whose address is among `victims` (sorted) as holes, without moving any. Returns the rows left.
pub(crate) fn punch(page: &mut [u8], mut head: Head, layout: &Layout, victims: &[Tid]) -> usize {
    let (mut left, mut count) = (0, 0);
    for i in 0..usize::from(head.count) {
        let tid = layout.tid(page, i);
        if tid.offset == 0 || victims.binary_search(&tid).is_ok() {
            layout.put_tid(page, i, Tid::default());
        } else {
            left += 1;
            count = i + 1;
        }
    }
    head.count = count as u16;
    head.write(page);
    left
}

/// Removes the rows whose address is among `victims` (sorted), filling their places with the last rows of the page.
/// Returns the rows left.
pub(crate) fn compact(page: &mut [u8], mut head: Head, layout: &Layout, victims: &[Tid]) -> usize {
    let (mut i, mut count) = (0, usize::from(head.count));
    let mut moved = false;
    while i < count {
        let tid = layout.tid(page, i);
        if tid.offset != 0 && victims.binary_search(&tid).is_err() {
            i += 1;
            continue;
        }
        count -= 1;
        if i < count {
            layout.move_row(page, count, i);
            moved = true;
        }
        layout.put_tid(page, count, Tid::default());
    }
    head.moves = head.moves.wrapping_add(u32::from(moved));
    head.count = count as u16;
    head.write(page);
    count
}

/// Takes a new page into a change. A chain may only be continued by a page behind all others.
pub(crate) fn extend_after<W: PageWrite>(write: &mut W, block: u32) -> Result<(u32, usize), Error> {
    let (new, slot) = write.extend()?;
    if new > block {
        Ok((new, slot))
    } else {
        Err(Error::Store(format!(
            "new block {new} is not behind block {block}"
        )))
    }
}

/// Checks that a link leads into the store. `blocks` is what was last known of the store's size.
pub(crate) fn check_link<S: PageStore>(
    store: &S,
    from: u32,
    next: u32,
    blocks: &mut u32,
) -> Result<(), Error> {
    if next >= *blocks {
        *blocks = store.blocks()?;
    }
    if next < *blocks {
        Ok(())
    } else {
        Err(Error::damaged(from, "link leads beyond the end"))
    }
}
