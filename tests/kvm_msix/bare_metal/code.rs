//! The guest's program: position-independent code that lies in this test's own data, to be copied into guest
//! memory. No tool but rustc is needed to build it.
//!
//! It knows nothing of MSI-X. It performs the accesses that it finds in its mailbox, sleeps with interrupts on
//! where there are none, and counts what comes. Registers that never change: r12 the control window, r13 the
//! local APIC, r14 the notes of all devices, r15 this CPU's area.
//!
//! Owns one borrow of the bytes between two labels.

use std::arch::global_asm;

use super::layout::{AREA_COMMAND, AREA_DONE, AREA_OPERATIONS, AREA_SEEN, CONTROL_FAULT};

global_asm!(
    ".pushsection .rodata.bare_metal, \"a\"",
    // Other units of this crate refer to these, and nobody else.
    ".globl bare_metal_start, bare_metal_entry, bare_metal_end",
    ".hidden bare_metal_start, bare_metal_entry, bare_metal_end",
    ".balign 16",
    "bare_metal_start:",
    // One stub of 16 bytes for each interrupt vector.
    "bare_metal_stubs:",
    ".set bare_metal_vector, 0",
    ".rept 256",
    ".balign 16, 0x90",
    ".byte 0x68",
    ".long bare_metal_vector",
    "jmp bare_metal_interrupt",
    ".set bare_metal_vector, bare_metal_vector + 1",
    ".endr",
    "bare_metal_interrupt:",
    "push rax",
    "push rcx",
    "mov rcx, [rsp + 16]",
    "inc qword ptr [r15 + rcx * 8]",
    // What the device had noted before it raised the interrupt is seen by its handler.
    "mov rax, [r14 + rcx * 8]",
    "mov [r15 + rcx * 8 + {seen}], rax",
    "cmp rcx, 16",
    "jae 2f",
    // An NMI is counted and has no end; any other exception ends the guest. From 16 on they are not known here, and
    // the local APIC takes those vectors for interrupts.
    "cmp rcx, 2",
    "je 3f",
    "mov rax, rsp",
    "mov [r12 + {fault}], rax",
    "2:",
    "mov dword ptr [r13 + 0xb0], 0",
    "3:",
    "pop rcx",
    "pop rax",
    "add rsp, 8",
    "iretq",
    // Where each CPU starts: its local APIC on, all priorities accepted, and no interrupt of the old PIC.
    "bare_metal_entry:",
    "mov dword ptr [r13 + 0xf0], 0x1ff",
    "mov dword ptr [r13 + 0x80], 0",
    "mov dword ptr [r13 + 0x350], 0x10000",
    "bare_metal_idle:",
    "cli",
    "mov rax, [r15 + {command}]",
    "cmp rax, [r15 + {done}]",
    "jne 4f",
    // Interrupts are taken from the instruction after `sti` on: none slips in before `hlt`.
    "sti",
    "hlt",
    "jmp bare_metal_idle",
    "4:",
    "mov [r15 + {done}], rax",
    "sti",
    "lea rbx, [r15 + {operations}]",
    // An operation: what to do, an address, and the value to write or that was read.
    "bare_metal_next:",
    "mov rcx, [rbx]",
    "mov rdx, [rbx + 8]",
    "mov rax, [rbx + 16]",
    "cmp rcx, 0x04",
    "je 24f",
    "cmp rcx, 0x14",
    "je 34f",
    "cmp rcx, 0x01",
    "je 21f",
    "cmp rcx, 0x02",
    "je 22f",
    "cmp rcx, 0x08",
    "je 28f",
    "cmp rcx, 0x11",
    "je 31f",
    "cmp rcx, 0x12",
    "je 32f",
    "cmp rcx, 0x18",
    "je 38f",
    // The end of the list: tell the host.
    "mov dword ptr [r12], 0",
    "jmp bare_metal_idle",
    "21: movzx eax, byte ptr [rdx]",
    "jmp 9f",
    "22: movzx eax, word ptr [rdx]",
    "jmp 9f",
    "24: mov eax, [rdx]",
    "jmp 9f",
    "28: mov rax, [rdx]",
    "jmp 9f",
    "31: mov [rdx], al",
    "jmp 9f",
    "32: mov [rdx], ax",
    "jmp 9f",
    "34: mov [rdx], eax",
    "jmp 9f",
    "38: mov [rdx], rax",
    "9: mov [rbx + 16], rax",
    "add rbx, 24",
    "jmp bare_metal_next",
    "bare_metal_end:",
    ".popsection",
    seen = const AREA_SEEN,
    command = const AREA_COMMAND,
    done = const AREA_DONE,
    operations = const AREA_OPERATIONS,
    fault = const CONTROL_FAULT,
);

unsafe extern "C" {
    safe static bare_metal_start: u8;
    safe static bare_metal_entry: u8;
    safe static bare_metal_end: u8;
}

/// The bytes of the program; it begins with the stubs of the interrupt vectors.
pub(super) fn program() -> &'static [u8] {
    let (start, len) = (&raw const bare_metal_start, offset(&raw const bare_metal_end));
    // SAFETY: the assembler has laid out the bytes from one label to the other in one read-only section.
    unsafe { std::slice::from_raw_parts(start, len) }
}

/// Where in the program a CPU starts.
pub(super) fn entry() -> u64 {
    offset(&raw const bare_metal_entry) as u64
}

/// Bytes of one interrupt vector's stub.
pub(super) const STUB_BYTES: u64 = 16;

fn offset(label: *const u8) -> usize {
    label.addr() - (&raw const bare_metal_start).addr()
}
