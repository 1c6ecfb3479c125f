//! Loads the kernel and the initial RAM disk into guest memory.

use std::io::{Cursor, Seek};

use linux_loader::loader::bootparam::setup_header;
use linux_loader::loader::{BzImage, Elf, KernelLoader, KernelLoaderResult};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use super::image::{Image, ImageKind};
use super::unpack::unpack;
use crate::cli::Unpack;
use crate::config::Initrd;
use crate::error::{Error, Result};
use crate::layout;
use crate::memory::populate;

/// Offset of the 64-bit entry in a bzImage's protected-mode code.
const BZIMAGE_64_BIT_ENTRY: u64 = 0x200;
/// The highest address of an initial RAM disk if the setup header sets no limit.
const INITRD_END_DEFAULT: u32 = 0x7fff_ffff;

/// A loaded kernel.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// The entry point of the boot CPU, in 64-bit mode.
    pub start: GuestAddress,
    /// The setup header for the boot parameters.
    pub header: setup_header,
    /// The first address after the kernel and its zeroed data.
    pub kernel_end: u64,
}

/// Loads the kernel. With [`Unpack::Host`], the host decompresses a bzImage first if it can.
///
/// # Errors
/// [`Error::Input`] if the kernel does not fit or its file is damaged.
pub fn load_kernel(memory: &GuestMemoryMmap, image: &Image, unpack: Unpack) -> Result<Entry> {
    match image.kind() {
        ImageKind::Elf => load_elf(memory, image.name(), image.bytes(), setup_header::default()),
        ImageKind::BzImage(header) => {
            let elf = match unpack {
                Unpack::Host => std::thread::scope(|scope| {
                    // The host faults the kernel's pages in while another thread decompresses the kernel.
                    scope.spawn(|| prefault(memory, header));
                    unpack_payload(image, low_ram(memory))
                }),
                Unpack::Guest => None,
            };
            match elf {
                Some(elf) => load_elf(memory, image.name(), &elf, *header),
                None => load_bzimage(memory, image),
            }
        }
    }
}

/// Faults in the pages that the kernel will run in.
fn prefault(memory: &GuestMemoryMmap, header: &setup_header) {
    let start = header.pref_address & !0xfff;
    let end = start.saturating_add(header.init_size.into()).min(low_ram(memory)) & !0xfff;
    if start < end
        && let Err(error) = populate(memory, start..end)
    {
        tracing::debug!("cannot prefault the kernel's pages: {error}");
    }
}

/// Decompresses a bzImage. Logs the reason and returns `None` if the guest has to do it.
fn unpack_payload(image: &Image, limit: u64) -> Option<Vec<u8>> {
    let Some(payload) = image.payload() else {
        tracing::warn!("{}: no payload in its header; the guest unpacks it itself", image.name());
        return None;
    };
    match unpack(payload, limit) {
        Ok(elf) => {
            tracing::debug!("kernel unpacked, {} KiB to {} KiB", payload.len() >> 10, elf.len() >> 10);
            Some(elf)
        }
        Err(error) => {
            tracing::warn!("{}: {error}; the guest unpacks it itself", image.name());
            None
        }
    }
}

fn load_elf(memory: &GuestMemoryMmap, name: &str, elf: &[u8], header: setup_header) -> Result<Entry> {
    let high = Some(GuestAddress(layout::HIGH_RAM));
    let loaded = Elf::load(memory, None, &mut Cursor::new(elf), high);
    let loaded = check_fit(memory, name, loaded)?;
    Ok(Entry { start: loaded.kernel_load, header, kernel_end: loaded.kernel_end })
}

fn load_bzimage(memory: &GuestMemoryMmap, image: &Image) -> Result<Entry> {
    let high = Some(GuestAddress(layout::HIGH_RAM));
    let loaded = BzImage::load(memory, None, &mut Cursor::new(image.bytes()), high);
    let loaded = check_fit(memory, image.name(), loaded)?;
    let header = loaded.setup_header.unwrap_or_default();
    // The guest's decompressor uses `init_size` bytes from the kernel's run address.
    let unpacked_end = header.pref_address.max(loaded.kernel_load.0).saturating_add(header.init_size.into());
    let start = GuestAddress(loaded.kernel_load.0.saturating_add(BZIMAGE_64_BIT_ENTRY));
    Ok(Entry { start, header, kernel_end: loaded.kernel_end.max(unpacked_end) })
}

fn check_fit(
    memory: &GuestMemoryMmap,
    name: &str,
    loaded: std::result::Result<KernelLoaderResult, linux_loader::loader::Error>,
) -> Result<KernelLoaderResult> {
    let low = low_ram(memory);
    let loaded = loaded.map_err(|error| {
        let problem = format!("cannot be loaded into {} MiB below the hole: {error}", low / layout::MIB);
        Error::input(name, problem)
    })?;
    if loaded.kernel_end > low {
        let needs = loaded.kernel_end.div_ceil(layout::MIB);
        return Err(Error::input(name, format!("needs {needs} MiB of memory; give more with --memory")));
    }
    Ok(loaded)
}

