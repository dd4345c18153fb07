//! Building an index: bulk load of runs sorted by list, and the empty copy of an index.
//!
//! Order of writing: an incomplete metapage, the model, empty directory pages, posting pages, the directory's entries,
//! and last the metapage again, now complete. Whatever is cut short is therefore recognised as incomplete.
//!
//! A run writes each page once: the builder is the only writer, so the number of the page that will continue a chain is
//! known in advance and its link can be written with the page before it.

use crate::calibration::Training;
use crate::chain::{Chain, Extent, pieces, write_piece};
use crate::error::Error;
use crate::meta::{Entry, Meta, VERSION, directory_blocks, entries_on, model_bytes};
use crate::page::{Head, Kind, Layout, NO_BLOCK, put};
use crate::posting::{check_refine, check_row, extend_after, fill, open};
use crate::store::{PageStore, PageWrite};
use crate::{CodeShape, Metric, Model, Row};
use distillvq_model::MAX_DIM;

/// What an index is created with.
#[derive(Clone, Copy, Debug)]
pub struct Create<'a> {
    /// The metric.
    pub metric: Metric,
    /// Dimensions of a vector.
    pub dim: usize,
    /// The model; `None` makes an untrained index, in which all rows go to the exact list.
    pub model: Option<&'a Model>,
    /// Whether rows in lists get refine codes.
    pub refine: bool,
    /// A random number that marks this build, see [`Meta::build_id`].
    pub build_id: u64,
}

/// A build under way. It must be the only writer. Until [`Builder::finish`] the index is incomplete and refused by readers.
pub struct Builder<'a, S: PageStore> {
    store: &'a S,
    meta: Meta,
    /// Entries of all lists; `hint` is the last page of the chain.
    lists: Vec<Entry>,
    /// Pages of the store.
    blocks: u32,
}

impl<'a, S: PageStore> Builder<'a, S> {
    /// Begins an index in an empty store: metapage, model and directory pages.
    pub fn create(store: &'a S, create: Create<'_>) -> Result<Self, Error> {
        let meta = create.meta()?;
        let parts = match create.model {
            Some(model) => [model.encoder_bytes()?, model.student_bytes()?],
            None => Default::default(),
        };
        Builder::lay_out(store, meta, &parts)
    }

    /// Writes the pages before the first posting page. Chains and the directory's extent in `meta` are set here.
    fn lay_out(
        store: &'a S,
        mut meta: Meta,
        [encoder, student]: &[Vec<u8>; 2],
    ) -> Result<Self, Error> {
        if store.blocks()? != 0 {
            return Err(Error::Store("the index to build has pages already".into()));
        }
        meta.complete = false;
        meta.rows_at_build = 0;
        meta.encoder = chain_at(1, encoder);
        meta.student = chain_at(1 + meta.encoder.blocks, student);
        meta.spare = Chain::default();
        meta.directory = Extent {
            start: 1 + meta.encoder.blocks + meta.student.blocks,
            blocks: directory_blocks(meta.lists),
        };
        let mut builder = Builder {
            store,
            meta,
            lists: vec![Entry::default(); meta.lists as usize + 1],
            blocks: 0,
        };
        builder.add_page(|page, _| meta.store(page))?;
        for bytes in [encoder, student] {
            let last = pieces(bytes).len().saturating_sub(1);
            for (ordinal, piece) in pieces(bytes).enumerate() {
                builder.add_page(|page, block| {
                    let next = if ordinal == last { NO_BLOCK } else { block + 1 };
                    write_piece(page, ordinal as u32, next, piece);
                })?;
            }
        }
        for ordinal in 0..meta.directory.blocks {
            builder.add_page(|page, _| directory_page(&meta, ordinal, &[], page))?;
        }
        Ok(builder)
    }

    /// What the metapage will say.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Rows added so far.
    pub fn rows(&self) -> u64 {
        self.lists.iter().map(|entry| entry.rows).sum()
    }

