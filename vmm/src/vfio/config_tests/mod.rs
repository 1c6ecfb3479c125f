//! Tests of the guest's configuration space on whole devices: shapes of known devices, dumps of real ones, and random
//! ones.
//!
//! [`Passed`] stands for a passed-through function: the device's registers, and the guest's view of them.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::arithmetic_side_effects,
    reason = "tests, and a fuzz target, panic where a promise is broken"
)]

pub(super) mod invariants;
#[cfg(test)]
mod random;
#[cfg(test)]
mod real;
#[cfg(test)]
mod shapes;

use std::ops::Range;

use vm_msi::msi::MsiLayout;
use vm_msi::msix::Layout;

use super::capabilities::{self, id};
use super::guest_config::{GuestConfig, GuestReset, HostReset};
use crate::pci::bar::{BAR0, COMMAND};
use crate::pci::{Bar, Bars};

/// A passed-through function.
pub(super) struct Passed {
    /// The device's registers after a reset.
    found: Vec<u8>,
    /// The device's registers now.
    pub(super) device: Vec<u8>,
    config: GuestConfig,
    /// The emulated interrupt capabilities: ID and registers.
    interrupts: Vec<(u8, Range<u16>)>,
}

impl Passed {
    /// A device with these registers, a 64-bit BAR 0 of 16 KiB, and the interrupts that can be emulated.
    pub(super) fn new(found: Vec<u8>) -> Self {
        let mut interrupts = Vec::new();
        for id in [id::MSI, id::MSIX] {
            let at = capabilities::find(&found, id);
            interrupts.extend(at.and_then(|at| Some((id, registers(&found, at, id)?))));
        }
        let bars = Bars::new([Bar::new(4, 0x4000), None, None, None, None, None]);
        let config = GuestConfig::new(&found, bars, HostReset::Supported, interrupts.clone().into_iter());
        Self { device: found.clone(), found, config, interrupts }
    }

    fn read(&self, at: u16) -> u32 {
        u32::from_le_bytes(*self.view()[usize::from(at)..].first_chunk().unwrap())
    }

    /// What the guest reads.
    fn view(&self) -> Vec<u8> {
        let mut view = self.device.clone();
        view.resize(4096, 0);
        self.config.merge(0, &mut view);
        view
    }

    /// A guest's write. Returns what reaches the device.
    pub(super) fn write(&mut self, at: u16, data: &[u8]) -> Vec<(u16, Vec<u8>)> {
        let effects = self.config.write(at, data);
        for (at, bytes) in &effects.forwarded {
            self.device[usize::from(*at)..][..bytes.len()].copy_from_slice(bytes);
        }
        if let Some(GuestReset::FunctionLevel | GuestReset::PowerOn) = effects.reset {
            self.reset();
        }
        effects.forwarded
    }

    /// A reset as the VMM does it: of the device, then of the guest's registers.
    fn reset(&mut self) {
        self.device.clone_from(&self.found);
        for (at, bytes) in self.config.reset() {
            self.device[usize::from(*at)..][..bytes.len()].copy_from_slice(bytes);
        }
    }

    /// The list at 0x34 as a guest walks it. Panics if it does not end.
    pub(super) fn list(&self) -> Vec<(u16, u8)> {
        let view = self.view();
        let mut list = Vec::new();
        let mut at = u16::from(view[0x34]);
        while at != 0 {
            assert!(list.len() < 48 && at >= 0x40 && at % 4 == 0, "{list:x?}, then {at:#x}");
            list.push((at, view[usize::from(at)]));
            at = view[usize::from(at) + 1].into();
        }
        let has_list = view[6] & 0x10 != 0;
        assert_eq!(has_list, !list.is_empty());
        list
    }

    /// The list at 0x100, without null capabilities. Panics if it does not end.
    pub(super) fn extended_list(&self) -> Vec<(u16, u16)> {
        let mut list = Vec::new();
        let mut at = 0x100;
        while at != 0 {
            assert!(list.len() < 960 && at >= 0x100 && at % 4 == 0, "{list:x?}, then {at:#x}");
            let header = self.read(at);
            list.push((at, header as u16));
            at = (header >> 20) as u16;
        }
        list.retain(|(_, id)| *id != 0);
        list
    }
}

/// The registers of an interrupt capability, if it can be emulated.
fn registers(host: &[u8], at: u16, id: u8) -> Option<Range<u16>> {
    let bytes = host.get(usize::from(at)..)?;
    let len = match id {
        id::MSI => MsiLayout::parse(*bytes.first_chunk()?).ok()?.bytes(),
        _ => Layout::parse(bytes.first_chunk()?).ok().map(|_| 12)?,
    };
    let end = at.checked_add(len).filter(|end| *end <= capabilities::room(host, at).end)?;
    Some(at + 2..end)
}

#[cfg(test)]
/// An endpoint of 4096 bytes with a capability list that starts at `first`, or without one.
fn function(first: u8) -> Vec<u8> {
    let mut host = vec![0; 4096];
    put(&mut host, 0, &[0x34, 0x12, 0x01, 0, 6, 4, if first == 0 { 0 } else { 0x10 }, 0]);
    host[0x10] = 4;
    host[0x34] = first;
    host
}

#[cfg(test)]
fn put(host: &mut [u8], at: usize, bytes: &[u8]) {
    host[at..][..bytes.len()].copy_from_slice(bytes);
}

#[cfg(test)]
fn put32(host: &mut [u8], at: usize, value: u32) {
    put(host, at, &value.to_le_bytes());
}
