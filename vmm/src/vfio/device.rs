//! One passed-through function on the bus.
//!
//! Owns the device's descriptor and all that is done with it, but for its interrupts, which are the library's. The
//! guest's registers are under one lock, which is held while the host follows a write or resets the device: a
//! function in reset answers when it is done. BARs and MSI-X tables are accessed without it.
//!
//! The device is given back in good order: interrupts torn down, requests stopped, the device reset where it can be,
//! by [`release`](Function::release) or at the latest when it is dropped.

use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::io::Errno;
use serde_json::json;
use vm_msi::MsixFunction;
use vm_msi::kvm::KvmRouter;
use vm_msi::msix;
use vm_msi::vfio::VfioMsix;

use super::container::Container;
use super::guest_config::{GuestConfig, GuestReset, HostReset};
use super::host::HostAddress;
use super::ioctl;
use super::mapping::BarMapping;
use super::region::Region;
use crate::pci::bar::COMMAND;
use crate::pci::{BAR_COUNT, Decoding, Function, Placement};

/// One BAR: the host's region behind it, and its pages in the guest.
#[derive(Debug)]
pub(super) struct DeviceBar {
    pub(super) region: Region,
    /// None for an I/O BAR.
    pub(super) mapping: Option<BarMapping>,
}

/// The function's MSI-X.
#[derive(Debug)]
pub(super) struct DeviceMsix {
    pub(super) function: MsixFunction<KvmRouter, VfioMsix>,
    /// Where the capability is in configuration space.
    pub(super) capability: u16,
}

/// A passed-through function.
#[derive(Debug)]
pub struct Device {
    pub(super) address: HostAddress,
    pub(super) reset: HostReset,
    pub(super) config: Mutex<GuestConfig>,
    pub(super) host_config: Region,
    // The order of these fields is that of giving back: interrupts, pages in the guest, the device, its container.
    pub(super) msix: Option<DeviceMsix>,
    pub(super) bars: [Option<DeviceBar>; BAR_COUNT],
    pub(super) file: Arc<File>,
    pub(super) _container: Arc<Container>,
    pub(super) resets: AtomicU64,
    pub(super) released: AtomicBool,
}

impl Device {
    /// The device's address on the host.
    #[must_use]
    pub fn address(&self) -> HostAddress {
        self.address
    }

    /// Tries again what the host refused for the device's interrupts.
    pub fn retry(&self) {
        if let Some(msix) = &self.msix
            && msix.function.unsettled() > 0
        {
            msix.function.retry();
        }
    }

    fn config(&self) -> MutexGuard<'_, GuestConfig> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tears the interrupts down, resets the device where that is possible, and puts the guest's registers back.
    fn reset(&self, config: &mut GuestConfig) {
        let reset_device = || {
            if self.reset == HostReset::Supported
                && let Err(error) = reset_patiently(&self.file)
            {
                tracing::warn!("device {} cannot be reset: {error}", self.address);
            }
        };
        match &self.msix {
            Some(msix) => msix.function.reset(reset_device),
            None => reset_device(),
        }
        for (offset, bytes) in config.reset() {
            self.host_config.write((*offset).into(), bytes);
        }
        // The host's own command register is as before the reset, with bus mastering.
        self.write_host_command(config);
    }

    /// Lets the host's device decode, so that mappings of its BARs can be used; it issues no requests yet.
    pub(super) fn start(&self) {
        self.write_host_command(&self.config());
    }

    fn write_host_command(&self, config: &GuestConfig) {
        self.host_config.write(COMMAND.into(), &config.host_command().to_le_bytes());
    }

    fn bar(&self, bar: usize) -> Option<(&DeviceBar, msix::Bar)> {
        let index = u8::try_from(bar).ok().and_then(msix::Bar::new)?;
        Some((self.bars.get(bar)?.as_ref()?, index))
    }
}

impl Function for Device {
    fn config_read(&self, offset: u16, data: &mut [u8]) {
        {
            let config = self.config();
            if config.asks_device(offset, data.len()) {
                self.host_config.read(offset.into(), data);
            }
            config.merge(offset, data);
        }
        if let Some(msix) = &self.msix
            && let Some((at, start, len)) = msix.emulated(offset, data.len())
        {
            let part = data.get_mut(start..).and_then(|rest| rest.get_mut(..len));
            msix.function.read_config(at, part.unwrap_or_default());
        }
    }

    fn config_write(&self, offset: u16, data: &[u8]) {
        {
            let mut config = self.config();
            let written = config.write(offset, data);
            for (offset, bytes) in &written.forwarded {
                self.host_config.write((*offset).into(), bytes);
            }
            if let Some(reset) = written.reset {
                let cause = match reset {
                    GuestReset::FunctionLevel => "initiates a function-level reset",
                    GuestReset::PowerOn => "brings the function back from D3hot",
                };
                tracing::debug!("device {}: the guest {cause}", self.address);
                self.resets.fetch_add(1, Ordering::Relaxed);
                self.reset(&mut config);
                return;
            }
            if written.command {
                self.write_host_command(&config);
            }
        }
        if let Some(msix) = &self.msix
            && let Some((at, start, len)) = msix.emulated(offset, data.len())
        {
            let part = data.get(start..).and_then(|rest| rest.get(..len));
            msix.function.write_config(at, part.unwrap_or_default());
        }
    }