    /// Adds a run of rows, sorted by list. Later runs continue where the lists' last pages ended.
    pub fn append<'r>(&mut self, rows: impl IntoIterator<Item = Row<'r>>) -> Result<(), Error> {
        let mut rows = rows.into_iter().peekable();
        let mut last = 0;
        // The page that the page before it already links to.
        let mut promised = None;
        while let Some(row) = rows.peek() {
            let list = row.list;
            check_row(&self.meta, row)?;
            if list < last {
                return Err(Error::Mismatch("the rows of a run are not sorted by list"));
            }
            last = list;
            self.store.interrupts()?;
            promised = self.append_page(list, promised, &mut rows)?;
        }
        Ok(())
    }

    /// Fills the last page of a list, or a new one if that is full or missing. Returns the page that it links to.
    fn append_page<'r, I: Iterator<Item = Row<'r>>>(
        &mut self,
        list: u32,
        promised: Option<u32>,
        rows: &mut std::iter::Peekable<I>,
    ) -> Result<Option<u32>, Error> {
        let layout = self.meta.layout(list)?;
        let meta = self.meta;
        let Some(entry) = self.lists.get_mut(list as usize) else {
            return Err(Error::Mismatch("there is no list of this number"));
        };
        let mut write = self.store.write()?;
        let mut head = Head::posting(list);
        let mut slot = None;
        if promised.is_none() && entry.hint != NO_BLOCK {
            let tail = write.lock(entry.hint)?;
            head = open(write.page(tail), entry.hint, list, &layout)?;
            if usize::from(head.count) < layout.capacity() {
                slot = Some(tail);
            } else {
                head.next = self.blocks;
                head.write(write.page(tail));
                head = Head::posting(list);
            }
        }
        let slot = match slot {
            Some(slot) => slot,
            None => {
                let (new, slot) = extend_after(&mut write, entry.hint)?;
                expect_block(new, self.blocks)?;
                self.blocks += 1;
                entry.hint = new;
                if entry.first == NO_BLOCK {
                    entry.first = new;
                }
                slot
            }
        };
        let (mut refused, mut codes) = (None, Vec::new());
        let first = usize::from(head.count);
        fill(write.page(slot), &mut head, &layout, || {
            let row = rows.next_if(|row| row.list == list)?;
            if let Err(error) = check_row(&meta, &row) {
                refused = Some(error);
                return None;
            }
            entry.rows += 1;
            codes.push(row.refine);
            Some(row)
        });
        if let Some(error) = refused {
            return Err(error);
        }
        let refine = self.link_refine_pages(write.page(slot), &layout, first, codes.len());
        let more = rows.peek().is_some_and(|row| row.list == list);
        if more {
            let fresh = refine.iter().filter(|(_, block)| *block >= self.blocks);
            head.next = self.blocks + fresh.count() as u32;
            head.write(write.page(slot));
        }
        write.commit()?;
        let owner = self.lists.get(list as usize).map_or(NO_BLOCK, |e| e.hint);
        self.write_refine_pages(&refine, Head::refine(list, owner), &layout, first, &codes)?;
        Ok(more.then_some(self.blocks))
    }

    /// Names the refine pages of rows `first..first + rows` on their posting page, those not there yet as the next ones of the
    /// store. Returns ordinals and blocks.
    fn link_refine_pages(
        &self,
        page: &mut [u8],
        layout: &Layout,
        first: usize,
        rows: usize,
    ) -> Vec<(usize, u32)> {
        let (mut pages, mut next) = (Vec::new(), self.blocks);
        let from = layout.refine_place(first).0;
        for p in from..layout.refine_pages(first + rows) {
            let mut block = layout.refine_page(page, p);
            if block == NO_BLOCK {
                (block, next) = (next, next + 1);
                layout.put_refine_page(page, p, block);
            }
            pages.push((p, block));
        }
        pages
    }

    /// Writes refine codes of the rows from `first` on to their pages.
    fn write_refine_pages(
        &mut self,
        pages: &[(usize, u32)],
        head: Head,
        layout: &Layout,
        first: usize,
        codes: &[&[u8]],
    ) -> Result<(), Error> {
        let mut codes = (first..).zip(codes).peekable();
        for &(p, block) in pages {
            let mut fill = |page: &mut [u8]| {
                let here = |i: usize| layout.refine_place(i).0 == p;
                while let Some((i, code)) = codes.next_if(|(i, _)| here(*i)) {
                    put(page, layout.refine_place(i).1, code);
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
                check_refine(write.page(slot), block, head.list, head.next)?;
                fill(write.page(slot));
                write.commit()?;
            }
        }
        Ok(())
    }

    /// Writes the directory, then marks the index complete. Returns the metapage's final contents.
    pub fn finish(mut self) -> Result<Meta, Error> {
        for ordinal in 0..self.meta.directory.blocks {
            self.store.interrupts()?;
            let from = ordinal as usize * crate::meta::ENTRIES;
            let entries = self.lists.get(from..).unwrap_or_default();
            let mut write = self.store.write()?;
            let slot = write.lock(self.meta.directory.start + ordinal)?;
            directory_page(&self.meta, ordinal, entries, write.page(slot));
            write.commit()?;
        }
        self.meta.complete = true;
        self.meta.rows_at_build = self.rows();
        let mut write = self.store.write()?;
        let slot = write.lock(0)?;
        self.meta.store(write.page(slot));
        write.commit()?;
        Ok(self.meta)
    }

    /// Appends a page; `write` gets its bytes and its block number.
    fn add_page(&mut self, fill: impl FnOnce(&mut [u8], u32)) -> Result<(), Error> {
        self.store.interrupts()?;
        let mut write = self.store.write()?;
        let (block, slot) = write.extend()?;
        expect_block(block, self.blocks)?;
        fill(write.page(slot), block);
        self.blocks += 1;
        write.commit()
    }
}

