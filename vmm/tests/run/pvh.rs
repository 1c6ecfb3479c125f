//! Bare-metal kernels that are entered by PVH, as test kernels of other projects are: 32-bit and 64-bit ELF files.

use std::path::PathBuf;

use super::{Run, START};

/// A 32-bit payload. It checks the magic number of the start info at EBX, that paging is off, and the RSDP's signature. It prints the
/// command line and a checksum of the first module on COM1, and ends the VMM with the status 0x21, or 3 where a check fails.
const PAYLOAD: &[u8] = &[
    // mov edx, 0x3f8; cmp dword [ebx], 0x336ec578; jne fail
    0xba, 0xf8, 0x03, 0, 0, 0x81, 0x3b, 0x78, 0xc5, 0x6e, 0x33, 0x75, 0x5b, //
    // mov eax, cr0; and eax, 0x80000001; dec eax; jne fail
    0x0f, 0x20, 0xc0, 0x25, 0x01, 0, 0, 0x80, 0x48, 0x75, 0x50, //
    // mov eax, [ebx + 32]; cmp dword [eax], "RSD "; jne fail
    0x8b, 0x43, 0x20, 0x81, 0x38, 0x52, 0x53, 0x44, 0x20, 0x75, 0x45, //
    // mov esi, [ebx + 24]; line: lodsb; test al, al; je module; out dx, al; jmp line
    0x8b, 0x73, 0x18, 0xac, 0x84, 0xc0, 0x74, 0x03, 0xee, 0xeb, 0xf8, //
    // module: mov al, '\n'; out dx, al; xor edi, edi; cmp dword [ebx + 12], 1; jne print
    0xb0, 0x0a, 0xee, 0x31, 0xff, 0x83, 0x7b, 0x0c, 0x01, 0x75, 0x11, //
    // mov eax, [ebx + 16]; mov esi, [eax]; mov ecx, [eax + 8]
    0x8b, 0x43, 0x10, 0x8b, 0x30, 0x8b, 0x48, 0x08, //
    // sum: xor eax, eax; lodsb; rol edi, 1; add edi, eax; loop sum
    0x31, 0xc0, 0xac, 0xd1, 0xc7, 0x01, 0xc7, 0xe2, 0xf7, //
    // print: mov ecx, 8; digit: rol edi, 4; mov eax, edi; and al, 15; cmp al, 10; jb decimal; add al, 39
    0xb9, 8, 0, 0, 0, 0xc1, 0xc7, 0x04, 0x89, 0xf8, 0x24, 0x0f, 0x3c, 0x0a, 0x72, 0x02, 0x04, 0x27, //
    // decimal: add al, '0'; out dx, al; loop digit; mov eax, 0x10; jmp end
    0x04, 0x30, 0xee, 0xe2, 0xee, 0xb8, 0x10, 0, 0, 0, 0xeb, 0x05, //
    // fail: mov eax, 1; end: mov edx, 0xf4; out dx, eax; jmp $
    0xb8, 1, 0, 0, 0, 0xba, 0xf4, 0, 0, 0, 0xef, 0xeb, 0xfe,
];

/// The note XEN_ELFNOTE_PHYS32_ENTRY with the entry point [`START`].
fn note() -> Vec<u8> {
    let mut note = Vec::new();
    for word in [4, 4, 18, u32::from_le_bytes(*b"Xen\0"), u32::try_from(START).unwrap()] {
        note.extend(word.to_le_bytes());
    }
    note
}

/// An ELF file with the payload and the note.
pub(super) fn elf(bits: u8) -> Vec<u8> {
    let wide = bits == 64;
    let word =
        |value: u64| if wide { value.to_le_bytes().to_vec() } else { value.to_le_bytes()[..4].to_vec() };
    let (header, program, class, machine) = if wide { (64u8, 56u8, 2, 62) } else { (52, 32, 1, 3) };
    let mut elf = b"\x7fELF".to_vec();
    elf.extend([class, 1, 1]);
    elf.resize(16, 0);
    elf.extend([2, 0, machine, 0, 1, 0, 0, 0]);
    elf.extend([word(START), word(header.into()), word(0), vec![0; 4]].concat());
    elf.extend([header, 0, program, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
    let mut offset = u64::from(header) + 2 * u64::from(program);
    let parts = [(1u32, PAYLOAD.to_vec()), (4, note())];
    for (kind, bytes) in &parts {
        let (kind, flags) = (kind.to_le_bytes().to_vec(), 7u32.to_le_bytes().to_vec());
        let size = bytes.len() as u64;
        let ranges = [word(START), word(START), word(size), word(size)].concat();
        elf.extend(if wide {
            [kind, flags, word(offset), ranges, word(4)].concat()
        } else {
            [kind, word(offset), ranges, flags, word(4)].concat()
        });
        offset += size;
    }
    parts.iter().for_each(|(_, bytes)| elf.extend(bytes));
    elf
}

fn run(bits: u8) -> Run {
    let path = std::env::temp_dir().join(format!("vmm-run-{}-pvh-{bits}", std::process::id()));
    std::fs::write(&path, elf(bits)).unwrap();
    Run(path)
}

struct Module(PathBuf);

impl Drop for Module {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).unwrap();
    }
}

#[test]
fn a_pvh_kernel_reads_its_start_info() {
    let contents: Vec<u8> = (0..100_000u32).map(|index| (index.wrapping_mul(7) >> 3) as u8).collect();
    let sum = contents.iter().fold(0u32, |sum, byte| sum.rotate_left(1).wrapping_add((*byte).into()));
    let module = Module(std::env::temp_dir().join(format!("vmm-run-{}-pvh-module", std::process::id())));
    std::fs::write(&module.0, &contents).unwrap();
    let arguments = ["--debug-exit", "0xf4", "--cmdline", "test=pvh x"];
    for bits in [32, 64] {
        let run = run(bits);
        let output = run.ends(&arguments, 0x21);
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "test=pvh x\n00000000", "{bits} bits");
        let with_module = [&arguments[..], &["--initrd", module.0.to_str().unwrap()]].concat();
        let output = run.ends(&with_module, 0x21);
        assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("test=pvh x\n{sum:08x}"));
        run.ends(&[&with_module[..], &["--irqchip", "split", "--cpus", "2"]].concat(), 0x21);
    }
}
