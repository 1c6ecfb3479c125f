//! Opens devices of the host's to mediate, each once however many functions are of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use vm_msi::VmBudget;

use super::doorbell;
use super::physical::{OnBus, Physical};
use crate::error::{Doing, Error, Result};
use crate::vfio::container::Container;
use crate::vfio::{HostAddress, HostDevice, Opened};

/// The devices that are open.
pub struct Opener<'a> {
    devices: BTreeMap<HostAddress, Arc<Physical>>,
    budget: &'a Arc<VmBudget>,
    device_vectors: Option<u32>,
}

impl<'a> Opener<'a> {
    /// None yet. They may have so many host vectors: all of the VM's devices, and each of them.
    #[must_use]
    pub fn new(budget: &'a Arc<VmBudget>, device_vectors: Option<u32>) -> Self {
        Self { devices: BTreeMap::new(), budget, device_vectors }
    }

    /// A device, opened the first time.
    ///
    /// # Errors
    /// The host's; or it has no MSI-X, or nobody knows how to ring it.
    pub fn device(&mut self, host: &HostDevice) -> Result<Arc<Physical>> {
        if let Some(device) = self.devices.get(&host.address) {
            return Ok(Arc::clone(device));
        }
        let device = self.open(host)?;
        self.devices.insert(host.address, Arc::clone(&device));
        Ok(device)
    }

    fn open(&self, host: &HostDevice) -> Result<Arc<Physical>> {
        let doing = || format!("device {}: mediating it", host.address);
        let container = Container::apart(host)?;
        let mut opened = Opened::open(host, &container)?;
        let vectors = opened.function().msix_vectors().map_err(|error| Error::host(doing(), error))?;
        let budget = self.budget.admit(0, self.device_vectors).doing(doing())?;
        OnBus::answer(&opened.config);
        let doorbell = doorbell::find(&mut opened).doing(doing())?;
        let Opened { address, file, reset, config, .. } = opened;
        let bus = OnBus { address, config, reset, file, container: Some(container) };
        let device = Physical::new(vectors, doorbell, budget, bus).doing(doing())?;
        tracing::info!("device {address} ({}) is mediated", device.doorbell().name());
        Ok(device)
    }
}
