//! Where the bytes of the serial port go.
//!
//! A full pipe or a slow terminal holds the vCPU up, as a real line would; nothing is dropped.

use std::fs::File;
use std::io::{self, Write};

use crate::cli::SerialTarget;
use crate::error::{Error, Result};

/// The receiving end of the line.
#[derive(Debug)]
pub(super) enum Output {
    Stdout,
    File(File),
    Nowhere,
}

impl Output {
    pub(super) fn to(target: &SerialTarget) -> Result<Self> {
        Ok(match target {
            SerialTarget::Stdio => Self::Stdout,
            SerialTarget::Off => Self::Nowhere,
            SerialTarget::File(path) => {
                let file = File::create(path);
                Self::File(
                    file.map_err(|error| Error::input(format!("--serial file={}", path.display()), error))?,
                )
            }
        })
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            // Not std's stdout: its buffer would be flushed byte by byte anyway.
            Self::Stdout => match rustix::io::write(rustix::stdio::stdout(), bytes) {
                Err(rustix::io::Errno::AGAIN) => {
                    wait_for_room()?;
                    Err(io::ErrorKind::Interrupted.into())
                }
                written => Ok(written?),
            },
            Self::File(file) => file.write(bytes),
            Self::Nowhere => Ok(bytes.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
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
