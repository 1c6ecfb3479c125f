//! The frames on the line between a lab host's agent and the process that started the lab host.
//!
//! A frame is `channel: u32, kind: u8, length: u32` (little endian) and a payload. Each command has a channel of
//! its own, chosen by who starts it; channel 0 is the agent's. Framing does no buffering and takes no lock.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};

/// Longer payloads are a broken line, not a message.
const MAX_PAYLOAD: u32 = 4 << 20;

/// One frame: to whom, and what.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Frame {
    pub(crate) channel: u32,
    pub(crate) message: Message,
}

/// What is said on a channel.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Message {
    /// Agent, channel 0: ready for commands.
    Ready,
    /// To the agent: start this command.
    Start(Start),
    /// To the agent: bytes for the command's standard input.
    Input(Vec<u8>),
    /// To the agent: no more input.
    EndOfInput,
    /// To the agent: kill the command and its process group.
    Kill,
    /// To the agent: the terminal has this many rows and columns now.
    Resize(TerminalSize),
    /// From the command's standard output, or its terminal.
    Stdout(Vec<u8>),
    /// From the command's standard error.
    Stderr(Vec<u8>),
    /// The command ended with this wait status. Nothing follows on its channel.
    Ended(i32),
    /// The command could not be started. Nothing follows on its channel.
    NotStarted(String),
    /// Agent, channel 0: this CPU's timer fires and what it wakes runs.
    Pulse(u16),
}

/// A command to start.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) struct Start {
    pub(crate) words: Vec<String>,
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) directory: Option<String>,
    /// Runs it on a terminal of this size; standard error is part of that terminal then.
    pub(crate) terminal: Option<TerminalSize>,
    /// Whether `Input` will follow. Without, standard input is empty.
    pub(crate) input: bool,
}

/// Rows and columns.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) struct TerminalSize {
    pub(crate) rows: u16,
    pub(crate) columns: u16,
}

impl Frame {
    /// Sends a frame in one write.
    pub(crate) fn send(&self, to: &mut impl Write) -> io::Result<()> {
        let (kind, payload) = self.message.encode()?;
        let length = u32::try_from(payload.len()).ok().filter(|&l| l <= MAX_PAYLOAD);
        let length = length.ok_or_else(|| io::Error::other("message too long"))?;
        let mut bytes = Vec::with_capacity(9 + payload.len());
        bytes.extend(self.channel.to_le_bytes());
        bytes.push(kind);
        bytes.extend(length.to_le_bytes());
        bytes.extend(payload);
        to.write_all(&bytes)
    }

    /// Waits for the next frame.
    pub(crate) fn receive(from: &mut impl Read) -> io::Result<Self> {
        let mut header = [0; 9];
        from.read_exact(&mut header)?;
        let [c0, c1, c2, c3, kind, l0, l1, l2, l3] = header;
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        if length > MAX_PAYLOAD {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "message too long"));
        }
        let mut payload = vec![0; length as usize];
        from.read_exact(&mut payload)?;
        Ok(Self { channel: u32::from_le_bytes([c0, c1, c2, c3]), message: Message::decode(kind, payload)? })
    }
}

impl Message {
    fn encode(&self) -> io::Result<(u8, Vec<u8>)> {
        Ok(match self {
            Self::Ready => (0, vec![]),
            Self::Start(start) => (1, serde_json::to_vec(start)?),
            Self::Input(bytes) => (2, bytes.clone()),
            Self::EndOfInput => (3, vec![]),
            Self::Kill => (4, vec![]),
            Self::Resize(size) => (5, serde_json::to_vec(size)?),
            Self::Stdout(bytes) => (6, bytes.clone()),
            Self::Stderr(bytes) => (7, bytes.clone()),
            Self::Ended(status) => (8, status.to_le_bytes().to_vec()),
            Self::NotStarted(why) => (9, why.clone().into_bytes()),
            Self::Pulse(cpu) => (10, cpu.to_le_bytes().to_vec()),
        })
    }

    fn decode(kind: u8, payload: Vec<u8>) -> io::Result<Self> {
        let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
        Ok(match kind {
            0 => Self::Ready,
            1 => Self::Start(serde_json::from_slice(&payload)?),
            2 => Self::Input(payload),
            3 => Self::EndOfInput,
            4 => Self::Kill,
            5 => Self::Resize(serde_json::from_slice(&payload)?),
            6 => Self::Stdout(payload),
            7 => Self::Stderr(payload),
            8 => Self::Ended(i32::from_le_bytes(payload.try_into().map_err(|_| invalid("bad status"))?)),
            9 => Self::NotStarted(String::from_utf8_lossy(&payload).into_owned()),
            10 => Self::Pulse(u16::from_le_bytes(payload.try_into().map_err(|_| invalid("bad CPU"))?)),
            _ => return Err(invalid("unknown kind of message")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_survives_the_line() {
        let size = TerminalSize { rows: 24, columns: 80 };
        let start = Start {
            words: vec!["a b".into(), String::new()],
            environment: vec![("K".into(), "v=w".into())],
            directory: Some("/x".into()),
            terminal: Some(size),
            input: true,
        };
        let messages = [
            Message::Ready,
            Message::Start(start),
            Message::Input(vec![0, 255]),
            Message::EndOfInput,
            Message::Kill,
            Message::Resize(size),
            Message::Stdout(vec![]),
            Message::Stderr(vec![1; 70_000]),
            Message::Ended(-1),
            Message::NotStarted("no".into()),
            Message::Pulse(258),
        ];
        let frames: Vec<_> =
            messages.into_iter().zip(7..).map(|(message, channel)| Frame { channel, message }).collect();
        let mut line = Vec::new();
        for frame in &frames {
            frame.send(&mut line).unwrap();
        }
        let mut line = line.as_slice();
        for frame in frames {
            assert_eq!(Frame::receive(&mut line).unwrap(), frame);
        }
        assert!(line.is_empty());
    }

    #[test]
    fn a_broken_line_is_an_error() {
        for bytes in [
            &[0, 0, 0, 0, 99, 0, 0, 0, 0][..],
            &[0, 0, 0, 0, 6, 255, 255, 255, 255],
            &[0, 0, 0],
            &[0, 0, 0, 0, 8, 1, 0, 0, 0, 5],
            &[0, 0, 0, 0, 10, 1, 0, 0, 0, 5],
        ] {
            assert!(Frame::receive(&mut &*bytes).is_err(), "{bytes:?}");
        }
    }
}
