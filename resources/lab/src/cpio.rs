//! Writes cpio archives in the "newc" format that the kernel unpacks as an initramfs
//! (Documentation/driver-api/early-userspace/buffer-format.rst).
//!
//! Every entry belongs to root and has no time stamp, so equal inputs give equal archives.

use std::io::{self, Write};

const REGULAR: u32 = 0o100_000;
const DIRECTORY: u32 = 0o040_000;
const SYMLINK: u32 = 0o120_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

/// An archive being written.
#[derive(Debug)]
pub struct Writer<W> {
    to: W,
    inode: u32,
}

impl<W: Write> Writer<W> {
    /// Begins an archive.
    pub fn new(to: W) -> Self {
        Self { to, inode: 0 }
    }

    /// A directory. Its parents must have been written before.
    ///
    /// # Errors
    /// Writing failed.
    pub fn directory(&mut self, path: &str) -> io::Result<()> {
        self.entry(path, DIRECTORY | 0o755, 2, (0, 0), &[])
    }

    /// A file with these permission bits.
    ///
    /// # Errors
    /// Writing failed, or the file is 4 GiB or longer.
    pub fn file(&mut self, path: &str, permissions: u32, content: &[u8]) -> io::Result<()> {
        self.entry(path, REGULAR | permissions, 1, (0, 0), content)
    }

    /// A symbolic link.
    ///
    /// # Errors
    /// Writing failed.
    pub fn symlink(&mut self, path: &str, target: &str) -> io::Result<()> {
        self.entry(path, SYMLINK | 0o777, 1, (0, 0), target.as_bytes())
    }

    /// A character device.
    ///
    /// # Errors
    /// Writing failed.
    pub fn character_device(&mut self, path: &str, major: u32, minor: u32) -> io::Result<()> {
        self.entry(path, CHARACTER_DEVICE | 0o600, 1, (major, minor), &[])
    }

    /// Ends the archive and gives back what it was written to.
    ///
    /// # Errors
    /// Writing failed.
    pub fn finish(mut self) -> io::Result<W> {
        self.entry("TRAILER!!!", 0, 1, (0, 0), &[])?;
        Ok(self.to)
    }

    fn entry(
        &mut self,
        path: &str,
        mode: u32,
        links: u32,
        device: (u32, u32),
        content: &[u8],
    ) -> io::Result<()> {
        let path = path.trim_start_matches('/');
        let size = u32::try_from(content.len())
            .map_err(|_| io::Error::other(format!("{path} is too long for newc")))?;
        self.inode += 1;
        write!(self.to, "070701")?;
        let name_size = path.len() as u32 + 1;
        for field in [self.inode, mode, 0, 0, links, 0, size, 0, 0, device.0, device.1, name_size, 0] {
            write!(self.to, "{field:08x}")?;
        }
        self.to.write_all(path.as_bytes())?;
        // The header is 110 bytes; name and content each end on a multiple of four, the name with at least one zero.
        self.to.write_all(&[0; 4][..1 + padding(110 + path.len() + 1)])?;
        self.to.write_all(content)?;
        self.to.write_all(&[0; 4][..padding(content.len())])
    }
}

fn padding(length: usize) -> usize {
    length.wrapping_neg() % 4
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Splits an archive into (name, mode, content), from the format's description rather than from the writer.
    fn read(archive: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut entries = Vec::new();
        let mut at = 0;
        loop {
            let field = |n: usize| {
                let start = at + 6 + n * 8;
                u32::from_str_radix(std::str::from_utf8(&archive[start..start + 8]).unwrap(), 16).unwrap()
            };
            assert_eq!(&archive[at..at + 6], b"070701");
            let (mode, size, name_size) = (field(1), field(6) as usize, field(11) as usize);
            let name_at = at + 110;
            let name = String::from_utf8(archive[name_at..name_at + name_size - 1].to_vec()).unwrap();
            let content_at = (name_at + name_size).next_multiple_of(4);
            if name == "TRAILER!!!" {
                assert_eq!(content_at, archive.len());
                return entries;
            }
            entries.push((name, mode, archive[content_at..content_at + size].to_vec()));
            at = (content_at + size).next_multiple_of(4);
        }
    }

    #[test]
    fn entries_read_back_at_every_alignment() {
        let mut writer = Writer::new(Vec::new());
        writer.directory("bin").unwrap();
        for length in 0..9 {
            writer.file(&format!("bin/{}", "x".repeat(length + 1)), 0o755, &vec![7; length]).unwrap();
        }
        writer.symlink("/init", "bin/x").unwrap();
        writer.character_device("console", 5, 1).unwrap();
        let entries = read(&writer.finish().unwrap());
        assert_eq!(entries[0], ("bin".to_owned(), 0o040_755, vec![]));
        for length in 0..9 {
            assert_eq!(
                entries[length + 1],
                (format!("bin/{}", "x".repeat(length + 1)), 0o100_755, vec![7; length])
            );
        }
        assert_eq!(entries[10], ("init".to_owned(), 0o120_777, b"bin/x".to_vec()));
        assert_eq!(entries[11].1, 0o020_600);
        assert_eq!(entries.len(), 12);
    }
}
