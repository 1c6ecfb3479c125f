//! GRUB's configuration in the form that `grub-mkconfig` writes: the first `linux` line, which is in the default entry, and the `initrd`
//! line after it. GRUB's conditions, variables and saved entries are not evaluated.

use super::DiskError;
use super::entry::{Entry, absolute, without_variables};
use super::filesystem::FileSystem;

const CONFIGURATIONS: [&str; 4] =
    ["/boot/grub/grub.cfg", "/grub/grub.cfg", "/boot/grub2/grub.cfg", "/grub2/grub.cfg"];

/// The entry of the first configuration that has one.
pub(super) fn find(filesystem: &FileSystem) -> Result<Option<Entry>, DiskError> {
    for path in CONFIGURATIONS {
        if let Some(text) = filesystem.read_text(path)?
            && let Some(entry) = parse(path, &text)
        {
            return Ok(Some(entry));
        }
    }
    Ok(None)
}

fn parse(name: &str, text: &str) -> Option<Entry> {
    let mut lines = text.lines().map(words);
    let (kernel, cmdline) = lines.find_map(|words| match words.split_first() {
        Some((command, [kernel, options @ ..])) if is_command(command, "linux") => {
            Some((absolute(kernel), without_variables(options.iter().map(String::as_str))))
        }
        _ => None,
    })?;
    // The next kernel's line, or the entry's end, ends the search.
    let initrds = lines
        .take_while(|words| !words.first().is_some_and(|word| word == "}" || is_command(word, "linux")))
        .find_map(|words| match words.split_first() {
            Some((command, paths)) if is_command(command, "initrd") => {
                Some(paths.iter().map(|path| absolute(path)).collect())
            }
            _ => None,
        })
        .unwrap_or_default();
    Some(Entry { name: name.to_owned(), kernel, initrds, cmdline })
}

/// `linux`, `linux16` and `linuxefi` load a kernel, and `initrd` likewise.
fn is_command(word: &str, command: &str) -> bool {
    word.strip_prefix(command).is_some_and(|suffix| matches!(suffix, "" | "16" | "efi"))
}

/// The words of a line, without quotes. A quoted word may contain blanks.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match (quote, character) {
            (Some(open), close) if open == close => quote = None,
            (None, '"' | '\'') => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (None | Some('"'), '\\') => word.get_or_insert_default().extend(characters.next()),
            (None, '#') if word.is_none() => break,
            (None, blank) if blank.is_whitespace() => words.extend(word.take()),
            (_, other) => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEBIAN: &str = r#"
set default="0"
menuentry 'Debian GNU/Linux' --class debian $menuentry_id_option 'gnulinux-simple' {
	load_video
	search --no-floppy --fs-uuid --set=root 4d1b
	echo	'Loading Linux 6.12.1-amd64 ...'
	# linux /commented
	linux	/boot/vmlinuz-6.12.1-amd64 root=UUID=4d1b ro  "quiet splash" $extra
	echo	'Loading initial ramdisk ...'
	initrd	/boot/initrd.img-6.12.1-amd64
}
menuentry 'old' {
	linux	/boot/vmlinuz-6.1 root=UUID=4d1b ro single
	initrd	/boot/initrd.img-6.1
}
"#;

    #[test]
    fn debians_first_entry_is_taken() {
        let entry = parse("/boot/grub/grub.cfg", DEBIAN).unwrap();
        assert_eq!(entry.kernel, "/boot/vmlinuz-6.12.1-amd64");
        assert_eq!(entry.initrds, ["/boot/initrd.img-6.12.1-amd64"]);
        assert_eq!(entry.cmdline, "root=UUID=4d1b ro quiet splash");
    }

    #[test]
    fn devices_quotes_and_several_initrds_are_understood() {
        let entry =
            parse("g", "linuxefi ($root)/vmlinuz 'a b'\\ c\ninitrdefi (hd0,gpt1)/one '/t wo'").unwrap();
        assert_eq!((entry.kernel.as_str(), entry.cmdline.as_str()), ("/vmlinuz", "a b c"));
        assert_eq!(entry.initrds, ["/one", "/t wo"]);
    }

    #[test]
    fn an_initrd_of_another_entry_is_not_taken() {
        for text in ["linux /v\n}\ninitrd /i", "linux /v\nlinux /w\ninitrd /i"] {
            assert_eq!(parse("g", text).unwrap().initrds, [""; 0]);
        }
        assert_eq!(parse("g", "linux\ninitrd /i\nlinuxfoo /v"), None);
    }
}
