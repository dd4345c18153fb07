//! Verification of an index: of its structure, and against the rows of its table.
//!
//! The structure: metapage, model, directory, and every chain page by page; no page has two owners, no page with contents
//! has none, no row of the table is in the index twice.
//!
//! Against the table: every row that must be in the index is there, in the list and with the codes that encoding its vector
//! anew gives, or others that are as near but for a rounding ([`Model::check_encoding`]). Rows of the index that the table does not show are no problem: they are dead, or younger than the look at
//! the table.
//!
//! Addresses are looked at by [`Window`]s as large as the memory allows, each over some blocks of the table; the first
//! window is filled by the walk over the structure, each further one by another walk over the posting pages.

mod window;

use crate::candidate::Place;
use crate::chain;
use crate::encode::RowEncoder;
use crate::error::Error;
use crate::meta::{Entry, Meta, load_model, read_directory};
use crate::page::{Head, Kind, Layout, NO_BLOCK};
use crate::posting::{check_link, check_refine, open};
use crate::store::PageStore;
use crate::walk::AHEAD;
use crate::{Model, Row, Tid};
use distillvq_model::StoredRow;
use std::fmt;
use std::ops::Range;
use window::{Located, Window};

/// Elements of the vectors that are encoded in one go: milliseconds.
const BATCH_ELEMENTS: usize = 1 << 16;

/// Something that must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The page; `None` if something is missing that would be on no certain page.
    pub block: Option<u32>,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.block {
            Some(block) => write!(f, "block {block}: {}", self.what),
            None => f.write_str(&self.what),
        }
    }
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// Problems, at most [`CheckReport::MAX_PROBLEMS`] and one more that says so; empty means sound.
    pub problems: Vec<Problem>,
    /// Rows of each list; the last entry is the exact list.
    pub rows: Vec<u64>,
    /// Posting pages in chains.
    pub posting_pages: u32,
    /// Pages that were never written and belong to nothing: left by a crash, harmless.
    pub orphan_pages: u32,
    /// Rows of the table that were compared.
    pub compared: u64,
}

impl CheckReport {
    /// Problems reported at most.
    pub const MAX_PROBLEMS: usize = 100;

    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.problems.is_empty()
    }

    /// Rows of all lists.
    pub fn total_rows(&self) -> u64 {
        self.rows.iter().sum()
    }

    fn is_full(&self) -> bool {
        self.problems.len() > CheckReport::MAX_PROBLEMS
    }

    fn add(&mut self, block: Option<u32>, what: impl Into<String>) {
        if self.problems.len() < CheckReport::MAX_PROBLEMS {
            let what = what.into();
            self.problems.push(Problem { block, what });
        } else if !self.is_full() {
            self.problems.push(Problem {
                block: None,
                what: "there are further problems".to_owned(),
            });
        }
    }

    /// Turns damage into a problem; passes other errors on.
    fn note<T>(&mut self, result: Result<T, Error>) -> Result<Option<T>, Error> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(Error::Damaged { block, what }) => {
                self.add(Some(block), what);
                Ok(None)
            }
            Err(Error::Model(error)) => {
                self.add(Some(0), error.to_string());
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

/// Takes a row of the table: its address and its vector.
pub type EachRow<'a, E> = dyn FnMut(Tid, &[f32]) -> Result<(), E> + 'a;

/// Shows all rows in some blocks of the table that must be in the index: with one snapshot, taken before the check began,
/// under the predicate of the index, with the addresses that an index has of them, without those whose vector is NULL.
pub type ShowRows<'a, E> = dyn FnMut(Range<u32>, &mut EachRow<'_, E>) -> Result<(), E> + 'a;

/// Verifies the structure of an index. Damage is in the report; errors are anything else, as [`Error::NotAnIndex`] or a
/// failure of the store. Inserts may go on meanwhile; a vacuum or a replacement of the student must not.
pub fn check<S: PageStore>(store: &S) -> Result<CheckReport, Error> {
    check_within(store, usize::MAX)
}

