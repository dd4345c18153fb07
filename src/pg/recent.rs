//! Buffers in which a backend's searches found the pages of an index before.
//!
//! A search reads dozens of pages, and looking each up in the table of buffers costs more than scoring its codes. The server
//! can pin a buffer by its number instead, if it still holds the page ([`pg_sys::ReadRecentBuffer`], bufmgr.c); otherwise the
//! page is looked up as ever. So what is remembered here need not be right, and nobody has to be told of changes.

use crate::pg::compat::Locator;
use crate::pg::relation::Index;
use pgrx::pg_sys;
use std::cell::RefCell;
use std::rc::Rc;

/// Indexes whose buffers are remembered; the least recently used go first.
const INDEXES: usize = 8;
/// Pages of an index that are remembered: 4 bytes each.
const PAGES: usize = 1 << 20;

/// Buffer by block number, 0 if unknown.
type Buffers = Rc<RefCell<Vec<pg_sys::Buffer>>>;

thread_local! {
    /// Most recently used last.
    static REMEMBERED: RefCell<Vec<(Locator, Buffers)>> = const { RefCell::new(Vec::new()) };
}

/// The buffers of one index's main fork.
pub struct Recent {
    file: Locator,
    buffers: Buffers,
}

impl Recent {
    /// What is remembered of the file that the index has now.
    pub fn of(index: Index) -> Self {
        let file = Locator::of(index);
        let buffers = REMEMBERED.with_borrow_mut(|all| {
            let place = all.iter().position(|(of, _)| of.same(&file));
            let entry = match place {
                Some(place) => all.remove(place),
                None => (file, Buffers::default()),
            };
            if all.len() >= INDEXES {
                all.remove(0);
            }
            let buffers = entry.1.clone();
            all.push(entry);
            buffers
        });
        Self { file, buffers }
    }

    /// Whether the page was found before.
    pub fn knows(&self, block: u32) -> bool {
        self.buffer(block) != 0
    }

    /// Asks the processor to bring the page into its cache, if it was found before.
    pub fn warm(&self, block: u32) {
        let buffer = self.buffer(block);
        if buffer > 0 {
            // SAFETY: the number of a shared buffer, which stays where it is while the server runs.
            prefetch_page(unsafe { pg_sys::BufferGetBlock(buffer) }.cast());
        }
    }

    fn buffer(&self, block: u32) -> pg_sys::Buffer {
        let buffers = self.buffers.borrow();
        buffers.get(block as usize).copied().unwrap_or(0)
    }

    /// Pins the buffer that holds the page: where it was, or where `look_up` finds it.
    pub fn read(
        &self,
        index: Index,
        block: u32,
        look_up: impl FnOnce() -> pg_sys::Buffer,
    ) -> pg_sys::Buffer {
        let buffer = self.buffer(block);
        if buffer != 0 && self.file.pin(block, buffer) {
            crate::pg::compat::count_hit(index);
            return buffer;
        }
        let found = look_up();
        let mut buffers = self.buffers.borrow_mut();
        let place = block as usize;
        if place >= buffers.len() && place < PAGES {
            buffers.resize((place + 1).next_power_of_two().min(PAGES), 0);
        }
        if let Some(known) = buffers.get_mut(place) {
            *known = found;
        }
        found
    }
}

/// Asks for all lines of a page. Nothing is read: the page may be anybody's, or change meanwhile.
fn prefetch_page(page: *const i8) {
    #[cfg(target_arch = "x86_64")]
    for line in (0..pg_sys::BLCKSZ as usize).step_by(64) {
        // SAFETY: a hint that has no effect on what the program does, wherever it points to.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T1>(page.wrapping_add(line));
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = page;
}
