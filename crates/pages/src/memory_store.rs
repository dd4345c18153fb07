//! A page store in memory, for tests: every atomic change is recorded, so that a crash after any of them can be played.

use crate::error::Error;
use crate::page::PAGE_SIZE;
use crate::store::{MAX_PAGES_IN_WRITE, PageStore, PageWrite, check_lock};
use std::cell::Cell;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};

/// A page's bytes.
pub type Page = Box<[u8]>;

/// Something that reached the store.
#[derive(Clone, Debug)]
pub enum StoreChange {
    /// An all-zero page was appended.
    Extend,
    /// These pages got these bytes, all at once.
    Commit(Vec<(u32, Page)>),
    /// A page got these bytes by a hint, which a crash may take away.
    Hint(u32, Page),
}

thread_local! {
    /// Locks this thread holds, to catch interrupts under a lock and nested reads.
    static LOCKS: Cell<usize> = const { Cell::new(0) };
}

struct Slot {
    bytes: RwLock<Page>,
    locked: Mutex<bool>,
    unlocked: Condvar,
}

impl Slot {
    fn new(bytes: Page) -> Arc<Slot> {
        Arc::new(Slot {
            bytes: RwLock::new(bytes),
            locked: Mutex::new(false),
            unlocked: Condvar::new(),
        })
    }

    fn lock(&self) {
        let mut locked = guard(&self.locked);
        while *locked {
            locked = self
                .unlocked
                .wait(locked)
                .unwrap_or_else(PoisonError::into_inner);
        }
        *locked = true;
        LOCKS.set(LOCKS.get() + 1);
    }

    /// Locks the page if nobody has.
    fn try_lock(&self) -> bool {
        let mut locked = guard(&self.locked);
        let is_free = !std::mem::replace(&mut *locked, true);
        LOCKS.set(LOCKS.get() + usize::from(is_free));
        is_free
    }

    fn unlock(&self) {
        *guard(&self.locked) = false;
        self.unlocked.notify_one();
        LOCKS.set(LOCKS.get() - 1);
    }
}

/// Pages in memory. Threads may share it.
#[derive(Default)]
pub struct MemoryStore {
    pages: RwLock<Vec<Arc<Slot>>>,
    history: Mutex<Vec<StoreChange>>,
    recording: bool,
}

fn guard<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MemoryStore {
    /// An empty store which does not record its history.
    pub fn new() -> Self {
        MemoryStore::default()
    }

    /// An empty store which records its history.
    pub fn recording() -> Self {
        MemoryStore {
            recording: true,
            ..MemoryStore::default()
        }
    }

    /// Another store with the same pages, which does not record its history.
    pub fn copy(&self) -> Self {
        let pages = self.pages.read().unwrap_or_else(PoisonError::into_inner);
        let copy = |slot: &Arc<Slot>| {
            Slot::new(
                slot.bytes
                    .read()
                    .unwrap_or_else(PoisonError::into_inner)
                    .clone(),
            )
        };
        MemoryStore {
            pages: RwLock::new(pages.iter().map(copy).collect()),
            ..MemoryStore::default()
        }
    }

    /// Plays a change of another store's history.
    pub fn apply(&self, change: &StoreChange) {
        match change {
            StoreChange::Extend => {
                self.append();
            }
            StoreChange::Commit(pages) => pages.iter().for_each(|(block, page)| {
                self.mutate(*block, |bytes| bytes.copy_from_slice(page));
            }),
            StoreChange::Hint(block, page) => {
                self.mutate(*block, |bytes| bytes.copy_from_slice(page));
            }
        }
    }

    /// All changes so far, oldest first; empty unless recording.
    pub fn history(&self) -> Vec<StoreChange> {
        guard(&self.history).clone()
    }

    /// Changes a page behind everybody's back: damage for tests.
    pub fn mutate(&self, block: u32, change: impl FnOnce(&mut [u8])) {
        if let Ok(slot) = self.slot(block) {
            change(&mut slot.bytes.write().unwrap_or_else(PoisonError::into_inner));
        }
    }

    fn record(&self, change: impl FnOnce() -> StoreChange) {
        if self.recording {
            guard(&self.history).push(change());
        }
    }

    fn append(&self) -> u32 {
        let mut pages = self.pages.write().unwrap_or_else(PoisonError::into_inner);
        pages.push(Slot::new(vec![0; PAGE_SIZE].into()));
        self.record(|| StoreChange::Extend);
        pages.len() as u32 - 1
    }

    fn slot(&self, block: u32) -> Result<Arc<Slot>, Error> {
        let pages = self.pages.read().unwrap_or_else(PoisonError::into_inner);
        let slot = pages.get(block as usize).cloned();
        slot.ok_or_else(|| Error::Store(format!("block {block} does not exist")))
    }
}

