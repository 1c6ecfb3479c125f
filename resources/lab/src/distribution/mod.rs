//! A disk image with Debian, for guests: a GPT and one ext4 file system, which `vmm --boot disk` boots.
//!
//! The packages come from the machine's own mirror, through the private apt. An image is built once for each kernel and recipe, beside its
//! place, and renamed: one that is there is whole. Nobody writes to it; a guest gets a copy, or a disk that forgets.

mod recipe;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cache::Cache;
use crate::error::{At, Error, Result};
use crate::kernel::Series;
use crate::provision::{LazyApt, kernels, process, tools};

/// The size of an image, most of which is a hole.
const IMAGE_MIB: u64 = 4096;
/// What the partition table takes at either end.
const TABLE_MIB: u64 = 1;

/// The image with this kernel, built if it is not there. Says on standard error what it does.
///
/// # Errors
/// Something could not be fetched or built, or only root may build it; the message says what, and what to do.
pub fn distribution(cache: &Cache, series: Series) -> Result<PathBuf> {
    let _lock = cache.lock()?;
    let dir = cache.dir("distribution")?;
    let image = dir.join(format!("debian-{series}-{:016x}.raw", recipe::hash(IMAGE_MIB)));
    if image.is_file() {
        return Ok(image);
    }
    if !rustix::process::geteuid().is_root() {
        return Err(Error::NeedsRoot(
            "a disk image with Debian",
            format!("lab distribution --kernel {series}"),
        ));
    }
    let apt = LazyApt::new(cache);
    apt.install(&tools::missing_for_images())?;
    let partial = dir.join(format!(".{series}"));
    remove(&partial)?;
    let tree = partial.join("tree");
    fs::create_dir_all(&tree).at("create", &tree)?;
    let kernel = kernels::newest_image(apt.get()?, series)?;
    eprintln!("lab: building a Debian disk image with {} (about a minute)", kernel.name);
    let sources = partial.join("sources.list");
    fs::write(&sources, apt.get()?.bookworm()?).at("write", &sources)?;
    let files = partial.join("files");
    recipe::write_files(&files)?;
    process::shown(
        Command::new("mmdebstrap")
            .args(["--variant=minbase", "--mode=root", "--format=directory"])
            .arg(format!("--include={},{}={}", recipe::PACKAGES.join(","), kernel.name, kernel.version))
            // Before the packages that read them. Without more words, cp makes root their owner.
            .arg("--essential-hook=cp -rT --preserve=mode \"$FILES\" \"$1\"")
            .env("FILES", &files)
            .arg(format!("--customize-hook={}", recipe::CUSTOMIZE))
            .arg("bookworm")
            .arg(&tree)
            .arg(&sources),
        &["I: ", "W: ", "E: "],
    )?;
    let disk = partial.join("disk.raw");
    write_disk(&disk, &tree)?;
    fs::rename(&disk, &image).at("rename", &disk)?;
    remove(&partial)?;
    Ok(image)
}

fn write_disk(disk: &Path, tree: &Path) -> Result<()> {
    let file = File::create(disk).at("create", disk)?;
    file.set_len(IMAGE_MIB << 20).at("write", disk)?;
    // sfdisk reads what to do from its standard input, which is empty here.
    let script = format!(
        "echo 'start={TABLE_MIB}MiB, size={}MiB, type=linux' | sfdisk -q -X gpt \"$0\"",
        IMAGE_MIB - 2 * TABLE_MIB
    );
    process::output(Command::new("sh").args(["-c", &script]).arg(disk))?;
    let features = format!("offset={},lazy_itable_init=0", TABLE_MIB << 20);
    process::output(
        Command::new("/sbin/mkfs.ext4")
            .args(["-q", "-F", "-L", recipe::LABEL, "-E", &features, "-d"])
            .arg(tree)
            .arg(disk)
            .arg(format!("{}M", IMAGE_MIB - 2 * TABLE_MIB)),
    )
    .map(drop)
}

/// Removes what an interrupted build left.
fn remove(dir: &Path) -> Result<()> {
    if dir.exists() { fs::remove_dir_all(dir).at("remove", dir) } else { Ok(()) }
}
