//! Sixteen bytes of firmware: what a CPU runs that is sent to the real-mode reset vector.
//!
//! Linux on hardware-reduced ACPI asks UEFI for a reboot, and where there is none jumps to the BIOS's entry,
//! F000:FFF0. There it finds the chipset's reset, which ends the run.

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::error::{Doing, Result};
use crate::layout::{RESET_CONTROL_PORT, RESET_VECTOR};

/// `mov al, 6; mov dx, 0xcf9; out dx, al`, and then wait for the end.
const CODE: [u8; 9] = {
    let [low, high] = RESET_CONTROL_PORT.to_le_bytes();
    [0xb0, 0x06, 0xba, low, high, 0xee, 0xf4, 0xeb, 0xfd]
};

/// Writes the code.
///
/// # Errors
/// The host's, when guest memory cannot be written.
pub fn write(memory: &GuestMemoryMmap) -> Result<()> {
    memory.write_slice(&CODE, GuestAddress(RESET_VECTOR)).doing("writing the reset vector")
}
