//! One PCI function's MSI-X, put together for an embedder: the registers, and the domain behind them.
//!
//! Owns no rule of its own. Each access changes the registers under their lock and then syncs what it touched,
//! so when a guest's write returns, the host has followed. Locks: registers innermost, never across a call to
//! the host.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::access::lanes;
use crate::backend::Backend;
use crate::delivery::{Store, Touched};
use crate::domain::{DeviceDomain, DomainReport};
use crate::msix::{Bar, Layout, Msix, Owner};
use crate::router::Router;

/// The MSI-X of one PCI function.
///
/// An access may have any offset and width: what the specification leaves undefined behaves as on a bus with
/// byte enables, and what does not exist reads 0 and ignores writes. None can fail.
#[derive(Debug)]
pub struct MsixFunction<R: Router, B: Backend> {
    layout: Layout,
    msix: Mutex<Msix>,
    domain: DeviceDomain<R, B>,
}

impl<R: Router, B: Backend> MsixFunction<R, B> {
    /// A function after power-on: MSI-X off, every vector masked, nothing taken from the host.
    pub fn new(layout: Layout, router: Arc<R>, backend: B) -> Self {
        let msix = Mutex::new(Msix::new(&layout));
        let domain = DeviceDomain::new(layout.size().get().into(), router, backend);
        Self { layout, msix, domain }
    }

    /// Where the function's table and pending bits are.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Reads the capability; `offset` counts from its ID. The next pointer reads 0, it is the embedder's.
    pub fn read_config(&self, offset: u16, data: &mut [u8]) {
        self.msix().read_config(offset, data);
    }

    /// Writes the capability; `offset` counts from its ID.
    pub fn write_config(&self, offset: u16, data: &[u8]) {
        let touched = self.msix().write_config(offset, data);
        self.sync(touched);
    }

    /// Reads the table; `offset` counts from its first entry.
    pub fn read_table(&self, offset: u64, data: &mut [u8]) {
        self.msix().read_table(offset, data);
    }

    /// Writes the table; `offset` counts from its first entry.
    ///
    /// Interrupts meanwhile: none is lost; after the call none is delivered for a vector that is masked, nor on
    /// a message that the entry no longer has.
    pub fn write_table(&self, offset: u64, data: &[u8]) {
        let touched = self.msix().write_table(offset, data);
        self.sync(touched);
    }

    /// Reads the pending bits; `offset` counts from the first. They are read-only: a write is ignored.
    pub fn read_pba(&self, offset: u64, data: &mut [u8]) {
        let mut group = None;
        for lane in lanes(offset, data.len()) {
            let wanted = u32::try_from(lane.dword / 2).unwrap_or(u32::MAX);
            let bits = match group {
                Some((last, bits)) if last == wanted => bits,
                _ => self.domain.pending(wanted),
            };
            group = Some((wanted, bits));
            let high = lane.dword % 2 == 1;
            lane.read(if high { (bits >> 32) as u32 } else { bits as u32 }, data);
        }
    }

    /// Reads a BAR that has the table or the pending bits in it: their bytes are read here, and `device` is
    /// asked for those of other registers (offset into the BAR, buffer). An access may straddle them.
    pub fn read_bar(&self, bar: Bar, offset: u64, data: &mut [u8], mut device: impl FnMut(u64, &mut [u8])) {
        for (owner, bytes) in self.layout.split(bar, offset, data.len()) {
            let part = data.get_mut(bytes).unwrap_or_default();
            match owner {
                Owner::Table(offset) => self.read_table(offset, part),
                Owner::Pba(offset) => self.read_pba(offset, part),
                Owner::Device(offset) => device(offset, part),
            }
        }
    }

    /// Writes a BAR that has the table or the pending bits in it, as [`MsixFunction::read_bar`] reads it.
    pub fn write_bar(&self, bar: Bar, offset: u64, data: &[u8], mut device: impl FnMut(u64, &[u8])) {
        for (owner, bytes) in self.layout.split(bar, offset, data.len()) {
            let part = data.get(bytes).unwrap_or_default();
            match owner {
                Owner::Table(offset) => self.write_table(offset, part),
                Owner::Pba(_) => {}
                Owner::Device(offset) => device(offset, part),
            }
        }
    }

    /// A reset of the function, from whatever state: its interrupts are torn down, `reset_device` resets the
    /// device itself, and the registers are as after power-on. What was pending is gone, as the specification
    /// has it.
    pub fn reset(&self, reset_device: impl FnOnce()) {
        let touched = self.msix().reset();
        self.sync(touched);
        reset_device();
        self.domain.clear_pending();
    }

    /// Tries again what the host refused. Cheap where that is nothing.
    pub fn retry(&self) {
        self.domain.retry(&self.msix);
    }

    /// How many vectors are not yet what the guest wants because the host refused a step. While it is not 0,
    /// call [`MsixFunction::retry`] now and then.
    pub fn unsettled(&self) -> usize {
        self.domain.unsettled()
    }

    /// As [`MsixFunction::retry`], for an embedder with a clock of its own.
    pub fn retry_at(&self, now: Instant) {
        self.domain.retry_at(&self.msix, now);
    }

    /// See [`DeviceDomain::lingering`].
    pub fn lingering(&self) -> usize {
        self.domain.lingering()
    }

    /// See [`DeviceDomain::set_linger`].
    pub fn set_linger(&self, linger: Duration) {
        self.domain.set_linger(linger);
    }

    /// See [`DeviceDomain::relay`].
    ///
    /// # Errors
    /// No descriptor to be had.
    pub fn relay(&self) -> io::Result<Arc<OwnedFd>> {
        self.domain.relay()
    }

    /// See [`DeviceDomain::deliver`].
    pub fn deliver(&self) {
        self.domain.deliver();
    }

    /// How many vectors the guest may use now.
    pub fn vectors(&self) -> u32 {
        self.msix.vectors()
    }

    /// What the host has for the function.
    pub fn report(&self) -> DomainReport {
        self.domain.report()
    }

    fn sync(&self, touched: Touched) {
        self.domain.sync(&self.msix, touched);
    }

    fn msix(&self) -> MutexGuard<'_, Msix> {
        self.msix.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
