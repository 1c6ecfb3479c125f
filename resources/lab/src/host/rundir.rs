//! The files of one running lab host: below `run/` in the cache, and gone when it is.
//!
//! Named after our process, so that what a killed process left behind is found and removed at the next start.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::cache::Cache;
use crate::error::{At, Result};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A directory that is removed on drop.
#[derive(Debug)]
pub(super) struct RunDir {
    path: PathBuf,
    name: String,
}

impl RunDir {
    /// A new one; stale ones are removed.
    pub(super) fn new(cache: &Cache) -> Result<Self> {
        let parent = cache.dir("run")?;
        remove_stale(&parent);
        let name = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = parent.join(&name);
        let scratch = path.join("scratch");
        fs::create_dir_all(&scratch).at("create", &scratch)?;
        Ok(Self { path, name: format!("vm-msi-lab-{name}") })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// A name nobody else on this machine uses now.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The directory that the lab host may write to.
    pub(super) fn scratch(&self) -> PathBuf {
        self.path.join("scratch")
    }

    /// An image of zeros.
    pub(super) fn blank_disk(&self, number: usize, size: u64) -> Result<PathBuf> {
        let path = self.path.join(format!("disk{number}"));
        File::create(&path).and_then(|file| file.set_len(size)).at("create", &path)?;
        Ok(path)
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        // What cannot be removed now is removed at the next start.
        let _ = fs::remove_dir_all(&self.path);
    }
}

fn remove_stale(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.split('-').next().unwrap_or_default();
        if !Path::new("/proc").join(owner).exists() {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
