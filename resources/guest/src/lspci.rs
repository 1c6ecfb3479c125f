//! The machine's own `lspci` with the libraries it loads, as files for a guest: busybox's cannot read capabilities.

use std::path::PathBuf;
use std::process::Command;

use crate::error::{Error, Result};

const PROGRAM: &str = "/usr/bin/lspci";

/// The program and its libraries. Each belongs at its own path in the guest.
pub(crate) fn files() -> Result<Vec<PathBuf>> {
    let program = PathBuf::from(PROGRAM);
    if !program.is_file() {
        return Err(Error::NoProgram("lspci"));
    }
    let listed = Command::new("ldd")
        .arg(&program)
        .output()
        .map_err(|source| Error::Start { program: "ldd".into(), source })?;
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    Ok(std::iter::once(program).chain(libraries(&listed)).collect())
}

/// `libz.so.1 => /lib/libz.so.1 (0x7f..)`, `/lib64/ld-linux-x86-64.so.2 (0x7f..)`; the vDSO has no file.
fn libraries(listed: &str) -> impl Iterator<Item = PathBuf> + '_ {
    listed
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_found_and_the_vdso_is_not() {
        let listed = "\tlinux-vdso.so.1 (0x00007f45b12ac000)\n\
                      \tlibpci.so.3 => /lib/x86_64-linux-gnu/libpci.so.3 (0x00007f45b126f000)\n\
                      \t/lib64/ld-linux-x86-64.so.2 (0x00007f45b12ae000)\n";
        let found: Vec<_> = libraries(listed).collect();
        assert_eq!(
            found,
            ["/lib/x86_64-linux-gnu/libpci.so.3", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from)
        );
    }
}
