//! The registers of one kind of message-signalled interrupt, as the function that they are part of uses them.
//!
//! MSI and MSI-X are [capabilities](crate::PciCapability) in configuration space. An [IMS](crate::ims) is wherever its device has
//! it. A device's own kind implements [`Registers`] and its own accesses.
//!
//! All vCPUs use the registers at once, so every method takes `&self` and a store owns its synchronisation. MSI and IMS keep
//! plain state behind a mutex. MSI-X is lock-free, because a guest may mask and unmask a vector around every interrupt. A store's
//! lock is the innermost one of the crate, and no system call is made under it.

use std::fmt::Debug;

use crate::backend::Capabilities;
use crate::delivery::{Store, Touched};
use crate::sealed::Sealed;
use crate::state::RestoreError;

/// The registers of one kind of message-signalled interrupt, which all vCPUs use at once: a store owns its synchronisation.
///
/// Of several changes at the same moment, the last one touches every vector that the host has to follow.
pub trait Registers: Store + Sized + Send + Sync {
    /// The registers as plain data.
    type State: Clone + Debug + PartialEq;

    /// How many vectors the guest can ever use. It does not change.
    fn capacity(&self) -> u32;

    /// The features that the vectors need of every parent of the function.
    fn needs(&self) -> Capabilities;

    /// The registers as they are now.
    fn state(&self) -> Self::State;

    /// Registers of the same layout as `state` has them; `state` may be any data.
    ///
    /// # Errors
    /// [`RestoreError`]: no function of this layout can have these registers.
    fn restored(&self, state: &Self::State) -> Result<Self, RestoreError>;

    /// Takes over the state of `other`, which has the same layout. The caller tells the host.
    fn replace(&self, other: Self);

    /// Sets the registers to what they are after power-on.
    fn reset(&self) -> Touched;
}

/// The registers of MSI ([`Msi`](crate::msi::Msi)) or MSI-X ([`Msix`](crate::msix::Msix)).
pub trait PciCapability: Registers + Sealed {
    /// Where configuration space shows the pending bits of the first 32 vectors, counted from the capability's ID. `None`: the
    /// pending bits are not in configuration space.
    fn pending_register(&self) -> Option<u16>;

    /// Reads the capability; `offset` counts from its ID, and any width is answered. The next pointer and the pending bits read 0:
    /// they belong to the embedder and the domain.
    fn read_config(&self, offset: u16, data: &mut [u8]);

    /// Whether some register of the capability shows vectors as silent now: the capability is off, or the register masks some.
    fn shows_silence(&self) -> bool;

    /// Writes the capability; `offset` counts from its ID.
    fn write_config(&self, offset: u16, data: &[u8]) -> Touched;
}
