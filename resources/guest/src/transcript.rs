//! All that was said in one boot of a guest.

use std::process::ExitStatus;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::said::Line;

/// How many lines an error shows.
const LAST_LINES: usize = 25;

/// What a guest and its monitor said.
#[derive(Clone, Debug, Default)]
pub struct Transcript {
    /// From the start of the monitor until the guest's init ran.
    pub init_after: Duration,
    /// What was on the console and in the monitor's messages, line by line.
    pub console: Vec<String>,
    /// The guest's reports.
    pub lines: Vec<Line>,
    /// How the monitor ended, if it has.
    pub status: Option<ExitStatus>,
    /// How often it was started again, because the guest ended before its init ran.
    pub retries: u32,
}

impl Transcript {
    /// The last report on this.
    ///
    /// # Errors
    /// There is none.
    pub fn line(&self, topic: &str) -> Result<&Line> {
        self.lines.iter().rfind(|line| line.topic() == topic).ok_or_else(|| self.silent(topic))
    }

    /// All reports on this.
    pub fn all<'a>(&'a self, topic: &'a str) -> impl Iterator<Item = &'a Line> {
        self.lines.iter().filter(move |line| line.topic() == topic)
    }

    /// What a job put between marks of this name.
    ///
    /// # Errors
    /// One of the marks is missing.
    pub fn section(&self, name: &str) -> Result<String> {
        let mark = |topic: &str| {
            let found = self.console.iter().position(|text| {
                Line::parse(text).is_some_and(|line| line.topic() == topic && line.text() == name)
            });
            found.ok_or_else(|| self.silent(&format!("{topic} {name}")))
        };
        let (begin, end) = (mark("begin")?, mark("end")?);
        Ok(self.console.get(begin + 1..end).unwrap_or_default().join("\n"))
    }

    /// That every job was done, and that guest and monitor ended in good order.
    ///
    /// # Errors
    /// They did not.
    pub fn ended_well(&self) -> Result<()> {
        self.line("bye")?;
        let mut failures = self.all("failed").map(Line::text);
        let what = match failures.next() {
            Some(failure) => failure.to_owned(),
            None if self.status.is_some_and(|status| status.success()) => return Ok(()),
            None => "the monitor's status".to_owned(),
        };
        Err(Error::End { what, status: self.status_text(), last: self.last() })
    }

    /// The last lines, for a message.
    pub fn last(&self) -> String {
        let from = self.console.len().saturating_sub(LAST_LINES);
        self.console.get(from..).unwrap_or_default().join("\n")
    }

    /// How it ended, in words.
    pub fn status_text(&self) -> String {
        self.status.map_or_else(|| "it still runs".to_owned(), |status| status.to_string())
    }

    /// The error that the guest never said this.
    pub(crate) fn silent(&self, missing: &str) -> Error {
        Error::Silent { missing: missing.to_owned(), status: self.status_text(), last: self.last() }
    }
}
