//! Slots in guest memory. A slot takes effect as it was when the driver rang the doorbell, and is refused if it cannot be read.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::thread;
use std::time::{Duration, Instant};

use vm_memory::{Bytes, GuestAddress, GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap};
use vm_msi::backend::Cookie;
use vm_msi::ims::{ControlFormat, QueueLayout, QueueState, QueueStore, SlotCount, SlotRefusal};
use vm_msi::state::{FunctionState, RestoreError, Resume, resume_all};
use vm_msi::testing::{Failures, FakeBackend, FakeRouter};
use vm_msi::{
    Delivery, InterruptFunction, MsiMessage, QueueFunction, Registers, SoftwareQueue, Store, Vector,
};

use crate::fixture::{MASK, PENDING, inverted, message, without_mask};

const SLOTS: u32 = 4096;
const SLOT: Vector = Vector(3000);
/// The address of the tests' slot.
const HERE: GuestAddress = GuestAddress(0x4560);
const THERE: GuestAddress = GuestAddress(0x8000);

/// RAM from 0 to 64 KiB, and a page more at 128 KiB that lacks its last 8 bytes.
fn ram() -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x10000), (GuestAddress(0x20000), 0x1000 - 8)]).unwrap()
}

fn layout(control: ControlFormat) -> QueueLayout {
    QueueLayout { slots: SlotCount::new(SLOTS).unwrap(), control }
}

struct Fixture {
    function: QueueFunction,
    router: Arc<FakeRouter>,
    device: FakeBackend,
    memory: GuestMemoryAtomic<GuestMemoryMmap>,
}

impl Fixture {
    fn after_reset(control: ControlFormat) -> Self {
        let failures = Failures::default();
        let router = Arc::new(FakeRouter::new(failures.clone()));
        let can = QueueStore::new(layout(control)).needs();
        let device = FakeBackend::with_capabilities(failures, can);
        let function = QueueFunction::try_new(layout(control), router.clone(), device.clone()).unwrap();
        Self { function, router, device, memory: GuestMemoryAtomic::new(ram()) }
    }

    /// The slot is in use.
    fn using() -> Self {
        let fixture = Self::after_reset(ControlFormat::DSA);
        fixture.function.set_address(SLOT, HERE).unwrap();
        fixture.write(HERE, message(1), 0);
        fixture.fetch().unwrap();
        fixture
    }

    fn write(&self, address: GuestAddress, message: MsiMessage, control: u32) {
        write(&self.memory.memory(), address, message, control);
    }

    fn fetch(&self) -> Result<(), SlotRefusal> {
        self.function.fetch(SLOT, &self.memory)
    }

    /// Raises an interrupt, and returns the messages that the guest receives at once.
    fn raise(&self) -> Vec<MsiMessage> {
        self.device.raise(SLOT);
        self.delivered()
    }

    fn delivered(&self) -> Vec<MsiMessage> {
        self.router.pump();
        self.router.take_delivered()
    }

    fn control(&self) -> u32 {
        let mut data = [0; 4];
        self.function.read_copies(u64::from(SLOT.0) * 16 + 12, &mut data);
        u32::from_le_bytes(data)
    }
}

fn write(memory: &GuestMemoryMmap, address: GuestAddress, message: MsiMessage, control: u32) {
    memory.write_obj(message.address, address).unwrap();
    memory
        .write_obj(u64::from(control) << 32 | u64::from(message.data), GuestAddress(address.0 + 8))
        .unwrap();
}

#[test]
fn a_slot_is_in_force_from_its_doorbell_on_and_costs_nothing_before() {
    let fixture = Fixture::after_reset(ControlFormat::DSA);
    fixture.write(HERE, message(1), 0);
    fixture.function.set_address(SLOT, HERE).unwrap();
    assert_eq!((fixture.function.vectors(), fixture.device.in_use()), (0, (0, false)));
    fixture.fetch().unwrap();
    assert_eq!((fixture.device.in_use(), fixture.raise()), ((1, true), vec![message(1)]));
}

#[test]
fn what_a_guest_rewrites_counts_from_its_next_doorbell_on() {
    let fixture = Fixture::using();
    fixture.write(HERE, message(2), 0);
    assert_eq!(fixture.raise(), [message(1)]);
    fixture.fetch().unwrap();
    assert_eq!(fixture.raise(), [message(2)]);
    fixture.write(HERE, MsiMessage::BLANK, MASK);
    assert_eq!(fixture.raise(), [message(2)]);
    fixture.fetch().unwrap();
    assert_eq!((fixture.raise(), fixture.device.in_use()), (vec![], (0, true)), "it is freed");
}

