//! ELF files of every shape, well-formed and lying.

use std::io::Cursor;

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::{Elf, ElfError, EntryPoint};

const MIB: u64 = 1 << 20;
const TYPE_LOAD: u32 = 1;
const TYPE_NOTE: u32 = 4;

/// The class of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    Bits32,
    Bits64,
}

/// A program header.
#[derive(Debug, Clone)]
struct Header {
    kind: u32,
    address: u64,
    bytes: Vec<u8>,
    in_memory: u64,
    alignment: u64,
}

/// An ELF file to write.
#[derive(Debug, Clone)]
pub(crate) struct File {
    class: Class,
    entry: u64,
    headers: Vec<Header>,
}

impl File {
    pub(crate) fn new(class: Class, entry: u64) -> Self {
        Self { class, entry, headers: Vec::new() }
    }

    /// Adds a segment of `in_memory` bytes that begins with `bytes`.
    pub(crate) fn load(mut self, address: u64, bytes: &[u8], in_memory: u64) -> Self {
        self.headers.push(Header {
            kind: TYPE_LOAD,
            address,
            bytes: bytes.to_vec(),
            in_memory,
            alignment: 4096,
        });
        self
    }

    /// Adds a segment of notes.
    pub(crate) fn note(mut self, notes: &[u8]) -> Self {
        self.headers.push(Header {
            kind: TYPE_NOTE,
            address: 0,
            bytes: notes.to_vec(),
            in_memory: 0,
            alignment: 4,
        });
        self
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let wide = self.class == Class::Bits64;
        let (header_size, program_size) = if wide { (64u16, 56u16) } else { (52, 32) };
        let word =
            |value: u64| if wide { value.to_le_bytes().to_vec() } else { value.to_le_bytes()[..4].to_vec() };
        let mut file = b"\x7fELF".to_vec();
        file.extend([if wide { 2 } else { 1 }, 1, 1]);
        file.resize(16, 0);
        file.extend([2, 0, if wide { 62 } else { 3 }, 0, 1, 0, 0, 0]);
        file.extend([word(self.entry), word(header_size.into()), word(0), vec![0; 4]].concat());
        for half in [header_size, program_size, u16::try_from(self.headers.len()).unwrap(), 0, 0, 0] {
            file.extend(half.to_le_bytes());
        }
        let mut offset = u64::from(header_size) + u64::from(program_size) * self.headers.len() as u64;
        for header in &self.headers {
            let kind = header.kind.to_le_bytes().to_vec();
            let flags = 7u32.to_le_bytes().to_vec();
            let size = header.bytes.len() as u64;
            let address = word(header.address);
            let ranges = [address.clone(), address, word(size), word(header.in_memory)].concat();
            let alignment = word(header.alignment);
            file.extend(if wide {
                [kind, flags, word(offset), ranges, alignment].concat()
            } else {
                [kind, word(offset), ranges, flags, alignment].concat()
            });
            offset += size;
        }
        self.headers.iter().for_each(|header| file.extend(&header.bytes));
        file
    }
}

/// A note of this owner, type and contents.
fn note(owner: &[u8], kind: u32, contents: &[u8]) -> Vec<u8> {
    let mut note = Vec::new();
    for word in [owner.len() as u32, contents.len() as u32, kind] {
        note.extend(word.to_le_bytes());
    }
    for part in [owner, contents] {
        note.extend(part);
        note.resize(note.len().next_multiple_of(4), 0);
    }
    note
}

/// The note with the PVH entry point, as 64-bit kernels have it.
pub(crate) fn pvh_note(entry: u32) -> Vec<u8> {
    note(b"Xen\0", 18, &u64::from(entry).to_le_bytes())
}

fn parse(file: &File) -> Result<Elf, ElfError> {
    Elf::parse(Cursor::new(file.bytes()))
}

fn code(class: Class) -> File {
    File::new(class, MIB).load(MIB, b"code", 64)
}

#[test]
fn a_file_with_the_note_is_entered_by_pvh_and_any_other_64_bit_one_by_the_boot_protocol() {
    let (linux, pvh) = (EntryPoint::Linux(GuestAddress(MIB)), EntryPoint::Pvh(GuestAddress(MIB + 2)));
    let entry = |file: File| parse(&file).and_then(|elf| elf.entry());
    assert_eq!(entry(code(Class::Bits64)), Ok(linux));
    assert_eq!(entry(code(Class::Bits32)), Err(ElfError::No32BitEntry));
    let entry_note = pvh_note(0x10_0002);
    let narrow = note(b"Xen\0", 18, &0x10_0002u32.to_le_bytes());
    for class in [Class::Bits32, Class::Bits64] {
        assert_eq!(entry(code(class).note(&entry_note)), Ok(pvh));
        assert_eq!(entry(code(class).note(&narrow)), Ok(pvh));
        let others = [note(b"GNU\0", 18, &[1; 20]), note(b"Xen\0", 5, b"x"), entry_note.clone()].concat();
        assert_eq!(entry(code(class).note(&others)), Ok(pvh), "behind other notes");
        assert_eq!(
            entry(code(class).note(&note(b"GNU\0", 1, b"")).note(&entry_note)),
            Ok(pvh),
            "second segment"
        );
    }
    let elf = parse(&code(Class::Bits64).note(&entry_note)).unwrap();
    assert_eq!(elf.linux_entry(), Ok(linux));
    assert!(parse(&code(Class::Bits32).note(&entry_note)).unwrap().linux_entry().is_err());
}

