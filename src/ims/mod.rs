//! Interrupt message stores: vectors of a device's own making, of any number and shape, beside MSI-X or alone.
//!
//! The PCI specification knows nothing of them; a device says where its store is and what a slot looks like. Here are
//! the one that hardware has, an array of 16-byte slots in a BAR ([`SlotArray`]), and one whose slots are in guest memory,
//! wherever the driver places each ([`QueueStore`]), with what differs between devices as parameters
//! ([`ControlFormat`]). A guest learns of them by [`SiovDvsec`]. Any other goes by the same way: a type that implements
//! [`Registers`](crate::Registers), and [`InterruptFunction::change`](crate::InterruptFunction::change) for the guest's accesses.
//! The domains behind, and all that they keep to, are those of MSI-X.
//!
//! Owns the registers. Invariant: after any access of any offset, width and value the state is one that a
//! store could have, and [`Touched`](crate::Touched) names every vector that changed. No I/O, no log, no
//! panic. Locking: each store has one mutex, held for one access. Pending bits are the domain's.
//!
//! A store has no enable bit. It is in use from the guest's first write to a slot, or first doorbell, until the next reset:
//! before, a device may not signal, the host is asked for nothing, and the slots take no memory.

mod array;
mod atomic_read;
mod dvsec;
mod format;
mod layout;
mod place;
mod queue;
mod slot;
mod state;

pub use array::SlotArray;
pub use dvsec::{DvsecHeader, ExtendedHeader, PageSizes, SiovCapabilities, SiovDvsec, SiovHeader};
pub use format::{Bit, ControlFormat, CookieField, FormatError, MaskBit, MaskedWhen};
pub use layout::{QueueLayout, SLOT_BYTES, SlotArrayLayout, SlotCount};
pub use place::SlotRefusal;
pub use queue::QueueStore;
pub(crate) use slot::CONTROL;
pub use state::{QueueState, SlotArrayState, SlotState};
