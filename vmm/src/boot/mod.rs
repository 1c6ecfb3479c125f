//! What the guest finds in memory when its first CPU starts: the kernel, its parameters, and the ACPI tables.
//!
//! [`image`] recognises kernels, [`unpack`] decompresses them on the host, [`loader`] puts kernel and initial
//! RAM disk in place, [`params`] writes Linux' zero page, [`acpi`] describes the machine, [`reset_vector`] is
//! all the firmware there is. The CPU's state at entry is [`crate::vcpu`]'s. Follows
//! Documentation/arch/x86/boot.rst of Linux ("the boot protocol" in comments here).

pub mod acpi;
pub mod image;
pub mod loader;
pub mod params;
pub mod reset_vector;
pub mod unpack;

pub use loader::Entry;
