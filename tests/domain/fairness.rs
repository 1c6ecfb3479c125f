//! A guest's access while an embedder's thread has the host do what takes long: it waits for some vectors and not for all.

use std::ops::Range;
use std::os::fd::OwnedFd;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use vm_msi::Interrupt;
use vm_msi::backend::{Backend, BackendError, Capabilities};
use vm_msi::msix::{Layout, TableSize};
use vm_msi::router::{Route, Router, RouterError, Signalled};
use vm_msi::testing::{Failures, FakeBackend, FakeRouter};
use vm_msi::{DeviceBudget, MsixFunction, Vector};
use vmm_sys_util::eventfd::EventFd;

use crate::fixture::{ENABLE, FUNCTION_MASK, bar};
use crate::host::is_readable;

/// What the host was asked for so far, and when the guest had its turn.
#[derive(Default)]
struct Asked {
    /// Host vectors, requested or given back.
    vectors: AtomicUsize,
    /// So many had been by when the pending bits were read.
    before_the_guest: AtomicUsize,
}

/// A device of which the guest wants something while the host takes its time for the fifth vector.
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

/// How many vectors a thread has got through when a guest's access has its turn, which begins with the fifth.
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
fn a_guests_access_waits_for_16_vectors_and_not_for_all_that_grow() {
    let begin = |function: &Function| {
        function.deferred_bind_fd().unwrap();
        unmask(function, 0..VECTORS);
    };
    assert_eq!(before_the_guest(begin, MsixFunction::bind_deferred), 16);
}

#[test]
fn a_guests_access_waits_for_16_vectors_and_not_for_all_that_are_given_back() {
    let freed = |function: &Function| {
        unmask(function, 0..VECTORS);
        free(function, 0..VECTORS);
        assert_eq!(function.expiring(), VECTORS as usize);
    };
    assert_eq!(before_the_guest(freed, |function| function.retry_at(Instant::now() + 2 * RELEASE_DELAY)), 16);
}

/// A router that looks whether the thread has been called, whenever the guest's access has it call the host.
struct Looking {
    router: FakeRouter,
    growth: OnceLock<Arc<OwnedFd>>,
    /// So often it has seen that the thread has not been called, and that it has.
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

impl Router for Looking {
    fn get(&self, message: Interrupt) -> Option<Route> {
        self.router.get(message)
    }

    fn get_or_publish(&self, messages: &[Interrupt], routes: &mut Vec<Result<Route, RouterError>>) {
        self.look();
        self.router.get_or_publish(messages, routes);
    }

    fn attach(&self, eventfd: &EventFd, route: &Route) -> Result<(), RouterError> {
        self.look();
        self.router.attach(eventfd, route)
    }

    fn detach(&self, eventfd: &EventFd, route: &Route) -> Result<(), RouterError> {
        self.look();
        self.router.detach(eventfd, route)
    }

    fn put(&self, route: Route) {
        self.router.put(route);
    }

    fn signal(&self, message: Interrupt) -> Result<Signalled, RouterError> {
        self.router.signal(message)
    }
}

/// Four vectors that have their host vectors, and four that are to grow, all masked by Function Mask.
fn eight() -> (Arc<Looking>, MsixFunction) {
    let layout = Layout::new(TableSize::new(VECTORS as u16).unwrap(), (bar(0), 0), (bar(0), 0x8000)).unwrap();
    let router = FakeRouter::new(Failures::default());
    let (growth, not_called, called, panics) = Default::default();
    let router = Arc::new(Looking { router, growth, not_called, called, panics });
    let function = MsixFunction::new(layout, router.clone(), FakeBackend::new(Failures::default()));
    function.write_config(2, &ENABLE.to_le_bytes());
    unmask(&function, 0..4);
    function.write_config(2, &(ENABLE | FUNCTION_MASK).to_le_bytes());
    unmask(&function, 4..8);
    router.growth.get_or_init(|| function.deferred_bind_fd().unwrap());
    (router, function)
}

#[test]
fn the_thread_is_called_when_the_guests_access_has_given_the_device_up() {
    let (router, function) = eight();
    function.write_config(2, &ENABLE.to_le_bytes());
    let seen = [&router.not_called, &router.called].map(|seen| seen.load(Ordering::Relaxed));
    assert_eq!(seen, [4, 0], "the four that have their host vectors");
    assert_eq!((function.deferred(), is_readable(router.growth.get().unwrap())), (4, true));
}

#[test]
fn the_thread_is_called_also_where_the_access_panics_on_its_way() {
    let (router, function) = eight();
    router.panics.store(true, Ordering::Relaxed);
    let write = || function.write_config(2, &ENABLE.to_le_bytes());
    assert!(panic::catch_unwind(AssertUnwindSafe(write)).is_err());
    router.panics.store(false, Ordering::Relaxed);
    assert_eq!((function.deferred(), is_readable(router.growth.get().unwrap())), (4, true));
}

#[test]
fn a_vector_for_which_the_host_is_short_has_16_that_linger_given_back_and_not_all() {
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
fn what_the_end_of_those_that_linger_does_not_cure_costs_16_of_them_at_a_time() {
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
fn what_has_not_risen_as_an_access_panicked_is_at_the_next_one_what_it_should_be_then() {
    let (router, function) = eight();
    router.panics.store(true, Ordering::Relaxed);
    let write = || function.write_config(2, &ENABLE.to_le_bytes());
    assert!(panic::catch_unwind(AssertUnwindSafe(write)).is_err());
    router.panics.store(false, Ordering::Relaxed);
    function.write_table(12, &1u32.to_le_bytes());
    assert_eq!(
        function.report().live,
        3,
        "all but the first, on whose way it panicked and which is masked now"
    );
}
