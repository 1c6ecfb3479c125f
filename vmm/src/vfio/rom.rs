//! Expansion ROMs: a copy of the device's ROM, or of a file, that the guest reads without an exit.
//!
//! Owns the copy, which never changes: it is made when the device is opened. The guest decodes it like a BAR, and writes to
//! it are dropped. PCIe r6 §7.5.1.2.4; PCI Firmware 3.3 §5 (the contents).

use std::fs::File;
use std::io;
use std::sync::Arc;

use vfio_bindings::bindings::vfio::VFIO_PCI_ROM_REGION_INDEX;
use vm_memory::{Bytes, MmapRegion, VolatileMemory};

use super::mmap_ranges::PAGE;
use super::region::Region;
use super::sysfs::HostAddress;
use crate::pci::bar::LARGEST_ROM;

/// The first two bytes of an expansion ROM.
pub const SIGNATURE: [u8; 2] = [0x55, 0xaa];

/// Devices that hang when their ROM is read: vendor and device ID, as bytes of configuration space.
const UNREADABLE: &[([u8; 4], &str)] =
    &[([0xe4, 0x14, 0x8e, 0x16], "BCM57810: a read of its ROM hangs the device")];

/// The source of a device's expansion ROM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum RomSource {
    /// The device's own, if it has one.
    #[default]
    Device,
    /// These contents.
    Contents(Vec<u8>),
    /// The guest sees no ROM.
    Off,
}

/// An expansion ROM.
#[derive(Debug)]
pub struct Rom {
    memory: Arc<MmapRegion>,
    size: u64,
}

impl Rom {
    /// The ROM of this source. `registers` is the device's configuration space. A ROM that the host cannot read is logged
    /// and left out.
    ///
    /// # Errors
    /// The host's error if memory is short.
    pub fn new(
        source: &RomSource,
        address: HostAddress,
        device: &Arc<File>,
        registers: &[u8],
    ) -> io::Result<Option<Self>> {
        match source {
            RomSource::Off => Ok(None),
            RomSource::Contents(contents) => Self::of(contents),
            RomSource::Device => match own(device, registers) {
                Ok(contents) => Self::of(&contents),
                Err(why) => {
                    tracing::warn!(
                        "device {address}: its expansion ROM is hidden from the guest: {why}; rom=FILE shows a copy"
                    );
                    Ok(None)
                }
            },
        }
    }

    /// A ROM with these contents, filled up with ones to a power of two. `None` if it is empty or too large.
    fn of(contents: &[u8]) -> io::Result<Option<Self>> {
        let size = (contents.len() as u64).checked_next_power_of_two();
        let Some(size) = size.filter(|size| !contents.is_empty() && *size <= LARGEST_ROM) else {
            return Ok(None);
        };
        let pages = usize::try_from(size.next_multiple_of(PAGE)).map_err(io::Error::other)?;
        let mut bytes = contents.to_vec();
        bytes.resize(pages, 0xff);
        let memory = MmapRegion::new(pages).map_err(io::Error::other)?;
        memory.as_volatile_slice().write_slice(&bytes, 0).map_err(io::Error::other)?;
        Ok(Some(Self { memory: Arc::new(memory), size }))
    }

    /// Its size in bytes, a power of two.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The pages with its contents.
    #[must_use]
    pub fn memory(&self) -> &Arc<MmapRegion> {
        &self.memory
    }

    /// Reads. Bytes beyond the end are ones.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        if let Ok(offset) = usize::try_from(offset) {
            // An offset beyond the memory leaves ones.
            let _ = self.memory.as_volatile_slice().read(data, offset);
        }
    }
}

/// The contents of the device's own ROM. Empty if it has none.
fn own(device: &Arc<File>, registers: &[u8]) -> Result<Vec<u8>, String> {
    let quirk = UNREADABLE.iter().find(|(ids, _)| registers.starts_with(ids));
    if let Some((_, why)) = quirk {
        return Err((*why).to_owned());
    }
    let region = Region::new(device, VFIO_PCI_ROM_REGION_INDEX).map_err(|error| error.to_string())?;
    region.map_or_else(|| Ok(Vec::new()), |region| contents(&region))
}

fn contents(region: &Region) -> Result<Vec<u8>, String> {
    if region.size() > LARGEST_ROM {
        return Err(format!("it has {:#x} bytes, and an expansion ROM has 16 MiB at most", region.size()));
    }
    region.contents().map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use rustix::fs::MemfdFlags;

    use super::*;

    fn read<const N: usize>(rom: &Rom, offset: u64) -> [u8; N] {
        let mut data = [0; N];
        rom.read(offset, &mut data);
        data
    }

    fn rom(contents: &[u8]) -> Option<Rom> {
        Rom::of(contents).unwrap()
    }

    #[test]
    fn contents_are_filled_up_with_ones_to_a_power_of_two_and_whole_pages() {
        let short = rom(&[0x55, 0xaa, 3]).unwrap();
        assert_eq!((short.size(), short.memory().size()), (4, 0x1000));
        assert_eq!(read(&short, 0), [0x55, 0xaa, 3, 0xff]);
        let long = rom(&vec![7; 0x1801]).unwrap();
        assert_eq!((long.size(), long.memory().size()), (0x2000, 0x2000));
        assert_eq!(read(&long, 0x1800), [7, 0xff]);
        assert_eq!(read(&long, 0x1ffe), [0xff; 4], "over the end");
        assert_eq!(read(&long, u64::MAX), [0xff; 4]);
    }

    #[test]
    fn an_empty_or_oversized_rom_is_none() {
        assert!(rom(&[]).is_none());
        assert_eq!(rom(&vec![0; 16 << 20]).unwrap().size(), 16 << 20);
        assert!(rom(&vec![0; (16 << 20) + 1]).is_none());
    }

    #[test]
    fn a_device_that_hangs_is_not_read_and_one_that_is_not_vfios_has_none() {
        let device = Arc::new(File::open("/dev/null").unwrap());
        let address = HostAddress::parse("01:00.0").unwrap();
        assert!(own(&device, &[0xe4, 0x14, 0x8e, 0x16, 0]).unwrap_err().contains("hangs"));
        let new = |source: &RomSource| Rom::new(source, address, &device, &[0x86, 0x80, 0, 0]).unwrap();
        assert!(new(&RomSource::Device).is_none());
        assert!(new(&RomSource::Off).is_none());
        assert_eq!(new(&RomSource::Contents(vec![0x55, 0xaa])).unwrap().size(), 2);
    }

    #[test]
    fn a_region_is_read_whole_or_refused() {
        let device = File::from(rustix::fs::memfd_create("device", MemfdFlags::CLOEXEC).unwrap());
        device.set_len(0x8000).unwrap();
        device.write_all_at(&[0x55, 0xaa, 1], 0x4000).unwrap();
        let device = Arc::new(device);
        let region = |size| Region::of_file(&device, 0x4000, size);
        let whole = contents(&region(0x4000)).unwrap();
        assert_eq!((whole.len(), &whole[..4]), (0x4000, &[0x55, 0xaa, 1, 0][..]));
        assert!(contents(&region(0x8000)).is_err(), "the file ends before");
        assert!(contents(&region(LARGEST_ROM + 1)).unwrap_err().contains("16 MiB at most"));
    }
}
