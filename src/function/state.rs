//! Saving and restoring a function's state. Between suspend and resume no interrupt is delivered, and none is
//! lost.

use super::InterruptFunction;
use crate::delivery::Touched;
use crate::domain::Domain;
use crate::interrupt::Interrupt;
use crate::registers::Registers;
use crate::sealed::Sealed;
use crate::state::{FunctionState, RestoreError, Resume, SuspendError};

impl<C: Registers, D: Domain> InterruptFunction<C, D> {
    /// Stops the delivery of the function's interrupts, and returns its state. It may be called again.
    ///
    /// Stop the vCPUs first. Registers without a lock are otherwise not read at one moment. Read the local
    /// APICs afterwards.
    ///
    /// Interrupts meanwhile: earlier interrupts have been delivered to the local APICs. Later interrupts wait
    /// until [`Resume::resume`]. The state contains the interrupts that were waiting when it was read. They
    /// also stay here, so the function may be resumed. The pending bits of unbound vectors are part of the
    /// device's own state.
    ///
    /// # Errors
    /// [`SuspendError`]: the function is not suspended.
    pub fn suspend(&self) -> Result<FunctionState<C::State>, SuspendError> {
        let pending = self.domain.suspend(&self.registers)?;
        Ok(FunctionState { registers: self.registers.state(), pending })
    }

    /// Replaces the function's state, and leaves the function suspended. The host is not called for the new
    /// state until [`Resume::resume`], or [`resume_all`](crate::state::resume_all) for a whole VM. `state`
    /// may be any data.
    ///
    /// Interrupts meanwhile: interrupts that waited before are dropped, as in a reset. Interrupts that wait
    /// in `state` wait now.
    ///
    /// # Errors
    /// [`RestoreError`]: nothing has changed.
    pub fn restore(&self, state: &FunctionState<C::State>) -> Result<(), RestoreError> {
        let FunctionState { registers, pending } = state;
        pending.check(self.registers.capacity())?;
        let restored = self.registers.restored(registers)?;
        self.domain.suspend(&self.registers)?;
        // Release every host vector of the old state.
        let _ = self.registers.reset();
        self.sync(Touched::first(self.registers.capacity()));
        self.registers.replace(restored);
        self.domain.set_pending(pending);
        Ok(())
    }
}

impl<C: Registers, D: Domain> Sealed for InterruptFunction<C, D> {}

impl<C: Registers, D: Domain> Resume for InterruptFunction<C, D> {
    fn messages(&self, messages: &mut Vec<Interrupt>) {
        self.domain.messages(&self.registers, messages);
    }

    fn resume(&self) {
        self.domain.resume(&self.registers);
    }
}
