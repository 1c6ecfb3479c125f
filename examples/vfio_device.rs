//! A passed-through PCI device's MSI-X over VFIO and KVM: `cargo run --example vfio_device -- 0000:01:00.0`. Needs x86-64
//! and an `ivshmem-doorbell` that is bound to vfio-pci. `make examples` runs it in the lab host, which has one.
//!
//! vfio-ioctls opens the device, and vm-msi has its interrupts: `VfioDevice::enable_msix` must not be called. A host vector is
//! requested when the guest begins to use a vector, and MSI-X is never turned off to grow.
//!
//! No guest runs: this program makes the guest's accesses, and reads the interrupt request register of the vCPU's local APIC
//! to see what arrived. Features: `kvm`, `vfio`, `events`.

use std::error::Error;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use std::{env, iter, thread};

use event_manager::{EventManager, SubscriberOps};
use kvm_ioctls::{Kvm, VcpuFd};
use vfio_bindings::bindings::vfio::{VFIO_PCI_BAR0_REGION_INDEX, VFIO_PCI_CONFIG_REGION_INDEX as CONFIG};
use vfio_ioctls::{VfioContainer, VfioDevice};
use vm_msi::MsixFunction;
use vm_msi::apic::DestinationIds;
use vm_msi::events::MaintenanceSubscriber;
use vm_msi::kvm::{Irqchip, KvmRouter};
use vm_msi::maintenance::{Maintenance, Requests};
use vm_msi::msix::Layout;
use vm_msi::vfio::{MsixFileOffsets, VfioMsix};

fn main() -> Result<(), Box<dyn Error>> {
    let vm = Arc::new(Kvm::new()?.create_vm()?);
    vm.create_irq_chip()?;
    let vcpu = vm.create_vcpu(0)?;
    let mut apic = vcpu.get_lapic()?;
    apic.regs[0xf1] |= 1; // APIC Software Enable, which is firmware's to set
    vcpu.set_lapic(&apic)?;

    let address = env::args().nth(1).ok_or("which device?")?;
    let container = Arc::new(VfioContainer::new(None)?);
    let device = VfioDevice::new(&Path::new("/sys/bus/pci/devices").join(&address), container, true)?;
    // Memory Space Enable and Bus Master Enable. VFIO passes the guest's own writes of them on.
    device.region_write(CONFIG, &[0x06, 0], 4);

    // The MSI-X capability as the host reads it has the place of the table and of the pending bits.
    let at = msix_capability(&device)?;
    let mut capability = [0; 12];
    device.region_read(CONFIG, &mut capability, at);
    let layout = Layout::parse(&capability)?;
    let region = |bar: u8| device.get_region_offset(bar.into());
    let offsets = MsixFileOffsets {
        pba: region(layout.pba().bar.index()) + layout.pba().bytes.start,
        table: Some(region(layout.table().bar.index()) + layout.table().bytes.start),
        message_control: Some(device.get_region_offset(CONFIG) + at + 2),
    };
    // SAFETY: `device` has the descriptor open.
    let descriptor = unsafe { BorrowedFd::borrow_raw(device.as_raw_fd()) }.try_clone_to_owned()?;
    let backend = VfioMsix::new(descriptor.into(), offsets)?;

    // One router a VM, one function a capability.
    let router = Arc::new(KvmRouter::new(vm, Irqchip::Kernel, 1, DestinationIds::Bits8)?);
    let function = Arc::new(MsixFunction::try_new(layout, router, backend)?);
    // A thread that requests host vectors, and tries again what the host refuses. vCPUs wait for neither.
    let maintenance = Maintenance::new(function.clone(), Requests::Deferred)?;
    let mut events = EventManager::new()?;
    events.add_subscriber(Arc::new(MaintenanceSubscriber::new(Arc::new(maintenance))));
    thread::spawn(move || while events.run().is_ok() {});
    // From here on: what a guest's driver does, and what a VMM's exit handlers call for it.
    function.write_config(2, &0x8000u16.to_le_bytes());
    let last = u16::try_from(function.capacity() - 1)?;
    for (host_vectors, vector) in [(1, 0), (2, last)] {
        let interrupt = 0x40 + host_vectors as u8;
        write_entry(&function, vector, interrupt, 0);
        ring(&device, vector);
        wait_for("an interrupt", || has_arrived(&vcpu, interrupt))?;
        assert_eq!(function.report().host_vectors, host_vectors, "one more");
        println!("vector {vector}: interrupt {interrupt:#x} arrived; host vectors: {host_vectors}");
    }
    write_entry(&function, last, 0x43, 1);
    ring(&device, last);
    wait_for("a pending bit", || function.pending(u32::from(last) / 64) >> (last % 64) & 1 == 1)?;
    write_entry(&function, last, 0x43, 0);
    wait_for("its interrupt", || has_arrived(&vcpu, 0x43))?;
    println!("vector {last}, masked: its interrupt was pending, and arrived when it was unmasked");
    Ok(())
}

/// Where in configuration space the capability is: a list that begins at 0x34.
fn msix_capability(device: &VfioDevice) -> Result<u64, Box<dyn Error>> {
    let read = |at| {
        let mut bytes = [0; 2];
        device.region_read(CONFIG, &mut bytes, at);
        bytes
    };
    let next = |at: &u8| Some(read((*at).into())[1]).filter(|next| *next != 0);
    let mut capabilities = iter::successors(Some(read(0x34)[0]), next).take(48).map(u64::from);
    Ok(capabilities.find(|at| read(*at)[0] == 0x11).ok_or("the device has no MSI-X")?)
}

fn write_entry(function: &MsixFunction, vector: u16, interrupt: u8, control: u32) {
    for (word, value) in [(3, 1), (0, 0xfee0_0000), (1, 0), (2, u32::from(interrupt)), (3, control)] {
        function.write_table(u64::from(vector) * 16 + word * 4, &value.to_le_bytes());
    }
}

/// The doorbell register of ivshmem: the peer (itself, 0) and the vector that it signals.
fn ring(device: &VfioDevice, vector: u16) {
    device.region_write(VFIO_PCI_BAR0_REGION_INDEX, &u32::from(vector).to_le_bytes(), 12);
}

fn has_arrived(vcpu: &VcpuFd, interrupt: u8) -> bool {
    let at = 0x200 + usize::from(interrupt / 32) * 16 + usize::from(interrupt % 32 / 8);
    vcpu.get_lapic().is_ok_and(|apic| apic.regs[at] as u8 >> (interrupt % 8) & 1 == 1)
}

fn wait_for(what: &str, has_come: impl Fn() -> bool) -> Result<(), Box<dyn Error>> {
    let pause = || thread::sleep(Duration::from_millis(1));
    let comes = iter::repeat_with(pause).take(5000).any(|()| has_come());
    comes.then_some(()).ok_or_else(|| format!("{what} did not come").into())
}
