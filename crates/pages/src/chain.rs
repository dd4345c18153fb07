//! Blobs: bytes over chains of pages.
//!
//! A blob is cut into chunks of at most one body. `count` is the length of the chunk, `list` its ordinal, `next` the
//! following page. A chain grows at its end alone, by pages appended to the file, so its links lead to higher block
//! numbers only; together with the ordinals and the number of pages in the metapage that bounds every walk. A chain may
//! have more pages than its blob needs.

use crate::bytes::{get_u32, get_u64, put};
use crate::error::Error;
use crate::page::{BODY, BODY_SIZE, NO_BLOCK, PageHeader, PageKind};
use crate::store::PageStore;

/// A run of pages of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// First block, 0 if there is none.
    pub start: u32,
    /// Number of pages.
    pub blocks: u32,
}

impl Extent {
    /// Whether it lies inside an index of this many pages, behind the metapage.
    pub(crate) fn fits(&self, blocks: u32) -> bool {
        let end = self.start.checked_add(self.blocks);
        self.blocks == 0 || (self.start > 0 && end.is_some_and(|end| end <= blocks))
    }
}

/// Bytes over a chain of pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// First block, 0 if there is none.
    pub start: u32,
    /// Number of pages, perhaps more than the bytes need.
    pub blocks: u32,
    /// Number of bytes.
    pub bytes: u64,
    /// Their checksum (crc32c).
    pub crc: u32,
}

impl Chain {
    pub(crate) fn read(page: &[u8], at: usize) -> Chain {
        Chain {
            start: get_u32(page, at),
            blocks: get_u32(page, at + 4),
            bytes: get_u64(page, at + 8),
            crc: get_u32(page, at + 16),
        }
    }

    pub(crate) fn write(&self, page: &mut [u8], at: usize) {
        put(page, at, &self.start.to_le_bytes());
        put(page, at + 4, &self.blocks.to_le_bytes());
        put(page, at + 8, &self.bytes.to_le_bytes());
        put(page, at + 16, &self.crc.to_le_bytes());
    }

    /// Whether it can be inside an index of so many pages, and has room for its bytes.
    pub(crate) fn fits(&self, blocks: u32) -> bool {
        let empty = self.start == 0 && self.blocks == 0;
        let inside = self.blocks > 0 && (1..blocks).contains(&self.start) && self.blocks < blocks;
        (empty || inside) && pages(self.bytes) <= u64::from(self.blocks)
    }
}

/// Pages that a blob needs.
pub(crate) fn pages(bytes: u64) -> u64 {
    bytes.div_ceil(BODY_SIZE as u64)
}

/// The chunks of a blob, a page each.
pub(crate) fn chunks(bytes: &[u8]) -> impl ExactSizeIterator<Item = &[u8]> {
    bytes.chunks(BODY_SIZE)
}

/// Writes a chunk, and the link to the next page.
pub(crate) fn write_chunk(page: &mut [u8], ordinal: u32, next: u32, chunk: &[u8]) {
    PageHeader {
        kind: PageKind::Blob,
        count: chunk.len() as u16,
        list: ordinal,
        next,
        inserted: 0,
        moves: 0,
        closed: false,
    }
    .write(page);
    put(page, BODY, chunk);
}

/// Reads and checks the head of the `ordinal`-th page of a chain.
pub(crate) fn read_header(page: &[u8], block: u32, ordinal: u32) -> Result<PageHeader, Error> {
    let head = PageHeader::read(page, block)?;
    if head.kind != PageKind::Blob || head.list != ordinal {
        return Err(Error::damaged(block, "not the blob page expected here"));
    }
    Ok(head)
}

/// Checks the link from the `ordinal`-th page of a chain.
pub(crate) fn check_next(
    store: &impl PageStore,
    chain: &Chain,
    block: u32,
    ordinal: u32,
    next: u32,
) -> Result<(), Error> {
    let right = if ordinal + 1 == chain.blocks {
        next == NO_BLOCK
    } else {
        next > block && next < store.block_count()?
    };
    if right {
        Ok(())
    } else {
        Err(Error::damaged(block, "link to a block that cannot follow"))
    }
}

/// Shows the first `count` pages of a chain to `f`.
pub fn walk<S: PageStore>(
    store: &S,
    chain: &Chain,
    count: u32,
    mut f: impl FnMut(u32, PageHeader, &[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut block = chain.start;
    for ordinal in 0..count {
        store.check_interrupts()?;
        let next = store.read(block, |page| {
            let head = read_header(page, block, ordinal)?;
            f(block, head, page)?;
            Ok::<u32, Error>(head.next)
        })??;
        check_next(store, chain, block, ordinal, next)?;
        block = next;
    }
    Ok(())
}

/// Reads a blob and verifies its checksum.
pub fn read<S: PageStore>(store: &S, chain: &Chain) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    walk(
        store,
        chain,
        pages(chain.bytes) as u32,
        |block, head, page| {
            let chunk = page.get(BODY..BODY + usize::from(head.count));
            let chunk = chunk.ok_or(Error::damaged(block, "count too large"))?;
            bytes
                .try_reserve(chunk.len())
                .map_err(|_| Error::OutOfMemory)?;
            bytes.extend_from_slice(chunk);
            Ok(())
        },
    )?;
    if bytes.len() as u64 == chain.bytes && crc32c::crc32c(&bytes) == chain.crc {
        return Ok(bytes);
    }
    let what = "the blob does not have its checksum";
    Err(Error::damaged(chain.start, what))
}
