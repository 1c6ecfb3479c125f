//! A function's table, pending bits and IMS slots as devices on an embedder's `vm-device` bus.
//!
//! For functions whose table, pending bits or slots have pages of their own. If they share a page with other
//! registers, the embedder's BAR is the device, and calls [`InterruptFunction::read_bar`].

use std::sync::Arc;

use vm_device::DeviceMmio;
use vm_device::bus::{MmioAddress, MmioAddressOffset};

use crate::domain::Domain;
use crate::function::InterruptFunction;
#[cfg(feature = "ims")]
use crate::ims::SlotArray;
use crate::msix::Msix;

/// The MSI-X table on a bus.
#[derive(Debug)]
pub struct TableMmio<D: Domain>(pub Arc<InterruptFunction<Msix, D>>);

impl<D: Domain> DeviceMmio for TableMmio<D> {
    fn mmio_read(&self, _base: MmioAddress, offset: MmioAddressOffset, data: &mut [u8]) {
        self.0.read_table(offset, data);
    }

    fn mmio_write(&self, _base: MmioAddress, offset: MmioAddressOffset, data: &[u8]) {
        self.0.write_table(offset, data);
    }
}

/// The pending bit array on a bus.
#[derive(Debug)]
pub struct PbaMmio<D: Domain>(pub Arc<InterruptFunction<Msix, D>>);

impl<D: Domain> DeviceMmio for PbaMmio<D> {
    fn mmio_read(&self, _base: MmioAddress, offset: MmioAddressOffset, data: &mut [u8]) {
        self.0.read_pba(offset, data);
    }

    fn mmio_write(&self, _base: MmioAddress, _offset: MmioAddressOffset, _data: &[u8]) {}
}

/// An array of IMS slots on a bus.
#[cfg(feature = "ims")]
#[derive(Debug)]
pub struct SlotsMmio<D: Domain>(pub Arc<InterruptFunction<SlotArray, D>>);

#[cfg(feature = "ims")]
impl<D: Domain> DeviceMmio for SlotsMmio<D> {
    fn mmio_read(&self, _base: MmioAddress, offset: MmioAddressOffset, data: &mut [u8]) {
        self.0.read_slots(offset, data);
    }

    fn mmio_write(&self, _base: MmioAddress, offset: MmioAddressOffset, data: &[u8]) {
        self.0.write_slots(offset, data);
    }
}
