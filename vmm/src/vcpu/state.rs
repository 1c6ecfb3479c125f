//! Initial vCPU registers. The boot protocol's 64-bit entry requires 64-bit mode with an identity map of the first 4 GiB. PVH requires
//! 32-bit protected mode without paging, and flat segments. MSRs and local APIC are as firmware leaves them.

use kvm_bindings::{Msrs, kvm_lapic_state, kvm_msr_entry, kvm_regs, kvm_segment};
use kvm_ioctls::VcpuFd;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::boot::EntryPoint;
use crate::layout::{BOOT_GDT, BOOT_PAGE_TABLES, BOOT_PARAMS, BOOT_STACK, PVH_START_INFO};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Selectors of the boot protocol, `__BOOT_CS` and `__BOOT_DS`, and the task state's selector.
const CODE_SELECTOR: u16 = 0x10;
const DATA_SELECTOR: u16 = 0x18;
const TASK_SELECTOR: u16 = 0x20;

/// Descriptors in selector order (Intel SDM 3A 3.4.5, 7.2.3): flat code of this width, flat data, task state.
const fn gdt(code: u64) -> [u64; 5] {
    [0, 0, code, 0x00cf_9300_0000_ffff, 0x008f_8b00_0000_ffff]
}
const CODE_64: u64 = 0x00af_9b00_0000_ffff;
const CODE_32: u64 = 0x00cf_9b00_0000_ffff;
/// Limit of a 32-bit task state segment (PVH).
const TASK_LIMIT: u32 = 0x67;

const PAGE_PRESENT_WRITABLE: u64 = 0b11;
const PAGE_LARGE: u64 = 1 << 7;
const PAGE: u64 = 4096;
const LARGE_PAGE: u64 = 2 << 20;
/// Number of mapped GiB. Each needs one page directory.
const MAPPED_GIB: u64 = 4;
const ENTRIES: u64 = 512;

const CR0_PE: u64 = 1 << 0;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const RFLAGS_RESERVED: u64 = 1 << 1;

const MSR_IA32_MISC_ENABLE: u32 = 0x1a0;
const MISC_ENABLE_FAST_STRING: u64 = 1 << 0;
const MSR_MTRR_DEF_TYPE: u32 = 0x2ff;
/// MTRRs enabled, default type write-back. Linux then leaves the MTRRs alone.
const MTRR_ON_WRITE_BACK: u64 = 1 << 11 | 6;

/// Local APIC registers (Intel SDM 3A 12.5.1) and the delivery modes of the LINT pins.
const LVT_LINT0: usize = 0x350;
const LVT_LINT1: usize = 0x360;
const DELIVERY_MODE: u32 = 0b111 << 8;
const DELIVER_NMI: u32 = 0b100 << 8;
const DELIVER_EXTINT: u32 = 0b111 << 8;

/// Writes the GDT of the first vCPU, and its page tables if it starts with paging.
pub(super) fn write_boot_tables(
    memory: &GuestMemoryMmap,
    start: EntryPoint,
) -> Result<(), vm_memory::GuestMemoryError> {
    let write = |table: u64, index: u64, entry: u64| {
        memory.write_obj(entry, GuestAddress(table.saturating_add(index.saturating_mul(8))))
    };
    let code = match start {
        EntryPoint::Linux(_) => CODE_64,
        EntryPoint::Pvh(_) => CODE_32,
    };
    for (index, descriptor) in (0..).zip(gdt(code)) {
        write(BOOT_GDT, index, descriptor)?;
    }
    if let EntryPoint::Pvh(_) = start {
        return Ok(());
    }
    let pointers = BOOT_PAGE_TABLES + PAGE;
    write(BOOT_PAGE_TABLES, 0, pointers | PAGE_PRESENT_WRITABLE)?;
    for gib in 0..MAPPED_GIB {
        write(pointers, gib, (pointers + PAGE * (gib + 1)) | PAGE_PRESENT_WRITABLE)?;
    }
    // The page directories are contiguous, so one index covers them.
    for index in 0..MAPPED_GIB * ENTRIES {
        write(pointers + PAGE, index, (index * LARGE_PAGE) | PAGE_LARGE | PAGE_PRESENT_WRITABLE)?;
    }
    Ok(())
}

