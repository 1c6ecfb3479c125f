//! The cost of unused entries: at most 32 bytes of heap each, in store and domain together, when three entries are used.
//!
//! The binary has one test, because it counts the allocations of all threads.

use std::alloc::System;
use std::sync::Arc;

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vm_msi::ims::{ControlFormat, QueueLayout, SlotArrayLayout, SlotCount};
use vm_msi::msix::{Bar, Layout, TableSize};
use vm_msi::testing::{Failures, FakeBackend, FakeRouter};
use vm_msi::{Backend, ImsFunction, MsixFunction, QueueFunction, Registers, Vector, ims, msix};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// What an idle entry may cost.
const BYTES: usize = 32;

/// What three entries in use, the function itself, and the fakes may cost: it does not grow with the entries.
const BESIDE: usize = 4096;

struct Parents {
    router: Arc<FakeRouter>,
    device: FakeBackend,
}

impl Parents {
    fn of(registers: &impl Registers) -> Self {
        let failures = Failures::default();
        let device = FakeBackend::with_capabilities(failures.clone(), registers.needs());
        Self { router: Arc::new(FakeRouter::new(failures)), device }
    }
}

/// What `make` leaves allocated, for each of `entries`.
fn measure<T>(what: &str, entries: usize, make: impl FnOnce() -> T) {
    let region = Region::new(ALLOCATOR);
    let made = make();
    let heap = region.change();
    let bytes = heap.bytes_allocated - heap.bytes_deallocated;
    println!("{what}: {bytes} bytes for {entries} entries");
    assert!(bytes <= entries * BYTES + BESIDE, "{what}: {bytes} bytes for {entries} entries");
    drop(made);
}

/// An entry's registers: a message of its own, unmasked.
fn entry(vector: u32) -> [u8; 16] {
    (u128::from(0xfee0_0000u32 | ((vector % 256) << 12)) | (0x41 << 64)).to_le_bytes()
}

fn used(entries: u32) -> [u32; 3] {
    [0, entries / 2, entries - 1]
}

#[test]
fn an_idle_entry_costs_32_bytes_of_heap_at_the_most() {
    let bar = Bar::new(0).unwrap();
    let table = Layout::new(TableSize::new(2048).unwrap(), (bar, 0), (bar, 0x8000)).unwrap();
    let Parents { router, device } = Parents::of(&msix::Msix::new(table.clone()));
    measure("MSI-X", 2048, || {
        let function = MsixFunction::try_new(table, router.clone(), device.clone()).unwrap();
        function.write_config(2, &0x8000u16.to_le_bytes());
        for vector in used(2048) {
            function.write_table(u64::from(vector) * 16, &entry(vector));
        }
        assert_eq!(function.report().live, 3);
        function
    });

    let (slots, control) = (SlotCount::MAX, ControlFormat::DSA);
    let array = SlotArrayLayout { slots, control };
    let Parents { router, device } = Parents::of(&ims::SlotArray::new(array));
    measure("IMS in a BAR", 65_536, || {
        let function = ImsFunction::try_new(array, router.clone(), device.clone()).unwrap();
        for slot in used(65_536) {
            function.write_slots(u64::from(slot) * 16, &entry(slot));
        }
        assert_eq!(function.report().live, 3);
        function
    });

    let queue = QueueLayout { slots, control };
    let Parents { router, device } = Parents::of(&ims::QueueStore::new(queue));
    let memory: GuestMemoryMmap = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x10_0000)]).unwrap();
    measure("IMS in guest memory", 65_536, || {
        let function = QueueFunction::try_new(queue, router.clone(), device.clone()).unwrap();
        for slot in used(65_536) {
            let address = GuestAddress(u64::from(slot) * 16);
            memory.write_slice(&entry(slot), address).unwrap();
            function.set_address(Vector(slot), address).unwrap();
            function.fetch(Vector(slot), &&memory).unwrap();
        }
        assert_eq!(function.report().live, 3);
        function
    });

    // Nobody has used it: then it costs nothing for its entries at all.
    let Parents { router, device } = Parents::of(&ims::SlotArray::new(array));
    measure("IMS that nobody uses", 0, || {
        ImsFunction::try_new(array, router.clone(), device.clone()).unwrap()
    });
    assert_eq!(device.capabilities().vectors, 65_536);
}
