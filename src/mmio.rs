//! A function's table and pending bits as devices on an embedder's `vm-device` bus.
//!
//! For functions whose table and pending bits have pages of their own. Where they share a page with other
//! registers, the embedder's BAR is the device and asks [`MsixFunction::read_bar`].

use std::sync::Arc;

use vm_device::DeviceMmio;
use vm_device::bus::{MmioAddress, MmioAddressOffset};

use crate::backend::Backend;
use crate::function::MsixFunction;
use crate::router::Router;

/// The MSI-X table on a bus.
#[derive(Debug)]
pub struct TableMmio<R: Router, B: Backend>(pub Arc<MsixFunction<R, B>>);

impl<R: Router, B: Backend> DeviceMmio for TableMmio<R, B> {
    fn mmio_read(&self, _base: MmioAddress, offset: MmioAddressOffset, data: &mut [u8]) {
        self.0.read_table(offset, data);
    }

    fn mmio_write(&self, _base: MmioAddress, offset: MmioAddressOffset, data: &[u8]) {
        self.0.write_table(offset, data);
    }
}

/// The pending bit array on a bus.
#[derive(Debug)]
pub struct PbaMmio<R: Router, B: Backend>(pub Arc<MsixFunction<R, B>>);

impl<R: Router, B: Backend> DeviceMmio for PbaMmio<R, B> {
    fn mmio_read(&self, _base: MmioAddress, offset: MmioAddressOffset, data: &mut [u8]) {
        self.0.read_pba(offset, data);
    }

    fn mmio_write(&self, _base: MmioAddress, _offset: MmioAddressOffset, _data: &[u8]) {}
}
