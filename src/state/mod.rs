//! The state of a function's interrupts as plain data, for snapshots.
//!
//! Owns the format of that data, its version, and the order in which the functions of a VM resume. Invariant:
//! a state is checked completely, against the function that it is for, before anything changes. A state that
//! passes is one that the function could have had. The registers are in each capability's own format
//! ([`MsixState`](crate::msix::MsixState), [`MsiState`](crate::msi::MsiState)). No I/O and no lock.
//!
//! To save: stop the vCPUs and the devices, [suspend](crate::InterruptFunction::suspend) every function, and
//! only then read the local APICs. They contain by then every interrupt that was delivered. Afterwards
//! [resume](resume_all) the functions, or drop them.
//!
//! To restore: load the local APICs, [restore](crate::InterruptFunction::restore) every function, and call
//! [`resume_all`], or [`prepare`] and then [`Resume::resume`] for each.
//!
//! A state may also come from another VMM's snapshot: [`MsixState::new`](crate::msix::MsixState::new),
//! [`MsiState::new`](crate::msi::MsiState::new) and [`PendingBits::from_bytes`] repair what another VMM keeps
//! in reserved bits. `restore` itself repairs nothing.

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

/// The interrupts of one function: its registers, and its waiting interrupts.
///
/// With the `serde` feature, the serialized data begins with its version. Data of every earlier version is
/// upgraded while it is read. Data of a later version fails to deserialize. The newest version is written.
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
    /// The interrupts that wait in the domain: in an eventfd, or latched when an eventfd was closed.
    /// Interrupts that wait in the device, for vectors without an eventfd, are part of the device's own
    /// state.
    pub pending: PendingBits,
}

/// A function with any capability and domain, which may be suspended.
pub trait Resume: Sealed {
    /// Adds the messages that resuming will publish, as they are after any remapping.
    fn messages(&self, messages: &mut Vec<Interrupt>);

    /// Syncs every vector with the registers. A waiting interrupt of a vector that becomes live is delivered
    /// once. Does nothing if the function is not suspended.
    fn resume(&self);
}

/// Resumes functions of one VM. The messages of all functions are published with one commit of the routing
/// table.
///
/// To resume functions one by one, between other work, call [`prepare`] instead. Steps that the host refuses
/// are tried again as usual: see [`Domain::failed_steps`](crate::Domain::failed_steps).
pub fn resume_all<'a>(router: &dyn Router, functions: impl IntoIterator<Item = &'a dyn Resume>) {
    let functions: Vec<_> = functions.into_iter().collect();
    let prepared = prepare(router, functions.iter().copied());
    functions.iter().for_each(|function| function.resume());
    drop(prepared);
}