/// As [`check()`], with about so many bytes for the addresses of rows.
pub fn check_within<S: PageStore>(store: &S, memory: usize) -> Result<CheckReport, Error> {
    check_rows(store, memory, None::<&mut ShowRows<'_, Error>>)
}

/// As [`check_within`], and against the rows that `table` shows.
pub fn check_against<S: PageStore, E: From<Error>>(
    store: &S,
    memory: usize,
    table: &mut ShowRows<'_, E>,
) -> Result<CheckReport, E> {
    check_rows(store, memory, Some(table))
}

fn check_rows<S: PageStore, E: From<Error>>(
    store: &S,
    memory: usize,
    mut table: Option<&mut ShowRows<'_, E>>,
) -> Result<CheckReport, E> {
    let mut report = CheckReport::default();
    // Before everything else: whatever is in use of these pages is linked by the time that the links are followed.
    let blocks = store.blocks()?;
    let Some(mut meta) = report.note(Meta::read(store))? else {
        return Ok(report);
    };
    let model = load_model(store, &mut meta);
    let model = report.note(model)?;
    let directory = read_directory(store, &meta);
    let Some(directory) = report.note(directory)? else {
        return Ok(report);
    };
    let mut walk = Walk {
        store,
        visited: vec![false; blocks as usize],
        blocks,
        postings: Vec::new(),
        window: Window::new(memory),
        report,
    };
    walk.before_postings(&meta)?;
    for (list, entry) in (0u32..).zip(&directory) {
        let layout = meta.layout(list)?;
        let rows = walk.chain(list, &layout, entry)?;
        walk.report.rows.push(rows);
    }
    walk.orphans()?;
    walk.postings.sort_unstable();
    let model = model.as_ref().map(Option::as_ref);
    loop {
        let range = walk.window.finish();
        walk.twice();
        if let (Some(table), Some(model)) = (table.as_deref_mut(), model) {
            let encoder = RowEncoder::new(&meta, model)?;
            walk.against(&meta, encoder, range.clone(), table)?;
        }
        if range.end == u32::MAX || walk.report.is_full() {
            return Ok(walk.report);
        }
        walk.gather(&meta, range.end)?;
    }
}

/// A walk over all chains, and then over windows of addresses.
struct Walk<'a, S> {
    store: &'a S,
    /// Blocks that existed when the walk began, and whether they were met.
    visited: Vec<bool>,
    /// Pages of the store, as last asked for.
    blocks: u32,
    /// Posting pages and their lists.
    postings: Vec<(u32, u32)>,
    window: Window,
    report: CheckReport,
}

