//! The devices a lab host can have, and how QEMU is asked for each.
//!
//! Each sits behind a root port of its own, and so in an IOMMU group of its own. Root port `n` is at device
//! number `FIRST_SLOT + n` of bus 0; that is how a device is found again inside.

use std::path::PathBuf;
use std::str::FromStr;

use crate::error::Error;

/// Device number of the first root port; lower ones are left to the lab host's own devices.
pub(crate) const FIRST_SLOT: usize = 8;
/// As many as there are device numbers below the chipset's.
pub(crate) const MAX_DEVICES: usize = 0x1f - FIRST_SLOT;

/// A PCI device of the lab host.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Device {
    /// An NVMe disk.
    Nvme {
        /// Entries of its MSI-X table, 1 to 2048.
        vectors: u16,
        /// I/O queue pairs.
        queues: u16,
        /// What is on it.
        disk: Disk,
    },
    /// Shared memory with doorbells: a write of `id << 16 | vector` to BAR 0 + 12 rings a vector, one's own too.
    Ivshmem {
        /// Entries of its MSI-X table, 1 to 2048.
        vectors: u16,
        /// Bytes of shared memory, a power of two.
        shared_bytes: u64,
    },
    /// An Ethernet controller with 10 vectors and SR-IOV; its EICS register fires any vector.
    Igb,
    /// An Ethernet controller with 5 vectors; loses an event that is raised while its MSI-X is off.
    E1000e,
    /// Any other `-device` of QEMU, as QEMU spells it; `bus=` is added.
    Other(String),
}

/// What an NVMe disk holds.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Disk {
    /// Zeros, of this many bytes; gone with the lab host.
    Blank(u64),
    /// This file of the machine; writes go into it.
    File(PathBuf),
}

impl Device {
    /// An NVMe disk with this file on it, as many vectors as MSI-X has, and 64 queues.
    pub fn nvme(file: impl Into<PathBuf>) -> Self {
        Self::Nvme { vectors: 2048, queues: 64, disk: Disk::File(file.into()) }
    }

    /// A doorbell device of this many vectors.
    pub fn ivshmem(vectors: u16) -> Self {
        Self::Ivshmem { vectors, shared_bytes: 1 << 20 }
    }
}

/// `nvme,vectors=2048,queues=64,size=64M`, `nvme,file=PATH`, `ivshmem,vectors=64,size=1M`, `igb`, `e1000e`,
/// `qemu:DEVICE,OPTION=...`.
impl FromStr for Device {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if let Some(other) = text.strip_prefix("qemu:") {
            return Ok(Self::Other(other.to_owned()));
        }
        let wrong = |why: String| Error::Device(text.to_owned(), why);
        let mut words = text.split(',');
        let kind = words.next().unwrap_or_default();
        let mut options = Vec::new();
        for word in words {
            options.push(word.split_once('=').ok_or_else(|| wrong(format!("`{word}` is not NAME=VALUE")))?);
        }
        let mut take = |name: &str| {
            let at = options.iter().position(|(n, _)| *n == name)?;
            Some(options.swap_remove(at).1)
        };
        let count = |value: Option<&str>, name: &str, default: u16, most: u16| match value.map(str::parse) {
            None => Ok(default),
            Some(Ok(n)) if (1..=most).contains(&n) => Ok(n),
            Some(_) => Err(wrong(format!("{name} is a number from 1 to {most}"))),
        };
        let device = match kind {
            "nvme" => Self::Nvme {
                vectors: count(take("vectors"), "vectors", 2048, 2048)?,
                queues: count(take("queues"), "queues", 64, 1024)?,
                disk: match (take("file"), take("size")) {
                    (Some(file), None) => Disk::File(file.into()),
                    (None, size) => Disk::Blank(bytes(size.unwrap_or("64M")).map_err(wrong)?),
                    (Some(_), Some(_)) => return Err(wrong("file and size exclude each other".into())),
                },
            },
            "ivshmem" => Self::Ivshmem {
                vectors: count(take("vectors"), "vectors", 64, 2048)?,
                shared_bytes: bytes(take("size").unwrap_or("1M")).map_err(wrong)?,
            },
            "igb" => Self::Igb,
            "e1000e" => Self::E1000e,
            _ => return Err(wrong("known are nvme, ivshmem, igb, e1000e and qemu:ANY".into())),
        };
        match options.first() {
            Some((name, _)) => Err(wrong(format!("{kind} has no option `{name}`"))),
            None => Ok(device),
        }
    }
}

/// Reads `64M` and the like.
fn bytes(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'K' | b'k') => (&text[..text.len() - 1], 10),
        Some(b'M' | b'm') => (&text[..text.len() - 1], 20),
        Some(b'G' | b'g') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let number = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(1 << shift)).filter(|&n| n > 0);
    number.ok_or_else(|| format!("`{text}` is not a size like 64M"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_are_understood() {
        let nvme = Device::Nvme { vectors: 2048, queues: 64, disk: Disk::Blank(64 << 20) };
        assert_eq!("nvme".parse::<Device>().unwrap(), nvme);
        let file = Device::Nvme { vectors: 3, queues: 2, disk: Disk::File("/x".into()) };
        assert_eq!("nvme,queues=2,file=/x,vectors=3".parse::<Device>().unwrap(), file);
        assert_eq!("ivshmem,vectors=64".parse::<Device>().unwrap(), Device::ivshmem(64));
        assert_eq!("qemu:edu,dma_mask=1".parse::<Device>().unwrap(), Device::Other("edu,dma_mask=1".into()));
    }

    #[test]
    fn mistakes_are_named() {
        for (text, part) in [
            ("nvme,vectors=0", "1 to 2048"),
            ("nvme,vectors=2049", "1 to 2048"),
            ("nvme,size=0", "`0` is not a size"),
            ("nvme,size=1M,file=/x", "exclude"),
            ("igb,vectors=3", "no option `vectors`"),
            ("ivshmem,fast", "NAME=VALUE"),
            ("floppy", "known are"),
        ] {
            let error = text.parse::<Device>().unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
