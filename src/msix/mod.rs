//! MSI-X as a guest sees it (PCIe r6 §6.1.4, §7.7.2): capability and table. All vCPUs may access them at the
//! same time.
//!
//! Owns the registers. Pending bits belong to the domain. Invariant: after any access of any offset, width
//! and value, the state is one that a function could have. [`Touched`] names each vector whose [`Delivery`]
//! changed so that the host must follow, also if several vCPUs change it at once (`registers.rs`). No I/O, no
//! lock, no log, no panic.

pub mod layout;
mod registers;
pub mod regs;
mod state;
mod table;

#[cfg(test)]
#[cfg(target_arch = "x86_64")]
mod shuttle_tests;

/// The atomics of the registers. `shuttle_tests.rs` replaces them.
mod atomic {
    pub(super) use std::sync::atomic::{AtomicU16, AtomicU64, AtomicUsize, Ordering};
}

pub use layout::{Bar, Layout, LayoutError, Owner, TableSize, Window};
pub use regs::{MessageControl, VectorControl};
pub use state::{EntryState, MsixState};

use crate::access::lanes;
use crate::backend::{Capabilities, Growth};
use crate::delivery::{Delivery, Store, Touched, Vector};
use crate::registers::{PciCapability, Registers};
use crate::sealed::Sealed;
use crate::state::RestoreError;
use registers::{ControlAndTable, first_dword};

/// A function's MSI-X registers.
///
/// ```
/// use vm_msi::msix::{Bar, Layout, Msix, TableSize};
/// use vm_msi::{Delivery, MsiMessage, PciCapability, Store, Vector};
///
/// let bar = Bar::new(0).unwrap();
/// let layout = Layout::new(TableSize::new(2).unwrap(), (bar, 0), (bar, 0x1000)).unwrap();
/// let msix = Msix::new(layout);
///
/// // A driver writes the message and then the mask bit of entry 1, and then sets MSI-X Enable.
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
    layout: Layout,
    registers: ControlAndTable,
}

impl Msix {
    /// Registers after power-on.
    pub fn new(layout: Layout) -> Self {
        let registers = ControlAndTable::new(layout.size());
        Self { layout, registers }
    }

    /// The windows of the table and of the pending bits.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Message Control as it reads now.
    pub fn control(&self) -> MessageControl {
        self.registers.control()
    }

    /// Reads the table. `offset` is in bytes from its first entry.
    #[inline]
    pub fn read_table(&self, offset: u64, data: &mut [u8]) {
        self.registers.table().read(offset, data);
    }

    /// Writes the table. `offset` is in bytes from its first entry. Bytes beyond the table are ignored.
    #[inline]
    pub fn write_table(&self, offset: u64, data: &[u8]) -> Touched {
        self.registers.write_table(offset, data)
    }

    fn table_size(&self) -> u32 {
        u32::from(self.control().table_size_less_one()).saturating_add(1)
    }
}

impl Registers for Msix {
    type State = MsixState;

    fn capacity(&self) -> u32 {
        self.layout.size().get().into()
    }

    /// Independent vectors, because each is bound when the guest first unmasks it.
    fn needs(&self) -> Capabilities {
        Capabilities {
            vectors: self.capacity(),
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

    fn restored(&self, state: &MsixState) -> Result<Self, RestoreError> {
        Self::try_from_state(&self.layout, state)
    }

    fn replace(&self, other: Self) {
        self.registers.replace(&other.registers);
    }

    fn reset(&self) -> Touched {
        self.registers.reset()
    }
}

impl From<Layout> for Msix {
    fn from(layout: Layout) -> Self {
        Self::new(layout)
    }
}

impl Sealed for Msix {}

impl PciCapability for Msix {
    /// None: MSI-X has its pending bits in a BAR.
    fn pending_register(&self) -> Option<u16> {
        None
    }

    fn shows_silence(&self) -> bool {
        !self.control().enable() || self.control().function_mask()
    }

    fn read_config(&self, offset: u16, data: &mut [u8]) {
        let [table, pba] = self.layout.registers();
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

    fn write_config(&self, offset: u16, data: &[u8]) -> Touched {
        self.registers.write_config(offset, data)
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
