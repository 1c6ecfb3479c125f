//! The search of a disk image on a thread of its own: a panic in a parser of another crate is an error.
//!
//! The parsers of partition tables and file systems are third-party code, and the image is untrusted. The thread shares nothing with
//! the VMM but the image's file, so a panic leaves nothing half done. The VMM's panic hook says nothing about this thread
//! ([`is_current`]): the error does.

use std::io::{self, Read, Seek};
use std::thread::Builder;

use super::{Bootable, DiskError, search};

/// The thread's name.
const NAME: &str = "disk image";
/// Bytes of the thread's stack.
const STACK: usize = 8 << 20;

/// Whether the calling thread searches a disk image.
#[must_use]
pub fn is_current() -> bool {
    std::thread::current().name() == Some(NAME)
}

/// Finds what to boot, and reads it into memory: at most `limit` bytes, the guest's memory.
///
/// # Errors
/// Why nothing can be booted.
pub fn find(image: impl Read + Seek + Send + 'static, limit: u64) -> Result<Bootable, DiskError> {
    let thread =
        Builder::new().name(NAME.to_owned()).stack_size(STACK).spawn(move || search(image, limit))?;
    thread.join().unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().copied().map(str::to_owned);
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        Err(DiskError::Unreadable(io::Error::other(format!(
            "its structures contradict each other, and the parser gave up ({})",
            text.as_deref().and_then(|text| text.lines().next()).unwrap_or("no reason")
        ))))
    })
}

#[cfg(test)]
mod tests {
    use std::io::SeekFrom;

    use super::*;

    /// An image whose reads panic, as a parser on it would.
    struct Panics;

    impl Read for Panics {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            assert!(is_current());
            panic!("attempt to add with overflow\nin a parser")
        }
    }

    impl Seek for Panics {
        fn seek(&mut self, _: SeekFrom) -> io::Result<u64> {
            Ok(1 << 20)
        }
    }

    #[test]
    fn a_panic_of_a_parser_is_an_error_of_one_line() {
        let error = find(Panics, 1 << 20).unwrap_err().to_string();
        assert!(error.contains("attempt to add with overflow"), "{error}");
        assert_eq!(error.lines().count(), 1);
        assert!(!is_current());
    }
}
