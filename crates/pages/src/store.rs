//! Where pages live: the border between the index and a buffer manager.
//!
//! # Rules
//! * [`PageStore::read`] holds a share lock on one page while `f` runs; no two pages are ever read-locked at once.
//! * A [`PageWrite`] is one atomic change of at most [`MAX_PAGES_IN_WRITE`] pages: after a crash either all of it is there
//!   or nothing. Pages are locked in the order of their numbers ([`check_lock`]), so writers cannot deadlock.
//! * [`PageStore::check_interrupts`] is called between pages with nothing locked.

use crate::error::Error;
use std::ops::Range;

/// Pages that one atomic change may touch (the limit of a generic WAL record).
pub const MAX_PAGES_IN_WRITE: usize = 4;

/// A numbered sequence of pages of [`crate::PAGE_SIZE`] bytes.
pub trait PageStore {
    /// One atomic change under way.
    type Write<'a>: PageWrite
    where
        Self: 'a;

    /// Number of pages. It may grow at any time.
    fn block_count(&self) -> Result<u32, Error>;

    /// Shows a whole page to `f`, under a share lock. `f` must be quick and may not touch the store.
    fn read<T>(&self, block: u32, f: impl FnOnce(&[u8]) -> T) -> Result<T, Error>;

    /// Begins an atomic change.
    fn write(&self) -> Result<Self::Write<'_>, Error>;

    /// Changes a page without making that durable: a crash may take the change away, or leave a part of it. `change` tells whether
    /// it has changed anything; it must be quick and may not touch the store. Returns `None`, without waiting, if the page is
    /// locked. A store that has no such changes says that of all pages.
    fn try_hint<T>(
        &self,
        _block: u32,
        _change: impl FnOnce(&mut [u8]) -> (T, bool),
    ) -> Result<Option<T>, Error> {
        Ok(None)
    }

    /// Hints that the page will be read soon: it should come from disk.
    fn prefetch(&self, _block: u32) {}

    /// Hints that these parts of the page will be read within microseconds: they should come into the processor's cache.
    fn prefetch_cache_lines(&self, _block: u32, _parts: &[Range<usize>]) {}

    /// Gives the host a chance to cancel, with nothing locked.
    fn check_interrupts(&self) -> Result<(), Error> {
        Ok(())
    }
}

/// An atomic change of at most [`MAX_PAGES_IN_WRITE`] pages. Dropping it without [`PageWrite::commit`] changes nothing
/// (a page taken by [`PageWrite::extend`] may stay behind, all zero).
pub trait PageWrite {
    /// Locks a page exclusively and returns its slot in this change, if [`check_lock`] allows it.
    fn lock(&mut self, block: u32) -> Result<usize, Error>;

    /// As [`PageWrite::lock`], for a page that hints may have changed: the whole page becomes durable, not the difference.
    fn lock_whole(&mut self, block: u32) -> Result<usize, Error> {
        self.lock(block)
    }

    /// Appends a page, all zero after PostgreSQL's header, locked. Returns its block number, which is greater than that
    /// of every page seen before, and its slot.
    fn extend(&mut self) -> Result<(u32, usize), Error>;

    /// The bytes of a page of this change, as changed so far: [`crate::PAGE_SIZE`] of them, of which the first
    /// [`crate::PG_HEADER_SIZE`] belong to PostgreSQL. An unknown slot gives an empty slice.
    fn page(&mut self, slot: usize) -> &mut [u8];

    /// Makes the change durable and visible, and unlocks.
    fn commit(self) -> Result<(), Error>;
}

/// Checks that a change may wait for the lock of a page: the page exists, and comes behind the last one that the change has
/// locked. In this order nobody waits for a lock of their own or in a circle, whatever a damaged link says.
///
/// # Errors
/// [`Error::Damaged`] with the page that was locked last, which must have named this one.
pub fn check_lock(last: Option<u32>, block: u32, blocks: u32) -> Result<(), Error> {
    let from = last.unwrap_or(block);
    if last.is_some_and(|last| block <= last) {
        Err(Error::damaged(from, "link leads backwards"))
    } else if block >= blocks {
        Err(Error::damaged(from, "link leads beyond the end"))
    } else {
        Ok(())
    }
}

impl<T: PageStore> PageStore for &T {
    type Write<'a>
        = T::Write<'a>
    where
        Self: 'a;

    fn block_count(&self) -> Result<u32, Error> {
        T::block_count(self)
    }

    fn read<R>(&self, block: u32, f: impl FnOnce(&[u8]) -> R) -> Result<R, Error> {
        T::read(self, block, f)
    }

    fn write(&self) -> Result<Self::Write<'_>, Error> {
        T::write(self)
    }

    fn try_hint<R>(
        &self,
        block: u32,
        change: impl FnOnce(&mut [u8]) -> (R, bool),
    ) -> Result<Option<R>, Error> {
        T::try_hint(self, block, change)
    }

    fn prefetch(&self, block: u32) {
        T::prefetch(self, block);
    }

    fn prefetch_cache_lines(&self, block: u32, parts: &[Range<usize>]) {
        T::prefetch_cache_lines(self, block, parts);
    }

    fn check_interrupts(&self) -> Result<(), Error> {
        T::check_interrupts(self)
    }
}
