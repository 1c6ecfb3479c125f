//! Loads the kernel and the initial RAM disk into guest memory.
//!
//! [`Loading`] does so on a thread of its own, while the main thread builds the machine. Files are read straight into guest memory. A
//! compressed kernel is decompressed into a buffer first, because the segments of its ELF file do not lie in the file as in memory.
//! Until the load has ended, nothing else writes guest memory from 1 MiB on.

use std::io::{Cursor, Seek};
use std::ops::Range;
use std::thread::{Builder, JoinHandle};

use linux_loader::loader::bootparam::setup_header;
use linux_loader::loader::{BzImage, KernelLoader};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, ReadVolatile};

use super::elf::{Elf, EntryPoint};
use super::image::{Image, ImageKind};
use super::unpack::unpack;
use crate::cli::Unpack;
use crate::config::Initrd;
use crate::error::{Context, Error, Result};
use crate::layout;
use crate::memory::{Scratch, populate};

/// Offset of the 64-bit entry in a bzImage's protected-mode code.
const BZIMAGE_64_BIT_ENTRY: u64 = 0x200;
/// The highest address of an initial RAM disk if the setup header sets no limit.
const INITRD_END_DEFAULT: u32 = 0x7fff_ffff;

/// A loaded kernel.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The entry point of the boot CPU, and the protocol of its state.
    pub start: EntryPoint,
    /// The setup header for Linux' boot parameters.
    pub header: setup_header,
    /// The first address after the kernel and its zeroed data.
    pub kernel_end: u64,
    /// The initial RAM disk, if there is one.
    pub initrd: Option<Range<u32>>,
}

/// A load that goes on while the machine is built.
pub struct Loading(JoinHandle<Result<Entry>>);

impl Loading {
    /// Starts to load kernel and initial RAM disk.
    ///
    /// # Errors
    /// [`Error::Host`] if the host refuses the thread.
    pub fn start(
        memory: &GuestMemoryMmap,
        image: Image,
        unpack: Unpack,
        mut initrd: Option<Initrd>,
    ) -> Result<Self> {
        let memory = memory.clone();
        let load = move || load(&memory, &image, unpack, initrd.as_mut());
        Ok(Self(
            Builder::new()
                .name("loader".to_owned())
                .spawn(load)
                .context("starting a thread to load the kernel")?,
        ))
    }

    /// Waits for the end of the load.
    ///
    /// # Errors
    /// [`Error::Input`] if kernel and initial RAM disk do not fit, or a file is damaged or cannot be read.
    pub fn finish(self) -> Result<Entry> {
        self.0.join().map_err(|_| Error::host("loading the kernel", "its thread panicked"))?
    }
}

/// Loads kernel and initial RAM disk at the same time. With [`Unpack::Host`], the host decompresses a bzImage first if it can.
///
/// # Errors
/// [`Error::Input`] if they do not fit, or a file is damaged or cannot be read.
pub(crate) fn load(
    memory: &GuestMemoryMmap,
    image: &Image,
    unpack: Unpack,
    initrd: Option<&mut Initrd>,
) -> Result<Entry> {
    let Some(initrd) = initrd else { return load_kernel(memory, image, unpack) };
    let range = place_initrd(memory, image, initrd)?;
    let start = GuestAddress(range.start.into());
    let (entry, read) = std::thread::scope(|scope| {
        let read = scope.spawn(|| read_initrd(memory, initrd, start));
        (load_kernel(memory, image, unpack), read.join())
    });
    let mut entry = entry?;
    // The address does not depend on the kernel: whether both fit is known once the kernel is unpacked.
    if entry.kernel_end > start.0 {
        return Err(does_not_fit(initrd));
    }
    read.map_err(|_| Error::host("loading the initial RAM disk", "its thread panicked"))??;
    entry.initrd = Some(range);
    Ok(entry)
}

