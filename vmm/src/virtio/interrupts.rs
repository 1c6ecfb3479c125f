//! The MSI-X of a device, for both kinds of device models.
//!
//! A software device triggers a vector by one KVM_SIGNAL_MSI. A device with eventfds has one for each vector, which a
//! producer in the host signals, and which is KVM's irqfd while the guest uses the vector. A vector takes a route and an
//! irqfd when the guest unmasks it, and gives them back when the guest frees it or resets the device. No lock of its own.

use std::io;
use std::sync::Arc;

use serde_json::{Value, json};
use vm_msi::backend::{EventfdSet, StableEventfds};
use vm_msi::domain::BusMaster;
use vm_msi::maintenance::{Maintenance, Requests};
use vm_msi::msix::{Bar, Layout};
use vm_msi::{MsixFunction, Router, SoftwareMsix, Vector};
use vmm_sys_util::eventfd::EventFd;

use crate::pci::MsixCapability;
use crate::report;

/// What raises a device's interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InterruptSource {
    /// The VMM.
    Software,
    /// The VMM or a producer in the host, by an eventfd for each vector.
    Eventfds,
}

/// The MSI-X of a device.
#[derive(Debug)]
pub enum Interrupts {
    /// See [`InterruptSource::Software`].
    Software(Box<SoftwareMsix>),
    /// See [`InterruptSource::Eventfds`].
    Eventfds(Arc<MsixFunction>, EventfdSet),
}

impl Interrupts {
    /// MSI-X after power-on.
    ///
    /// # Errors
    /// There are not enough descriptors, or the host does not support what MSI-X needs.
    pub fn new(source: InterruptSource, layout: Layout, router: Arc<dyn Router>) -> io::Result<Self> {
        Ok(match source {
            InterruptSource::Software => Self::Software(Box::new(SoftwareMsix::software(layout, router))),
            InterruptSource::Eventfds => {
                let eventfds = EventfdSet::new(layout.size().get().into())?;
                let backend = StableEventfds::new(eventfds.clone());
                let msix = MsixFunction::try_new(layout, router, backend).map_err(io::Error::other)?;
                Self::Eventfds(Arc::new(msix), eventfds)
            }
        })
    }

    /// Size of the table.
    #[must_use]
    pub fn table_size(&self) -> u16 {
        match self {
            Self::Software(msix) => msix.layout().size().get(),
            Self::Eventfds(msix, _) => msix.layout().size().get(),
        }
    }

    /// Whether the guest has enabled MSI-X.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        match self {
            Self::Software(msix) => msix.vectors() > 0,
            Self::Eventfds(msix, _) => msix.vectors() > 0,
        }
    }

    /// Raises a vector's interrupt.
    pub fn trigger(&self, vector: u16) {
        match self {
            Self::Software(msix) => msix.trigger(Vector(vector.into())),
            Self::Eventfds(..) => {
                if let Some(eventfd) = self.eventfd(vector) {
                    // The write fails only if the counter is full, which is a signal, too.
                    let _ = eventfd.write(1);
                }
            }
        }
    }

    /// The eventfd of a vector, if there is one. It stays the same, whatever the guest does with the vector.
    #[must_use]
    pub fn eventfd(&self, vector: u16) -> Option<&EventFd> {
        match self {
            Self::Software(_) => None,
            Self::Eventfds(_, eventfds) => eventfds.get(Vector(vector.into())),
        }
    }

    /// The maintenance of the eventfds' routes, for the device's first lane.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub fn maintenance(&self) -> io::Result<Option<Maintenance>> {
        match self {
            Self::Software(_) => Ok(None),
            Self::Eventfds(msix, _) => Maintenance::new(Arc::clone(msix), Requests::InAccess).map(Some),
        }
    }

    /// Whether the host has refused a step that [`Interrupts::retry`] tries again.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        match self {
            Self::Software(msix) => msix.failed_steps() > 0,
            Self::Eventfds(msix, _) => msix.failed_steps() > 0,
        }
    }

    /// Tries refused steps again.
    pub fn retry(&self) {
        match self {
            Self::Software(msix) => msix.retry(),
            Self::Eventfds(msix, _) => msix.retry(),
        }
    }

    /// Sets Bus Master Enable.
    pub fn set_bus_master(&self, bus_master: BusMaster) {
        match self {
            Self::Software(msix) => msix.set_bus_master(bus_master),
            Self::Eventfds(msix, _) => msix.set_bus_master(bus_master),
        }
    }

    /// Releases what the vectors have in the host.
    pub fn tear_down(&self) {
        if let Self::Eventfds(msix, _) = self {
            msix.tear_down();
        }
    }

    /// Reads MSI-X's part of a configuration access.
    pub fn config_read(&self, capability: MsixCapability, offset: u16, data: &mut [u8]) {
        match self {
            Self::Software(msix) => capability.read(&**msix, offset, data),
            Self::Eventfds(msix, _) => capability.read(&**msix, offset, data),
        }
    }

    /// Writes MSI-X's part of a configuration access.
    pub fn config_write(&self, capability: MsixCapability, offset: u16, data: &[u8]) {
        match self {
            Self::Software(msix) => capability.write(&**msix, offset, data),
            Self::Eventfds(msix, _) => capability.write(&**msix, offset, data),
        }
    }

    /// Reads the BAR. `device` reads the other structures.
    pub fn read_bar(&self, bar: Bar, offset: u64, data: &mut [u8], device: impl FnMut(u64, &mut [u8])) {
        match self {
            Self::Software(msix) => msix.read_bar(bar, offset, data, device),
            Self::Eventfds(msix, _) => msix.read_bar(bar, offset, data, device),
        }
    }

    /// Writes the BAR. `device` writes the other structures.
    pub fn write_bar(&self, bar: Bar, offset: u64, data: &[u8], device: impl FnMut(u64, &[u8])) {
        match self {
            Self::Software(msix) => msix.write_bar(bar, offset, data, device),
            Self::Eventfds(msix, _) => msix.write_bar(bar, offset, data, device),
        }
    }

    /// Name and contents of MSI-X's part of the report.
    #[must_use]
    pub fn report(&self) -> (&'static str, Value) {
        match self {
            Self::Software(msix) => ("software_msix", report::software(&**msix)),
            Self::Eventfds(msix, _) => {
                ("msix", json!({ "vectors": msix.vectors(), "domain": msix.report() }))
            }
        }
    }
}
