//! The physical device behind mediated functions: its host vectors and its bus mastering.
//!
//! Invariant: MSI-X stays enabled on the host, so that no function affects the others by coming or going. The
//! management vector keeps it enabled. It is unbound and uses no host interrupt. Bus Master Enable is set while some
//! function runs: the device cannot signal without it.
//!
//! One lock protects the number of reserved vectors and of running functions. It is held for one write to
//! configuration space.

use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vm_msi::backend::Backend;
use vm_msi::pool::{HostVector, LogicalFunction, Parent, Pool, PoolReport};
use vm_msi::{DeviceBudget, backend, pool};

use super::doorbell::Doorbell;
use crate::pci::bar::{COMMAND, COMMAND_MEMORY};
use crate::vfio::HostAddress;
use crate::vfio::container::Container;
use crate::vfio::device::reset_with_retry;
use crate::vfio::guest_config::HostReset;
use crate::vfio::region::Region;
use crate::vfio::registers::{COMMAND_BUS_MASTER, COMMAND_INTX_DISABLE};

/// The mediator's own vector.
const MANAGEMENT: HostVector = HostVector(0);

/// Why a device cannot be mediated.
#[derive(Debug, thiserror::Error)]
pub enum MediatedError {
    /// A function has more slots than free host vectors. Some slots would never signal.
    #[error(
        "{slots} slots need a host vector each: the device has {vectors}, of which one is the mediator's and {reserved} \
         are reserved for other functions"
    )]
    TooManySlots {
        /// The function's slots.
        slots: u32,
        /// The device's vectors.
        vectors: u32,
        /// Vectors reserved for other functions.
        reserved: u32,
    },
    /// Its vectors cannot be assigned to functions.
    #[error(transparent)]
    Parent(#[from] pool::ParentError),
    /// The mediator's vector is not available.
    #[error(transparent)]
    Pool(#[from] pool::PoolError),
    /// The host cannot enable MSI-X.
    #[error(transparent)]
    Backend(#[from] backend::BackendError),
}

/// The host's side of the device. Dropping it disables bus mastering and resets the device. Its interrupts are
/// detached before.
#[derive(Debug)]
pub struct HostHandle {
    /// Its address.
    pub address: HostAddress,
    /// Its configuration space.
    pub config: Region,
    /// Whether the host can reset it.
    pub reset: HostReset,
    /// Its descriptor.
    pub file: Arc<File>,
    /// Keeps the container open until the device is closed. A test has none.
    pub container: Option<Arc<Container>>,
}

impl HostHandle {
    /// Enables memory decoding and disables bus mastering.
    pub fn enable_memory(config: &Region) {
        config.write(COMMAND.into(), &((COMMAND_MEMORY | COMMAND_INTX_DISABLE) as u16).to_le_bytes());
    }

    /// Enables bus mastering, too.
    fn enable_bus_master(&self) {
        let command = COMMAND_MEMORY | COMMAND_INTX_DISABLE | COMMAND_BUS_MASTER;
        self.config.write(COMMAND.into(), &(command as u16).to_le_bytes());
    }

    fn disable_bus_master(&self) {
        Self::enable_memory(&self.config);
    }
}

impl Drop for HostHandle {
    fn drop(&mut self) {
        self.disable_bus_master();
        if self.reset == HostReset::Supported
            && let Err(error) = reset_with_retry(&self.file)
        {
            tracing::warn!("device {} cannot be reset: {error}", self.address);
        }
        tracing::debug!("device {} is released", self.address);
    }
}

#[derive(Debug, Default)]
struct Use {
    /// Vectors reserved for all functions.
    reserved: u32,
    running: u32,
}

/// The device.
pub struct PhysicalDevice {
    doorbell: Box<dyn Doorbell>,
    parent: Parent,
    budget: Arc<DeviceBudget>,
    used: Mutex<Use>,
    // Drop order: interrupts, then the device.
    _management: LogicalFunction,
    bus: HostHandle,
}

impl PhysicalDevice {
    /// A device with these host vectors. All but the first are for functions. Bus mastering is disabled.
    ///
    /// # Errors
    /// The host cannot enable MSI-X, or cannot add vectors while it is enabled.
    pub fn new(
        vectors: impl Backend + 'static,
        doorbell: Box<dyn Doorbell>,
        budget: Arc<DeviceBudget>,
        bus: HostHandle,
    ) -> Result<Arc<Self>, MediatedError> {
        let all = vectors.capabilities().vectors;
        let table = Arc::new(Pool::new(vectors).reserve(0..all)?);
        let mut management = LogicalFunction::new([table.alloc_at(MANAGEMENT)?]);
        management.open(1)?;
        let parent = Parent::enable(table, MANAGEMENT)?;
        Ok(Arc::new(Self { doorbell, parent, budget, used: Mutex::default(), _management: management, bus }))
    }

    /// Reserves `slots` vectors for a function. Each is allocated on first use.
    ///
    /// # Errors
    /// [`MediatedError::TooManySlots`].
    pub fn sub_device(&self, slots: u32) -> Result<LogicalFunction, MediatedError> {
        let vectors = self.pool().capabilities().vectors;
        let mut used = self.used();
        let reserved = used.reserved;
        // One vector is the mediator's.
        let after = reserved.checked_add(slots).filter(|after| *after < vectors);
        used.reserved = after.ok_or(MediatedError::TooManySlots { slots, vectors, reserved })?;
        Ok(self.parent.sub_device(slots))
    }

    /// Its address on the host.
    #[must_use]
    pub fn address(&self) -> HostAddress {
        self.bus.address
    }

    /// The device's doorbell.
    #[must_use]
    pub fn doorbell(&self) -> &dyn Doorbell {
        &*self.doorbell
    }

    /// The budget of host vectors for all functions.
    #[must_use]
    pub fn budget(&self) -> &Arc<DeviceBudget> {
        &self.budget
    }

    /// Retries the release of host vectors.
    pub fn retry(&self) {
        self.pool().retry();
    }

    /// The allocation of the host vectors.
    #[must_use]
    pub fn report(&self) -> PoolReport {
        self.pool().report()
    }

    /// Keeps bus mastering enabled until the guard is dropped.
    pub fn hold_bus_master(self: &Arc<Self>) -> BusMasterGuard {
        let mut used = self.used();
        if used.running == 0 {
            self.bus.enable_bus_master();
        }
        used.running = used.running.saturating_add(1);
        BusMasterGuard(Arc::clone(self))
    }

    fn pool(&self) -> &Pool {
        self.parent.table().pool()
    }

    fn used(&self) -> MutexGuard<'_, Use> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps bus mastering enabled.
#[must_use = "dropping the guard may disable bus mastering"]
pub struct BusMasterGuard(Arc<PhysicalDevice>);

impl Drop for BusMasterGuard {
    fn drop(&mut self) {
        let mut used = self.0.used();
        used.running = used.running.saturating_sub(1);
        if used.running == 0 {
            self.0.bus.disable_bus_master();
        }
    }
}
