//! Concurrent sessions: scoped threads that work until they are stopped.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::ScopedJoinHandle;

use crate::error::{Error, Result};

/// Tells sessions to stop when it is dropped: a scope waits for its threads also when it is left with an error.
#[derive(Debug)]
pub struct StopAtEnd<'a>(pub &'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What a session has to say once it has ended.
///
/// # Errors
/// Its own, and [`Error::Broken`] if it panicked.
pub fn joined<T>(session: ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    let panicked = |_| Error::Broken("a session panicked".into());
    session.join().map_err(panicked)?
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;
    use std::time::{Duration, Instant};

    #[test]
    fn a_scope_that_fails_does_not_wait_for_ever() {
        let (stop, start, long) = (
            AtomicBool::new(false),
            Instant::now(),
            Duration::from_secs(10),
        );
        let outcome = thread::scope(|scope| {
            let _working_on = StopAtEnd(&stop);
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) && start.elapsed() < long {
                    thread::sleep(Duration::from_millis(1));
                }
            });
            Err::<(), _>("no further session")
        });
        assert!(outcome.is_err());
        assert!(start.elapsed() < long);
    }
}
