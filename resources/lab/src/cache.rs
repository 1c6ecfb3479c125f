//! Where everything that was fetched or built is kept.
//!
//! One directory, `target/lab` unless `$VM_MSI_CACHE` names another. Deleting it is always safe: the next
//! `lab provision` fetches it again. Several checkouts may share one; writers take [`Cache::lock`].

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::error::{At, Result};

/// The cache directory.
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// The cache of this checkout: `$VM_MSI_CACHE`, else `lab` in cargo's target directory.
    ///
    /// # Errors
    /// The directory cannot be created.
    pub fn open() -> Result<Self> {
        let root = match std::env::var_os("VM_MSI_CACHE") {
            Some(dir) => PathBuf::from(dir),
            None => target_dir().join("lab"),
        };
        Self::at(root)
    }

    /// A cache in a directory of the caller's choice.
    ///
    /// # Errors
    /// The directory cannot be created.
    pub fn at(root: impl Into<PathBuf>) -> Result<Self> {
        let root = root.into();
        fs::create_dir_all(&root).at("create", &root)?;
        // The lab host sees the same paths, so they must not depend on a working directory.
        let root = root.canonicalize().at("resolve", &root)?;
        Ok(Self { root })
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A subdirectory, created.
    pub(crate) fn dir(&self, name: &str) -> Result<PathBuf> {
        let dir = self.root.join(name);
        fs::create_dir_all(&dir).at("create", &dir)?;
        Ok(dir)
    }

    /// The static busybox that every initramfs is built around.
    pub fn busybox(&self) -> PathBuf {
        self.root.join("busybox")
    }

    /// Waits until no other process provisions into this cache. Released when the file is closed.
    pub(crate) fn lock(&self) -> Result<File> {
        let path = self.root.join("lock");
        let file = File::create(&path).at("create", &path)?;
        file.lock().at("lock", &path)?;
        Ok(file)
    }
}

/// Cargo's target directory of this workspace.
pub(crate) fn target_dir() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => project_dir().join("target"),
    }
}

/// The directory of the workspace this crate was built from.
pub(crate) fn project_dir() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_path_buf()
}
