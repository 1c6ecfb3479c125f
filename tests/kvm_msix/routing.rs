//! The VM's routing table: the number of commits, its content, and a full table.

use kvm_bindings::KvmIrqRouting;
use kvm_ioctls::VmFd;
use vm_msi::apic::DestinationIds;
use vm_msi::kvm::{Irqchip, KvmRouter, MessageGsis};
use vm_msi::router::{Gsi, RouterError, Signalled};
use vm_msi::{Interrupt, Target};
use vm_msi::{MsiMessage, Router};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::bare_metal::{
    Card, ENABLE, Guest, IRQCHIPS, Machine, Operation, eventually, fixed, turn_of_thousands,
};

const SERIAL_GSI: u32 = 4;
const SERIAL_VECTOR: u8 = 0x34;

/// The guest routes the serial port's interrupt to CPU 0 in the IOAPIC.
fn route_serial_port(guest: &Guest) {
    const SELECT: u64 = 0xfec0_0000;
    const WINDOW: u64 = 0xfec0_0010;
    let redirection = 0x10 + 2 * u64::from(SERIAL_GSI);
    let operations = [(redirection + 1, 0), (redirection, u64::from(SERIAL_VECTOR))]
        .map(|(register, value)| [Operation::write(SELECT, 4, register), Operation::write(WINDOW, 4, value)]);
    guest.perform(0, operations.as_flattened());
}

/// An eventfd that is attached to the serial port's pin.
fn serial_port(vm: &VmFd) -> EventFd {
    let eventfd = EventFd::new(EFD_NONBLOCK).unwrap();
    vm.register_irqfd(&eventfd, SERIAL_GSI).unwrap();
    eventfd
}

#[test]
fn the_serial_ports_interrupt_works_after_messages_were_committed() {
    let mut machine = Machine::new(Irqchip::Kernel, 1);
    let card = machine.plug(4);
    let (vm, router) = (machine.vm(), machine.router());
    let guest = machine.start();
    route_serial_port(&guest);
    let serial = serial_port(&vm);
    serial.write(1).unwrap();
    guest.wait_for(0, SERIAL_VECTOR, 1);

    guest.perform(0, &[card.control(ENABLE)]);
    guest.perform(0, &card.request(0, fixed(0, 0x41)));
    assert_eq!(router.counters().commits, 1);
    card.device.raise(0);
    guest.wait_for(0, 0x41, 1);
    serial.write(1).unwrap();
    guest.wait_for(0, SERIAL_VECTOR, 2);
}

/// The control of the test above: a table without the irqchip's pins fails it.
#[test]
fn a_table_without_the_pins_cuts_the_serial_port_off() {
    let machine = Machine::new(Irqchip::Kernel, 1);
    let vm = machine.vm();
    let guest = machine.start();
    route_serial_port(&guest);
    let serial = serial_port(&vm);
    serial.write(1).unwrap();
    guest.wait_for(0, SERIAL_VECTOR, 1);

    vm.set_gsi_routing(&KvmIrqRouting::new(0).unwrap()).unwrap();
    serial.write(1).unwrap();
    // The kernel takes the signal out of the eventfd, and there is nowhere to send it.
    eventually(|| serial.read().is_err(), || "the kernel to take the signal".into());
    guest.settle(0);
    assert_eq!(guest.all_interrupts(0), 1, "nothing more");
}

#[test]
fn other_entries_of_the_embedders_own_are_in_force_at_once_and_in_each_later_commit() {
    let mut machine = Machine::new(Irqchip::Kernel, 1);
    let card = machine.plug(4);
    let (vm, router) = (machine.vm(), machine.router());
    let guest = machine.start();
    route_serial_port(&guest);
    let serial = serial_port(&vm);
    let without = Irqchip::Kernel.pin_routes().filter(|entry| entry.gsi != SERIAL_GSI).collect();
    router.set_own_entries(without).unwrap();
    guest.perform(0, &[card.control(ENABLE)]);
    guest.perform(0, &card.request(0, fixed(0, 0x41)));
    serial.write(1).unwrap();
    eventually(|| serial.read().is_err(), || "the kernel to take the signal".into());
    card.device.raise(0);
    guest.wait_for(0, 0x41, 1);
    assert_eq!(guest.interrupts(0, SERIAL_VECTOR), 0, "its pin has no route");

    // KVM refuses a GSI that is twice the same pin's. What was in force stays.
    let twice = [0; 2].map(|pin| Irqchip::Kernel.pin_routes().nth(pin).unwrap()).to_vec();
    assert!(matches!(router.set_own_entries(twice), Err(RouterError::Commit { .. })));
    router.set_own_entries(Irqchip::Kernel.pin_routes().collect()).unwrap();
    serial.write(1).unwrap();
    guest.wait_for(0, SERIAL_VECTOR, 1);
    card.device.raise(0);
    guest.wait_for(0, 0x41, 2);
}

