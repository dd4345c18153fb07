//! Arithmetic on threads, while the backend's own thread stays answerable: [`run_in_pool`] waits for one job on a pool,
//! [`with_workers`] keeps workers busy with a stream of items while the backend's thread goes on with PostgreSQL.
//!
//! Rules (PostgreSQL is not thread-safe): worker threads call nothing of PostgreSQL's and run with all signals blocked,
//! so that every signal reaches the backend's own thread; that thread waits on its latch and serves interrupts.
//!
//! No thread outlives the call that started it, whichever way that ends: it returns; an error of PostgreSQL unwinds
//! through it, which stops and joins the threads before the transaction is aborted; or the whole backend exits in its
//! midst (a termination does not unwind), and then [`stop_at_exit`] waits for the threads.

use crate::error::{Error, Result};
use crate::pg::server::is_autovacuum;
use pgrx::pg_sys;
use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, Once, PoisonError};
use std::time::Duration;

/// How long the backend's thread sleeps between two looks at its workers: bounds the answer to a cancel.
const NAP_MILLISECONDS: std::ffi::c_long = 10;
/// How long an idle worker waits before it looks whether the process ends.
const IDLE: Duration = Duration::from_millis(50);
/// Items that may be under way for each worker: one in its hands, and two more so that it never waits for the
/// backend's thread to wake from its sleep.
const ITEMS_PER_WORKER: usize = 3;

/// Whether the process ends: set once, never taken back.
static EXITING: AtomicBool = AtomicBool::new(false);
/// Threads that work or are about to.
static AT_WORK: AtomicUsize = AtomicUsize::new(0);

/// One thread among those [`AT_WORK`]: made before it starts, dropped as its last act.
struct ActiveThread;

impl ActiveThread {
    fn new() -> Self {
        static HOOK: Once = Once::new();
        // SAFETY: only the backend's own thread starts workers; the function lives as long as the library, for ever.
        HOOK.call_once(|| unsafe {
            pg_sys::before_shmem_exit(Some(stop_at_exit), pg_sys::Datum::null());
        });
        AT_WORK.fetch_add(1, Ordering::SeqCst);
        Self
    }
}

