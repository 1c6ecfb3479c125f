//! Rules of docs/invariants.md when an embedder's code panics, another vCPU accesses the function, or the device raises an interrupt
//! in the middle of a step.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::Duration;

use vm_msi::backend::{Backend, BackendError, Capabilities, Cookie, Growth};
use vm_msi::domain::Latched;
use vm_msi::ims::{ControlFormat, SlotArrayLayout, SlotCount};
use vm_msi::msi::{AddressWidth, MessageCount, MsiLayout, VectorMasking};
use vm_msi::msix::{Layout, TableSize};
use vm_msi::pool::{HostVector, LogicalFunction, Parent, Pool};
use vm_msi::refusal::Fault;
use vm_msi::remap::{Remapped, Stage};
use vm_msi::testing::{Failures, FakeBackend, FakeRouter};
use vm_msi::{ImsFunction, MsiFunction, MsiMessage, MsixFunction, RequesterId, Vector};
use vmm_sys_util::eventfd::EventFd;

use crate::fixture::{ENABLE, FUNCTION_MASK, bar};
use crate::router::{HookedRouter, HostCall};

fn layout(vectors: u16) -> Layout {
    Layout::new(TableSize::new(vectors).unwrap(), (bar(0), 0), (bar(0), 0x8000)).unwrap()
}

fn unmask(function: &MsixFunction, entry: u64) {
    function.write_table(entry * 16, &0xfee0_0000_u64.to_le_bytes());
    function.write_table(entry * 16 + 8, &(0x41 + entry % 128).to_le_bytes());
}

fn mask(function: &MsixFunction, entry: u64) {
    function.write_table(entry * 16 + 12, &1u32.to_le_bytes());
}

fn panics(run: impl FnOnce()) -> bool {
    catch_unwind(AssertUnwindSafe(run)).is_err()
}

type Hook<T> = Box<dyn FnMut(T) + Send>;

/// A device with a hook in each call.
struct Hooked {
    device: FakeBackend,
    window: u32,
    on_open: Hook<()>,
    on_bind: Hook<Vector>,
    on_unbind: Hook<Vector>,
    beyond: Arc<Mutex<Vec<(Vector, u32)>>>,
}

impl Hooked {
    fn new(device: FakeBackend) -> Self {
        Self {
            device,
            window: 0,
            on_open: Box::new(drop),
            on_bind: Box::new(|_| ()),
            on_unbind: Box::new(|_| ()),
            beyond: Arc::default(),
        }
    }
}

impl Backend for Hooked {
    fn capabilities(&self) -> Capabilities {
        self.device.capabilities()
    }
    fn open(&mut self, vectors: u32) -> Result<(), BackendError> {
        self.window = vectors;
        (self.on_open)(());
        self.device.open(vectors)
    }
    fn bind(&mut self, vector: Vector, eventfd: &EventFd) -> Result<(), BackendError> {
        (self.on_bind)(vector);
        if vector.0 >= self.window {
            self.beyond.lock().unwrap().push((vector, self.window));
        }
        self.device.bind(vector, eventfd)
    }
    fn unbind(&mut self, vector: Vector) -> Result<(), BackendError> {
        (self.on_unbind)(vector);
        self.device.unbind(vector)
    }
    fn close(&mut self) -> Result<(), BackendError> {
        self.device.close()
    }
    fn pending(&mut self, group: u32) -> u64 {
        self.device.pending(group)
    }
}

/// A router with a hook before each detach.
fn on_detach(hook: impl Fn() + Send + Sync + 'static) -> Arc<HookedRouter> {
    Arc::new(HookedRouter::new(move |call| {
        if call == HostCall::Detach {
            hook();
        }
    }))
}

/// A stage that panics at the n-th call once it is armed.
#[derive(Debug, Default)]
struct Panicking {
    at: AtomicU32,
    seen: AtomicU32,
}

