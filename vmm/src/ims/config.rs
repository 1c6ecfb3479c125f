//! Configuration space and BARs of a device. Plain tables.

use vm_msi::ims::SiovDvsec;

use super::interrupts::Interrupts;
use crate::pci::{
    Bar, Bars, CapabilityList, ConfigSpace, ExpressCapability, Header, MsixCapability, Register,
};

/// The BAR with the registers.
pub const REGISTERS_BAR: usize = 0;
/// The BAR with the slots.
pub const SLOTS_BAR: usize = 2;
/// The BAR with the MSI-X table.
pub const MSIX_BAR: usize = super::interrupts::MSIX_BAR as usize;

/// Memory, 64 bits of address, not prefetchable.
const MEMORY64: u32 = 0b0100;
/// The smallest BAR: a page, so that no other BAR shares it.
const PAGE: u64 = 0x1000;
/// Start of the extended capabilities (PCIe r6 §7.6.2).
const EXTENDED: u16 = 0x100;
/// Base system peripheral, other.
const CLASS: u32 = 0x08_8000;

/// Configuration space at power-on.
#[derive(Debug)]
pub struct Config {
    /// The registers. The BARs have no address.
    pub space: ConfigSpace,
    /// The BARs.
    pub bars: Bars,
    /// The PCI Express capability.
    pub express: ExpressCapability,
    /// The MSI-X capability, if any.
    pub msix: Option<MsixCapability>,
}

impl Config {
    /// Builds the configuration space of the device with this ID and these interrupts.
    #[must_use]
    pub fn new(device: u16, interrupts: &Interrupts) -> Self {
        let bar = |bytes: u64| Bar::new(MEMORY64, bytes.max(PAGE));
        let msix = interrupts.msix.as_ref().and_then(|_| bar(PAGE));
        let bars = Bars::new([bar(PAGE), None, bar(interrupts.slots.layout().bytes()), None, msix, None]);
        let header = Header { device, class: CLASS, revision: 1 };
        let mut list = CapabilityList::new(header.space(&bars));
        let express = ExpressCapability::add(&mut list);
        let msix = msix.map(|_| MsixCapability::add(&mut list));
        let mut space = list.finish();
        define_siov(&mut space, &interrupts.siov);
        Self { space, bars, express, msix }
    }
}

/// Defines the Scalable IOV DVSEC as the only extended capability.
fn define_siov(space: &mut ConfigSpace, siov: &SiovDvsec) {
    let registers = (EXTENDED..).step_by(4).zip(siov.registers()).zip(SiovDvsec::WRITABLE);
    for ((offset, reset), writable) in registers {
        space.define(
            offset,
            &[Register { width: 4, reset, emulated: u32::MAX, writable, ..Register::default() }],
        );
    }
}
