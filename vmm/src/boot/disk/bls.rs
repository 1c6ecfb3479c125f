//! Boot Loader Specification entries, type 1 (UAPI group, Boot Loader Specification): `/loader/entries/*.conf` on the EFI system partition
//! or XBOOTLDR, and `/boot/loader/entries/*.conf` on a root file system.
//!
//! The entry that `loader.conf` calls the default is taken, else the first in the specification's order: entries with a sort key, then
//! by machine ID, then the newest version. Paths begin at the root of the file system with the entry.

use std::cmp::Ordering;

use super::DiskError;
use super::entry::{Entry, absolute, without_variables};
use super::filesystem::FileSystem;
use super::version;

const LOADERS: [&str; 2] = ["/loader", "/boot/loader"];
/// The value of `architecture` for this machine.
const ARCHITECTURE: &str = "x64";

/// A parsed entry.
#[derive(Debug, Default, PartialEq, Eq)]
struct Item {
    /// The file's name without `.conf`.
    id: String,
    version: String,
    machine_id: String,
    sort_key: String,
    architecture: String,
    linux: String,
    initrds: Vec<String>,
    options: Vec<String>,
}

/// The entry of the first directory that has one.
pub(super) fn find(filesystem: &FileSystem) -> Result<Option<Entry>, DiskError> {
    for loader in LOADERS {
        let directory = format!("{loader}/entries");
        let mut items = Vec::new();
        for name in filesystem.list(&directory)? {
            let Some(id) = name.strip_suffix(".conf") else { continue };
            if let Some(text) = filesystem.read_text(&format!("{directory}/{name}"))? {
                items.extend(parse(id, &text));
            }
        }
        items.sort_by(order);
        let settings = filesystem.read_text(&format!("{loader}/loader.conf"))?.unwrap_or_default();
        let default = items.iter().find(|item| is_default(&settings, &item.id));
        if let Some(item) = default.or(items.first()) {
            return Ok(Some(Entry {
                name: format!("{directory}/{}.conf", item.id),
                kernel: absolute(&item.linux),
                initrds: item.initrds.iter().map(|path| absolute(path)).collect(),
                cmdline: without_variables(item.options.iter().flat_map(|line| line.split_whitespace())),
            }));
        }
    }
    Ok(None)
}

/// Parses an entry. Returns `None` if it has no Linux kernel for this machine.
fn parse(id: &str, text: &str) -> Option<Item> {
    let mut item = Item { id: id.to_owned(), ..Item::default() };
    for (key, value) in fields(text) {
        let value = value.to_owned();
        match key {
            "version" => item.version = value,
            "machine-id" => item.machine_id = value,
            "sort-key" => item.sort_key = value,
            "architecture" => item.architecture = value,
            "linux" => item.linux = value,
            // Fedora's entries name a variable beside the path.
            "initrd" => {
                item.initrds
                    .extend(value.split_whitespace().filter(|path| !path.contains('$')).map(str::to_owned));
            }
            "options" => item.options.push(value),
            _ => {}
        }
    }
    let is_ours = item.architecture.is_empty() || item.architecture.eq_ignore_ascii_case(ARCHITECTURE);
    (is_ours && !item.linux.is_empty()).then_some(item)
}

/// Lines of a key and a value.
fn fields(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines().map(str::trim).filter(|line| !line.starts_with('#')).filter_map(|line| {
        let (key, value) = line.split_once([' ', '\t'])?;
        Some((key, value.trim()))
    })
}

/// The specification's order, "Sorting".
fn order(left: &Item, right: &Item) -> Ordering {
    let newest = || version::compare(&right.version, &left.version);
    let last = || version::compare(&right.id, &left.id);
    match (left.sort_key.is_empty(), right.sort_key.is_empty()) {
        (false, true) => Ordering::Less,
        (true, false) => Ordering::Greater,
        (true, true) => last(),
        (false, false) => left
            .sort_key
            .cmp(&right.sort_key)
            .then_with(|| left.machine_id.cmp(&right.machine_id))
            .then_with(newest)
            .then_with(last),
    }
}

/// Whether `loader.conf` makes this entry the default: by its ID, or by a pattern that ends with `*`.
fn is_default(settings: &str, id: &str) -> bool {
    let Some((_, pattern)) = fields(settings).find(|(key, _)| *key == "default") else { return false };
    let pattern = pattern.strip_suffix(".conf").unwrap_or(pattern);
    match pattern.strip_suffix('*') {
        Some(start) => id.starts_with(start),
        None => id == pattern,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(id: &str, text: &str) -> Item {
        parse(id, text).unwrap()
    }

    #[test]
    fn an_entry_has_its_fields_and_needs_a_kernel_of_this_machine() {
        let text = "# Fedora\ntitle Fedora\nversion\t6.12\nlinux /vmlinuz\ninitrd /a.img $tuned\ninitrd /b.img\noptions root=/dev/sda2\noptions ro quiet\n";
        let item = item("fedora", text);
        assert_eq!((item.version.as_str(), item.linux.as_str()), ("6.12", "/vmlinuz"));
        assert_eq!(item.initrds, ["/a.img", "/b.img"]);
        assert_eq!(item.options, ["root=/dev/sda2", "ro quiet"]);
        for none in ["", "linux", "title x\ninitrd /i", "linux /v\narchitecture aa64", "efi /shell.efi"] {
            assert_eq!(parse("x", none), None, "{none:?}");
        }
    }

    #[test]
    fn the_newest_of_the_first_sort_key_is_first() {
        let mut items = [
            item("plain-9", "linux /v"),
            item("b", "linux /v\nsort-key b\nversion 99"),
            item("a1", "linux /v\nsort-key a\nversion 6.9"),
            item("a2", "linux /v\nsort-key a\nversion 6.12"),
            item("plain-10", "linux /v"),
        ];
        items.sort_by(order);
        let ids: Vec<_> = items.iter().map(|item| item.id.as_str()).collect();
        assert_eq!(ids, ["a2", "a1", "b", "plain-10", "plain-9"]);
    }

    #[test]
    fn loader_conf_names_the_default() {
        assert!(is_default("timeout 3\ndefault debian.conf\n", "debian"));
        assert!(is_default("default deb*", "debian") && is_default("default debian", "debian"));
        assert!(!is_default("default deb", "debian") && !is_default("", "debian"));
        assert!(!is_default("default @saved", "debian"));
    }
}
