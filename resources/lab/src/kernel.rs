//! The two kernels that lab hosts and guests run: which one, and where its files are.
//!
//! Nothing here fetches anything; [`crate::provision`] does, and leaves `kernels/<series>` behind, a symbolic
//! link to the directory of the release that was current then.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::cache::Cache;
use crate::error::{At, Error, Result};

/// A kernel series of Debian. The release within it is resolved when it is fetched.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Hash)]
pub enum Series {
    /// Dynamic MSI-X on the host: VFIO adds single vectors while MSI-X is on.
    V6_12,
    /// No dynamic MSI-X: VFIO says NORESIZE.
    V6_1,
}

impl Series {
    /// Both of them.
    pub const ALL: [Self; 2] = [Self::V6_12, Self::V6_1];

    /// How package names of this series continue after `linux-image-`.
    pub(crate) fn package_prefix(self) -> &'static str {
        match self {
            Self::V6_12 => "6.12.",
            Self::V6_1 => "6.1.",
        }
    }
}

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V6_12 => "6.12",
            Self::V6_1 => "6.1",
        })
    }
}

impl FromStr for Series {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|series| series.to_string() == text)
            .ok_or_else(|| format!("`{text}` is none of the kernels 6.12 and 6.1"))
    }
}

/// A kernel in the cache, extracted but not installed.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Its series.
    pub series: Series,
    /// Its release, as `uname -r` says it.
    pub release: String,
    /// The bzImage.
    pub vmlinuz: PathBuf,
    /// Its `lib/modules/<release>`, with `modules.dep`.
    pub modules_dir: PathBuf,
    /// What `make -C <here> M=<module source> modules` needs to build a module for it.
    pub headers_dir: PathBuf,
}

impl Kernel {
    /// The kernel of this series that was provisioned last.
    ///
    /// # Errors
    /// [`Error::NotProvisioned`].
    pub fn find(cache: &Cache, series: Series) -> Result<Self> {
        let link = cache.root().join("kernels").join(series.to_string());
        let root = link.canonicalize().map_err(|_| Error::NotProvisioned(series))?;
        let release = root.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self {
            series,
            vmlinuz: root.join("boot").join(format!("vmlinuz-{release}")),
            modules_dir: modules_dir(&root, &release),
            headers_dir: root.join("usr/src").join(format!("linux-headers-{release}")),
            release,
        })
    }

    /// The file of a module of this kernel, decompressed.
    ///
    /// # Errors
    /// There is no such module, or it cannot be read.
    pub fn read_module(&self, file: &str) -> Result<Vec<u8>> {
        let path = self.modules_dir.join(file);
        if path.extension().is_some_and(|e| e == "xz") {
            return crate::provision::process::output(
                std::process::Command::new("xz").args(["--decompress", "--stdout"]).arg(&path),
            );
        }
        std::fs::read(&path).at("read", path)
    }
}

/// Where a package put its modules: Debian 13 moved them below `usr`.
pub(crate) fn modules_dir(root: &std::path::Path, release: &str) -> PathBuf {
    let merged = root.join("usr/lib/modules").join(release);
    if merged.is_dir() { merged } else { root.join("lib/modules").join(release) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_reads_back_what_it_prints() {
        for series in Series::ALL {
            assert_eq!(series.to_string().parse(), Ok(series));
        }
        assert!("6.13".parse::<Series>().is_err());
    }
}
