//! Where the bytes of the serial port go.
//!
//! Bytes are handed on line by line, since each hand-over is a system call and wakes a reader. What is not yet a
//! line waits until [`Output::drain`], which the event loop calls soon after the first byte of it. Nothing here
//! waits for a slow reader: what it does not take stays, and a guest that has too much of it waiting is held up by
//! the port, as by a real line.

use std::fs::File;
use std::io::{self, Write};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::cli::SerialTarget;
use crate::error::{Error, Result};

/// Bytes that may wait: with more, the guest does.
const BUFFER_LIMIT: usize = 64 << 10;
/// Bytes that a pipe with any room takes at once (PIPE_BUF).
const AT_ONCE: usize = 4096;

/// The receiving end of the line.
#[derive(Debug)]
enum Sink {
    Stdout,
    File(File),
    Nowhere,
}

/// The line's end with the bytes that wait for it.
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

    /// Bytes that wait.
    pub(super) fn buffered(&self) -> usize {
        self.buffered.len()
    }

    /// Whether the guest must wait until some have been handed on.
    pub(super) fn is_full(&self) -> bool {
        self.buffered.len() >= BUFFER_LIMIT
    }

    /// Hands on what the reader takes now.
    pub(super) fn drain(&mut self) -> io::Result<()> {
        let written = match &mut self.sink {
            Sink::Stdout => write_to_stdout(&self.buffered),
            Sink::File(file) => file.write_all(&self.buffered).map(|()| self.buffered.len()),
            Sink::Nowhere => Ok(self.buffered.len()),
        };
        match written {
            Ok(count) => drop(self.buffered.drain(..count.min(self.buffered.len()))),
            // A reader that is gone has lost them; keeping them would stop the guest.
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

    /// The registers' model flushes after each byte, which is what this type avoids.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes until standard output takes no more, and says how much that was. Not through std's, which has a buffer
/// and a lock of its own.
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

/// Waits until standard output takes more, and says whether it does. A reader that is gone counts as one: the write
/// will say so.
pub(super) fn wait_writable(patience: Duration) -> io::Result<bool> {
    let stdout = rustix::stdio::stdout();
    let timeout = Timespec::try_from(patience).map_err(io::Error::other)?;
    match poll(&mut [PollFd::new(&stdout, PollFlags::OUT)], Some(&timeout)) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
