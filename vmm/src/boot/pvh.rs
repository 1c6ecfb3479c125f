//! PVH's start info, version 1 (Xen's docs/misc/pvh.pandoc, xen/include/public/arch-x86/hvm/start_info.h).
//!
//! The initial RAM disk is the first and only module. The lists of modules and of memory follow the start info in its page.

use std::ops::Range;

use linux_loader::loader::elf::start_info::{
    XEN_HVM_START_MAGIC_VALUE, hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::memory_map::memory_map;
use crate::error::{Context, Result};
use crate::layout;

const VERSION: u32 = 1;
const MODULES: u64 = layout::PVH_START_INFO + 0x40;
const MEMORY_MAP: u64 = layout::PVH_START_INFO + 0x80;

/// Writes the start info of a kernel whose command line is in memory.
///
/// # Errors
/// [`Error::Host`](crate::error::Error::Host) if guest memory cannot be written.
pub fn write(memory: &GuestMemoryMmap, initrd: Option<Range<u32>>, rsdp: GuestAddress) -> Result<()> {
    let context = "writing the PVH start info";
    let map: Vec<hvm_memmap_table_entry> = memory_map(memory)
        .into_iter()
        .map(|range| hvm_memmap_table_entry {
            addr: range.start,
            size: range.size,
            type_: range.kind as u32,
            reserved: 0,
        })
        .collect();
    for (address, entry) in (MEMORY_MAP..).step_by(size_of::<hvm_memmap_table_entry>()).zip(&map) {
        memory.write_obj(*entry, GuestAddress(address)).context(context)?;
    }
    if let Some(initrd) = &initrd {
        let module = hvm_modlist_entry {
            paddr: initrd.start.into(),
            size: initrd.end.saturating_sub(initrd.start).into(),
            ..Default::default()
        };
        memory.write_obj(module, GuestAddress(MODULES)).context(context)?;
    }
    let start_info = hvm_start_info {
        magic: XEN_HVM_START_MAGIC_VALUE,
        version: VERSION,
        nr_modules: initrd.is_some().into(),
        modlist_paddr: if initrd.is_some() { MODULES } else { 0 },
        cmdline_paddr: layout::COMMAND_LINE,
        rsdp_paddr: rsdp.0,
        memmap_paddr: MEMORY_MAP,
        memmap_entries: u32::try_from(map.len()).context(context)?,
        ..Default::default()
    };
    memory.write_obj(start_info, GuestAddress(layout::PVH_START_INFO)).context(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_info_has_the_module_the_line_the_map_and_the_tables() {
        for initrd in [None, Some(0x3f_0000..0x3f_0005)] {
            let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 4 << 20)]).unwrap();
            write(&memory, initrd.clone(), GuestAddress(0xe_0000)).unwrap();
            let info: hvm_start_info = memory.read_obj(GuestAddress(0x6000)).unwrap();
            assert_eq!((info.magic, info.version, info.flags), (0x336e_c578, 1, 0));
            assert_eq!((info.cmdline_paddr, info.rsdp_paddr), (layout::COMMAND_LINE, 0xe_0000));
            assert_eq!(info.nr_modules, u32::from(initrd.is_some()));
            if initrd.is_some() {
                let module: hvm_modlist_entry = memory.read_obj(GuestAddress(info.modlist_paddr)).unwrap();
                assert_eq!((module.paddr, module.size, module.cmdline_paddr), (0x3f_0000, 5, 0));
            }
            let entry = |index: u64| -> hvm_memmap_table_entry {
                memory.read_obj(GuestAddress(info.memmap_paddr + index * 24)).unwrap()
            };
            let map: Vec<_> = (0..info.memmap_entries.into())
                .map(|index| (entry(index).addr, entry(index).size, entry(index).type_))
                .collect();
            let expected = [
                (0, 0x9_fc00, 1),
                (0xe_0000, 0x1_0000, 3),
                (0xf_0000, 0x1_0000, 2),
                (1 << 20, 3 << 20, 1),
                (0xe000_0000, 0x10_0000, 2),
            ];
            assert_eq!(map, expected);
            assert!(info.memmap_paddr + 24 * 128 < layout::BOOT_PARAMS);
        }
    }
}
