//! ELF kernels: what to load where, and the entry point.
//!
//! 64-bit files are for x86-64, and 32-bit files for i386. A file with the note XEN_ELFNOTE_PHYS32_ENTRY is entered by PVH (Xen's
//! docs/misc/pvh.pandoc), and any other 64-bit file by the boot protocol's 64-bit entry.
//!
//! The file is untrusted. [`Elf::parse`] checks every range: a parsed file has segments from 1 MiB on that do not overlap and whose bytes
//! are in the file, and its entry point is in one of them. Headers of 4 MiB and notes of 64 KiB bound the memory.

use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;

use object::elf::{self, ET_DYN, ET_EXEC, FileHeader32, FileHeader64, FileType, Machine, PT_LOAD, PT_NOTE};
use object::read::elf::{FileHeader, NoteIterator, ProgramHeader};
use object::read::{ReadCache, ReadRef};
use object::{LittleEndian, pod};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap, ReadVolatile};

use crate::layout;

/// Owner and type of the note with the PVH entry point.
const XEN: &[u8] = b"Xen";
const XEN_ELFNOTE_PHYS32_ENTRY: elf::NoteType = elf::NoteType(18);
/// Maximum size of all notes.
const NOTES_SIZE: u64 = 64 << 10;
/// Index of the class in an ELF file, and its value for 32 bits.
const CLASS: u64 = 4;
const CLASS_32: u8 = 1;

/// A kernel's entry point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryPoint {
    /// The boot protocol's 64-bit entry, in 64-bit mode with an identity map.
    Linux(GuestAddress),
    /// The PVH entry, in 32-bit protected mode without paging.
    Pvh(GuestAddress),
}

impl EntryPoint {
    /// The address of the first instruction.
    #[must_use]
    pub fn address(self) -> GuestAddress {
        match self {
            Self::Linux(address) | Self::Pvh(address) => address,
        }
    }
}

/// The loadable parts of a kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Elf {
    /// The address in the file's header, if it is a 64-bit file.
    linux: Option<u64>,
    /// The address in the PVH note.
    pvh: Option<u32>,
    /// Sorted by address.
    segments: Vec<Segment>,
}

/// A range of guest memory, and the bytes of the file at its start. The rest is zero.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Segment {
    memory: Range<u64>,
    offset: u64,
    size: usize,
}

/// Why an ELF file cannot be booted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ElfError {
    /// The file has another machine, byte order or type.
    #[error("not a kernel for x86: an ELF file of another machine, class or type")]
    OtherElf,
    /// A header or note is damaged.
    #[error("a damaged ELF file: {0}")]
    Damaged(String),
    /// The file has no loadable segment.
    #[error("a damaged ELF file: nothing to load")]
    Empty,
    /// A segment's bytes are not in the file, or more than the segment holds.
    #[error("the ELF file is cut short: the bytes of the segment at {0:#x} are not in it")]
    Truncated(u64),
    /// A segment lies where the VMM puts its boot structures, or wraps around.
    #[error("the segment at {0:#x} cannot be loaded: a kernel's addresses begin at 1 MiB")]
    Misplaced(u64),
    /// Two segments overlap.
    #[error("a damaged ELF file: the segments at {0:#x} and {1:#x} overlap")]
    Overlap(u64, u64),
    /// The entry point is in no segment.
    #[error("a damaged ELF file: its entry point {0:#x} is in no segment")]
    EntryOutside(u64),
    /// A 32-bit file without a PVH entry point.
    #[error("a 32-bit ELF file without a PVH entry point (the note XEN_ELFNOTE_PHYS32_ENTRY)")]
    No32BitEntry,
}

impl ElfError {
    fn damaged(problem: &str) -> Self {
        Self::Damaged(problem.to_owned())
    }
}

impl From<object::read::Error> for ElfError {
    fn from(error: object::read::Error) -> Self {
        Self::Damaged(error.to_string())
    }
}

impl Elf {
    /// Reads the headers and notes of a file.
    ///
    /// # Errors
    /// Why the file cannot be booted.
    pub fn parse(file: impl Read + Seek) -> Result<Self, ElfError> {
        let cache = ReadCache::new(file);
        let data = &cache;
        let class = data.read_bytes_at(CLASS, 1).map_err(|()| ElfError::OtherElf)?;
        let elf = if class == [CLASS_32] {
            parse_class::<FileHeader32<LittleEndian>>(data, Machine(elf::EM_386.0))
        } else {
            parse_class::<FileHeader64<LittleEndian>>(data, Machine(elf::EM_X86_64.0))
        }?;
        elf.entry()?;
        Ok(elf)
    }

    /// The entry point: by PVH if the file has that note.
    ///
    /// # Errors
    /// [`ElfError::No32BitEntry`] or [`ElfError::EntryOutside`].
    pub fn entry(&self) -> Result<EntryPoint, ElfError> {
        let entry = match (self.pvh, self.linux) {
            (Some(pvh), _) => EntryPoint::Pvh(GuestAddress(pvh.into())),
            (None, Some(linux)) => EntryPoint::Linux(GuestAddress(linux)),
            (None, None) => return Err(ElfError::No32BitEntry),
        };
        self.check_entry(entry)
    }

    /// The boot protocol's 64-bit entry, also if the file has a PVH note.
    ///
    /// # Errors
    /// [`ElfError::OtherElf`] for a 32-bit file, or [`ElfError::EntryOutside`].
    pub fn linux_entry(&self) -> Result<EntryPoint, ElfError> {
        self.check_entry(EntryPoint::Linux(GuestAddress(self.linux.ok_or(ElfError::OtherElf)?)))
    }

