//! Memory: limits from settings, temporary memory contexts, and the C library's allocator.

use crate::pg::server::{is_autovacuum, setting};
use pgrx::pg_sys;

/// `maintenance_work_mem` in bytes, or in autovacuum `autovacuum_work_mem` if that is set.
pub fn maintenance_bytes() -> usize {
    let of_autovacuum = || setting(c"autovacuum_work_mem")?.parse().ok();
    let of_autovacuum: Option<i32> = is_autovacuum().then(of_autovacuum).flatten();
    // SAFETY: an integer that only this thread changes.
    let kilobytes = unsafe { pg_sys::maintenance_work_mem };
    let kilobytes = of_autovacuum.filter(|it| *it >= 0).unwrap_or(kilobytes);
    kilobytes.max(1024) as usize * 1024
}

/// `work_mem` times `hash_mem_multiplier` in bytes.
pub fn hash_memory() -> usize {
    // SAFETY: computes it from settings that only this thread changes.
    unsafe { pg_sys::get_hash_memory_limit() }
}

/// A memory context for what PostgreSQL's functions leave behind: a child of the one that was current when it was made.
pub struct TemporaryMemory(pg_sys::MemoryContext);

impl TemporaryMemory {
    /// An empty one.
    pub fn new() -> Self {
        let name = c"distillvq temporary".as_ptr();
        let (least, first, most) = (0, 8 * 1024, 8 * 1024 * 1024);
        // SAFETY: deleted in Drop, or with its parent after an error.
        Self(unsafe {
            let parent = pg_sys::CurrentMemoryContext;
            pg_sys::AllocSetContextCreateInternal(parent, name, least, first, most)
        })
    }

    /// Runs `work` in it, and frees what that has allocated there.
    pub fn run<T>(&mut self, work: impl FnOnce() -> T) -> T {
        // SAFETY: a live context; an error that unwinds leaves it to its parent.
        unsafe {
            let previous = pg_sys::MemoryContextSwitchTo(self.0);
            let result = work();
            pg_sys::MemoryContextSwitchTo(previous);
            pg_sys::MemoryContextReset(self.0);
            result
        }
    }
}

impl Drop for TemporaryMemory {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: made in `new`, deleted once.
            unsafe { pg_sys::MemoryContextDelete(self.0) };
        }
    }
}

/// Runs `work` in a memory context of its own, so that what PostgreSQL's functions leave behind is freed at once.
pub fn with_temporary_memory<T>(work: impl FnOnce() -> T) -> T {
    TemporaryMemory::new().run(work)
}

/// Gives the C library's unused memory back to the system: a backend may live long after the one training or decoding
/// that needed it.
pub fn trim_malloc() {
    // SAFETY: touches only the allocator's own free memory.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    unsafe {
        libc::malloc_trim(0);
    }
}
