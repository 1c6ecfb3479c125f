//! What a caller says about a command to run in a lab host, and what comes back.

use std::path::Path;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::link::Link;
use crate::error::{Error, Result};
use crate::wire::{Message, Start, TerminalSize};

/// How often a wait looks whether the lab host has stalled.
const STALL_POLL: Duration = Duration::from_secs(1);

/// A command to run in a lab host. It finds the machine's own files at their own paths.
#[derive(Clone, Debug, Default)]
pub struct Command {
    pub(crate) start: Start,
    pub(crate) timeout: Option<Duration>,
}

impl Command {
    /// A program, looked for in the lab host's `PATH` (that of a Debian root user).
    pub fn new(program: impl Into<String>) -> Self {
        Self { start: Start { words: vec![program.into()], ..Start::default() }, timeout: None }
    }

    /// A script for the shell.
    pub fn shell(script: impl Into<String>) -> Self {
        Self::new("sh").arg("-c").arg(script)
    }

    /// Adds an argument.
    pub fn arg(mut self, argument: impl Into<String>) -> Self {
        self.start.words.push(argument.into());
        self
    }

    /// Adds arguments.
    pub fn args<S: Into<String>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        self.start.words.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.start.environment.push((name.into(), value.into()));
        self
    }

    /// Starts it in this directory instead of `/`.
    pub fn directory(mut self, directory: &Path) -> Self {
        self.start.directory = Some(directory.to_string_lossy().into_owned());
        self
    }

    /// Will be given input with [`Job::input`]. Without this, standard input is empty.
    pub fn with_input(mut self) -> Self {
        self.start.input = true;
        self
    }

    /// Runs on a terminal of its own, of this size.
    pub fn on_terminal(mut self, rows: u16, columns: u16) -> Self {
        self.start.terminal = Some(TerminalSize { rows, columns });
        self
    }

    /// Is killed, and an error, if it takes longer.
    pub fn timeout(mut self, patience: Duration) -> Self {
        self.timeout = Some(patience);
        self
    }

    /// The words, for messages.
    pub(crate) fn line(&self) -> String {
        self.start.words.join(" ")
    }
}

/// What a running command says.
#[derive(Debug, Eq, PartialEq)]
pub enum Said {
    /// Bytes of its standard output, or of its terminal.
    Stdout(Vec<u8>),
    /// Bytes of its standard error.
    Stderr(Vec<u8>),
    /// Its end. Nothing follows.
    Ended(ExitStatus),
}

/// All that a command said.
#[derive(Clone, Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Standard output as text.
    pub fn stdout_text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text.
    pub fn stderr_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}

/// A command that runs in a lab host. Dropping it kills the command and its process group.
#[derive(Debug)]
pub struct Job {
    pub(super) link: Arc<Link>,
    pub(super) channel: u32,
    pub(super) from: Receiver<Message>,
    pub(super) line: String,
    pub(super) deadline: Option<(Instant, Duration)>,
}

impl Job {
    /// Waits for what it says next.
    ///
    /// # Errors
    /// It could not be started, took too long, or the lab host is gone or has stalled.
    pub fn receive(&mut self) -> Result<Said> {
        let message = self.message()?;
        match message {
            Message::Stdout(bytes) => Ok(Said::Stdout(bytes)),
            Message::Stderr(bytes) => Ok(Said::Stderr(bytes)),
            Message::Ended(status) => {
                Ok(Said::Ended(std::os::unix::process::ExitStatusExt::from_raw(status)))
            }
            Message::NotStarted(why) => Err(Error::Agent(why)),
            _ => Err(Error::Agent("unexpected message".into())),
        }
    }

    /// Waits for a message until the deadline, or until the lab host has stalled.
    fn message(&self) -> Result<Message> {
        loop {
            let left = self
                .deadline
                .map_or(STALL_POLL, |(deadline, _)| deadline.saturating_duration_since(Instant::now()));
            match self.from.recv_timeout(left.min(STALL_POLL)) {
                Ok(message) => return Ok(message),
                Err(RecvTimeoutError::Disconnected) => return Err(self.link.gone()),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if let Some(error) = self.link.stalled() {
                return Err(error);
            }
            if let Some((_, patience)) = self.deadline.filter(|(deadline, _)| *deadline <= Instant::now()) {
                return Err(Error::Timeout { command: self.line.clone(), seconds: patience.as_secs() });
            }
        }
    }

    /// From now on it has so long, whatever its timeout was.
    pub fn allow(&mut self, patience: Duration) {
        self.deadline = Some((Instant::now() + patience, patience));
    }

    /// Waits for the end and collects what it says until then.
    ///
    /// # Errors
    /// As [`Job::receive`].
    pub fn output(mut self) -> Result<Output> {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        loop {
            match self.receive()? {
                Said::Stdout(bytes) => stdout.extend(bytes),
                Said::Stderr(bytes) => stderr.extend(bytes),
                Said::Ended(status) => return Ok(Output { status, stdout, stderr }),
            }
        }
    }

    /// A handle that gives it input while somebody else waits for what it says.
    pub fn input(&self) -> Input {
        Input { link: Arc::clone(&self.link), channel: self.channel }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.link.close(self.channel);
    }
}

/// Gives a running command input.
#[derive(Clone, Debug)]
pub struct Input {
    link: Arc<Link>,
    channel: u32,
}

impl Input {
    /// Sends bytes.
    ///
    /// # Errors
    /// The lab host is gone.
    pub fn send(&self, bytes: &[u8]) -> Result<()> {
        // A frame has a limit; input has none.
        bytes.chunks(1 << 20).try_for_each(|part| self.link.send(self.channel, Message::Input(part.to_vec())))
    }

    /// Says that there will be no more.
    ///
    /// # Errors
    /// The lab host is gone.
    pub fn end(&self) -> Result<()> {
        self.link.send(self.channel, Message::EndOfInput)
    }

    /// Tells its terminal a new size.
    ///
    /// # Errors
    /// The lab host is gone.
    pub fn resize(&self, rows: u16, columns: u16) -> Result<()> {
        self.link.send(self.channel, Message::Resize(TerminalSize { rows, columns }))
    }
}
