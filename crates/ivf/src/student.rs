//! Replacing the student of a live index: decoder and routing change, encoder, directory and postings do not.
//!
//! The new student is written into the *spare* chain, to which nothing else refers. Where that is too short it grows page
//! by page, each page being linked and entered in the metapage in one atomic change. Then one change of the metapage
//! swaps student and spare and sets the new build identifier. A crash in between leaves the old student, and at most one
//! page that nothing leads to.
//!
//! A reader that has read the metapage before may still read the old student's pages, until the replacement after next
//! writes over them; [`load_model`](crate::load_model) notices that.

use crate::chain::{Chain, check_next, open, pieces, write_piece};
use crate::error::Error;
use crate::meta::{Meta, change_meta};
use crate::page::NO_BLOCK;
use crate::posting::extend_after;
use crate::store::{PageStore, PageWrite};
use crate::{Model, chain};
use std::collections::HashSet;

/// Gives a trained index a new student, as bytes from [`Model::student_bytes`]. At most one replacement may be under way;
/// everything else may go on. `build_id` is a random number that marks the change. Returns the new metapage.
pub fn replace_student<S: PageStore>(
    store: &S,
    student: &[u8],
    build_id: u64,
) -> Result<Meta, Error> {
    let mut meta = Meta::read(store)?;
    if !meta.trained() {
        return Err(Error::Mismatch("an untrained index has no model"));
    }
    Model::from_parts(&chain::read(store, &meta.encoder)?, student)?;
    let in_use = model_blocks(store, &meta)?;
    let (mut last, mut block) = (NO_BLOCK, meta.spare.start);
    for (ordinal, piece) in (0u32..).zip(pieces(student)) {
        store.interrupts()?;
        let next = if ordinal < meta.spare.blocks {
            if in_use.contains(&block) {
                return Err(Error::damaged(last, "the spare pages are the model's"));
            }
            overwrite(store, &meta.spare, block, ordinal, piece)?
        } else {
            block = grow(store, last, ordinal, piece)?;
            meta = Meta::read(store)?;
            NO_BLOCK
        };
        (last, block) = (block, next);
    }
    let new = Chain {
        bytes: student.len() as u64,
        crc: crc32c::crc32c(student),
        ..meta.spare
    };
    change_meta(store.write()?, |meta| {
        meta.spare = Chain {
            bytes: 0,
            crc: 0,
            ..meta.student
        };
        meta.student = new;
        meta.build_id = build_id;
        Ok(())
    })
}

/// The pages of encoder and student, which a damaged link may lead the spare chain to.
fn model_blocks<S: PageStore>(store: &S, meta: &Meta) -> Result<HashSet<u32>, Error> {
    let mut blocks = HashSet::new();
    for chain in [&meta.encoder, &meta.student] {
        chain::walk(store, chain, chain.blocks, |block, _, _| {
            blocks.insert(block);
            Ok(())
        })?;
    }
    Ok(blocks)
}

/// Writes a piece over the `ordinal`-th page of the spare chain. Returns the next page.
fn overwrite<S: PageStore>(
    store: &S,
    spare: &Chain,
    block: u32,
    ordinal: u32,
    piece: &[u8],
) -> Result<u32, Error> {
    let mut write = store.write()?;
    let slot = write.lock(block)?;
    let next = open(write.page(slot), block, ordinal)?.next;
    check_next(store, spare, block, ordinal, next)?;
    write_piece(write.page(slot), ordinal, next, piece);
    write.commit()?;
    Ok(next)
}

/// Appends a page with a piece to the spare chain, whose last page is `last`. Returns the new page.
fn grow<S: PageStore>(store: &S, last: u32, ordinal: u32, piece: &[u8]) -> Result<u32, Error> {
    let mut write = store.write()?;
    let meta_slot = write.lock(0)?;
    let mut meta = Meta::parse(write.page(meta_slot))?;
    let tail = match last {
        NO_BLOCK => None,
        last => Some((last, write.lock(last)?)),
    };
    let (new, slot) = extend_after(&mut write, last)?;
    write_piece(write.page(slot), ordinal, NO_BLOCK, piece);
    if let Some((last, slot)) = tail {
        let page = write.page(slot);
        let mut head = open(page, last, ordinal.wrapping_sub(1))?;
        head.next = new;
        head.write(page);
    } else {
        meta.spare.start = new;
    }
    meta.spare.blocks = ordinal + 1;
    meta.store(write.page(meta_slot));
    write.commit()?;
    Ok(new)
}
