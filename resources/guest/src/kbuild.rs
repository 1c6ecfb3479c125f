//! Builds the guest's own kernel modules against the headers of a kernel.
//!
//! The result is kept in the cache under a name made of all that went into it, so an edited source is built anew
//! and an old result is never taken for a new one.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use lab::{At, Cache, Kernel};

use crate::digest::sha256;
use crate::error::Result;

/// A module's sources.
pub(crate) struct Module {
    name: &'static str,
    files: &'static [(&'static str, &'static str)],
}

macro_rules! module {
    ($name:literal: $($file:literal)*) => {
        Module {
            name: $name,
            files: &[
                ("Makefile", include_str!(concat!("../", $name, "/Makefile"))),
                $(($file, include_str!(concat!("../", $name, "/", $file)))),*
            ],
        }
    };
}

/// All of them.
pub(crate) const MODULES: [Module; 4] = [
    module!("doorbell": "doorbell.h" "main.c" "masking.c"),
    module!("edu": "main.c"),
    module!("hostile": "targets.h" "main.c" "targets.c"),
    module!("ims": "device.h" "domain.h" "queues.h" "main.c" "domain.c" "stores.c" "queues.c" "line.c" "exercise.c" "timer.c"),
];

/// The module's file for this kernel.
pub(crate) fn build(cache: &Cache, kernel: &Kernel, module: &Module) -> Result<PathBuf> {
    let texts = module.files.iter().flat_map(|&(name, text)| [name, text]);
    let inputs: Vec<&str> = texts.chain([kernel.release.as_str()]).collect();
    let parent = cache.root().join(module.name);
    let dir = parent.join(format!("{}-{}", kernel.release, &sha256(inputs.join("\0").as_bytes())[..12]));
    let file = dir.join(format!("{}.ko", module.name));
    if file.is_file() {
        return Ok(file);
    }
    // Built beside its place, by nobody else, and renamed: a module that is there is whole.
    let partial = parent.join(format!(".{}-{}", kernel.release, std::process::id()));
    fs::create_dir_all(&partial).at("create", &partial)?;
    for (name, text) in module.files {
        let path = partial.join(name);
        fs::write(&path, text).at("write", &path)?;
    }
    let mut make = Command::new("make");
    make.arg("-C").arg(&kernel.headers_dir).arg(format!("M={}", partial.display())).arg("modules");
    let output = make.output().map_err(|source| lab::Error::Start { program: "make".into(), source })?;
    if !output.status.success() {
        return Err(lab::Error::Program {
            command: format!("{make:?}"),
            status: output.status.to_string(),
            output: String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned(),
        }
        .into());
    }
    if let Err(error) = fs::rename(&partial, &dir) {
        // Another process was quicker; its module is as good.
        fs::remove_dir_all(&partial).at("remove", &partial)?;
        if !file.is_file() {
            Err::<(), _>(error).at("create", dir)?;
        }
    }
    Ok(file)
}
