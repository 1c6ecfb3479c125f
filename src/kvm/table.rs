//! The routing table in KVM's format (KVM_SET_GSI_ROUTING).
//!
//! Owns the buffer that the ioctl reads, and changes it in place between commits. Invariant: the embedder's
//! own entries come first, and route n of the publisher is the n-th entry after them. If the last commit
//! failed, the next one rebuilds the buffer. Locking: none of its own. The publisher commits from one thread
//! at a time.

use std::io;
use std::sync::Arc;

use kvm_bindings::{
    KVM_IRQ_ROUTING_MSI, KVM_MSI_VALID_DEVID, KvmIrqRouting, kvm_irq_routing_entry,
    kvm_irq_routing_entry__bindgen_ty_1, kvm_irq_routing_msi, kvm_irq_routing_msi__bindgen_ty_1, kvm_msi,
};

use super::vm::KvmVm;
use crate::interrupt::Interrupt;
use crate::publisher::{ChangedRoute, Hypervisor, RoutingTable};
use crate::router::Gsi;

/// The table of one VM.
pub(super) struct KvmTable<V: ?Sized> {
    vm: Arc<V>,
    entries: KvmIrqRouting,
}

impl<V: KvmVm + ?Sized> KvmTable<V> {
    /// An empty table.
    pub(super) fn new(vm: Arc<V>) -> Self {
        #[allow(clippy::expect_used, reason = "no entries fit in every table")]
        let entries = KvmIrqRouting::new(0).expect("an empty table");
        Self { vm, entries }
    }

    fn rebuild(&mut self, own: &[kvm_irq_routing_entry], routes: &[(Gsi, Interrupt)]) -> io::Result<()> {
        let mut entries = new_buffer(own.len().saturating_add(routes.len()))?;
        let messages = routes.iter().map(|(gsi, interrupt)| msi_route(*gsi, *interrupt));
        let all = own.iter().copied().chain(messages);
        entries.as_mut_slice().iter_mut().zip(all).for_each(|(to, from)| *to = from);
        self.entries = entries;
        Ok(())
    }

    fn update(
        &mut self,
        own: usize,
        routes: usize,
        changed: impl Iterator<Item = ChangedRoute>,
    ) -> io::Result<()> {
        self.make_room(own.saturating_add(routes))?;
        let entries = self.entries.as_mut_slice();
        for ChangedRoute { index, gsi, interrupt } in changed {
            if let Some(entry) = entries.get_mut(own.saturating_add(index)) {
                *entry = msi_route(gsi, interrupt);
            }
        }
        Ok(())
    }

    /// Allocates a new buffer if many entries are missing, because pushing an entry costs more than filling
    /// one. A few entries are pushed, because a new buffer is zeroed and copied as a whole.
    fn make_room(&mut self, wanted: usize) -> io::Result<()> {
        let entries = self.entries.as_slice();
        let missing = wanted.saturating_sub(entries.len());
        if missing > entries.len() / 4 {
            let mut larger = new_buffer(wanted)?;
            larger.as_mut_slice().iter_mut().zip(entries).for_each(|(to, from)| *to = *from);
            self.entries = larger;
            return Ok(());
        }
        let push = |_| self.entries.push(kvm_irq_routing_entry::default());
        (0..missing).try_for_each(push).map_err(|_| io::ErrorKind::OutOfMemory.into())
    }
}

impl<V: KvmVm + ?Sized> Hypervisor for KvmTable<V> {
    type Entry = kvm_irq_routing_entry;

    fn key(interrupt: Interrupt) -> Interrupt {
        seen(interrupt)
    }

    fn commit(&mut self, table: RoutingTable<'_, Self::Entry>) -> io::Result<()> {
        let (own, routes) = (table.own_entries(), table.routes());
        match table.changed() {
            Some(changed) => self.update(own.len(), routes.len(), changed)?,
            None => self.rebuild(own, routes)?,
        }
        self.vm.set_gsi_routing(&self.entries)
    }
}

/// An interrupt as the VM's interrupt controllers see it. Only the ITS of arm64 distinguishes devices.
pub(super) fn seen(interrupt: Interrupt) -> Interrupt {
    if cfg!(target_arch = "aarch64") { interrupt } else { Interrupt::new(interrupt.message()) }
}

fn new_buffer(entries: usize) -> io::Result<KvmIrqRouting> {
    KvmIrqRouting::new(entries).map_err(|_| io::ErrorKind::OutOfMemory.into())
}

/// The flags and the device ID of an entry.
fn device(interrupt: Interrupt) -> (u32, u32) {
    interrupt.device().map_or((0, 0), |device| (KVM_MSI_VALID_DEVID, device.0))
}

fn msi_route(gsi: Gsi, interrupt: Interrupt) -> kvm_irq_routing_entry {
    let (message, (flags, devid)) = (interrupt.message(), device(interrupt));
    kvm_irq_routing_entry {
        gsi: gsi.0,
        type_: KVM_IRQ_ROUTING_MSI,
        flags,
        u: kvm_irq_routing_entry__bindgen_ty_1 {
            msi: kvm_irq_routing_msi {
                address_lo: message.address_low(),
                address_hi: message.address_high(),
                data: message.data,
                __bindgen_anon_1: kvm_irq_routing_msi__bindgen_ty_1 { devid },
            },
        },
        ..Default::default()
    }
}

/// The argument of KVM_SIGNAL_MSI.
pub(super) fn msi(interrupt: Interrupt) -> kvm_msi {
    let (message, (flags, devid)) = (interrupt.message(), device(interrupt));
    kvm_msi {
        address_lo: message.address_low(),
        address_hi: message.address_high(),
        data: message.data,
        flags,
        devid,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests;
