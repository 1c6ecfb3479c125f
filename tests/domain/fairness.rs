//! A guest's access while an embedder's thread makes slow host calls: the access waits for at most 16 vectors, not for all.

use std::ops::Range;
use std::os::fd::OwnedFd;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use vm_msi::backend::{Backend, BackendError, Capabilities};
use vm_msi::msix::{Layout, TableSize};
use vm_msi::testing::{Failures, FakeBackend, FakeRouter};
use vm_msi::{DeviceBudget, MsixFunction, Vector};
use vmm_sys_util::eventfd::EventFd;

use crate::fixture::{ENABLE, FUNCTION_MASK, bar};
use crate::host::is_readable;
use crate::router::HookedRouter;

/// The host calls so far, and how many came before the guest's access.
#[derive(Default)]
struct Asked {
    /// Host vectors that were requested or released.
    vectors: AtomicUsize,
    /// Their number when the guest's access read the Pending bits.
    before_the_guest: AtomicUsize,
}

/// A device whose fifth host call is slow, so that the guest's access comes meanwhile.
struct Wanted {
    device: FakeBackend,
    asked: Arc<Asked>,
    fifth: Arc<Barrier>,
}

impl Wanted {
    fn ask(&self) {
        if self.asked.vectors.fetch_add(1, Ordering::Relaxed) == 4 {
            self.fifth.wait();
            // Until the guest waits.
            thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Backend for Wanted {
    fn capabilities(&self) -> Capabilities {
        self.device.capabilities()
    }

    fn open(&mut self, vectors: u32) -> Result<(), BackendError> {
        self.device.open(vectors)
    }

    fn bind(&mut self, vector: Vector, eventfd: &EventFd) -> Result<(), BackendError> {
        self.ask();
        self.device.bind(vector, eventfd)
    }

    fn unbind(&mut self, vector: Vector) -> Result<(), BackendError> {
        self.ask();
        self.device.unbind(vector)
    }

    fn close(&mut self) -> Result<(), BackendError> {
        self.device.close()
    }

    fn pending(&mut self, group: u32) -> u64 {
        let vectors = self.asked.vectors.load(Ordering::Relaxed);
        self.asked.before_the_guest.store(vectors, Ordering::Relaxed);
        self.device.pending(group)
    }
}

type Function = MsixFunction;

const VECTORS: u64 = 256;
const RELEASE_DELAY: Duration = Duration::from_secs(3600);

/// The number of vectors that the thread has processed when a guest's access, which starts during the fifth, gets the lock.
fn before_the_guest(prepare: impl FnOnce(&MsixFunction), work: impl FnOnce(&MsixFunction) + Send) -> usize {
    let (asked, fifth) = (Arc::<Asked>::default(), Arc::new(Barrier::new(2)));
    let layout = Layout::new(TableSize::new(VECTORS as u16).unwrap(), (bar(0), 0), (bar(0), 0x8000)).unwrap();
    let device = FakeBackend::new(Failures::default());
    let wanted = Wanted { device, asked: Arc::clone(&asked), fifth: Arc::clone(&fifth) };
    let function = MsixFunction::new(layout, Arc::new(FakeRouter::new(Failures::default())), wanted);
    function.set_release_delay(RELEASE_DELAY);
    function.write_config(2, &ENABLE.to_le_bytes());
    asked.vectors.store(1000, Ordering::Relaxed);
    prepare(&function);
    asked.vectors.store(0, Ordering::Relaxed);
    thread::scope(|scope| {
        scope.spawn(|| work(&function));
        fifth.wait();
        function.read_pba(0, &mut [0; 8]);
    });
    asked.before_the_guest.load(Ordering::Relaxed)
}

fn unmask(function: &MsixFunction, entries: Range<u64>) {
    for entry in entries {
        function.write_table(entry * 16, &0xfee0_0000_u64.to_le_bytes());
        function.write_table(entry * 16 + 8, &(0x41 + entry % 128).to_le_bytes());
    }
}

fn free(function: &MsixFunction, entries: Range<u64>) {
    for entry in entries {
        function.write_table(entry * 16 + 8, &(1u64 << 32).to_le_bytes());
        function.write_table(entry * 16, &[0; 8]);
    }
}

#[test]
fn a_guests_access_waits_for_at_most_16_deferred_vectors() {
    let begin = |function: &Function| {
        function.deferred_bind_fd().unwrap();
        unmask(function, 0..VECTORS);
    };
    assert_eq!(before_the_guest(begin, MsixFunction::bind_deferred), 16);
}

#[test]
fn a_guests_access_waits_for_at_most_16_released_vectors() {
    let freed = |function: &Function| {
        unmask(function, 0..VECTORS);
        free(function, 0..VECTORS);
        assert_eq!(function.expiring(), VECTORS as usize);
    };
    assert_eq!(before_the_guest(freed, |function| function.retry_at(Instant::now() + 2 * RELEASE_DELAY)), 16);
}

/// Checks, at each host call of a guest's access, whether the deferred-bind eventfd is readable.
#[derive(Default)]
struct Looking {
    growth: OnceLock<Arc<OwnedFd>>,
    /// The number of calls at which the eventfd was not readable, and at which it was.
    not_called: AtomicUsize,
    called: AtomicUsize,
    panics: AtomicBool,
}

impl Looking {
    fn look(&self) {
        let Some(growth) = self.growth.get() else { return };
        let seen = if is_readable(growth) { &self.called } else { &self.not_called };
        seen.fetch_add(1, Ordering::Relaxed);
        assert!(!self.panics.load(Ordering::Relaxed), "as it was told");
    }
}

/// Four vectors with host vectors and four deferred ones, all masked by Function Mask.
fn eight() -> (Arc<Looking>, MsixFunction) {
    let layout = Layout::new(TableSize::new(VECTORS as u16).unwrap(), (bar(0), 0), (bar(0), 0x8000)).unwrap();
    let looking = Arc::new(Looking::default());
    let looks = looking.clone();
    let router = Arc::new(HookedRouter::new(move |_| looks.look()));
    let function = MsixFunction::new(layout, router, FakeBackend::new(Failures::default()));
    function.write_config(2, &ENABLE.to_le_bytes());
    unmask(&function, 0..4);
    function.write_config(2, &(ENABLE | FUNCTION_MASK).to_le_bytes());
    unmask(&function, 4..8);
    looking.growth.get_or_init(|| function.deferred_bind_fd().unwrap());
    (looking, function)
}

#[test]
fn the_deferred_bind_eventfd_is_signalled_after_the_guests_access_has_released_the_lock() {
    let (looking, function) = eight();
    function.write_config(2, &ENABLE.to_le_bytes());
    let seen = [&looking.not_called, &looking.called].map(|seen| seen.load(Ordering::Relaxed));
    assert_eq!(seen, [4, 0], "the four that have their host vectors");
    assert_eq!((function.deferred(), is_readable(looking.growth.get().unwrap())), (4, true));
}

#[test]
fn the_deferred_bind_eventfd_is_signalled_also_if_the_access_panics() {
    let (looking, function) = eight();
    looking.panics.store(true, Ordering::Relaxed);
    let write = || function.write_config(2, &ENABLE.to_le_bytes());
    assert!(panic::catch_unwind(AssertUnwindSafe(write)).is_err());
    looking.panics.store(false, Ordering::Relaxed);
    assert_eq!((function.deferred(), is_readable(looking.growth.get().unwrap())), (4, true));
}

#[test]
fn a_vector_that_the_budget_refuses_releases_16_expiring_vectors_and_not_all() {
    let layout = Layout::new(TableSize::new(VECTORS as u16).unwrap(), (bar(0), 0), (bar(0), 0x8000)).unwrap();
    let device = FakeBackend::new(Failures::default());
    let router = Arc::new(FakeRouter::new(Failures::default()));
    let budget = DeviceBudget::new(Some(40));
    let function = MsixFunction::new(layout, router, device.clone()).with_budget(Arc::clone(&budget));
    function.set_release_delay(RELEASE_DELAY);
    function.write_config(2, &ENABLE.to_le_bytes());
    unmask(&function, 0..40);
    free(&function, 0..40);
    assert_eq!((function.expiring(), device.in_use().0), (40, 40));
    unmask(&function, 100..101);
    assert_eq!((function.expiring(), device.in_use().0, function.failed_steps()), (24, 25, 0));
    unmask(&function, 101..140);
    assert_eq!((function.expiring(), device.in_use().0, function.failed_steps()), (0, 40, 0));
}

#[test]
fn each_refused_vector_releases_16_expiring_vectors_even_if_that_does_not_help() {
    let layout = Layout::new(TableSize::new(VECTORS as u16).unwrap(), (bar(0), 0), (bar(0), 0x8000)).unwrap();
    let device = FakeBackend::new(Failures::default());
    let budget = DeviceBudget::new(None);
    let router = Arc::new(FakeRouter::new(Failures::default()));
    let function = MsixFunction::new(layout, router, device).with_budget(Arc::clone(&budget));
    function.set_release_delay(RELEASE_DELAY);
    function.write_config(2, &ENABLE.to_le_bytes());
    unmask(&function, 0..80);
    free(&function, 0..80);
    budget.set_limit(Some(10));
    unmask(&function, 100..101);
    assert_eq!((function.expiring(), function.failed_steps()), (64, 1));
    unmask(&function, 101..102);
    assert_eq!((function.expiring(), function.failed_steps()), (48, 2));
    function.retry();
    assert_eq!(
        (function.expiring(), function.failed_steps()),
        (0, 0),
        "a retry has its turns for all of them"
    );
}

#[test]
fn vectors_that_a_panic_has_skipped_are_brought_up_by_the_next_access() {
    let (looking, function) = eight();
    looking.panics.store(true, Ordering::Relaxed);
    let write = || function.write_config(2, &ENABLE.to_le_bytes());
    assert!(panic::catch_unwind(AssertUnwindSafe(write)).is_err());
    looking.panics.store(false, Ordering::Relaxed);
    function.write_table(12, &1u32.to_le_bytes());
    assert_eq!(
        function.report().live,
        3,
        "all but the first, on whose way it panicked and which is masked now"
    );
}
