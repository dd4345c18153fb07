//! The bytes of a page: what all kinds of pages have in common.
//!
//! # Page map (little-endian)
//! ```text
//!    0 ..   24   PostgreSQL's page header
//!   24 ..   45   head { kind u8, format u8, count u16, list u32, next u32, inserted u32, moves u32, closed u8 }
//!   45 ..   64   reserved, zero (rows then start on a cache line)
//!   64 .. 8192   body, no hole
//! ```
//! `inserted` counts the rows that were put on a posting page since the build (0 on pages of other kinds): it is changed
//! with the row, in one step, so the sum over all pages is right after a crash too. Removing rows leaves it alone. `moves`
//! counts the times that rows of a posting page were moved to the places of removed ones: a search that keeps what it knows of
//! a row by its place on the page sees by it that places have changed. A *closed* page takes no further rows
//! ([`crate::add_lists`]).
//!
//! On pages of the exact list `list` is [`EXACT_LIST`], whatever the number of lists is.
//!
//! `kind` 0 is a page that was never initialized: legal, and empty. Block 0 is the metapage, so `next` 0 means "none".
//! Links only ever lead to higher block numbers, because a chain grows by pages appended to the file: a chain cannot be
//! endless, and the order of a chain is the order of its block numbers.
//!
//! The body of a posting page is described in `page/layout.rs`, which computes where its parts are; `page/rows.rs` reads and
//! writes rows there. The bodies of other kinds are described where they are written.
//!
//! # Format versions
//! One number covers the metapage and all other pages ([`FORMAT`]); exported models have a version of their own (`codec.rs`).
//! A library reads all versions up to its own and writes its own. The metapage has the version of the newest page of the
//! index: before the first page of a newer format is written, [`Metapage`](crate::Metapage) is raised to it. So an older library
//! meets the newer version at the metapage and names it ([`Error::UnsupportedVersion`]). The kind of the metapage, its magic and
//! its version stay where they are in all formats. An older library that read the metapage before it was raised meets the version
//! at the first newer page ([`Error::NewerPage`]). A page that is newer than the metapage of that moment is damaged.
//! ```text
//!   version   written by   difference to the version before
//!   1         0.1          the first
//! ```
//! Indexes of every released version are in `crates/ivf/tests/fixtures`. The feature `next-format` makes the library one of a
//! made-up next version, without a difference: the tests use it for an index of the version before.

mod layout;
mod rows;

pub use crate::bytes::{BODY, BODY_SIZE, PAGE_SIZE, PG_HEADER_SIZE};
pub use layout::Layout;
pub use rows::Block;

use crate::bytes::{get, get_u16, get_u32, put};
use crate::error::Error;

/// Maximum size of a side column.
pub const MAX_SIDE_BYTES: usize = BODY_SIZE;
/// "No page" in links. Block 0 is the metapage.
pub const NO_BLOCK: u32 = 0;
/// The number of the exact list on its pages. It does not depend on the number of lists, which an index may get later.
pub const EXACT_LIST: u32 = u32::MAX;
/// Format version that this library writes, and the newest that it reads.
pub const FORMAT: u8 = if cfg!(feature = "next-format") { 2 } else { 1 };

/// Checks that a library which reads versions up to `newest` can read a version.
pub fn check_format(found: u32, newest: u8) -> Result<(), Error> {
    let newest = u32::from(newest);
    if found > newest {
        return Err(Error::UnsupportedVersion { found, newest });
    }
    Ok(())
}

/// What a page is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PageKind {
    /// Never initialized.
    Empty = 0,
    /// Block 0.
    Meta = 1,
    /// A piece of a blob.
    Blob = 2,
    /// Entries of lists.
    Directory = 3,
    /// Rows of one list.
    Posting = 4,
    /// The side column of the rows of one posting page.
    Side = 5,
    /// Records of a sample, or their counters.
    Sample = 6,
}

/// The header of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageHeader {
    /// What the page is for.
    pub kind: PageKind,
    /// Rows (posting), entries (directory), bytes (blob).
    pub count: u16,
    /// The list (posting), or the ordinal of the page in its extent, chain or sample.
    pub list: u32,
    /// Next page of the chain, or [`NO_BLOCK`].
    pub next: u32,
    /// Rows put on the page since the build (posting), as far as a u32 counts.
    pub inserted: u32,
    /// Times that rows were moved within the page (posting), modulo 2^32.
    pub moves: u32,
    /// Whether the page takes no further rows (posting).
    pub closed: bool,
}

