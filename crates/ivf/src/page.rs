//! The bytes of a page: what all kinds of pages have in common.
//!
//! # Page map (format version 1, little-endian)
//! ```text
//!    0 ..   24   PostgreSQL's page header
//!   24 ..   44   head { kind u8, format u8, count u16, list u32, next u32, inserted u32, moves u32 }
//!   44 ..   64   reserved, zero (rows then start on a cache line)
//!   64 .. 8192   body, no hole
//! ```
//! `inserted` counts the rows that were put on a posting page since the build (0 on pages of other kinds): it is changed
//! with the row, in one step, so the sum over all pages is right after a crash too. Removing rows leaves it alone. `moves`
//! counts the times that rows of a posting page were moved to the places of removed ones: a search that keeps what it knows of
//! a row by its place on the page sees by it that places have changed.
//!
//! `kind` 0 is a page that was never initialised: legal, and empty. Block 0 is the metapage, so `next` 0 means "none".
//! Links only ever lead to higher block numbers, because a chain grows by pages appended to the file: a chain cannot be
//! endless, and the order of a chain is the order of its block numbers.
//!
//! The body of a posting page is described in `page/layout.rs`, which computes where its parts are; `page/rows.rs` reads and
//! writes rows there. The bodies of other kinds are described where they are written.

mod layout;
mod rows;

pub use layout::Layout;

/// Size of a page.
pub const PAGE_SIZE: usize = 8192;
/// Bytes at the start of a page which belong to PostgreSQL.
pub const HEADER_SIZE: usize = 24;
/// Where the body of a page starts.
pub(crate) const BODY: usize = 64;
/// Bytes of the body of a page.
pub(crate) const BODY_SIZE: usize = PAGE_SIZE - BODY;
/// The longest refine code that fits a page.
pub const MOST_REFINE_BYTES: usize = BODY_SIZE;
/// "No page" in links. Block 0 is the metapage.
pub(crate) const NO_BLOCK: u32 = 0;
/// Format of the pages this library writes.
pub(crate) const PAGE_FORMAT: u8 = 1;

/// What a page is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// Never initialised.
    Empty = 0,
    /// Block 0.
    Meta = 1,
    /// A piece of the model's bytes.
    Model = 2,
    /// Entries of lists.
    Directory = 3,
    /// Rows of one list.
    Posting = 4,
    /// Refine codes of the rows of one posting page.
    Refine = 5,
}

/// The head of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// What the page is for.
    pub kind: Kind,
    /// Rows (posting), entries (directory), bytes (model).
    pub count: u16,
    /// The list (posting), or the ordinal of the page in its extent or chain.
    pub list: u32,
    /// Next page of the chain, or [`NO_BLOCK`].
    pub next: u32,
    /// Rows put on the page since the build (posting), as far as a u32 counts.
    pub inserted: u32,
    /// Times that rows were moved within the page (posting), modulo 2^32.
    pub moves: u32,
}

impl Head {
    /// Head of an empty posting page at the end of a chain.
    pub fn posting(list: u32) -> Head {
        Head {
            kind: Kind::Posting,
            count: 0,
            list,
            next: NO_BLOCK,
            inserted: 0,
            moves: 0,
        }
    }

    /// Head of a page with the refine codes of a posting page.
    pub fn refine(list: u32, owner: u32) -> Head {
        Head {
            kind: Kind::Refine,
            count: 0,
            list,
            next: owner,
            inserted: 0,
            moves: 0,
        }
    }

    /// Reads the head of a page; an unknown kind or format, or a page of the wrong size, is an error text.
    pub fn read(page: &[u8]) -> Result<Head, &'static str> {
        if page.len() != PAGE_SIZE {
            return Err("the page has a wrong size");
        }
        let [kind, format] = get(page, 24);
        let kind = match kind {
            0 => Kind::Empty,
            1 => Kind::Meta,
            2 => Kind::Model,
            3 => Kind::Directory,
            4 => Kind::Posting,
            5 => Kind::Refine,
            _ => return Err("unknown kind of page"),
        };
        if kind != Kind::Empty && format != PAGE_FORMAT {
            return Err("unknown page format");
        }
        Ok(Head {
            kind,
            count: get_u16(page, 26),
            list: get_u32(page, 28),
            next: get_u32(page, 32),
            inserted: get_u32(page, 36),
            moves: get_u32(page, 40),
        })
    }

    /// Writes the head into a page.
    pub fn write(&self, page: &mut [u8]) {
        let format = if self.kind == Kind::Empty {
            0
        } else {
            PAGE_FORMAT
        };
        put(page, 24, &[self.kind as u8, format]);
        put(page, 26, &self.count.to_le_bytes());
        put(page, 28, &self.list.to_le_bytes());
        put(page, 32, &self.next.to_le_bytes());
        put(page, 36, &self.inserted.to_le_bytes());
        put(page, 40, &self.moves.to_le_bytes());
    }
}

/// `N` bytes at an offset; zeros beyond the end of the page.
pub(crate) fn get<const N: usize>(page: &[u8], at: usize) -> [u8; N] {
    page.get(at..)
        .and_then(|rest| rest.first_chunk::<N>())
        .copied()
        .unwrap_or([0; N])
}

/// A little-endian u16 at an offset.
pub(crate) fn get_u16(page: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(get(page, at))
}

/// A little-endian u32 at an offset.
pub(crate) fn get_u32(page: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(get(page, at))
}

/// A little-endian u64 at an offset.
pub(crate) fn get_u64(page: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(get(page, at))
}

/// A little-endian f32 at an offset.
pub(crate) fn get_f32(page: &[u8], at: usize) -> f32 {
    f32::from_le_bytes(get(page, at))
}

/// Stores bytes at an offset; nothing is stored if they do not fit.
pub(crate) fn put(page: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = page.get_mut(at..at.saturating_add(bytes.len())) {
        place.copy_from_slice(bytes);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_kept_and_strange_ones_refused() {
        let mut page = vec![0; PAGE_SIZE];
        assert_eq!(Head::read(&page).unwrap().kind, Kind::Empty);
        let head = Head {
            count: 17,
            next: 99,
            inserted: 3,
            moves: 8,
            ..Head::posting(5)
        };
        head.write(&mut page);
        assert_eq!(Head::read(&page), Ok(head));
        assert!(page[..HEADER_SIZE].iter().all(|&byte| byte == 0));
        page[24] = 77;
        assert!(Head::read(&page).is_err());
        page[24] = Kind::Posting as u8;
        page[25] = PAGE_FORMAT + 1;
        assert!(Head::read(&page).is_err());
        assert!(Head::read(&page[..100]).is_err());
    }
}
