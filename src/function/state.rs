//! A function's state, out and in. Between the two calls of each pair nothing is delivered, and nothing is lost.

use super::InterruptFunction;
use crate::delivery::Touched;
use crate::domain::Domain;
use crate::interrupt::Interrupt;
use crate::registers::Registers;
use crate::sealed::Sealed;
use crate::state::{FunctionState, RestoreError, Resume, SuspendError};

impl<C: Registers, D: Domain> InterruptFunction<C, D> {
    /// Stops the delivery of the function's interrupts, and answers its state as of then. Calling it again answers
    /// the state of then. The vCPUs are to be stopped before, or registers without a lock are not of
    /// one moment; their local APICs are read afterwards.
    ///
    /// Interrupts meanwhile: those of before have been delivered to the local APICs. Those that come from now on
    /// wait, until [`Resume::resume`], and are in the state if they came before it was taken; nothing that is told
    /// is taken, so the function may run on. What an unused vector has pending in the device itself is the device's
    /// state.
    ///
    /// # Errors
    /// [`SuspendError`]: the function runs on.
    pub fn suspend(&self) -> Result<FunctionState<C::State>, SuspendError> {
        let pending = self.domain.suspend(&self.registers)?;
        Ok(FunctionState { registers: self.registers.state(), pending })
    }

    /// Puts the function into a state, in place of the one that it has, and leaves it suspended: nothing is asked
    /// of the host for it until [`Resume::resume`], or [`resume_all`](crate::state::resume_all) for a whole VM.
    /// `state` may be any data at all.
    ///
    /// Interrupts meanwhile: what waited here before is gone, as in a reset; what waited in `state` waits now.
    ///
    /// # Errors
    /// [`RestoreError`]: nothing has changed, and the function is not suspended unless it was.
    pub fn restore(&self, state: &FunctionState<C::State>) -> Result<(), RestoreError> {
        let FunctionState { registers, pending } = state;
        pending.check(self.registers.capacity())?;
        let restored = self.registers.restored(registers)?;
        self.domain.suspend(&self.registers)?;
        // Where it was in use, the host gets everything back first.
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
