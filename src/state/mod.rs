//! A function's interrupts at one moment, as plain data: what a snapshot of a VM keeps, and what a restored one
//! begins with.
//!
//! Owns the shape of that data, its version, and the order in which the functions of a VM come back. Invariant: a
//! state is checked whole, and against the function that it is for, before anything changes; what passes is one
//! that such a function could have had. The registers' part is each capability's own
//! ([`MsixState`](crate::msix::MsixState), [`MsiState`](crate::msi::MsiState)). No I/O and no lock here.
//!
//! Taking it: stop the vCPUs and the devices, [suspend](crate::InterruptFunction::suspend) every function, and only then
//! read the local APICs, which have by now what was on its way. Then either [resume](resume_all) the functions, or
//! drop them. Bringing it back goes the other way round: local APICs, [restore](crate::InterruptFunction::restore) every
//! function, and [`resume_all`], or [`prepare`] and then [`Resume::resume`] for each.
//!
//! A state may also come from another VMM's snapshot: [`MsixState::new`](crate::msix::MsixState::new),
//! [`MsiState::new`](crate::msi::MsiState::new) and [`PendingBits::from_bytes`] repair what another VMM keeps in reserved bits.
//! `restore` itself repairs nothing.

mod error;
mod pending;
mod prepared;
#[cfg(feature = "serde")]
mod stored;

pub use error::{RestoreError, SuspendError};
pub use pending::PendingBits;
pub use prepared::{Prepared, prepare};

use crate::interrupt::Interrupt;
use crate::router::Router;
use crate::sealed::Sealed;

/// The interrupts of one function: registers, and what waits.
///
/// With the serde feature, the serialized data begins with its version. Data of every version since the first can be read,
/// and is upgraded while it is read. Data of a later version fails to deserialize. The newest version is written.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(
        from = "stored::Stored<S>",
        into = "stored::Stored<S>",
        bound(serialize = "S: Clone + serde::Serialize", deserialize = "S: serde::Deserialize<'de>")
    )
)]
pub struct FunctionState<S> {
    /// The capability's registers.
    pub registers: S,
    /// The interrupts that the domain kept: in eventfds, or from the time when one was closed. Those that wait in
    /// the device itself, for vectors without an eventfd, are part of the device's state and not here.
    pub pending: PendingBits,
}

/// A function that may be suspended, of any capability and domain.
pub trait Resume: Sealed {
    /// Adds the messages for which resuming will ask the VM's router, as they are behind any remapping.
    fn messages(&self, messages: &mut Vec<Interrupt>);

    /// Brings every vector to what the registers say. What waits for a vector that is live then is delivered, once.
    /// Does nothing to one that is not suspended.
    fn resume(&self);
}

/// Resumes functions of one VM, with one commit of its routing table for the messages of all.
///
/// An embedder that resumes its functions one by one, between other work, calls [`prepare`] instead.
///
/// What the host refuses meanwhile is tried again as ever: see [`Domain::failed_steps`](crate::Domain::failed_steps).
pub fn resume_all<'a>(router: &dyn Router, functions: impl IntoIterator<Item = &'a dyn Resume>) {
    let functions: Vec<_> = functions.into_iter().collect();
    let prepared = prepare(router, functions.iter().copied());
    functions.iter().for_each(|function| function.resume());
    drop(prepared);
}
