//! Interrupt message stores (IMS): vectors in a format of the device's own, beside MSI-X or alone.
//!
//! The PCI specification does not define them. A device defines where its store is and what a slot looks
//! like. This module has two stores: [`SlotArray`], an array of 16-byte slots in a BAR as in hardware, and
//! [`QueueStore`], whose slots are at addresses in guest memory that the driver chooses. [`ControlFormat`]
//! describes the differences between devices. A guest learns of an IMS from [`SiovDvsec`].
//!
//! For another kind of store, implement [`Registers`](crate::Registers) and forward the guest's accesses with
//! [`InterruptFunction::change`](crate::InterruptFunction::change). The domains and their guarantees are the
//! same as for MSI-X.
//!
//! Owns the registers. Invariant: after any access of any offset, width and value, the state is one that a
//! store could have, and [`Touched`](crate::Touched) names every vector that changed. No I/O, no log, no
//! panic. Locking: each store has one mutex, held for one access. Pending bits belong to the domain.
//!
//! A store has no enable bit. It is in use from the guest's first write to a slot, or first doorbell, until
//! the next reset. Before that, the device may not signal, no host vector is requested, and no slot is
//! allocated.

mod array;
mod atomic_read;
mod dvsec;
mod format;
mod layout;
mod queue;
mod slot;
mod slot_address;
mod state;

pub use array::SlotArray;
pub use dvsec::{DvsecHeader, ExtendedHeader, PageSizes, SiovCapabilities, SiovDvsec, SiovHeader};
pub use format::{Bit, ControlFormat, CookieField, FormatError, MaskBit, MaskedWhen};
pub use layout::{QueueLayout, SLOT_BYTES, SlotArrayLayout, SlotCount};
pub use queue::QueueStore;
pub(crate) use slot::CONTROL;
pub use slot_address::SlotRefusal;
pub use state::{QueueState, SlotArrayState, SlotState};
