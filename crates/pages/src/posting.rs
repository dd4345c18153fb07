//! Rows on a posting page: what every operation on them shares.

use crate::bytes::put;
use crate::error::Error;
use crate::metapage::Metapage;
use crate::page::{EXACT_LIST, Layout, NO_BLOCK, PageHeader, PageKind};
use crate::row::{Row, Value};
use crate::row_format::{Column, Stored};
use crate::store::{PageStore, PageWrite};
use crate::tid::Tid;

/// Checks that a row can be stored in this index.
pub(crate) fn check_row(metapage: &Metapage, row: &Row<'_>) -> Result<(), Error> {
    if row.list > metapage.lists() {
        return Err(Error::Mismatch("there is no list of this number"));
    }
    if row.tid.row().offset == 0 {
        return Err(Error::Mismatch("the row has no address"));
    }
    let is_exact = row.list == metapage.lists();
    let mut columns = metapage.format.columns().iter().zip(&row.columns);
    let fits = |(column, value): (&Column, &Value<'_>)| {
        value.fits(column) || is_exact && column.stored != Stored::EveryPosting
    };
    if !columns.all(fits) {
        return Err(Error::Mismatch(
            "the row has a wrong number of values for this index",
        ));
    }
    Ok(())
}

/// Reads and checks the header of a page in the chain of `list`. A page that was never initialized is an empty one at the
/// end of the chain; its kind stays [`PageKind::Empty`] until a row is put on it.
pub fn read_header(
    page: &[u8],
    block: u32,
    list: u32,
    layout: &Layout,
) -> Result<PageHeader, Error> {
    let header = PageHeader::read(page, block)?;
    let what = match header.kind {
        PageKind::Empty => {
            return Ok(PageHeader {
                kind: PageKind::Empty,
                ..PageHeader::posting(layout.list_on_page(list))
            });
        }
        PageKind::Posting if header.list != layout.list_on_page(list) => {
            "the page belongs to another list"
        }
        PageKind::Posting if usize::from(header.count) > layout.capacity() => "more rows than fit",
        PageKind::Posting if header.next != NO_BLOCK && header.next <= block => {
            "link leads backwards"
        }
        PageKind::Posting => return Ok(header),
        _ => "not a posting page",
    };
    Err(Error::damaged(block, what))
}

/// As [`read_header`], of whichever list; with the list and the layout of its pages. `None` for a page of another kind.
pub fn read_any_header(
    page: &[u8],
    block: u32,
    metapage: &Metapage,
) -> Result<Option<(u32, PageHeader, Layout)>, Error> {
    let header = PageHeader::read(page, block)?;
    if header.kind != PageKind::Posting {
        return Ok(None);
    }
    let list = match header.list {
        EXACT_LIST => metapage.exact_list(),
        list if list < metapage.lists() => list,
        _ => return Err(Error::damaged(block, "the page belongs to no list")),
    };
    let layout = metapage.layout(list)?;
    Ok(Some((
        list,
        read_header(page, block, list, &layout)?,
        layout,
    )))
}

/// Appends rows to a page that is open for change, as many as fit, taking them from `rows` one by one.
pub(crate) fn append_rows<'r>(
    page: &mut [u8],
    header: &mut PageHeader,
    layout: &Layout,
    mut rows: impl FnMut() -> Option<Row<'r>>,
) {
    header.kind = PageKind::Posting;
    while usize::from(header.count) < layout.capacity() {
        let Some(row) = rows() else { break };
        layout.put_row(page, usize::from(header.count), &row);
        header.count += 1;
    }
    header.write(page);
}

/// Where a row can be put: into a hole, for which there is room in the side column, or behind the others. A closed page has no
/// room.
pub(crate) fn find_free_slot(page: &[u8], header: &PageHeader, layout: &Layout) -> Option<usize> {
    if header.closed {
        return None;
    }
    let count = usize::from(header.count);
    // Without a side column there are no holes.
    let mut rows = 0..if layout.has_side() { count } else { 0 };
    let hole = rows.find(|&i| layout.tid(page, i).offset == 0);
    hole.or((count < layout.capacity()).then_some(count))
}

