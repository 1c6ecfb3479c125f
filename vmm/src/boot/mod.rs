//! Guest memory at boot: the kernel, its parameters, the ACPI tables, and the reset vector.
//!
//! [`image`] detects kernel formats, and [`elf`] reads one of them. [`unpack`] decompresses a kernel on the host. [`loader`] loads the
//! kernel and the initial RAM disk. [`params`] writes Linux' zero page, [`pvh`] writes PVH's start info, and both have the map of
//! `memory_map`. [`acpi`] describes the machine, and [`mp_table`] does for guests without ACPI. [`crate::vcpu`] owns the CPU state
//! at entry. [`disk`] finds kernel and initial RAM disk in a disk image. "The boot protocol" in comments is Documentation/arch/x86/boot.rst of Linux.
//!
//! Everything here runs before the first vCPU, and takes no lock.

pub mod acpi;
pub mod disk;
pub mod elf;
pub mod image;
pub mod loader;
mod memory_map;
pub mod mp_table;
pub mod params;
pub mod pvh;
pub mod unpack;

pub use elf::EntryPoint;
pub use loader::Entry;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::error::{Context, Result};
use crate::layout::{self, RESET_CONTROL_PORT, RESET_VECTOR};

/// The code at the real-mode reset vector: `mov al, 6; mov dx, 0xcf9; out dx, al`, then `hlt` in a loop. On
/// hardware-reduced ACPI without UEFI, Linux reboots by a jump to F000:FFF0. The write to the reset control register
/// ends the run.
const RESET_VECTOR_CODE: [u8; 9] = {
    let [low, high] = RESET_CONTROL_PORT.to_le_bytes();
    [0xb0, 0x06, 0xba, low, high, 0xee, 0xf4, 0xeb, 0xfd]
};

/// Writes what the kernel is told at its entry: the command line, and the structure of its protocol. `rsdp` is the address of the ACPI
/// tables' root.
///
/// # Errors
/// [`Error::Host`](crate::error::Error::Host) if guest memory cannot be written.
pub fn write_parameters(
    memory: &GuestMemoryMmap,
    entry: &Entry,
    cmdline: &str,
    rsdp: GuestAddress,
) -> Result<()> {
    let line = [cmdline.as_bytes(), &[0]].concat();
    memory.write_slice(&line, GuestAddress(layout::COMMAND_LINE)).context("writing the command line")?;
    match entry.start {
        EntryPoint::Linux(_) => {
            let size = u32::try_from(line.len()).context("placing the command line")?;
            params::write(memory, entry, size, rsdp)
        }
        EntryPoint::Pvh(_) => pvh::write(memory, entry.initrd.clone(), rsdp),
    }
}

/// Writes the code of the reset vector.
///
/// # Errors
/// [`Error::Host`](crate::error::Error::Host) if guest memory cannot be written.
pub fn write_reset_vector(memory: &GuestMemoryMmap) -> Result<()> {
    memory.write_slice(&RESET_VECTOR_CODE, GuestAddress(RESET_VECTOR)).context("writing the reset vector")
}
