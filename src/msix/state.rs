//! The registers of MSI-X as plain data. Restoring refuses data that no function of the layout could have in
//! its registers.

use super::Msix;
use super::layout::Layout;
use super::registers::ControlAndTable;
use super::regs::{MessageControl, VectorControl};
use super::table::{Entry, Table};
use crate::delivery::Vector;
use crate::message::MsiMessage;
use crate::state::RestoreError;

/// A function's MSI-X registers.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct MsixState {
    /// Message Control.
    pub message_control: u16,
    /// Table Offset/Table BIR. It is read-only: a restore checks that it equals the function's.
    pub table_window: u32,
    /// PBA Offset/PBA BIR. It is read-only, and checked in the same way.
    pub pba_window: u32,
    /// The table.
    pub entries: Vec<EntryState>,
}

/// A table entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct EntryState {
    /// Message Address, Message Upper Address and Message Data.
    pub message: MsiMessage,
    /// Vector Control.
    pub vector_control: u32,
}

impl MsixState {
    /// A state from the registers in another VMM's snapshot: Message Control, and the table.
    ///
    /// The result is one that a function of `layout` can have:
    /// - Message Control keeps Enable and Function Mask. The other bits are read-only or reserved, and are those of `layout`.
    /// - Table Offset and PBA Offset are those of `layout`.
    /// - Vector Control keeps the mask bit. Steering tags and reserved bits are dropped.
    ///
    /// Entries are neither dropped nor added: [`restore`](crate::InterruptFunction::restore) refuses a state
    /// with another number of entries than the function has.
    pub fn new(layout: &Layout, message_control: u16, entries: impl IntoIterator<Item = EntryState>) -> Self {
        let at_power_on = Msix::new(layout.clone());
        let [table_window, pba_window] = layout.registers();
        let message_control = at_power_on.control().written(message_control).into_bits();
        let entries = entries.into_iter().map(EntryState::without_reserved_bits).collect();
        Self { message_control, table_window, pba_window, entries }
    }
}

impl EntryState {
    /// An entry from its four DWORDs: Message Address, Message Upper Address, Message Data, Vector Control.
    pub fn from_registers([address_low, address_high, data, vector_control]: [u32; 4]) -> Self {
        Self { message: MsiMessage::from_registers(address_low, address_high, data), vector_control }
    }

    fn without_reserved_bits(self) -> Self {
        Self { vector_control: VectorControl::written(self.vector_control).into_bits(), ..self }
    }
}

impl Msix {
    pub(super) fn to_state(&self) -> MsixState {
        let [table_window, pba_window] = self.layout.registers();
        let entry = |entry: Entry| EntryState {
            message: entry.message(),
            vector_control: VectorControl::new().with_mask(entry.is_masked()).into_bits(),
        };
        MsixState {
            message_control: self.control().into_bits(),
            table_window,
            pba_window,
            entries: self.registers.table().entries().map(entry).collect(),
        }
    }

    pub(super) fn try_from_state(layout: &Layout, state: &MsixState) -> Result<Self, RestoreError> {
        let at_power_on = Self::new(layout.clone());
        let [table_window, pba_window] = layout.registers();
        let found = MessageControl::from_bits(state.message_control);
        fixed(
            "Message Control",
            found.written(0).into_bits().into(),
            at_power_on.control().into_bits().into(),
        )?;
        fixed("Table Offset/Table BIR", state.table_window, table_window)?;
        fixed("PBA Offset/PBA BIR", state.pba_window, pba_window)?;
        let (entries, expected) = (state.entries.len(), at_power_on.registers.table().len());
        if entries != expected {
            return Err(RestoreError::TableSize { found: entries, expected });
        }
        let entries: Result<Vec<Entry>, RestoreError> =
            (0..).map(Vector).zip(&state.entries).map(|(vector, state)| entry(vector, state)).collect();
        let table = Table::from_entries(entries?.into_iter());
        Ok(Self { layout: layout.clone(), registers: ControlAndTable::from_parts(found, table) })
    }
}

fn fixed(register: &'static str, found: u32, expected: u32) -> Result<(), RestoreError> {
    if found == expected { Ok(()) } else { Err(RestoreError::ReadOnly { register, found, expected }) }
}

fn entry(vector: Vector, state: &EntryState) -> Result<Entry, RestoreError> {
    let control = VectorControl::written(state.vector_control);
    if control.into_bits() != state.vector_control {
        let found = state.vector_control.into();
        return Err(RestoreError::Reserved { register: "Vector Control", vector, found });
    }
    Ok(Entry::new(state.message, control))
}
