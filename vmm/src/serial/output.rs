//! Where the bytes of the serial port go.
//!
//! Bytes are handed on line by line, since each hand-over is a system call and wakes a reader. What is not
//! yet a line waits until [`Output::hand_on`], which the event loop calls soon after the first byte of it. A
//! full pipe or a slow terminal holds the vCPU up, as a real line would; nothing is dropped.

use std::fs::File;
use std::io::{self, Write};

use crate::cli::SerialTarget;
use crate::error::{Error, Result};

/// Bytes that are handed on without waiting for the end of their line.
const LONG_LINE: usize = 4096;

/// The receiving end of the line.
#[derive(Debug)]
enum End {
    Stdout,
    File(File),
    Nowhere,
}

/// The line's end with the bytes that wait for it.
#[derive(Debug)]
pub(super) struct Output {
    waiting: Vec<u8>,
    end: End,
}

impl Output {
    pub(super) fn to(target: &SerialTarget) -> Result<Self> {
        let end = match target {
            SerialTarget::Stdio => End::Stdout,
            SerialTarget::Off => End::Nowhere,
            SerialTarget::File(path) => {
                let file = File::create(path);
                End::File(
                    file.map_err(|error| Error::input(format!("--serial file={}", path.display()), error))?,
                )
            }
        };
        Ok(Self { waiting: Vec::with_capacity(LONG_LINE), end })
    }

    /// Bytes that wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Hands all bytes on.
    pub(super) fn hand_on(&mut self) -> io::Result<()> {
        let written = match &mut self.end {
            End::Stdout => write_to_stdout(&self.waiting),
            End::File(file) => file.write_all(&self.waiting),
            End::Nowhere => Ok(()),
        };
        // An end that takes no more has lost them; keeping them would only lose more later.
        self.waiting.clear();
        written
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.waiting.extend_from_slice(bytes);
        if bytes.contains(&b'\n') || self.waiting.len() >= LONG_LINE {
            self.hand_on()?;
        }
        Ok(bytes.len())
    }

    /// The registers' model flushes after each byte, which is what this type avoids.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Not through std's stdout, which has a buffer and a lock of its own.
fn write_to_stdout(mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(rustix::stdio::stdout(), bytes) {
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => wait_for_room()?,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Waits until a non-blocking standard output takes more.
fn wait_for_room() -> io::Result<()> {
    let stdout = rustix::stdio::stdout();
    let mut poll = [rustix::event::PollFd::new(&stdout, rustix::event::PollFlags::OUT)];
    match rustix::event::poll(&mut poll, None) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
