//! Verification of the structure of an index.

use crate::Tid;
use crate::chain;
use crate::error::Error;
use crate::meta::{Entry, Meta, load_model, read_directory};
use crate::page::{Head, Kind, Layout, NO_BLOCK};
use crate::posting::{check_refine, open};
use crate::store::PageStore;
use crate::tidset::TidSet;
use std::fmt;

/// A violation of the format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The page.
    pub block: u32,
    /// What is wrong with it.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "block {}: {}", self.block, self.what)
    }
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// Violations, at most [`CheckReport::MAX_PROBLEMS`]; empty means sound.
    pub problems: Vec<Problem>,
    /// Rows of each list; the last entry is the exact list.
    pub rows: Vec<u64>,
    /// Posting pages in chains.
    pub posting_pages: u32,
    /// Pages that belong to nothing: left by a crash, harmless.
    pub orphan_pages: u32,
}

impl CheckReport {
    /// Violations reported at most.
    pub const MAX_PROBLEMS: usize = 100;

    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.problems.is_empty()
    }

    /// Rows of all lists.
    pub fn total_rows(&self) -> u64 {
        self.rows.iter().sum()
    }

    fn add(&mut self, block: u32, what: impl Into<String>) {
        if self.problems.len() < CheckReport::MAX_PROBLEMS {
            let what = what.into();
            self.problems.push(Problem { block, what });
        }
    }

    /// Turns damage into a problem; passes other errors on.
    fn note<T>(&mut self, result: Result<T, Error>) -> Result<Option<T>, Error> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(Error::Damaged { block, what }) => {
                self.add(block, what);
                Ok(None)
            }
            Err(Error::Model(error)) => {
                self.add(0, error.to_string());
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

/// Verifies metapage, model, directory and all chains. Damage is in the report; errors are anything else, as
/// [`Error::NotAnIndex`] or a failure of the store. Inserts may go on meanwhile; a vacuum or a replacement of the student
/// must not.
pub fn check<S: PageStore>(store: &S) -> Result<CheckReport, Error> {
    let mut report = CheckReport::default();
    let Some(mut meta) = report.note(Meta::read(store))? else {
        return Ok(report);
    };
    let model = load_model(store, &mut meta);
    report.note(model)?;
    let directory = read_directory(store, &meta);
    let Some(directory) = report.note(directory)? else {
        return Ok(report);
    };
    let blocks = store.blocks()?;
    let mut walk = Walk {
        store,
        visited: vec![false; blocks as usize],
        tids: TidSet::default(),
        report,
    };
    walk.before_postings(&meta)?;
    for (list, entry) in (0u32..).zip(&directory) {
        let layout = meta.layout(list)?;
        let rows = walk.chain(list, &layout, entry)?;
        walk.report.rows.push(rows);
    }
    walk.orphans()?;
    Ok(walk.report)
}

/// A walk over all chains.
struct Walk<'a, S> {
    store: &'a S,
    /// Blocks that existed when the walk began, and whether they were met.
    visited: Vec<bool>,
    tids: TidSet,
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
                self.report.add(from, "link leads beyond the end");
                return Ok(rows);
            }
            if !self.visit(block) {
                let what = format!("list {list} has a page that is in use elsewhere");
                self.report.add(block, what);
                return Ok(rows);
            }
            let store = self.store;
            let page = store.read(block, |page| self.page(page, block, list, layout))?;
            let Some((head, found)) = self.report.note(page)? else {
                return Ok(rows);
            };
            self.report.posting_pages += 1;
            rows += found;
            self.refine_pages(block, list, &head, layout)?;
            hint_met |= block == entry.hint;
            (from, block) = (block, head.next);
        }
        if !hint_met {
            let what = format!("the insert hint of list {list} is no page of its chain");
            self.report.add(entry.hint, what);
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
            let what = if tid.offset == 0 {
                "has no address"
            } else if !self.tids.insert(tid) {
                "is in the index twice"
            } else if layout.norm(page, i).is_some_and(|norm| !norm.is_finite()) {
                "has no finite norm"
            } else {
                continue;
            };
            let what = format!("row {i} ({}, {}) {what}", tid.block, tid.offset);
            self.report.add(block, what);
        }
        Ok((head, rows))
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
                    self.report.add(block, "rows without a refine page");
                }
            } else if link >= self.store.blocks()? {
                self.report.add(block, "refine page beyond the end");
            } else if !self.visit(link) {
                self.report.add(link, "a refine page is in use elsewhere");
            } else {
                let found = self
                    .store
                    .read(link, |page| check_refine(page, link, list, block))?;
                self.report.note(found)?;
            }
        }
        Ok(())
    }

    /// Counts the pages that nothing leads to.
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
            self.report.note(head)?;
        }
        Ok(())
    }
}
