//! Our end of the line to the agent: gives each command a channel, and sorts what comes back.
//!
//! One thread reads; whoever sends holds the writer's mutex for one frame. The table of channels is never locked
//! while sending. When the line closes, every channel's receiver sees its sender gone.

use std::collections::HashMap;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use crate::error::{At, Error, Result};
use crate::pulse::{self, Pulses};
use crate::wire::{Frame, Message};

type Channels = Arc<Mutex<HashMap<u32, Sender<Message>>>>;

/// The line to one lab host.
#[derive(Debug)]
pub(super) struct Link {
    writer: Mutex<UnixStream>,
    channels: Channels,
    next: AtomicU32,
    pulses: Arc<Pulses>,
    console: PathBuf,
}

impl Link {
    /// Takes a line into use. The receiver is channel 0, the agent's.
    pub(super) fn new(line: UnixStream, console: PathBuf) -> Result<(Arc<Self>, Receiver<Message>)> {
        let mut reader = line.try_clone().at("use", "the agent's line")?;
        let (sender, agent) = mpsc::channel();
        let channels: Channels = Arc::new(Mutex::new(HashMap::from([(0, sender)])));
        let table = Arc::clone(&channels);
        let pulses = Arc::new(Pulses::default());
        let heard = Arc::clone(&pulses);
        thread::spawn(move || {
            while let Ok(Frame { channel, message }) = Frame::receive(&mut reader) {
                if let Message::Pulse(cpu) = message {
                    heard.hear(cpu, Instant::now());
                    continue;
                }
                let table = table.lock().unwrap_or_else(PoisonError::into_inner);
                // Who does not listen any more has closed the channel.
                let _ = table.get(&channel).map(|to| to.send(message));
            }
            table.lock().unwrap_or_else(PoisonError::into_inner).clear();
        });
        let link = Self { writer: Mutex::new(line), channels, next: AtomicU32::new(1), pulses, console };
        Ok((Arc::new(link), agent))
    }

    /// A new channel.
    pub(super) fn open(&self) -> (u32, Receiver<Message>) {
        let (sender, receiver) = mpsc::channel();
        let channel = self.next.fetch_add(1, Ordering::Relaxed);
        self.channels.lock().unwrap_or_else(PoisonError::into_inner).insert(channel, sender);
        (channel, receiver)
    }

    /// Closes a channel and kills what runs on it.
    pub(super) fn close(&self, channel: u32) {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner).remove(&channel);
        // For a command that has ended this means nothing; where the line is gone there is none.
        let _ = self.send(channel, Message::Kill);
    }

    /// Says something on a channel.
    pub(super) fn send(&self, channel: u32, message: Message) -> Result<()> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        Frame { channel, message }.send(&mut *writer).map_err(|_| self.gone())
    }

    /// The error of a lab host one of whose CPUs sleeps for ever.
    pub(super) fn stalled(&self) -> Option<Error> {
        let cpu = self.pulses.stalled(Instant::now())?;
        Some(Error::Stalled { cpu, seconds: pulse::PATIENCE.as_secs(), console: self.console.clone() })
    }

    /// The error of a line that has closed.
    pub(super) fn gone(&self) -> Error {
        Error::Gone { console: self.console.clone() }
    }
}
