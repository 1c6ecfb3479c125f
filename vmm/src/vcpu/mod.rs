//! vCPUs: initial state, threads, and exit handling.
//!
//! [`cpuid`], `state` and [`Vcpu::new`] set a vCPU up on the main thread. [`thread`] runs it, and owns its file
//! descriptor from then on. A vCPU's thread handles its exits through the VMM's buses. The buses are complete before
//! the first vCPU runs, and need no lock.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

pub mod cpuid;
mod exit;
mod run_page;
mod state;
pub mod thread;

use std::sync::Arc;

use kvm_bindings::CpuId;
use kvm_ioctls::{VcpuFd, VmFd};
use vm_device::device_manager::IoManager;
use vm_memory::GuestMemoryMmap;

use crate::boot::Entry;
use crate::devices::ioapic::Ioapic;
use crate::error::{Context, Result};
use crate::outcome::{Crash, ExitEvent};

/// The instruction pointer after a reset (Intel SDM 3A 10.1.4).
const RESET_VECTOR: u64 = 0xfff0;

/// State that all vCPUs share.
#[derive(Clone)]
pub struct Shared {
    /// The port I/O and MMIO buses.
    pub buses: Arc<IoManager>,
    /// The VMM's IOAPIC, with a split irqchip.
    pub ioapic: Option<Arc<Ioapic>>,
    /// Signalled when a vCPU ends the run.
    pub exit_event: Arc<ExitEvent>,
}

/// A vCPU that is ready to run.
pub struct Vcpu {
    index: u16,
    fd: VcpuFd,
    shared: Shared,
}

impl Vcpu {
    /// Creates vCPU `index`, whose APIC ID is its index. The vCPU waits for a startup IPI, except the first one,
    /// which [`Vcpu::boot`] prepares.
    ///
    /// # Errors
    /// [`Error::Host`](crate::error::Error::Host) if KVM refuses the vCPU or its state.
    pub fn new(vm: &VmFd, index: u16, cpuid: &CpuId, shared: Shared) -> Result<Self> {
        let context = |what: &str| format!("{what} vcpu {index}");
        let fd = vm.create_vcpu(index.into()).context(context("creating"))?;
        fd.set_cpuid2(cpuid).context(context("setting the CPUID of"))?;
        state::set_msrs(&fd).context(context("setting the MSRs of"))?;
        state::set_lapic(&fd).context(context("setting the local APIC of"))?;
        Ok(Self { index, fd, shared })
    }

    /// Prepares the first vCPU to enter the kernel by its protocol, with descriptors and page tables in guest memory.
    ///
    /// # Errors
    /// [`Error::Host`](crate::error::Error::Host) if guest memory cannot be written or KVM refuses the state.
    pub fn boot(&self, memory: &GuestMemoryMmap, entry: &Entry) -> Result<()> {
        state::write_boot_tables(memory, entry.start).context("writing the boot page tables")?;
        state::set_registers(&self.fd, entry.start).context("setting the registers of vcpu 0")
    }

    /// Describes a crash of this vCPU. After a triple fault on AMD, KVM has reset the vCPU, and the instruction
    /// pointer is unknown (Linux, `shutdown_interception`).
    fn crash(&self, what: String) -> Crash {
        let rip = self.fd.get_regs().ok().map(|regs| regs.rip).filter(|rip| *rip != RESET_VECTOR);
        Crash { vcpu: self.index, what, rip }
    }
}
