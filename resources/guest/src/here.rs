//! A monitor that runs on this very machine, with the same face as one in a lab host.
//!
//! Two threads read its streams; when both are done it is waited for. Dropping it kills it.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use lab::Said;

use crate::error::Result;

/// A program that runs.
#[derive(Debug)]
pub(crate) struct Process {
    program: String,
    child: Child,
    input: Option<ChildStdin>,
    from: Receiver<Said>,
    /// Since when it has so long.
    started: Instant,
    patience: Duration,
}

impl Process {
    /// Starts it.
    pub(crate) fn start(words: &[String], patience: Duration) -> Result<Self> {
        let program = words.first().cloned().unwrap_or_default();
        let mut command = Command::new(&program);
        command.args(words.iter().skip(1));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child =
            command.spawn().map_err(|source| lab::Error::Start { program: program.clone(), source })?;
        let (sender, from) = mpsc::channel();
        pump(child.stdout.take(), sender.clone(), Said::Stdout);
        pump(child.stderr.take(), sender, Said::Stderr);
        let input = child.stdin.take();
        Ok(Self { program, child, input, from, started: Instant::now(), patience })
    }

    /// From now on it has so long.
    pub(crate) fn allow(&mut self, patience: Duration) {
        (self.started, self.patience) = (Instant::now(), patience);
    }

    /// Waits for what it says next.
    pub(crate) fn receive(&mut self) -> Result<Said> {
        let left = self.patience.saturating_sub(self.started.elapsed());
        match self.from.recv_timeout(left) {
            Ok(said) => Ok(said),
            Err(RecvTimeoutError::Disconnected) => {
                let status = self.child.wait();
                let failed = |source| lab::Error::Start { program: self.program.clone(), source };
                Ok(Said::Ended(status.map_err(failed)?))
            }
            Err(RecvTimeoutError::Timeout) => {
                let (command, seconds) = (self.program.clone(), self.patience.as_secs());
                Err(lab::Error::Timeout { command, seconds }.into())
            }
        }
    }

    /// Gives it input.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(input) = &mut self.input else { return Ok(()) };
        let failed = |source| lab::Error::Start { program: self.program.clone(), source };
        Ok(input.write_all(bytes).map_err(failed)?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both mean nothing to one that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn pump(stream: Option<impl Read + Send + 'static>, to: Sender<Said>, said: fn(Vec<u8>) -> Said) {
    let Some(mut stream) = stream else { return };
    thread::spawn(move || {
        let mut buffer = vec![0; 32 << 10];
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            if to.send(said(buffer.get(..length).unwrap_or_default().to_vec())).is_err() {
                return;
            }
        }
    });
}
