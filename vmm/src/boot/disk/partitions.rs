//! Partition tables: GPT (UEFI 5.3), else MBR (UEFI 5.2.1) with its four primary partitions, else one file system on the whole disk.
//!
//! The disk's logical blocks have 512 or 4096 bytes: the GPT's position tells. A GPT whose checksums are wrong is replaced by its backup
//! at the disk's end.

use std::ops::Range;

use bytemuck::{Zeroable, bytes_of, bytes_of_mut};
use gpt_disk_types::{BlockSize, Crc32, GptHeader, GptPartitionEntry, MasterBootRecord};

use super::DiskError;
use super::window::{Disk, Window};

/// Logical block sizes.
const BLOCK_SIZES: [BlockSize; 2] = [BlockSize::BS_512, BlockSize::BS_4096];
/// Maximum size of the array of GPT entries. Disks have 16 KiB.
const ENTRIES_SIZE: u64 = 1 << 20;
/// The MBR's signature, and the type of a partition that stands for a GPT.
const MBR_SIGNATURE: [u8; 2] = [0x55, 0xaa];
const PROTECTIVE: u8 = 0xee;

/// A partition, or the whole disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Partition {
    /// "partition 2", for messages.
    pub(super) place: String,
    range: Range<u64>,
}

impl Partition {
    fn new(number: usize, range: Range<u64>) -> Self {
        Self { place: format!("partition {number}"), range }
    }

    pub(super) fn window(&self, disk: &Disk) -> Window {
        disk.window(self.range.clone())
    }
}

/// Lists the partitions in the order of the table.
///
/// # Errors
/// [`DiskError::PartitionTable`] for a GPT that is damaged with its backup.
pub(super) fn list(disk: &Disk) -> Result<Vec<Partition>, DiskError> {
    let mut problem = None;
    for block_size in BLOCK_SIZES {
        let primary = block_size.to_u64();
        let backup = disk.length().saturating_sub(block_size.to_u64());
        for at in [primary, backup] {
            match gpt(disk, block_size, at) {
                Ok(Some(partitions)) => return Ok(partitions),
                Ok(None) => {}
                Err(error) => problem = problem.or(Some(error)),
            }
        }
    }
    match problem {
        Some(problem) => Err(problem),
        None => Ok(mbr(disk)),
    }
}

/// The partitions of a GPT whose header is at this offset. Returns `None` if there is none.
fn gpt(disk: &Disk, block_size: BlockSize, at: u64) -> Result<Option<Vec<Partition>>, DiskError> {
    let mut window = disk.window(0..disk.length());
    let mut header = GptHeader::zeroed();
    if window.read_at(at, bytes_of_mut(&mut header)).is_err() || !header.is_signature_valid() {
        return Ok(None);
    }
    if { header.header_crc32 } != header.calculate_header_crc32() {
        return Err(DiskError::PartitionTable("the checksum of the GPT header is wrong"));
    }
    let layout = header
        .get_partition_entry_array_layout()
        .map_err(|_| DiskError::PartitionTable("its GPT entries have no valid size"))?;
    let size = layout.entry_size.to_u64();
    let total = size.saturating_mul(layout.num_entries.into());
    let start = layout.start_lba.to_u64().checked_mul(block_size.to_u64());
    let start = start.filter(|_| (1..=ENTRIES_SIZE).contains(&total));
    let start = start.ok_or(DiskError::PartitionTable("its GPT has too many entries"))?;
    let mut entries = vec![0; usize::try_from(total).unwrap_or(0)];
    window.read_at(start, &mut entries)?;
    let crc = crc::Crc::<u32>::new(&Crc32::ALGORITHM).checksum(&entries);
    if crc != { header.partition_entry_array_crc32 }.0.to_u32() {
        return Err(DiskError::PartitionTable("the checksum of the GPT entries is wrong"));
    }
    let mut partitions = Vec::new();
    for (number, bytes) in (1..).zip(entries.chunks_exact(usize::try_from(size).unwrap_or(usize::MAX))) {
        let mut entry = GptPartitionEntry::zeroed();
        let length = bytes_of(&entry).len();
        let Some(bytes) = bytes.get(..length) else { continue };
        bytes_of_mut(&mut entry).copy_from_slice(bytes);
        let range = entry.lba_range().and_then(|range| range.to_byte_range(block_size));
        if let Some(range) = range.filter(|_| entry.is_used()) {
            partitions.push(Partition::new(number, *range.start()..range.end().saturating_add(1)));
        }
    }
    Ok(Some(partitions))
}

/// The primary partitions of an MBR, or the whole disk. A file system on the whole disk may have an MBR's signature, too: it is listed
/// where no entry lies on the disk.
fn mbr(disk: &Disk) -> Vec<Partition> {
    let mut mbr = MasterBootRecord::zeroed();
    let whole = || vec![Partition { place: "the whole disk".to_owned(), range: 0..disk.length() }];
    let read = disk.window(0..disk.length()).read_at(0, bytes_of_mut(&mut mbr));
    if read.is_err() || mbr.signature != MBR_SIGNATURE {
        return whole();
    }
    let block = BlockSize::BS_512.to_u64();
    let partitions: Vec<_> = (1..)
        .zip(&mbr.partitions)
        .filter_map(|(number, record)| {
            let start = u64::from(record.starting_lba.to_u32()).saturating_mul(block);
            let size = u64::from(record.size_in_lba.to_u32()).saturating_mul(block);
            let is_used = !matches!(record.os_indicator, 0 | PROTECTIVE) && size > 0;
            let is_on_disk = start > 0 && start < disk.length();
            (is_used && is_on_disk).then(|| Partition::new(number, start..start.saturating_add(size)))
        })
        .collect();
    if partitions.is_empty() { whole() } else { partitions }
}
