//! Builds an initramfs: busybox, kernel modules with all they need, and files of the caller's.
//!
//! Lab hosts and the Linux guests in them start from one. Modules are stored decompressed below `/modules`;
//! `/modules/order` lists them in the order of loading, so an init script needs no more than
//! `for m in $(cat /modules/order); do insmod /modules/$m; done`. The archive is not compressed: unpacking would
//! cost an emulated machine more than reading does.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::cache::Cache;
use crate::cpio;
use crate::error::{At, Result};
use crate::kernel::Kernel;
use crate::modules::Modules;

/// The busybox applets that get a link of their own; every other one runs as `busybox NAME`.
const APPLETS: &[&str] = &[
    "sh",
    "awk",
    "basename",
    "cat",
    "chmod",
    "chroot",
    "cp",
    "cut",
    "date",
    "dd",
    "devmem",
    "dmesg",
    "echo",
    "expr",
    "false",
    "find",
    "free",
    "grep",
    "head",
    "hexdump",
    "hostname",
    "insmod",
    "kill",
    "ln",
    "ls",
    "lspci",
    "md5sum",
    "mkdir",
    "mkfifo",
    "mknod",
    "mount",
    "mv",
    "nproc",
    "od",
    "poweroff",
    "printf",
    "ps",
    "readlink",
    "reboot",
    "rm",
    "rmdir",
    "rmmod",
    "sed",
    "seq",
    "sha256sum",
    "sleep",
    "sort",
    "stat",
    "stty",
    "switch_root",
    "sync",
    "tail",
    "tar",
    "taskset",
    "tee",
    "test",
    "time",
    "timeout",
    "touch",
    "tr",
    "true",
    "umount",
    "uname",
    "usleep",
    "wc",
    "which",
    "xargs",
];

/// What an initramfs will contain.
#[derive(Debug)]
pub struct Initramfs {
    busybox: PathBuf,
    files: BTreeMap<String, (u32, Vec<u8>)>,
    module_order: Vec<String>,
}

impl Initramfs {
    /// One with busybox and this script as `/init`.
    ///
    /// # Errors
    /// The cache has not been provisioned.
    pub fn new(cache: &Cache, init: &str) -> Result<Self> {
        let mut initramfs =
            Self { busybox: cache.busybox(), files: BTreeMap::new(), module_order: Vec::new() };
        let busybox = fs::read(&initramfs.busybox).at("read", &initramfs.busybox)?;
        initramfs.add("bin/busybox", 0o755, busybox);
        initramfs.add("init", 0o755, init.as_bytes().to_vec());
        Ok(initramfs)
    }

    /// Adds modules of this kernel, and those they depend on.
    ///
    /// # Errors
    /// There is no such module, or it cannot be read.
    pub fn modules<'a>(mut self, kernel: &Kernel, names: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        for file in Modules::of(kernel)?.closure(&kernel.release, names)? {
            let base = Path::new(&file).file_name().unwrap_or_default().to_string_lossy();
            let base = base.trim_end_matches(".xz").to_owned();
            if !self.module_order.contains(&base) {
                self.add(&format!("modules/{base}"), 0o644, kernel.read_module(&file)?);
                self.module_order.push(base);
            }
        }
        Ok(self)
    }

    /// Adds a module built outside the kernel. It is loaded after those added before.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn module_file(mut self, path: &Path) -> Result<Self> {
        let base = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        self.add(&format!("modules/{base}"), 0o644, fs::read(path).at("read", path)?);
        self.module_order.push(base);
        Ok(self)
    }

    /// Adds a file of the machine under another name.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn file_from(mut self, path: &str, permissions: u32, source: &Path) -> Result<Self> {
        self.add(path, permissions, fs::read(source).at("read", source)?);
        Ok(self)
    }

    /// Adds a file with this content.
    pub fn file(mut self, path: &str, permissions: u32, content: impl Into<Vec<u8>>) -> Self {
        self.add(path, permissions, content.into());
        self
    }

    fn add(&mut self, path: &str, permissions: u32, content: Vec<u8>) {
        self.files.insert(path.trim_start_matches('/').to_owned(), (permissions, content));
    }

    /// The archive.
    ///
    /// # Errors
    /// A file is too long for the format.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        self.write().at("build", "the initramfs")
    }

    /// Writes the archive to a file.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_to(&self, path: &Path) -> Result<()> {
        fs::write(path, self.to_bytes()?).at("write", path)
    }

    fn write(&self) -> std::io::Result<Vec<u8>> {
        let mut archive = cpio::Writer::new(Vec::new());
        let mut directories: BTreeSet<&str> =
            ["bin", "dev", "modules", "mnt", "proc", "run", "sys", "tmp"].into_iter().collect();
        for path in self.files.keys() {
            directories.extend(path.match_indices('/').map(|(at, _)| &path[..at]));
        }
        for directory in directories {
            archive.directory(directory)?;
        }
        // The kernel opens /dev/console for init before anything is mounted.
        archive.character_device("dev/console", 5, 1)?;
        for applet in APPLETS {
            archive.symlink(&format!("bin/{applet}"), "busybox")?;
        }
        archive.file("modules/order", 0o644, (self.module_order.join("\n") + "\n").as_bytes())?;
        for (path, (permissions, content)) in &self.files {
            archive.file(path, *permissions, content)?;
        }
        archive.finish()
    }
}