impl Drop for ActiveThread {
    fn drop(&mut self) {
        AT_WORK.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Lets all threads end before the process gives up anything of its own. They check [`SharedProgress::interrupted`] every
/// few milliseconds.
unsafe extern "C-unwind" fn stop_at_exit(_code: std::ffi::c_int, _argument: pg_sys::Datum) {
    EXITING.store(true, Ordering::SeqCst);
    while AT_WORK.load(Ordering::SeqCst) > 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Progress of a job, and whether it is to stop.
#[derive(Default)]
pub struct SharedProgress {
    stop: AtomicBool,
    phase: AtomicUsize,
    done: AtomicUsize,
    total: AtomicUsize,
}

impl SharedProgress {
    /// Whether the job is to stop.
    pub fn interrupted(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || EXITING.load(Ordering::Relaxed)
    }

    /// `done` of `total` steps of a phase (counted from 1) are finished.
    pub fn set(&self, phase: usize, done: usize, total: usize) {
        self.phase.store(phase, Ordering::Relaxed);
        self.done.store(done, Ordering::Relaxed);
        self.total.store(total, Ordering::Relaxed);
    }
}

/// Tells the workers to stop when the backend's thread leaves, however it leaves.
struct StopOnExit<'a>(&'a SharedProgress);

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
    // As the server's own maintenance does there.
    if is_autovacuum() {
        return 1;
    }
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    // SAFETY: an integer that only this thread changes.
    let helpers = unsafe { pg_sys::max_parallel_maintenance_workers };
    (helpers.max(0) as usize + 1).min(cores)
}

/// Runs `job` in a pool of [`threads`] threads and waits for it, serving interrupts and calling `report` with the
/// phase (counted from 1), work done and work in all. A cancel ends the job early and raises PostgreSQL's error.
pub fn run_in_pool<T: Send>(
    mut report: impl FnMut(usize, usize, usize),
    job: impl FnOnce(&SharedProgress) -> T + Send,
) -> Result<T> {
    let progress = SharedProgress::default();
    let threads = threads();
    let outcome = std::thread::scope(|scope| {
        let blocked = SignalsBlocked::new();
        let (at_work, progress) = (ActiveThread::new(), &progress);
        let job = move || {
            let _at_work = at_work;
            in_pool(threads, progress, job)
        };
        let spawned = std::thread::Builder::new().spawn_scoped(scope, job);
        drop(blocked);
        let leader = match spawned {
            Ok(leader) => leader,
            Err(error) => return Ok(Err(Error::Threads(error.to_string()))),
        };
        let stop = StopOnExit(progress);
        while !leader.is_finished() {
            wait_latch();
            if must_stop() {
                break;
            }
            pgrx::check_for_interrupts!();
            let load = |value: &AtomicUsize| value.load(Ordering::Relaxed);
            report(
                load(&progress.phase),
                load(&progress.done),
                load(&progress.total),
            );
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

/// Work handed out and results handed in, between the backend's thread and its workers.
struct WorkQueue<I, O> {
    state: Mutex<QueueState<I, O>>,
    /// Wakes workers that have nothing to do.
    wake: Condvar,
    progress: SharedProgress,
}

/// Items by their number, in the order in which they were given.
struct QueueState<I, O> {
    waiting: VecDeque<(usize, I)>,
    /// Results, or the text of a panic.
    done: BTreeMap<usize, std::result::Result<O, String>>,
}

impl<I: Send, O: Send> WorkQueue<I, O> {
    fn new() -> Self {
        let (waiting, done) = (VecDeque::new(), BTreeMap::new());
        Self {
            state: Mutex::new(QueueState { waiting, done }),
            wake: Condvar::new(),
            progress: SharedProgress::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, QueueState<I, O>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A worker's life.
    fn worker_loop(&self, work: &(impl Fn(I, &SharedProgress) -> O + Sync)) {
        while let Some((number, item)) = self.next() {
            let result = catch_unwind(AssertUnwindSafe(|| work(item, &self.progress)));
            let result = result.map_err(|panic| panic_text(&*panic));
            self.state().done.insert(number, result);
        }
    }

    /// The next item, waited for; none when it is time to stop.
    fn next(&self) -> Option<(usize, I)> {
        let mut state = self.state();
        while !self.progress.interrupted() {
            if let Some(item) = state.waiting.pop_front() {
                return Some(item);
            }
            let waited = self.wake.wait_timeout(state, IDLE);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        None
    }
}

/// The workers of [`with_workers`], as the backend's thread sees them: results come back in the order of the items. Dropped,
/// it lets them stop.
pub struct Workers<'a, I: Send, O: Send> {
    queue: &'a WorkQueue<I, O>,
    given: usize,
    taken: usize,
    most: usize,
}

/// Maximum number of items under way with `workers` workers: given, and their results not yet taken.
pub const fn max_in_flight(workers: usize) -> usize {
    workers * ITEMS_PER_WORKER
}

impl<I: Send, O: Send> Workers<'_, I, O> {
    /// Whether as many items are under way as may be: a result must be taken before the next is given.
    pub fn full(&self) -> bool {
        self.given - self.taken >= self.most
    }

    /// Hands over an item.
    pub fn submit(&mut self, item: I) {
        self.queue.state().waiting.push_back((self.given, item));
        self.given += 1;
        self.queue.wake.notify_one();
    }

    /// The result of the oldest item, if that is done.
    pub fn try_next_result(&mut self) -> Result<Option<O>> {
        let Some(result) = self.queue.state().done.remove(&self.taken) else {
            return Ok(None);
        };
        self.taken += 1;
        result.map(Some).map_err(Error::Worker)
    }

    /// The result of the oldest item, waited for; none when nothing is under way.
    pub fn next_result(&mut self) -> Result<Option<O>> {
        while self.taken < self.given {
            if let Some(result) = self.try_next_result()? {
                return Ok(Some(result));
            }
            wait_latch();
            pgrx::check_for_interrupts!();
        }
        Ok(None)
    }
}

impl<I: Send, O: Send> Drop for Workers<'_, I, O> {
    fn drop(&mut self) {
        // Under the lock, so that no worker goes to sleep between its look at the flag and the call.
        let state = self.queue.state();
        self.queue.progress.stop.store(true, Ordering::Relaxed);
        drop(state);
        self.queue.wake.notify_all();
    }
}

/// Runs `lead` on this thread, with so many workers beside it that do `work` on the items it gives them. Once
/// [`SharedProgress::interrupted`], the result of an item is not wanted any more.
pub fn with_workers<I: Send, O: Send, T>(
    workers: usize,
    work: impl Fn(I, &SharedProgress) -> O + Sync,
    lead: impl FnOnce(Workers<'_, I, O>) -> Result<T>,
) -> Result<T> {
    let queue = WorkQueue::new();
    std::thread::scope(|scope| {
        let handle = Workers {
            queue: &queue,
            given: 0,
            taken: 0,
            most: max_in_flight(workers),
        };
        let blocked = SignalsBlocked::new();
        for _ in 0..workers {
            let (at_work, queue, work) = (ActiveThread::new(), &queue, &work);
            let life = move || {
                let _at_work = at_work;
                queue.worker_loop(work);
            };
            let spawned = std::thread::Builder::new().spawn_scoped(scope, life);
            spawned.map_err(|error| Error::Threads(error.to_string()))?;
        }
        drop(blocked);
        lead(handle)
    })
}

/// Runs the job as the first member of a pool whose threads end with it.
fn in_pool<T: Send>(
    threads: usize,
    progress: &SharedProgress,
    job: impl FnOnce(&SharedProgress) -> T + Send,
) -> Result<T> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
    pool.build_scoped(|thread| thread.run(), |pool| pool.install(|| job(progress)))
        .map_err(|error| Error::Threads(error.to_string()))
}

/// A cancel or a termination is pending.
fn must_stop() -> bool {
    // SAFETY: flags that signal handlers of this thread set.
    unsafe { pg_sys::QueryCancelPending != 0 || pg_sys::ProcDiePending != 0 }
}

/// Sleeps until something happens or a moment has passed.
fn wait_latch() {
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