/// Whether an entry that is put on a page is counted in [`PageHeader::inserted`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EntryOrigin {
    /// A row of the table that is new in the index: its first entry is counted.
    Inserted,
    /// A row that the index has in another list, and that was counted there.
    Moved,
}

/// Puts one entry of a row into a page that is open for change and has room, counts a first entry as an inserted row unless it
/// moves, and puts the side column onto the side page, which is appended if it is not there yet. `block` is the page's number.
/// Touches at most one page beside this one.
pub(crate) fn insert_row<W: PageWrite>(
    write: &mut W,
    (block, slot): (u32, usize),
    mut header: PageHeader,
    layout: &Layout,
    (row, origin): (&Row<'_>, EntryOrigin),
) -> Result<(), Error> {
    let Some(i) = find_free_slot(write.page(slot), &header, layout) else {
        return Err(Error::Mismatch("there is no room for the row"));
    };
    if layout.has_side() {
        let (p, at) = layout.side_position(i);
        let known = layout.side_page(write.page(slot), p);
        let side = if known == NO_BLOCK {
            let (new, side) = extend_after(write, block)?;
            PageHeader::side(row.list, block).write(write.page(side));
            layout.put_side_page(write.page(slot), p, new);
            side
        } else {
            let side = write.lock(known)?;
            check_side(write.page(side), known, row.list, block)?;
            side
        };
        put(write.page(side), at, row.side(layout.format()));
    }
    header.kind = PageKind::Posting;
    header.count = header.count.max(i as u16 + 1);
    let counts = origin == EntryOrigin::Inserted && !row.tid.is_second();
    header.inserted = header.inserted.saturating_add(counts.into());
    layout.put_row(write.page(slot), i, row);
    header.write(write.page(slot));
    Ok(())
}

/// Checks that a page holds the side column of a posting page of a list.
pub(crate) fn check_side(page: &[u8], block: u32, list: u32, owner: u32) -> Result<(), Error> {
    let header = PageHeader::read(page, block)?;
    if header == PageHeader::side(list, owner) {
        Ok(())
    } else {
        Err(Error::damaged(block, "not the side page expected here"))
    }
}

/// Marks the rows whose address is among `dead_tids` (sorted) as holes, without moving any. Returns the rows left.
pub(crate) fn clear_rows(
    page: &mut [u8],
    mut header: PageHeader,
    layout: &Layout,
    dead_tids: &[Tid],
) -> usize {
    let (mut left, mut count) = (0, 0);
    for i in 0..usize::from(header.count) {
        let tid = layout.tid(page, i);
        if tid.offset == 0 || dead_tids.binary_search(&tid).is_ok() {
            layout.put_tid(page, i, Tid::default());
        } else {
            left += 1;
            count = i + 1;
        }
    }
    header.count = count as u16;
    header.write(page);
    left
}

/// Removes the rows whose address is among `dead_tids` (sorted), filling their places with the last rows of the page.
/// Returns the rows left.
pub(crate) fn remove_rows(
    page: &mut [u8],
    mut header: PageHeader,
    layout: &Layout,
    dead_tids: &[Tid],
) -> usize {
    let (mut i, mut count) = (0, usize::from(header.count));
    let mut moved = false;
    while i < count {
        let tid = layout.tid(page, i);
        if tid.offset != 0 && dead_tids.binary_search(&tid).is_err() {
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
    header.moves = header.moves.wrapping_add(u32::from(moved));
    header.count = count as u16;
    header.write(page);
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
pub fn check_link<S: PageStore>(
    store: &S,
    from: u32,
    next: u32,
    blocks: &mut u32,
) -> Result<(), Error> {
    if next >= *blocks {
        *blocks = store.block_count()?;
    }
    if next < *blocks {
        Ok(())
    } else {
        Err(Error::damaged(from, "link leads beyond the end"))
    }
}
