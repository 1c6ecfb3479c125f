//! What the guest finds in memory when its first CPU starts: the kernel, its parameters, and the ACPI tables.
//!
//! [`image`] recognises kernels, [`unpack`] decompresses them on the host, [`loader`] puts kernel and initial
//! RAM disk in place, [`params`] writes Linux' zero page, [`acpi`] describes the machine, and [`write_reset_vector`]
//! writes all the firmware there is. The CPU's state at entry is [`crate::vcpu`]'s. Follows
//! Documentation/arch/x86/boot.rst of Linux ("the boot protocol" in comments here).

pub mod acpi;
pub mod image;
pub mod loader;
pub mod params;
pub mod unpack;

pub use loader::Entry;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::error::{Context, Result};
use crate::layout::{RESET_CONTROL_PORT, RESET_VECTOR};

/// `mov al, 6; mov dx, 0xcf9; out dx, al`, and then wait for the end.
const RESET_VECTOR_CODE: [u8; 9] = {
    let [low, high] = RESET_CONTROL_PORT.to_le_bytes();
    [0xb0, 0x06, 0xba, low, high, 0xee, 0xf4, 0xeb, 0xfd]
};

/// Writes the code.
///
/// # Errors
/// The host's, when guest memory cannot be written.
pub fn write_reset_vector(memory: &GuestMemoryMmap) -> Result<()> {
    memory.write_slice(&RESET_VECTOR_CODE, GuestAddress(RESET_VECTOR)).context("writing the reset vector")
}
