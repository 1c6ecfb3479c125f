//! What happens in the host's calls, on order: which of the next ones the fakes refuse, and during which a device raises
//! interrupts.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A schedule of failures and of interrupts that fakes share.
#[derive(Clone, Debug, Default)]
pub struct Failures(Arc<Schedule>);

/// Raises interrupts, as a device does of its own accord.
type Device = Box<dyn Fn() + Send>;

#[derive(Default)]
struct Schedule {
    calls: AtomicU32,
    /// Every call fails, and the schedule waits.
    all: AtomicBool,
    /// Interrupts come as a call begins, before it has done anything.
    early: AtomicU32,
    /// Interrupts come as a call ends, when it has done its work.
    late: AtomicU32,
    device: Mutex<Option<Device>>,
}

/// A call to the host that is under way and will succeed. It is over when this is dropped.
#[must_use]
pub(super) struct Call<'a> {
    schedule: &'a Schedule,
    is_late: bool,
}

impl Failures {
    /// From now on: bit n says that the n-th next call fails. All later ones succeed.
    pub fn schedule(&self, calls: u32) {
        self.0.calls.store(calls, Ordering::Relaxed);
    }

    /// From now on: bit n says that the device raises interrupts in the n-th next call, as the call begins (`early`) and as it
    /// ends (`late`). A call that fails has no end.
    pub(super) fn schedule_interrupts(&self, early: u32, late: u32) {
        self.0.early.store(early, Ordering::Relaxed);
        self.0.late.store(late, Ordering::Relaxed);
    }

    /// What raises the interrupts of [`Failures::schedule_interrupts`].
    pub(super) fn set_device(&self, raise: impl Fn() + Send + 'static) {
        *self.0.device() = Some(Box::new(raise));
    }

    /// Runs `look` while every call fails, so that looking changes nothing; the schedule goes on afterwards.
    pub(super) fn refuse_all_during<T>(&self, look: impl FnOnce() -> T) -> T {
        self.0.all.store(true, Ordering::Relaxed);
        let seen = look();
        self.0.all.store(false, Ordering::Relaxed);
        seen
    }

    /// Whether [`Failures::refuse_all_during`] looks.
    pub(super) fn is_refusing_all(&self) -> bool {
        self.0.all.load(Ordering::Relaxed)
    }

    /// Whether any of the next calls fails.
    pub(super) fn is_scheduled(&self) -> bool {
        self.0.calls.load(Ordering::Relaxed) != 0
    }

    /// What the host says to the next call.
    pub(super) fn next(&self) -> io::Result<Call<'_>> {
        // ENOSPC, as from a host that is out of interrupts.
        let refused = || io::Error::from_raw_os_error(28);
        if self.is_refusing_all() {
            return Err(refused());
        }
        let is_late = take_bit(&self.0.late);
        if take_bit(&self.0.early) {
            self.0.interrupt();
        }
        if take_bit(&self.0.calls) { Err(refused()) } else { Ok(Call { schedule: &self.0, is_late }) }
    }

    /// The same, of a call of which all is done before the device raises anything.
    pub(super) fn next_at_once(&self) -> io::Result<Call<'_>> {
        let early = self.0.early.swap(0, Ordering::Relaxed);
        let call = self.next();
        self.0.early.store(early >> 1, Ordering::Relaxed);
        call.map(|mut call| {
            call.is_late |= early & 1 != 0;
            call
        })
    }
}

impl Schedule {
    fn device(&self) -> MutexGuard<'_, Option<Device>> {
        self.device.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn interrupt(&self) {
        self.device().iter().for_each(|raise| raise());
    }
}

impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Schedule")
            .field("calls", &self.calls)
            .field("early", &self.early)
            .field("late", &self.late)
            .finish_non_exhaustive()
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if self.is_late && !std::thread::panicking() {
            self.schedule.interrupt();
        }
    }
}

/// Of a schedule the next call's bit.
fn take_bit(schedule: &AtomicU32) -> bool {
    let bits = schedule.load(Ordering::Relaxed);
    if bits != 0 {
        schedule.store(bits >> 1, Ordering::Relaxed);
    }
    bits & 1 != 0
}
