//! MSI-X as a guest sees it (PCIe r6 §6.1.4, §7.7.2): capability and table, which any number of vCPUs use at once.
//!
//! Owns the registers. Invariant: after any access of any offset, width and value the state is one that a
//! function could have, and [`Touched`] names every vector whose [`Delivery`] changed in a way that the host
//! has to follow: also where several vCPUs change it at once (`concurrent.rs`). No I/O, no lock, no log, no panic. The
//! pending bits are not here: they belong to the domain, which knows what waits where.

mod concurrent;
pub mod layout;
pub mod regs;
mod state;
mod table;

#[cfg(test)]
#[cfg(target_arch = "x86_64")]
mod interleaved;

/// A test has others here: see `interleaved.rs`.
mod atomic {
    pub(super) use std::sync::atomic::{AtomicU16, AtomicU64, AtomicUsize, Ordering};
}

pub use layout::{Bar, Layout, LayoutError, Owner, TableSize, Window};
pub use regs::{MessageControl, VectorControl};
pub use state::{EntryState, MsixState};

use crate::access::lanes;
use crate::backend::{Capabilities, Growth};
use crate::capability::Capability;
use crate::delivery::{Delivery, Store, Touched, Vector};
use crate::registers::{Registers, SharedRegisters};
use crate::state::RestoreError;
use concurrent::{ControlAndTable, first_dword};

/// A function's MSI-X registers.
///
/// ```
/// use vm_msi::msix::{Bar, Layout, Msix, TableSize};
/// use vm_msi::{Delivery, MsiMessage, Registers, Store, Vector};
///
/// let bar = Bar::new(0).unwrap();
/// let layout = Layout::new(TableSize::new(2).unwrap(), (bar, 0), (bar, 0x1000)).unwrap();
/// let msix = Msix::at_power_on(&layout);
///
/// // What a driver does: the message and then the mask bit of entry 1, and MSI-X Enable.
/// let _ = msix.write_table(16, &0xfee0_0000u32.to_le_bytes());
/// let _ = msix.write_table(24, &0x41u32.to_le_bytes());
/// let _ = msix.write_table(28, &0u32.to_le_bytes());
/// assert_eq!(msix.delivery(Vector(1)), Delivery::Off, "MSI-X is still off");
///
/// let touched = msix.write_config(2, &0x8000u16.to_le_bytes());
/// assert!(!touched.is_empty());
/// let message = MsiMessage { address: 0xfee0_0000, data: 0x41 };
/// assert_eq!(msix.delivery(Vector(1)), Delivery::Live(message));
/// ```
#[derive(Debug)]
pub struct Msix {
    windows: [u32; 2],
    registers: ControlAndTable,
}

impl Msix {
    /// Message Control as it reads now.
    pub fn control(&self) -> MessageControl {
        self.registers.control()
    }

    /// Reads the table; `offset` counts from its first entry.
    #[inline]
    pub fn read_table(&self, offset: u64, data: &mut [u8]) {
        self.registers.table().read(offset, data);
    }

    /// Writes the table. Bytes beyond its end are ignored.
    #[inline]
    pub fn write_table(&self, offset: u64, data: &[u8]) -> Touched {
        self.registers.write_table(offset, data)
    }

    /// Writes the capability; `offset` counts from its ID.
    pub fn write_config(&self, offset: u16, data: &[u8]) -> Touched {
        self.registers.write_config(offset, data)
    }

    fn table_size(&self) -> u32 {
        u32::from(self.control().table_size_less_one()).saturating_add(1)
    }
}

impl Registers for Msix {
    type Layout = Layout;
    type State = MsixState;
    type Shared = Self;

    fn at_power_on(layout: &Layout) -> Self {
        Self { windows: layout.registers(), registers: ControlAndTable::new(layout.size()) }
    }

    fn capacity(layout: &Layout) -> u32 {
        layout.size().get().into()
    }

    /// Each vector on its own, when the guest first unmasks it.
    fn needs(layout: &Layout) -> Capabilities {
        Capabilities {
            vectors: Self::capacity(layout),
            growth: Growth::Reserved,
            independent: true,
            multi_message: false,
            ims: false,
            cookies: false,
        }
    }

    fn state(&self) -> MsixState {
        self.to_state()
    }

    fn from_state(layout: &Layout, state: &MsixState) -> Result<Self, RestoreError> {
        Self::try_from_state(layout, state)
    }

    fn reset(&mut self) -> Touched {
        SharedRegisters::reset(self)
    }
}

impl SharedRegisters<Self> for Msix {
    fn look<T>(&self, read: impl FnOnce(&Self) -> T) -> T {
        read(self)
    }

    fn reset(&self) -> Touched {
        self.registers.reset()
    }

    fn replace(&self, registers: Self) {
        self.registers.replace(&registers.registers);
    }
}

impl Capability for Msix {
    /// The pending bits are in a BAR.
    fn pending_register(_: &Layout) -> Option<u16> {
        None
    }

    fn shows_silence(&self) -> bool {
        !self.control().enable() || self.control().function_mask()
    }

    fn read_config(&self, offset: u16, data: &mut [u8]) {
        let [table, pba] = self.windows;
        for lane in lanes(offset.into(), data.len()) {
            let register = match lane.dword {
                0 => first_dword(self.control()),
                1 => table,
                2 => pba,
                _ => 0,
            };
            lane.read(register, data);
        }
    }

    fn write_config(registers: &Self, offset: u16, data: &[u8]) -> Touched {
        registers.write_config(offset, data)
    }
}

impl Store for Msix {
    fn vectors(&self) -> u32 {
        if self.control().enable() { self.table_size() } else { 0 }
    }

    fn delivery(&self, vector: Vector) -> Delivery {
        self.registers.delivery(vector)
    }

    fn take_rewritten(&self, vector: Vector) -> bool {
        self.registers.take_rewritten(vector)
    }
}