/// Sets the registers of the first vCPU to enter the kernel.
pub(super) fn set_registers(vcpu: &VcpuFd, start: EntryPoint) -> Result<(), Error> {
    let mut sregs = vcpu.get_sregs()?;
    let data = segment(DATA_SELECTOR, 0x3, SegmentMode::Flat32);
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.tr = segment(TASK_SELECTOR, 0xb, SegmentMode::System);
    sregs.gdt.base = BOOT_GDT;
    sregs.gdt.limit = (size_of_val(&gdt(0)) - 1) as u16;
    sregs.idt.base = 0;
    sregs.idt.limit = 0;
    let mut regs = kvm_regs { rip: start.address().0, rflags: RFLAGS_RESERVED, ..Default::default() };
    match start {
        EntryPoint::Linux(_) => {
            sregs.cs = segment(CODE_SELECTOR, 0xb, SegmentMode::Code64);
            sregs.cr0 = CR0_PE | CR0_ET | CR0_PG;
            sregs.cr3 = BOOT_PAGE_TABLES;
            sregs.cr4 = CR4_PAE;
            sregs.efer = EFER_LME | EFER_LMA;
            (regs.rsi, regs.rsp, regs.rbp) = (BOOT_PARAMS, BOOT_STACK, BOOT_STACK);
        }
        EntryPoint::Pvh(_) => {
            sregs.cs = segment(CODE_SELECTOR, 0xb, SegmentMode::Flat32);
            (sregs.tr.limit, sregs.tr.g) = (TASK_LIMIT, 0);
            sregs.cr0 = CR0_PE | CR0_ET;
            (sregs.cr3, sregs.cr4, sregs.efer) = (0, 0, 0);
            regs.rbx = PVH_START_INFO;
        }
    }
    vcpu.set_sregs(&sregs)?;
    Ok(vcpu.set_regs(&regs)?)
}

/// The use of a segment.
#[derive(Clone, Copy, PartialEq, Eq)]
enum SegmentMode {
    Code64,
    /// Data, or 32-bit code.
    Flat32,
    System,
}

/// A flat segment.
fn segment(selector: u16, type_: u8, mode: SegmentMode) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        type_,
        present: 1,
        dpl: 0,
        db: (mode == SegmentMode::Flat32).into(),
        s: (mode != SegmentMode::System).into(),
        l: (mode == SegmentMode::Code64).into(),
        g: 1,
        ..Default::default()
    }
}

/// Sets the MSRs as firmware leaves them.
pub(super) fn set_msrs(vcpu: &VcpuFd) -> Result<(), Error> {
    let entry = |index, data| kvm_msr_entry { index, data, ..Default::default() };
    let entries =
        [entry(MSR_IA32_MISC_ENABLE, MISC_ENABLE_FAST_STRING), entry(MSR_MTRR_DEF_TYPE, MTRR_ON_WRITE_BACK)];
    let msrs = Msrs::from_entries(&entries).map_err(|error| format!("{error:?}"))?;
    let set = vcpu.set_msrs(&msrs)?;
    match entries.get(set) {
        None => Ok(()),
        Some(refused) => Err(format!("KVM refuses MSR {:#x}", refused.index).into()),
    }
}

/// Sets the LINT pins as firmware does: LINT0 is ExtINT, LINT1 is NMI.
pub(super) fn set_lapic(vcpu: &VcpuFd) -> Result<(), Error> {
    let mut lapic = vcpu.get_lapic()?;
    set_delivery(&mut lapic, LVT_LINT0, DELIVER_EXTINT);
    set_delivery(&mut lapic, LVT_LINT1, DELIVER_NMI);
    Ok(vcpu.set_lapic(&lapic)?)
}

fn set_delivery(lapic: &mut kvm_lapic_state, register: usize, delivery: u32) {
    for (byte, at) in (0..4u32).zip(register..) {
        let shift = byte * 8;
        if let Some(register) = lapic.regs.get_mut(at) {
            let kept = *register as u8 & !((DELIVERY_MODE >> shift) as u8);
            *register = (kept | (delivery >> shift) as u8) as _;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_tables_map_four_gib_one_to_one() {
        let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        write_boot_tables(&memory, EntryPoint::Linux(GuestAddress(0))).unwrap();
        let read = |table: u64, index: u64| -> u64 {
            memory.read_obj(GuestAddress((table & !0xfff) + index * 8)).unwrap()
        };
        for address in [0, 0x1000_0000, 0x8000_0000u64, 0xffff_ffff] {
            let pointers = read(BOOT_PAGE_TABLES, address >> 39 & 511);
            let directory = read(pointers, address >> 30 & 511);
            let page = read(directory, address >> 21 & 511);
            assert_eq!((pointers & 3, directory & 3, page & 0x83), (3, 3, 0x83));
            assert_eq!(page & !0x1f_ffff, address & !0x1f_ffff);
        }
    }

    #[test]
    fn only_the_delivery_mode_of_a_pin_changes() {
        let mut lapic = kvm_lapic_state::default();
        for register in &mut lapic.regs {
            *register = -1;
        }
        set_delivery(&mut lapic, LVT_LINT1, DELIVER_NMI);
        let value: Vec<u8> = lapic.regs[LVT_LINT1..LVT_LINT1 + 4].iter().map(|byte| *byte as u8).collect();
        assert_eq!(value, [0xff, 0xfc, 0xff, 0xff]);
    }
}
