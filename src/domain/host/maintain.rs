//! When maintenance is due, and how its thread learns of it.
//!
//! Steps that the host refused are tried again after [`RETRY`], and freed vectors are released when their delay is over. The clock
//! is that of [`DeviceDomain::maintain`](crate::DeviceDomain::maintain): a guest's access reads no clock for a retry.
//!
//! Invariant: from the moment at which a step fails or a vector is freed, until the next call of `maintain` has answered when it
//! wants to be called, the notice is signalled. So work that is owed is never without a time at which somebody looks at it.
//! Locking: none of its own, it is part of a domain's host.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{read, write};

use super::Host;
use crate::counter::Increment;

/// How long a step that the host refused waits for the next try.
const RETRY: Duration = Duration::from_millis(100);

/// How many steps may be refused before a function that nobody maintains is logged.
const PATIENCE: u32 = 64;

/// What a domain knows of its maintenance.
#[derive(Debug, Default)]
pub(super) struct Maintenance {
    /// An eventfd, signalled when there is new work to be timed.
    notice: Option<Arc<OwnedFd>>,
    is_signalled: bool,
    /// When refused steps are tried again, by the embedder's clock; `None` until maintenance has seen them.
    retry_at: Option<Instant>,
    /// Steps that were refused before anybody retried one.
    unmaintained: u32,
    is_maintained: bool,
}

impl Host {
    /// An eventfd that is readable while there is work of which maintenance does not know the time yet.
    pub(in crate::domain) fn maintenance_fd(&mut self) -> io::Result<Arc<OwnedFd>> {
        self.maintenance.is_maintained = true;
        if let Some(notice) = &self.maintenance.notice {
            return Ok(notice.clone());
        }
        let owes = self.failed() > 0 || self.expiring() > 0;
        let notice = eventfd(owes.into(), EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        self.maintenance.is_signalled = owes;
        Ok(self.maintenance.notice.insert(Arc::new(notice)).clone())
    }

    /// Tells the thread that maintains the domain of new work.
    #[cold]
    pub(super) fn notify_maintenance(&mut self) {
        let Maintenance { notice, is_signalled, .. } = &mut self.maintenance;
        if let Some(notice) = notice.as_deref().filter(|_| !*is_signalled) {
            // It fails only where the eventfd is full, and then it is readable already.
            let _ = write(notice, &1u64.to_ne_bytes());
            *is_signalled = true;
        }
    }

    /// Logs, once, that steps are refused and nobody tries them again.
    #[cold]
    pub(super) fn count_unmaintained(&mut self) {
        self.maintenance.unmaintained.increment();
        if self.maintenance.unmaintained == PATIENCE {
            self.warn_unmaintained();
        }
    }

    /// Logs that steps were refused and that nobody has tried them again, if that is so.
    pub(super) fn warn_unmaintained(&self) {
        let Maintenance { unmaintained, is_maintained, .. } = &self.maintenance;
        if *unmaintained > 0 && !is_maintained {
            log::warn!(
                "the host refused {unmaintained} steps for a device's interrupts, and nothing calls maintain or retry: \
                 interrupts may wait until the guest's next access"
            );
        }
    }

    /// Somebody retries. What fails from now on is theirs to see.
    pub(in crate::domain) fn set_maintained(&mut self) {
        self.maintenance.is_maintained = true;
    }

    /// Whether the steps that the host refused are to be tried again now.
    pub(in crate::domain) fn is_retry_due(&self, now: Instant) -> bool {
        self.maintenance.retry_at.is_some_and(|at| at <= now)
    }

    /// Maintenance has done what was due. Answers how long the rest may wait.
    pub(in crate::domain) fn end_maintenance(&mut self, now: Instant) -> Option<Duration> {
        let failed = self.failed() > 0;
        let expiry = self.next_expiry();
        let deferred = (self.deferred() > 0).then_some(Duration::ZERO);
        let Maintenance { notice, is_signalled, retry_at, .. } = &mut self.maintenance;
        if let Some(notice) = notice.as_deref().filter(|_| *is_signalled) {
            let _ = read(notice, &mut [0; 8]);
            *is_signalled = false;
        }
        let later = now.checked_add(RETRY).unwrap_or(now);
        *retry_at = failed.then(|| retry_at.filter(|at| *at > now).unwrap_or(later));
        let times = [*retry_at, expiry].into_iter().flatten();
        times.map(|at| at.saturating_duration_since(now)).chain(deferred).min()
    }
}
