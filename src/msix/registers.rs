//! What the vCPUs of a guest change at once: the table, and Message Control.
//!
//! Owns when the host has to follow a change. Invariant: of several changes at the same moment the host misses none, though
//! there is no lock. Whoever changes something looks *after* that at all else that a vector's delivery depends on, and all
//! steps and looks are in one order (`SeqCst`): so of two changes the later one sees both.
//!
//! A look that is to be followed begins with what keeps a vector from delivering: the function mask, the vector's mask bit,
//! then the message. It is made under the domain's lock, and a write that masks a vector waits for that lock before its
//! driver rewrites the message. So the message of one that is seen unmasked is whole. Who looks elsewhere may see halves.

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
                // The driver has written the message once more: its device may have lost it. A masked vector is looked at when
                // it is unmasked.
                return matches!(delivery(self.control(), after), Delivery::Live(_));
            }
            // Where Message Control keeps it silent already, another vCPU may not be as far with the host as to have it so.
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
            // Who has masked the function meanwhile may have done so before this entry was ever written, and then does not
            // have it followed.
            Delivery::Live(_) => delivery(self.control(), &entry),
            silent => silent,
        }
    }

    pub(super) fn reset(&self) -> Touched {
        self.control.store(self.control().written(0).into_bits(), SeqCst);
        self.table.reset();
        self.table.written()
    }

    /// Puts another function's in their place.
    pub(super) fn replace(&self, other: &Self) {
        self.table.replace(&other.table);
        self.control.store(other.control().into_bits(), SeqCst);
    }
}

/// Message Control, and the capability's ID before it.
pub(super) fn first_dword(control: MessageControl) -> u32 {
    u32::from(control.into_bits()) << 16 | u32::from(CAPABILITY_ID)
}

/// What an entry should be. A masked entry without a message is one that its driver has not requested yet, or
/// has freed: it needs nothing of the host.
fn delivery(control: MessageControl, entry: &Entry) -> Delivery {
    if !control.enable() || entry.is_masked() && entry.is_blank() {
        Delivery::Off
    } else if control.function_mask() || entry.is_masked() {
        Delivery::Held
    } else {
        Delivery::Live(entry.message())
    }
}
