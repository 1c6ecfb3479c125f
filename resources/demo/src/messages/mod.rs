//! Several MSI messages of one device, end to end: a USB controller in a lab host raises each of its messages, and each
//! sets its own bit in a local APIC of KVM's.
//!
//! Real parts: the device's MSI, the host's interrupt remapping, VFIO, irqfds, and KVM's routing table and local APIC. No
//! guest runs: a Linux guest without interrupt remapping would use one message, and the Interrupt Request Register of a
//! vCPU that never runs keeps what has come.

mod xhci;

use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use kvm_ioctls::{Kvm, VcpuFd};
use vm_memory::{GuestAddress, GuestMemoryMmap};
use vm_msi::MsiFunction;
use vm_msi::apic::DestinationIds;
use vm_msi::kvm::{Irqchip, KvmRouter};
use vm_msi::msi::{AddressWidth, MsiLayout, VectorMasking};
use vm_msi::vfio::VfioMsi;
use vmm::vfio::Sysfs;
use vmm::vfio::container::Container;
use vmm::vfio::device_info::OpenedDevice;

use xhci::{Controller, MEMORY_BYTES};

/// An interrupt that has not come by then does not come.
const PATIENCE: Duration = Duration::from_secs(5);
/// Configuration space: the command register, and the bits that let a device be used and send.
const COMMAND: u64 = 4;
const COMMAND_MEMORY_AND_BUS_MASTER: u16 = 0b110;
/// The vectors of the first grant, of the second, and so on.
const FIRST: u8 = 0x40;

/// In a lab host: grants the controller at this address all its messages, then half of them, and so on to one. Raises each
/// message of each grant, and prints how many have set the right bit and no other.
pub(crate) fn inside(address: &str) -> Result<ExitCode, Box<dyn Error>> {
    let devices = Sysfs::default().select(&[address])?;
    let host = devices.first().ok_or("no such device")?;
    let vm = Kvm::new()?.create_vm()?;
    vm.create_irq_chip()?;
    let apic = LocalApic::new(vm.create_vcpu(0)?)?;
    let container = Container::open(&devices, &vm)?;
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY_BYTES)])?;
    container.map(&memory)?;
    let opened = OpenedDevice::open(host, &container)?;
    opened.config.write(COMMAND, &COMMAND_MEMORY_AND_BUS_MASTER.to_le_bytes());
    let registers = opened.regions.first().and_then(Option::as_ref).ok_or("no BAR 0")?;

    let messages = VfioMsi::probe_messages(&opened.file)?;
    let backend = VfioMsi::new(opened.file.try_clone()?, messages, None)?;
    let messages = backend.messages().get();
    let layout = MsiLayout::new(backend.messages(), AddressWidth::Bits64, VectorMasking::Absent);
    let router = Arc::new(KvmRouter::new(Arc::new(vm), Irqchip::Kernel, 1, DestinationIds::Bits8)?);
    let function = MsiFunction::try_new(layout, router, backend)?;
    let mut controller = Controller::start(registers, &memory, messages)?;

    let mut first = FIRST;
    for log2 in (0..=messages.ilog2() as u16).rev() {
        let granted = 1 << log2;
        function.write_config(4, &0xfee0_0000u32.to_le_bytes());
        function.write_config(12, &u16::from(first).to_le_bytes());
        function.write_config(2, &(log2 << 4 | 1).to_le_bytes());
        let mut right = 0;
        for message in 0..granted {
            let mut expected = apic.requested()?;
            expected.push(first + message);
            expected.sort_unstable();
            controller.raise(message.into())?;
            right += u32::from(apic.requests(&expected)?);
        }
        let vectors = function.report().live;
        println!("granted messages={granted} right={right} live={vectors}");
        function.write_config(2, &[0; 2]);
        first += granted;
    }
    let counters = function.report().counters;
    println!(
        "counted messages={messages} opens={} closes={} host_failures={}",
        counters.opens, counters.closes, counters.host_failures
    );
    Ok(ExitCode::SUCCESS)
}

/// A local APIC whose vCPU does not run.
struct LocalApic(VcpuFd);

impl LocalApic {
    fn new(vcpu: VcpuFd) -> Result<Self, Box<dyn Error>> {
        /// Spurious-Interrupt Vector Register: the APIC is on.
        const SPURIOUS: usize = 0xf0;
        let mut state = vcpu.get_lapic()?;
        for (byte, value) in state.regs.iter_mut().skip(SPURIOUS).zip([-1, 1, 0, 0]) {
            *byte = value;
        }
        vcpu.set_lapic(&state)?;
        Ok(Self(vcpu))
    }

    /// The vectors that have come, lowest first.
    fn requested(&self) -> Result<Vec<u8>, Box<dyn Error>> {
        const REQUESTED: usize = 0x200;
        let state = self.0.get_lapic()?;
        // 32 vectors in the first 4 bytes of each 16.
        let bit = |vector: u8| {
            let byte = REQUESTED + usize::from(vector / 32) * 16 + usize::from(vector % 32 / 8);
            state.regs.get(byte).is_some_and(|bits| bits >> (vector % 8) & 1 != 0)
        };
        Ok((0..=u8::MAX).filter(|vector| bit(*vector)).collect())
    }

    /// Whether exactly these come.
    fn requests(&self, expected: &[u8]) -> Result<bool, Box<dyn Error>> {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if self.requested()? == expected {
                return Ok(true);
            }
            sleep(Duration::from_millis(1));
        }
        eprintln!("came: {:x?}, expected: {expected:x?}", self.requested()?);
        Ok(false)
    }
}
