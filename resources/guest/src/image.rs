//! What a guest boots: a stock Debian kernel, and an initramfs with our init, busybox, nvme and our drivers.
//!
//! Initramfs files are kept in the cache under the digest of their content.

use std::fs;
use std::path::{Path, PathBuf};

use lab::{At, Cache, Initramfs, Kernel, Series};

use crate::built::built;
use crate::digest::sha256;
use crate::error::{Error, Result};
use crate::kbuild::{self, MODULES};
use crate::{drivers, program};

const INIT: &str = include_str!("../init.sh");
const LSPCI: &str = "/usr/bin/lspci";

/// What a guest has besides busybox.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Tools {
    /// Nothing: the smallest image, and the quickest to boot.
    None,
    /// The machine's `lspci`, for the job of that name: busybox's cannot read capabilities. Its libraries make the
    /// image 10 MiB bigger.
    Lspci,
    /// Our `random-reads`, for the job `reads`.
    Reads,
    /// Our `bar-accesses`, for the job `bars`.
    Bars,
    /// Our `socket-peer`, for the jobs `listen` and `exchange`.
    Sockets,
}

impl Tools {
    /// Where the guest has the program, and the program.
    fn program(self) -> Result<Option<(&'static str, PathBuf)>> {
        match self {
            Self::None => Ok(None),
            Self::Lspci if Path::new(LSPCI).is_file() => Ok(Some((LSPCI, LSPCI.into()))),
            Self::Lspci => Err(Error::NoProgram("lspci")),
            Self::Reads => Ok(Some(("/bin/random-reads", built("random-reads")?))),
            Self::Bars => Ok(Some(("/bin/bar-accesses", built("bar-accesses")?))),
            Self::Sockets => Ok(Some(("/bin/socket-peer", built("socket-peer")?))),
        }
    }
}

/// A kernel and the initramfs for it.
#[derive(Clone, Debug)]
pub struct Image {
    /// The kernel.
    pub kernel: Kernel,
    /// The initramfs.
    pub initramfs: PathBuf,
}

impl Image {
    /// The image of this kernel, built if it is not there.
    ///
    /// # Errors
    /// The kernel was not provisioned, a driver does not build, or the cache cannot be written.
    pub fn build(cache: &Cache, series: Series, tools: Tools) -> Result<Self> {
        Self::with_drivers(cache, series, tools, &[])
    }

    /// The image of this kernel, with its drivers for devices of these modaliases too.
    ///
    /// # Errors
    /// As [`Image::build`].
    pub fn with_drivers(cache: &Cache, series: Series, tools: Tools, modaliases: &[String]) -> Result<Self> {
        let kernel = Kernel::find(cache, series)?;
        let mut modules = vec!["nvme".to_owned()];
        for modalias in modaliases {
            modules.extend(drivers::of(&kernel, modalias)?);
        }
        let mut initramfs =
            Initramfs::new(cache, INIT)?.modules(&kernel, modules.iter().map(String::as_str))?;
        for module in &MODULES {
            initramfs = initramfs.module_file(&kbuild::build(cache, &kernel, module)?)?;
        }
        if let Some((path, program)) = tools.program()? {
            initramfs = initramfs.file_from(path, 0o755, &program)?;
            for library in program::libraries(&program)? {
                initramfs = initramfs.file_from(&library.to_string_lossy(), 0o755, &library)?;
            }
        }
        let bytes = initramfs.to_bytes()?;
        let dir = cache.root().join("guest");
        fs::create_dir_all(&dir).at("create", &dir)?;
        let path = dir.join(format!("{}-{}.cpio", kernel.release, &sha256(&bytes)[..12]));
        if !path.is_file() {
            let partial = dir.join(format!(".{}", std::process::id()));
            fs::write(&partial, bytes).at("write", &partial)?;
            fs::rename(&partial, &path).at("create", &path)?;
        }
        Ok(Self { kernel, initramfs: path })
    }
}
