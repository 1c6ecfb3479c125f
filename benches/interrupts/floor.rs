//! The floor: the system calls that no VMM can do without, and nothing else.

use std::hint;
use std::time::{Duration, Instant};

use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KvmIrqRouting, kvm_irq_routing_entry,
    kvm_irq_routing_entry__bindgen_ty_1, kvm_irq_routing_irqchip, kvm_irq_routing_msi, kvm_msi,
};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::measure::{Result, Sample, time};
use crate::message::message;

/// Eventfds, each with the GSI that it is attached to.
pub(crate) type Irqfds = Vec<(EventFd, u32)>;

/// A VM with the full irqchip.
pub(crate) fn vm() -> Result<VmFd> {
    let vm = Kvm::new()
        .and_then(|kvm| kvm.create_vm())
        .map_err(|error| format!("no KVM here ({error}): these figures need /dev/kvm"))?;
    vm.create_irq_chip()?;
    Ok(vm)
}

/// A VM with a local APIC that takes what it is sent.
pub(crate) fn vm_with_apic() -> Result<(VmFd, VcpuFd)> {
    /// Spurious Interrupt Vector register: software enable, and a vector.
    const SVR: usize = 0xf0;
    let vm = vm()?;
    let vcpu = vm.create_vcpu(0)?;
    let mut apic = vcpu.get_lapic()?;
    for (register, value) in apic.regs[SVR..].iter_mut().zip(0x1ff_u32.to_le_bytes()) {
        *register = value as i8;
    }
    vcpu.set_lapic(&apic)?;
    Ok((vm, vcpu))
}

/// `n` eventfds, one commit of `n` messages beside the irqchip's pins, `n` irqfds.
pub(crate) fn enable(vm: &VmFd, n: usize) -> Result<(Sample, Irqfds)> {
    let start = Instant::now();
    let irqfds: Irqfds =
        (0..n).map(|index| Ok((EventFd::new(EFD_NONBLOCK)?, gsi(index)))).collect::<Result<_>>()?;
    vm.set_gsi_routing(&table(n)?)?;
    for (eventfd, gsi) in &irqfds {
        vm.register_irqfd(eventfd, *gsi)?;
    }
    Ok((Sample { time: start.elapsed(), commits: 1 }, irqfds))
}

/// Vectors as a driver leaves them, and this crate: each irqfd attached when its eventfd was made. Where the kernel puts them
/// depends on that, and what it takes to go through them, as each detach and each commit does, on where they are.
pub(crate) fn live(vm: &VmFd, n: usize) -> Result<Irqfds> {
    vm.set_gsi_routing(&table(n)?)?;
    let attach = |index: usize| {
        let (eventfd, gsi) = (EventFd::new(EFD_NONBLOCK)?, gsi(index));
        vm.register_irqfd(&eventfd, gsi)?;
        Ok((eventfd, gsi))
    };
    (0..n).map(attach).collect()
}

/// As [`enable`], with a pause after each vector's eventfd and irqfd, which does not count.
pub(crate) fn enable_paced(vm: &VmFd, n: usize, pause: Duration) -> Result<Sample> {
    let start = Instant::now();
    vm.set_gsi_routing(&table(n)?)?;
    let mut spent = start.elapsed();
    let mut irqfds = Vec::with_capacity(n);
    for index in 0..n {
        let start = Instant::now();
        let eventfd = EventFd::new(EFD_NONBLOCK)?;
        vm.register_irqfd(&eventfd, gsi(index))?;
        irqfds.push(eventfd);
        spent += start.elapsed();
        wait(pause);
    }
    Ok(Sample { time: spent, commits: 1 })
}

/// Without giving the CPU up.
pub(crate) fn wait(pause: Duration) {
    let start = Instant::now();
    while start.elapsed() < pause {
        hint::spin_loop();
    }
}

/// `n` eventfds closed, and one irqfd detached: the kernel then waits for all.
pub(crate) fn turn_off(vm: &VmFd, n: usize) -> Result<Sample> {
    let mut irqfds = live(vm, n)?;
    let start = Instant::now();
    let last = irqfds.pop();
    drop(irqfds);
    if let Some((eventfd, gsi)) = last {
        vm.unregister_irqfd(&eventfd, gsi)?;
    }
    Ok(Sample { time: start.elapsed(), commits: 0 })
}

/// One irqfd detached and attached again.
pub(crate) fn reattach(vm: &VmFd, irqfds: &[(EventFd, u32)]) -> Result<Sample> {
    let (eventfd, gsi) = &irqfds[irqfds.len() / 2];
    let mut result = Ok(());
    let sample = time(|| {
        result = vm.unregister_irqfd(eventfd, *gsi).and_then(|()| vm.register_irqfd(eventfd, *gsi));
    });
    result?;
    Ok(sample)
}

