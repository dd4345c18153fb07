//! Building an index: bulk load of runs sorted by list, and the empty copy of an index.
//!
//! Order of writing: an incomplete metapage, the model, empty directory pages, posting pages, the directory's entries,
//! and last the metapage again, now complete. Whatever is cut short is therefore recognised as incomplete.
//!
//! A run writes each page once: the builder is the only writer, so the number of the page that will continue a chain is
//! known in advance and its link can be written with the page before it.

use crate::error::Error;
use crate::meta::{Entry, Extent, Meta, VERSION, directory_blocks, entries_on, model_bytes};
use crate::page::{BODY, BODY_SIZE, Head, Kind, NO_BLOCK, put};
use crate::posting::{check_row, extend_after, fill, open};
use crate::store::{PageStore, PageWrite};
use crate::{CodeShape, Metric, Model, Row};
use distillvq_quantizer::MAX_DIM;

/// What an index is created with.
#[derive(Clone, Copy, Debug)]
pub struct Create<'a> {
    /// The metric.
    pub metric: Metric,
    /// Dimensions of a vector.
    pub dim: usize,
    /// The model; `None` makes an untrained index, in which all rows go to the exact list.
    pub model: Option<&'a Model>,
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
        let bytes = create.model.map(Model::to_bytes).transpose()?;
        Builder::lay_out(store, meta, &bytes.unwrap_or_default())
    }

    /// Writes the pages before the first posting page. Extents and checksum of `meta` are set here.
    fn lay_out(store: &'a S, mut meta: Meta, model: &[u8]) -> Result<Self, Error> {
        if store.blocks()? != 0 {
            return Err(Error::Store("the index to build has pages already".into()));
        }
        let pieces = model.len().div_ceil(BODY_SIZE) as u32;
        meta.complete = false;
        meta.rows_at_build = 0;
        meta.model_bytes = model.len() as u64;
        meta.model_crc = crc32c::crc32c(model);
        meta.model = Extent {
            start: if pieces > 0 { 1 } else { NO_BLOCK },
            blocks: pieces,
        };
        meta.directory = Extent {
            start: 1 + pieces,
            blocks: directory_blocks(meta.lists),
        };
        let mut builder = Builder {
            store,
            meta,
            lists: vec![Entry::default(); meta.lists as usize + 1],
            blocks: 0,
        };
        builder.add_page(|page, _| meta.store(page))?;
        for (ordinal, piece) in (0u32..).zip(model.chunks(BODY_SIZE)) {
            builder.add_page(|page, block| {
                let last = ordinal + 1 == pieces;
                Head {
                    kind: Kind::Model,
                    count: piece.len() as u16,
                    list: ordinal,
                    next: if last { NO_BLOCK } else { block + 1 },
                }
                .write(page);
                put(page, BODY, piece);
            })?;
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
        let mut refused = None;
        fill(write.page(slot), &mut head, &layout, || {
            let row = rows.next_if(|row| row.list == list)?;
            if let Err(error) = check_row(&meta, &row) {
                refused = Some(error);
                return None;
            }
            entry.rows += 1;
            Some(row)
        });
        if let Some(error) = refused {
            return Err(error);
        }
        let more = rows.peek().is_some_and(|row| row.list == list);
        if more {
            head.next = self.blocks;
            head.write(write.page(slot));
        }
        write.commit()?;
        Ok(more.then_some(self.blocks))
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
        if let Some(model) = self.model {
            if model.metric() != self.metric || model.dim() != self.dim {
                return Err(Error::Mismatch(
                    "the model is for another metric or dimension",
                ));
            }
            if crate::Layout::coded(model.shape()).is_none() {
                return Err(Error::Mismatch("the model's codes do not fit a page"));
            }
        }
        Ok(Meta {
            version: VERSION,
            complete: false,
            metric: self.metric,
            dim: self.dim,
            lists: self.model.map_or(0, |model| model.lists() as u32),
            shape: self.model.map_or(untrained, Model::shape),
            model: Extent::default(),
            model_bytes: 0,
            model_crc: 0,
            directory: Extent::default(),
            build_id: self.build_id,
            rows_at_build: 0,
        })
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
    let meta = Meta::read(from)?;
    let bytes = if meta.trained() {
        model_bytes(from, &meta)?
    } else {
        Vec::new()
    };
    Builder::lay_out(to, meta, &bytes)?.finish()
}
