//! Memory: limits from settings, temporary memory contexts, and the C library's allocator.

use pgrx::pg_sys;

/// `maintenance_work_mem` in bytes.
pub fn maintenance_bytes() -> usize {
    // SAFETY: an integer that only this thread changes.
    let kilobytes = unsafe { pg_sys::maintenance_work_mem };
    kilobytes.max(1024) as usize * 1024
}

/// `work_mem` times `hash_mem_multiplier` in bytes.
pub fn hash_memory() -> usize {
    // SAFETY: computes it from settings that only this thread changes.
    unsafe { pg_sys::get_hash_memory_limit() }
}

/// Runs `work` in a memory context of its own, so that what PostgreSQL's functions leave behind is freed at once.
pub fn with_temporary_memory<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: the new context is a child of the current one: an error that unwinds leaves it to its parent.
    unsafe {
        let parent = pg_sys::CurrentMemoryContext;
        let name = c"distillvq temporary".as_ptr();
        let (least, first, most) = (0, 8 * 1024, 8 * 1024 * 1024);
        let own = pg_sys::AllocSetContextCreateInternal(parent, name, least, first, most);
        let previous = pg_sys::MemoryContextSwitchTo(own);
        let result = work();
        pg_sys::MemoryContextSwitchTo(previous);
        pg_sys::MemoryContextDelete(own);
        result
    }
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
