//! What the capabilities of message-signalled interrupts have in common: registers in configuration space, and
//! a store of vectors behind them.

use crate::delivery::Touched;
use crate::registers::Registers;

/// A capability's registers.
pub trait Capability: Registers {
    /// Where configuration space shows the pending bits of the first 32 vectors, from the capability's ID on;
    /// `None` where it does not.
    fn pending_register(layout: &Self::Layout) -> Option<u16>;

    /// Reads from `offset` bytes after the capability's ID, any width. The pointer to the next capability and
    /// the pending bits read 0: they are not the registers'.
    fn read_config(&self, offset: u16, data: &mut [u8]);

    /// Whether some register of the capability shows vectors as silent now: the capability is off, or the register masks some.
    fn shows_silence(&self) -> bool;

    /// Writes, as [`Capability::read_config`] reads.
    fn write_config(registers: &Self::Shared, offset: u16, data: &[u8]) -> Touched;
}
