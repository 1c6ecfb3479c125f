//! The output of the serial port.
//!
//! Bytes are written line by line: each write is a system call and wakes a reader. An incomplete line waits for
//! [`Output::drain`], which the event loop calls within 10 ms. Nothing here waits for a slow reader. Unwritten bytes
//! stay buffered, and the port blocks a guest with too many of them, like a real line.

use std::fs::File;
use std::io::{self, Write};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::cli::SerialTarget;
use crate::error::{Error, Result};

/// Maximum number of buffered bytes. The guest waits while the buffer is full.
const BUFFER_LIMIT: usize = 64 << 10;
/// Bytes that a writable pipe accepts at once (PIPE_BUF).
const AT_ONCE: usize = 4096;

/// The destination of the output.
#[derive(Debug)]
enum Sink {
    Stdout,
    File(File),
    Nowhere,
}

/// A buffer in front of the destination.
#[derive(Debug)]
pub(super) struct Output {
    buffered: Vec<u8>,
    sink: Sink,
}

impl Output {
    pub(super) fn to(target: &SerialTarget) -> Result<Self> {
        let sink = match target {
            SerialTarget::Stdio => Sink::Stdout,
            SerialTarget::Off => Sink::Nowhere,
            SerialTarget::File(path) => {
                let file = File::create(path);
                Sink::File(
                    file.map_err(|error| Error::input(format!("--serial file={}", path.display()), error))?,
                )
            }
        };
        Ok(Self { buffered: Vec::new(), sink })
    }

    /// Number of buffered bytes.
    pub(super) fn buffered(&self) -> usize {
        self.buffered.len()
    }

    /// Whether the guest must wait.
    pub(super) fn is_full(&self) -> bool {
        self.buffered.len() >= BUFFER_LIMIT
    }

    /// Writes the bytes that the reader accepts now.
    pub(super) fn drain(&mut self) -> io::Result<()> {
        let written = match &mut self.sink {
            Sink::Stdout => write_to_stdout(&self.buffered),
            Sink::File(file) => file.write_all(&self.buffered).map(|()| self.buffered.len()),
            Sink::Nowhere => Ok(self.buffered.len()),
        };
        match written {
            Ok(count) => drop(self.buffered.drain(..count.min(self.buffered.len()))),
            // The reader is gone. Discard the bytes, because a full buffer would stop the guest.
            Err(_) => self.buffered.clear(),
        }
        written.map(drop)
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffered.extend_from_slice(bytes);
        if bytes.contains(&b'\n') {
            self.drain()?;
        }
        Ok(bytes.len())
    }

    /// No effect: vm-superio flushes after each byte, which this buffer avoids.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes until standard output accepts no more, and returns the number of bytes. Bypasses std's buffer and lock.
fn write_to_stdout(bytes: &[u8]) -> io::Result<usize> {
    let mut written = 0usize;
    for part in bytes.chunks(AT_ONCE) {
        if !wait_writable(Duration::ZERO)? {
            break;
        }
        match rustix::io::write(rustix::stdio::stdout(), part) {
            Ok(count) => {
                written = written.saturating_add(count);
                if count < part.len() {
                    break;
                }
            }
            Err(Errno::INTR | Errno::AGAIN) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(written)
}

/// Waits until standard output is writable, and returns whether it is. A closed reader counts as writable: the write
/// then fails.
pub(super) fn wait_writable(patience: Duration) -> io::Result<bool> {
    let stdout = rustix::stdio::stdout();
    let timeout = Timespec::try_from(patience).map_err(io::Error::other)?;
    match poll(&mut [PollFd::new(&stdout, PollFlags::OUT)], Some(&timeout)) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
