//! A boot entry: the files of one kernel in a file system, and its command line.

/// A boot entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// The file that has it, for messages.
    pub(super) name: String,
    /// Absolute path of the kernel.
    pub(super) kernel: String,
    /// Absolute paths of the initial RAM disks, in order.
    pub(super) initrds: Vec<String>,
    /// The kernel command line.
    pub(super) cmdline: String,
}

/// The words of a command line, without those that contain a variable of the boot loader.
pub(super) fn without_variables<'a>(words: impl Iterator<Item = &'a str>) -> String {
    words.filter(|word| !word.contains('$')).collect::<Vec<_>>().join(" ")
}

/// A path from the root of its file system. GRUB writes a device before it, such as `(hd0,gpt1)` or `($root)`.
pub(super) fn absolute(path: &str) -> String {
    let path = match path.split_once(')') {
        Some((device, rest)) if device.starts_with('(') => rest,
        _ => path,
    };
    format!("/{}", path.trim_start_matches('/'))
}