impl<S: PageStore> Walk<'_, S> {
    /// Marks a block as met; false if it was met before. Blocks added meanwhile are always new.
    fn visit(&mut self, block: u32) -> bool {
        match self.visited.get_mut(block as usize) {
            Some(visited) => !std::mem::replace(visited, true),
            None => true,
        }
    }

    /// Verifies the chains of the model, and marks the pages before the postings. Their bytes are verified elsewhere.
    fn before_postings(&mut self, meta: &Meta) -> Result<(), Error> {
        self.visit(0);
        for block in 0..meta.directory.blocks {
            self.visit(meta.directory.start + block);
        }
        let store = self.store;
        for chain in [meta.encoder, meta.student, meta.spare] {
            let walked = chain::walk(store, &chain, chain.blocks, |block, _, _| {
                if self.visit(block) {
                    Ok(())
                } else {
                    Err(Error::damaged(block, "a model page is in use elsewhere"))
                }
            });
            // What reading the model has found already is not said twice.
            if self.report.is_sound() {
                self.report.note(walked)?;
            }
        }
        Ok(())
    }

    /// Verifies the chain of a list. Returns its rows.
    fn chain(&mut self, list: u32, layout: &Layout, entry: &Entry) -> Result<u64, Error> {
        let (mut rows, mut hint_met) = (0, entry.hint == NO_BLOCK);
        let (mut from, mut block) = (0, entry.first);
        while block != NO_BLOCK {
            self.store.interrupts()?;
            if block >= self.store.blocks()? {
                self.report.add(Some(from), "link leads beyond the end");
                return Ok(rows);
            }
            if !self.visit(block) {
                let what = format!("list {list} has a page that is in use elsewhere");
                self.report.add(Some(block), what);
                return Ok(rows);
            }
            let store = self.store;
            let page = store.read(block, |page| self.page(page, block, list, layout))?;
            let Some((head, found)) = self.report.note(page)? else {
                return Ok(rows);
            };
            self.report.posting_pages += 1;
            self.postings.push((block, list));
            rows += found;
            self.refine_pages(block, list, &head, layout)?;
            hint_met |= block == entry.hint;
            (from, block) = (block, head.next);
        }
        if !hint_met {
            let what = format!("the insert hint of list {list} is no page of its chain");
            self.report.add(Some(entry.hint), what);
        }
        Ok(rows)
    }

    /// Verifies the rows of a posting page, and counts them: holes are none. Every code is in range by its width.
    fn page(
        &mut self,
        page: &[u8],
        block: u32,
        list: u32,
        layout: &Layout,
    ) -> Result<(Head, u64), Error> {
        let head = open(page, block, list, layout)?;
        if head.kind == Kind::Empty {
            return Err(Error::damaged(block, "a page of a chain was never written"));
        }
        let mut rows = 0;
        for i in 0..usize::from(head.count) {
            let tid = layout.tid(page, i);
            if layout.has_refine() && tid == Tid::default() {
                continue;
            }
            rows += 1;
            if tid.offset == 0 || tid.block == u32::MAX {
                self.about(block, i, tid, "has no address");
                continue;
            }
            self.window.add(Located::new(tid, block, i));
            if layout.norm(page, i).is_some_and(|norm| !norm.is_finite()) {
                self.about(block, i, tid, "has no finite norm");
            }
        }
        Ok((head, rows))
    }

    /// Reports something about a row of a posting page.
    fn about(&mut self, block: u32, i: usize, tid: Tid, what: &str) {
        let what = format!("row {i} ({},{}) {what}", tid.block, tid.offset);
        self.report.add(Some(block), what);
    }

    /// Verifies that the rows of a posting page have refine pages, which are its own.
    fn refine_pages(
        &mut self,
        block: u32,
        list: u32,
        head: &Head,
        layout: &Layout,
    ) -> Result<(), Error> {
        let needed = layout.refine_pages(usize::from(head.count));
        let all = layout.refine_pages(layout.capacity());
        let links: Vec<u32> = self.store.read(block, |page| {
            (0..all).map(|p| layout.refine_page(page, p)).collect()
        })?;
        for (p, link) in links.into_iter().enumerate() {
            if link == NO_BLOCK {
                if p < needed {
                    self.report.add(Some(block), "rows without a refine page");
                }
            } else if link <= block {
                let what = "link to a refine page leads backwards";
                self.report.add(Some(block), what);
            } else if link >= self.store.blocks()? {
                self.report.add(Some(block), "refine page beyond the end");
            } else if !self.visit(link) {
                self.report
                    .add(Some(link), "a refine page is in use elsewhere");
            } else {
                let found = self
                    .store
                    .read(link, |page| check_refine(page, link, list, block))?;
                self.report.note(found)?;
            }
        }
        Ok(())
    }

    /// Counts the pages that nothing leads to. A page is linked in the change that writes it: one with contents was lost.
    fn orphans(&mut self) -> Result<(), Error> {
        let visited = std::mem::take(&mut self.visited);
        for (block, visited) in (0u32..).zip(visited) {
            if visited {
                continue;
            }
            self.report.orphan_pages += 1;
            self.store.interrupts()?;
            let head = self.store.read(block, |page| {
                Head::read(page).map_err(|what| Error::damaged(block, what))
            })?;
            let head = self.report.note(head)?;
            if head.is_some_and(|head| head.kind != Kind::Empty) {
                self.report.add(Some(block), "nothing leads to the page");
            }
        }
        Ok(())
    }

    /// Fills the window with the addresses from a block of the table on.
    fn gather(&mut self, meta: &Meta, from: u32) -> Result<(), Error> {
        self.window.start(from);
        let store = self.store;
        for (i, &(block, list)) in self.postings.iter().enumerate() {
            store.interrupts()?;
            if let Some(&(later, _)) = self.postings.get(i + AHEAD as usize) {
                store.prefetch(later);
            }
            let (layout, window) = (meta.layout(list)?, &mut self.window);
            let read = store.read(block, |page| {
                let head = open(page, block, list, &layout)?;
                let rows = (0..usize::from(head.count)).map(|i| (i, layout.tid(page, i)));
                let rows = rows.filter(|(_, tid)| tid.offset != 0);
                rows.for_each(|(i, tid)| window.add(Located::new(tid, block, i)));
                Ok::<(), Error>(())
            })?;
            self.report.note(read)?;
        }
        Ok(())
    }

    /// Reports the addresses of the window that are there more than once.
    fn twice(&mut self) {
        let window = std::mem::take(&mut self.window);
        for row in window.twice() {
            let (block, i) = row.place();
            self.about(block, i, row.tid(), "is in the index twice");
        }
        self.window = window;
    }

    /// Compares rows of the table with the window.
    fn against<E: From<Error>>(
        &mut self,
        meta: &Meta,
        encoder: RowEncoder<'_>,
        range: Range<u32>,
        table: &mut ShowRows<'_, E>,
    ) -> Result<(), E> {
        let mut batch = Batch::default();
        table(range, &mut |tid, vector| {
            if self.report.is_full() {
                return Ok(());
            }
            if vector.len() != meta.dim {
                let (block, offset, found) = (tid.block, tid.offset, vector.len());
                let what = format!("row ({block},{offset}) of the table has {found} dimensions");
                self.report.add(None, what);
                return Ok(());
            }
            batch.tids.push(tid);
            batch.vectors.extend_from_slice(vector);
            if batch.vectors.len() >= BATCH_ELEMENTS {
                self.compare(meta, encoder, &mut batch)?;
            }
            Ok(())
        })?;
        Ok(self.compare(meta, encoder, &mut batch)?)
    }

    /// Compares a batch of rows with what the index has of them, and empties it.
    fn compare(
        &mut self,
        meta: &Meta,
        encoder: RowEncoder<'_>,
        batch: &mut Batch,
    ) -> Result<(), Error> {
        self.store.interrupts()?;
        let encoded = encoder.encode(&batch.vectors);
        for (i, &tid) in batch.tids.iter().enumerate() {
            self.report.compared += 1;
            let wanted = Row::of(meta, &encoded, i, tid);
            let (block, what) = match (wanted, self.window.find(tid)) {
                (None, None) => continue,
                (None, Some(found)) => (Some(found.place().0), Some(NOT_TO_INDEX)),
                (Some(_), None) => (None, Some("is not in the index")),
                (Some(row), Some(found)) => {
                    let vector = batch.vectors.get(i * meta.dim..(i + 1) * meta.dim);
                    let vector = vector.unwrap_or_default();
                    let what = self.difference(meta, vector, (&row, encoder.model()), &found);
                    (Some(found.place().0), self.report.note(what)?.flatten())
                }
            };
            if let Some(what) = what {
                let what = format!("row ({},{}) of the table {what}", tid.block, tid.offset);
                self.report.add(block, what);
            }
        }
        batch.tids.clear();
        batch.vectors.clear();
        Ok(())
    }

    /// How a row of the index is not as it must be.
    fn difference(
        &mut self,
        meta: &Meta,
        vector: &[f32],
        (row, model): (&Row<'_>, Option<&Model>),
        found: &Located,
    ) -> Result<Option<&'static str>, Error> {
        let (block, hint) = found.place();
        let kept = self
            .store
            .read(block, |page| Kept::read(page, block, meta, (row.tid, hint)))??;
        let Some(mut kept) = kept else {
            return Ok(Some("is not in the index any more"));
        };
        if kept.list == meta.exact_list() && row.list == kept.list {
            return Ok(None);
        }
        let Place { block: refine, at } = kept.refine_at;
        if refine != NO_BLOCK {
            check_link(self.store, block, refine, &mut self.blocks)?;
            let at = usize::from(at);
            let code = at..at + meta.refine_bytes();
            kept.refine = self
                .store
                .read(refine, |page| page.get(code).unwrap_or_default().to_vec())?;
        }
        let stored = kept.stored();
        let wanted = StoredRow {
            list: row.list,
            codes: row.codes,
            correction_code: row.scale,
            norm: if meta.shape.has_norm { row.norm } else { 0.0 },
            refine: row.refine,
        };
        if stored == wanted {
            return Ok(None);
        }
        // What fits a list ends where hardly any row is: no room is left for roundings there.
        Ok(match model {
            Some(model) if ![row.list, stored.list].contains(&meta.exact_list()) => {
                model.check_encoding(vector, &stored, &wanted)
            }
            _ => Some("is in the wrong list"),
        })
    }
}

