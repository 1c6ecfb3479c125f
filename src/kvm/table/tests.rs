//! The buffer that KVM reads, with a VM that only records it.

use std::sync::Mutex;

use kvm_bindings::KVM_IRQ_ROUTING_IRQCHIP;
use kvm_ioctls::Cap;
use vmm_sys_util::eventfd::EventFd;

use super::*;
use crate::interrupt::DeviceId;
use crate::kvm::Irqchip;
use crate::message::MsiMessage;
use crate::publisher::Publisher;

/// Keeps the last table, also if it was refused.
#[derive(Default)]
struct Vm(Mutex<State>);

#[derive(Default)]
struct State {
    entries: Vec<kvm_irq_routing_entry>,
    errno: Option<i32>,
}

impl Vm {
    fn refuse(&self, errno: impl Into<Option<i32>>) {
        self.0.lock().unwrap().errno = errno.into();
    }

    fn entries(&self) -> Vec<kvm_irq_routing_entry> {
        self.0.lock().unwrap().entries.clone()
    }
}

impl KvmVm for Vm {
    fn check_extension(&self, _: Cap) -> i32 {
        4096
    }

    fn set_gsi_routing(&self, table: &KvmIrqRouting) -> io::Result<()> {
        let state = &mut *self.0.lock().unwrap();
        state.entries = table.as_slice().to_vec();
        state.errno.map_or(Ok(()), |errno| Err(io::Error::from_raw_os_error(errno)))
    }

    fn register_irqfd(&self, _: &EventFd, _: Gsi) -> io::Result<()> {
        Ok(())
    }

    fn unregister_irqfd(&self, _: &EventFd, _: Gsi) -> io::Result<()> {
        Ok(())
    }

    fn signal_msi(&self, _: kvm_msi) -> io::Result<i32> {
        Ok(1)
    }
}

fn message(destination: u32, vector: u8) -> Interrupt {
    let message = MsiMessage { address: u64::from(0xfee0_0000 | destination << 12), data: vector.into() };
    Interrupt::new(message)
}

/// GSI, flags, message and device ID.
type Row = (u32, u32, MsiMessage, u32);

fn row(entry: &kvm_irq_routing_entry) -> Option<Row> {
    if entry.type_ != KVM_IRQ_ROUTING_MSI {
        return None;
    }
    // SAFETY: the entry's type says which member of the union is valid.
    let msi = unsafe { entry.u.msi };
    // SAFETY: both members of this union are one u32.
    let device = unsafe { msi.__bindgen_anon_1.devid };
    let message = MsiMessage::from_registers(msi.address_lo, msi.address_hi, msi.data);
    Some((entry.gsi, entry.flags, message, device))
}

fn publisher(vm: &Arc<Vm>, irqchip: Irqchip) -> Publisher<KvmTable<Vm>> {
    let gsis = (Irqchip::FIRST_GSI..4096).map(Gsi);
    let publisher = Publisher::new(KvmTable::new(vm.clone()), gsis, irqchip.message_routes(4096), 4);
    publisher.with_own_entries(irqchip.pin_routes().collect())
}

/// Checks that the buffer contains the pins, and then each message of the table.
fn assert_is_whole(vm: &Vm, irqchip: Irqchip, messages: &[Interrupt]) {
    let entries = vm.entries();
    let (pins, routes) = entries.split_at(irqchip.pin_routes().count());
    assert!(pins.iter().all(|entry| entry.type_ == KVM_IRQ_ROUTING_IRQCHIP));
    assert!(pins.iter().map(|entry| entry.gsi).eq(irqchip.pin_routes().map(|entry| entry.gsi)));
    let rows: Vec<Row> = routes.iter().map(|entry| row(entry).unwrap()).collect();
    assert!(rows.iter().map(|(gsi, ..)| *gsi).eq((Irqchip::FIRST_GSI..).take(rows.len())));
    for message in messages {
        let carried = rows.iter().filter(|(_, flags, carried, device)| {
            (*flags, *device) == (0, 0) && *carried == message.message()
        });
        assert_eq!(carried.count(), 1, "{message}");
    }
}

#[test]
fn each_commit_has_the_pins_and_then_the_messages_also_after_a_refusal() {
    for irqchip in Irqchip::EACH {
        let vm = Arc::new(Vm::default());
        let publisher = publisher(&vm, irqchip);
        let mut wanted = Vec::new();
        for destination in 0..4 {
            for vector in [0x30, 0x70, 0x71, 0xe0] {
                let mut routes = Vec::new();
                vm.refuse(22);
                publisher.get_or_publish(&[message(destination + 100, vector)], &mut routes);
                assert!(routes.pop().unwrap().is_err());
                vm.refuse(None);
                wanted.push(message(destination, vector));
                publisher.get_or_publish(&wanted, &mut routes);
                assert!(routes.iter().all(Result::is_ok));
                if !routes.is_empty() {
                    assert_is_whole(&vm, irqchip, &wanted);
                }
            }
        }
    }
}

#[test]
fn new_own_entries_replace_the_pins() {
    let (vm, irqchip) = (Arc::new(Vm::default()), Irqchip::EACH[0]);
    let publisher = publisher(&vm, irqchip);
    let mut routes = Vec::new();
    publisher.get_or_publish(&[message(0, 0x41)], &mut routes);
    let (before, pins) = (vm.entries(), irqchip.pin_routes().count());
    publisher.set_own_entries(irqchip.pin_routes().take(3).collect()).unwrap();
    let after = vm.entries();
    assert_eq!(after.len(), before.len() - pins + 3);
    assert!(after[3..].iter().map(row).eq(before[pins..].iter().map(row)));
}

#[test]
fn a_route_and_a_message_from_userspace_carry_a_given_device() {
    let without_device = message(1, 0x41);
    let (address_lo, data) = (without_device.message().address_low(), without_device.message().data);
    for (interrupt, flags, devid) in
        [(without_device, 0, 0), (without_device.sent_by(DeviceId(0x1_0008)), 1, 0x1_0008)]
    {
        let entry = msi_route(Gsi(30), interrupt);
        assert_eq!(row(&entry), Some((30, flags, without_device.message(), devid)));
        let expected = kvm_msi { address_lo, data, flags, devid, ..Default::default() };
        assert_eq!(msi(interrupt), expected);
    }
}

#[test]
fn only_arm64_distinguishes_devices() {
    let sent = message(1, 0x41).sent_by(DeviceId(8));
    let expected = if cfg!(target_arch = "aarch64") { sent } else { message(1, 0x41) };
    assert_eq!(KvmTable::<Vm>::key(sent), expected);
}
