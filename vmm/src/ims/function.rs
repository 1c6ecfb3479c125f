//! A device as a function on the bus: configuration space and BARs.
//!
//! Owns configuration space and its lock, which is held during changes of Bus Master Enable and function level
//! resets. Interrupt Pin reads 0.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use vm_msi::domain::BusMaster;
use vm_msi::msix::Bar;

use super::config::{Config, MSIX_BAR, REGISTERS_BAR, SLOTS_BAR};
use super::device::{Device, Model};
use super::interrupts;
use crate::pci::bar::COMMAND;
use crate::pci::{
    BarAddresses, Bars, ConfigSpace, Decoding, ExpressCapability, Function, MsixCapability, Root, WindowFull,
};

/// The function.
pub struct PciFunction<M> {
    device: Arc<Device<M>>,
    space: Mutex<ConfigSpace>,
    bars: Bars,
    express: ExpressCapability,
    msix: Option<MsixCapability>,
}

impl<M: Model> PciFunction<M> {
    /// Creates the function of a device and assigns its BARs.
    ///
    /// # Errors
    /// The bus has no room for a BAR.
    pub fn new(id: u16, device: Arc<Device<M>>, root: &Root) -> Result<Self, WindowFull> {
        let Config { mut space, bars, express, msix } = Config::new(id, device.interrupts());
        root.assign(&bars, &mut space)?;
        Ok(Self { device, space: Mutex::new(space), bars, express, msix })
    }

    fn space(&self) -> MutexGuard<'_, ConfigSpace> {
        self.space.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<M: Model> Function for PciFunction<M> {
    fn config_read(&self, offset: u16, data: &mut [u8]) {
        self.space().merge(offset, data);
        if let (Some(capability), Some(msix)) = (self.msix, &self.device.interrupts().msix) {
            capability.read(msix, offset, data);
        }
    }

    fn config_write(&self, offset: u16, data: &[u8]) {
        let mut space = self.space();
        if self.express.initiates_flr(offset, data) {
            space.reset();
            self.device.reset_function();
            return;
        }
        space.write(offset, data);
        self.device.set_bus_master(BusMaster::of_command(space.value(COMMAND, 2) as u16));
        if let (Some(capability), Some(msix)) = (self.msix, &self.device.interrupts().msix) {
            capability.write(msix, offset, data);
        }
    }

    fn bar_read(&self, bar: usize, offset: u64, data: &mut [u8]) {
        match (bar, &self.device.interrupts().msix, Bar::new(interrupts::MSIX_BAR)) {
            (REGISTERS_BAR, _, _) => self.device.read_registers(offset, data),
            (SLOTS_BAR, _, _) => self.device.read_slots(offset, data),
            (MSIX_BAR, Some(msix), Some(bar)) => {
                msix.read_bar(bar, offset, data, |_, rest: &mut [u8]| rest.fill(0));
            }
            _ => data.fill(0xff),
        }
    }

    fn bar_write(&self, bar: usize, offset: u64, data: &[u8]) {
        match (bar, &self.device.interrupts().msix, Bar::new(interrupts::MSIX_BAR)) {
            (REGISTERS_BAR, _, _) => self.device.write_registers(offset, data),
            (SLOTS_BAR, _, _) => self.device.write_slots(offset, data),
            (MSIX_BAR, Some(msix), Some(bar)) => msix.write_bar(bar, offset, data, |_, _: &[u8]| {}),
            _ => {}
        }
    }

    fn decoding(&self) -> Decoding {
        self.bars.decode(&self.space())
    }

    fn update_bars(&self, _addresses: &BarAddresses) {}

    fn release(&self) {
        self.device.release();
    }

    fn report(&self) -> Option<Value> {
        Some(self.device.report())
    }
}
