//! The page store over shared buffers: reads under a share lock, changes through generic WAL or, during a build, unlogged.
//!
//! A change holds its pages' exclusive locks from [`PageWrite::lock`] to its end. [`PageWrite::commit`] consumes it and
//! makes it visible and durable in one step; dropping it changes nothing. While a PostgreSQL error unwinds, nothing is
//! released here: the transaction's abort does that.

use crate::pg::compat::extend_locked;
use crate::pg::recent_buffers::RecentBuffers;
use crate::pg::relation::Index;
use distillvq_pages::{Error, PAGE_SIZE, PageStore, PageWrite, check_lock};
use pgrx::pg_sys;
use std::cell::Cell;

/// Which file of the relation, and how changes reach the WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Main fork, each change one generic WAL record.
    Logged,
    /// Main fork during a build: no WAL until [`RelationStore::log_all`].
    Build,
    /// Init fork of an unlogged index: no WAL until [`RelationStore::log_all`].
    Init,
}

/// The pages of an index relation. Copies share what is known of its buffers.
#[derive(Clone)]
pub struct RelationStore {
    index: Index,
    mode: Mode,
    /// Ring buffer for walks over the whole index, or null.
    strategy: pg_sys::BufferAccessStrategy,
    /// Whether VACUUM's cost-based delay applies between pages.
    vacuum: bool,
    /// Where searches found pages before; none for other uses.
    recent: Option<RecentBuffers>,
    /// Pages of the fork when it was last asked for.
    known: Cell<u32>,
}

const _: () = assert!(
    PAGE_SIZE == pg_sys::BLCKSZ as usize,
    "the page format is made for 8 KB blocks"
);

/// Index-only metadata page space that the header of a PostgreSQL page leaves: no hole, so that everything is logged.
const NO_HOLE: u16 = PAGE_SIZE as u16;

impl RelationStore {
    /// The store for everyday changes.
    pub fn new(index: Index) -> Self {
        Self {
            index,
            mode: Mode::Logged,
            strategy: std::ptr::null_mut(),
            vacuum: false,
            recent: None,
            known: Cell::new(0),
        }
    }

    /// The store for searches, which come back to the same pages.
    pub fn for_search(index: Index) -> Self {
        Self {
            recent: Some(RecentBuffers::of(index.data())),
            ..Self::new(index)
        }
    }

    /// The store for VACUUM's walks over all pages, with its buffer ring and its cost-based delay.
    pub fn for_vacuum(index: Index, strategy: pg_sys::BufferAccessStrategy) -> Self {
        Self {
            strategy,
            vacuum: true,
            ..Self::new(index)
        }
    }

    /// The store for a build, which is logged once at its end.
    pub fn for_build(index: Index) -> Self {
        Self {
            mode: Mode::Build,
            ..Self::new(index)
        }
    }

    /// The store over the init fork of an unlogged index.
    pub fn for_init_fork(index: Index) -> Self {
        Self {
            mode: Mode::Init,
            ..Self::new(index)
        }
    }

    fn fork(&self) -> pg_sys::ForkNumber::Type {
        match self.mode {
            Mode::Init => pg_sys::ForkNumber::INIT_FORKNUM,
            _ => pg_sys::ForkNumber::MAIN_FORKNUM,
        }
    }

    /// Number of pages of the fork.
    pub fn block_count(&self) -> u32 {
        // SAFETY: the relation is open for as long as `Index` is used.
        let blocks =
            unsafe { pg_sys::RelationGetNumberOfBlocksInFork(self.index.as_ptr(), self.fork()) };
        self.known.set(blocks);
        blocks
    }

    /// Whether there is such a page. Links are followed to their pages only afterwards, but prefetched as they are found.
    fn has(&self, block: u32) -> bool {
        block < self.known.get() || block < self.block_count()
    }

    /// Logs all pages of a build in one pass, if this relation needs WAL at all (an init fork always does).
    pub fn log_all(&self) {
        if self.mode == Mode::Build && !self.index.needs_wal() {
            return;
        }
        // SAFETY: the relation is open, the range is what it has.
        unsafe {
            pg_sys::log_newpage_range(
                self.index.as_ptr(),
                self.fork(),
                0,
                self.block_count(),
                true,
            )
        };
    }

