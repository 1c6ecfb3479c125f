//! Level-triggered lines: the connection of a device's INTx to a GSI.
//!
//! A device signals `trigger` when its interrupt is asserted, and its interrupt is masked at the host from then on. The line signals
//! `resample` when the guest has ended the interrupt. The host then unmasks the interrupt, and signals `trigger` again if the device
//! still asserts it. Several devices may share a GSI: each is resampled at the end of every interrupt of the GSI.
//!
//! KVM's IOAPIC does all of this itself ([`KvmLine`], KVM_IRQFD_FLAG_RESAMPLE). With the VMM's IOAPIC ([`IoapicLine`]), the event loop
//! reads `trigger` and asserts the line. No lock here but the IOAPIC's.

use std::fmt;
use std::io;
use std::sync::Arc;

use kvm_ioctls::VmFd;
use vmm_sys_util::eventfd::EventFd;

use crate::devices::ioapic::Ioapic;

/// Where the signals of `trigger` are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// KVM reads them. Nothing else may.
    Kvm,
    /// The owner reads them, and calls [`LevelLine::assert`] for each.
    Owner,
}

/// A level-triggered line to a GSI, for one device.
pub trait LevelLine: fmt::Debug + Send + Sync {
    /// Connects the device's eventfds. The line is deasserted.
    ///
    /// # Errors
    /// The host's. Nothing is connected.
    fn connect(&self, trigger: &EventFd, resample: &Arc<EventFd>) -> io::Result<()>;

    /// Disconnects them. The line is deasserted unless another device asserts its GSI.
    ///
    /// # Errors
    /// The host's. The eventfds are still connected.
    fn disconnect(&self, trigger: &EventFd) -> io::Result<()>;

    /// Who reads `trigger`.
    fn reader(&self) -> Reader;

    /// Asserts the line, if the owner reads `trigger`.
    ///
    /// # Errors
    /// The host's. The line is asserted, and [`LevelLine::retry`] delivers it.
    fn assert(&self) -> io::Result<()>;

    /// Tries again what the host has refused.
    ///
    /// # Errors
    /// The host refuses it again.
    fn retry(&self) -> io::Result<()>;
}

/// A pin of KVM's IOAPIC.
pub struct KvmLine {
    pub(super) vm: Arc<VmFd>,
    pub(super) gsi: u32,
}

impl fmt::Debug for KvmLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KvmLine").field("gsi", &self.gsi).finish_non_exhaustive()
    }
}

impl LevelLine for KvmLine {
    fn connect(&self, trigger: &EventFd, resample: &Arc<EventFd>) -> io::Result<()> {
        Ok(self.vm.register_irqfd_with_resample(trigger, resample, self.gsi)?)
    }

    fn disconnect(&self, trigger: &EventFd) -> io::Result<()> {
        Ok(self.vm.unregister_irqfd(trigger, self.gsi)?)
    }

    fn reader(&self) -> Reader {
        Reader::Kvm
    }

    fn assert(&self) -> io::Result<()> {
        Ok(())
    }

    fn retry(&self) -> io::Result<()> {
        Ok(())
    }
}

/// A source of a pin of the VMM's IOAPIC.
#[derive(Debug)]
pub struct IoapicLine {
    ioapic: Arc<Ioapic>,
    source: usize,
}

impl IoapicLine {
    /// A new source of this pin.
    #[must_use]
    pub fn new(ioapic: &Arc<Ioapic>, pin: u32) -> Self {
        Self { ioapic: Arc::clone(ioapic), source: ioapic.add_source(pin) }
    }
}

impl LevelLine for IoapicLine {
    fn connect(&self, _trigger: &EventFd, resample: &Arc<EventFd>) -> io::Result<()> {
        self.ioapic.connect(self.source, Arc::clone(resample));
        Ok(())
    }

    fn disconnect(&self, _trigger: &EventFd) -> io::Result<()> {
        self.ioapic.disconnect(self.source);
        Ok(())
    }

    fn reader(&self) -> Reader {
        Reader::Owner
    }

    fn assert(&self) -> io::Result<()> {
        self.ioapic.assert(self.source).map_err(io::Error::other)
    }

    fn retry(&self) -> io::Result<()> {
        self.ioapic.retry().map_err(io::Error::other)
    }
}
