//! Building an index: bulk load of runs sorted by list.
//!
//! Order of writing: an incomplete metapage, the exact list's directory page, the blobs, the lists' empty directory pages, posting
//! pages, the directory's entries, and last the metapage again, now complete. Whatever is cut short is therefore recognized as incomplete.
//!
//! A run writes each page once: the builder is the only writer, so the number of the page that will continue a chain is
//! known in advance and its link can be written with the page before it.

use crate::bytes::put;
use crate::chain::{Chain, Extent, chunks, write_chunk};
use crate::directory::{Directory, ListEntry};
use crate::error::Error;
use crate::metapage::{Metapage, RowMoves, write_body};
use crate::page::{FORMAT, Layout, NO_BLOCK, PageHeader};
use crate::posting::{append_rows, check_row, check_side, extend_after, read_header};
use crate::row::Row;
use crate::row_format::RowFormat;
use crate::store::{PageStore, PageWrite};

/// What an index is created with.
#[derive(Clone, Copy, Debug)]
pub struct Contents<'a> {
    /// Columns of rows in lists.
    pub format: RowFormat,
    /// Lists, without the exact list.
    pub lists: u32,
    /// The base and the current blob.
    pub blobs: [&'a [u8]; 2],
    /// A random number that marks the current blob, see [`Metapage::blob_version`].
    pub blob_version: u64,
    /// The body of the metapage.
    pub body: &'a [u8],
}

/// A build under way. It must be the only writer. Until [`Builder::finish`] the index is incomplete and refused by readers.
pub struct Builder<'a, S: PageStore> {
    store: &'a S,
    metapage: Metapage,
    /// Entries of all lists; the insert block is the last page of the chain.
    lists: Vec<ListEntry>,
    /// Rows added: their first entries.
    rows: u64,
    /// Pages of the store.
    blocks: u32,
}

impl<'a, S: PageStore> Builder<'a, S> {
    /// Begins an index in an empty store: metapage, blobs and directory pages.
    pub fn create(store: &'a S, contents: Contents<'_>) -> Result<Self, Error> {
        if store.block_count()? != 0 {
            return Err(Error::Store("the index to build has pages already".into()));
        }
        let Contents {
            format,
            lists,
            blobs: [base, current],
            blob_version,
            body,
        } = contents;
        let (first, second) = (
            chain_at(2, base),
            chain_at(2 + chunks(base).len() as u32, current),
        );
        let extent = Extent {
            start: 2 + first.blocks + second.blocks,
            blocks: Directory::blocks_for(lists),
        };
        let metapage = Metapage {
            version: FORMAT.into(),
            complete: false,
            format,
            directory: Directory {
                extent,
                lists,
                exact: 1,
            },
            base: first,
            current: second,
            spare: Chain::default(),
            blob_version,
            rows_at_build: 0,
            row_moves: RowMoves::Never,
            sample: NO_BLOCK,
        };
        let is_possible =
            (lists == 0 || Layout::new(&format).is_some()) && Layout::exact(&format).is_some();
        if !is_possible {
            return Err(Error::Mismatch("the columns do not fit a page"));
        }
        let mut builder = Builder {
            store,
            metapage,
            lists: vec![ListEntry::default(); lists as usize + 1],
            rows: 0,
            blocks: 0,
        };
        let mut written = Ok(());
        builder.add_page(|page, _| {
            metapage.write_to(page);
            written = write_body(page, body);
        })?;
        written?;
        let directory = metapage.directory;
        builder.add_page(|page, block| directory.write_page(block, &[], page))?;
        for bytes in [base, current] {
            let last = chunks(bytes).len().saturating_sub(1);
            for (ordinal, chunk) in chunks(bytes).enumerate() {
                builder.add_page(|page, block| {
                    let next = if ordinal == last { NO_BLOCK } else { block + 1 };
                    write_chunk(page, ordinal as u32, next, chunk);
                })?;
            }
        }
        for _ in 0..extent.blocks {
            builder.add_page(|page, block| directory.write_page(block, &[], page))?;
        }
        Ok(builder)
    }

    /// The future contents of the metapage.
    pub fn metapage(&self) -> &Metapage {
        &self.metapage
    }

