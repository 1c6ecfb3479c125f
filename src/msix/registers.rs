//! The registers that several vCPUs change at once: the table, and Message Control.
//!
//! Owns the decision which changes the host must follow. Invariant: the host misses none of several
//! concurrent changes, although there is no lock. Each writer reads the other registers that a vector's
//! delivery depends on *after* its own write. All reads and writes are `SeqCst`, so the later of two writers
//! sees both changes.
//!
//! A domain reads the function mask first, then the vector's mask bit, then the message. It holds its lock
//! meanwhile. A write that masks a vector takes that lock before it returns, and the driver rewrites the
//! message only afterwards. If the domain has read the vector as unmasked, the message is therefore whole. A
//! reader without the domain's lock may see half a message.

use super::atomic::AtomicU16;
use super::atomic::Ordering::SeqCst;
use super::layout::{CAPABILITY_ID, TableSize};
use super::regs::MessageControl;
use super::table::{Entry, Table};
use crate::access::lanes;
use crate::delivery::{Delivery, Touched, Vector};

/// Message Control and the table of one function.
#[derive(Debug)]
pub(super) struct ControlAndTable {
    control: AtomicU16,
    table: Table,
}

impl ControlAndTable {
    pub(super) fn new(size: TableSize) -> Self {
        let control = MessageControl::new().with_table_size_less_one(size.get().saturating_sub(1));
        Self::from_parts(control, Table::new(size))
    }

    pub(super) fn from_parts(control: MessageControl, table: Table) -> Self {
        Self { control: AtomicU16::new(control.into_bits()), table }
    }

    pub(super) fn control(&self) -> MessageControl {
        self.control.load(SeqCst).into()
    }

    pub(super) fn table(&self) -> &Table {
        &self.table
    }

    #[inline]
    pub(super) fn write_table(&self, offset: u64, data: &[u8]) -> Touched {
        self.table.write(offset, data, |before, after| {
            if before == after {
                // The driver has rewritten the message unchanged: the device may have lost it. A masked
                // vector is synced when it is unmasked.
                return matches!(delivery(self.control(), after), Delivery::Live(_));
            }
            // Each newly set mask bit is followed. Another vCPU may have masked the function already, but may
            // not have detached the vector yet.
            let is_masked_now = after.is_masked() && !before.is_masked();
            let control = self.control();
            is_masked_now || delivery(control, after).concerns_host(delivery(control, before))
        })
    }

    /// Writes the capability's first DWORD, or a part of it.
    pub(super) fn write_config(&self, offset: u16, data: &[u8]) -> Touched {
        let written = |control: MessageControl| {
            let message_control = lanes(offset.into(), data.len()).filter(|lane| lane.dword == 0);
            message_control.fold(control, |control, lane| {
                control.written((lane.merge(first_dword(control), data) >> 16) as u16)
            })
        };
        let change = |control: u16| {
            let after = written(control.into()).into_bits();
            (after != control).then_some(after)
        };
        let (before, touched) = match self.control.fetch_update(SeqCst, SeqCst, change) {
            Ok(before) => (before, self.table.written()),
            Err(same) => (same, Touched::NOTHING),
        };
        let writes_enable =
            lanes(offset.into(), data.len()).any(|lane| lane.dword == 0 && lane.enabled() >> 31 == 1);
        let is_enabled = MessageControl::from(before).enable() && written(before.into()).enable();
        if writes_enable && is_enabled { touched.with_enable_write() } else { touched }
    }

    pub(super) fn take_rewritten(&self, vector: Vector) -> bool {
        self.table.take_rewritten(vector)
    }

    pub(super) fn delivery(&self, vector: Vector) -> Delivery {
        let control = self.control();
        let Some(entry) = self.table.entry(vector) else { return Delivery::Off };
        match delivery(control, &entry) {
            // Another vCPU may have masked the function meanwhile. If it did so before the first write of
            // this entry, its access did not touch the entry.
            Delivery::Live(_) => delivery(self.control(), &entry),
            silent => silent,
        }
    }

    pub(super) fn reset(&self) -> Touched {
        self.control.store(self.control().written(0).into_bits(), SeqCst);
        self.table.reset();
        self.table.written()
    }

    /// Replaces the registers by those of another function.
    pub(super) fn replace(&self, other: &Self) {
        self.table.replace(&other.table);
        self.control.store(other.control().into_bits(), SeqCst);
    }
}

/// The capability's first DWORD: its ID and Message Control.
pub(super) fn first_dword(control: MessageControl) -> u32 {
    u32::from(control.into_bits()) << 16 | u32::from(CAPABILITY_ID)
}

/// The delivery that the guest has set for an entry. A masked entry without a message is off: its driver has
/// not requested it, or has freed it.
fn delivery(control: MessageControl, entry: &Entry) -> Delivery {
    if !control.enable() || entry.is_masked() && entry.is_blank() {
        Delivery::Off
    } else if control.function_mask() || entry.is_masked() {
        Delivery::Held
    } else {
        Delivery::Live(entry.message())
    }
}
