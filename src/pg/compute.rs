//! Arithmetic on threads, while the backend's own thread stays answerable.
//!
//! Rules (PostgreSQL is not thread-safe): worker threads call nothing of PostgreSQL's and run with all signals blocked,
//! so that every signal reaches the backend's own thread; that thread waits on its latch, serves interrupts, and on a
//! cancel first lets the workers stop and only then raises the error. No thread outlives [`run`].

use crate::error::{Error, Result};
use distillvq_quantizer::{Monitor, Phase};
use pgrx::pg_sys;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// How long the backend's thread sleeps between two looks at its workers: bounds the answer to a cancel.
const NAP_MILLISECONDS: std::ffi::c_long = 10;

/// What the workers tell, and what they are told.
#[derive(Default)]
struct Board {
    stop: AtomicBool,
    phase: AtomicUsize,
    done: AtomicUsize,
    total: AtomicUsize,
}

impl Monitor for Board {
    fn interrupted(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn phase(&self, phase: Phase, done: usize, total: usize) {
        self.phase.store(phase as usize + 1, Ordering::Relaxed);
        self.done.store(done, Ordering::Relaxed);
        self.total.store(total, Ordering::Relaxed);
    }
}

/// Tells the workers to stop when the backend's thread leaves, however it leaves.
struct StopOnExit<'a>(&'a Board);

impl Drop for StopOnExit<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

/// All signals blocked until dropped; threads spawned meanwhile inherit the mask.
struct SignalsBlocked(libc::sigset_t);

impl SignalsBlocked {
    fn new() -> Self {
        // SAFETY: plain calls of the C library on sets that live on this stack.
        unsafe {
            let mut all = std::mem::zeroed::<libc::sigset_t>();
            let mut before = std::mem::zeroed::<libc::sigset_t>();
            libc::sigfillset(&mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
            Self(before)
        }
    }
}

impl Drop for SignalsBlocked {
    fn drop(&mut self) {
        // SAFETY: restores the mask that `new` found.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.0, std::ptr::null_mut()) };
    }
}

/// Threads that a maintenance command may use: the leader and its permitted helpers, but no more than there are cores.
pub fn threads() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    // SAFETY: an integer that only this thread changes.
    let helpers = unsafe { pg_sys::max_parallel_maintenance_workers };
    (helpers.max(0) as usize + 1).min(cores)
}

/// Runs `job` in a pool of [`threads`] threads and waits for it, serving interrupts and calling `report` with the
/// phase (counted from 1), work done and work in all. A cancel ends the job early and raises PostgreSQL's error.
pub fn run<T: Send>(
    mut report: impl FnMut(usize, usize, usize),
    job: impl FnOnce(&dyn Monitor) -> T + Send,
) -> Result<T> {
    let board = Board::default();
    let threads = threads();
    let outcome = std::thread::scope(|scope| {
        let blocked = SignalsBlocked::new();
        let spawned =
            std::thread::Builder::new().spawn_scoped(scope, || in_pool(threads, &board, job));
        drop(blocked);
        let leader = match spawned {
            Ok(leader) => leader,
            Err(error) => return Ok(Err(Error::Worker(error.to_string()))),
        };
        let stop = StopOnExit(&board);
        while !leader.is_finished() {
            nap();
            if must_stop() {
                break;
            }
            pgrx::check_for_interrupts!();
            let load = |value: &AtomicUsize| value.load(Ordering::Relaxed);
            report(load(&board.phase), load(&board.done), load(&board.total));
        }
        if must_stop() {
            drop(stop);
        }
        leader.join()
    });
    pgrx::check_for_interrupts!();
    match outcome {
        Ok(result) => result,
        Err(panic) => Err(Error::Worker(panic_text(&*panic))),
    }
}

/// Gives the C library's unused memory back to the system: a backend may live long after its one training.
pub fn return_memory() {
    // SAFETY: touches only the allocator's own free memory.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Runs the job as the first member of a pool whose threads end with it.
fn in_pool<T: Send>(
    threads: usize,
    board: &Board,
    job: impl FnOnce(&dyn Monitor) -> T + Send,
) -> Result<T> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
    pool.build_scoped(|thread| thread.run(), |pool| pool.install(|| job(board)))
        .map_err(|error| Error::Worker(error.to_string()))
}

/// A cancel or a termination is pending.
fn must_stop() -> bool {
    // SAFETY: flags that signal handlers of this thread set.
    unsafe { pg_sys::QueryCancelPending != 0 || pg_sys::ProcDiePending != 0 }
}

/// Sleeps until something happens or a moment has passed.
fn nap() {
    let events = pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH;
    // SAFETY: the backend's own latch.
    unsafe {
        pg_sys::WaitLatch(
            pg_sys::MyLatch,
            events as i32,
            NAP_MILLISECONDS,
            pg_sys::PG_WAIT_EXTENSION,
        );
        pg_sys::ResetLatch(pg_sys::MyLatch);
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "panic".to_owned())
}
