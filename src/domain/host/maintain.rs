//! The time at which maintenance is due, and the eventfd that wakes its thread.
//!
//! Steps that the host refused are tried again after [`RETRY`], and freed vectors are released when their delay is over. The clock
//! is that of [`DeviceDomain::maintain`](crate::DeviceDomain::maintain): a guest's access reads no clock for a retry.
//!
//! Invariant: the notice is signalled when a step fails or a vector is freed. It stays signalled until the next call of `maintain`
//! returns the due time. Refused steps and freed vectors therefore always have a due time or a signalled notice. A panic in a
//! backend, router or stage signals nothing: the function's next call works on what the panic left. Locking: none of its own; it is
//! part of a domain's host.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{read, write};

use crate::counter::Increment;

/// How long a step that the host refused waits for the next try.
const RETRY: Duration = Duration::from_millis(100);

/// How many steps may be refused before a function that nobody maintains is logged.
const PATIENCE: u32 = 64;

/// A domain's maintenance: its notice, and when refused steps are due.
#[derive(Debug, Default)]
pub(super) struct Maintenance {
    /// An eventfd that is signalled when there is new work without a due time.
    notice: Option<Arc<OwnedFd>>,
    is_signalled: bool,
    /// When refused steps are tried again, by the embedder's clock; `None` until maintenance has seen them.
    retry_at: Option<Instant>,
    /// Refused steps before the first retry or maintenance.
    unmaintained: u32,
    is_maintained: bool,
}

impl Maintenance {
    /// An eventfd that is readable while there is work that maintenance has not timed yet. `owes` says whether there is some now.
    pub(super) fn fd(&mut self, owes: bool) -> io::Result<Arc<OwnedFd>> {
        self.is_maintained = true;
        if let Some(notice) = &self.notice {
            return Ok(notice.clone());
        }
        let notice = eventfd(owes.into(), EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        self.is_signalled = owes;
        Ok(self.notice.insert(Arc::new(notice)).clone())
    }

    /// Signals the notice: there is new work.
    #[cold]
    pub(super) fn notify(&mut self) {
        if let Some(notice) = self.notice.as_deref().filter(|_| !self.is_signalled) {
            // It fails only where the eventfd is full, and then it is readable already.
            let _ = write(notice, &1u64.to_ne_bytes());
            self.is_signalled = true;
        }
    }

    /// Counts a refused step, and logs once that nothing retries.
    #[cold]
    pub(super) fn count_refused(&mut self) {
        self.unmaintained.increment();
        if self.unmaintained == PATIENCE {
            self.warn_if_unmaintained();
        }
    }

    /// Logs that steps were refused if nothing has ever retried them.
    pub(super) fn warn_if_unmaintained(&self) {
        let Self { unmaintained, is_maintained, .. } = self;
        if *unmaintained > 0 && !is_maintained {
            log::warn!(
                "the host refused {unmaintained} steps for a device's interrupts, and nothing calls maintain or retry: \
                 interrupts may wait until the guest's next access"
            );
        }
    }

    /// The embedder retries or maintains the domain, so refused steps are not logged.
    pub(super) fn set_maintained(&mut self) {
        self.is_maintained = true;
    }

    /// Whether refused steps are due now.
    pub(super) fn is_retry_due(&self, now: Instant) -> bool {
        self.retry_at.is_some_and(|at| at <= now)
    }

    /// Clears the notice, and returns when refused steps are due, if `failed` says that there are some.
    pub(super) fn end(&mut self, now: Instant, failed: bool) -> Option<Instant> {
        if let Some(notice) = self.notice.as_deref().filter(|_| self.is_signalled) {
            let _ = read(notice, &mut [0; 8]);
            self.is_signalled = false;
        }
        let later = now.checked_add(RETRY).unwrap_or(now);
        self.retry_at = failed.then(|| self.retry_at.filter(|at| *at > now).unwrap_or(later));
        self.retry_at
    }
}