impl Stage for Panicking {
    fn translate(&self, _: RequesterId, message: MsiMessage) -> Result<MsiMessage, Fault> {
        let seen = self.seen.fetch_add(1, Ordering::SeqCst) + 1;
        assert_ne!(seen, self.at.load(Ordering::SeqCst), "as told");
        Ok(message)
    }
}

/// A hook that panics once after it is armed.
fn panicking_once() -> (Arc<AtomicBool>, impl Fn() + Send + Sync + 'static) {
    let panics = Arc::new(AtomicBool::new(false));
    let armed = panics.clone();
    (panics, move || assert!(!armed.swap(false, Ordering::SeqCst), "as told"))
}

#[test]
fn no_vector_is_bound_beyond_the_window_that_was_opened_for_it() {
    let capabilities = Capabilities {
        vectors: 4,
        growth: Growth::Reserved,
        independent: false,
        multi_message: true,
        ims: false,
        cookies: false,
    };
    let mut hooked = Hooked::new(FakeBackend::with_capabilities(Failures::default(), capabilities));
    let (opening, granted) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
    let first = AtomicBool::new(true);
    let (is_opening, is_granted) = (opening.clone(), granted.clone());
    hooked.on_open = Box::new(move |()| {
        if first.swap(false, Ordering::SeqCst) {
            is_opening.wait();
            is_granted.wait();
        }
    });
    let beyond = hooked.beyond.clone();
    let layout = MsiLayout::new(MessageCount::new(4).unwrap(), AddressWidth::Bits64, VectorMasking::Present);
    let router = Arc::new(FakeRouter::new(Failures::default()));
    let function = MsiFunction::new(layout, router, hooked);
    function.write_config(4, &0xfee0_0000u64.to_le_bytes());
    function.write_config(12, &0x40u16.to_le_bytes());
    function.write_config(2, &0x0020u16.to_le_bytes());
    thread::scope(|scope| {
        let function = &function;
        // One vCPU enables MSI with one message, another with four while the window opens for one.
        scope.spawn(move || function.write_config(2, &0x0001u16.to_le_bytes()));
        opening.wait();
        scope.spawn(move || function.write_config(2, &0x0021u16.to_le_bytes()));
        while function.vectors() != 4 {
            thread::yield_now();
        }
        granted.wait();
    });
    assert_eq!(*beyond.lock().unwrap(), [], "(vector, window)");
    assert_eq!(function.report().live, 4);
}

#[test]
fn a_panic_in_a_stage_forgets_no_vector() {
    let stage = Arc::new(Panicking::default());
    let router = Arc::new(FakeRouter::new(Failures::default()));
    let remapped = Arc::new(Remapped::new(router, stage.clone(), RequesterId(1)));
    let function = MsixFunction::new(layout(8), remapped, FakeBackend::new(Failures::default()));
    function.write_config(2, &(ENABLE | FUNCTION_MASK).to_le_bytes());
    (0..8).for_each(|entry| unmask(&function, entry));
    stage.at.store(stage.seen.load(Ordering::SeqCst) + 3, Ordering::SeqCst);
    assert!(panics(|| function.write_config(2, &ENABLE.to_le_bytes())));
    assert!(function.failed_steps() > 0, "it is to be tried again");
    function.retry();
    assert_eq!((function.report().live, function.failed_steps()), (8, 0));
}

#[test]
fn a_panic_in_a_detach_leaves_no_masked_vector_live() {
    let (panic_once, hook) = panicking_once();
    let device = FakeBackend::new(Failures::default());
    let function = MsixFunction::new(layout(8), on_detach(hook), device);
    function.write_config(2, &ENABLE.to_le_bytes());
    (0..8).for_each(|entry| unmask(&function, entry));
    panic_once.store(true, Ordering::SeqCst);
    assert!(panics(|| function.write_config(2, &(ENABLE | FUNCTION_MASK).to_le_bytes())));
    assert!(function.failed_steps() > 0, "it is to be tried again");
    function.retry();
    assert_eq!((function.report().live, function.failed_steps()), (0, 0));
}

