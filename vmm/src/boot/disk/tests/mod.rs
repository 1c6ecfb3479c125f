//! Disks of every layout that is supported, and disks that lie. `make.sh` has made the ext4 images.

use std::io::{Cursor, Read, Seek, SeekFrom, Write};

use bytemuck::bytes_of;
use gpt_disk_types::{GptHeader, GptPartitionEntry, GptPartitionType, LbaLe, U32Le, guid};
use proptest::prelude::*;

use super::{Bootable, DiskError, find};

const LIMIT: u64 = 16 << 20;
const BLOCK: usize = 512;

fn ext4(compressed: &[u8]) -> Vec<u8> {
    zstd::stream::decode_all(compressed).unwrap()
}

fn grub() -> Vec<u8> {
    ext4(include_bytes!("grub.ext4.zst"))
}

fn links() -> Vec<u8> {
    ext4(include_bytes!("links.ext4.zst"))
}

fn bls() -> Vec<u8> {
    ext4(include_bytes!("bls.ext4.zst"))
}

fn loop_of_links() -> Vec<u8> {
    ext4(include_bytes!("loop.ext4.zst"))
}

/// A FAT file system of 1 MiB with these files.
fn fat(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut image = Cursor::new(vec![0; 1 << 20]);
    fatfs::format_volume(&mut image, fatfs::FormatVolumeOptions::new()).unwrap();
    let fat = fatfs::FileSystem::new(&mut image, fatfs::FsOptions::new()).unwrap();
    for (path, contents) in files {
        let mut directory = fat.root_dir();
        let (folders, name) = path.rsplit_once('/').unwrap();
        for folder in folders.split('/') {
            directory = directory.create_dir(folder).unwrap();
        }
        directory.create_file(name).unwrap().write_all(contents).unwrap();
    }
    drop(fat);
    image.into_inner()
}

/// The EFI system partition of a systemd-boot installation.
fn esp() -> Vec<u8> {
    let entry =
        b"title Test\nlinux /EFI/Test/linux.efi\ninitrd /EFI/Test/initrd\noptions root=PARTUUID=1 ro\n";
    fat(&[
        ("loader/entries/test.conf", entry),
        ("EFI/Test/linux.efi", &[b'k'; 70_000]),
        ("EFI/Test/initrd", b"initrd"),
    ])
}

