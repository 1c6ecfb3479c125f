//! A guest as a person has it: its console on a monitor's standard streams, a login, and commands that are typed.
//!
//! What a command prints ends with a mark and its status. Neither is echoed, so a mark is never taken for the typed one.

use std::process::ExitStatus;
use std::time::Duration;

use lab::Said;

use crate::error::{Error, Result};
use crate::host::{Host, Running};
use crate::session::clean;

/// How long a boot may take, or a command.
const PATIENCE: Duration = Duration::from_secs(400);
/// How much of the console an error shows.
const LAST_BYTES: usize = 2000;

/// The console of a guest that runs. Dropping it kills the monitor.
#[derive(Debug)]
pub struct Terminal {
    running: Running,
    /// Everything that was on the console and in the monitor's messages.
    seen: String,
    /// What was waited for until now ends here.
    read: usize,
    commands: u32,
    status: Option<ExitStatus>,
}

impl Terminal {
    /// Starts a monitor, whose command this is, and waits for nothing.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(host: &Host, words: &[String]) -> Result<Self> {
        let running = host.start(words, PATIENCE)?;
        Ok(Self { running, seen: String::new(), read: 0, commands: 0, status: None })
    }

    /// Waits for a text, and gives what was printed before it.
    ///
    /// # Errors
    /// The monitor ended first, it took too long, or the host is gone.
    pub fn until(&mut self, text: &str) -> Result<String> {
        loop {
            let fresh = self.seen.get(self.read..).unwrap_or_default();
            if let Some(at) = fresh.find(text) {
                let before = fresh.get(..at).unwrap_or_default().to_owned();
                self.read += at + text.len();
                return Ok(before);
            }
            if self.status.is_some() {
                return Err(self.error(format!("it did not print `{text}`")));
            }
            self.receive()?;
        }
    }

    /// Takes the next bytes. A text that they cut in two is found in `seen`, which has both.
    fn receive(&mut self) -> Result<()> {
        match self.running.receive()? {
            Said::Stdout(bytes) | Said::Stderr(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
            Said::Ended(status) => self.status = Some(status),
        }
        Ok(())
    }

    fn send(&mut self, line: &str) -> Result<()> {
        self.running.allow(PATIENCE);
        self.running.send(format!("{line}\n").as_bytes())
    }

    /// Logs in as root, who has no password.
    ///
    /// # Errors
    /// As [`Terminal::until`].
    pub fn log_in(&mut self) -> Result<()> {
        self.until("login: ")?;
        self.send("root")?;
        self.until("# ")?;
        // Nobody else writes to the console from here on, and no line is folded.
        self.send("stty -echo cols 2000; dmesg -n 1; bind 'set enable-bracketed-paste off'; PS1= PS2=; printf 'logged-%s\\n' in")?;
        self.until("logged-in\r\n").map(drop)
    }

    /// Types a command that must succeed, and gives what it printed.
    ///
    /// # Errors
    /// Its status is not 0; or as [`Terminal::until`].
    pub fn run(&mut self, command: &str) -> Result<String> {
        self.commands += 1;
        let mark = format!("end-of-{}:", self.commands);
        self.send(&format!("{{ {command}\n}} 2>&1; echo {mark}$?"))?;
        let printed = self.until(&mark)?;
        let printed = printed.lines().map(clean).collect::<Vec<_>>().join("\n");
        let status = self.until("\n")?;
        if status.trim() == "0" {
            Ok(printed)
        } else {
            Err(self.error(format!("`{command}` failed: {printed}")))
        }
    }

    /// Types a command after which the machine ends, and gives the monitor's status.
    ///
    /// # Errors
    /// It took too long, or the host is gone.
    pub fn end(mut self, command: &str) -> Result<ExitStatus> {
        self.send(command)?;
        loop {
            if let Some(status) = self.status {
                return Ok(status);
            }
            self.receive()?;
        }
    }

    fn error(&self, what: String) -> Error {
        let status = self.status.map_or("it runs".to_owned(), |status| status.to_string());
        let lines: Vec<_> = self.seen.lines().map(clean).collect();
        let all = lines.join("\n");
        let from = all.char_indices().rev().nth(LAST_BYTES).map_or(0, |(at, _)| at);
        Error::End { what, status, last: all.get(from..).unwrap_or_default().to_owned() }
    }
}
