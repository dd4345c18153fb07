//! Verification of the structure of an index: metapage, blobs, directory, and every chain page by page; no page has two
//! owners, no page with contents has none, no row of the table has two first or two second entries.
//!
//! Addresses are checked by windows ([`Check::next_window`]) as large as the memory allows, each over some blocks of the
//! table; the first window is filled by the walk over the structure, each further one by another walk over the posting
//! pages. A caller may compare the rows of the table in a window with those of the index.

mod tid_window;

use crate::chain;
use crate::directory::ListEntry;
use crate::error::Error;
use crate::metapage::{Metapage, RowMoves};
use crate::page::{Block, EXACT_LIST, Layout, NO_BLOCK, PageHeader, PageKind};
use crate::page_walk::PREFETCH_PAGES;
use crate::posting::{check_link, check_side, read_any_header, read_header};
use crate::sample;
use crate::store::PageStore;
use crate::tid::Tid;
use distillvq_kernels::block::LANES;
use std::fmt;
use std::ops::Range;
pub use tid_window::TidLocation;
use tid_window::TidWindow;

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
    /// Entries of each list; the last element is the exact list.
    pub entries: Vec<u64>,
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

    /// Whether no further problem is recorded.
    pub fn is_full(&self) -> bool {
        self.problems.len() > CheckReport::MAX_PROBLEMS
    }

    /// Records a problem.
    pub fn add(&mut self, block: Option<u32>, what: impl Into<String>) {
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
    pub fn record_damage<T>(&mut self, result: Result<T, Error>) -> Result<Option<T>, Error> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(Error::Damaged { block, what }) => {
                self.add(Some(block), what);
                Ok(None)
            }
            // The metapage, which was read for this check, is not newer than the library.
            Err(Error::NewerPage { block, .. }) => {
                self.add(Some(block), "the page has a newer format than the index");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

/// Names what is wrong with a lane of a block, if anything is.
pub type InspectFn<'a> = &'a dyn Fn(&Block<'_>, usize) -> Option<&'static str>;

/// What the index has of a row.
#[derive(Clone, Debug, PartialEq)]
pub struct IndexedRow {
    /// Its list.
    pub list: u32,
    /// The values of each column, as [`crate::Value::Bytes`]; empty for those that rows of the list lack.
    pub columns: Vec<Vec<u8>>,
}

/// Verifies the structure of an index. Damage is in the report; errors are anything else, as [`Error::NotAnIndex`] or a
/// failure of the store. Inserts may go on meanwhile; a vacuum or a replacement of a blob must not.
pub fn check<S: PageStore>(store: &S) -> Result<CheckReport, Error> {
    let mut report = CheckReport::default();
    let blocks = store.block_count()?;
    let Some(metapage) = report.record_damage(Metapage::read(store))? else {
        return Ok(report);
    };
    let mut check = Check::new(store, blocks, metapage, usize::MAX, report);
    for chain in [metapage.base, metapage.current] {
        check.report.record_damage(chain::read(store, &chain))?;
    }
    if check.walk(&|_, _| None)? {
        while check.next_window()?.is_some() {}
    }
    Ok(check.report)
}

/// A check under way: a walk over all chains, and then over windows of addresses.
pub struct Check<'a, S> {
    store: &'a S,
    metapage: Metapage,
    /// Blocks that existed when the walk began, and whether they were met.
    visited: Vec<bool>,
    /// Pages of the store, as last asked for.
    blocks: u32,
    /// Posting pages and their lists.
    postings: Vec<(u32, u32)>,
    window: TidWindow,
    /// Where the next window begins, `None` at the end.
    next: Option<u32>,
    /// What was found so far.
    pub report: CheckReport,
}

impl<'a, S: PageStore> Check<'a, S> {
    /// A check of an index that had `blocks` pages before its metapage was read, with approximately `memory` bytes for
    /// addresses of rows.
    pub fn new(
        store: &'a S,
        blocks: u32,
        metapage: Metapage,
        memory: usize,
        report: CheckReport,
    ) -> Self {
        Check {
            store,
            metapage,
            visited: vec![false; blocks as usize],
            blocks,
            postings: Vec::new(),
            window: TidWindow::new(memory),
            next: Some(0),
            report,
        }
    }

    /// Verifies the structure, and every row with `inspect`. False if the directory is damaged: then there are no windows.
    pub fn walk(&mut self, inspect: InspectFn<'_>) -> Result<bool, Error> {
        let directory = self.metapage.directory.entries(self.store);
        let Some(directory) = self.report.record_damage(directory)? else {
            return Ok(false);
        };
        self.check_blob_pages()?;
        self.check_sample()?;
        for (list, entry) in (0u32..).zip(&directory) {
            let layout = self.metapage.layout(list)?;
            let entries = self.chain(list, &layout, entry, inspect)?;
            self.report.entries.push(entries);
        }
        self.orphans()?;
        self.postings.sort_unstable();
        Ok(true)
    }

    /// Fills the next window and reports the rows that are in it more than once. Returns the blocks of the table that it is
    /// complete over, `None` after the last window.
    pub fn next_window(&mut self) -> Result<Option<Range<u32>>, Error> {
        let Some(from) = self.next.filter(|_| !self.report.is_full()) else {
            return Ok(None);
        };
        if from > 0 {
            self.gather(from)?;
        }
        let range = self.window.finish();
        self.report_duplicates();
        self.next = Some(range.end).filter(|end| *end < u32::MAX);
        Ok(Some(range))
    }

    /// Location of a row in the window, if it is there.
    pub fn find(&self, tid: Tid) -> Option<TidLocation> {
        self.window.find(tid)
    }

    /// Reads a row of the window; `None` if it is not there any more.
    pub fn read_row(&mut self, location: TidLocation) -> Result<Option<IndexedRow>, Error> {
        let ((block, hint), tid) = (location.place(), location.tid());
        let metapage = self.metapage;
        let found = self.store.read(block, |page| {
            let Some((list, header, layout)) = read_any_header(page, block, &metapage)? else {
                return Err(Error::damaged(block, "not a posting page"));
            };
            let is_here = |i: &usize| layout.tid(page, *i) == tid;
            let mut all = 0..usize::from(header.count);
            // Rows move within their page, if a standby replays a vacuum meanwhile.
            let i = Some(hint).filter(is_here).or_else(|| all.find(is_here));
            Ok(i.map(|i| {
                let columns = 0..layout.format().columns().len();
                let columns = columns
                    .map(|position| layout.values(page, position, i))
                    .collect();
                (
                    IndexedRow { list, columns },
                    layout.side_location(page, block, i),
                )
            }))
        })??;
        let Some((mut row, side)) = found else {
            return Ok(None);
        };
        if let Some((position, column)) = metapage.format.side().filter(|_| side.block != NO_BLOCK)
        {
            check_link(self.store, block, side.block, &mut self.blocks)?;
            let at = usize::from(side.at);
            let bytes = self.store.read(side.block, |page| {
                check_side(page, side.block, row.list, block)?;
                let bytes = page.get(at..at + column.row_bytes());
                Ok::<_, Error>(bytes.unwrap_or_default().to_vec())
            })??;
            if let Some(values) = row.columns.get_mut(position) {
                *values = bytes;
            }
        }
        Ok(Some(row))
    }

    /// Marks a block as met; false if it was met before. Blocks added meanwhile are always new.
    fn visit(&mut self, block: u32) -> bool {
        match self.visited.get_mut(block as usize) {
            Some(visited) => !std::mem::replace(visited, true),
            None => true,
        }
    }

    /// Verifies the chains of the blobs, and marks the pages before the postings. Their bytes are verified elsewhere.
    fn check_blob_pages(&mut self) -> Result<(), Error> {
        let metapage = self.metapage;
        self.visit(0);
        self.visit(metapage.directory.exact);
        for block in 0..metapage.directory.extent.blocks {
            self.visit(metapage.directory.extent.start + block);
        }
        let store = self.store;
        for chain in [metapage.base, metapage.current, metapage.spare] {
            let walked = chain::walk(store, &chain, chain.blocks, |block, _, _| {
                if self.visit(block) {
                    Ok(())
                } else {
                    Err(Error::damaged(block, "a blob page is in use elsewhere"))
                }
            });
            // What reading the blobs has found is not reported twice.
            if self.report.is_sound() {
                self.report.record_damage(walked)?;
            }
        }
        Ok(())
    }

    /// Verifies the pages of the sample. Records that a crash has torn are no damage.
    fn check_sample(&mut self) -> Result<(), Error> {
        let first = self.metapage.sample;
        if first == NO_BLOCK {
            return Ok(());
        }
        let blocks = sample::sample_blocks(self.store, &self.metapage);
        let blocks = self.report.record_damage(blocks)?.unwrap_or_default();
        for (ordinal, block) in (0..).zip(std::iter::once(first).chain(blocks)) {
            if !self.visit(block) {
                let what = "a page of the sample is in use elsewhere";
                self.report.add(Some(block), what);
                continue;
            }
            let store = self.store;
            let header = store.read(block, |page| sample::check_header(page, block, ordinal))?;
            self.report.record_damage(header)?;
        }
        Ok(())
    }

    /// Verifies the chain of a list. Returns its rows.
    fn chain(
        &mut self,
        list: u32,
        layout: &Layout,
        entry: &ListEntry,
        inspect: InspectFn<'_>,
    ) -> Result<u64, Error> {
        // The exact list may have passed over the page of an insert that was slow to set the hint.
        let is_passed = list == self.metapage.exact_list() && entry.insert_block < entry.first;
        let (mut rows, mut insert_block_met) = (0, entry.insert_block == NO_BLOCK || is_passed);
        let (mut from, mut block) = (0, entry.first);
        while block != NO_BLOCK {
            self.store.check_interrupts()?;
            if block >= self.store.block_count()? {
                self.report.add(Some(from), "link leads beyond the end");
                return Ok(rows);
            }
            if !self.visit(block) {
                let what = format!("list {list} has a page that is in use elsewhere");
                self.report.add(Some(block), what);
                return Ok(rows);
            }
            let store = self.store;
            let page = store.read(block, |page| {
                self.page(page, (block, list), layout, inspect)
            })?;
            let Some((head, found)) = self.report.record_damage(page)? else {
                return Ok(rows);
            };
            self.postings.push((block, list));
            rows += found;
            self.side_pages(block, list, &head, layout)?;
            insert_block_met |= block == entry.insert_block;
            (from, block) = (block, head.next);
        }
        if !insert_block_met {
            let what = format!("the insert block of list {list} is no page of its chain");
            self.report.add(Some(entry.insert_block), what);
        }
        Ok(rows)
    }

    /// Verifies the rows of a posting page, and counts them: holes are none.
    fn page(
        &mut self,
        page: &[u8],
        (block, list): (u32, u32),
        layout: &Layout,
        inspect: InspectFn<'_>,
    ) -> Result<(PageHeader, u64), Error> {
        let head = read_header(page, block, list, layout)?;
        if head.kind == PageKind::Empty {
            return Err(Error::damaged(block, "a page of a chain was never written"));
        }
        let mut rows = 0;
        for i in 0..usize::from(head.count) {
            let tid = layout.tid(page, i);
            if layout.has_side() && tid == Tid::default() {
                continue;
            }
            rows += 1;
            if tid.row().offset == 0 || tid.block == u32::MAX {
                self.report_row(block, i, tid, "has no address");
                continue;
            }
            self.window.add(TidLocation::new(tid, block, i));
            if let Some(what) = inspect(&layout.block(page, i / LANES), i % LANES) {
                self.report_row(block, i, tid, what);
            }
        }
        Ok((head, rows))
    }

    /// Reports something about a row of a posting page.
    fn report_row(&mut self, block: u32, i: usize, tid: Tid, what: &str) {
        let tid = tid.row();
        let what = format!("row {i} ({},{}) {what}", tid.block, tid.offset);
        self.report.add(Some(block), what);
    }

    /// Verifies that the rows of a posting page have side pages, which are its own.
    fn side_pages(
        &mut self,
        block: u32,
        list: u32,
        head: &PageHeader,
        layout: &Layout,
    ) -> Result<(), Error> {
        let needed = layout.side_pages(usize::from(head.count));
        let all = layout.side_pages(layout.capacity());
        let links: Vec<u32> = self.store.read(block, |page| {
            (0..all).map(|p| layout.side_page(page, p)).collect()
        })?;
        for (p, link) in links.into_iter().enumerate() {
            if link == NO_BLOCK {
                if p < needed {
                    self.report.add(Some(block), "rows without a side page");
                }
            } else if link <= block {
                let what = "link to a side page leads backwards";
                self.report.add(Some(block), what);
            } else if link >= self.store.block_count()? {
                self.report.add(Some(block), "side page beyond the end");
            } else if !self.visit(link) {
                self.report
                    .add(Some(link), "a side page is in use elsewhere");
            } else {
                let found = self
                    .store
                    .read(link, |page| check_side(page, link, list, block))?;
                self.report.record_damage(found)?;
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
            self.store.check_interrupts()?;
            let head = self
                .store
                .read(block, |page| PageHeader::read(page, block))?;
            match self.report.record_damage(head)? {
                // The exact list passes over such pages.
                Some(head) if head.closed && head.count == 0 && head.list == EXACT_LIST => {}
                Some(head) if head.kind != PageKind::Empty => {
                    self.report.orphan_pages += 1;
                    self.report.add(Some(block), "nothing leads to the page");
                }
                _ => self.report.orphan_pages += 1,
            }
        }
        Ok(())
    }

    /// Fills the window with the addresses from a block of the table on.
    fn gather(&mut self, from: u32) -> Result<(), Error> {
        self.window.start(from);
        let store = self.store;
        for (i, &(block, list)) in self.postings.iter().enumerate() {
            store.check_interrupts()?;
            if let Some(&(later, _)) = self.postings.get(i + PREFETCH_PAGES as usize) {
                store.prefetch(later);
            }
            let (layout, window) = (self.metapage.layout(list)?, &mut self.window);
            let read = store.read(block, |page| {
                let head = read_header(page, block, list, &layout)?;
                let rows = (0..usize::from(head.count)).map(|i| (i, layout.tid(page, i)));
                let rows = rows.filter(|(_, tid)| tid.offset != 0);
                rows.for_each(|(i, tid)| window.add(TidLocation::new(tid, block, i)));
                Ok::<(), Error>(())
            })?;
            self.report.record_damage(read)?;
        }
        Ok(())
    }

    /// Reports the addresses of the window that are there more than once. While rows move, they may be in the exact list and in a
    /// list.
    fn report_duplicates(&mut self) {
        let window = std::mem::take(&mut self.window);
        let exact_list = self.metapage.exact_list();
        let is_exact = |row: &TidLocation| {
            let (block, _) = row.place();
            let at = self.postings.partition_point(|(other, _)| *other < block);
            self.postings
                .get(at)
                .is_some_and(|(_, list)| *list == exact_list)
        };
        let may_move = self.metapage.row_moves == RowMoves::Unfinished;
        let wrong = window
            .duplicates()
            .filter(|(first, second)| !may_move || is_exact(first) == is_exact(second));
        let wrong: Vec<TidLocation> = wrong.map(|(_, second)| *second).collect();
        for row in wrong {
            let (block, i) = row.place();
            self.report_row(block, i, row.tid(), "is in the index twice");
        }
        self.window = window;
    }
}
