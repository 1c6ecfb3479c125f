//! The interrupts of one PCI function, for an embedder: the registers, and the domain behind them.
//!
//! Each access changes the registers, and then syncs the vectors that it touched. When a guest's write
//! returns, the host matches the registers. Locking: none of its own. A lock of the registers is innermost,
//! and no host call is made under it.

mod config;
#[cfg(feature = "ims")]
mod ims;
mod msix;
#[cfg(feature = "ims")]
mod queue;
mod state;

use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::backend::{Backend, Unsupported};
use crate::budget::DeviceBudget;
use crate::delivery::{Delivery, Touched, Vector};
use crate::domain::{
    BusMaster, DeviceDomain, Domain, DomainReport, FailureHook, Latched, SoftwareCounters, SoftwareDomain,
};
use crate::msi::Msi;
use crate::msix::Msix;
use crate::registers::Registers;
use crate::router::Router;
#[cfg(feature = "ims")]
pub use ims::{ImsFunction, SoftwareIms};
#[cfg(feature = "ims")]
pub use queue::{QueueFunction, SoftwareQueue};

/// The MSI of one PCI function.
pub type MsiFunction = InterruptFunction<Msi, DeviceDomain>;
/// The MSI-X of one PCI function.
pub type MsixFunction = InterruptFunction<Msix, DeviceDomain>;
/// The MSI-X of a device model inside the VMM, which triggers its vectors itself.
pub type SoftwareMsix = InterruptFunction<Msix, SoftwareDomain>;

/// The registers of one store of a PCI function, and its vectors in the host. A PCI function with MSI-X and
/// an IMS has one of these for each.
///
/// An access may have any offset and width, and none fails. Accesses that the specification leaves undefined
/// behave as on a bus with byte enables. Registers that do not exist read 0 and ignore writes.
#[derive(Debug)]
pub struct InterruptFunction<C: Registers, D: Domain> {
    registers: C,
    domain: D,
}

impl<C: Registers, D: Domain> InterruptFunction<C, D> {
    /// How many vectors the guest can ever use.
    pub fn capacity(&self) -> u32 {
        self.registers.capacity()
    }

    /// Reads the registers, for a guest's access.
    pub fn look<T>(&self, read: impl FnOnce(&C) -> T) -> T {
        read(&self.registers)
    }

    /// Changes the registers, for a guest's access. `write` returns the vectors that it touched.
    ///
    /// Interrupts meanwhile: none is lost. When this returns, no interrupt is delivered for a vector that is
    /// masked or off, nor on a vector's old message.
    pub fn change(&self, write: impl FnOnce(&C) -> Touched) {
        self.sync(write(&self.registers));
    }

    /// The pending bits of vectors 64 × `group` to 64 × `group` + 63, lowest vector in the lowest bit.
    /// Reading clears nothing.
    pub fn pending(&self, group: u32) -> u64 {
        self.domain.pending(group)
    }

    /// Resets the function: releases every vector, resets the device with `reset_device`, and sets the
    /// registers to their values after power-on.
    ///
    /// Interrupts meanwhile: pending interrupts are dropped, as the specification says.
    pub fn reset(&self, reset_device: impl FnOnce()) {
        let touched = self.registers.reset();
        self.sync(touched);
        reset_device();
        self.domain.clear_pending();
    }

    /// Translates every vector's message again, after an invalidation of the [remapping](crate::remap) stage.
    /// Call it when the stage answers from its new state. A vector whose translation did not change costs no
    /// host call.
    ///
    /// Interrupts meanwhile: none is lost. When this returns, none is delivered on an old translation, nor
    /// for a vector whose message the stage now refuses.
    pub fn invalidate(&self) {
        // `capacity`, not `vectors()`: a concurrent shrink may not have reached the host yet.
        self.sync(Touched::first(self.registers.capacity()));
    }

