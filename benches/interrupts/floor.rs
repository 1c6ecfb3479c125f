//! The floor: the system calls that no VMM can do without, and nothing else.

use std::error::Error;
use std::time::Instant;

use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KvmIrqRouting, kvm_irq_routing_entry,
    kvm_irq_routing_entry__bindgen_ty_1, kvm_irq_routing_irqchip, kvm_irq_routing_msi,
};
use kvm_ioctls::{Kvm, VmFd};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::measure::{Sample, time};
use crate::ours::message;

/// Eventfds, each with the GSI that it is attached to.
pub(crate) type Irqfds = Vec<(EventFd, u32)>;

/// A VM with the full irqchip.
pub(crate) fn vm() -> Result<VmFd, Box<dyn Error>> {
    let vm = Kvm::new()
        .and_then(|kvm| kvm.create_vm())
        .map_err(|error| format!("no KVM here ({error}): these figures need /dev/kvm"))?;
    vm.create_irq_chip()?;
    Ok(vm)
}

/// `n` eventfds, one commit of `n` messages beside the IOAPIC's pins, `n` irqfds.
pub(crate) fn enable(vm: &VmFd, n: usize) -> Result<(Sample, Irqfds), Box<dyn Error>> {
    let start = Instant::now();
    let mut irqfds = Vec::with_capacity(n);
    let mut routes: Vec<_> = (0..24).map(pin).collect();
    for index in 0..n {
        let gsi = 24 + index as u32;
        irqfds.push((EventFd::new(EFD_NONBLOCK)?, gsi));
        routes.push(msi(gsi, index));
    }
    vm.set_gsi_routing(&KvmIrqRouting::from_entries(&routes)?)?;
    for (eventfd, gsi) in &irqfds {
        vm.register_irqfd(eventfd, *gsi)?;
    }
    Ok((Sample { time: start.elapsed(), commits: 1 }, irqfds))
}

/// `n` eventfds closed, and one irqfd detached: the kernel then waits for all.
pub(crate) fn turn_off(vm: &VmFd, n: usize) -> Result<Sample, Box<dyn Error>> {
    let (_, mut irqfds) = enable(vm, n)?;
    let start = Instant::now();
    let last = irqfds.pop();
    drop(irqfds);
    if let Some((eventfd, gsi)) = last {
        vm.unregister_irqfd(&eventfd, gsi)?;
    }
    Ok(Sample { time: start.elapsed(), commits: 0 })
}

/// One irqfd detached and attached again.
pub(crate) fn reattach(vm: &VmFd, irqfds: &[(EventFd, u32)]) -> Result<Sample, Box<dyn Error>> {
    let (eventfd, gsi) = &irqfds[irqfds.len() / 2];
    let mut result = Ok(());
    let sample = time(|| {
        result = vm.unregister_irqfd(eventfd, *gsi).and_then(|()| vm.register_irqfd(eventfd, *gsi));
    });
    result?;
    Ok(sample)
}

fn pin(gsi: u32) -> kvm_irq_routing_entry {
    let irqchip = kvm_irq_routing_irqchip { irqchip: 2, pin: gsi };
    let u = kvm_irq_routing_entry__bindgen_ty_1 { irqchip };
    kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_IRQCHIP, u, ..Default::default() }
}

fn msi(gsi: u32, index: usize) -> kvm_irq_routing_entry {
    let (address_lo, data) = message(index);
    let msi = kvm_irq_routing_msi { address_lo, data, ..Default::default() };
    let u = kvm_irq_routing_entry__bindgen_ty_1 { msi };
    kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_MSI, u, ..Default::default() }
}