#[test]
fn a_panic_in_an_unbind_loses_no_interrupt() {
    let (panic_once, on_unbind) = panicking_once();
    let device = FakeBackend::new(Failures::default());
    let mut hooked = Hooked::new(device.clone());
    hooked.on_unbind = Box::new(move |_| on_unbind());
    let router = Arc::new(FakeRouter::new(Failures::default()));
    let function = MsixFunction::new(layout(8), router.clone(), hooked);
    function.write_config(2, &ENABLE.to_le_bytes());
    unmask(&function, 3);
    mask(&function, 3);
    device.raise(Vector(3));
    panic_once.store(true, Ordering::SeqCst);
    // Freed: masked and blank.
    assert!(panics(|| function.write_table(3 * 16, &[0; 12])));
    assert_eq!(function.pending(0), 1 << 3, "it still waits");
    function.retry();
    assert_eq!((function.pending(0), device.in_use()), (1 << 3, (0, true)));
    unmask(&function, 3);
    assert_eq!(router.take_delivered().len(), 1);
}

#[test]
fn a_panic_in_a_bind_leaves_what_is_deferred_to_the_next_call() {
    let (panic_once, on_bind) = panicking_once();
    let mut hooked = Hooked::new(FakeBackend::new(Failures::default()));
    hooked.on_bind = Box::new(move |_| on_bind());
    let router = Arc::new(FakeRouter::new(Failures::default()));
    let function = MsixFunction::new(layout(8), router, hooked);
    function.deferred_bind_fd().unwrap();
    function.write_config(2, &ENABLE.to_le_bytes());
    (0..8).for_each(|entry| unmask(&function, entry));
    panic_once.store(true, Ordering::SeqCst);
    assert!(panics(|| function.bind_deferred()));
    assert!(function.failed_steps() > 0, "it is to be tried again");
    function.retry();
    function.bind_deferred();
    assert_eq!((function.report().live, function.failed_steps()), (8, 0));
}

/// One vCPU masks a vector by `hide`. Another vCPU's access `show` shows the vector as masked, so it must not return before the first
/// vCPU has detached the vector.
fn waits_for_the_mask(show: impl Fn(&MsixFunction), hide: impl Fn(&MsixFunction) + Sync) {
    let begun = Arc::new(AtomicBool::new(false));
    let has_begun = begun.clone();
    let router = on_detach(move || {
        has_begun.store(true, Ordering::SeqCst);
        thread::sleep(Duration::from_millis(100));
    });
    let device = FakeBackend::new(Failures::default());
    let function = MsixFunction::new(layout(8), router.clone(), device.clone());
    function.write_config(2, &ENABLE.to_le_bytes());
    unmask(&function, 3);
    router.router.take_delivered();
    thread::scope(|scope| {
        scope.spawn(|| hide(&function));
        while !begun.load(Ordering::SeqCst) {
            thread::yield_now();
        }
        show(&function);
        assert!(router.detached() > 0, "it returned while the vector was being detached");
        device.raise(Vector(3));
        assert_eq!(router.router.take_delivered(), []);
    });
}

#[test]
fn a_write_of_a_mask_bit_that_is_set_already_waits_until_the_vector_is_silent() {
    waits_for_the_mask(|function| mask(function, 3), |function| mask(function, 3));
}

#[test]
fn a_read_that_shows_a_mask_bit_waits_until_the_vector_is_silent() {
    let read = |function: &MsixFunction| {
        let mut control = [0; 4];
        function.read_table(3 * 16 + 12, &mut control);
        assert_eq!(u32::from_le_bytes(control), 1);
    };
    waits_for_the_mask(read, |function| mask(function, 3));
    // Also a wide one, that begins before the entry.
    waits_for_the_mask(|function| function.read_table(0, &mut [0; 128]), |function| mask(function, 3));
}