    /// Sets Bus Master Enable of the function's Command register, if the embedder emulates it. While it is
    /// off, the function sends no messages. It is on at first, and a [reset](InterruptFunction::reset) does
    /// not change it. A passed-through device has the bit itself.
    ///
    /// Interrupts meanwhile: while the bit is off they wait, and show as pending if the registers have
    /// pending bits. When it is set, each unmasked vector with a pending interrupt sends one.
    pub fn set_bus_master(&self, bus_master: BusMaster) {
        self.domain.set_bus_master(&self.registers, bus_master);
    }

    /// Tries refused steps again, and releases freed vectors whose release delay is over. Cheap if there are
    /// none.
    pub fn retry(&self) {
        self.domain.retry(&self.registers);
    }

    /// How many vectors do not yet match the registers because the host refused a step. While it is not 0,
    /// call [`InterruptFunction::retry`] from time to time.
    pub fn failed_steps(&self) -> usize {
        self.domain.failed_steps()
    }

    /// How many vectors the guest may use now.
    pub fn vectors(&self) -> u32 {
        self.registers.vectors()
    }

    /// Calls [`InterruptFunction::sync_shown`] after an access to a table of 16-byte entries, for the mask
    /// bits in the access.
    #[inline]
    fn sync_shown_by_table(&self, offset: u64, len: usize) {
        // Vector Control is bytes 12 to 15 of an entry. Most accesses have none of them.
        if (offset % 16).saturating_add(len as u64) > 12 {
            self.sync_shown(with_control(offset, len));
        }
    }

    /// Syncs each vector of `vectors` that the access may have shown as masked or off, but that may still
    /// deliver. Another vCPU has then masked the vector and not yet detached it. This access must not return
    /// before the vector is detached.
    fn sync_shown(&self, vectors: Range<u32>) {
        let mut from = vectors.start;
        while let Some(vector) = self.domain.may_deliver(from..vectors.end) {
            if !matches!(self.registers.delivery(vector), Delivery::Live(_)) {
                self.domain.sync(&self.registers, Touched::one(vector));
            }
            from = vector.0.saturating_add(1);
        }
    }

    /// Syncs the touched vectors. Most accesses touch none.
    #[inline]
    fn sync(&self, touched: Touched) {
        if !touched.is_empty() {
            self.domain.sync(&self.registers, touched);
        }
    }
}

/// The 16-byte entries of which the access covers a byte of the control DWORD, and so shows the mask bit.
fn with_control(offset: u64, len: usize) -> Range<u32> {
    let entry = |at: u64| u32::try_from(at / 16).unwrap_or(u32::MAX);
    // The control DWORD is bytes 12 to 15 of an entry.
    entry(offset)..entry(offset.saturating_add(len as u64).saturating_add(3))
}

/// A function whose interrupts come through eventfds.
impl<C: Registers> InterruptFunction<C, DeviceDomain> {
    /// A function after power-on: the capability is off, and no host vector is bound. `registers` is a
    /// layout, or registers made by the embedder.
    pub fn new(registers: impl Into<C>, router: Arc<dyn Router>, backend: impl Backend + 'static) -> Self {
        let registers = registers.into();
        let domain = DeviceDomain::new(registers.capacity(), router, Box::new(backend));
        Self { registers, domain }
    }

    /// As [`InterruptFunction::new`], after a check that the router, any remapping stage, the device and its
    /// host have the features that the capability needs. Do not show the capability to a guest if this fails.
    ///
    /// # Errors
    /// [`Unsupported`] names the first missing feature.
    pub fn try_new(
        registers: impl Into<C>,
        router: Arc<dyn Router>,
        backend: impl Backend + 'static,
    ) -> Result<Self, Unsupported> {
        let registers = registers.into();
        let chain = router.capabilities().intersection(backend.capabilities());
        chain.check(registers.needs())?;
        Ok(Self::new(registers, router, backend))
    }

    /// The same function with a [budget](crate::budget) of the embedder's own. Without one, the function may
    /// have as many host vectors as vectors, and at most [`DeviceBudget::DEFAULT_LIMIT`].
    ///
    /// A vector that the budget refuses is held, and [`InterruptFunction::retry`] requests its host vector
    /// again.
    pub fn with_budget(self, budget: Arc<DeviceBudget>) -> Self {
        let Self { registers, domain } = self;
        Self { registers, domain: domain.with_budget(budget) }
    }

