//! What the guest boots: kernel, initial RAM disk and command line, from files or from the first disk.

use std::fs::File;
use std::io::Seek;
use std::path::Path;

use super::{DiskConfig, size_argument};
use crate::boot::disk;
use crate::boot::image::Image;
use crate::cli::{Args, BootSource};
use crate::error::{Error, Result};
use crate::layout;

/// Kernel, initial RAM disk and command line.
#[derive(Debug)]
pub(super) struct Boot {
    pub(super) kernel: Image,
    pub(super) initrd: Option<Initrd>,
    pub(super) cmdline: String,
}

/// An initial RAM disk.
#[derive(Debug)]
pub struct Initrd {
    /// The file, positioned at its start.
    pub file: File,
    /// The file's size in bytes, not 0.
    pub size: u64,
    /// The argument and path, for messages.
    pub name: String,
}

impl Boot {
    /// Opens what the arguments name. It fits `memory`, the guest's memory in bytes.
    pub(super) fn open(args: &Args, disks: &[DiskConfig], memory: u64) -> Result<Self> {
        check_cmdline(&args.cmdline)?;
        let boot = match (args.boot, &args.kernel) {
            (Some(BootSource::Disk), _) => Self::from_disk(disks, &args.cmdline, memory)?,
            (None, Some(kernel)) => Self {
                kernel: open_kernel(kernel)?,
                initrd: args.initrd.as_deref().map(open_initrd).transpose()?,
                cmdline: args.cmdline.clone(),
            },
            // The parser demands one of them.
            (None, None) => return Err(Error::input("--kernel", "is missing")),
        };
        let files = boot.kernel.size().saturating_add(boot.initrd.as_ref().map_or(0, |initrd| initrd.size));
        if files >= memory {
            let problem = format!("kernel and initrd take {} MiB; give more", files / layout::MIB);
            return Err(Error::input(size_argument(memory), problem));
        }
        Ok(boot)
    }

    /// What the first disk's boot loader would boot. `cmdline` comes behind the command line of its entry.
    fn from_disk(disks: &[DiskConfig], cmdline: &str, memory: u64) -> Result<Self> {
        let none = || Error::input("--boot disk", "there is no disk; give one with --disk path=FILE");
        let image = &disks.first().ok_or_else(none)?.image;
        let name = format!("--boot disk: {}", image.path().display());
        let reader = image.reader().map_err(|error| Error::input(&name, error))?;
        let found = disk::find(reader, memory).map_err(|problem| Error::input(&name, problem))?;
        let name = format!("{name}: {}", found.source);
        let rewound = |mut file: File| {
            file.rewind().map_err(|error| Error::host(&name, error))?;
            Ok(file)
        };
        let kernel = Image::open(name.clone(), rewound(found.kernel)?);
        let initrd = found.initrd.map(|file| {
            let file = rewound(file)?;
            let size = file.metadata().map_err(|error| Error::host(&name, error))?.len();
            Ok(Initrd { file, size, name: name.clone() })
        });
        let cmdline = format!("{} {cmdline}", found.cmdline).trim().to_owned();
        check_cmdline(&cmdline)?;
        Ok(Self {
            kernel: kernel.map_err(|problem| Error::input(&name, problem))?,
            initrd: initrd.transpose()?.filter(|initrd| initrd.size > 0),
            cmdline,
        })
    }
}

fn open(argument: &str, path: &Path) -> Result<(File, u64, String)> {
    let name = format!("{argument} {}", path.display());
    let file = File::open(path).map_err(|error| Error::input(&name, error))?;
    let metadata = file.metadata().map_err(|error| Error::input(&name, error))?;
    if !metadata.is_file() {
        return Err(Error::input(name, "not a regular file"));
    }
    if metadata.len() == 0 {
        return Err(Error::input(name, "the file is empty"));
    }
    Ok((file, metadata.len(), name))
}

fn open_kernel(path: &Path) -> Result<Image> {
    let (file, _, name) = open("--kernel", path)?;
    Image::open(name.clone(), file).map_err(|problem| Error::input(name, problem))
}

fn open_initrd(path: &Path) -> Result<Initrd> {
    let (file, size, name) = open("--initrd", path)?;
    Ok(Initrd { file, size, name })
}

fn check_cmdline(cmdline: &str) -> Result<()> {
    if cmdline.len() >= layout::COMMAND_LINE_SIZE {
        let most = layout::COMMAND_LINE_SIZE - 1;
        return Err(Error::input("--cmdline", format!("{} bytes, the kernel takes {most}", cmdline.len())));
    }
    if !cmdline.bytes().all(|byte| byte == b'\t' || (b' '..=b'~').contains(&byte)) {
        return Err(Error::input("--cmdline", "has characters that are not printable ASCII"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines_fit_the_kernel() {
        assert!(check_cmdline("console=ttyS0 quiet").is_ok());
        assert!(check_cmdline(&"x".repeat(2047)).is_ok());
        assert!(check_cmdline(&"x".repeat(2048)).is_err());
        assert!(check_cmdline("a\nb").is_err());
        assert!(check_cmdline("a\0b").is_err());
    }
}
