//! Gets what the lab host needs: programs, kernels, busybox. Safe to call at any time; quick when all is there.
//!
//! Programs are installed (by root) from the machine's own Debian mirror through a private apt configuration;
//! kernels and busybox are downloaded and extracted into the [`Cache`], and not installed.

mod apt;
pub(crate) mod kernels;
mod mirror;
pub(crate) mod process;
pub(crate) mod tools;

use std::cell::OnceCell;
use std::fs;

use crate::cache::Cache;
use crate::error::{At, Error, Result};
use crate::kernel::{Kernel, Series};

/// What to do about a kernel that is in the cache already.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Refresh {
    /// Use it.
    Keep,
    /// Fetch the current release of its series, if there is a newer one.
    Newest,
}

/// Makes sure that programs and these kernels are there, and says on standard error what it does.
///
/// # Errors
/// Something could not be fetched or installed; the message says what, and what to do.
pub fn provision(cache: &Cache, series: &[Series], refresh: Refresh) -> Result<Vec<Kernel>> {
    let _lock = cache.lock()?;
    let apt = LazyApt::new(cache);
    // Programs first: a kernel that is extracted needs depmod.
    apt.install(&tools::missing(&[]))?;
    if !cache.busybox().is_file() {
        fetch_busybox(apt.get()?, cache)?;
    }
    let mut found = Vec::new();
    for &series in series {
        if refresh == Refresh::Newest || Kernel::find(cache, series).is_err() {
            kernels::fetch(apt.get()?, cache, series)?;
        }
        let kernel = Kernel::find(cache, series)?;
        apt.install(&tools::missing(&kernels::compilers(&kernel)))?;
        found.push(kernel);
    }
    Ok(found)
}

/// The private apt, made ready when it is first needed: where all is there, no list is fetched.
pub(crate) struct LazyApt<'a> {
    cache: &'a Cache,
    apt: OnceCell<apt::Apt>,
}

impl<'a> LazyApt<'a> {
    pub(crate) fn new(cache: &'a Cache) -> Self {
        Self { cache, apt: OnceCell::new() }
    }

    pub(crate) fn get(&self) -> Result<&apt::Apt> {
        if let Some(apt) = self.apt.get() {
            return Ok(apt);
        }
        eprintln!("lab: reading the package lists of the machine's Debian mirror");
        let apt = apt::Apt::new(self.cache)?;
        Ok(self.apt.get_or_init(|| apt))
    }

    pub(crate) fn install(&self, packages: &[String]) -> Result<()> {
        if packages.is_empty() {
            return Ok(());
        }
        if !rustix::process::geteuid().is_root() {
            return Err(Error::MissingPackages(packages.join(" ")));
        }
        eprintln!("lab: installing {}", packages.join(" "));
        self.get()?.install(packages)
    }
}

fn fetch_busybox(apt: &apt::Apt, cache: &Cache) -> Result<()> {
    eprintln!("lab: fetching busybox");
    let partial = cache.root().join(".busybox");
    apt.extract(&["busybox-static".to_owned()], &partial)?;
    let binary =
        ["bin/busybox", "usr/bin/busybox"].map(|path| partial.join(path)).into_iter().find(|p| p.is_file());
    let binary = binary.unwrap_or_else(|| partial.join("bin/busybox"));
    fs::rename(&binary, cache.busybox()).at("take", &binary)?;
    fs::remove_dir_all(&partial).at("remove", &partial)
}