    /// A pinned buffer with the page.
    fn read_buffer(&self, block: u32) -> pg_sys::Buffer {
        match &self.recent {
            Some(recent) => recent.read(self.index.data(), block, || self.look_up(block)),
            None => self.look_up(block),
        }
    }

    fn look_up(&self, block: u32) -> pg_sys::Buffer {
        let mode = pg_sys::ReadBufferMode::RBM_NORMAL;
        // SAFETY: the relation is open; a block out of range is PostgreSQL's own error.
        unsafe {
            pg_sys::ReadBufferExtended(self.index.as_ptr(), self.fork(), block, mode, self.strategy)
        }
    }
}

/// A pinned and locked buffer, released when dropped (unless an error is unwinding: then the abort does it).
struct Locked(pg_sys::Buffer);

impl Locked {
    fn new(buffer: pg_sys::Buffer, mode: u32) -> Self {
        // SAFETY: the buffer is pinned by the caller and passes into the guard.
        unsafe { pg_sys::LockBuffer(buffer, mode as i32) };
        Self(buffer)
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: pinned and at least share-locked while the guard lives; a page has PAGE_SIZE bytes.
        unsafe { std::slice::from_raw_parts(pg_sys::BufferGetPage(self.0).cast::<u8>(), PAGE_SIZE) }
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: the guard owns one pin and one lock.
            unsafe { pg_sys::UnlockReleaseBuffer(self.0) };
        }
    }
}

impl PageStore for RelationStore {
    type Write<'a> = RelationWrite<'a>;

    fn block_count(&self) -> Result<u32, Error> {
        Ok(self.block_count())
    }

    fn read<T>(&self, block: u32, f: impl FnOnce(&[u8]) -> T) -> Result<T, Error> {
        let known = self.recent.as_ref();
        let page = match known.and_then(|it| it.pin_shared(self.index.data(), block)) {
            Some(buffer) => Locked(buffer),
            None => Locked::new(self.read_buffer(block), pg_sys::BUFFER_LOCK_SHARE),
        };
        Ok(f(page.bytes()))
    }

    fn write(&self) -> Result<RelationWrite<'_>, Error> {
        let wal = match self.mode {
            // SAFETY: the relation is open; the state lives in the current memory context until Finish or Abort.
            Mode::Logged => unsafe { pg_sys::GenericXLogStart(self.index.as_ptr()) },
            _ => std::ptr::null_mut(),
        };
        Ok(RelationWrite {
            store: self,
            wal,
            pages: Vec::with_capacity(4),
        })
    }

    fn try_hint<T>(
        &self,
        block: u32,
        change: impl FnOnce(&mut [u8]) -> (T, bool),
    ) -> Result<Option<T>, Error> {
        if !self.has(block) {
            return Err(Error::damaged(block, "link leads beyond the end"));
        }
        let buffer = self.read_buffer(block);
        // SAFETY: the buffer is pinned, and passes into a guard if it is locked too.
        unsafe {
            if !pg_sys::ConditionalLockBuffer(buffer) {
                pg_sys::ReleaseBuffer(buffer);
                return Ok(None);
            }
        }
        let page = Locked(buffer);
        // SAFETY: pinned and exclusively locked while the guard lives; a page has PAGE_SIZE bytes. A change without WAL of a page
        // that is locked exclusively is what the free space map does.
        unsafe {
            let bytes = std::slice::from_raw_parts_mut(
                pg_sys::BufferGetPage(page.0).cast::<u8>(),
                PAGE_SIZE,
            );
            let (value, is_changed) = change(bytes);
            if is_changed {
                pg_sys::MarkBufferDirtyHint(page.0, false);
            }
            Ok(Some(value))
        }
    }

    fn prefetch(&self, block: u32) {
        // What was found in shared buffers before is most likely still there.
        if self.recent.as_ref().is_some_and(|it| it.contains(block)) {
            return;
        }
        if !self.has(block) {
            return;
        }
        // SAFETY: the relation is open, and the block in range: beyond a missing file it would be an error.
        unsafe { pg_sys::PrefetchBuffer(self.index.as_ptr(), self.fork(), block) };
    }

    fn prefetch_cache_lines(&self, block: u32, parts: &[std::ops::Range<usize>]) {
        if let Some(recent) = &self.recent {
            recent.prefetch_cache_lines(block, parts);
        }
    }

    fn check_interrupts(&self) -> Result<(), Error> {
        if self.vacuum {
            crate::pg::compat::vacuum_delay();
        }
        pgrx::check_for_interrupts!();
        Ok(())
    }
}

