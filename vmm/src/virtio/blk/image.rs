//! The file of a disk: a raw image or a block device of the host.
//!
//! It is checked and locked before the guest starts. The lock is an open file description lock of the whole file
//! (fcntl(2)), which conflicts with those of QEMU: shared for a reader, exclusive for a writer. It ends with the file.
//!
//! Contains `unsafe` for that lock, which rustix does not have.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes in a sector, the unit of the device's addresses.
pub(super) const SECTOR: u64 = 512;

/// Whether the guest may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageAccess {
    /// Reads and writes.
    ReadWrite,
    /// Reads only.
    ReadOnly,
}

/// An open image.
#[derive(Clone, Debug)]
pub struct DiskImage {
    file: Arc<File>,
    path: PathBuf,
    access: ImageAccess,
    bytes: u64,
}

impl DiskImage {
    /// Opens and locks an image.
    ///
    /// # Errors
    /// The problem and its remedy, for a person.
    pub fn open(path: &Path, access: ImageAccess) -> Result<Self, String> {
        // Before the file is opened: opening a FIFO would wait.
        let kind = std::fs::metadata(path).map_err(|error| error.to_string())?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err("not a regular file or block device".to_owned());
        }
        let is_writable = access == ImageAccess::ReadWrite;
        let file = OpenOptions::new().read(true).write(is_writable).open(path);
        let mut file = file.map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem if is_writable => {
                format!("{error}; with readonly=on it is not written")
            }
            _ => error.to_string(),
        })?;
        match lock(&file, access) {
            Ok(()) => {}
            Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => {
                return Err("in use by another VMM or disk; a writer needs the image for itself".to_owned());
            }
            // Some network file systems.
            Err(error) => tracing::warn!("--disk {}: cannot lock it: {error}", path.display()),
        }
        let bytes = file.seek(SeekFrom::End(0)).map_err(|error| error.to_string())?;
        if bytes < SECTOR {
            return Err(format!("has {bytes} bytes; a disk has at least one sector of 512"));
        }
        if !bytes.is_multiple_of(SECTOR) {
            let rest = bytes % SECTOR;
            tracing::warn!("--disk {}: its last {rest} bytes are no sector, and not shown", path.display());
        }
        Ok(Self { file: Arc::new(file), path: path.to_owned(), access, bytes })
    }

    /// The file.
    pub(in crate::virtio) fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// The file, to be read before the guest starts.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub fn reader(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Its path, for messages.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the guest may write.
    #[must_use]
    pub fn access(&self) -> ImageAccess {
        self.access
    }

    /// Number of whole sectors.
    #[must_use]
    pub fn sectors(&self) -> u64 {
        self.bytes / SECTOR
    }
}

/// Locks the whole file, without waiting.
fn lock(file: &File, access: ImageAccess) -> io::Result<()> {
    let kind = match access {
        ImageAccess::ReadWrite => libc::F_WRLCK,
        ImageAccess::ReadOnly => libc::F_RDLCK,
    };
    let (l_type, l_whence) = (kind as libc::c_short, libc::SEEK_SET as libc::c_short);
    let whole = libc::flock { l_type, l_whence, l_start: 0, l_len: 0, l_pid: 0 };
    // SAFETY: the system call reads `whole`, which outlives it.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const whole) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn scratch(name: &str, bytes: usize) -> PathBuf {
        let path = std::env::temp_dir().join(format!("vmm-image-{}-{name}", std::process::id()));
        fs::write(&path, vec![0; bytes]).unwrap();
        path
    }

    #[test]
    fn an_image_has_whole_sectors() {
        for (bytes, sectors) in [(512, 1), (513, 1), (1 << 20, 2048), ((1 << 20) - 1, 2047)] {
            let path = scratch(&format!("size-{bytes}"), bytes);
            assert_eq!(DiskImage::open(&path, ImageAccess::ReadWrite).unwrap().sectors(), sectors);
            fs::remove_file(path).unwrap();
        }
        let path = scratch("short", 511);
        assert!(DiskImage::open(&path, ImageAccess::ReadWrite).unwrap_err().contains("at least one sector"));
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_writer_has_an_image_for_itself_and_readers_share_it() {
        use ImageAccess::{ReadOnly, ReadWrite};
        let path = scratch("lock", 4096);
        let open = |access| DiskImage::open(&path, access);
        let writer = open(ReadWrite).unwrap();
        for access in [ReadOnly, ReadWrite] {
            assert!(open(access).unwrap_err().contains("in use"));
        }
        drop(writer);
        let readers = [open(ReadOnly).unwrap(), open(ReadOnly).unwrap()];
        assert!(open(ReadWrite).unwrap_err().contains("in use"));
        drop(readers);
        assert!(open(ReadWrite).is_ok());
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn what_is_no_image_is_refused() {
        let refused = |path: &str| DiskImage::open(Path::new(path), ImageAccess::ReadOnly).unwrap_err();
        assert!(refused("/nonexistent/disk").contains("No such file"));
        for path in ["/", "/dev/null"] {
            assert!(refused(path).contains("not a regular file or block device"));
        }
    }
}