/// All irqfds detached, and then attached again.
pub(crate) fn reattach_all(vm: &VmFd, irqfds: &Irqfds) -> Result<Sample> {
    let start = Instant::now();
    for (eventfd, gsi) in irqfds {
        vm.unregister_irqfd(eventfd, *gsi)?;
    }
    for (eventfd, gsi) in irqfds {
        vm.register_irqfd(eventfd, *gsi)?;
    }
    Ok(Sample { time: start.elapsed(), commits: 0 })
}

/// One irqfd attached again, after it was detached, which does not count.
pub(crate) fn attach(vm: &VmFd, irqfds: &[(EventFd, u32)]) -> Result<Sample> {
    let (eventfd, gsi) = &irqfds[irqfds.len() / 2];
    vm.unregister_irqfd(eventfd, *gsi)?;
    let mut result = Ok(());
    let sample = time(|| result = vm.register_irqfd(eventfd, *gsi));
    result?;
    Ok(sample)
}

/// Some irqfds detached, and attached again after one commit with so many messages more: the table has the others already,
/// so writing it does not count. Which ones they are plays a part: the kernel looks for each from the first that was
/// attached on.
pub(crate) fn retarget(
    vm: &VmFd,
    irqfds: &[(EventFd, u32)],
    moved: impl ExactSizeIterator<Item = usize> + Clone,
) -> Result<Sample> {
    let table = table(irqfds.len() + moved.len())?;
    let start = Instant::now();
    for index in moved.clone() {
        let (eventfd, gsi) = &irqfds[index];
        vm.unregister_irqfd(eventfd, *gsi)?;
    }
    vm.set_gsi_routing(&table)?;
    for (added, index) in moved.enumerate() {
        vm.register_irqfd(&irqfds[index].0, gsi(irqfds.len() + added))?;
    }
    Ok(Sample { time: start.elapsed(), commits: 1 })
}

/// One eventfd and one irqfd more, on a message that is committed already.
pub(crate) fn add(vm: &VmFd, irqfds: &mut Irqfds) -> Result<Sample> {
    let gsi = irqfds.first().map_or(gsi(0), |(_, gsi)| *gsi);
    let start = Instant::now();
    let eventfd = EventFd::new(EFD_NONBLOCK)?;
    vm.register_irqfd(&eventfd, gsi)?;
    let time = start.elapsed();
    irqfds.push((eventfd, gsi));
    Ok(Sample { time, commits: 0 })
}

/// One more message committed, and an irqfd attached to it, after it was detached, which does not count.
pub(crate) fn commit_and_attach(vm: &VmFd, irqfds: &[(EventFd, u32)]) -> Result<Sample> {
    let (eventfd, before) = &irqfds[irqfds.len() / 2];
    vm.unregister_irqfd(eventfd, *before)?;
    let table = table(irqfds.len() + 1)?;
    let start = Instant::now();
    vm.set_gsi_routing(&table)?;
    vm.register_irqfd(eventfd, gsi(irqfds.len()))?;
    Ok(Sample { time: start.elapsed(), commits: 1 })
}

/// One commit of `n` messages.
pub(crate) fn commit(vm: &VmFd, n: usize) -> Result<Sample> {
    let table = table(n)?;
    let mut result = Ok(());
    let sample = time(|| result = vm.set_gsi_routing(&table));
    result?;
    Ok(Sample { commits: 1, ..sample })
}

/// A message signalled so often.
pub(crate) fn signal(vm: &VmFd, times: u32) -> Result<Sample> {
    let (address_lo, data) = message(0);
    let msi = kvm_msi { address_lo, data, ..Default::default() };
    let mut result = Ok(());
    let sample = time(|| result = (0..times).try_for_each(|_| vm.signal_msi(msi).map(|_| ())));
    result?;
    Ok(sample)
}

fn gsi(index: usize) -> u32 {
    24 + index as u32
}

fn table(n: usize) -> Result<KvmIrqRouting> {
    let routes: Vec<_> = pins().chain((0..n).map(|index| msi(gsi(index), index))).collect();
    Ok(KvmIrqRouting::from_entries(&routes)?)
}

/// The routes that KVM gives an irqchip's pins at start, and every commit has to repeat: the PICs' and the IOAPIC's.
fn pins() -> impl Iterator<Item = kvm_irq_routing_entry> {
    let pic = (0..16).map(|gsi| pin(gsi, gsi / 8, gsi % 8));
    pic.chain((0..24).map(|gsi| pin(gsi, KVM_IRQCHIP_IOAPIC, gsi)))
}

fn pin(gsi: u32, irqchip: u32, pin: u32) -> kvm_irq_routing_entry {
    let irqchip = kvm_irq_routing_irqchip { irqchip, pin };
    let u = kvm_irq_routing_entry__bindgen_ty_1 { irqchip };
    kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_IRQCHIP, u, ..Default::default() }
}

fn msi(gsi: u32, index: usize) -> kvm_irq_routing_entry {
    let (address_lo, data) = message(index);
    let msi = kvm_irq_routing_msi { address_lo, data, ..Default::default() };
    let u = kvm_irq_routing_entry__bindgen_ty_1 { msi };
    kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_MSI, u, ..Default::default() }
}
