//! What all stores of vectors have in common for the function that they are part of: a shape, a state after
//! power-on, a reset, and themselves as data. Where a guest finds them is another matter: MSI's and MSI-X's are a
//! [`Capability`](crate::Capability) in configuration space, an [IMS](crate::ims) is wherever its device has it.

use crate::backend::Capabilities;
use crate::delivery::{Store, Touched};
use crate::state::RestoreError;

/// A store's registers, as plain state.
pub trait Registers: Store {
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
}
