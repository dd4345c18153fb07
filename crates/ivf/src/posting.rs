//! Rows on a posting page: what every operation on them shares.

use crate::error::Error;
use crate::meta::Meta;
use crate::page::{Head, Kind, Layout, NO_BLOCK};
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

/// Appends one row to a page with room and writes its head.
pub(crate) fn append(page: &mut [u8], mut head: Head, layout: &Layout, row: &Row<'_>) {
    let mut row = Some(*row);
    fill(page, &mut head, layout, || row.take());
}

/// Removes the rows whose address is among `victims` (sorted), filling their places with the last rows of the page.
/// Returns the rows left.
pub(crate) fn compact(page: &mut [u8], mut head: Head, layout: &Layout, victims: &[Tid]) -> usize {
    let (mut i, mut count) = (0, usize::from(head.count));
    while i < count {
        let tid = layout.tid(page, i);
        if tid.offset != 0 && victims.binary_search(&tid).is_err() {
            i += 1;
            continue;
        }
        count -= 1;
        if i < count {
            layout.move_row(page, count, i);
        }
        layout.put_tid(page, count, Tid::default());
    }
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