    /// Rows added so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Adds a run of rows, sorted by list. Later runs continue where the lists' last pages ended.
    pub fn append<'r>(&mut self, rows: impl IntoIterator<Item = Row<'r>>) -> Result<(), Error> {
        let mut rows = rows.into_iter().peekable();
        let mut last = 0;
        // The page that the page before it already links to.
        let mut next_block = None;
        while let Some(row) = rows.peek() {
            let list = row.list;
            check_row(&self.metapage, row)?;
            if list < last {
                return Err(Error::Mismatch("the rows of a run are not sorted by list"));
            }
            last = list;
            self.store.check_interrupts()?;
            next_block = self.append_page(list, next_block, &mut rows)?;
        }
        Ok(())
    }

    /// Fills the last page of a list, or a new one if that is full or missing. Returns the page that it links to.
    fn append_page<'r, I: Iterator<Item = Row<'r>>>(
        &mut self,
        list: u32,
        next_block: Option<u32>,
        rows: &mut std::iter::Peekable<I>,
    ) -> Result<Option<u32>, Error> {
        let layout = self.metapage.layout(list)?;
        let metapage = self.metapage;
        let added = &mut self.rows;
        let Some(entry) = self.lists.get_mut(list as usize) else {
            return Err(Error::Mismatch("there is no list of this number"));
        };
        let mut write = self.store.write()?;
        let mut head = PageHeader::posting(layout.list_on_page(list));
        let mut slot = None;
        if next_block.is_none() && entry.insert_block != NO_BLOCK {
            let tail = write.lock(entry.insert_block)?;
            head = read_header(write.page(tail), entry.insert_block, list, &layout)?;
            if usize::from(head.count) < layout.capacity() {
                slot = Some(tail);
            } else {
                head.next = self.blocks;
                head.write(write.page(tail));
                head = PageHeader::posting(layout.list_on_page(list));
            }
        }
        let slot = match slot {
            Some(slot) => slot,
            None => {
                let (new, slot) = extend_after(&mut write, entry.insert_block)?;
                expect_block(new, self.blocks)?;
                self.blocks += 1;
                entry.insert_block = new;
                if entry.first == NO_BLOCK {
                    entry.first = new;
                }
                slot
            }
        };
        let (mut refused, mut sides) = (None, Vec::new());
        let first = usize::from(head.count);
        append_rows(write.page(slot), &mut head, &layout, || {
            let row = rows.next_if(|row| row.list == list)?;
            if let Err(error) = check_row(&metapage, &row) {
                refused = Some(error);
                return None;
            }
            entry.rows += 1;
            *added += u64::from(!row.tid.is_second());
            sides.push(row.side(layout.format()));
            Some(row)
        });
        if let Some(error) = refused {
            return Err(error);
        }
        let side_pages = self.link_side_pages(write.page(slot), &layout, first, sides.len());
        let more = rows.peek().is_some_and(|row| row.list == list);
        if more {
            let fresh = side_pages.iter().filter(|(_, block)| *block >= self.blocks);
            head.next = self.blocks + fresh.count() as u32;
            head.write(write.page(slot));
        }
        write.commit()?;
        let owner = self
            .lists
            .get(list as usize)
            .map_or(NO_BLOCK, |e| e.insert_block);
        self.write_side_pages(
            &side_pages,
            PageHeader::side(list, owner),
            &layout,
            first,
            &sides,
        )?;
        Ok(more.then_some(self.blocks))
    }

    /// Names the side pages of rows `first..first + rows` on their posting page, those not there yet as the next ones of the
    /// store. Returns ordinals and blocks.
    fn link_side_pages(
        &self,
        page: &mut [u8],
        layout: &Layout,
        first: usize,
        rows: usize,
    ) -> Vec<(usize, u32)> {
        let (mut pages, mut next) = (Vec::new(), self.blocks);
        let from = layout.side_position(first).0;
        for p in from..layout.side_pages(first + rows) {
            let mut block = layout.side_page(page, p);
            if block == NO_BLOCK {
                (block, next) = (next, next + 1);
                layout.put_side_page(page, p, block);
            }
            pages.push((p, block));
        }
        pages
    }

    /// Writes the side columns of the rows from `first` on to their pages.
    fn write_side_pages(
        &mut self,
        pages: &[(usize, u32)],
        head: PageHeader,
        layout: &Layout,
        first: usize,
        sides: &[&[u8]],
    ) -> Result<(), Error> {
        let mut sides = (first..).zip(sides).peekable();
        for &(p, block) in pages {
            let mut fill = |page: &mut [u8]| {
                let here = |i: usize| layout.side_position(i).0 == p;
                while let Some((i, side)) = sides.next_if(|(i, _)| here(*i)) {
                    put(page, layout.side_position(i).1, side);
                }
            };
            if block == self.blocks {
                self.add_page(|page, _| {
                    head.write(page);
                    fill(page);
                })?;
            } else {
                let mut write = self.store.write()?;
                let slot = write.lock(block)?;
                check_side(write.page(slot), block, head.list, head.next)?;
                fill(write.page(slot));
                write.commit()?;
            }
        }
        Ok(())
    }

    /// Writes the directory, then marks the index complete. Returns the metapage's final contents.
    pub fn finish(mut self) -> Result<Metapage, Error> {
        let directory = self.metapage.directory;
        for (block, lists) in directory.pages() {
            self.store.check_interrupts()?;
            let lists = lists.start as usize..lists.end as usize;
            let entries = self.lists.get(lists).unwrap_or_default();
            let mut write = self.store.write()?;
            let slot = write.lock(block)?;
            directory.write_page(block, entries, write.page(slot));
            write.commit()?;
        }
        self.metapage.complete = true;
        self.metapage.rows_at_build = self.rows();
        let mut write = self.store.write()?;
        let slot = write.lock(0)?;
        self.metapage.write_to(write.page(slot));
        write.commit()?;
        Ok(self.metapage)
    }

    /// Appends a page; `write` gets its bytes and its block number.
    fn add_page(&mut self, fill: impl FnOnce(&mut [u8], u32)) -> Result<(), Error> {
        self.store.check_interrupts()?;
        let mut write = self.store.write()?;
        let (block, slot) = write.extend()?;
        expect_block(block, self.blocks)?;
        fill(write.page(slot), block);
        self.blocks += 1;
        write.commit()
    }
}

/// The chain of pages that follow each other from `start`, as many as the bytes need.
fn chain_at(start: u32, bytes: &[u8]) -> Chain {
    let blocks = chunks(bytes).len() as u32;
    Chain {
        start: if blocks > 0 { start } else { NO_BLOCK },
        blocks,
        bytes: bytes.len() as u64,
        crc: crc32c::crc32c(bytes),
    }
}

/// The pages of a build must follow each other: nobody else may append.
fn expect_block(found: u32, expected: u32) -> Result<(), Error> {
    if found == expected {
        Ok(())
    } else {
        Err(Error::Store(format!(
            "the build got block {found} instead of {expected}: somebody else writes to the index"
        )))
    }
}
