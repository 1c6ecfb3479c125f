//! One PCI function's interrupts, put together for an embedder: the registers, and the domain behind them.
//!
//! Owns no rule of its own. Each access changes the registers and then syncs what it touched, so when a guest's write
//! returns, the host has followed. Locks: those of registers that have one innermost, never across a call to the host.

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

/// One store of one PCI function, and its vectors in the host. A function that has MSI-X and an IMS, or several of
/// them, has one of these for each.
///
/// An access may have any offset and width: what the specification leaves undefined behaves as on a bus with
/// byte enables, and what does not exist reads 0 and ignores writes. None can fail.
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

    /// A guest's access that reads registers.
    pub fn look<T>(&self, read: impl FnOnce(&C) -> T) -> T {
        read(&self.registers)
    }

    /// A guest's access that writes registers: `write` changes them and returns the vectors that it touched.
    ///
    /// Interrupts meanwhile: none is lost. After the call, no interrupt is delivered for a vector that is masked or off, nor on a
    /// message that it no longer has.
    pub fn change(&self, write: impl FnOnce(&C) -> Touched) {
        self.sync(write(&self.registers));
    }

    /// The pending bits of vectors 64 × `group` to 64 × `group` + 63, lowest vector in the lowest bit. Reading
    /// takes nothing.
    pub fn pending(&self, group: u32) -> u64 {
        self.domain.pending(group)
    }

    /// A reset of the function, from whatever state: its interrupts are torn down, `reset_device` resets the
    /// device itself, and the registers are as after power-on. What was pending is gone, as the specification
    /// has it.
    pub fn reset(&self, reset_device: impl FnOnce()) {
        let touched = self.registers.reset();
        self.sync(touched);
        reset_device();
        self.domain.clear_pending();
    }

    /// What the function's messages mean has changed: an invalidation of the [remapping](crate::remap) stage in
    /// front of it, which answers by its new state already. Every vector is compared again; one that did not
    /// change costs no call to the host.
    ///
    /// Interrupts meanwhile: none is lost; after the call none is delivered by an old translation, nor for a
    /// vector whose message the stage does not let through now.
    pub fn invalidate(&self) {
        // All that there can be, not those that the guest may use now: a write that takes some away may not be
        // as far as the host yet.
        self.sync(Touched::first(self.registers.capacity()));
    }

    /// Bus Master Enable of the function's Command register, where the embedder emulates that: while it is off, the
    /// function sends no messages. A function begins as if it were on, and a [reset](InterruptFunction::reset) leaves it as it is.
    /// A passed-through device has the bit itself.
    ///
    /// Interrupts meanwhile: they wait, and show as pending where the registers show that; each vector sends one when the
    /// bit is set, if it is not masked then.
    pub fn set_bus_master(&self, bus_master: BusMaster) {
        self.domain.set_bus_master(&self.registers, bus_master);
    }

    /// Tries again what the host refused, and gives back what has lingered. Cheap where that is nothing.
    pub fn retry(&self) {
        self.domain.retry(&self.registers);
    }

    /// How many vectors are not yet what the guest wants because the host refused a step. While it is not 0,
    /// call [`InterruptFunction::retry`] now and then.
    pub fn failed_steps(&self) -> usize {
        self.domain.failed_steps()
    }

    /// How many vectors the guest may use now.
    pub fn vectors(&self) -> u32 {
        self.registers.vectors()
    }

    /// An access of a table with entries of 16 bytes has shown some mask bits: see [`InterruptFunction::settle_shown`].
    #[inline]
    fn settle_shown_by_table(&self, offset: u64, len: usize) {
        // Most accesses have no byte of a Vector Control, which begins 12 bytes after its entry and ends with it.
        if (offset % 16).saturating_add(len as u64) > 12 {
            self.settle_shown(with_control(offset, len));
        }
    }

    /// An access has shown some of these vectors as silent, or may have. Where another vCPU's access made one so and has not got as
    /// far as the host yet, this one does not return before the host has followed.
    fn settle_shown(&self, vectors: Range<u32>) {
        let mut from = vectors.start;
        while let Some(vector) = self.domain.may_deliver(from..vectors.end) {
            if !matches!(self.registers.delivery(vector), Delivery::Live(_)) {
                self.domain.sync(&self.registers, Touched::one(vector));
            }
            from = vector.0.saturating_add(1);
        }
    }

    /// Most accesses touch nothing: they end here.
    #[inline]
    fn sync(&self, touched: Touched) {
        if !touched.is_empty() {
            self.domain.sync(&self.registers, touched);
        }
    }
}

/// The entries of 16 bytes whose control DWORD has a byte in an access: the access shows their mask bits.
fn with_control(offset: u64, len: usize) -> Range<u32> {
    let entry = |at: u64| u32::try_from(at / 16).unwrap_or(u32::MAX);
    // Control begins 12 bytes after its entry, and ends with it.
    entry(offset)..entry(offset.saturating_add(len as u64).saturating_add(3))
}

/// A function whose interrupts come through eventfds.
impl<C: Registers> InterruptFunction<C, DeviceDomain> {
    /// A function after power-on: interrupts off, nothing taken from the host. `registers` is a layout, or registers that the
    /// embedder made itself.
    pub fn new(registers: impl Into<C>, router: Arc<dyn Router>, backend: impl Backend + 'static) -> Self {
        let registers = registers.into();
        let domain = DeviceDomain::new(registers.capacity(), router, Box::new(backend));
        Self { registers, domain }
    }

    /// As [`InterruptFunction::new`], once every parent was seen to be able to do what the capability needs: the device and
    /// its host, the router, and what stands between. Do not show a guest what is refused here.
    ///
    /// # Errors
    /// What is missing.
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

    /// The same function with a [budget](crate::budget) of the embedder's own. Without one, the function may have as many
    /// host vectors as it has vectors, and at most [`DeviceBudget::DEFAULT_LIMIT`].
    ///
    /// A vector that the budget refuses is held, and [`InterruptFunction::retry`] requests its host vector again.
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
    /// No descriptor to be had.
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
    /// No descriptor to be had.
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
    /// No descriptor to be had.
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

    /// What the host has for the function.
    pub fn report(&self) -> DomainReport {
        self.domain.report()
    }
}

/// A function of the VMM's own.
impl<C: Registers> InterruptFunction<C, SoftwareDomain> {
    /// A function after power-on.
    pub fn software(registers: impl Into<C>, router: Arc<dyn Router>) -> Self {
        let registers = registers.into();
        let domain = SoftwareDomain::new(registers.capacity(), router);
        Self { registers, domain }
    }

    /// As [`InterruptFunction::software`], once the router was seen to be able to do what the capability needs.
    ///
    /// # Errors
    /// What is missing.
    pub fn try_software(registers: impl Into<C>, router: Arc<dyn Router>) -> Result<Self, Unsupported> {
        let registers = registers.into();
        router.capabilities().check(registers.needs())?;
        Ok(Self::software(registers, router))
    }

    /// The device signals a vector. See [`SoftwareDomain::trigger`].
    pub fn trigger(&self, vector: Vector) {
        self.domain.trigger(&self.registers, vector);
    }

    /// What was done so far.
    pub fn counters(&self) -> SoftwareCounters {
        self.domain.counters()
    }
}
