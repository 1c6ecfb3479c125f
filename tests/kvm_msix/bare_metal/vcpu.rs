//! One virtual CPU: started in long mode, and run on a thread of its own until it is told to stop.

use std::sync::Arc;
use std::sync::mpsc::Sender;

use kvm_bindings::{CpuId, KVM_MP_STATE_RUNNABLE, kvm_mp_state, kvm_regs, kvm_segment};
use kvm_ioctls::{VcpuExit, VcpuFd, VmFd};
use rustix::io::Errno;
use vm_device::bus::MmioAddress;
use vm_device::device_manager::{IoManager, MmioManager};
use vm_memory::GuestMemoryMmap;

use super::code;
use super::layout::{
    AREA_BYTES, CODE_SELECTOR, CONTROL, CONTROL_FAULT, DATA_SELECTOR, GDT, GDT_BYTES, IDT, LOCAL_APIC, NOTES,
    PML4, PROGRAM, area,
};
use super::memory::altered;

/// Offset into the control window: a write ends the CPU's thread.
pub(super) const CONTROL_STOP: u64 = 16;

/// A CPU that stands at the program's entry.
pub(super) fn create(vm: &VmFd, cpu: u8, cpuid: &CpuId) -> VcpuFd {
    let vcpu = vm.create_vcpu(cpu.into()).unwrap();
    vcpu.set_cpuid2(cpuid).unwrap();
    let mut sregs = vcpu.get_sregs().unwrap();
    let data = kvm_segment {
        selector: DATA_SELECTOR,
        limit: u32::MAX,
        type_: 0b0011,
        present: 1,
        s: 1,
        db: 1,
        g: 1,
        ..Default::default()
    };
    sregs.cs = kvm_segment { selector: CODE_SELECTOR, type_: 0b1011, db: 0, l: 1, ..data };
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    (sregs.gdt.base, sregs.gdt.limit) = (GDT, GDT_BYTES - 1);
    (sregs.idt.base, sregs.idt.limit) = (IDT, 0xfff);
    sregs.cr3 = PML4;
    sregs.cr4 = 1 << 5; // PAE
    sregs.cr0 = 1 << 31 | 1 << 16 | 1 << 5 | 1 << 4 | 1; // PG, WP, NE, ET, PE
    sregs.efer = 1 << 10 | 1 << 8; // LMA, LME
    vcpu.set_sregs(&sregs).unwrap();
    let regs = kvm_regs {
        rip: PROGRAM + code::entry(),
        rflags: 2,
        rsp: area(cpu) + AREA_BYTES,
        r12: CONTROL,
        r13: LOCAL_APIC,
        r14: NOTES,
        r15: area(cpu),
        ..Default::default()
    };
    vcpu.set_regs(&regs).unwrap();
    vcpu.set_mp_state(kvm_mp_state { mp_state: KVM_MP_STATE_RUNNABLE }).unwrap();
    vcpu
}

/// Runs a CPU: its accesses go to the bus, and each finished command is reported. Ends when the guest writes to
/// the stop register, or with what went wrong.
pub(super) fn run(
    mut vcpu: VcpuFd,
    bus: &Arc<IoManager>,
    memory: &GuestMemoryMmap,
    finished: &Sender<()>,
) -> Result<(), String> {
    const FAULT: u64 = CONTROL + CONTROL_FAULT;
    const STOP: u64 = CONTROL + CONTROL_STOP;
    loop {
        match vcpu.run() {
            Ok(VcpuExit::MmioWrite(CONTROL, _)) => {
                // Nobody listens any more when a test has given up: then the guest is stopped next.
                let _ = finished.send(());
            }
            Ok(VcpuExit::MmioWrite(STOP, _)) => return Ok(()),
            Ok(VcpuExit::MmioWrite(FAULT, frame)) => {
                let frame = frame.to_vec();
                return Err(format!("exception in the guest, frame at {frame:x?}: {:x?}", vcpu.get_regs()));
            }
            Ok(VcpuExit::MmioWrite(address, data)) => {
                // Nobody answers there: lost, as on a real bus.
                let _ = bus.mmio_write(MmioAddress(address), data);
            }
            Ok(VcpuExit::MmioRead(address, data)) => {
                if bus.mmio_read(MmioAddress(address), data).is_err() {
                    data.fill(0xff);
                }
            }
            Ok(VcpuExit::Intr) => {}
            // On AMD the registers are gone by now (`shutdown_interception` resets them); memory is not. A CPU whose
            // tables and handlers are as they were made has no reason for a triple fault.
            Ok(VcpuExit::Shutdown) => {
                let places = altered(memory);
                return Err(format!(
                    "triple fault; tables and program altered at {places:x?}: {:x?}",
                    vcpu.get_regs()
                ));
            }
            Ok(exit) => {
                let exit = format!("{exit:?}");
                return Err(format!("unexpected exit {exit}: {:x?}", vcpu.get_regs()));
            }
            Err(errno) if [Errno::INTR, Errno::AGAIN].map(Errno::raw_os_error).contains(&errno.errno()) => {}
            Err(errno) => return Err(format!("KVM_RUN failed: {errno}")),
        }
    }
}
