//! A physical device of which functions are parts: its host vectors, and what it may do on the host's bus.
//!
//! Invariant: MSI-X is on in the host from the start to the end, so that no function that comes or goes turns it off for
//! the others: by way of the management vector, which is the mediator's as on devices that need one, and costs no interrupt
//! while nobody binds it. Bus Master Enable, without which a device cannot signal, is on while some function runs.
//!
//! Locking: one lock, for what of the device is promised and how many functions run; held for one write to configuration
//! space.

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

/// The vector that is the mediator's own.
const MANAGEMENT: HostVector = HostVector(0);

/// Why a device cannot be had in parts.
#[derive(Debug, thiserror::Error)]
pub enum MediatedError {
    /// A function has more slots than there can be host vectors for. A guest could set up slots that never signal.
    #[error(
        "{slots} slots need a host vector each: the device has {vectors}, of which one is the mediator's and {reserved} \
         are reserved for other functions"
    )]
    TooManySlots {
        /// What was asked for.
        slots: u32,
        /// What the device has.
        vectors: u32,
        /// What others have of it.
        reserved: u32,
    },
    /// Its vectors cannot be handed on.
    #[error(transparent)]
    Parent(#[from] pool::ParentError),
    /// The mediator has no vector.
    #[error(transparent)]
    Pool(#[from] pool::PoolError),
    /// The host does not turn its MSI-X on.
    #[error(transparent)]
    Backend(#[from] backend::BackendError),
}

/// What there is of the device on the host's bus. Dropped, the device is as it was found: its interrupts have gone before.
#[derive(Debug)]
pub struct HostHandle {
    /// Its address.
    pub address: HostAddress,
    /// Its configuration space.
    pub config: Region,
    /// Whether it can be reset.
    pub reset: HostReset,
    /// Its descriptor.
    pub file: Arc<File>,
    /// Held until the device is closed; a test has none.
    pub container: Option<Arc<Container>>,
}

impl HostHandle {
    /// Lets a device answer at its BARs, and do nothing else.
    pub fn enable_memory(config: &Region) {
        config.write(COMMAND.into(), &((COMMAND_MEMORY | COMMAND_INTX_DISABLE) as u16).to_le_bytes());
    }

    /// Lets it signal too.
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
        tracing::debug!("device {} is given back", self.address);
    }
}

#[derive(Debug, Default)]
struct Use {
    /// Slots of all functions.
    reserved: u32,
    running: u32,
}

/// The device.
pub struct PhysicalDevice {
    doorbell: Box<dyn Doorbell>,
    parent: Parent,
    budget: Arc<DeviceBudget>,
    used: Mutex<Use>,
    // The order of these fields is that of giving back: interrupts, the device.
    _management: LogicalFunction,
    bus: HostHandle,
}

impl PhysicalDevice {
    /// A device with these host vectors, all of which functions may have but the first; it does not signal yet.
    ///
    /// # Errors
    /// The host cannot turn its MSI-X on, or cannot give vectors then.
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

    /// A part of it with so many vectors, each of which it takes when it first needs it.
    ///
    /// # Errors
    /// [`MediatedError::TooManySlots`].
    pub fn sub_device(&self, slots: u32) -> Result<LogicalFunction, MediatedError> {
        let vectors = self.pool().capabilities().vectors;
        let mut used = self.used();
        let reserved = used.reserved;
        // One is the mediator's.
        let after = reserved.checked_add(slots).filter(|after| *after < vectors);
        used.reserved = after.ok_or(MediatedError::TooManySlots { slots, vectors, reserved })?;
        Ok(self.parent.sub_device(slots))
    }

    /// Its address on the host.
    #[must_use]
    pub fn address(&self) -> HostAddress {
        self.bus.address
    }

    /// How it is rung.
    #[must_use]
    pub fn doorbell(&self) -> &dyn Doorbell {
        &*self.doorbell
    }

    /// What host vectors all of its functions may have.
    #[must_use]
    pub fn budget(&self) -> &Arc<DeviceBudget> {
        &self.budget
    }

    /// Tries again what the host has not taken back.
    pub fn retry(&self) {
        self.pool().retry();
    }

    /// Who has what of it.
    #[must_use]
    pub fn report(&self) -> PoolReport {
        self.pool().report()
    }

    /// The device may signal for as long as this is held.
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

/// A function of the device runs.
#[must_use = "dropped, the device may be kept from signalling"]
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
