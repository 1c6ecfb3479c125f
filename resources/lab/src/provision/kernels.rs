//! Fetches kernels with their headers, and makes the extracted trees usable where they lie.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::apt::{Apt, Dependency, Package};
use super::process;
use crate::cache::Cache;
use crate::error::{At, Error, Result};
use crate::kernel::{self, Kernel, Series};

/// The newest of a series among the packages that a metapackage depends on.
fn newest(apt: &Apt, series: Series, metapackage: &str, stem: &str) -> Result<Package> {
    let prefix = format!("{stem}{}", series.package_prefix());
    let found = apt.exact_dependencies(metapackage)?;
    // apt lists the newest version first.
    found.into_iter().find(|p| p.name.starts_with(&prefix)).ok_or(Error::NoKernel(series))
}

/// The package of a series' current release.
pub(crate) fn newest_image(apt: &Apt, series: Series) -> Result<Package> {
    newest(apt, series, "linux-image-amd64", "linux-image-")
}

/// Fetches the current release of a series, unless it is there.
pub(crate) fn fetch(apt: &Apt, cache: &Cache, series: Series) -> Result<()> {
    let image = newest_image(apt, series)?;
    let headers = newest(apt, series, "linux-headers-amd64", "linux-headers-")?;
    let release = image.name.trim_start_matches("linux-image-").to_owned();
    let kernels = cache.dir("kernels")?;
    let root = kernels.join(&release);
    if !root.is_dir() {
        eprintln!("lab: fetching kernel {release} and its headers");
        let depends = apt.dependencies(&headers)?;
        let companions = depends
            .iter()
            .filter(|Dependency { name, .. }| {
                (name.starts_with("linux-headers-") && name.ends_with("-common"))
                    || name.starts_with("linux-kbuild-")
            })
            .map(Dependency::request);
        let packages: Vec<String> = [&image, &headers]
            .map(|p| format!("{}={}", p.name, p.version))
            .into_iter()
            .chain(companions)
            .collect();
        // Built beside its place and renamed: a tree that is there is whole.
        let partial = kernels.join(format!(".{release}"));
        if partial.exists() {
            fs::remove_dir_all(&partial).at("remove", &partial)?;
        }
        apt.extract(&packages, &partial)?;
        settle_headers(&partial, &release)?;
        let compilers: BTreeSet<_> = depends.iter().filter_map(|d| compiler(&d.name)).collect();
        let list = partial.join("compilers");
        fs::write(&list, compilers.into_iter().collect::<Vec<_>>().join("\n")).at("write", list)?;
        process::output(
            Command::new("/sbin/depmod").arg("-b").arg(module_base(&partial, &release)).arg(&release),
        )?;
        fs::rename(&partial, &root).at("rename", &partial)?;
    }
    point(&kernels.join(series.to_string()), &release)
}

/// The compilers that the headers of a kernel in the cache ask for.
pub(crate) fn compilers(kernel: &Kernel) -> Vec<String> {
    let list = kernel.headers_dir.ancestors().nth(3).map(|root| root.join("compilers"));
    let text = list.and_then(|list| fs::read_to_string(list).ok()).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// Headers depend on `gcc-12`, older ones on `linux-compiler-gcc-12-x86`.
fn compiler(dependency: &str) -> Option<String> {
    let name = dependency.trim_start_matches("linux-compiler-").trim_end_matches("-x86");
    name.strip_prefix("gcc-")?.parse::<u32>().ok().map(|_| name.to_owned())
}

/// Debian's headers name their other half by its installed path; ours lies elsewhere, and may be moved.
fn settle_headers(root: &Path, release: &str) -> Result<()> {
    let headers = root.join("usr/src").join(format!("linux-headers-{release}"));
    // The kernel's type information: with it, kbuild would want pahole to add a module's own, which nobody reads.
    let types = headers.join("vmlinux");
    if types.exists() {
        fs::remove_file(&types).at("remove", &types)?;
    }
    let makefile = headers.join("Makefile");
    let text = fs::read_to_string(&makefile).at("read", &makefile)?;
    let text = text.replace("/usr/src/", "$(dir $(realpath $(lastword $(MAKEFILE_LIST))))../");
    fs::write(&makefile, text).at("write", &makefile)
}

/// The directory below which depmod looks for `lib/modules`.
fn module_base(root: &Path, release: &str) -> PathBuf {
    let modules = kernel::modules_dir(root, release);
    modules.ancestors().nth(3).unwrap_or(root).to_path_buf()
}

/// Points a symbolic link at a target, in one step.
fn point(link: &Path, target: &str) -> Result<()> {
    if fs::read_link(link).is_ok_and(|old| old == Path::new(target)) {
        return Ok(());
    }
    let new = link.with_extension("new");
    let _ = fs::remove_file(&new);
    std::os::unix::fs::symlink(target, &new).at("create", &new)?;
    fs::rename(&new, link).at("rename", new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compilers_are_found_among_dependencies() {
        assert_eq!(compiler("linux-compiler-gcc-12-x86").as_deref(), Some("gcc-12"));
        assert_eq!(compiler("gcc-14").as_deref(), Some("gcc-14"));
        assert_eq!(compiler("gcc-12-base"), None);
        assert_eq!(compiler("linux-kbuild-6.12.95"), None);
    }
}