    fn bar_read(&self, bar: usize, offset: u64, data: &mut [u8]) {
        let Some((DeviceBar { region, .. }, index)) = self.bar(bar) else {
            return data.fill(0xff);
        };
        match &self.msix {
            Some(msix) => {
                msix.function.read_bar(index, offset, data, |offset, data| region.read(offset, data));
            }
            None => region.read(offset, data),
        }
    }

    fn bar_write(&self, bar: usize, offset: u64, data: &[u8]) {
        let Some((DeviceBar { region, .. }, index)) = self.bar(bar) else {
            return;
        };
        match &self.msix {
            Some(msix) => {
                msix.function.write_bar(index, offset, data, |offset, data| region.write(offset, data));
            }
            None => region.write(offset, data),
        }
    }

    fn decoding(&self) -> Decoding {
        self.config().decoding()
    }

    fn place(&self, placement: &Placement) {
        for (bar, range) in self.bars.iter().zip(placement) {
            if let Some(DeviceBar { mapping: Some(mapping), .. }) = bar {
                mapping.place(range.map(|range| range.start()));
            }
        }
    }

    fn release(&self) {
        if self.released.swap(true, Ordering::Relaxed) {
            return;
        }
        self.place(&[None; BAR_COUNT]);
        self.reset(&mut self.config());
        tracing::debug!("device {} is given back", self.address);
    }

    fn report(&self) -> Option<serde_json::Value> {
        let mut ids = [0; 4];
        self.host_config.read(0, &mut ids);
        let [vendor_low, vendor_high, device_low, device_high] = ids;
        let bars = self.bars.iter().enumerate().filter_map(|(index, bar)| {
            let bar = bar.as_ref()?;
            let mapped = bar.mapping.as_ref().map_or(0, BarMapping::mapped_bytes);
            Some(json!({ "bar": index, "bytes": bar.region.size(), "mapped_bytes": mapped,
                         "refused_accesses": bar.region.failures() }))
        });
        Some(json!({
            "host_address": self.address.to_string(),
            "vendor": format!("{:04x}", u16::from_le_bytes([vendor_low, vendor_high])),
            "device": format!("{:04x}", u16::from_le_bytes([device_low, device_high])),
            "bars": bars.collect::<Vec<_>>(),
            "guest_resets": self.resets.load(Ordering::Relaxed),
            "refused_config_accesses": self.host_config.failures(),
            "msix": self.msix.as_ref().map(|msix| json!({
                "vectors": msix.function.layout().size().get(),
                "domain": msix.function.report(),
            })),
        }))
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.release();
    }
}

impl DeviceMsix {
    /// The part of an access of `len` bytes at `offset` that the library answers, all of the capability but ID and
    /// pointer: its offset in the capability, its place in the access's buffer, its length.
    fn emulated(&self, offset: u16, len: usize) -> Option<(u16, usize, usize)> {
        overlap(offset, len, self.capability)
    }
}

/// Bytes of ID and next pointer, which are the relinked list's.
const LIST_BYTES: u16 = 2;

fn overlap(offset: u16, len: usize, capability: u16) -> Option<(u16, usize, usize)> {
    let first = capability.checked_add(LIST_BYTES)?;
    let last = usize::from(capability).checked_add(msix::layout::CAPABILITY_BYTES)?;
    let from = offset.max(first);
    let end = usize::from(offset).checked_add(len)?.min(last);
    let len = end.checked_sub(usize::from(from)).filter(|len| *len > 0)?;
    Some((from.checked_sub(capability)?, usize::from(from.checked_sub(offset)?), len))
}

/// VFIO_DEVICE_RESET, again while the host is busy with the device (it only tries for its lock).
pub(super) fn reset_patiently(device: &File) -> std::io::Result<()> {
    const TRIES: u32 = 50;
    const PAUSE: Duration = Duration::from_millis(10);
    let mut result = ioctl::reset(device);
    for _ in 1..TRIES {
        match &result {
            Err(error) if Errno::from_io_error(error) == Some(Errno::AGAIN) => std::thread::sleep(PAUSE),
            _ => break,
        }
        result = ioctl::reset(device);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_access_is_the_librarys_in_the_capability_but_for_id_and_pointer() {
        assert_eq!(overlap(0x50, 4, 0x50), Some((2, 2, 2)));
        assert_eq!(overlap(0x52, 2, 0x50), Some((2, 0, 2)));
        assert_eq!(overlap(0x53, 1, 0x50), Some((3, 0, 1)));
        assert_eq!(overlap(0x5a, 8, 0x50), Some((10, 0, 2)));
        assert_eq!(overlap(0x4c, 32, 0x50), Some((2, 6, 10)));
        for (offset, len) in [(0x50, 2), (0x5c, 4), (0x40, 16), (0x52, 0), (0xfff, 1)] {
            assert_eq!(overlap(offset, len, 0x50), None, "{offset:#x} {len}");
        }
    }
}
