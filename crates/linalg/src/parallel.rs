//! Loops over independent pieces of work.
//!
//! Called from a thread of a rayon pool they run on that pool, otherwise on the calling thread: this crate never starts
//! rayon's global pool, whose threads a caller could not control. How work is cut into pieces never depends on the
//! number of threads, and results come back in order, so sums are the same on any number of threads.

use rayon::prelude::*;

/// Whether this thread belongs to a pool.
fn in_pool() -> bool {
    rayon::current_thread_index().is_some()
}

/// Runs `work` for `0..n` and collects the results in order; the first error ends it.
pub fn map<T: Send, E: Send>(
    n: usize,
    work: impl Fn(usize) -> Result<T, E> + Sync + Send,
) -> Result<Vec<T>, E> {
    if in_pool() {
        (0..n).into_par_iter().map(work).collect()
    } else {
        (0..n).map(work).collect()
    }
}

/// Runs `work(i, item i)` for all items.
pub fn each_mut<T: Send, E: Send>(
    items: &mut [T],
    work: impl Fn(usize, &mut T) -> Result<(), E> + Sync + Send,
) -> Result<(), E> {
    if in_pool() {
        items
            .par_iter_mut()
            .enumerate()
            .try_for_each(|(i, item)| work(i, item))
    } else {
        items
            .iter_mut()
            .enumerate()
            .try_for_each(|(i, item)| work(i, item))
    }
}

/// Runs `work(i, piece i)` for all pieces of `size` items (the last may be shorter).
pub fn chunks_mut<T: Send, E: Send>(
    items: &mut [T],
    size: usize,
    work: impl Fn(usize, &mut [T]) -> Result<(), E> + Sync + Send,
) -> Result<(), E> {
    let size = size.max(1);
    if in_pool() {
        items
            .par_chunks_mut(size)
            .enumerate()
            .try_for_each(|(i, chunk)| work(i, chunk))
    } else {
        items
            .chunks_mut(size)
            .enumerate()
            .try_for_each(|(i, chunk)| work(i, chunk))
    }
}