impl Create<'_> {
    fn meta(&self) -> Result<Meta, Error> {
        if self.dim == 0 || self.dim > MAX_DIM {
            return Err(Error::Mismatch("impossible dimension"));
        }
        let untrained = CodeShape {
            subquantizers: 0,
            bits: 4,
            has_norm: false,
        };
        let fits = |model: &Model| model.metric() == self.metric && model.dim() == self.dim;
        if !self.model.is_none_or(fits) {
            return Err(Error::Mismatch(
                "the model is for another metric or dimension",
            ));
        }
        let meta = Meta {
            refine: self.refine && self.model.is_some(),
            version: VERSION,
            complete: false,
            metric: self.metric,
            dim: self.dim,
            lists: self.model.map_or(0, |model| model.lists() as u32),
            shape: self.model.map_or(untrained, Model::shape),
            encoder: Chain::default(),
            student: Chain::default(),
            spare: Chain::default(),
            directory: Extent::default(),
            build_id: self.build_id,
            rows_at_build: 0,
            training: Training::default(),
            calibration: None,
        };
        if meta.trained() && meta.coded().is_none() {
            return Err(Error::Mismatch("the model's codes do not fit a page"));
        }
        Ok(meta)
    }
}

/// The chain of pages that follow each other from `start`, as many as the bytes need.
fn chain_at(start: u32, bytes: &[u8]) -> Chain {
    let blocks = pieces(bytes).len() as u32;
    Chain {
        start: if blocks > 0 { start } else { NO_BLOCK },
        blocks,
        bytes: bytes.len() as u64,
        crc: crc32c::crc32c(bytes),
    }
}

/// Writes a whole directory page; entries that are not given are empty.
fn directory_page(meta: &Meta, ordinal: u32, entries: &[Entry], page: &mut [u8]) {
    let count = entries_on(meta.lists, ordinal);
    Head {
        kind: Kind::Directory,
        count: count as u16,
        list: ordinal,
        next: NO_BLOCK,
        inserted: 0,
        moves: 0,
    }
    .write(page);
    for i in 0..count {
        let entry = entries.get(i).copied().unwrap_or_default();
        entry.write(page, crate::meta::entry_offset(i));
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

/// Copies metapage and model of `from` into the empty store `to`, with an empty directory: the same index without rows.
pub fn create_empty<S: PageStore, T: PageStore>(from: &S, to: &T) -> Result<Meta, Error> {
    let mut meta = Meta::read(from)?;
    let parts = if meta.trained() {
        model_bytes(from, &mut meta)?
    } else {
        Default::default()
    };
    Builder::lay_out(to, meta, &parts)?.finish()
}