    fn check_entry(&self, entry: EntryPoint) -> Result<EntryPoint, ElfError> {
        let address = entry.address().0;
        let inside = self.segments.iter().any(|segment| segment.memory.contains(&address));
        if inside { Ok(entry) } else { Err(ElfError::EntryOutside(address)) }
    }

    /// The first address after all segments.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.segments.last().map_or(0, |segment| segment.memory.end)
    }

    /// Reads the segments from the file into memory that is zeroed.
    ///
    /// # Errors
    /// The host's error, for example because the file has changed or memory ends before [`Elf::end`].
    pub fn load<F: ReadVolatile + Seek>(&self, memory: &GuestMemoryMmap, file: &mut F) -> io::Result<()> {
        for segment in self.segments.iter().filter(|segment| segment.size > 0) {
            file.seek(SeekFrom::Start(segment.offset))?;
            memory
                .read_exact_volatile_from(GuestAddress(segment.memory.start), file, segment.size)
                .map_err(io::Error::other)?;
        }
        Ok(())
    }
}

/// Parses a file whose class is that of `H`.
fn parse_class<'data, H>(data: impl ReadRef<'data>, machine: Machine) -> Result<Elf, ElfError>
where
    H: FileHeader<Endian = LittleEndian> + pod::Pod,
{
    let types: [FileType; 2] = [ET_EXEC, ET_DYN];
    let header = H::parse(data).map_err(|_| ElfError::OtherElf)?;
    let endian = header.endian().map_err(|_| ElfError::OtherElf)?;
    if header.e_machine(endian) != machine || !types.contains(&header.e_type(endian)) {
        return Err(ElfError::OtherElf);
    }
    // More headers than the field can count are not supported.
    if header.e_phnum(endian) == elf::PN_XNUM {
        return Err(ElfError::damaged("too many program headers"));
    }
    let mut elf = Elf {
        linux: header.is_type_64().then(|| header.e_entry(endian).into()),
        pvh: None,
        segments: Vec::new(),
    };
    let length = data.len().map_err(|()| ElfError::damaged("its size is unknown"))?;
    let mut notes_left = NOTES_SIZE;
    for program in header.program_headers(endian, data)? {
        match program.p_type(endian) {
            PT_LOAD => elf.segments.extend(segment(program, endian, length)?),
            PT_NOTE if elf.pvh.is_none() => {
                let size = program.p_filesz(endian).into();
                notes_left =
                    notes_left.checked_sub(size).ok_or(ElfError::damaged("its notes are too large"))?;
                elf.pvh = pvh_entry::<H>(program, endian, data)?;
            }
            _ => {}
        }
    }
    elf.segments.sort_by_key(|segment| segment.memory.start);
    if elf.segments.is_empty() {
        return Err(ElfError::Empty);
    }
    let overlap = elf.segments.windows(2).find_map(|pair| match pair {
        [one, next] if one.memory.end > next.memory.start => Some((one.memory.start, next.memory.start)),
        _ => None,
    });
    match overlap {
        Some((one, next)) => Err(ElfError::Overlap(one, next)),
        None => Ok(elf),
    }
}

/// A loadable segment of a file of this length, if it is not empty.
fn segment<P>(program: &P, endian: P::Endian, length: u64) -> Result<Option<Segment>, ElfError>
where
    P: ProgramHeader,
{
    let start = program.p_paddr(endian).into();
    let (offset, in_file) = program.file_range(endian);
    let in_memory: u64 = program.p_memsz(endian).into();
    if in_memory == 0 && in_file == 0 {
        return Ok(None);
    }
    let is_in_file = offset.checked_add(in_file).is_some_and(|end| end <= length);
    let size = usize::try_from(in_file).ok().filter(|_| is_in_file && in_file <= in_memory);
    let size = size.ok_or(ElfError::Truncated(start))?;
    let end = start.checked_add(in_memory).filter(|_| start >= layout::HIGH_RAM);
    let end = end.ok_or(ElfError::Misplaced(start))?;
    Ok(Some(Segment { memory: start..end, offset, size }))
}

/// The PVH entry point in a segment of notes.
fn pvh_entry<'data, H>(
    program: &H::ProgramHeader,
    endian: LittleEndian,
    data: impl ReadRef<'data>,
) -> Result<Option<u32>, ElfError>
where
    H: FileHeader<Endian = LittleEndian>,
{
    let bytes = program.data(endian, data).map_err(|()| ElfError::damaged("its notes are not in it"))?;
    // Notes are aligned to 4 or 8 bytes. Segments with another alignment hold no notes of Xen's.
    let Ok(mut notes) = NoteIterator::<H>::new(endian, program.p_align(endian), bytes) else {
        return Ok(None);
    };
    while let Some(note) = notes.next()? {
        if note.name() == XEN && note.n_type(endian) == XEN_ELFNOTE_PHYS32_ENTRY {
            // 64-bit kernels write 8 bytes, of which the upper 4 are 0.
            return match *note.desc() {
                [a, b, c, d] | [a, b, c, d, 0, 0, 0, 0] => Ok(Some(u32::from_le_bytes([a, b, c, d]))),
                _ => Err(ElfError::damaged("its PVH note holds no 32-bit address")),
            };
        }
    }
    Ok(None)
}

#[cfg(test)]
pub(super) mod tests;
