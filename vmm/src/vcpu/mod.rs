//! A vCPU: its state at the start, its thread, and what the guest's exits lead to.
//!
//! [`cpuid`], `state` and [`Vcpu::new`] set a vCPU up on the main thread; `thread` runs it. A vCPU's file
//! descriptor belongs to its thread alone from then on. Exits are answered on the vCPU's own thread through
//! the VMM's buses, which are complete before the first vCPU runs, and so need no lock.

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
use crate::error::{Context, Result};
use crate::outcome::{Crash, ExitEvent};

/// Where a CPU begins after a reset (Intel SDM 3A 10.1.4).
const RESET_VECTOR: u64 = 0xfff0;

/// What all vCPUs share.
#[derive(Clone)]
pub struct Shared {
    /// The guest's port and memory accesses.
    pub buses: Arc<IoManager>,
    /// Where the end of the run is said.
    pub exit_event: Arc<ExitEvent>,
}

/// A vCPU that is ready to run.
pub struct Vcpu {
    index: u8,
    fd: VcpuFd,
    shared: Shared,
}

impl Vcpu {
    /// Creates vCPU `index`, whose APIC ID is the same number. It waits for a startup interrupt, unless it is
    /// the first: that one is given its state by [`Vcpu::boot`].
    ///
    /// # Errors
    /// The host's, when KVM refuses the vCPU or its state.
    pub fn new(vm: &VmFd, index: u8, cpuid: &CpuId, shared: Shared) -> Result<Self> {
        let context = |what: &str| format!("{what} vcpu {index}");
        let fd = vm.create_vcpu(index.into()).context(context("creating"))?;
        fd.set_cpuid2(cpuid).context(context("setting the CPUID of"))?;
        state::set_msrs(&fd).context(context("setting the MSRs of"))?;
        state::set_lapic(&fd).context(context("setting the local APIC of"))?;
        Ok(Self { index, fd, shared })
    }

    /// Sets the first vCPU to enter the kernel in 64-bit mode, with its page tables in guest memory.
    ///
    /// # Errors
    /// The host's, when guest memory cannot be written or KVM refuses the state.
    pub fn boot(&self, memory: &GuestMemoryMmap, entry: &Entry) -> Result<()> {
        state::write_boot_tables(memory).context("writing the boot page tables")?;
        state::set_registers(&self.fd, entry.start).context("setting the registers of vcpu 0")
    }

    /// A crash of this vCPU, with where it is. After a triple fault KVM on AMD has reset the CPU, and nobody
    /// knows where it was (Linux, `shutdown_interception`).
    fn crash(&self, what: String) -> Crash {
        let rip = self.fd.get_regs().ok().map(|regs| regs.rip).filter(|rip| *rip != RESET_VECTOR);
        Crash { vcpu: self.index, what, rip }
    }
}
