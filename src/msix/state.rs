//! The registers of MSI-X as plain data, and the way back: any data at all is either refused, or what a function
//! of the given layout could have in its registers.

use super::Msix;
use super::concurrent::ControlAndTable;
use super::layout::Layout;
use super::regs::{MessageControl, VectorControl};
use super::table::{Entry, Table};
use crate::delivery::Vector;
use crate::message::MsiMessage;
use crate::registers::Registers;
use crate::state::RestoreError;

/// A function's MSI-X registers.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct MsixState {
    /// Message Control.
    pub message_control: u16,
    /// Table Offset/Table BIR: not to be restored, but to tell one function from another.
    pub table_window: u32,
    /// PBA Offset/PBA BIR, likewise.
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

impl Msix {
    pub(super) fn to_state(&self) -> MsixState {
        let [table_window, pba_window] = self.windows;
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
        let at_power_on = Self::at_power_on(layout);
        let [table_window, pba_window] = at_power_on.windows;
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
        Ok(Self { windows: [table_window, pba_window], registers: ControlAndTable::from_parts(found, table) })
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
