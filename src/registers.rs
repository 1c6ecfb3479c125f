//! What all stores of vectors have in common for the function that they are part of: a shape, a state after
//! power-on, a reset, and themselves as data. Where a guest finds them is another matter: MSI's and MSI-X's are a
//! [`Capability`](crate::Capability) in configuration space, an [IMS](crate::ims) is wherever its device has it.
//!
//! A guest's vCPUs use them at once. Most are plain state behind a lock; MSI-X, of which every interrupt of a guest that masks
//! its vectors makes use, needs none.

use std::fmt::Debug;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::backend::Capabilities;
use crate::delivery::{Store, Touched};
use crate::state::RestoreError;

/// A store's registers.
pub trait Registers: Store + Sized {
    /// Its size and shape, fixed for the life of the function.
    type Layout: Debug;

    /// The registers as plain data.
    type State: Clone + Debug + PartialEq;

    /// How vCPUs share them: `Mutex<Self>` for plain state. Its lock is the innermost one of the crate, and is held for no
    /// system call.
    type Shared: SharedRegisters<Self> + Debug + Send + Sync;

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
    fn from_state(layout: &Self::Layout, state: &Self::State) -> Result<Self, RestoreError>;

    /// Back to the registers after power-on.
    fn reset(&mut self) -> Touched;
}

/// Registers that several vCPUs use at once. However their accesses fall together, none that the host has to follow is missed
/// by all of them: the last one touches it.
pub trait SharedRegisters<C>: Store + From<C> {
    /// Looks at them.
    fn look<T>(&self, read: impl FnOnce(&C) -> T) -> T;

    /// As [`Registers::reset`].
    fn reset(&self) -> Touched;

    /// Puts others in their place.
    fn replace(&self, registers: C);
}

impl<C: Registers> SharedRegisters<C> for Mutex<C> {
    fn look<T>(&self, read: impl FnOnce(&C) -> T) -> T {
        read(&lock(self))
    }

    fn reset(&self) -> Touched {
        lock(self).reset()
    }

    fn replace(&self, registers: C) {
        *lock(self) = registers;
    }
}

/// Plain registers. Whoever panicked with them has left them as one of the states that they may have.
pub(crate) fn lock<C>(registers: &Mutex<C>) -> MutexGuard<'_, C> {
    registers.lock().unwrap_or_else(PoisonError::into_inner)
}
