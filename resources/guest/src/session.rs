//! One boot of a guest, while it lasts: lines as they come, and a word to a guest that waits for one.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use lab::Said;

use crate::error::{Error, Result};
use crate::host::{Host, Running};
use crate::machine::{Machine, Monitor};
use crate::report::Report;
use crate::said::Line;
use crate::transcript::Transcript;

/// How long a whole boot with its jobs may take.
const PATIENCE: Duration = Duration::from_secs(400);
/// How long jobs may take that are asked for while the guest runs, and what comes after them.
const PATIENCE_ASKED: Duration = Duration::from_secs(120);

/// Something that was said.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Event {
    /// A report of the guest's init.
    Said(Line),
    /// Another line of the guest's console.
    Console(String),
    /// A line of the monitor's own.
    Message(String),
    /// The monitor ended. Nothing follows.
    Ended(ExitStatus),
}

/// Says its process id before it becomes the monitor.
const LAUNCHER: &str = "echo \"$0 $$\" >&2; exec \"$@\"";
/// What it puts before the id.
const PID_MARK: &str = "monitor-pid";

/// A guest that runs. Dropping it kills the monitor.
#[derive(Debug)]
pub struct Session<'host> {
    host: &'host Host,
    running: Running,
    pid: Option<u32>,
    report: Option<PathBuf>,
    started: Instant,
    console: Splitter,
    messages: Splitter,
    ready: VecDeque<Event>,
    transcript: Transcript,
}

impl<'host> Session<'host> {
    /// Boots a guest and waits for its init.
    ///
    /// About once in 25 times a guest in an emulated host resets itself before init; it is started again, once, and
    /// standard error and [`Transcript::retries`] say so.
    ///
    /// # Errors
    /// The monitor cannot be started, or the guest does not reach its init.
    pub fn start(host: &'host Host, machine: &Machine, monitor: &Monitor) -> Result<Self> {
        let mut session = Self::launch(host, machine, monitor, 0)?;
        let Some(status) = session.reach_init()? else { return Ok(session) };
        eprintln!("guest: it ended before its init ({status}); trying once more");
        eprintln!("{}", session.transcript.last());
        session = Self::launch(host, machine, monitor, 1)?;
        let Some(status) = session.reach_init()? else { return Ok(session) };
        Err(Error::NoInit { status: status.to_string(), last: session.transcript.last() })
    }

    fn launch(host: &'host Host, machine: &Machine, monitor: &Monitor, retries: u32) -> Result<Self> {
        let mut words = ["sh", "-c", LAUNCHER, PID_MARK].map(str::to_owned).to_vec();
        words.extend(machine.words(monitor));
        Ok(Self {
            host,
            running: host.start(&words, PATIENCE)?,
            pid: None,
            report: machine.report_path().map(Path::to_owned),
            started: Instant::now(),
            console: Splitter::default(),
            messages: Splitter::default(),
            ready: VecDeque::new(),
            transcript: Transcript { retries, ..Transcript::default() },
        })
    }

    /// Waits for the first report, keeping what comes before it. Gives the status of a monitor that ended instead.
    fn reach_init(&mut self) -> Result<Option<ExitStatus>> {
        let mut kept = VecDeque::new();
        loop {
            let event = self.event()?;
            let ended = match &event {
                Event::Ended(status) => Some(*status),
                _ => None,
            };
            let is_init = matches!(&event, Event::Said(line) if line.topic() == "init");
            kept.push_back(event);
            if is_init {
                self.transcript.init_after = self.started.elapsed();
            }
            if is_init || ended.is_some() {
                kept.append(&mut self.ready);
                self.ready = kept;
                return Ok(ended);
            }
        }
    }

