//! What is in the image: packages, a few files, and what is done at the end.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::error::{At, Result};

/// The label of the root file system, which `fstab` and the boot loader's entries name.
pub(super) const LABEL: &str = "guest-root";

/// The system, and below it the programs that tests run.
pub(super) const PACKAGES: &[&str] = &[
    "systemd-sysv",
    "systemd-timesyncd",
    "udev",
    "dbus",
    "login",
    "kmod",
    "initramfs-tools",
    "zstd",
    "e2fsprogs",
    "logsave",
    "iproute2",
    "iputils-ping",
    "netcat-openbsd",
    "procps",
    "less",
    "nano",
    "pciutils",
    // Programs for tests.
    "fio",
    "iperf3",
    "rng-tools5",
    "stress-ng",
    "rt-tests",
    "acpica-tools",
    "nvme-cli",
];

/// Root has no password: the guest's console is the only way in.
pub(super) const CUSTOMIZE: &str = "set -e
chroot \"$1\" passwd -qd root
systemctl -q --root=\"$1\" enable systemd-networkd
: >\"$1/etc/machine-id\"
test -s \"$1\"/boot/loader/entries/*.conf";

/// Path, permissions and content.
const FILES: &[(&str, u32, &str)] = &[
    ("etc/hostname", 0o644, "guest\n"),
    ("etc/hosts", 0o644, "127.0.0.1 localhost\n127.0.1.1 guest\n"),
    ("etc/fstab", 0o644, "LABEL=guest-root / ext4 defaults 0 1\n"),
    ("etc/systemd/network/50-host.network", 0o644, include_str!("files/50-host.network")),
    ("etc/initramfs-tools/conf.d/guest", 0o644, "MODULES=list\n"),
    ("etc/initramfs-tools/modules", 0o644, "virtio_pci\nvirtio_blk\nnvme\next4\n"),
    ("etc/kernel/postinst.d/zz-loader-entry", 0o755, include_str!("files/zz-loader-entry")),
    ("etc/kernel/postrm.d/zz-loader-entry", 0o755, include_str!("files/zz-loader-entry")),
];

/// Changes with the recipe, so that an image of another one is not taken for this one's.
pub(super) fn hash(size: u64) -> u64 {
    let mut hasher = DefaultHasher::new();
    (LABEL, PACKAGES, CUSTOMIZE, FILES, size).hash(&mut hasher);
    hasher.finish()
}

/// Writes the files below a directory.
pub(super) fn write_files(root: &Path) -> Result<()> {
    for (path, permissions, content) in FILES {
        let path = root.join(path);
        let dir = path.parent().unwrap_or(root);
        fs::create_dir_all(dir).at("create", dir)?;
        fs::write(&path, content).at("write", &path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(*permissions)).at("write", &path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_system_has_one_name() {
        let names_it = |(_, _, content): &&(&str, u32, &str)| content.contains(LABEL);
        assert_eq!(FILES.iter().filter(names_it).count(), 3);
        assert!(LABEL.len() <= 16, "ext4 takes no longer label");
    }
}
