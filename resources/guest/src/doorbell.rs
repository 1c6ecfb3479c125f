//! Builds `doorbell.ko`, the guest's driver for QEMU's ivshmem doorbell, against the headers of a kernel.
//!
//! The result is kept in the cache under a name made of all that went into it, so an edited source is built anew
//! and an old result is never taken for a new one.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use lab::{Cache, Kernel};

use crate::error::{At, Error, Result};
use crate::sha256;

const SOURCE: &str = include_str!("../doorbell/doorbell.c");
const MAKEFILE: &str = include_str!("../doorbell/Makefile");

/// The module's file for this kernel.
pub(crate) fn build(cache: &Cache, kernel: &Kernel) -> Result<PathBuf> {
    let inputs = sha256([SOURCE, MAKEFILE, &kernel.release].join("\0").as_bytes());
    let parent = cache.root().join("doorbell");
    let dir = parent.join(format!("{}-{}", kernel.release, &inputs[..12]));
    let module = dir.join("doorbell.ko");
    if module.is_file() {
        return Ok(module);
    }
    // Built beside its place, by nobody else, and renamed: a module that is there is whole.
    let partial = parent.join(format!(".{}-{}", kernel.release, std::process::id()));
    fs::create_dir_all(&partial).at("create", &partial)?;
    for (name, text) in [("doorbell.c", SOURCE), ("Makefile", MAKEFILE)] {
        let path = partial.join(name);
        fs::write(&path, text).at("write", &path)?;
    }
    let mut make = Command::new("make");
    make.arg("-C").arg(&kernel.headers_dir).arg(format!("M={}", partial.display())).arg("modules");
    let output = make.output().map_err(|source| Error::Start { program: "make".into(), source })?;
    if !output.status.success() {
        return Err(Error::Program {
            command: format!("{make:?}"),
            status: output.status.to_string(),
            output: String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned(),
        });
    }
    if let Err(error) = fs::rename(&partial, &dir) {
        // Another process was quicker; its module is as good.
        fs::remove_dir_all(&partial).at("remove", &partial)?;
        if !module.is_file() {
            return Err(error).at("create", dir);
        }
    }
    Ok(module)
}