#[test]
fn a_doorbell_for_a_slot_that_did_not_change_asks_the_host_for_nothing() {
    let fixture = Fixture::using();
    let before = fixture.function.report().counters;
    fixture.fetch().unwrap();
    assert_eq!(fixture.function.report().counters, before);
}

#[test]
fn a_masked_slot_latches_says_so_in_its_copy_and_fires_once_on_unmask() {
    for (format, masked, unmasked, pending) in
        [(ControlFormat::DSA, MASK, 0, PENDING), (inverted(), 0, 1 << 31, 1)]
    {
        let fixture = Fixture::after_reset(format);
        fixture.function.set_address(SLOT, HERE).unwrap();
        fixture.write(HERE, message(1), masked);
        fixture.fetch().unwrap();
        assert_eq!((fixture.raise(), fixture.raise()), (vec![], vec![]));
        assert_eq!(fixture.control(), masked | pending);
        let pending_bits = fixture.function.pending(SLOT.0 / 64);
        assert_eq!(pending_bits, 1 << (SLOT.0 % 64));
        fixture.write(HERE, message(1), unmasked);
        fixture.fetch().unwrap();
        assert_eq!((fixture.delivered(), fixture.control()), (vec![message(1)], unmasked));
        let in_memory: u32 = fixture.memory.memory().read_obj(GuestAddress(HERE.0 + 12)).unwrap();
        assert_eq!(in_memory, unmasked, "guest memory is the guest's");
    }
}

#[test]
fn what_a_guest_writes_into_reserved_and_pending_bits_is_not_in_the_copy() {
    let fixture = Fixture::using();
    fixture.write(HERE, message(1), u32::MAX);
    fixture.fetch().unwrap();
    assert_eq!(fixture.control(), 0xffff_f009);
}

#[test]
fn a_slot_without_a_mask_bit_signals_until_its_message_is_cleared() {
    let fixture = Fixture::after_reset(without_mask());
    fixture.function.set_address(SLOT, HERE).unwrap();
    fixture.write(HERE, message(1), u32::MAX);
    fixture.fetch().unwrap();
    assert_eq!(fixture.raise(), [message(1)]);
    fixture.write(HERE, MsiMessage::BLANK, 0);
    fixture.fetch().unwrap();
    assert_eq!((fixture.raise(), fixture.control()), (vec![], PENDING));
}

#[test]
fn a_cookie_is_with_the_device_when_the_doorbell_has_been_served() {
    let fixture = Fixture::using();
    fixture.write(HERE, message(1), 0xabc << 12 | 1 << 3);
    fixture.fetch().unwrap();
    assert_eq!(fixture.device.cookie(SLOT), Some(Cookie(0xabc)));
    assert_eq!(fixture.raise(), [message(1)]);
}

#[test]
fn a_slot_that_is_moved_stays_in_force_until_it_is_read_at_its_new_place() {
    let fixture = Fixture::using();
    fixture.function.set_address(SLOT, THERE).unwrap();
    assert_eq!(fixture.raise(), [message(1)]);
    fixture.write(THERE, message(2), 0);
    fixture.fetch().unwrap();
    assert_eq!(fixture.raise(), [message(2)]);
    fixture.write(HERE, message(3), 0);
    fixture.fetch().unwrap();
    assert_eq!(fixture.raise(), [message(2)], "its old place is ordinary memory");
}

#[test]
fn a_slot_that_is_taken_from_its_place_is_off_at_once_and_what_came_meanwhile_comes_when_it_is_back() {
    let fixture = Fixture::using();
    fixture.function.clear_address(SLOT).unwrap();
    assert_eq!((fixture.raise(), fixture.device.in_use()), (vec![], (0, true)));
    assert_eq!(fixture.fetch(), Err(SlotRefusal::NoAddress { slot: SLOT }));
    fixture.function.set_address(SLOT, HERE).unwrap();
    fixture.fetch().unwrap();
    assert_eq!(fixture.delivered(), [message(1)]);
}

#[test]
fn slots_that_do_not_exist_and_addresses_that_are_not_aligned_are_refused_counted_and_change_nothing() {
    let fixture = Fixture::using();
    let beyond = Vector(SLOTS);
    let no_such_slot = Err(SlotRefusal::NoSuchSlot { slot: beyond, slots: SLOTS });
    assert_eq!(fixture.function.set_address(beyond, HERE), no_such_slot);
    assert_eq!(fixture.function.clear_address(beyond), no_such_slot);
    assert_eq!(fixture.function.fetch(beyond, &fixture.memory), no_such_slot);
    for odd in 1..16 {
        let address = GuestAddress(THERE.0 + odd);
        let misaligned = Err(SlotRefusal::Misaligned { slot: SLOT, address });
        assert_eq!(fixture.function.set_address(SLOT, address), misaligned);
    }
    assert_eq!(fixture.function.look(QueueStore::refusals), 18);
    assert_eq!(fixture.function.look(|queue| queue.address(SLOT)), Some(HERE));
    fixture.fetch().unwrap();
    assert_eq!(fixture.raise(), [message(1)]);
}

