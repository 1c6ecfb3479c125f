//! Linux' boot parameters, the "zero page": memory map, and the addresses of command line, initial RAM disk and RSDP.

use linux_loader::configurator::linux::LinuxBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params};
use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::loader::Entry;
use super::memory_map::memory_map;
use crate::error::{Context, Error, Result};
use crate::layout;

/// `boot_flag` and `header` for a kernel without a setup header.
const BOOT_FLAG: u16 = 0xaa55;
const HEADER_MAGIC: u32 = 0x5372_6448;
/// `type_of_loader` of a boot loader without an assigned ID.
const LOADER_UNREGISTERED: u8 = 0xff;
/// `loadflags`: the kernel is loaded high.
const LOADED_HIGH: u8 = 1 << 0;

/// Writes the zero page of a kernel whose command line has this size, with its final zero.
///
/// # Errors
/// [`Error::Host`] if guest memory cannot be written.
pub fn write(memory: &GuestMemoryMmap, entry: &Entry, cmdline_size: u32, rsdp: GuestAddress) -> Result<()> {
    let mut params = boot_params { hdr: entry.header, acpi_rsdp_addr: rsdp.0, ..Default::default() };
    params.hdr.boot_flag = BOOT_FLAG;
    params.hdr.header = HEADER_MAGIC;
    params.hdr.type_of_loader = LOADER_UNREGISTERED;
    params.hdr.loadflags |= LOADED_HIGH;
    params.hdr.cmd_line_ptr = u32::try_from(layout::COMMAND_LINE).context("placing the command line")?;
    params.hdr.cmdline_size = cmdline_size;
    if let Some(initrd) = &entry.initrd {
        params.hdr.ramdisk_image = initrd.start;
        params.hdr.ramdisk_size = initrd.end.saturating_sub(initrd.start);
    }
    for range in memory_map(memory) {
        let at = usize::from(params.e820_entries);
        let slot =
            params.e820_table.get_mut(at).ok_or_else(|| Error::host("writing the memory map", "full"))?;
        *slot = boot_e820_entry { addr: range.start, size: range.size, r#type: range.kind as u32 };
        params.e820_entries = params.e820_entries.saturating_add(1);
    }
    let params = BootParams::new(&params, GuestAddress(layout::BOOT_PARAMS));
    LinuxBootConfigurator::write_bootparams(&params, memory).context("writing the boot parameters")
}

#[cfg(test)]
mod tests {
    use linux_loader::loader::bootparam::setup_header;
    use vm_memory::Bytes;

    use super::super::elf::EntryPoint;
    use super::*;

    #[test]
    fn the_zero_page_has_the_line_the_initrd_the_map_and_the_tables() {
        let gib = |n: u64| usize::try_from(n * layout::GIB).unwrap();
        let ranges = [(GuestAddress(0), gib(1)), (GuestAddress(4 * layout::GIB), gib(1))];
        let memory = GuestMemoryMmap::from_ranges(&ranges).unwrap();
        let entry = Entry {
            start: EntryPoint::Linux(GuestAddress(0)),
            header: setup_header::default(),
            kernel_end: 0,
            initrd: Some(0x2000..0x2000 + 77),
        };
        write(&memory, &entry, 14, GuestAddress(0xe_0000)).unwrap();

        let params: boot_params = memory.read_obj(GuestAddress(layout::BOOT_PARAMS)).unwrap();
        assert_eq!(({ params.hdr.cmd_line_ptr }, { params.hdr.cmdline_size }), (0x2_0000, 14));
        assert_eq!({ params.hdr.ramdisk_image }, 0x2000);
        let (rsdp, ramdisk, entries) = (params.acpi_rsdp_addr, params.hdr.ramdisk_size, params.e820_entries);
        assert_eq!((rsdp, ramdisk, entries), (0xe_0000, 77, 6));
        let map: Vec<(u64, u64, u32)> =
            params.e820_table[..6].iter().map(|entry| (entry.addr, entry.size, entry.r#type)).collect();
        let expected = [
            (0, 0x9_fc00, 1),
            (0xe_0000, 0x1_0000, 3),
            (0xf_0000, 0x1_0000, 2),
            (layout::MIB, layout::GIB - layout::MIB, 1),
            (0xe000_0000, 0x10_0000, 2),
            (4 * layout::GIB, layout::GIB, 1),
        ];
        assert_eq!(map, expected);
    }
}