/// One atomic change of at most four pages.
pub struct RelationWrite<'a> {
    store: &'a RelationStore,
    /// Null during a build: pages are then changed in place.
    wal: *mut pg_sys::GenericXLogState,
    pages: Vec<(Locked, *mut u8)>,
}

impl RelationWrite<'_> {
    /// Locks a page, of which the log gets the difference or a full image.
    fn lock_page(&mut self, block: u32, full_image: bool) -> Result<usize, Error> {
        // SAFETY: the buffer is pinned.
        let number = |(page, _): &(Locked, _)| unsafe { pg_sys::BufferGetBlockNumber(page.0) };
        check_lock(
            self.pages.last().map(number),
            block,
            self.store.block_count(),
        )?;
        let page = Locked::new(self.store.read_buffer(block), pg_sys::BUFFER_LOCK_EXCLUSIVE);
        // A page that a crash left all zero has not even PostgreSQL's header.
        let fresh = page.bytes()[..16].iter().all(|&byte| byte == 0);
        let slot = self.register(page, full_image || fresh);
        if fresh {
            init_page(self.pages[slot].1.cast());
        }
        Ok(slot)
    }

    /// Registers a locked page and gives its slot.
    fn register(&mut self, page: Locked, full_image: bool) -> usize {
        let flags = if full_image {
            pg_sys::GENERIC_XLOG_FULL_IMAGE as i32
        } else {
            0
        };
        // SAFETY: the buffer is exclusively locked and the WAL state, if any, is live.
        let image = unsafe {
            if self.wal.is_null() {
                pg_sys::BufferGetPage(page.0)
            } else {
                pg_sys::GenericXLogRegisterBuffer(self.wal, page.0, flags)
            }
        };
        self.pages.push((page, image.cast::<u8>()));
        self.pages.len() - 1
    }
}

/// Makes an empty page without a hole between `pd_lower` and `pd_upper`, which generic WAL would not keep.
fn init_page(image: pg_sys::Page) {
    // SAFETY: `image` is a whole page that this change may write.
    unsafe {
        pg_sys::PageInit(image, PAGE_SIZE, 0);
        let header = image.cast::<pg_sys::PageHeaderData>();
        (*header).pd_lower = NO_HOLE;
    }
}

impl PageWrite for RelationWrite<'_> {
    fn lock(&mut self, block: u32) -> Result<usize, Error> {
        self.lock_page(block, false)
    }

    fn lock_whole(&mut self, block: u32) -> Result<usize, Error> {
        self.lock_page(block, true)
    }

    fn extend(&mut self) -> Result<(u32, usize), Error> {
        let store = self.store;
        let (index, fork) = (store.index.as_ptr(), store.fork());
        // SAFETY: the relation is open, and the ring that of the running vacuum, if there is one.
        let (page, block) = unsafe {
            let page = Locked(extend_locked(index, fork, store.strategy));
            let block = pg_sys::BufferGetBlockNumber(page.0);
            (page, block)
        };
        let slot = self.register(page, true);
        init_page(self.pages[slot].1.cast());
        Ok((block, slot))
    }

    fn page(&mut self, slot: usize) -> &mut [u8] {
        let image = self.pages[slot].1;
        // SAFETY: the image is a whole page, exclusively ours until commit or drop.
        unsafe { std::slice::from_raw_parts_mut(image, PAGE_SIZE) }
    }

    fn commit(mut self) -> Result<(), Error> {
        let wal = std::mem::replace(&mut self.wal, std::ptr::null_mut());
        // SAFETY: all registered buffers are exclusively locked; Finish consumes the state.
        unsafe {
            if wal.is_null() {
                self.pages
                    .iter()
                    .for_each(|(page, _)| pg_sys::MarkBufferDirty(page.0));
            } else {
                pg_sys::GenericXLogFinish(wal);
            }
        }
        Ok(())
    }
}

impl Drop for RelationWrite<'_> {
    fn drop(&mut self) {
        if !self.wal.is_null() && !std::thread::panicking() {
            // SAFETY: the state is live: commit takes it away.
            unsafe { pg_sys::GenericXLogAbort(self.wal) };
        }
    }
}