impl PageStore for MemoryStore {
    type Write<'a> = MemoryWrite<'a>;

    fn block_count(&self) -> Result<u32, Error> {
        let pages = self.pages.read().unwrap_or_else(PoisonError::into_inner);
        Ok(pages.len() as u32)
    }

    fn read<T>(&self, block: u32, f: impl FnOnce(&[u8]) -> T) -> Result<T, Error> {
        assert_eq!(LOCKS.get(), 0, "a page is read under another lock");
        let slot = self.slot(block)?;
        let bytes = slot.bytes.read().unwrap_or_else(PoisonError::into_inner);
        LOCKS.set(1);
        let seen = f(&bytes);
        LOCKS.set(0);
        Ok(seen)
    }

    fn write(&self) -> Result<MemoryWrite<'_>, Error> {
        Ok(MemoryWrite {
            store: self,
            pages: Vec::new(),
        })
    }

    fn try_hint<T>(
        &self,
        block: u32,
        change: impl FnOnce(&mut [u8]) -> (T, bool),
    ) -> Result<Option<T>, Error> {
        assert_eq!(LOCKS.get(), 0, "a hint is written under another lock");
        let slot = self.slot(block)?;
        if !slot.try_lock() {
            return Ok(None);
        }
        let mut page = slot
            .bytes
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let (value, is_changed) = change(&mut page);
        if is_changed {
            self.mutate(block, |bytes| bytes.copy_from_slice(&page));
            self.record(|| StoreChange::Hint(block, page));
        }
        slot.unlock();
        Ok(Some(value))
    }

    fn check_interrupts(&self) -> Result<(), Error> {
        assert_eq!(LOCKS.get(), 0, "interrupts are served under a lock");
        Ok(())
    }
}

/// An atomic change of a [`MemoryStore`].
pub struct MemoryWrite<'a> {
    store: &'a MemoryStore,
    pages: Vec<(u32, Arc<Slot>, Page)>,
}

impl PageWrite for MemoryWrite<'_> {
    fn lock(&mut self, block: u32) -> Result<usize, Error> {
        assert!(self.pages.len() < MAX_PAGES_IN_WRITE, "too many pages");
        check_lock(
            self.pages.last().map(|page| page.0),
            block,
            self.store.block_count()?,
        )?;
        let slot = self.store.slot(block)?;
        slot.lock();
        let copy = slot
            .bytes
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        self.pages.push((block, slot, copy));
        Ok(self.pages.len() - 1)
    }

    fn extend(&mut self) -> Result<(u32, usize), Error> {
        let block = self.store.append();
        Ok((block, self.lock(block)?))
    }

    fn page(&mut self, slot: usize) -> &mut [u8] {
        self.pages
            .get_mut(slot)
            .map_or(&mut [], |(_, _, copy)| copy)
    }

    fn commit(mut self) -> Result<(), Error> {
        // The history's lock makes the change atomic for a replay.
        let mut history = guard(&self.store.history);
        for (_, slot, copy) in &mut self.pages {
            slot.bytes
                .write()
                .unwrap_or_else(PoisonError::into_inner)
                .copy_from_slice(copy);
        }
        if self.store.recording {
            let pages = self.pages.iter().map(|(b, _, page)| (*b, page.clone()));
            history.push(StoreChange::Commit(pages.collect()));
        }
        Ok(())
    }
}

impl Drop for MemoryWrite<'_> {
    fn drop(&mut self) {
        self.pages.iter().for_each(|(_, slot, _)| slot.unlock());
    }
}
