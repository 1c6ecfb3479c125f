//! Interrupt message stores: vectors of a device's own making, of any number and shape, beside MSI-X or alone.
//!
//! The PCI specification knows nothing of them; a device says where its store is and what a slot looks like. Here is
//! the one that hardware has, an array of 16-byte slots in a BAR ([`SlotArray`]), with what differs between devices
//! as parameters ([`ControlFormat`]). Any other goes by the same way: a type that implements
//! [`Registers`](crate::Registers), and [`Function::change`](crate::Function::change) for the guest's accesses.
//! The domains behind, and all that they keep to, are those of MSI-X.
//!
//! Owns registers as plain state. Invariant: after any access of any offset, width and value the state is one that a
//! store could have, and [`Touched`](crate::Touched) names every vector that changed. No I/O, no lock, no log, no
//! panic. Pending bits are the domain's.
//!
//! A store has no enable bit. It is in use from the guest's first write to a slot until the next reset: before, a
//! device may not signal, the host is asked for nothing, and the slots take no memory.

mod array;
mod format;
mod layout;
mod slot;
mod state;

pub use array::SlotArray;
pub use format::{Bit, ControlFormat, CookieField, FormatError, MaskBit, MaskedWhen};
pub use layout::{SLOT_BYTES, SlotArrayLayout, SlotCount};
pub(crate) use slot::CONTROL;
pub use state::{SlotArrayState, SlotState};