impl PageHeader {
    /// Header of an empty posting page at the end of a chain.
    pub fn posting(list: u32) -> PageHeader {
        PageHeader {
            kind: PageKind::Posting,
            count: 0,
            list,
            next: NO_BLOCK,
            inserted: 0,
            moves: 0,
            closed: false,
        }
    }

    /// Header of a page with the side column of a posting page.
    pub fn side(list: u32, owner: u32) -> PageHeader {
        PageHeader {
            kind: PageKind::Side,
            count: 0,
            list,
            next: owner,
            inserted: 0,
            moves: 0,
            closed: false,
        }
    }

    /// Reads the header of a page.
    ///
    /// # Errors
    /// [`Error::NewerPage`] if the page has a newer format than [`FORMAT`]; [`Error::Damaged`] if it has an unknown kind or
    /// format, or a wrong size.
    pub fn read(page: &[u8], block: u32) -> Result<PageHeader, Error> {
        if page.len() != PAGE_SIZE {
            return Err(Error::damaged(block, "the page has a wrong size"));
        }
        let [kind, format] = get(page, 24);
        // First, because a newer format may have other kinds.
        if format > FORMAT {
            return Err(Error::NewerPage {
                block,
                found: format,
                newest: FORMAT,
            });
        }
        let kind = match kind {
            0 => PageKind::Empty,
            1 => PageKind::Meta,
            2 => PageKind::Blob,
            3 => PageKind::Directory,
            4 => PageKind::Posting,
            5 => PageKind::Side,
            6 => PageKind::Sample,
            _ => return Err(Error::damaged(block, "unknown kind of page")),
        };
        if kind != PageKind::Empty && format == 0 {
            return Err(Error::damaged(block, "unknown page format"));
        }
        Ok(PageHeader {
            kind,
            count: get_u16(page, 26),
            list: get_u32(page, 28),
            next: get_u32(page, 32),
            inserted: get_u32(page, 36),
            moves: get_u32(page, 40),
            closed: get::<1>(page, 44) == [1],
        })
    }

    /// Writes the header into a page.
    pub fn write(&self, page: &mut [u8]) {
        let format = if self.kind == PageKind::Empty {
            0
        } else {
            FORMAT
        };
        put(page, 24, &[self.kind as u8, format]);
        put(page, 26, &self.count.to_le_bytes());
        put(page, 28, &self.list.to_le_bytes());
        put(page, 32, &self.next.to_le_bytes());
        put(page, 36, &self.inserted.to_le_bytes());
        put(page, 40, &self.moves.to_le_bytes());
        put(page, 44, &[u8::from(self.closed)]);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_kept_and_strange_ones_refused() {
        let mut page = vec![0; PAGE_SIZE];
        assert_eq!(PageHeader::read(&page, 3).unwrap().kind, PageKind::Empty);
        let header = PageHeader {
            count: 17,
            next: 99,
            inserted: 3,
            moves: 8,
            closed: true,
            ..PageHeader::posting(5)
        };
        header.write(&mut page);
        assert_eq!(PageHeader::read(&page, 3).unwrap(), header);
        assert!(page[..PG_HEADER_SIZE].iter().all(|&byte| byte == 0));
        let is_damaged = |page: &[u8]| {
            matches!(
                PageHeader::read(page, 3),
                Err(Error::Damaged { block: 3, .. })
            )
        };
        page[24] = 77;
        assert!(is_damaged(&page));
        page[24] = PageKind::Posting as u8;
        page[25] = 0;
        assert!(is_damaged(&page));
        page[24] = 77;
        page[25] = FORMAT + 1;
        let newer = PageHeader::read(&page, 3);
        assert!(
            matches!(newer, Err(Error::NewerPage { block: 3, found, newest }) if found == newest + 1),
            "{newer:?}"
        );
        assert!(is_damaged(&page[..100]));
    }

    #[test]
    fn a_library_reads_its_format_and_older_ones() {
        assert!(check_format(1, 2).is_ok() && check_format(2, 2).is_ok());
        assert!(matches!(
            check_format(3, 2),
            Err(Error::UnsupportedVersion {
                found: 3,
                newest: 2
            })
        ));
    }
}
