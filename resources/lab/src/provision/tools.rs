//! The programs of the machine that the lab host needs, and the packages they come in.

use std::process::Command;

use super::process;

/// The oldest QEMU whose emulation of SVM, the Intel IOMMU and the devices is known to do.
const QEMU_MAJOR: u32 = 10;

/// A package, and the program by which one sees that it is there.
const TOOLS: &[(&str, &str)] = &[
    ("pciutils", "lspci"),
    ("kmod", "depmod"),
    ("xz-utils", "xz"),
    ("make", "make"),
    ("util-linux", "setpriv"),
];

/// The packages that are missing, or too old.
pub(crate) fn missing(compilers: &[String]) -> Vec<String> {
    let mut packages = Vec::new();
    if !qemu_is_recent() {
        packages.extend(["qemu-system-x86".to_owned(), "seabios".to_owned()]);
    }
    packages.extend(
        TOOLS.iter().filter(|(_, program)| !exists(program)).map(|(package, _)| (*package).to_owned()),
    );
    // objtool, which kbuild runs over every module, is linked against it.
    if !installed("libelf1") && !installed("libelf1t64") {
        packages.push("libelf-dev".to_owned());
    }
    packages.extend(compilers.iter().filter(|compiler| !exists(compiler)).cloned());
    packages
}

/// The packages that are missing of those that build disk images, and give the guests a network.
pub(crate) fn missing_for_images() -> Vec<String> {
    const TOOLS: &[(&str, &str)] =
        &[("mmdebstrap", "mmdebstrap"), ("fdisk", "sfdisk"), ("e2fsprogs", "mkfs.ext4"), ("iproute2", "ip")];
    TOOLS.iter().filter(|(_, program)| !exists(program)).map(|(package, _)| (*package).to_owned()).collect()
}

fn qemu_is_recent() -> bool {
    let version = process::text(Command::new("qemu-system-x86_64").arg("--version"));
    version.ok().as_deref().and_then(major_version).is_some_and(|major| major >= QEMU_MAJOR)
}

fn major_version(text: &str) -> Option<u32> {
    text.split_once("version ")?.1.split('.').next()?.parse().ok()
}

fn exists(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).map(|dir| dir.join(program));
    // Administrators' programs are not in every user's path.
    places
        .chain([format!("/usr/sbin/{program}").into(), format!("/sbin/{program}").into()])
        .any(|file| file.is_file())
}

fn installed(package: &str) -> bool {
    process::text(Command::new("dpkg-query").args(["-W", "-f", "${db:Status-Status}", package]))
        .is_ok_and(|status| status == "installed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_qemu_is_read() {
        assert_eq!(major_version("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)"), Some(10));
        assert_eq!(major_version("nonsense"), None);
    }
}