/// Loads the kernel.
///
/// The format decides on the protocol. A bzImage is entered by the boot protocol, also if its payload has a PVH note: its setup header
/// has what the boot protocol needs.
///
/// # Errors
/// [`Error::Input`] if the kernel does not fit or its file is damaged.
fn load_kernel(memory: &GuestMemoryMmap, image: &Image, unpack: Unpack) -> Result<Entry> {
    match image.kind() {
        ImageKind::Elf(elf) => {
            let start = elf.entry().map_err(|error| Error::input(image.name(), error))?;
            load_elf(memory, image.name(), elf, &mut image.file(), start, setup_header::default())
        }
        ImageKind::BzImage(header) => {
            let unpacked = match unpack {
                Unpack::Host => std::thread::scope(|scope| {
                    // The host faults the kernel's pages in while another thread decompresses the kernel.
                    scope.spawn(|| prefault(memory, header));
                    unpack_payload(image, low_ram(memory))
                }),
                Unpack::Guest => None,
            };
            match unpacked {
                Some(Unpacked { elf, start, mut bytes }) => {
                    load_elf(memory, image.name(), &elf, &mut bytes, start, *header)
                }
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

/// A decompressed kernel.
struct Unpacked {
    elf: Elf,
    start: EntryPoint,
    bytes: Cursor<Scratch>,
}

/// Decompresses a bzImage. Logs the reason and returns `None` if the guest has to do it.
fn unpack_payload(image: &Image, limit: u64) -> Option<Unpacked> {
    match try_unpack_payload(image, limit) {
        Ok(unpacked) => Some(unpacked),
        Err(error) => {
            tracing::warn!("{}: {error}; the guest unpacks it itself", image.name());
            None
        }
    }
}

fn try_unpack_payload(
    image: &Image,
    limit: u64,
) -> std::result::Result<Unpacked, Box<dyn std::error::Error>> {
    let payload = image.payload()?.ok_or("no payload in its header")?;
    let bytes = unpack(&payload, limit)?;
    tracing::debug!("kernel unpacked, {} KiB to {} KiB", payload.len() >> 10, bytes.as_ref().len() >> 10);
    let elf = Elf::parse(Cursor::new(&bytes))?;
    Ok(Unpacked { start: elf.linux_entry()?, elf, bytes: Cursor::new(bytes) })
}

fn load_elf<F: ReadVolatile + Seek>(
    memory: &GuestMemoryMmap,
    name: &str,
    elf: &Elf,
    file: &mut F,
    start: EntryPoint,
    header: setup_header,
) -> Result<Entry> {
    check_fit(memory, name, elf.end())?;
    elf.load(memory, file).map_err(|error| Error::input(name, error))?;
    Ok(Entry { start, header, kernel_end: elf.end(), initrd: None })
}

fn load_bzimage(memory: &GuestMemoryMmap, image: &Image) -> Result<Entry> {
    let high = Some(GuestAddress(layout::HIGH_RAM));
    let loaded = BzImage::load(memory, None, &mut image.file(), high).map_err(|error| {
        let low = low_ram(memory) / layout::MIB;
        Error::input(image.name(), format!("cannot be loaded into {low} MiB below the hole: {error}"))
    })?;
    let header = loaded.setup_header.unwrap_or_default();
    // The guest's decompressor uses `init_size` bytes from the kernel's run address.
    let unpacked_end = header.pref_address.max(loaded.kernel_load.0).saturating_add(header.init_size.into());
    let kernel_end = loaded.kernel_end.max(unpacked_end);
    check_fit(memory, image.name(), loaded.kernel_end)?;
    let start = GuestAddress(loaded.kernel_load.0.saturating_add(BZIMAGE_64_BIT_ENTRY));
    Ok(Entry { start: EntryPoint::Linux(start), header, kernel_end, initrd: None })
}

/// Checks that a kernel that ends here fits the RAM below the hole.
fn check_fit(memory: &GuestMemoryMmap, name: &str, end: u64) -> Result<()> {
    if end > low_ram(memory) {
        let needs = end.div_ceil(layout::MIB);
        return Err(Error::input(name, format!("needs {needs} MiB of memory; give more with --memory")));
    }
    Ok(())
}

/// Size of the RAM region at address 0, in bytes.
fn low_ram(memory: &GuestMemoryMmap) -> u64 {
    memory.find_region(GuestAddress(0)).map_or(0, GuestMemoryRegion::len)
}

/// The place of the initial RAM disk: the highest that the kernel accepts.
fn place_initrd(memory: &GuestMemoryMmap, image: &Image, initrd: &Initrd) -> Result<Range<u32>> {
    let most = match image.kind() {
        ImageKind::BzImage(header) if header.initrd_addr_max != 0 => header.initrd_addr_max,
        ImageKind::BzImage(_) | ImageKind::Elf(_) => INITRD_END_DEFAULT,
    };
    let end = low_ram(memory).min(u64::from(most).saturating_add(1));
    let start = end.checked_sub(initrd.size).map(|start| start & !0xfff);
    let start = start.filter(|start| *start >= layout::HIGH_RAM).ok_or_else(|| does_not_fit(initrd))?;
    // The end is at most 4 GiB, and a range of 32 bits holds the last but this one.
    let address = |address: u64| u32::try_from(address).map_err(|error| Error::input(&initrd.name, error));
    Ok(address(start)?..address(start.saturating_add(initrd.size))?)
}

fn read_initrd(memory: &GuestMemoryMmap, initrd: &mut Initrd, start: GuestAddress) -> Result<()> {
    let fail = |error: &dyn std::fmt::Display| Error::input(&initrd.name, error);
    let size = usize::try_from(initrd.size).map_err(|error| fail(&error))?;
    initrd.file.rewind().map_err(|error| fail(&error))?;
    memory.read_exact_volatile_from(start, &mut initrd.file, size).map_err(|error| fail(&error))
}

fn does_not_fit(initrd: &Initrd) -> Error {
    let problem =
        format!("{} MiB do not fit beside the kernel; give more --memory", initrd.size / layout::MIB);
    Error::input(&initrd.name, problem)
}

#[cfg(test)]
mod tests {
    use super::super::elf::tests::{Class, File, pvh_note};
    use super::super::image::tests::{bzimage, file, image};
    use super::*;

    fn ram(size: u64) -> GuestMemoryMmap {
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), usize::try_from(size).unwrap())]).unwrap()
    }

    /// An ELF kernel of one segment: `bytes` at 16 MiB, `zeros` bytes of zeroed data after it, and a PVH entry.
    fn elf(bytes: &[u8], zeros: u64) -> Vec<u8> {
        let file = File::new(Class::Bits64, 16 << 20).load(16 << 20, bytes, bytes.len() as u64 + zeros);
        file.note(&pvh_note(16 << 20)).bytes()
    }

    #[test]
    fn a_packed_kernel_is_entered_where_it_was_linked_for_by_the_boot_protocol() {
        let memory = ram(32 << 20);
        let elf = elf(b"code", 4096);
        let packed = zstd::stream::encode_all(&elf[..], 1).unwrap();
        let size = u32::try_from(elf.len()).unwrap().to_le_bytes();
        let image = image(&bzimage(&[&packed[..], &size].concat())).unwrap();
        let entry = load_kernel(&memory, &image, Unpack::Host).unwrap();
        assert_eq!(entry.start, EntryPoint::Linux(GuestAddress(16 << 20)));
        assert_eq!(entry.kernel_end, (16 << 20) + 4 + 4096);
        assert_eq!(memory.read_obj::<[u8; 4]>(GuestAddress(16 << 20)).unwrap(), *b"code");
        let entry = load_kernel(&memory, &image, Unpack::Guest).unwrap();
        assert_eq!(entry.start, EntryPoint::Linux(GuestAddress(0x10_0200)));
    }

    #[test]
    fn an_elf_kernel_with_the_note_is_entered_by_pvh() {
        let entry = load_kernel(&ram(32 << 20), &image(&elf(b"code", 0)).unwrap(), Unpack::Host).unwrap();
        assert_eq!(entry.start, EntryPoint::Pvh(GuestAddress(16 << 20)));
    }

    #[test]
    fn a_kernel_larger_than_memory_is_refused_with_its_need() {
        let image = image(&elf(b"code", 64 << 20)).unwrap();
        let message = load_kernel(&ram(32 << 20), &image, Unpack::Host).unwrap_err().to_string();
        assert!(message.contains("needs 81 MiB"), "{message}");
        assert!(load_kernel(&ram(8 << 20), &image, Unpack::Host).is_err());
    }

    #[test]
    fn the_initrd_goes_to_the_top_and_never_into_the_kernel() {
        let memory = ram(32 << 20);
        let kernel = image(&elf(b"code", 0)).unwrap();
        let mut initrd = Initrd { file: file(&[0xab; 5000]), size: 5000, name: "--initrd test".into() };
        let load = |initrd: &mut Initrd| load(&memory, &kernel, Unpack::Host, Some(initrd));
        let range = load(&mut initrd).unwrap().initrd.unwrap();
        assert_eq!(range, (32 << 20) - 8192..(32 << 20) - 8192 + 5000);
        assert_eq!(memory.read_obj::<u8>(GuestAddress(u64::from(range.end) - 1)).unwrap(), 0xab);
        for size in [16 << 20, 20 << 20, 40 << 20] {
            let mut initrd = Initrd { file: file(b""), size, name: "--initrd test".into() };
            initrd.file.set_len(size).unwrap();
            assert!(load(&mut initrd).unwrap_err().to_string().contains("do not fit"), "{size}");
        }
        let mut short = Initrd { file: file(b"x"), size: 5000, name: "--initrd test".into() };
        assert!(load(&mut short).is_err());
    }
}
