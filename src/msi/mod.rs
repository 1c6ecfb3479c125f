//! MSI as a guest sees it (PCIe r6 §6.1.4, §7.7.1): one message for 1 to 32 vectors.
//!
//! Owns the registers. The vectors' messages are contiguous: they differ in the low bits of the data, which
//! the function sets. Locking: one mutex around the plain values (`values.rs`), held for one access. No
//! system call is made under it. Pending bits belong to the domain.

pub mod layout;
pub mod regs;
mod state;
mod values;

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
use values::Values;

/// A function's MSI registers.
#[derive(Debug)]
pub struct Msi {
    layout: MsiLayout,
    values: Mutex<Values>,
}

impl Msi {
    /// Registers after power-on.
    pub fn new(layout: MsiLayout) -> Self {
        Self { layout, values: Mutex::new(Values::new(layout)) }
    }

    /// The capability's layout.
    pub fn layout(&self) -> &MsiLayout {
        &self.layout
    }

    /// Message Control as it reads now.
    pub fn control(&self) -> MessageControl {
        self.values.lock().control
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

    /// One block of vectors, because a guest may enable all of them at once.
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
        self.values.lock().to_state()
    }

    fn restored(&self, state: &MsiState) -> Result<Self, RestoreError> {
        let values = Values::try_from_state(&self.layout, state)?;
        Ok(Self { layout: self.layout, values: Mutex::new(values) })
    }

    fn replace(&self, other: Self) {
        *self.values.lock() = other.values.into_inner();
    }

    fn reset(&self) -> Touched {
        self.values.lock().reset()
    }
}

impl Sealed for Msi {}

impl PciCapability for Msi {
    fn pending_register(&self) -> Option<u16> {
        let dword = self.layout.registers().iter().position(|register| *register == Register::Pending)?;
        u16::try_from(dword).ok()?.checked_mul(4)
    }

    fn shows_silence(&self) -> bool {
        self.values.lock().shows_silence()
    }

    fn read_config(&self, offset: u16, data: &mut [u8]) {
        self.values.lock().read_config(offset, data);
    }

    fn write_config(&self, offset: u16, data: &[u8]) -> Touched {
        self.values.lock().write_config(offset, data)
    }
}

impl Store for Msi {
    fn vectors(&self) -> u32 {
        self.values.lock().vectors()
    }

    fn delivery(&self, vector: Vector) -> Delivery {
        self.values.lock().delivery(vector)
    }
}
