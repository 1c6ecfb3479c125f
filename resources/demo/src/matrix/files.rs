//! What the devices of the matrix hold: a disk of random content, a file for TFTP, and what comes out of the serial port.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use guest::{Result, sha256};
use lab::{At, Cache};

use super::devices::{CODEC, DISK_MIB, Work};

/// The size of the file that is fetched.
const FETCHED_BYTES: u64 = 256 << 10;

/// A directory of this run. It is removed when this is dropped.
pub(super) struct Files(PathBuf);

impl Files {
    pub(super) fn create(cache: &Cache) -> Result<Self> {
        let dir = cache.root().join(format!("matrix-{}", std::process::id()));
        fs::create_dir_all(&dir).at("create", &dir)?;
        let files = Self(dir);
        random(&files.disk(), DISK_MIB << 20)?;
        random(&files.0.join("noise"), FETCHED_BYTES)?;
        Ok(files)
    }

    pub(super) fn dir(&self) -> &Path {
        &self.0
    }

    pub(super) fn disk(&self) -> PathBuf {
        self.0.join("disk")
    }

    /// The digest of what the guest must have seen or sent. `None` if the guest compares by itself.
    pub(super) fn digest(&self, work: Work, bytes: u64) -> Result<Option<String>> {
        let (path, wanted) = match work {
            Work::Disk => (self.disk(), DISK_MIB << 20),
            Work::Link => (self.0.join("noise"), FETCHED_BYTES),
            Work::Serial => (self.0.join("serial"), bytes),
            Work::Codec => return Ok(Some(sha256(CODEC.as_bytes()))),
            Work::Dma => return Ok(None),
        };
        let content = fs::read(&path).at("read", &path)?;
        // The serial port's file goes on from guest to guest.
        let from = content.len().saturating_sub(wanted.try_into().unwrap_or(usize::MAX));
        Ok(Some(sha256(content.get(from..).unwrap_or_default())))
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        // A cache: what is left of it harms nobody.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn random(path: &Path, bytes: u64) -> Result<()> {
    let mut file = fs::File::create(path).at("create", path)?;
    let mut noise = fs::File::open("/dev/urandom").at("read", "/dev/urandom")?.take(bytes);
    std::io::copy(&mut noise, &mut file).at("write", path)?;
    Ok(())
}
