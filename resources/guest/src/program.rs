//! Programs of this machine for a guest, with the libraries they load.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::Result;

/// The libraries that a program loads. Each belongs at its own path in the guest.
pub(crate) fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let listed = Command::new("ldd")
        .arg(program)
        .output()
        .map_err(|source| lab::Error::Start { program: "ldd".into(), source })?;
    Ok(listed_files(&String::from_utf8_lossy(&listed.stdout)).collect())
}

/// `libz.so.1 => /lib/libz.so.1 (0x7f..)`, `/lib64/ld-linux-x86-64.so.2 (0x7f..)`; the vDSO has no file.
fn listed_files(listed: &str) -> impl Iterator<Item = PathBuf> + '_ {
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
        let found: Vec<_> = listed_files(listed).collect();
        assert_eq!(
            found,
            ["/lib/x86_64-linux-gnu/libpci.so.3", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from)
        );
    }
}
