//! What the fuzz targets of `fuzz/` run: each function takes any bytes, and panics where the VMM breaks a promise.
//!
//! | target | any bytes are |
//! |---|---|
//! | [`bus()`] | accesses of two vCPUs to every device of the VMM's buses |
//! | [`virtqueue()`] | a driver's registers and rings, with memory that changes under the device |
//! | [`config_space()`] | the configuration space of a device, and its changes |
//! | [`region_info()`] | the host's replies about a region |
//! | [`boot_image()`] | a kernel file, or its compressed payload |
//! | [`boot_disk()`] | a disk image, or damage to one that boots |
//! | [`cli()`] | a command line |
//!
//! The module is compiled for unit tests, which replay the seeds, and with the feature `fuzzing`. Nothing else uses it.

pub mod boot_disk;
pub mod boot_image;
pub mod bus;
pub mod cli;
pub mod config_space;
mod machine;
pub mod region_info;
pub mod virtqueue;

#[cfg(test)]
mod tests;

pub use boot_disk::boot_disk;
pub use boot_image::boot_image;
pub use bus::bus;
pub use cli::cli;
pub use config_space::config_space;
pub use region_info::region_info;
pub use virtqueue::virtqueue;

/// An unnamed file with these contents.
fn file(bytes: &[u8]) -> std::fs::File {
    use std::os::unix::fs::FileExt;
    let memory = rustix::fs::memfd_create("fuzzing", rustix::fs::MemfdFlags::CLOEXEC).expect("a memfd");
    let file = std::fs::File::from(memory);
    file.write_all_at(bytes, 0).expect("room for the file");
    file
}
