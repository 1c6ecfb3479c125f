//! Disks whose own kernel is booted.

use std::io::{Cursor, Read, Write};
use std::path::PathBuf;
use std::process::{Command, Output};

use super::{Run, SPIN, out, pvh};

/// A disk image. It is removed when this is dropped.
struct Image(PathBuf);

impl Image {
    /// A FAT file system with these files, in directories of one level.
    fn new(name: &str, files: &[(&str, &[u8])]) -> Self {
        let mut image = Cursor::new(vec![0; 1 << 20]);
        fatfs::format_volume(&mut image, fatfs::FormatVolumeOptions::new()).unwrap();
        let fat = fatfs::FileSystem::new(&mut image, fatfs::FsOptions::new()).unwrap();
        for (path, contents) in files {
            let (folders, name) = path.rsplit_once('/').unwrap();
            let folder = folders.split('/').fold(fat.root_dir(), |dir, name| dir.create_dir(name).unwrap());
            folder.create_file(name).unwrap().write_all(contents).unwrap();
        }
        drop(fat);
        let path = std::env::temp_dir().join(format!("vmm-run-{}-{name}", std::process::id()));
        std::fs::write(&path, image.into_inner()).unwrap();
        Self(path)
    }

    fn boot(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vmm"));
        command.args(["--boot", "disk", "--disk"]).arg(format!("path={}", self.0.display()));
        command.args(arguments).output().unwrap()
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).unwrap();
    }
}

/// The kernel ends a killed VMM's io_uring later than the VMM.
#[test]
fn a_disk_is_free_at_once_when_its_vmm_has_been_killed() {
    let run = Run::new("killed", &[&out(0x3f8, b'$')[..], &SPIN].concat());
    let image = Image::new("killed-disk", &[]);
    let disk = format!("path={},queues=4", image.0.display());
    for _ in 0..8 {
        let mut child = run.command(&["--disk", &disk]).spawn().unwrap();
        let read = child.stdout.as_mut().unwrap().read_exact(&mut [0]);
        child.kill().unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(read.is_ok(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn a_disks_own_kernel_is_booted_with_its_initrd_and_command_line() {
    let entry = b"title Test\nlinux /boot/kernel\ninitrd /boot/initrd\noptions root=/dev/vda\n";
    let files: [(&str, &[u8]); 3] = [
        ("loader/entries/test.conf", entry),
        ("boot/kernel", &pvh::elf(64)),
        ("boot/initrd", b"\x01\x02\x03\x04"),
    ];
    let image = Image::new("boot-disk", &files);
    let output = image.boot(&["--debug-exit", "0xf4", "--cmdline", "quiet"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0x21), "{stderr}");
    // The checksum is of the module: 1, 2, 3 and 4, each after a rotation.
    let sum = [1u32, 2, 3, 4].iter().fold(0u32, |sum, byte| sum.rotate_left(1).wrapping_add(*byte));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("root=/dev/vda quiet\n{sum:08x}"));
}

#[test]
fn a_disk_that_has_nothing_to_boot_is_named() {
    let image = Image::new("boot-nothing", &[("some/file", b"x")]);
    let output = image.boot(&[]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains(image.0.to_str().unwrap()) && stderr.contains("nothing to boot"), "{stderr}");
}
