//! The programs of this workspace.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// A program of this workspace, as `cargo build --release` leaves it.
///
/// # Errors
/// It was not built.
pub fn built(name: &'static str) -> Result<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let workspace = here.ancestors().nth(2).unwrap_or(here);
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), PathBuf::from);
    resolved(name, target.join("release").join(name))
}

/// The program of this name at `path`, which must exist.
pub(crate) fn resolved(name: &'static str, path: PathBuf) -> Result<PathBuf> {
    path.canonicalize().map_err(|_| Error::NotBuilt { name, path })
}
