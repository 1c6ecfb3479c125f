//! A device model inside the VMM, with MSI-X, on KVM: `cargo run --example device_model`. Needs /dev/kvm and x86-64.
//!
//! `SoftwareMsix` takes the place of QEMU's `msix_init` and `msix_notify`, and of Cloud Hypervisor's `MsixConfig` with its
//! `InterruptSourceGroup`. A trigger is one KVM_SIGNAL_MSI: there is no eventfd, no GSI and no route.
//!
//! The guest is 16-bit code. It programs a table entry through MMIO exits, rings the device while the entry is masked, unmasks
//! the entry and halts. Its interrupt handler writes to a port, by which this program sees that the interrupt arrived.
//!
//! Features: `kvm`.

use std::error::Error;
use std::process;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};
use vm_msi::apic::DestinationIds;
use vm_msi::kvm::{Irqchip, KvmRouter};
use vm_msi::msix::{Bar, Layout, TableSize};
use vm_msi::{SoftwareMsix, Vector};

/// Where the guest sees BAR 0: the table at its start, the pending bits at 0x800.
const BAR: u64 = 0xd_0000;
const PBA: u32 = 0x800;
const RAM: usize = 0x1_0000;
const CODE: u64 = 0x1000;
const HANDLER: u64 = 0x1100;
/// The interrupt vector in the guest's message.
const INTERRUPT: u64 = 0x41;
/// Ports: the device's doorbell, and where the guest's interrupt handler writes.
const DOORBELL: u16 = 0x10;
const HANDLED: u16 = 0x11;

#[rustfmt::skip]
const GUEST: &[u8] = &[
    0xb8, 0x00, 0xd0,                                     // mov ax, BAR >> 4
    0x8e, 0xd8,                                           // mov ds, ax
    0x66, 0xc7, 0x06, 0x00, 0x00, 0x00, 0x00, 0xe0, 0xfe, // mov dword [0], 0xfee00000  address: APIC 0
    0x66, 0xc7, 0x06, 0x04, 0x00, 0x00, 0x00, 0x00, 0x00, // mov dword [4], 0
    0x66, 0xc7, 0x06, 0x08, 0x00, 0x41, 0x00, 0x00, 0x00, // mov dword [8], 0x41        data: the interrupt vector
    0xe6, 0x10,                                           // out 0x10, al               the entry is still masked
    0x66, 0xa1, 0x00, 0x08,                               // mov eax, [PBA]
    0x66, 0xc7, 0x06, 0x0c, 0x00, 0x00, 0x00, 0x00, 0x00, // mov dword [12], 0          unmask
    0xfb,                                                 // sti
    0xf4,                                                 // hlt
    0xeb, 0xfd,                                           // jmp to hlt
];
const GUEST_HANDLER: &[u8] = &[0xe6, 0x11, 0xcf]; // out 0x11, al; iret

fn main() -> Result<(), Box<dyn Error>> {
    let kvm = Kvm::new()?;
    let vm = Arc::new(kvm.create_vm()?);
    vm.set_tss_address(0xfffb_d000)?;
    vm.create_irq_chip()?;
    let memory: GuestMemoryMmap = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), RAM)])?;
    memory.write_slice(GUEST, GuestAddress(CODE))?;
    memory.write_slice(GUEST_HANDLER, GuestAddress(HANDLER))?;
    memory.write_obj((HANDLER as u32).to_le(), GuestAddress(INTERRUPT * 4))?; // segment 0, as in the real-mode IVT
    let userspace_addr = memory.get_host_address(GuestAddress(0))? as u64;
    let region =
        kvm_userspace_memory_region { memory_size: RAM as u64, userspace_addr, ..Default::default() };
    // SAFETY: the memory outlives the VM's only vCPU, and nothing here holds references to it.
    unsafe { vm.set_user_memory_region(region)? };
    let mut vcpu = vm.create_vcpu(0)?;
    start(&vcpu)?;

    // One router a VM. It must exist before the first interrupt is delivered, and it owns the VM's routing table.
    let router = Arc::new(KvmRouter::new(vm.clone(), Irqchip::Kernel, 1, DestinationIds::Bits8)?);
    // One function a capability. Device threads, vCPU threads and the snapshot code share it without a lock of their own.
    let (size, bar) = TableSize::new(2).zip(Bar::new(0)).ok_or("a table in a BAR")?;
    let layout = Layout::new(size, (bar, 0), (bar, PBA))?;
    let msix = Arc::new(SoftwareMsix::try_software(layout, router)?);
    // The guest's driver writes MSI-X Enable by configuration space, offset 2 of the capability. This guest has no such bus.
    msix.write_config(2, &0x8000u16.to_le_bytes());

    thread::spawn(|| {
        thread::sleep(Duration::from_secs(20));
        eprintln!("the guest got no interrupt");
        process::exit(1);
    });
    let mut pending = false;
    loop {
        match vcpu.run()? {
            // A BAR that holds more than the table and the pending bits passes the rest to the device in these closures.
            VcpuExit::MmioWrite(address, data) => msix.write_bar(bar, address - BAR, data, |_, _| {}),
            VcpuExit::MmioRead(address, data) => {
                msix.read_bar(bar, address - BAR, data, |_, data| data.fill(0xff));
                pending = data[0] == 1;
                println!("the guest reads pending bits {:#04x}", data[0]);
            }
            VcpuExit::IoOut(DOORBELL, _) => {
                println!("the guest rings, and the device triggers vector 0");
                msix.trigger(Vector(0));
            }
            VcpuExit::IoOut(HANDLED, _) => break,
            exit => return Err(format!("the guest ended: {exit:?}").into()),
        }
    }
    let counters = msix.counters();
    println!("the guest's handler has run: {counters:?}");
    let is_right = pending && counters.delivered == 1 && counters.latched == 1;
    if is_right { Ok(()) } else { Err("the interrupt was not pending first and then delivered once".into()) }
}

/// The vCPU begins at the guest's code in real mode, with its local APIC enabled (as firmware leaves it).
fn start(vcpu: &VcpuFd) -> Result<(), kvm_ioctls::Error> {
    let mut segments = vcpu.get_sregs()?;
    (segments.cs.base, segments.cs.selector) = (0, 0);
    vcpu.set_sregs(&segments)?;
    vcpu.set_regs(&kvm_bindings::kvm_regs { rip: CODE, rsp: 0x8000, rflags: 2, ..Default::default() })?;
    let mut apic = vcpu.get_lapic()?;
    apic.regs[0xf1] |= 1; // Spurious-Interrupt Vector Register: APIC Software Enable
    vcpu.set_lapic(&apic)
}
