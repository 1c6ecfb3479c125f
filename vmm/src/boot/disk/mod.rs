//! Kernel and initial RAM disk from the file system of a disk image, as the disk's own boot loader would choose them.
//!
//! [`find`] reads the partition table (`partitions`), opens each ext4 or FAT file system (`filesystem`), and takes the first of these that
//! exists on any of them:
//!
//! 1. an entry of the Boot Loader Specification, in `/loader/entries` or `/boot/loader/entries` (`bls`),
//! 2. the first `linux` and `initrd` lines of GRUB's configuration (`grub`),
//! 3. Debian's links `/vmlinuz` and `/initrd.img`.
//!
//! The image is untrusted, and is only read. A `window` of it counts the bytes read, so a loop in its structures ends with an error. Files
//! that exceed the guest's memory, and configurations above 256 KiB, are refused. Everything runs before the guest, on a thread of its own
//! (`guarded`).

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

mod bls;
mod entry;
mod filesystem;
mod grub;
mod guarded;
mod partitions;
mod version;
mod window;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, Read, Seek, Write};

use rustix::fs::{MemfdFlags, memfd_create};

use entry::Entry;
use filesystem::FileSystem;
use window::Disk;

pub use guarded::{find, is_current};

/// What to boot from a disk.
#[derive(Debug)]
pub struct Bootable {
    /// The kernel, in memory.
    pub kernel: File,
    /// The initial RAM disk, in memory.
    pub initrd: Option<File>,
    /// The kernel command line of the entry.
    pub cmdline: String,
    /// The file system and the entry or link, for messages.
    pub source: String,
}

/// Why nothing can be booted from a disk.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The image cannot be read.
    #[error("cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    /// The partition table contradicts itself.
    #[error("its partition table is damaged: {0}")]
    PartitionTable(&'static str),
    /// No partition has a supported file system.
    #[error("no partition with an ext4 or FAT file system")]
    NoFileSystem,
    /// No file system has a boot entry.
    #[error("nothing to boot: no loader/entries/*.conf, no grub/grub.cfg, and no /vmlinuz")]
    NoEntry,
    /// A file or directory cannot be read.
    #[error("{path} in {place} cannot be read: {problem}")]
    Damaged {
        /// The partition.
        place: String,
        /// The path in its file system.
        path: String,
        /// The error of the file system.
        problem: String,
    },
    /// A file that an entry names does not exist.
    #[error("{entry} names {path}, which {place} does not have")]
    Missing {
        /// The entry.
        entry: String,
        /// The path in the file system.
        path: String,
        /// The partition.
        place: String,
    },
    /// Kernel and initial RAM disk exceed the limit.
    #[error("{path} in {place} does not fit {} MiB of guest memory", limit >> 20)]
    TooLarge {
        /// The partition.
        place: String,
        /// The path in its file system.
        path: String,
        /// The limit in bytes.
        limit: u64,
    },
}

/// Searches an image on the calling thread.
fn search(image: impl Read + Seek + 'static, limit: u64) -> Result<Bootable, DiskError> {
    let disk = Disk::new(image, limit)?;
    let mut filesystems = Vec::new();
    for partition in partitions::list(&disk)? {
        filesystems.extend(FileSystem::open(partition.window(&disk), partition.place)?);
    }
    if filesystems.is_empty() {
        return Err(DiskError::NoFileSystem);
    }
    for find in [bls::find, grub::find, debian_links] {
        for filesystem in &filesystems {
            if let Some(entry) = find(filesystem)? {
                return load(filesystem, &entry, limit);
            }
        }
    }
    Err(DiskError::NoEntry)
}

/// Debian's links to the newest kernel. They come without a command line, so the file system with them is the root.
fn debian_links(filesystem: &FileSystem) -> Result<Option<Entry>, DiskError> {
    const KERNEL: &str = "/vmlinuz";
    const INITRD: &str = "/initrd.img";
    if !filesystem.has_file(KERNEL)? {
        return Ok(None);
    }
    let initrds = if filesystem.has_file(INITRD)? { vec![INITRD.to_owned()] } else { Vec::new() };
    let root = filesystem.uuid().map(|uuid| format!("root=UUID={uuid} ro"));
    Ok(Some(Entry {
        name: KERNEL.to_owned(),
        kernel: KERNEL.to_owned(),
        initrds,
        cmdline: root.unwrap_or_default(),
    }))
}

/// Reads the files of an entry. Several initial RAM disks become one (boot protocol, "initramfs buffer format").
fn load(filesystem: &FileSystem, entry: &Entry, limit: u64) -> Result<Bootable, DiskError> {
    let mut kernel = memory_file("kernel")?;
    let mut used = filesystem.copy(entry, &entry.kernel, &mut kernel, limit)?;
    let initrd = match entry.initrds.as_slice() {
        [] => None,
        paths => {
            let mut initrd = memory_file("initrd")?;
            for path in paths {
                let size = filesystem.copy(entry, path, &mut initrd, limit.saturating_sub(used))?;
                used = used.saturating_add(size);
                // Each part begins at a multiple of 4 bytes.
                let padding = size.next_multiple_of(4).saturating_sub(size);
                initrd.write_all([0; 3].get(..usize::try_from(padding).unwrap_or(0)).unwrap_or_default())?;
            }
            Some(initrd)
        }
    };
    let source = format!("{} in {}", entry.name, filesystem.place());
    Ok(Bootable { kernel, initrd, cmdline: entry.cmdline.clone(), source })
}

fn memory_file(name: &str) -> io::Result<File> {
    Ok(File::from(memfd_create(name, MemfdFlags::CLOEXEC)?))
}