/// What the index has of a row.
struct Kept {
    list: u32,
    codes: Vec<u8>,
    scale: u8,
    norm: f32,
    refine_at: Place,
    refine: Vec<u8>,
}

impl Kept {
    /// Reads a row, which was the `hint`-th of the page, without its refine code; `None` if it is not there any more.
    fn read(
        page: &[u8],
        block: u32,
        meta: &Meta,
        (tid, hint): (Tid, usize),
    ) -> Result<Option<Kept>, Error> {
        let list = Head::read(page)
            .map_err(|what| Error::damaged(block, what))?
            .list;
        if list > meta.lists {
            return Err(Error::damaged(block, "the page belongs to no list"));
        }
        let layout = meta.layout(list)?;
        let head = open(page, block, list, &layout)?;
        let is_here = |i: &usize| layout.tid(page, *i) == tid;
        let mut all = 0..usize::from(head.count);
        // Rows move within their page, if a standby replays a vacuum meanwhile.
        let i = Some(hint).filter(is_here).or_else(|| all.find(is_here));
        Ok(i.map(|i| {
            let (codes, scale) = layout.codes_of(page, i);
            Kept {
                list,
                codes,
                scale,
                norm: layout.norm(page, i).unwrap_or(0.0),
                refine_at: layout.refine_of(page, i),
                refine: Vec::new(),
            }
        }))
    }

    fn stored(&self) -> StoredRow<'_> {
        StoredRow {
            list: self.list,
            codes: &self.codes,
            correction_code: self.scale,
            norm: self.norm,
            refine: &self.refine,
        }
    }
}

const NOT_TO_INDEX: &str = "is in the index, where rows of its kind have no place";

/// Rows to be compared.
#[derive(Default)]
struct Batch {
    tids: Vec<Tid>,
    /// Elements, row-major.
    vectors: Vec<f32>,
}
