//! Disk images: partition tables, file systems, and the configurations of boot loaders.
//!
//! Promise: an image boots or is refused with one line, within the limit of memory. The parsers of other crates may panic: the VMM
//! turns that into an error. Its own code may not.

use std::io::Cursor;
use std::sync::{Once, OnceLock};

use crate::boot::disk;

const LIMIT: u64 = 4 << 20;
const BLOCK: usize = 512;

/// The first byte chooses the image to damage, the second one a partition table in front of it. Groups of 4 bytes follow: an offset
/// and a value. Image 0 consists of the bytes themselves.
///
/// # Panics
/// A promise is broken.
pub fn boot_disk(bytes: &[u8]) {
    let [kind, table, rest @ ..] = bytes else { return };
    pass_over_parsers();
    let images = images();
    let mut disk = match usize::from(*kind) % (images.len() + 1) {
        0 => rest.to_vec(),
        image => images[image - 1].clone(),
    };
    if *kind != 0 {
        let length = disk.len();
        for [low, middle, high, value] in rest.as_chunks().0 {
            disk[u32::from_le_bytes([*low, *middle, *high, 0]) as usize % length] = *value;
        }
    }
    if table & 1 != 0 {
        disk = mbr(&disk);
    }
    match disk::find(Cursor::new(disk), LIMIT) {
        Ok(found) => {
            assert!(found.kernel.metadata().expect("its size").len() <= LIMIT);
        }
        Err(error) => {
            let text = crate::error::Error::input("--boot disk", error).to_string();
            assert!(text.chars().all(crate::printable::is_printable), "{text:?}");
        }
    }
}

/// Images that boot.
fn images() -> &'static [Vec<u8>] {
    static IMAGES: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    IMAGES.get_or_init(|| {
        let packed = [
            &include_bytes!("../boot/disk/tests/grub.ext4.zst")[..],
            include_bytes!("../boot/disk/tests/links.ext4.zst"),
            include_bytes!("../boot/disk/tests/bls.ext4.zst"),
            include_bytes!("../boot/disk/tests/loop.ext4.zst"),
        ];
        let mut images: Vec<_> =
            packed.iter().map(|packed| zstd::stream::decode_all(*packed).expect("an image")).collect();
        images.push(fat());
        images
    })
}

/// The system partition of systemd-boot.
fn fat() -> Vec<u8> {
    use std::io::Write;
    let mut image = Cursor::new(vec![0; 256 << 10]);
    fatfs::format_volume(&mut image, fatfs::FormatVolumeOptions::new()).expect("a FAT file system");
    let fat = fatfs::FileSystem::new(&mut image, fatfs::FsOptions::new()).expect("the file system");
    let entries = fat.root_dir().create_dir("loader").and_then(|loader| loader.create_dir("entries"));
    let files = [
        ("a.conf", &b"linux /loader/entries/k\ninitrd /loader/entries/k\noptions ro\n"[..]),
        ("k", b"kernel"),
    ];
    for (name, contents) in files {
        let file = entries.as_ref().expect("a directory").create_file(name);
        file.and_then(|mut file| file.write_all(contents)).expect("a file");
    }
    drop(entries);
    drop(fat);
    image.into_inner()
}

/// A disk with an MBR and this partition.
fn mbr(partition: &[u8]) -> Vec<u8> {
    let mut disk = vec![0; 2 * BLOCK];
    disk[450] = 0x83;
    disk[454..458].copy_from_slice(&2u32.to_le_bytes());
    let blocks = u32::try_from(partition.len() / BLOCK).unwrap_or(u32::MAX);
    disk[458..462].copy_from_slice(&blocks.to_le_bytes());
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk.extend(partition);
    disk
}

/// A fuzzer's panic hook ends the process. It does not hear of panics of parsers of other crates.
fn pass_over_parsers() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let is_own = info.location().is_some_and(|location| location.file().starts_with("vmm/src"));
            if !disk::is_current() || is_own {
                hook(info);
            }
        }));
    });
}