#[test]
fn a_slot_that_cannot_be_read_is_off_and_loses_nothing_until_it_can() {
    let straddling = GuestAddress(0x20000 + 0x1000 - 16);
    let [hole, end] = [GuestAddress(0x10000), GuestAddress(u64::MAX - 15)];
    for address in [hole, end, straddling] {
        let fixture = Fixture::using();
        fixture.function.set_address(SLOT, address).unwrap();
        let refused = fixture.fetch().unwrap_err();
        if address == straddling {
            assert_eq!(refused, SlotRefusal::Straddles { slot: SLOT, address });
        } else {
            assert_eq!(refused, SlotRefusal::NotMemory { slot: SLOT, address });
        }
        assert_eq!(fixture.function.look(QueueStore::refusals), 1);
        assert_eq!((fixture.raise(), fixture.control()), (vec![], MASK | PENDING));
        fixture.function.set_address(SLOT, THERE).unwrap();
        fixture.write(THERE, message(2), 0);
        fixture.fetch().unwrap();
        assert_eq!(fixture.delivered(), [message(2)]);
    }
}

#[test]
fn a_slot_across_two_regions_that_touch_is_refused() {
    let memory: GuestMemoryMmap =
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x1008), (GuestAddress(0x1008), 0x1000)]).unwrap();
    let fixture = Fixture::after_reset(ControlFormat::DSA);
    let address = GuestAddress(0x1000);
    fixture.function.set_address(SLOT, address).unwrap();
    let refused = fixture.function.fetch(SLOT, &&memory);
    assert_eq!(refused, Err(SlotRefusal::Straddles { slot: SLOT, address }));
    // Where the host has a region at another alignment than the guest, a slot of it is read all the same.
    let address = GuestAddress(0x1010);
    fixture.function.set_address(SLOT, address).unwrap();
    write(&memory, address, message(1), 0);
    fixture.function.fetch(SLOT, &&memory).unwrap();
    assert_eq!(fixture.raise(), [message(1)]);
}

#[test]
fn memory_that_is_unplugged_takes_a_slot_out_of_force_at_its_next_doorbell_only() {
    let fixture = Fixture::using();
    let without = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x1000)]).unwrap();
    fixture.memory.lock().unwrap().replace(without);
    assert_eq!(fixture.raise(), [message(1)], "the device has what it has read");
    assert_eq!(fixture.fetch(), Err(SlotRefusal::NotMemory { slot: SLOT, address: HERE }));
    assert_eq!(fixture.raise(), []);
    fixture.memory.lock().unwrap().replace(ram());
    fixture.write(HERE, message(2), 0);
    fixture.fetch().unwrap();
    assert_eq!(fixture.delivered(), [message(2)]);
}

#[cfg(target_arch = "x86_64")]
fn reads_16_bytes_at_once() -> bool {
    std::arch::is_x86_feature_detected!("avx")
}

#[cfg(not(target_arch = "x86_64"))]
fn reads_16_bytes_at_once() -> bool {
    false
}

#[test]
fn a_slot_that_a_careful_driver_rewrites_while_it_is_read_is_never_half_of_two_messages() {
    if !reads_16_bytes_at_once() {
        println!("not tested: the crate cannot read 16 bytes at once on this CPU");
        return;
    }
    const READS: u32 = 200_000;
    let memory = ram();
    let queue = QueueStore::new(layout(ControlFormat::DSA));
    queue.set_address(SLOT, HERE).unwrap();
    let messages = [message(1), MsiMessage { address: 0xfee7_7000, data: 0xffff }];
    let ended = AtomicBool::new(false);
    let mut seen = [0; 2];
    thread::scope(|scope| {
        scope.spawn(|| {
            let at = |offset| GuestAddress(HERE.0 + offset);
            while !ended.load(Relaxed) {
                for MsiMessage { address, data } in messages {
                    memory.store(MASK, at(12), Release).unwrap();
                    memory.store(address as u32, at(0), Release).unwrap();
                    memory.store((address >> 32) as u32, at(4), Release).unwrap();
                    memory.store(data, at(8), Release).unwrap();
                    memory.store(0u32, at(12), Release).unwrap();
                }
            }
        });
        let start = Instant::now();
        let mut reads = 0;
        // On a busy machine the other thread may come late.
        while reads < READS || seen.contains(&0) && start.elapsed() < Duration::from_secs(60) {
            reads += 1;
            let _ = queue.fetch(SLOT, &&memory);
            if let Delivery::Live(message) = queue.delivery(SLOT) {
                match messages.iter().position(|written| *written == message) {
                    Some(which) => seen[which] += 1,
                    // Memory is blank at first, and its mask clear.
                    None if message == MsiMessage::BLANK => {}
                    None => {
                        ended.store(true, Relaxed);
                        panic!("{message} was never written");
                    }
                }
            }
        }
        ended.store(true, Relaxed);
    });
    assert!(seen.iter().all(|count| *count > 0), "it was rewritten meanwhile: {seen:?}");
}

