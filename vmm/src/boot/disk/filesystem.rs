//! A file system of the disk, ext4 or FAT, read-only.
//!
//! A missing file is no error. A structure that contradicts itself is [`DiskError::Damaged`], with the path that led to it.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

use ext4_view::{Ext4, Ext4Error};

use super::DiskError;
use super::entry::Entry;
use super::window::Window;

/// Maximum size of a configuration file.
const TEXT_SIZE: u64 = 256 << 10;
/// Maximum number of names that a directory lists.
const NAMES: usize = 4096;
/// Offset and value of ext4's magic number.
const EXT4_MAGIC_OFFSET: u64 = 1024 + 0x38;
const EXT4_MAGIC: [u8; 2] = [0x53, 0xef];
/// Offset and value of the boot signature, which every FAT file system has.
const BOOT_SIGNATURE_OFFSET: u64 = 510;
const BOOT_SIGNATURE: [u8; 2] = [0x55, 0xaa];

/// A file system.
pub(super) struct FileSystem {
    place: String,
    kind: Kind,
}

enum Kind {
    Ext4(Ext4),
    Fat(Box<fatfs::FileSystem<Window>>),
}

impl FileSystem {
    /// Opens the file system of a partition. Returns `None` if it has none of the supported ones.
    ///
    /// # Errors
    /// [`DiskError::Damaged`] for an ext4 file system that cannot be opened.
    pub(super) fn open(mut window: Window, place: String) -> Result<Option<Self>, DiskError> {
        let mut has = |offset, magic: [u8; 2]| {
            let mut bytes = [0; 2];
            window.read_at(offset, &mut bytes).is_ok() && bytes == magic
        };
        if has(EXT4_MAGIC_OFFSET, EXT4_MAGIC) {
            let opened = Ext4::load(Box::new(window));
            let kind =
                opened.map_err(|problem| DiskError::damaged(&place, "the ext4 file system", problem))?;
            return Ok(Some(Self { place, kind: Kind::Ext4(kind) }));
        }
        if !has(BOOT_SIGNATURE_OFFSET, BOOT_SIGNATURE) {
            return Ok(None);
        }
        window.seek(SeekFrom::Start(0))?;
        // Boot sectors of other file systems have the signature, too.
        Ok(match fatfs::FileSystem::new(window, fatfs::FsOptions::new()) {
            Ok(fat) => Some(Self { place, kind: Kind::Fat(Box::new(fat)) }),
            Err(error) => {
                tracing::debug!("{place} is no FAT file system: {error}");
                None
            }
        })
    }

    /// The partition, for messages.
    pub(super) fn place(&self) -> &str {
        &self.place
    }

    /// The UUID of an ext4 file system.
    pub(super) fn uuid(&self) -> Option<String> {
        match &self.kind {
            Kind::Ext4(ext4) => Some(ext4.uuid().to_string()),
            Kind::Fat(_) => None,
        }
    }

    /// The names in a directory, or none if it does not exist.
    pub(super) fn list(&self, directory: &str) -> Result<Vec<String>, DiskError> {
        let damaged = |problem: &dyn Display| DiskError::damaged(&self.place, directory, problem);
        let mut names = Vec::new();
        match &self.kind {
            Kind::Ext4(ext4) => {
                let Some(entries) = found(ext4.read_dir(directory)).map_err(|error| damaged(&error))? else {
                    return Ok(names);
                };
                for entry in entries {
                    let entry = entry.map_err(|error| damaged(&error))?;
                    names.extend(entry.file_name().as_str().ok().map(str::to_owned));
                    if names.len() > NAMES {
                        return Err(damaged(&"too many files"));
                    }
                }
            }
            Kind::Fat(fat) => {
                let opened = fat.root_dir().open_dir(directory.trim_start_matches('/'));
                let Some(opened) = there(opened).map_err(|error| damaged(&error))? else { return Ok(names) };
                for entry in opened.iter() {
                    names.push(entry.map_err(|error| damaged(&error))?.file_name());
                    if names.len() > NAMES {
                        return Err(damaged(&"too many files"));
                    }
                }
            }
        }
        Ok(names)
    }

    /// Whether a regular file exists, at this path or at the end of its links.
    pub(super) fn has_file(&self, path: &str) -> Result<bool, DiskError> {
        Ok(self.open_file(path)?.is_some())
    }

    /// The contents of a configuration file, or `None` if it does not exist.
    pub(super) fn read_text(&self, path: &str) -> Result<Option<String>, DiskError> {
        let Some(file) = self.open_file(path)? else { return Ok(None) };
        let mut bytes = Vec::new();
        file.take(TEXT_SIZE.saturating_add(1))
            .read_to_end(&mut bytes)
            .map_err(|error| DiskError::damaged(&self.place, path, error))?;
        if bytes.len() as u64 > TEXT_SIZE {
            return Err(DiskError::damaged(&self.place, path, "a configuration file above 256 KiB"));
        }
        Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Appends a file of at most `limit` bytes that `entry` names to `to`, and returns its size.
    pub(super) fn copy(
        &self,
        entry: &Entry,
        path: &str,
        to: &mut File,
        limit: u64,
    ) -> Result<u64, DiskError> {
        let place = || self.place.clone();
        let path = || path.to_owned();
        let missing = || DiskError::Missing { entry: entry.name.clone(), path: path(), place: place() };
        let mut file = self.open_file(&path())?.ok_or_else(missing)?;
        let mut buffer = vec![0; 64 << 10];
        let mut size = 0u64;
        loop {
            let read = match file.read(&mut buffer) {
                Ok(0) => return Ok(size),
                Ok(read) => read,
                Err(error) => return Err(DiskError::damaged(&self.place, &path(), error)),
            };
            size = size.saturating_add(read as u64);
            if size > limit {
                return Err(DiskError::TooLarge { place: place(), path: path(), limit });
            }
            to.write_all(buffer.get(..read).unwrap_or_default())?;
        }
    }

    fn open_file(&self, path: &str) -> Result<Option<Box<dyn Read + '_>>, DiskError> {
        let damaged = |problem: &dyn Display| DiskError::damaged(&self.place, path, problem);
        Ok(match &self.kind {
            Kind::Ext4(ext4) => found(ext4.open(path))
                .map_err(|error| damaged(&error))?
                .map(|file| Box::new(Ext4File(file)) as _),
            Kind::Fat(fat) => there(fat.root_dir().open_file(path.trim_start_matches('/')))
                .map_err(|error| damaged(&error))?
                .map(|file| Box::new(file) as _),
        })
    }
}

impl DiskError {
    fn damaged(place: &str, path: &str, problem: impl Display) -> Self {
        Self::Damaged { place: place.to_owned(), path: path.to_owned(), problem: problem.to_string() }
    }
}

/// An open file of ext4.
struct Ext4File(ext4_view::File);

impl Read for Ext4File {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.0.read_bytes(bytes).map_err(io::Error::other)
    }
}

/// Tells a missing file of ext4 from a damaged one.
fn found<T>(result: Result<T, Ext4Error>) -> Result<Option<T>, Ext4Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Ext4Error::NotFound | Ext4Error::NotADirectory | Ext4Error::IsADirectory) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Tells a missing file of FAT from a damaged one.
fn there<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