    /// Waits for the next event.
    ///
    /// # Errors
    /// It took too long, or the host is gone.
    pub fn event(&mut self) -> Result<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(event);
            }
            let events = match self.running.receive()? {
                Said::Stdout(bytes) => self.console.lines(&bytes).map(console_event).collect(),
                Said::Stderr(bytes) => {
                    let lines = self.messages.lines(&bytes);
                    lines.filter(|text| !self.is_pid(text)).map(Event::Message).collect()
                }
                Said::Ended(status) => self.last_events(status),
            };
            for event in &events {
                self.note(event);
            }
            self.ready.extend::<Vec<_>>(events);
        }
    }

    fn is_pid(&mut self, text: &str) -> bool {
        let pid = text.strip_prefix(PID_MARK).and_then(|pid| pid.trim().parse().ok());
        self.pid = self.pid.or(pid);
        pid.is_some()
    }

    fn last_events(&mut self, status: ExitStatus) -> Vec<Event> {
        let console = self.console.rest().map(console_event);
        let messages = self.messages.rest().map(Event::Message);
        console.into_iter().chain(messages).chain([Event::Ended(status)]).collect()
    }

    fn note(&mut self, event: &Event) {
        match event {
            Event::Said(line) => {
                self.transcript.console.push(format!("guest> {line}"));
                self.transcript.lines.push(line.clone());
            }
            Event::Console(text) | Event::Message(text) => self.transcript.console.push(text.clone()),
            Event::Ended(status) => self.transcript.status = Some(*status),
        }
    }

    /// Waits for the guest's next report on this, and shows every event until then.
    ///
    /// # Errors
    /// The guest ended first; or as [`Session::event`].
    pub fn until(&mut self, topic: &str, mut show: impl FnMut(&Event)) -> Result<Line> {
        loop {
            let event = self.event()?;
            show(&event);
            match event {
                Event::Said(line) if line.topic() == topic => return Ok(line),
                Event::Ended(_) => return Err(self.transcript.silent(topic)),
                _ => {}
            }
        }
    }

    /// Has a guest that said `holding` do these jobs, and gives what it said until it holds again.
    ///
    /// # Errors
    /// As [`Session::until`].
    pub fn ask(&mut self, jobs: &str, show: impl FnMut(&Event)) -> Result<Transcript> {
        let (console, lines) = (self.transcript.console.len(), self.transcript.lines.len());
        self.order(jobs)?;
        self.until("holding", show)?;
        Ok(Transcript {
            console: self.transcript.console.get(console..).unwrap_or_default().to_vec(),
            lines: self.transcript.lines.get(lines..).unwrap_or_default().to_vec(),
            ..Transcript::default()
        })
    }

    /// The same without waiting for anything.
    ///
    /// # Errors
    /// The host is gone.
    pub fn order(&mut self, jobs: &str) -> Result<()> {
        self.running.allow(PATIENCE_ASKED);
        self.running.send(format!("{jobs}\n").as_bytes())
    }

    /// Tells a guest that says `holding` to go on.
    ///
    /// # Errors
    /// The host is gone.
    pub fn go_on(&mut self) -> Result<()> {
        self.running.send(b"\n")
    }

    /// The monitor's process id on its host.
    ///
    /// # Errors
    /// It did not say it.
    pub fn pid(&self) -> Result<u32> {
        self.pid.ok_or_else(|| self.transcript.silent(PID_MARK))
    }

    /// Has our VMM report how things are now.
    ///
    /// # Errors
    /// [`Machine::report`] was not asked for, or the VMM does not write it.
    pub fn report_now(&self) -> Result<Report> {
        let path = self.report.as_deref().ok_or_else(|| Error::Report("none was asked for".into()))?;
        Report::request(self.host, self.pid()?, path)
    }

    /// Waits for the end, and shows every event until then.
    ///
    /// # Errors
    /// As [`Session::event`].
    pub fn finish(mut self, mut show: impl FnMut(&Event)) -> Result<Transcript> {
        loop {
            let event = self.event()?;
            show(&event);
            if let Event::Ended(_) = event {
                return Ok(self.transcript);
            }
        }
    }

    /// What was said until now.
    pub fn transcript(&self) -> &Transcript {
        &self.transcript
    }
}

fn console_event(text: String) -> Event {
    Line::parse(&text).map_or(Event::Console(text), Event::Said)
}

/// Cuts a stream into lines.
#[derive(Debug, Default)]
struct Splitter {
    pending: Vec<u8>,
}

impl Splitter {
    /// The lines that these bytes complete.
    fn lines(&mut self, bytes: &[u8]) -> impl Iterator<Item = String> + use<> {
        self.pending.extend(bytes);
        let end = self.pending.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        let whole: Vec<u8> = self.pending.drain(..end).collect();
        String::from_utf8_lossy(&whole).lines().map(clean).collect::<Vec<_>>().into_iter()
    }

    /// What has no end of line, if anything.
    fn rest(&mut self) -> Option<String> {
        let rest = std::mem::take(&mut self.pending);
        Some(clean(&String::from_utf8_lossy(&rest))).filter(|text| !text.is_empty())
    }
}

/// Without what a terminal would act on: firmware clears screens, and every line ends in a carriage return.
pub(crate) fn clean(text: &str) -> String {
    let mut clean = String::new();
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        if character == '\u{1b}' {
            // A control sequence ends with a letter.
            while characters.next().is_some_and(|c| !c.is_ascii_alphabetic()) {}
        } else if !character.is_control() || character == '\t' {
            clean.push(character);
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_put_together_and_cleaned() {
        let mut splitter = Splitter::default();
        assert_eq!(splitter.lines(b"one\r\ntw").collect::<Vec<_>>(), ["one"]);
        assert_eq!(splitter.lines(b"o\r\n\x1b[2Jthree\n").collect::<Vec<_>>(), ["two", "three"]);
        assert_eq!(splitter.rest(), None);
        assert_eq!(splitter.lines(b"four").count(), 0);
        assert_eq!(splitter.rest().as_deref(), Some("four"));
    }
}
