//! The routing table as the kernel is handed it: the irqchip's pins, and then one entry for each message.
//!
//! Owns the buffer, which is changed in place between commits. Invariant: the message of index n is the n-th entry after
//! the pins' and has GSI `Irqchip::FIRST_GSI` + n. Locking: none of its own; it is used under the lock that a commit takes.

use std::io;

use kvm_bindings::{
    KVM_IRQ_ROUTING_MSI, KvmIrqRouting, kvm_irq_routing_entry, kvm_irq_routing_entry__bindgen_ty_1,
    kvm_irq_routing_msi,
};

use super::irqchip::Irqchip;
use super::routes::PendingRoute;
use crate::interrupt::Interrupt;
use crate::message::MsiMessage;
use crate::router::Gsi;

/// The table.
#[derive(Debug)]
pub(super) struct Table {
    entries: KvmIrqRouting,
    pins: usize,
}

/// The GSI of a message.
pub(super) fn gsi(index: usize) -> Gsi {
    Gsi(Irqchip::FIRST_GSI.saturating_add(index as u32))
}

/// The way back from [`gsi`].
pub(super) fn index(gsi: Gsi) -> usize {
    gsi.0.saturating_sub(Irqchip::FIRST_GSI) as usize
}

impl Table {
    /// A table of no messages.
    pub(super) fn new(irqchip: Irqchip) -> Self {
        let pins: Vec<_> = irqchip.pin_routes().collect();
        #[allow(clippy::expect_used, reason = "at most 960 entries, at start; a table has room for 4096")]
        let entries = KvmIrqRouting::from_entries(&pins).expect("the pins' routes fit in a table");
        Self { entries, pins: pins.len() }
    }

    /// What KVM_SET_GSI_ROUTING takes.
    pub(super) fn entries(&self) -> &KvmIrqRouting {
        &self.entries
    }

    /// Puts messages in their places, which exist or are the next ones.
    pub(super) fn put(&mut self, placed: &[PendingRoute]) -> io::Result<()> {
        let messages = placed.iter().map(|placed| placed.index.saturating_add(1)).max().unwrap_or(0);
        self.make_room(messages)?;
        placed.iter().for_each(|placed| self.set(placed.index, placed.message));
        Ok(())
    }

    /// Many at once, in a new table: a push costs more than to fill an entry. But a new table is zeroed and copied whole.
    fn make_room(&mut self, messages: usize) -> io::Result<()> {
        let (entries, wanted) = (self.entries.as_slice(), self.pins.saturating_add(messages));
        let missing = wanted.saturating_sub(entries.len());
        if missing > entries.len() / 4 {
            let mut larger = KvmIrqRouting::new(wanted).map_err(|_| io::ErrorKind::OutOfMemory)?;
            larger.as_mut_slice().iter_mut().zip(entries).for_each(|(to, from)| *to = *from);
            self.entries = larger;
            return Ok(());
        }
        let push = |_| self.entries.push(kvm_irq_routing_entry::default());
        (0..missing).try_for_each(push).map_err(|_| io::ErrorKind::OutOfMemory.into())
    }

    fn set(&mut self, index: usize, message: Interrupt) {
        if let Some(place) = self.entries.as_mut_slice().get_mut(self.pins.saturating_add(index)) {
            *place = msi_route(gsi(index), message.message());
        }
    }

    /// The way back: the messages of before in their places, and no more than so many.
    pub(super) fn take_back(&mut self, placed: &[PendingRoute], messages: usize) {
        for PendingRoute { index, before, .. } in placed {
            if let Some(before) = before {
                self.set(*index, *before);
            }
        }
        let mut left = self.pins.saturating_add(messages);
        self.entries.retain(|_| {
            let keep = left > 0;
            left = left.saturating_sub(1);
            keep
        });
    }
}

fn msi_route(gsi: Gsi, message: MsiMessage) -> kvm_irq_routing_entry {
    kvm_irq_routing_entry {
        gsi: gsi.0,
        type_: KVM_IRQ_ROUTING_MSI,
        u: kvm_irq_routing_entry__bindgen_ty_1 {
            msi: kvm_irq_routing_msi {
                address_lo: message.address_low(),
                address_hi: message.address_high(),
                data: message.data,
                ..Default::default()
            },
        },
        ..Default::default()
    }
}
