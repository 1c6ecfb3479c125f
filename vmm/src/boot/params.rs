//! Linux' boot parameters: command line, memory map, and the addresses of initial RAM disk and RSDP.

use linux_loader::configurator::linux::LinuxBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use super::loader::Entry;
use crate::error::{Context, Error, Result};
use crate::layout;

/// `boot_flag` and `header` for a kernel without a setup header.
const BOOT_FLAG: u16 = 0xaa55;
const HEADER_MAGIC: u32 = 0x5372_6448;
/// `type_of_loader` of a boot loader without an assigned ID.
const LOADER_UNREGISTERED: u8 = 0xff;
/// `loadflags`: the kernel is loaded high.
const LOADED_HIGH: u8 = 1 << 0;

/// Address range types (ACPI 15).
#[derive(Debug, Clone, Copy)]
enum MemoryKind {
    Ram = 1,
    Reserved = 2,
    Acpi = 3,
}

/// Writes the command line and the zero page.
///
/// # Errors
/// [`Error::Host`] if guest memory cannot be written.
pub fn write(memory: &GuestMemoryMmap, entry: &Entry, cmdline: &str, rsdp: GuestAddress) -> Result<()> {
    let line = [cmdline.as_bytes(), &[0]].concat();
    memory.write_slice(&line, GuestAddress(layout::COMMAND_LINE)).context("writing the command line")?;

    let mut params = boot_params { hdr: entry.header, acpi_rsdp_addr: rsdp.0, ..Default::default() };
    params.hdr.boot_flag = BOOT_FLAG;
    params.hdr.header = HEADER_MAGIC;
    params.hdr.type_of_loader = LOADER_UNREGISTERED;
    params.hdr.loadflags |= LOADED_HIGH;
    params.hdr.cmd_line_ptr = u32::try_from(layout::COMMAND_LINE).context("placing the command line")?;
    params.hdr.cmdline_size = u32::try_from(line.len()).context("placing the command line")?;
    for range in memory_map(memory) {
        let at = usize::from(params.e820_entries);
        let slot =
            params.e820_table.get_mut(at).ok_or_else(|| Error::host("writing the memory map", "full"))?;
        *slot = range;
        params.e820_entries = params.e820_entries.saturating_add(1);
    }
    let params = BootParams::new(&params, GuestAddress(layout::BOOT_PARAMS));
    LinuxBootConfigurator::write_bootparams(&params, memory).context("writing the boot parameters")
}

/// The memory map: RAM without the legacy area below 1 MiB, the ACPI tables, and ECAM. Linux uses ECAM only if it is
/// reserved.
fn memory_map(memory: &GuestMemoryMmap) -> Vec<boot_e820_entry> {
    let entry = |start: u64, end: u64, kind: MemoryKind| boot_e820_entry {
        addr: start,
        size: end.saturating_sub(start),
        r#type: kind as u32,
    };
    let mut map = vec![
        entry(0, layout::CONVENTIONAL_END, MemoryKind::Ram),
        entry(layout::ACPI_TABLES.start, layout::ACPI_TABLES.end, MemoryKind::Acpi),
        entry(layout::FIRMWARE.start, layout::FIRMWARE.end, MemoryKind::Reserved),
    ];
    map.extend(memory.iter().map(|region| {
        let start = region.start_addr().0;
        entry(start.max(layout::HIGH_RAM), start.saturating_add(region.len()), MemoryKind::Ram)
    }));
    map.push(entry(layout::PCI_ECAM.start, layout::PCI_ECAM.end, MemoryKind::Reserved));
    map.sort_by_key(|entry| entry.addr);
    map
}

#[cfg(test)]
mod tests {
    use linux_loader::loader::bootparam::setup_header;

    use super::*;

    #[test]
    fn the_zero_page_has_the_line_the_map_and_the_tables() {
        let gib = |n: u64| usize::try_from(n * layout::GIB).unwrap();
        let ranges = [(GuestAddress(0), gib(1)), (GuestAddress(4 * layout::GIB), gib(1))];
        let memory = GuestMemoryMmap::from_ranges(&ranges).unwrap();
        let header = setup_header { ramdisk_size: 77, ..Default::default() };
        let entry = Entry { start: GuestAddress(0), header, kernel_end: 0 };
        write(&memory, &entry, "console=ttyS0", GuestAddress(0xe_0000)).unwrap();

        let params: boot_params = memory.read_obj(GuestAddress(layout::BOOT_PARAMS)).unwrap();
        let line: [u8; 14] = memory.read_obj(GuestAddress(u64::from(params.hdr.cmd_line_ptr))).unwrap();
        assert_eq!(&line, b"console=ttyS0\0");
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