/// Size of the RAM region at address 0, in bytes.
fn low_ram(memory: &GuestMemoryMmap) -> u64 {
    memory.find_region(GuestAddress(0)).map_or(0, GuestMemoryRegion::len)
}

/// Loads the initial RAM disk at the highest address that the kernel accepts, and records it in the setup header.
///
/// # Errors
/// [`Error::Input`] if the disk does not fit above the kernel or cannot be read.
pub fn load_initrd(memory: &GuestMemoryMmap, initrd: &mut Initrd, entry: &mut Entry) -> Result<()> {
    let most =
        if entry.header.initrd_addr_max == 0 { INITRD_END_DEFAULT } else { entry.header.initrd_addr_max };
    let end = low_ram(memory).min(u64::from(most).saturating_add(1));
    let start = end.checked_sub(initrd.size).map(|start| start & !0xfff);
    let start = start.filter(|start| *start >= entry.kernel_end).ok_or_else(|| {
        let problem =
            format!("{} MiB do not fit beside the kernel; give more --memory", initrd.size / layout::MIB);
        Error::input(&initrd.name, problem)
    })?;
    // `initrd_addr_max` is 32 bits wide, so both fit.
    let size = u32::try_from(initrd.size).map_err(|error| Error::input(&initrd.name, error))?;
    entry.header.ramdisk_image = u32::try_from(start).map_err(|error| Error::input(&initrd.name, error))?;
    entry.header.ramdisk_size = size;
    initrd.file.rewind().map_err(|error| Error::input(&initrd.name, error))?;
    memory
        .read_exact_volatile_from(GuestAddress(start), &mut initrd.file, size as usize)
        .map_err(|error| Error::input(&initrd.name, error))
}

#[cfg(test)]
mod tests {
    use super::super::image::tests::bzimage;
    use super::*;

    fn ram(size: u64) -> GuestMemoryMmap {
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), usize::try_from(size).unwrap())]).unwrap()
    }

    fn image(bytes: Vec<u8>) -> Image {
        let kind = ImageKind::of(&bytes).unwrap();
        Image::new("--kernel test".into(), bytes, kind)
    }

    /// An ELF kernel of one segment: `bytes` at 16 MiB, `zeros` bytes of zeroed data after it.
    fn elf(bytes: &[u8], zeros: u64) -> Vec<u8> {
        let (address, length) = (16 << 20u64, bytes.len() as u64);
        let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
        elf.resize(16, 0);
        elf.extend([2, 0, 62, 0, 1, 0, 0, 0]);
        for word in [address, 64, 0u64] {
            elf.extend(word.to_le_bytes());
        }
        elf.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
        elf.extend([1, 0, 0, 0, 7, 0, 0, 0]);
        for word in [120, address, address, length, length + zeros, 4096] {
            elf.extend(word.to_le_bytes());
        }
        elf.extend(bytes);
        elf
    }

    #[test]
    fn a_packed_kernel_is_entered_where_it_was_linked_for() {
        let memory = ram(32 << 20);
        let elf = elf(b"code", 4096);
        let packed = zstd::stream::encode_all(&elf[..], 1).unwrap();
        let size = u32::try_from(elf.len()).unwrap().to_le_bytes();
        let image = image(bzimage(&[&packed[..], &size].concat()));
        let entry = load_kernel(&memory, &image, Unpack::Host).unwrap();
        assert_eq!((entry.start.0, entry.kernel_end), (16 << 20, (16 << 20) + 4 + 4096));
        assert_eq!(memory.read_obj::<[u8; 4]>(GuestAddress(16 << 20)).unwrap(), *b"code");
        let entry = load_kernel(&memory, &image, Unpack::Guest).unwrap();
        assert_eq!(entry.start.0, 0x10_0200);
    }

    #[test]
    fn a_kernel_larger_than_memory_is_refused_with_its_need() {
        let image = image(elf(b"code", 64 << 20));
        let message = load_kernel(&ram(32 << 20), &image, Unpack::Host).unwrap_err().to_string();
        assert!(message.contains("needs 81 MiB"), "{message}");
        assert!(load_kernel(&ram(8 << 20), &image, Unpack::Host).is_err());
    }

    #[test]
    fn the_initrd_goes_to_the_top_and_never_into_the_kernel() {
        let memory = ram(32 << 20);
        let mut entry = load_kernel(&memory, &image(elf(b"code", 0)), Unpack::Host).unwrap();
        let path = std::env::temp_dir().join(format!("vmm-initrd-{}", std::process::id()));
        std::fs::write(&path, [0xab; 5000]).unwrap();
        let file = std::fs::File::open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let mut initrd = Initrd { file, size: 5000, name: "--initrd test".into() };
        load_initrd(&memory, &mut initrd, &mut entry).unwrap();
        let (start, size) = (entry.header.ramdisk_image, entry.header.ramdisk_size);
        assert_eq!((start, size), ((32 << 20) - 8192, 5000));
        assert_eq!(memory.read_obj::<u8>(GuestAddress(u64::from(start) + 4999)).unwrap(), 0xab);
        initrd.size = 20 << 20;
        assert!(
            load_initrd(&memory, &mut initrd, &mut entry).unwrap_err().to_string().contains("do not fit")
        );
    }
}
