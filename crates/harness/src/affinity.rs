//! Which processor a client runs on.

use postgres::Client;

use crate::error::Result;

/// Lets the calling thread and the backend of its client share one processor, the `number`-th of those allowed (counted
/// round). Only one of both works at a time; on processors of their own each would wake the other from idleness at every
/// message, which in virtual machines takes longer than many a query. Does nothing where threads cannot be tied (other
/// systems than Linux).
///
/// # Errors
/// If the system refuses, or the connection is broken.
pub fn share_processor(client: &mut Client, number: usize) -> Result<()> {
    let backend = client
        .query_one("SELECT pg_backend_pid()", &[])?
        .try_get(0)?;
    tie(backend, number)
}

#[cfg(target_os = "linux")]
fn tie(backend: i32, number: usize) -> Result<()> {
    use crate::error::Error;
    use rustix::process::Pid;
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

    let failed = |error: rustix::io::Errno| {
        Error::Argument(format!("a processor cannot be shared: {error}"))
    };
    // The leading thread's: the calling one may be tied already.
    let all = sched_getaffinity(Some(rustix::process::getpid())).map_err(failed)?;
    let allowed: Vec<usize> = (0..CpuSet::MAX_CPU)
        .filter(|&cpu| all.is_set(cpu))
        .collect();
    let mut one = CpuSet::new();
    if let Some(&cpu) = allowed.get(number % allowed.len().max(1)) {
        one.set(cpu);
        sched_setaffinity(None, &one).map_err(failed)?;
        sched_setaffinity(Pid::from_raw(backend), &one).map_err(failed)?;
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn tie(_backend: i32, _number: usize) -> Result<()> {
    Ok(())
}
