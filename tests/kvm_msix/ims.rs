//! IMS on real KVM: a store of the largest size, beside MSI-X and alone.

use std::collections::BTreeSet;
use std::time::Instant;

use vm_msi::kvm::Irqchip;
use vm_msi::pool::{HostVector, LogicalFunction, Pool};
use vm_msi::{MsiMessage, SoftwareIms, Vector};

use crate::bare_metal::{
    Device, DeviceBackend, ENABLE, EventThread, IRQCHIPS, MASKED, Machine, PENDING, fixed, slot_layout,
    turn_of_thousands,
};
use crate::shortage::ROUTES;

const SLOTS: u32 = 65_536;
const LIVE: u32 = 8192;
/// Interrupts of one CPU, and as many CPUs as give every live slot its own interrupt.
const HANDLERS: u32 = 205;
const CPUS: u8 = LIVE.div_ceil(HANDLERS) as u8;

/// The CPU and interrupt of a live slot. No two slots share them.
fn place(index: u32) -> (u8, u8) {
    ((index / HANDLERS) as u8, 0x20 + (index % HANDLERS) as u8)
}

fn message(index: u32) -> MsiMessage {
    let (cpu, handler) = place(index);
    fixed(cpu, handler)
}

/// The live slots are spread over the whole store, up to its last slot.
fn slot(index: u32) -> u32 {
    index * (SLOTS / LIVE) + index % (SLOTS / LIVE)
}

#[test]
fn of_65536_slots_8192_are_live_and_every_one_delivers_by_the_kernel_or_from_userspace() {
    let _turn = turn_of_thousands();
    let mut machine = Machine::new(Irqchip::Kernel, CPUS);
    let slots = machine.plug_slots(SLOTS);
    let _thread = EventThread::start([slots.ims.clone()]);
    let guest = machine.start();

    let start = Instant::now();
    let requests: Vec<_> = (0..LIVE).flat_map(|i| slots.request(slot(i), message(i))).collect();
    guest.perform(0, &requests);
    let requested = start.elapsed();
    let report = slots.ims.report();
    assert_eq!((report.live, report.relayed, report.host_vectors), (ROUTES, LIVE - ROUTES, LIVE));
    let used: BTreeSet<u32> = report.vectors.iter().map(|vector| vector.vector.0).collect();
    assert!(used.into_iter().eq((0..LIVE).map(slot)), "and no other slot costs the host anything");

    let wait = |index: u32, count| {
        let (cpu, handler) = place(index);
        guest.wait_for(cpu, handler, count);
    };
    let start = Instant::now();
    for count in 1..=2 {
        (0..LIVE).for_each(|index| slots.device.raise(slot(index)));
        (0..LIVE).for_each(|index| wait(index, count));
    }
    let delivered = start.elapsed();

    // One of the kernel's and one of userspace's: masked, they wait, and say so in their own control.
    for index in [0, LIVE - 1] {
        guest.perform(0, &[slots.write_control(slot(index), MASKED)]);
        slots.device.raise(slot(index));
        assert_eq!(guest.perform(0, &[slots.read_control(slot(index))]), [MASKED | PENDING]);
        guest.perform(0, &[slots.write_control(slot(index), 0)]);
        wait(index, 3);
    }

    let start = Instant::now();
    slots.ims.invalidate();
    let invalidated = start.elapsed();
    let start = Instant::now();
    slots.ims.reset(|| slots.device.reset());
    println!(
        "{LIVE} of {SLOTS} slots: {requested:?} until all were requested, {delivered:?} for {} interrupts, \
         {invalidated:?} for an invalidation of all, {:?} for a reset",
        2 * LIVE,
        start.elapsed()
    );
    assert_eq!((slots.ims.report().host_vectors, slots.device.bound()), (0, 0));
}

#[test]
fn a_device_model_delivers_8192_of_65536_slots_with_no_route() {
    let _turn = turn_of_thousands();
    let machine = Machine::new(Irqchip::Kernel, CPUS);
    let router = machine.router();
    let ims = SoftwareIms::software(slot_layout(SLOTS), router.clone());
    let guest = machine.start();
    for index in 0..LIVE {
        let MsiMessage { address, data } = message(index);
        let at = u64::from(slot(index)) * 16;
        ims.write_slots(at, &address.to_le_bytes());
        ims.write_slots(at + 8, &u64::from(data).to_le_bytes());
    }
    (0..LIVE).for_each(|index| ims.trigger(Vector(slot(index))));
    for index in 0..LIVE {
        let (cpu, handler) = place(index);
        guest.wait_for(cpu, handler, 1);
    }
    let (counters, routes) = (ims.counters(), router.counters());
    assert_eq!((counters.delivered, counters.latched, counters.dropped), (u64::from(LIVE), 0, 0));
    assert_eq!((routes.commits, routes.in_use), (0, 0));
}

#[test]
fn msix_and_ims_of_one_device_each_fire_their_own_handler_whatever_becomes_of_the_other() {
    for irqchip in IRQCHIPS {
        let device = Device::new(10);
        let pool = Pool::new(DeviceBackend(device.clone()));
        let part = |vectors: std::ops::Range<u32>| {
            LogicalFunction::new(vectors.map(|vector| pool.alloc_at(HostVector(vector)).unwrap()))
        };
        let mut machine = Machine::new(irqchip, 2);
        let card = machine.plug_part(2, &device, part(0..2));
        let slots = machine.plug_slots_of(8, &device, part(2..10));
        let guest = machine.start();
        guest.perform(0, &[card.control(ENABLE)]);
        guest.perform(0, &card.request(1, fixed(1, 0x41)));
        guest.perform(0, &slots.request(7, fixed(1, 0x42)));
        let fire = |msix, ims| {
            [1, 9].iter().for_each(|vector| device.raise(*vector));
            guest.wait_for(1, 0x41, msix);
            guest.wait_for(1, 0x42, ims);
        };
        fire(1, 1);
        guest.perform(0, &[slots.write_control(7, MASKED), card.mask(0)]);
        fire(2, 1);
        guest.perform(0, &[slots.write_control(7, 0), card.mask(1)]);
        guest.wait_for(1, 0x42, 2);
        fire(2, 3);
        guest.perform(0, &[card.control(0)]);
        fire(2, 4);
        assert_eq!((slots.ims.report().live, card.msix.report().live, device.bound()), (1, 0, 1));
    }
}

#[test]
fn a_device_with_an_ims_only_masks_latches_and_retargets() {
    for irqchip in IRQCHIPS {
        let mut machine = Machine::new(irqchip, 2);
        let slots = machine.plug_slots(64);
        let guest = machine.start();
        assert_eq!(guest.perform(0, &[slots.read_control(63)]), [MASKED]);
        guest.perform(0, &slots.request(63, fixed(0, 0x41)));
        slots.device.raise(63);
        guest.wait_for(0, 0x41, 1);
        guest.perform(0, &[slots.write_control(63, MASKED)]);
        (0..3).for_each(|_| slots.device.raise(63));
        guest.settle(0);
        assert_eq!(guest.interrupts(0, 0x41), 1);
        assert_eq!(guest.perform(0, &[slots.read_control(63)]), [MASKED | PENDING]);
        guest.perform(0, &slots.request(63, fixed(1, 0x42)));
        guest.wait_for(1, 0x42, 1);
        slots.device.raise(63);
        guest.wait_for(1, 0x42, 2);
        guest.settle(0);
        assert_eq!(guest.interrupts(0, 0x41), 1, "nothing at its old place");
    }
}
