//! An opened host device: reset, with its configuration space and regions.

use std::fs::File;
use std::sync::Arc;

use vfio_bindings::bindings::vfio::{
    VFIO_DEVICE_FLAGS_PCI, VFIO_DEVICE_FLAGS_RESET, VFIO_PCI_CONFIG_REGION_INDEX,
};

use super::container::Container;
use super::device::reset_with_retry;
use super::guest_config::HostReset;
use super::interrupts::probe::HostFunction;
use super::ioctl;
use super::region::Region;
use super::sysfs::{HostAddress, HostDevice};
use crate::error::{Context, Error, Result};
use crate::pci::BAR_COUNT;

/// An open device, reset if possible.
#[derive(Debug)]
pub struct OpenedDevice {
    /// Its address.
    pub address: HostAddress,
    /// Its descriptor.
    pub file: Arc<File>,
    /// Whether the host can reset it.
    pub reset: HostReset,
    /// Its configuration space.
    pub config: Region,
    /// The contents of its configuration space, up to 4096 bytes.
    pub registers: Vec<u8>,
    /// The regions of its BARs.
    pub regions: [Option<Region>; BAR_COUNT],
}

impl OpenedDevice {
    /// Opens a device of the container's groups and resets it.
    ///
    /// # Errors
    /// [`Error::Host`].
    pub fn open(host: &HostDevice, container: &Container) -> Result<Self> {
        let address = host.address;
        let context = |what: &str| format!("device {address}: {what}");
        let file = Arc::new(container.device(host)?);
        let flags = ioctl::device_flags(&file).context(context("reading its device info"))?;
        if flags & VFIO_DEVICE_FLAGS_PCI == 0 {
            return Err(Error::host(context("reading its device info"), "it is no PCI device"));
        }
        tracing::debug!("device {address} is open");
        let reset = first_reset(host, &file, flags);
        tracing::debug!("device {address} is reset");

        let region = |index| Region::new(&file, index).context(context("reading its region info"));
        let config = region(VFIO_PCI_CONFIG_REGION_INDEX)?
            .ok_or_else(|| Error::host(context("reading its configuration"), "it has none"))?;
        let mut registers = vec![0; usize::try_from(config.size()).unwrap_or(0).min(4096)];
        config.read(0, &mut registers);
        if registers.starts_with(&[0xff, 0xff]) {
            return Err(Error::host(
                context("reading its configuration"),
                "it does not answer: it has no power, or is gone",
            ));
        }
        let mut regions = [const { None }; BAR_COUNT];
        for (slot, index) in regions.iter_mut().zip(0..) {
            *slot = region(index)?;
        }
        Ok(Self { address, file, reset, config, registers, regions })
    }

    /// The device, to probe its interrupts.
    #[must_use]
    pub fn function(&self) -> HostFunction<'_> {
        HostFunction {
            address: self.address,
            file: &self.file,
            config: &self.config,
            registers: &self.registers,
            regions: &self.regions,
        }
    }
}

/// Resets the device and returns whether the reset works.
fn first_reset(host: &HostDevice, file: &File, flags: u32) -> HostReset {
    if flags & VFIO_DEVICE_FLAGS_RESET == 0 {
        tracing::warn!(
            "device {} cannot be reset by the host: it keeps the state of its last driver",
            host.address
        );
        return HostReset::Unsupported;
    }
    match reset_with_retry(file) {
        Ok(()) => HostReset::Supported,
        Err(error) => {
            tracing::warn!(
                "device {} cannot be reset, it keeps the state of its last driver: {error}",
                host.address
            );
            HostReset::Unsupported
        }
    }
}
