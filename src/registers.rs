//! The registers of one kind of message-signalled interrupt, in the form that the function needs.
//!
//! MSI and MSI-X are [capabilities](crate::PciCapability) in configuration space. A device chooses the
//! location of its [IMS](crate::ims). An embedder's own kind implements [`Registers`], and forwards its own
//! accesses.
//!
//! All vCPUs may use the registers at the same time, so every method takes `&self` and a store owns its
//! synchronisation. MSI and IMS have plain state behind a mutex. MSI-X is lock-free, because a guest may mask
//! and unmask a vector around every interrupt. A store's lock is the innermost one of the crate, and no
//! system call is made under it.

use std::fmt::Debug;

use crate::backend::Capabilities;
use crate::delivery::{Store, Touched};
use crate::sealed::Sealed;
use crate::state::RestoreError;

/// The registers of one kind of message-signalled interrupt. All vCPUs may use them at the same time, so a
/// store owns its synchronisation.
///
/// Of several concurrent changes, the last one touches every vector that the host must follow.
pub trait Registers: Store + Sized + Send + Sync {
    /// The registers as plain data.
    type State: Clone + Debug + PartialEq;

    /// How many vectors the guest can ever use. It does not change.
    fn capacity(&self) -> u32;

    /// The features that the vectors need of every parent of the function.
    fn needs(&self) -> Capabilities;

    /// The present registers as plain data.
    fn state(&self) -> Self::State;

    /// Registers of the same layout with the values in `state`, which may be any data.
    ///
    /// # Errors
    /// [`RestoreError`]: no function of this layout can have these registers.
    fn restored(&self, state: &Self::State) -> Result<Self, RestoreError>;

    /// Replaces the values by those of `other`, which has the same layout. The caller informs the host.
    fn replace(&self, other: Self);

    /// Sets the registers to their values after power-on.
    fn reset(&self) -> Touched;
}

/// The registers of MSI ([`Msi`](crate::msi::Msi)) or MSI-X ([`Msix`](crate::msix::Msix)).
pub trait PciCapability: Registers + Sealed {
    /// The offset of the pending bits of the first 32 vectors in the capability, in bytes from its ID. `None`
    /// if they are not in configuration space.
    fn pending_register(&self) -> Option<u16>;

    /// Reads the capability. `offset` is in bytes from its ID. Any width is allowed. The next pointer and the
    /// pending bits read 0, because they belong to the embedder and the domain.
    fn read_config(&self, offset: u16, data: &mut [u8]);

    /// Whether the registers of the capability may show a vector as silent: the capability is disabled, or
    /// some vectors are masked.
    fn shows_silence(&self) -> bool;

    /// Writes the capability. `offset` is in bytes from its ID.
    fn write_config(&self, offset: u16, data: &[u8]) -> Touched;
}
