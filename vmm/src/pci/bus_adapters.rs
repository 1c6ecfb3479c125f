//! The root complex on the VMM's buses: ECAM, the configuration ports, and the BAR windows.
//!
//! Each adapter is registered once, for a fixed range, and forwards to [`Root`]. Ports: `CONFIG_ADDRESS` at 0xCF8
//! accepts DWORD accesses only, `CONFIG_DATA` at 0xCFC any byte lanes (PCI 3.0 §3.2.2.3.2). ECAM: the function is in
//! address bits 19:12, the register below (PCIe r6 §7.2.2).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use vm_device::bus::{MmioAddress, MmioAddressOffset, PioAddress, PioAddressOffset};
use vm_device::{DeviceMmio, DevicePio};

use super::function::DeviceFunction;
use super::root::Root;
use super::windows::Space;

const CONFIG_ADDRESS: u16 = 0xcf8;
const CONFIG_DATA: u16 = 0xcfc;
const ENABLE: u32 = 1 << 31;
/// Enable, bus, device, function and register bits. The rest reads zero.
const ADDRESS_BITS: u32 = 0x80ff_fffc;
const FUNCTION_SIZE: u64 = 4096;

impl Root {
    /// ECAM of bus 0: 1 MiB.
    #[must_use]
    pub fn ecam(self: &Arc<Self>) -> Arc<dyn DeviceMmio + Send + Sync> {
        Arc::new(Ecam(Arc::clone(self)))
    }

    /// The memory BAR windows.
    #[must_use]
    pub fn mmio(self: &Arc<Self>) -> Arc<dyn DeviceMmio + Send + Sync> {
        Arc::new(BarWindow(Arc::clone(self)))
    }

    /// Ports 0xCF8 to 0xCFF.
    #[must_use]
    pub fn config_ports(self: &Arc<Self>) -> Arc<dyn DevicePio + Send + Sync> {
        Arc::new(ConfigPorts(Arc::clone(self)))
    }

    /// The I/O BAR window.
    #[must_use]
    pub fn pio(self: &Arc<Self>) -> Arc<dyn DevicePio + Send + Sync> {
        Arc::new(BarWindow(Arc::clone(self)))
    }
}

struct Ecam(Arc<Root>);

impl Ecam {
    /// The part of an access within one function: function, register, length.
    fn part(offset: u64, len: usize) -> Option<(DeviceFunction, u16, usize)> {
        let bdf = DeviceFunction::from_bits(u8::try_from(offset / FUNCTION_SIZE).ok()?);
        let register = offset % FUNCTION_SIZE;
        let left = usize::try_from(FUNCTION_SIZE.saturating_sub(register)).ok()?;
        Some((bdf, u16::try_from(register).ok()?, left.min(len)))
    }
}

impl DeviceMmio for Ecam {
    fn mmio_read(&self, _base: MmioAddress, mut offset: MmioAddressOffset, mut data: &mut [u8]) {
        data.fill(0xff);
        while let (Some((bdf, register, len)), false) = (Self::part(offset, data.len()), data.is_empty()) {
            let (part, rest) = data.split_at_mut(len);
            self.0.config_read(bdf, register, part);
            offset = offset.saturating_add(len as u64);
            data = rest;
        }
    }

    fn mmio_write(&self, _base: MmioAddress, mut offset: MmioAddressOffset, mut data: &[u8]) {
        while let (Some((bdf, register, len)), false) = (Self::part(offset, data.len()), data.is_empty()) {
            let (part, rest) = data.split_at(len);
            self.0.config_write(bdf, register, part);
            offset = offset.saturating_add(len as u64);
            data = rest;
        }
    }
}

struct ConfigPorts(Arc<Root>);

impl ConfigPorts {
    /// The target of `CONFIG_DATA` at `port`: a function of bus 0, a register, and the remaining bytes of the
    /// register.
    fn target(&self, port: u16) -> Option<(DeviceFunction, u16, usize)> {
        let lane = port.checked_sub(CONFIG_DATA).filter(|lane| *lane < 4)?;
        let [register, function, bus, _] = self.0.config_address().to_le_bytes();
        (self.0.config_address() & ENABLE != 0 && bus == 0).then_some(())?;
        let left = usize::from(4u16.saturating_sub(lane));
        Some((DeviceFunction::from_bits(function), u16::from(register).saturating_add(lane), left))
    }
}

impl DevicePio for ConfigPorts {
    fn pio_read(&self, base: PioAddress, offset: PioAddressOffset, data: &mut [u8]) {
        data.fill(0xff);
        let port = base.0.wrapping_add(offset);
        if port == CONFIG_ADDRESS && data.len() == 4 {
            data.copy_from_slice(&self.0.config_address().to_le_bytes());
        } else if let Some((bdf, register, left)) = self.target(port) {
            let len = left.min(data.len());
            self.0.config_read(bdf, register, data.get_mut(..len).unwrap_or_default());
        }
    }

    fn pio_write(&self, base: PioAddress, offset: PioAddressOffset, data: &[u8]) {
        let port = base.0.wrapping_add(offset);
        if port == CONFIG_ADDRESS
            && let Ok(address) = <[u8; 4]>::try_from(data)
        {
            let address = u32::from_le_bytes(address) & ADDRESS_BITS;
            self.0.config_address.store(address, Ordering::Relaxed);
        } else if let Some((bdf, register, left)) = self.target(port) {
            let len = left.min(data.len());
            self.0.config_write(bdf, register, data.get(..len).unwrap_or_default());
        }
    }
}

struct BarWindow(Arc<Root>);

impl DeviceMmio for BarWindow {
    fn mmio_read(&self, base: MmioAddress, offset: MmioAddressOffset, data: &mut [u8]) {
        self.0.read(Space::Memory, base.0.saturating_add(offset), data);
    }

    fn mmio_write(&self, base: MmioAddress, offset: MmioAddressOffset, data: &[u8]) {
        self.0.write(Space::Memory, base.0.saturating_add(offset), data);
    }
}

impl DevicePio for BarWindow {
    fn pio_read(&self, base: PioAddress, offset: PioAddressOffset, data: &mut [u8]) {
        self.0.read(Space::Io, u64::from(base.0.wrapping_add(offset)), data);
    }

    fn pio_write(&self, base: PioAddress, offset: PioAddressOffset, data: &[u8]) {
        self.0.write(Space::Io, u64::from(base.0.wrapping_add(offset)), data);
    }
}
