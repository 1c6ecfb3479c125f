//! MSI and MSI-X as capabilities in configuration space.

use crate::delivery::Touched;
use crate::registers::Registers;
use crate::sealed::Sealed;

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
