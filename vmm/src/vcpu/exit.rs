//! Handling of vCPU exits.
//!
//! Accesses that no device claims read all ones, and writes are dropped, as on a PC. Nothing here fails because of
//! what a guest does.

#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

use std::fmt::Write as _;

use kvm_bindings::{KVM_SYSTEM_EVENT_CRASH, KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN};
use kvm_ioctls::{VcpuExit, VcpuFd};
use vm_device::bus::{MmioAddress, PioAddress};
use vm_device::device_manager::{IoManager, MmioManager, PioManager};

use super::Shared;
use super::run_page::{InternalError, RunPage};
use crate::error::Error;
use crate::outcome::Outcome;

/// Names of KVM's internal errors by suberror.
const INTERNAL_ERRORS: [(u32, &str); 4] = [
    (1, "emulation failed"),
    (2, "simultaneous exceptions"),
    (3, "delivery of an event failed"),
    (4, "unexpected exit"),
];

/// What the vCPU thread does after an exit.
pub(super) enum ExitAction {
    /// Enter the guest again.
    Run,
    /// A signal interrupted KVM_RUN: check whether to stop.
    Interrupted,
    /// End the run.
    End(Outcome),
    /// End the run: the guest has crashed for this reason.
    Crash(String),
}

/// Runs the guest until its next exit, and handles it.
pub(super) fn run_once(fd: &mut VcpuFd, shared: &Shared, page: &RunPage) -> ExitAction {
    let buses: &IoManager = &shared.buses;
    let exit = match fd.run() {
        Ok(exit) => exit,
        Err(errno) => match rustix::io::Errno::from_raw_os_error(errno.errno()) {
            rustix::io::Errno::INTR => return ExitAction::Interrupted,
            // EAGAIN: a vCPU that waits for its startup IPI was woken up.
            rustix::io::Errno::AGAIN => return ExitAction::Run,
            _ => return ExitAction::End(Outcome::Failed(Error::host("running a vcpu", errno))),
        },
    };
    match exit {
        VcpuExit::IoIn(port, data) => {
            let unit = page.port_access_unit();
            data.chunks_mut(unit).for_each(|data| port_read(buses, port, data));
        }
        VcpuExit::IoOut(port, data) => {
            let unit = page.port_access_unit();
            data.chunks(unit).for_each(|data| port_write(buses, port, data));
        }
        VcpuExit::MmioRead(address, data) => mmio_read(buses, address, data),
        VcpuExit::MmioWrite(address, data) => mmio_write(buses, address, data),
        VcpuExit::IoapicEoi(vector) => end_of_interrupt(shared, vector),
        VcpuExit::Intr => return ExitAction::Interrupted,
        VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_SHUTDOWN, _) => return ExitAction::End(Outcome::PoweredOff),
        VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_RESET, _) => return ExitAction::End(Outcome::Rebooted),
        VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_CRASH, data) => {
            return ExitAction::Crash(format!("the guest says that it has crashed {data:x?}"));
        }
        VcpuExit::Shutdown => return ExitAction::Crash("triple fault".into()),
        VcpuExit::InternalError => {
            return ExitAction::Crash(
                page.internal_error().map_or_else(|| "KVM internal error".into(), describe),
            );
        }
        VcpuExit::FailEntry(reason, cpu) => {
            return ExitAction::Crash(format!(
                "the hardware refuses to enter the guest (reason {reason:#x}, host CPU {cpu})"
            ));
        }
        other => return ExitAction::Crash(format!("unexpected exit {other:?}")),
    }
    ExitAction::Run
}

/// A local APIC has ended a level-triggered interrupt of the VMM's IOAPIC.
fn end_of_interrupt(shared: &Shared, vector: u8) {
    if let Some(ioapic) = &shared.ioapic
        && let Err(error) = ioapic.end_of_interrupt(vector)
    {
        tracing::warn!("the end of interrupt {vector:#x} does not reach its device: {error}");
    }
}

fn describe(error: InternalError) -> String {
    let name = INTERNAL_ERRORS.iter().find(|(number, _)| *number == error.suberror);
    let name = name.map_or("unknown", |(_, name)| name);
    let mut text = format!("KVM internal error, suberror {} ({name})", error.suberror);
    if !error.data.is_empty() {
        // Writing to a string cannot fail.
        let _ = write!(text, ", data {:x?}", error.data);
    }
    text
}

fn port_read(buses: &IoManager, port: u16, data: &mut [u8]) {
    if buses.pio_read(PioAddress(port), data).is_err() {
        tracing::trace!("nothing at port {port:#x}, read of {} bytes", data.len());
        data.fill(0xff);
    }
}

fn port_write(buses: &IoManager, port: u16, data: &[u8]) {
    if buses.pio_write(PioAddress(port), data).is_err() {
        tracing::trace!("nothing at port {port:#x}, write of {data:02x?}");
    }
}

fn mmio_read(buses: &IoManager, address: u64, data: &mut [u8]) {
    if buses.mmio_read(MmioAddress(address), data).is_err() {
        tracing::trace!("nothing at address {address:#x}, read of {} bytes", data.len());
        data.fill(0xff);
    }
}

fn mmio_write(buses: &IoManager, address: u64, data: &[u8]) {
    if buses.mmio_write(MmioAddress(address), data).is_err() {
        tracing::trace!("nothing at address {address:#x}, write of {data:02x?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn internal_errors_say_their_number_name_and_data() {
        let text = describe(InternalError { suberror: 1, data: vec![0x10, 0xff] });
        assert_eq!(text, "KVM internal error, suberror 1 (emulation failed), data [10, ff]");
        assert_eq!(
            describe(InternalError { suberror: 9, data: vec![] }),
            "KVM internal error, suberror 9 (unknown)"
        );
    }

    #[test]
    fn unclaimed_addresses_read_all_ones() {
        let buses = IoManager::new();
        let mut data = [0; 4];
        port_read(&buses, 0x80, &mut data);
        assert_eq!(data, [0xff; 4]);
        let mut data = [0; 8];
        mmio_read(&buses, u64::MAX, &mut data);
        assert_eq!(data, [0xff; 8]);
        port_write(&buses, 0xffff, &data);
        mmio_write(&buses, u64::MAX, &data);
    }
}
