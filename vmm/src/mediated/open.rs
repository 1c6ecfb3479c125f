//! Opens host devices to mediate. Several functions share one open device.

use std::collections::BTreeMap;
use std::sync::Arc;

use vm_msi::VmBudget;

use super::doorbell::{Doorbell, DoorbellError};
use super::ivshmem::Ivshmem;
use super::physical::{HostHandle, PhysicalDevice};
use crate::error::{Context, Error, Result};
use crate::vfio::container::Container;
use crate::vfio::{HostAddress, HostDevice, OpenedDevice};

/// The open devices.
pub struct Opener<'a> {
    devices: BTreeMap<HostAddress, Arc<PhysicalDevice>>,
    budget: &'a Arc<VmBudget>,
    device_vectors: Option<u32>,
}

impl<'a> Opener<'a> {
    /// An opener without devices. `budget` limits the host vectors of all devices, `device_vectors` those of each.
    #[must_use]
    pub fn new(budget: &'a Arc<VmBudget>, device_vectors: Option<u32>) -> Self {
        Self { devices: BTreeMap::new(), budget, device_vectors }
    }

    /// Returns the device, and opens it on first use.
    ///
    /// # Errors
    /// [`Error::Host`] if the host refuses a step, the device has no MSI-X, or its doorbell is not supported.
    pub fn device(&mut self, host: &HostDevice) -> Result<Arc<PhysicalDevice>> {
        if let Some(device) = self.devices.get(&host.address) {
            return Ok(Arc::clone(device));
        }
        let device = self.open(host)?;
        self.devices.insert(host.address, Arc::clone(&device));
        Ok(device)
    }

    fn open(&self, host: &HostDevice) -> Result<Arc<PhysicalDevice>> {
        let context = || format!("device {}: mediating it", host.address);
        let container = Container::isolated(host)?;
        let mut opened = OpenedDevice::open(host, &container)?;
        let vectors = opened.function().msix_vectors().map_err(|error| Error::host(context(), error))?;
        let budget = self.budget.admit(0, self.device_vectors).context(context())?;
        HostHandle::enable_memory(&opened.config);
        let doorbell = find_doorbell(&mut opened).context(context())?;
        let OpenedDevice { address, file, reset, config, .. } = opened;
        let bus = HostHandle { address, config, reset, file, container: Some(container) };
        let device = PhysicalDevice::new(vectors, doorbell, budget, bus).context(context())?;
        tracing::info!("device {address} ({}) is mediated", device.doorbell().name());
        Ok(device)
    }
}

/// Selects the doorbell of a device, which must decode memory.
///
/// # Errors
/// The device is not supported, or not ready.
fn find_doorbell(opened: &mut OpenedDevice) -> std::result::Result<Box<dyn Doorbell>, DoorbellError> {
    let id = |at: usize| {
        let bytes = opened.registers.get(at..).and_then(|bytes| bytes.first_chunk());
        bytes.map_or(u16::MAX, |bytes| u16::from_le_bytes(*bytes))
    };
    match (id(0), id(2)) {
        Ivshmem::ID => Ok(Box::new(Ivshmem::new(opened.regions.first_mut().and_then(Option::take))?)),
        (vendor, device) => Err(DoorbellError::Unknown { vendor, device }),
    }
}
