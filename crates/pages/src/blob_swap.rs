//! Replacing the current blob of a live index: base blob, directory and postings do not change.
//!
//! The new blob is written into the *spare* chain, to which nothing else refers. Where that is too short it grows page by
//! page, each page being linked and entered in the metapage in one atomic change. Then one change of the metapage swaps the
//! current and the spare chain and sets the new version. A crash in between leaves the old blob, and at most one page that
//! nothing leads to.
//!
//! A reader that has read the metapage before may still read the old blob's pages, until the replacement after next writes
//! over them; [`read_blobs`] notices that.

use crate::chain::{self, Chain, check_next, chunks, read_header, write_chunk};
use crate::error::Error;
use crate::metapage::{Metapage, change, raise_version};
use crate::page::{FORMAT, NO_BLOCK};
use crate::posting::extend_after;
use crate::store::{PageStore, PageWrite};
use std::collections::HashSet;

/// Maximum number of times that a reader starts again because the blob was replaced meanwhile.
const RETRIES: usize = 10;

/// The bytes of both blobs. They belong together even if the current blob is replaced meanwhile: then `metapage` is brought
/// up to date, and its blob version is that of the bytes.
pub fn read_blobs<S: PageStore>(store: &S, metapage: &mut Metapage) -> Result<[Vec<u8>; 2], Error> {
    let base = chain::read(store, &metapage.base)?;
    for _ in 0..RETRIES {
        match chain::read(store, &metapage.current) {
            Ok(current) => return Ok([base, current]),
            // Its pages may have been written over for a later blob.
            Err(error @ (Error::Damaged { .. } | Error::NewerPage { .. })) => {
                let now = Metapage::read(store)?;
                if now.blob_version == metapage.blob_version {
                    return Err(error);
                }
                *metapage = now;
            }
            Err(error) => return Err(error),
        }
    }
    let what = "the current blob changes faster than it can be read";
    Err(Error::Store(what.to_owned()))
}

/// Replaces the current blob. At most one replacement may be under way; everything else may go on. `blob_version` is a
/// random number that marks the change. Returns the new metapage.
pub fn replace_blob<S: PageStore>(
    store: &S,
    blob: &[u8],
    blob_version: u64,
) -> Result<Metapage, Error> {
    let metapage = Metapage::read(store)?;
    raise_version(store, &metapage)?;
    let in_use = [metapage.base, metapage.current];
    let new = write_unused(
        store,
        ChainOf(|metapage| &mut metapage.spare),
        &in_use,
        blob,
    )?;
    change(store.write()?, None, |metapage| {
        metapage.spare = Chain {
            bytes: 0,
            crc: 0,
            ..metapage.current
        };
        metapage.current = new;
        metapage.blob_version = blob_version;
    })
}

/// One of the chains of a metapage.
#[derive(Clone, Copy)]
pub(crate) struct ChainOf(pub(crate) fn(&mut Metapage) -> &mut Chain);

/// Writes a blob over the pages of a chain that no reader uses. Where the chain is too short it grows page by page. Returns the
/// chain with the blob in it; the metapage has its pages, but knows of no bytes there. `in_use` are chains that a damaged link may
/// lead to.
pub(crate) fn write_unused<S: PageStore>(
    store: &S,
    chain_of: ChainOf,
    in_use: &[Chain],
    blob: &[u8],
) -> Result<Chain, Error> {
    let in_use = blocks_of(store, in_use)?;
    let mut chain = *chain_of.0(&mut Metapage::read(store)?);
    let (mut last, mut block) = (NO_BLOCK, chain.start);
    for (ordinal, chunk) in (0u32..).zip(chunks(blob)) {
        store.check_interrupts()?;
        let next = if ordinal < chain.blocks {
            if in_use.contains(&block) {
                return Err(Error::damaged(last, "the unused pages are in use"));
            }
            overwrite(store, &chain, block, ordinal, chunk)?
        } else {
            block = grow(store, chain_of, last, ordinal, chunk)?;
            chain = *chain_of.0(&mut Metapage::read(store)?);
            NO_BLOCK
        };
        (last, block) = (block, next);
    }
    Ok(Chain {
        bytes: blob.len() as u64,
        crc: crc32c::crc32c(blob),
        ..chain
    })
}

/// The pages of chains.
fn blocks_of<S: PageStore>(store: &S, chains: &[Chain]) -> Result<HashSet<u32>, Error> {
    let mut blocks = HashSet::new();
    for chain in chains {
        chain::walk(store, chain, chain.blocks, |block, _, _| {
            blocks.insert(block);
            Ok(())
        })?;
    }
    Ok(blocks)
}

/// Writes a chunk over the `ordinal`-th page of a chain. Returns the next page.
fn overwrite<S: PageStore>(
    store: &S,
    chain: &Chain,
    block: u32,
    ordinal: u32,
    chunk: &[u8],
) -> Result<u32, Error> {
    let mut write = store.write()?;
    let slot = write.lock(block)?;
    let next = read_header(write.page(slot), block, ordinal)?.next;
    check_next(store, chain, block, ordinal, next)?;
    write_chunk(write.page(slot), ordinal, next, chunk);
    write.commit()?;
    Ok(next)
}

/// Appends a page with a chunk to a chain, whose last page is `last`. Returns the new page.
fn grow<S: PageStore>(
    store: &S,
    chain_of: ChainOf,
    last: u32,
    ordinal: u32,
    chunk: &[u8],
) -> Result<u32, Error> {
    let mut write = store.write()?;
    let meta_slot = write.lock(0)?;
    let mut metapage = Metapage::parse(write.page(meta_slot))?;
    let tail = match last {
        NO_BLOCK => None,
        last => Some((last, write.lock(last)?)),
    };
    let (new, slot) = extend_after(&mut write, last)?;
    write_chunk(write.page(slot), ordinal, NO_BLOCK, chunk);
    let chain = chain_of.0(&mut metapage);
    if let Some((last, slot)) = tail {
        let page = write.page(slot);
        let mut header = read_header(page, last, ordinal.wrapping_sub(1))?;
        header.next = new;
        header.write(page);
    } else {
        chain.start = new;
    }
    chain.blocks = ordinal + 1;
    metapage.version = FORMAT.into();
    metapage.write_to(write.page(meta_slot));
    write.commit()?;
    Ok(new)
}