    /// As [`InterruptFunction::retry`], for an embedder with a clock of its own.
    pub fn retry_at(&self, now: Instant) {
        self.domain.retry_at(&self.registers, now);
    }

    /// See [`DeviceDomain::maintain`].
    pub fn maintain(&self, now: Instant) -> Option<Duration> {
        self.domain.maintain(&self.registers, now)
    }

    /// See [`DeviceDomain::maintenance_fd`].
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub fn maintenance_fd(&self) -> io::Result<Arc<OwnedFd>> {
        self.domain.maintenance_fd()
    }

    /// See [`DeviceDomain::on_failure`].
    pub fn on_failure(&self, hook: FailureHook) {
        self.domain.on_failure(hook);
    }

    /// See [`DeviceDomain::set_window_hooks`].
    pub fn set_window_hooks(
        &self,
        before_open: impl FnMut() -> io::Result<()> + Send + 'static,
        after_close: impl FnMut() + Send + 'static,
    ) {
        self.domain.set_window_hooks(before_open, after_close);
    }

    /// See [`DeviceDomain::rearm`].
    pub fn rearm(&self) {
        self.domain.rearm(&self.registers);
    }

    /// See [`DeviceDomain::tear_down`].
    pub fn tear_down(&self) {
        self.domain.tear_down();
    }

    /// See [`DeviceDomain::max_relayed`].
    pub fn max_relayed(&self) -> u32 {
        self.domain.max_relayed()
    }

    /// See [`DeviceDomain::expiring`].
    pub fn expiring(&self) -> usize {
        self.domain.expiring()
    }

    /// See [`DeviceDomain::set_release_delay`].
    pub fn set_release_delay(&self, delay: Duration) {
        self.domain.set_release_delay(delay);
    }

    /// See [`DeviceDomain::relay_fd`].
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub fn relay_fd(&self) -> io::Result<Arc<OwnedFd>> {
        self.domain.relay_fd()
    }

    /// See [`DeviceDomain::deliver_relayed`].
    pub fn deliver_relayed(&self) {
        self.domain.deliver_relayed();
    }

    /// See [`DeviceDomain::deferred_bind_fd`].
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub fn deferred_bind_fd(&self) -> io::Result<Arc<OwnedFd>> {
        self.domain.deferred_bind_fd()
    }

    /// See [`DeviceDomain::bind_deferred`].
    pub fn bind_deferred(&self) {
        self.domain.bind_deferred(&self.registers);
    }

    /// See [`DeviceDomain::deferred`].
    pub fn deferred(&self) -> usize {
        self.domain.deferred()
    }

    /// See [`DeviceDomain::latch`].
    pub fn latch(&self, vector: Vector) -> Latched {
        self.domain.latch(vector)
    }

    /// The function's vectors in the host, and its counters.
    pub fn report(&self) -> DomainReport {
        self.domain.report()
    }
}

/// A function of a device model inside the VMM.
impl<C: Registers> InterruptFunction<C, SoftwareDomain> {
    /// A function after power-on.
    pub fn software(registers: impl Into<C>, router: Arc<dyn Router>) -> Self {
        let registers = registers.into();
        let domain = SoftwareDomain::new(registers.capacity(), router);
        Self { registers, domain }
    }

    /// As [`InterruptFunction::software`], after a check that the router has the features that the capability
    /// needs.
    ///
    /// # Errors
    /// [`Unsupported`] names the first missing feature.
    pub fn try_software(registers: impl Into<C>, router: Arc<dyn Router>) -> Result<Self, Unsupported> {
        let registers = registers.into();
        router.capabilities().check(registers.needs())?;
        Ok(Self::software(registers, router))
    }

    /// Raises a vector's interrupt. See [`SoftwareDomain::trigger`].
    pub fn trigger(&self, vector: Vector) {
        self.domain.trigger(&self.registers, vector);
    }

    /// The counters since the function was made.
    pub fn counters(&self) -> SoftwareCounters {
        self.domain.counters()
    }
}