#[test]
fn an_access_that_shows_function_mask_waits_until_the_vectors_are_silent() {
    let function_mask = |function: &MsixFunction| {
        function.write_config(2, &(ENABLE | FUNCTION_MASK).to_le_bytes());
    };
    waits_for_the_mask(|function| function.read_config(2, &mut [0; 2]), function_mask);
    waits_for_the_mask(function_mask, function_mask);
}

#[test]
fn a_latch_beyond_the_last_vector_is_refused() {
    let router = Arc::new(FakeRouter::new(Failures::default()));
    let function = MsixFunction::new(layout(8), router, FakeBackend::new(Failures::default()));
    assert_eq!(function.latch(Vector(7)), Latched::Waits);
    for beyond in [8, 2048, u32::MAX] {
        assert_eq!(function.latch(Vector(beyond)), Latched::NoSuchVector);
    }
}

/// A device that raises a vector just after the domain has unbound it and read its Pending bit.
struct Late {
    device: FakeBackend,
    raise: Arc<AtomicBool>,
    was_unbound: bool,
}

impl Backend for Late {
    fn capabilities(&self) -> Capabilities {
        self.device.capabilities()
    }
    fn open(&mut self, vectors: u32) -> Result<(), BackendError> {
        self.device.open(vectors)
    }
    fn bind(&mut self, vector: Vector, eventfd: &EventFd) -> Result<(), BackendError> {
        if std::mem::take(&mut self.was_unbound) && self.raise.swap(false, Ordering::SeqCst) {
            self.device.raise(Vector(1));
        }
        self.device.bind(vector, eventfd)
    }
    fn unbind(&mut self, vector: Vector) -> Result<(), BackendError> {
        self.was_unbound = vector.0 == 1;
        self.device.unbind(vector)
    }
    fn close(&mut self) -> Result<(), BackendError> {
        self.device.close()
    }
    fn pending(&mut self, group: u32) -> u64 {
        let bits = self.device.pending(group);
        if std::mem::take(&mut self.was_unbound) && self.raise.swap(false, Ordering::SeqCst) {
            self.device.raise(Vector(1));
        }
        bits
    }
    fn set_cookie(&mut self, vector: Vector, cookie: Option<Cookie>) -> Result<(), BackendError> {
        self.device.set_cookie(vector, cookie)
    }
}

#[test]
fn another_cookie_loses_nothing_and_keeps_the_host_vector() {
    let device = FakeBackend::new(Failures::default());
    let raise = Arc::new(AtomicBool::new(false));
    let router = Arc::new(FakeRouter::new(Failures::default()));
    let pool = Pool::new(Late { device: device.clone(), raise: raise.clone(), was_unbound: false });
    let table = Arc::new(pool.reserve(0..4).unwrap());
    let mut management = LogicalFunction::new([table.alloc_at(HostVector(0)).unwrap()]);
    management.open(1).unwrap();
    let part = Parent::enable(table, HostVector(0)).unwrap().sub_device(8);
    let vector_map = part.vector_map();
    let layout = SlotArrayLayout { slots: SlotCount::new(8).unwrap(), control: ControlFormat::DSA };
    let function = ImsFunction::try_new(layout, router.clone(), part).unwrap();
    function.write_slots(0, &0xfee0_0000u64.to_le_bytes());
    function.write_slots(8, &(0x41u64 | 0x0000_1008u64 << 32).to_le_bytes());
    let host = vector_map.get(Vector(0)).unwrap();
    raise.store(true, Ordering::SeqCst);
    // Another PASID, and the device raises the vector meanwhile.
    function.write_slots(12, &0x0000_2008u32.to_le_bytes());
    assert!(!raise.load(Ordering::SeqCst), "it was raised");
    assert_eq!((function.report().live, router.take_delivered().len()), (1, 1));
    assert_eq!(vector_map.get(Vector(0)), Some(host), "the host vector is the same");
    assert_eq!(pool.report().counters.strays, 0);
}
