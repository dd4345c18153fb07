//! Buffers in which a backend's searches found the pages of a relation before.
//!
//! A search reads dozens of pages of its index and about as many of its table, and looking each up in the table of buffers
//! costs more than scoring its codes. The server can pin a buffer by its number instead, if it still holds the page
//! ([`pg_sys::ReadRecentBuffer`], bufmgr.c); otherwise the page is looked up as ever. So what is remembered here need not be
//! right, and nobody has to be told of changes. Knowing where a page will be found also lets the processor fetch it in time.

use crate::pg::compat::{Locator, count_hit};
use distillvq_kernels::prefetch;
use pgrx::pg_sys;
use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

/// Relations whose buffers are remembered; the least recently used go first.
const RELATIONS: usize = 8;
/// Places for the pages of a relation at the most, 4 bytes each; pages of larger ones share them.
const PLACES: usize = 1 << 18;

/// Buffer by block number modulo the length (a power of two), 0 if unknown.
type Buffers = Rc<RefCell<Vec<pg_sys::Buffer>>>;

thread_local! {
    /// Most recently used last.
    static REMEMBERED: RefCell<Vec<(Locator, Buffers)>> = const { RefCell::new(Vec::new()) };
}

/// The buffers of one relation's main fork. Copies are of the same ones.
#[derive(Clone)]
pub struct RecentBuffers {
    file: Locator,
    buffers: Buffers,
}

impl RecentBuffers {
    /// What is remembered of the file that the relation has now.
    pub fn of(relation: &pg_sys::RelationData) -> Self {
        let file = Locator::of(relation);
        let buffers = REMEMBERED.with_borrow_mut(|all| {
            let place = all.iter().position(|(of, _)| of.same(&file));
            let entry = match place {
                Some(place) => all.remove(place),
                None => (file, Buffers::default()),
            };
            if all.len() >= RELATIONS {
                all.remove(0);
            }
            let buffers = entry.1.clone();
            all.push(entry);
            buffers
        });
        Self { file, buffers }
    }

    /// Whether the page was perhaps found before.
    pub fn contains(&self, block: u32) -> bool {
        self.buffer(block) != 0
    }

    /// Asks the processor to bring parts of the page into its cache, if it was found before.
    pub fn prefetch_cache_lines(&self, block: u32, parts: &[Range<usize>]) {
        if let Some(page) = self.page(block) {
            self.warm_descriptor(block);
            for part in parts {
                prefetch(page.wrapping_add(part.start), part.len());
            }
        }
    }

    /// As [`RecentBuffers::prefetch_cache_lines`], for what leads to a row: the buffer's descriptor, the page's header and the row's line pointer.
    pub fn prefetch_line_pointer(&self, block: u32, offset: u16) {
        let Some(page) = self.page(block) else { return };
        self.warm_descriptor(block);
        prefetch(page, 1);
        prefetch(line_pointer(page, offset), 1);
    }

    /// As [`RecentBuffers::prefetch_cache_lines`], for the buffer's descriptor, which every pin and lock changes.
    fn warm_descriptor(&self, block: u32) {
        // SAFETY: descriptors lie one after the other (buf_internals.h), and this only computes where.
        let descriptor = unsafe { pg_sys::BufferDescriptors }.wrapping_add(self.index(block));
        prefetch(descriptor, 1);
    }

    /// As [`RecentBuffers::prefetch_cache_lines`], for the row that the line pointer leads to.
    pub fn warm_row(&self, block: u32, offset: u16) {
        const USUAL_ROWS: usize = pg_sys::BLCKSZ as usize / 4;
        let Some(page) = self.page(block) else { return };
        let pointer = line_pointer(page, offset);
        if usize::from(offset) * size_of::<u32>() < pg_sys::BLCKSZ as usize / 2 {
            // SAFETY: within a shared buffer. Whatever it holds by now, it tells but where to look early (itemid.h).
            let bits = unsafe { pointer.read_volatile() };
            let (start, length) = (bits & 0x7fff, bits >> 17);
            prefetch(
                page.wrapping_add(start as usize),
                (length as usize).min(USUAL_ROWS),
            );
        }
    }

    /// The page's place in shared buffers, if it was found there before.
    fn page(&self, block: u32) -> Option<*const i8> {
        let buffer = self.buffer(block);
        if buffer <= 0 {
            return None;
        }
        // SAFETY: the number of a shared buffer, which stays where it is while the server runs.
        Some(
            unsafe { pg_sys::BufferGetBlock(buffer) }
                .cast_const()
                .cast(),
        )
    }

    /// The number of the buffer's descriptor.
    fn index(&self, block: u32) -> usize {
        (self.buffer(block) - 1).max(0) as usize
    }

    fn buffer(&self, block: u32) -> pg_sys::Buffer {
        let buffers = self.buffers.borrow();
        let block = block as usize;
        // Only those of very large relations share places.
        let place = match buffers.len() {
            PLACES => block & (PLACES - 1),
            _ => block,
        };
        buffers.get(place).copied().unwrap_or(0)
    }

    /// Pins the buffer in which the page was found before, if it is still there.
    pub fn pin(&self, relation: &pg_sys::RelationData, block: u32) -> Option<pg_sys::Buffer> {
        self.hit(relation, block, Locator::pin)
    }

    /// As [`RecentBuffers::pin`], and locks the buffer for reading.
    pub fn pin_shared(
        &self,
        relation: &pg_sys::RelationData,
        block: u32,
    ) -> Option<pg_sys::Buffer> {
        self.hit(relation, block, Locator::pin_shared)
    }

    fn hit(
        &self,
        relation: &pg_sys::RelationData,
        block: u32,
        pin: impl FnOnce(&Locator, u32, pg_sys::Buffer) -> bool,
    ) -> Option<pg_sys::Buffer> {
        let buffer = self.buffer(block);
        if buffer == 0 || !pin(&self.file, block, buffer) {
            return None;
        }
        count_hit(relation);
        Some(buffer)
    }

    /// Remembers where a page was found.
    pub fn remember(&self, block: u32, buffer: pg_sys::Buffer) {
        let mut buffers = self.buffers.borrow_mut();
        let wanted = (block as usize + 1).min(PLACES).next_power_of_two();
        if wanted > buffers.len() {
            buffers.resize(wanted, 0);
        }
        let place = block as usize & (buffers.len() - 1);
        if let Some(known) = buffers.get_mut(place) {
            *known = buffer;
        }
    }

    /// Pins the buffer that holds the page: where it was, or where `look_up` finds it.
    pub fn read(
        &self,
        relation: &pg_sys::RelationData,
        block: u32,
        look_up: impl FnOnce() -> pg_sys::Buffer,
    ) -> pg_sys::Buffer {
        self.pin(relation, block).unwrap_or_else(|| {
            let found = look_up();
            self.remember(block, found);
            found
        })
    }
}

/// Where a page keeps the line pointer of a row (bufpage.h): behind its header.
fn line_pointer(page: *const i8, offset: u16) -> *const u32 {
    const HEADER: usize = std::mem::offset_of!(pg_sys::PageHeaderData, pd_linp);
    let place = usize::from(offset).saturating_sub(1) * size_of::<u32>();
    page.wrapping_add(HEADER + place).cast()
}