#[test]
fn messages_have_the_gsis_of_the_embedders_allocator_and_leave_the_others_alone() {
    for irqchip in IRQCHIPS {
        let machine = Machine::new(irqchip, 1);
        let (vm, ids) = (machine.vm(), DestinationIds::Bits8);
        // GSIs of pins, and of more than KVM takes, would make it refuse each table.
        let allocator = [Gsi(100), Gsi(4), Gsi(4096), Gsi(90)].into_iter();
        let gsis = MessageGsis { allocator, kept_free: 8 };
        let router = KvmRouter::with_gsis(vm, irqchip, 1, ids, gsis).unwrap();
        let room = router.counters().capacity;
        assert_eq!(room, KvmRouter::new(machine.vm(), irqchip, 1, ids).unwrap().counters().capacity - 8);
        let mut gsis = Vec::new();
        for cpu in 0..4 {
            let mut routes = Vec::new();
            router.get_or_publish(&[Interrupt::new(fixed(cpu, 0x41))], &mut routes);
            gsis.extend(routes.pop().unwrap().map(|route| route.gsi()).ok());
        }
        assert_eq!(gsis, [Gsi(100), Gsi(90)]);
    }
}

/// The control of all tests in which no interrupt is lost: this harness detects a lost interrupt.
#[test]
fn a_signal_that_meets_an_irqfd_without_a_route_is_lost_and_never_so_in_the_routers_order() {
    let machine = Machine::new(Irqchip::Kernel, 1);
    let (vm, router) = (machine.vm(), machine.router());
    let guest = machine.start();
    let publish = || {
        let mut routes = Vec::new();
        router.get_or_publish(&[Interrupt::new(fixed(0, 0x41))], &mut routes);
        routes.pop().unwrap().unwrap()
    };

    // Irqfd first: the signal is gone, also when the route comes.
    let early = EventFd::new(EFD_NONBLOCK).unwrap();
    let gsi = 24 + 0x41 - 0x20;
    vm.register_irqfd(&early, gsi).unwrap();
    early.write(1).unwrap();
    eventually(|| early.read().is_err(), || "the kernel to take the signal".into());
    let blank = publish();
    guest.settle(0);
    assert_eq!(guest.interrupts(0, 0x41), 0, "lost");
    vm.unregister_irqfd(&early, gsi).unwrap();
    router.put(blank);

    // The router's order: the eventfd keeps it.
    let eventfd = EventFd::new(EFD_NONBLOCK).unwrap();
    for round in 1..=100 {
        eventfd.write(1).unwrap();
        let route = publish();
        router.attach(&eventfd, &route).unwrap();
        guest.wait_for(0, 0x41, round);
        router.detach(&eventfd, &route).unwrap();
        router.put(route);
    }
}

/// The accesses by which a driver requests the 2048 vectors of a card, 208 on each CPU.
fn requests(card: &Card) -> Vec<Operation> {
    (0..2048)
        .flat_map(|vector| card.request(vector, fixed((vector / 208) as u8, 0x20 + (vector % 208) as u8)))
        .collect()
}

#[test]
fn vectors_of_destinations_that_were_published_at_start_cost_no_commit() {
    let _turn = turn_of_thousands();
    for irqchip in IRQCHIPS {
        let mut machine = Machine::new(irqchip, 1);
        let card = machine.plug(2048);
        let router = machine.router();
        router.publish_destinations(0..10).unwrap();
        assert_eq!(router.counters().commits, 1);
        let guest = machine.start();
        guest.perform(0, &[card.control(ENABLE)]);
        guest.perform(0, &requests(&card));
        assert_eq!(card.msix.report().live, 2048);
        assert_eq!(router.counters().commits, 1);
        card.device.raise(7);
        guest.wait_for(0, 0x27, 1);
    }
}

#[test]
fn vectors_of_destinations_that_were_not_published_cost_about_one_commit_a_destination() {
    let _turn = turn_of_thousands();
    let mut machine = Machine::new(Irqchip::Kernel, 1);
    let card = machine.plug(2048);
    let router = machine.router();
    let guest = machine.start();
    guest.perform(0, &[card.control(ENABLE)]);
    guest.perform(0, &requests(&card));
    assert_eq!(card.msix.report().live, 2048);
    assert_eq!(router.counters().commits, 12, "of ten, in a VM that was said to have one");

    let commits = router.counters().commits;
    let again: Vec<_> = (0..2048).flat_map(|v| [card.mask(v), card.unmask(v), card.mask(v)]).collect();
    guest.perform(0, &again);
    guest.perform(0, &[card.control(0), card.control(ENABLE)]);
    guest.perform(0, &requests(&card));
    assert_eq!(router.counters().commits, commits, "masking, growing and enabling again are free");
}

#[test]
fn a_message_is_delivered_without_any_route() {
    let machine = Machine::new(Irqchip::Kernel, 2);
    let router = machine.router();
    let guest = machine.start();
    assert_eq!(router.signal(Interrupt::new(fixed(1, 0x41))).unwrap(), Signalled::Delivered);
    guest.wait_for(1, 0x41, 1);
    assert_eq!(router.translate(MsiMessage::BLANK).unwrap(), Target::Memory(MsiMessage::BLANK));
    assert!(router.translate(fixed(1, 0x0f)).is_err());
    guest.settle(1);
    assert_eq!((guest.all_interrupts(1), router.counters().commits), (1, 0));
}
