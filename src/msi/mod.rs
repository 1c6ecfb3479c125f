//! MSI as a guest sees it (PCIe r6 §6.1.4, §7.7.1): one message for 1 to 32 vectors.
//!
//! Owns the registers. The vectors' messages are contiguous: they differ in the low bits of the data, which the function sets.
//! Locking: one mutex around the plain values (`plain.rs`), held for one access and for no system call. Pending bits belong to the
//! domain.

pub mod layout;
mod plain;
pub mod regs;
mod state;

pub use layout::{AddressWidth, MessageCount, MsiLayout, MsiLayoutError, VectorMasking};
pub use regs::MessageControl;
pub use state::MsiState;

use crate::backend::{Capabilities, Growth};
use crate::delivery::{Delivery, Store, Touched, Vector};
use crate::lock::Mutex;
use crate::registers::{PciCapability, Registers};
use crate::sealed::Sealed;
use crate::state::RestoreError;
use layout::Register;
use plain::Plain;

/// A function's MSI registers.
#[derive(Debug)]
pub struct Msi {
    layout: MsiLayout,
    plain: Mutex<Plain>,
}

impl Msi {
    /// Registers after power-on.
    pub fn new(layout: MsiLayout) -> Self {
        Self { layout, plain: Mutex::new(Plain::new(layout)) }
    }

    /// The capability's layout.
    pub fn layout(&self) -> &MsiLayout {
        &self.layout
    }

    /// Message Control as it reads now.
    pub fn control(&self) -> MessageControl {
        self.plain.lock().control
    }
}

impl From<MsiLayout> for Msi {
    fn from(layout: MsiLayout) -> Self {
        Self::new(layout)
    }
}

impl Registers for Msi {
    type State = MsiState;

    fn capacity(&self) -> u32 {
        self.layout.messages().get()
    }

    /// All messages together, if there are several.
    fn needs(&self) -> Capabilities {
        let vectors = self.capacity();
        Capabilities {
            vectors,
            growth: Growth::Reserved,
            independent: false,
            multi_message: vectors > 1,
            ims: false,
            cookies: false,
        }
    }

    fn state(&self) -> MsiState {
        self.plain.lock().to_state()
    }

    fn restored(&self, state: &MsiState) -> Result<Self, RestoreError> {
        let plain = Plain::try_from_state(&self.layout, state)?;
        Ok(Self { layout: self.layout, plain: Mutex::new(plain) })
    }

    fn replace(&self, other: Self) {
        *self.plain.lock() = other.plain.into_inner();
    }

    fn reset(&self) -> Touched {
        self.plain.lock().reset()
    }
}

impl Sealed for Msi {}

impl PciCapability for Msi {
    fn pending_register(&self) -> Option<u16> {
        let dword = self.layout.registers().iter().position(|register| *register == Register::Pending)?;
        u16::try_from(dword).ok()?.checked_mul(4)
    }

    fn shows_silence(&self) -> bool {
        self.plain.lock().shows_silence()
    }

    fn read_config(&self, offset: u16, data: &mut [u8]) {
        self.plain.lock().read_config(offset, data);
    }

    fn write_config(&self, offset: u16, data: &[u8]) -> Touched {
        self.plain.lock().write_config(offset, data)
    }
}

impl Store for Msi {
    fn vectors(&self) -> u32 {
        self.plain.lock().vectors()
    }

    fn delivery(&self, vector: Vector) -> Delivery {
        self.plain.lock().delivery(vector)
    }
}
