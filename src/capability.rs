//! What the capabilities of message-signalled interrupts have in common: registers in configuration space, and
//! a store of vectors behind them.

use crate::backend::Capabilities;
use crate::delivery::{Store, Touched};
use crate::state::RestoreError;

/// A capability's registers, as plain state.
pub trait Capability: Store {
    /// Its size and shape, fixed for the life of the function.
    type Layout: std::fmt::Debug;

    /// The registers as plain data.
    type State: Clone + std::fmt::Debug + PartialEq;

    /// The registers after power-on.
    fn at_power_on(layout: &Self::Layout) -> Self;

    /// How many vectors the guest can ever use.
    fn capacity(layout: &Self::Layout) -> u32;

    /// What its vectors need of every parent of the function.
    fn needs(layout: &Self::Layout) -> Capabilities;

    /// Where configuration space shows the pending bits of the first 32 vectors, from the capability's ID on;
    /// `None` where it does not.
    fn pending_register(layout: &Self::Layout) -> Option<u16>;

    /// The registers as they are now.
    fn state(&self) -> Self::State;

    /// Registers as `state` has them, which may be any data at all.
    ///
    /// # Errors
    /// [`RestoreError`] for what no function of this layout could have.
    fn from_state(layout: &Self::Layout, state: &Self::State) -> Result<Self, RestoreError>
    where
        Self: Sized;

    /// Back to the registers after power-on.
    fn reset(&mut self) -> Touched;

    /// Reads from `offset` bytes after the capability's ID, any width. The pointer to the next capability and
    /// the pending bits read 0: they are not the registers'.
    fn read_config(&self, offset: u16, data: &mut [u8]);

    /// Writes, as [`Capability::read_config`] reads.
    fn write_config(&mut self, offset: u16, data: &[u8]) -> Touched;
}
