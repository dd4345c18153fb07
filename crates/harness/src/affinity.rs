//! Pins a client to a processor.

use postgres::Client;

use crate::error::Result;

/// While this lives, the thread that made it and the backend of its client run on one processor.
#[must_use]
pub struct Together {
    #[cfg(target_os = "linux")]
    _before: linux::Before,
}

impl Together {
    /// Ties the calling thread and the backend to the `number`-th processor of those that the thread may use (counted round).
    /// Only one of both works at a time; on processors of their own each would wake the other from idleness at every message,
    /// which in virtual machines takes longer than many a query. Does nothing where threads cannot be tied (other systems
    /// than Linux).
    ///
    /// # Errors
    /// If the system refuses, or the connection is broken.
    pub fn on(number: usize, client: &mut Client) -> Result<Self> {
        let backend = client
            .query_one("SELECT pg_backend_pid()", &[])?
            .try_get(0)?;
        #[cfg(not(target_os = "linux"))]
        let _: (usize, i32) = (number, backend);
        Ok(Self {
            #[cfg(target_os = "linux")]
            _before: linux::tie(backend, number)?,
        })
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use rustix::io::Errno;
    use rustix::process::Pid;
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

    use crate::error::{Error, Result};

    /// Where both might run before.
    pub struct Before {
        processors: CpuSet,
        backend: Option<Pid>,
    }

    pub fn tie(backend: i32, number: usize) -> Result<Before> {
        let failed = |error: Errno| Error::Argument(format!("no processor to share: {error}"));
        let backend = Pid::from_raw(backend);
        let processors = sched_getaffinity(None).map_err(failed)?;
        let allowed = (0..CpuSet::MAX_CPU).filter(|&cpu| processors.is_set(cpu));
        let allowed: Vec<usize> = allowed.collect();
        let mut one = CpuSet::new();
        if let Some(&cpu) = allowed.get(number % allowed.len().max(1)) {
            one.set(cpu);
            sched_setaffinity(None, &one).map_err(failed)?;
            sched_setaffinity(backend, &one).map_err(failed)?;
        }
        Ok(Before {
            processors,
            backend,
        })
    }

    impl Drop for Before {
        fn drop(&mut self) {
            // The backend may be gone by now, which is as good.
            let _ = sched_setaffinity(None, &self.processors);
            let _ = sched_setaffinity(self.backend, &self.processors);
        }
    }
}
