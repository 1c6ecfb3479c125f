//! The addresses of everything in the guest's memory.

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
/// The second level of the page tables.
pub(super) const PDPT: u64 = 0x4000;
/// The third level, four pages.
pub(super) const PAGE_DIRECTORIES: u64 = 0x5000;
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

/// A CPU's area.
pub(super) fn area(cpu: u8) -> u64 {
    AREAS + u64::from(cpu) * AREA_BYTES
}
