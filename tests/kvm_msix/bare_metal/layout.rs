//! Where everything is in the guest's memory, and the tables that its processors need: GDT, IDT, and page tables
//! that map the first 4 GiB one to one.

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::code;

/// Bytes of guest memory, from address 0.
pub(super) const MEMORY_BYTES: usize = 16 << 20;
/// The descriptor table.
pub(super) const GDT: u64 = 0x1000;
/// Bytes of the descriptor table: null, code, data.
pub(super) const GDT_BYTES: u16 = 24;
/// The interrupt descriptor table.
pub(super) const IDT: u64 = 0x2000;
/// The root of the page tables.
pub(super) const PML4: u64 = 0x3000;
const PDPT: u64 = 0x4000;
const PAGE_DIRECTORIES: u64 = 0x5000;
/// The program.
pub(super) const PROGRAM: u64 = 0x1_0000;
/// One QWORD for each interrupt vector: what its device has noted before it raised an interrupt.
pub(super) const NOTES: u64 = 0x2_0000;
/// IMS slots in memory, as many as there is room for before the CPUs' areas: 16 bytes each.
pub(super) const SLOTS: u64 = 0x4_0000;
/// Code segment.
pub(super) const CODE_SELECTOR: u16 = 8;
/// Data segment.
pub(super) const DATA_SELECTOR: u16 = 16;

/// The first CPU's area.
const AREAS: u64 = 0x10_0000;
/// Bytes of a CPU's area. It begins with one counter of interrupts (QWORD) for each vector, its stack is at the end.
pub(super) const AREA_BYTES: u64 = 0x2_0000;
/// One QWORD for each vector: the note that its last handler saw.
pub(super) const AREA_SEEN: u64 = 0x800;
/// The number of the last command given.
pub(super) const AREA_COMMAND: u64 = 0x1000;
/// The number of the last command begun.
pub(super) const AREA_DONE: u64 = 0x1008;
/// The command's operations, 24 bytes each.
pub(super) const AREA_OPERATIONS: u64 = 0x2000;
/// How many operations a command can have, with one at the end that is none.
pub(super) const MAX_OPERATIONS: usize = 4000;
/// The most CPUs.
pub(super) const MAX_CPUS: u8 = ((MEMORY_BYTES as u64 - AREAS) / AREA_BYTES) as u8;

/// Where a CPU tells the host that it has done its command. The window is no memory: each write is an exit.
pub(super) const CONTROL: u64 = 0xd000_0000;
/// Offset into the window: an exception, with the address of its stack frame.
pub(super) const CONTROL_FAULT: u64 = 8;
/// Where the local APICs are.
pub(super) const LOCAL_APIC: u64 = 0xfee0_0000;

const PRESENT_WRITABLE: u64 = 0b11;
const LARGE_PAGE: u64 = 1 << 7;
const INTERRUPT_GATE: u64 = 0x8e00;
const CODE_SEGMENT: u64 = 0x00af_9b00_0000_ffff;
const DATA_SEGMENT: u64 = 0x00cf_9300_0000_ffff;

/// A CPU's area.
pub(super) fn area(cpu: u8) -> u64 {
    AREAS + u64::from(cpu) * AREA_BYTES
}

/// Memory as the guest finds it at start.
pub(super) fn image() -> GuestMemoryMmap {
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY_BYTES)]).unwrap();
    let put = |address: u64, value: u64| memory.write_obj(value, GuestAddress(address)).unwrap();

    put(GDT + 8, CODE_SEGMENT);
    put(GDT + 16, DATA_SEGMENT);
    for vector in 0..256 {
        let handler = PROGRAM + vector * code::STUB_BYTES;
        let gate = (handler & 0xffff) | u64::from(CODE_SELECTOR) << 16;
        put(IDT + vector * 16, gate | INTERRUPT_GATE << 32 | (handler >> 16 & 0xffff) << 48);
        put(IDT + vector * 16 + 8, handler >> 32);
    }
    put(PML4, PDPT | PRESENT_WRITABLE);
    for gib in 0..4 {
        put(PDPT + gib * 8, (PAGE_DIRECTORIES + gib * 0x1000) | PRESENT_WRITABLE);
    }
    for large_page in 0..4 * 512 {
        put(PAGE_DIRECTORIES + large_page * 8, large_page << 21 | LARGE_PAGE | PRESENT_WRITABLE);
    }
    memory.write_slice(code::program(), GuestAddress(PROGRAM)).unwrap();
    memory
}

/// Where what the guest never writes is no longer as [`image`] has made it: its tables and its program. The bits by
/// which a CPU marks a page-table entry as used do not count.
pub(super) fn altered(memory: &GuestMemoryMmap) -> Vec<u64> {
    const ACCESSED_DIRTY: u64 = 0b11 << 5;
    let made = image();
    let word = |memory: &GuestMemoryMmap, at| memory.read_obj::<u64>(GuestAddress(at)).unwrap();
    let differs = |at: &u64| {
        let used = if (PML4..PROGRAM).contains(at) { ACCESSED_DIRTY } else { 0 };
        (word(&made, *at) ^ word(memory, *at)) & !used != 0
    };
    (GDT..NOTES).step_by(8).filter(differs).collect()
}
