//! The exact list: rows without codes, which every search compares, and which move into lists once the index is trained.
//!
//! A row is put into its lists before it is removed from the exact list. So a search that reads the exact list to its end before
//! it reads entries of lists misses no row, and sees one that moves meanwhile twice at the most ([`ListSearch::has_duplicates`]).

use super::ListSearch;
use super::probe::{Cursor, Kept};
use crate::Tid;
use crate::error::Error;
use crate::scorer::{BlockFilter, BlockScorer};
use distillvq_kernels::LANES;
use distillvq_pages::{ListEntry, Metapage, NO_BLOCK, PageStore, check_link, read_header};

impl<S: PageStore, B: BlockScorer, F: BlockFilter> ListSearch<S, B, F> {
    /// Appends the TIDs of the exact list that come next and that the filter admits, those of a page; none at its end. To be called
    /// up to there before lists are probed, and again after [`ListSearch::rewind`]: then no row is missed that moves from the exact
    /// list into a list.
    ///
    /// # Errors
    /// [`Error::ModelAdded`] at the end, if the index was untrained and is no more.
    pub fn next_exact(&mut self, out: &mut Vec<Tid>) -> Result<(), Error> {
        let list = self.pages.exact_list();
        let layout = self.pages.layout(list)?;
        let mut blocks = 0;
        let (mut from, mut block) = match self.exact {
            Some(link) => link,
            None => (0, self.pages.directory.entry(&self.store, list)?.first),
        };
        let before = out.len();
        while block != NO_BLOCK && out.len() == before {
            check_link(&self.store, from, block, &mut blocks)?;
            self.store.check_interrupts()?;
            let next = self.store.read(block, |page| {
                let head = read_header(page, block, list, &layout)?;
                let count = usize::from(head.count);
                out.try_reserve(count).map_err(|_| Error::out_of_memory())?;
                for b in 0..count.div_ceil(LANES) {
                    let admitted = self.filter.admit(&layout.block(page, b));
                    let rows = (0..LANES.min(count - b * LANES))
                        .filter(|lane| admitted >> lane & 1 == 1)
                        .map(|lane| layout.tid(page, b * LANES + lane).row());
                    out.extend(rows.filter(|tid| tid.offset != 0));
                }
                Ok::<u32, Error>(head.next)
            })??;
            (from, block) = (block, next);
        }
        self.exact = Some((from, block));
        if out.len() == before {
            self.finish_exact()?;
        }
        Ok(())
    }

    /// What is due at the end of the exact list.
    fn finish_exact(&mut self) -> Result<(), Error> {
        if self.scoring.is_none() && Metapage::read(&self.store)?.lists() > 0 {
            return Err(Error::ModelAdded);
        }
        if std::mem::take(&mut self.is_stale) {
            self.reload_probes()?;
        }
        Ok(())
    }

    /// Reads the entries of the probed lists again, and forgets their scores.
    fn reload_probes(&mut self) -> Result<(), Error> {
        let lists: Vec<u32> = self.probes.iter().map(|probe| probe.list).collect();
        let entries = self.pages.directory.entries_of(&self.store, &lists)?;
        for (probe, ListEntry { first, rows, .. }) in self.probes.iter_mut().zip(entries) {
            (probe.first, probe.rows, probe.kept) = (first, rows, Kept::Untried);
            probe.cursor = if first == NO_BLOCK {
                Cursor::End
            } else {
                Cursor::Start
            };
        }
        self.scores = self.scores.cleared();
        self.update_bound();
        Ok(())
    }

    /// Begins again: all candidates of the probed lists and the rows of the exact list come once more. Scores are kept, unless rows
    /// may move.
    pub fn rewind(&mut self) {
        for probe in &mut self.probes {
            if probe.first != NO_BLOCK {
                probe.cursor = Cursor::Start;
            }
        }
        self.exact = None;
        self.is_stale = self.may_move;
        self.update_bound();
    }
}