/// A disk with a GPT, in blocks of this size.
fn gpt(partitions: &[Vec<u8>], block: usize) -> Vec<u8> {
    let mut disk = vec![0; 64 * block];
    let mut entries = Vec::new();
    for partition in partitions {
        let start = disk.len() / block;
        disk.extend(partition);
        disk.resize(disk.len().next_multiple_of(block), 0);
        let entry = GptPartitionEntry {
            partition_type_guid: GptPartitionType(guid!("0fc63daf-8483-4772-8e79-3d69d8477de4")),
            starting_lba: LbaLe::from_u64(start as u64),
            ending_lba: LbaLe::from_u64((disk.len() / block) as u64 - 1),
            ..Default::default()
        };
        entries.extend_from_slice(bytes_of(&entry));
    }
    entries.resize(128 * 128, 0);
    let mut header = GptHeader {
        partition_entry_lba: LbaLe::from_u64(2),
        number_of_partition_entries: U32Le::from_u32(128),
        size_of_partition_entry: U32Le::from_u32(128),
        ..Default::default()
    };
    header.partition_entry_array_crc32.0 =
        U32Le::from_u32(crc::Crc::<u32>::new(&gpt_disk_types::Crc32::ALGORITHM).checksum(&entries));
    header.update_header_crc32();
    disk.extend(vec![0; block]);
    let last = disk.len() - block;
    for at in [block, last] {
        disk[at..at + bytes_of(&header).len()].copy_from_slice(bytes_of(&header));
    }
    disk[2 * block..2 * block + entries.len()].copy_from_slice(&entries);
    // The protective MBR.
    disk[450] = 0xee;
    disk[454..462].copy_from_slice(&[1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk
}

/// A disk with an MBR and one primary partition, the second one.
fn mbr(partition: &[u8]) -> Vec<u8> {
    let mut disk = vec![0; 2048 * BLOCK];
    disk[446 + 16 + 4] = 0x83;
    disk[446 + 16 + 8..446 + 16 + 12].copy_from_slice(&2048u32.to_le_bytes());
    let blocks = u32::try_from(partition.len() / BLOCK).unwrap();
    disk[446 + 16 + 12..446 + 16 + 16].copy_from_slice(&blocks.to_le_bytes());
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk.extend(partition);
    disk
}

fn boot(disk: Vec<u8>) -> Result<Bootable, DiskError> {
    find(Cursor::new(disk), LIMIT)
}

fn contents(file: &mut std::fs::File) -> Vec<u8> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

/// What a disk boots: the kernel, the initial RAM disk and the command line.
fn booted(disk: Vec<u8>) -> (Vec<u8>, Vec<u8>, String) {
    let mut bootable = boot(disk).unwrap();
    let initrd = bootable.initrd.as_mut().map(contents).unwrap_or_default();
    (contents(&mut bootable.kernel), initrd, bootable.cmdline)
}

#[test]
fn every_partition_table_leads_to_grubs_entry() {
    for disk in [
        grub(),
        mbr(&grub()),
        gpt(&[grub()], 512),
        gpt(&[grub()], 4096),
        gpt(&[vec![0xa5; 4096], fat(&[("EFI/BOOT/x", b"")]), grub()], 512),
    ] {
        let (kernel, initrd, cmdline) = booted(disk);
        assert_eq!(kernel, b"kernel of debian");
        assert!(initrd.starts_with(b"initrd of debian\n") && initrd.len() == 5001 + 3);
        assert_eq!(cmdline, "root=/dev/vda1 ro quiet");
    }
}

#[test]
fn a_gpt_with_a_damaged_header_is_read_from_its_backup() {
    let mut disk = gpt(&[grub()], 512);
    disk[BLOCK + 40] ^= 1;
    assert_eq!(booted(disk.clone()).0, b"kernel of debian");
    let last = disk.len() - BLOCK;
    disk[last + 40] ^= 1;
    assert!(matches!(boot(disk), Err(DiskError::PartitionTable(_))));
}

#[test]
fn debians_links_boot_with_their_file_system_as_root() {
    let (kernel, initrd, cmdline) = booted(gpt(&[links()], 512));
    assert_eq!((kernel.as_slice(), initrd.len()), (&b"kernel of debian"[..], 5004));
    assert_eq!(cmdline, "root=UUID=12345678-9abc-4def-8123-456789abcdef ro");
}

#[test]
fn the_newest_entry_of_the_boot_loader_specification_precedes_grub() {
    let expected = (b"new kernel".to_vec(), b"one\0two\0".to_vec(), "root=/dev/vda2 rw".to_owned());
    assert_eq!(booted(gpt(&[grub(), bls()], 512)), expected);
    let (kernel, initrd, cmdline) = booted(gpt(&[grub(), esp()], 512));
    assert_eq!((kernel, initrd), (vec![b'k'; 70_000], b"initrd\0\0".to_vec()));
    assert_eq!(cmdline, "root=PARTUUID=1 ro");
}

#[test]
fn a_disk_without_anything_to_boot_is_told_apart() {
    assert!(matches!(boot(vec![0; 1 << 20]), Err(DiskError::NoFileSystem)));
    assert!(matches!(boot(Vec::new()), Err(DiskError::NoFileSystem)));
    assert!(matches!(boot(fat(&[("EFI/BOOT/x", b"")])), Err(DiskError::NoEntry)));
    let looped = boot(loop_of_links()).unwrap_err();
    assert!(matches!(looped, DiskError::Damaged { .. }), "{looped}");
    let entry = &[("loader/entries/a.conf", &b"linux /gone"[..])];
    let missing = boot(fat(entry)).unwrap_err().to_string();
    assert!(missing.contains("/gone") && missing.contains("/loader/entries/a.conf"), "{missing}");
}

#[test]
fn files_that_exceed_the_guests_memory_are_refused() {
    let limited = |limit| find(Cursor::new(gpt(&[grub()], 512)), limit);
    assert!(limited(5017).is_ok());
    assert!(matches!(limited(5016), Err(DiskError::TooLarge { .. })));
    assert!(matches!(limited(15), Err(DiskError::TooLarge { .. })));
}

/// A valid disk to damage.
fn valid() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(gpt(&[grub()], 512)),
        Just(mbr(&grub())),
        Just(bls()),
        Just(links()),
        Just(esp()),
        Just(gpt(&[esp(), bls()], 4096)),
    ]
}

/// Where to damage it: anywhere, or in the structures at the start of the disk and of the first partition.
fn place() -> impl Strategy<Value = usize> {
    prop_oneof![0usize..1 << 21, 0usize..4096, 64 * 512..64 * 512 + 4096usize, 1024usize..64 << 10]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    /// Whatever the image holds, the search ends with what to boot or with one line.
    #[test]
    fn a_damaged_disk_boots_or_is_refused_in_one_line(
        mut disk in valid(),
        damage in prop::collection::vec((place(), prop_oneof![any::<u8>(), Just(0), Just(0xff)], 1usize..9), 1..40),
        cut in prop::option::weighted(0.2, 0usize..1 << 21),
    ) {
        for (at, value, length) in damage {
            let at = at % disk.len();
            let end = (at + length).min(disk.len());
            disk[at..end].fill(value);
        }
        if let Some(cut) = cut {
            disk.truncate(cut);
        }
        match boot(disk) {
            Ok(bootable) => prop_assert!(bootable.kernel.metadata().unwrap().len() <= LIMIT),
            Err(error) => prop_assert_eq!(error.to_string().lines().count(), 1),
        }
    }

    #[test]
    fn random_bytes_are_refused(seed in any::<u64>(), length in 0usize..100_000) {
        let mut state = seed | 1;
        let disk = (0..length).map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[0]
        });
        prop_assert!(boot(disk.collect()).is_err());
    }
}
