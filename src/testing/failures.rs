//! The schedule of host calls: which of the next calls fail, and during which calls a device raises
//! interrupts.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A schedule of failures and interrupts, which fakes share.
#[derive(Clone, Debug, Default)]
pub struct Failures(Arc<Schedule>);

/// Raises the interrupts of a device.
type Device = Box<dyn Fn() + Send>;

#[derive(Default)]
struct Schedule {
    calls: AtomicU32,
    /// Every call fails, and the schedule stands still.
    all: AtomicBool,
    /// Interrupts come when a call begins, before it has done anything.
    early: AtomicU32,
    /// Interrupts come when a call ends, after it has done its work.
    late: AtomicU32,
    device: Mutex<Option<Device>>,
}

/// A host call that is under way and will succeed. Dropping it ends the call.
#[must_use]
pub(super) struct Call<'a> {
    schedule: &'a Schedule,
    is_late: bool,
}

impl Failures {
    /// Sets the schedule of failures: bit n makes the n-th next call fail. All later calls succeed.
    pub fn schedule(&self, calls: u32) {
        self.0.calls.store(calls, Ordering::Relaxed);
    }

    /// Sets the schedule of interrupts: bit n makes the device raise interrupts in the n-th next call, when
    /// the call begins (`early`) and when it ends (`late`). A failed call has no end.
    pub(super) fn schedule_interrupts(&self, early: u32, late: u32) {
        self.0.early.store(early, Ordering::Relaxed);
        self.0.late.store(late, Ordering::Relaxed);
    }

    /// Sets the device of [`Failures::schedule_interrupts`].
    pub(super) fn set_device(&self, raise: impl Fn() + Send + 'static) {
        *self.0.device() = Some(Box::new(raise));
    }

    /// Runs `look` while every call fails, so that it changes nothing. The schedule continues afterwards.
    pub(super) fn refuse_all_during<T>(&self, look: impl FnOnce() -> T) -> T {
        self.0.all.store(true, Ordering::Relaxed);
        let seen = look();
        self.0.all.store(false, Ordering::Relaxed);
        seen
    }

    /// Whether [`Failures::refuse_all_during`] is running.
    pub(super) fn is_refusing_all(&self) -> bool {
        self.0.all.load(Ordering::Relaxed)
    }

    /// Whether any of the next calls fails.
    pub(super) fn is_scheduled(&self) -> bool {
        self.0.calls.load(Ordering::Relaxed) != 0
    }

    /// The result of the next call.
    pub(super) fn next(&self) -> io::Result<Call<'_>> {
        // ENOSPC, the error of a host without free interrupts.
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

    /// The same for a call that does all its work before the device raises anything.
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

/// Takes the next call's bit from a schedule.
fn take_bit(schedule: &AtomicU32) -> bool {
    let bits = schedule.load(Ordering::Relaxed);
    if bits != 0 {
        schedule.store(bits >> 1, Ordering::Relaxed);
    }
    bits & 1 != 0
}
