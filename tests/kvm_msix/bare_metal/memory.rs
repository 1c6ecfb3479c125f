//! The guest's memory at start: the program, and the tables that its processors need: GDT, IDT, and page tables that map the first 4 GiB
//! one to one.

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::code;
use super::layout::{CODE_SELECTOR, GDT, IDT, MEMORY_BYTES, NOTES, PAGE_DIRECTORIES, PDPT, PML4, PROGRAM};

const PRESENT_WRITABLE: u64 = 0b11;
const LARGE_PAGE: u64 = 1 << 7;
const INTERRUPT_GATE: u64 = 0x8e00;
const CODE_SEGMENT: u64 = 0x00af_9b00_0000_ffff;
const DATA_SEGMENT: u64 = 0x00cf_9300_0000_ffff;

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
