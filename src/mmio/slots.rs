//! IMS slots as a device on a bus.

use std::sync::Arc;

use vm_device::DeviceMmio;
use vm_device::bus::{MmioAddress, MmioAddressOffset};

use crate::domain::Domain;
use crate::function::InterruptFunction;
use crate::ims::SlotArray;

/// An array of IMS slots on a bus.
#[derive(Debug)]
pub struct SlotsMmio<D: Domain>(pub Arc<InterruptFunction<SlotArray, D>>);

impl<D: Domain> DeviceMmio for SlotsMmio<D> {
    fn mmio_read(&self, _base: MmioAddress, offset: MmioAddressOffset, data: &mut [u8]) {
        self.0.read_slots(offset, data);
    }

    fn mmio_write(&self, _base: MmioAddress, offset: MmioAddressOffset, data: &[u8]) {
        self.0.write_slots(offset, data);
    }
}