#[test]
fn malformed_notes_are_refused() {
    let mut long_name = pvh_note(0x10_0000);
    long_name[0] = 0xff;
    for notes in [
        note(b"Xen\0", 18, b""),
        note(b"Xen\0", 18, &[0, 0, 0x10]),
        note(b"Xen\0", 18, &[0, 0, 0x10, 0, 1, 0, 0, 0]),
        pvh_note(0x10_0000)[..11].to_vec(),
        pvh_note(0x10_0000)[..20].to_vec(),
        long_name,
        vec![0xff; 16],
        [note(b"GNU\0", 1, &[0; 60_000]), note(b"GNU\0", 1, &[0; 6000])].concat(),
    ] {
        let error = parse(&code(Class::Bits64).note(&notes)).unwrap_err();
        assert!(matches!(error, ElfError::Damaged(_)), "{error}");
    }
    let outside = parse(&code(Class::Bits64).note(&pvh_note(0x20_0000))).unwrap_err();
    assert_eq!(outside, ElfError::EntryOutside(2 * MIB));
}

#[test]
fn segments_that_lie_are_refused() {
    let file = |class| File::new(class, MIB);
    for class in [Class::Bits32, Class::Bits64] {
        let with_note = |file: File| parse(&file.note(&pvh_note(0x10_0000)));
        assert_eq!(with_note(file(class)), Err(ElfError::Empty));
        assert_eq!(with_note(file(class).load(MIB, b"code", 3)), Err(ElfError::Truncated(MIB)));
        assert_eq!(with_note(file(class).load(MIB - 1, b"code", 8)), Err(ElfError::Misplaced(MIB - 1)));
        let overlap = code(class).load(MIB + 63, b"more", 4);
        assert_eq!(with_note(overlap), Err(ElfError::Overlap(MIB, MIB + 63)));
        assert_eq!(with_note(code(class).load(MIB + 64, b"more", 4)).map(|elf| elf.end()), Ok(MIB + 68));
        let unsorted = file(class).load(2 * MIB, b"b", 1).load(MIB, b"a", 1);
        assert_eq!(with_note(unsorted).map(|elf| elf.end()), Ok(2 * MIB + 1));
    }
    let wraps = file(Class::Bits64).load(u64::MAX, b"", 8);
    assert_eq!(parse(&wraps), Err(ElfError::Misplaced(u64::MAX)));
    let mut cut = code(Class::Bits64).bytes();
    cut.pop();
    assert_eq!(Elf::parse(Cursor::new(cut)), Err(ElfError::Truncated(MIB)));
    let outside = File::new(Class::Bits64, 2 * MIB).load(MIB, b"code", 8);
    assert_eq!(parse(&outside), Err(ElfError::EntryOutside(2 * MIB)));
}

#[test]
fn files_of_other_machines_are_refused() {
    for (at, value) in [(4, 3u8), (4, 0), (5, 2), (6, 0), (16, 1), (18, 3), (18, 183)] {
        let mut bytes = code(Class::Bits64).bytes();
        bytes[at] = value;
        assert_eq!(Elf::parse(Cursor::new(bytes)), Err(ElfError::OtherElf), "{at}: {value}");
    }
    assert_eq!(Elf::parse(Cursor::new(b"\x7fELF")), Err(ElfError::OtherElf));
}

#[test]
fn every_byte_of_a_segment_is_loaded_and_the_rest_is_zero() {
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 4 << 20)]).unwrap();
    let file = File::new(Class::Bits64, MIB).load(2 * MIB, b"second", 4096).load(MIB, b"first", 8);
    let file = file.load(3 * MIB, b"", 16);
    parse(&file).unwrap().load(&memory, &mut Cursor::new(file.bytes())).unwrap();
    for (address, expected) in [(MIB, b"first\0\0\0"), (2 * MIB, b"second\0\0")] {
        assert_eq!(memory.read_obj::<[u8; 8]>(GuestAddress(address)).unwrap(), *expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever the bytes are, parsing ends, and what it accepts fits together.
    #[test]
    fn a_damaged_file_is_refused_or_loadable(
        class in prop_oneof![Just(Class::Bits32), Just(Class::Bits64)],
        damage in prop::collection::vec((0usize..400, any::<u8>()), 0..6),
        length in 0usize..400,
    ) {
        let file = code(class).load(2 * MIB, b"data", 4).note(&pvh_note(0x10_0000));
        let mut bytes = file.bytes();
        for (at, value) in damage {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        bytes.truncate(length.max(bytes.len().saturating_sub(length)));
        let Ok(elf) = Elf::parse(Cursor::new(&bytes)) else { return Ok(()) };
        prop_assert!(elf.segments.windows(2).all(|pair| pair[0].memory.end <= pair[1].memory.start));
        prop_assert!(elf.segments.iter().all(|segment| segment.memory.start >= MIB));
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 4 << 20)]).unwrap();
        let fits = elf.end() <= 4 << 20;
        prop_assert_eq!(elf.load(&memory, &mut Cursor::new(&bytes)).is_ok() || !fits, true);
    }
}