#[test]
fn a_reset_forgets_places_copies_and_what_waited() {
    let fixture = Fixture::using();
    fixture.write(HERE, message(1), MASK);
    fixture.fetch().unwrap();
    assert_eq!(fixture.raise(), []);
    fixture.function.reset(|| fixture.device.reset());
    assert_eq!((fixture.device.in_use(), fixture.control()), ((0, false), MASK));
    assert_eq!(fixture.fetch(), Err(SlotRefusal::NoAddress { slot: SLOT }));
    assert_eq!(fixture.function.vectors(), 0, "a doorbell for nothing does not begin anything");
    fixture.write(HERE, message(1), 0);
    fixture.function.set_address(SLOT, HERE).unwrap();
    fixture.fetch().unwrap();
    assert_eq!((fixture.delivered(), fixture.raise()), (vec![], vec![message(1)]));
}

#[test]
fn a_device_models_slot_in_memory_delivers_without_a_route_and_waits_while_it_is_off() {
    let router = Arc::new(FakeRouter::new(Failures::default()));
    let model = SoftwareQueue::try_software(layout(ControlFormat::DSA), router.clone()).unwrap();
    let memory = ram();
    write(&memory, HERE, message(1), 0);
    model.set_address(SLOT, HERE).unwrap();
    model.trigger(SLOT);
    assert_eq!((router.take_delivered(), model.counters().dropped), (vec![], 1), "before the first doorbell");
    model.fetch(SLOT, &&memory).unwrap();
    model.trigger(SLOT);
    assert_eq!((router.take_delivered(), router.commits()), (vec![message(1)], 0));
    model.clear_address(SLOT).unwrap();
    model.trigger(SLOT);
    assert_eq!(router.take_delivered(), []);
    model.set_address(SLOT, HERE).unwrap();
    model.fetch(SLOT, &&memory).unwrap();
    assert_eq!(router.take_delivered(), [message(1)]);
}

#[test]
fn slots_in_memory_go_to_another_vm_as_they_were_read_and_no_memory_is_looked_at() {
    let fixture = Fixture::using();
    fixture.write(HERE, message(1), MASK);
    fixture.fetch().unwrap();
    assert_eq!(fixture.raise(), []);
    fixture.write(HERE, message(2), 0);
    let state = fixture.function.suspend().unwrap();
    let bytes = postcard::to_stdvec(&state).unwrap();
    let state: FunctionState<QueueState> = postcard::from_bytes(&bytes).unwrap();

    let failures = Failures::default();
    let router = Arc::new(FakeRouter::new(failures.clone()));
    let device = fixture.device.moved(failures);
    let moved: QueueFunction = InterruptFunction::new(layout(ControlFormat::DSA), router.clone(), device);
    moved.restore(&state).unwrap();
    assert_eq!(moved.suspend().unwrap(), state);
    resume_all(&*router, [&moved as &dyn Resume]);
    assert_eq!(router.take_delivered(), []);
    moved.fetch(SLOT, &fixture.memory).unwrap();
    assert_eq!(router.take_delivered(), [message(2)]);
}

#[test]
fn a_state_that_no_store_in_memory_could_have_is_refused_with_nothing_changed() {
    let fixture = Fixture::using();
    let state = fixture.function.suspend().unwrap();
    resume_all(&*fixture.router, [&fixture.function as &dyn Resume]);
    let with = |change: fn(&mut QueueState)| {
        let mut state = state.clone();
        change(&mut state.registers);
        fixture.function.restore(&state).unwrap_err()
    };
    let error = with(|state| state.addresses[7] = Some(0x4568));
    assert!(
        matches!(error, RestoreError::Reserved { register: "Address", vector: Vector(7), .. }),
        "{error}"
    );
    for error in [with(|state| state.addresses[SLOT.index()] = None), with(|state| state.addresses.clear())] {
        assert!(matches!(error, RestoreError::NoAddress { vector: SLOT }), "{error}");
    }
    let error = with(|state| state.addresses.truncate(7));
    assert!(matches!(error, RestoreError::TableSize { found: 7, .. }), "{error}");
    let error = with(|state| state.copies.slots[7].control = PENDING);
    assert!(matches!(error, RestoreError::Reserved { register: "Control", .. }), "{error}");
    assert_eq!(fixture.raise(), [message(1)]);
}
