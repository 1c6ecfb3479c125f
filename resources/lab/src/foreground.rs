//! Runs a command in a lab host as if it were here: our directory, environment, streams and, if there is one, our
//! terminal, which is given back as it was.

use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use lab::{Command, Input, Job, Lab, Result, Said};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// How often the terminal's size is looked at.
const RESIZE_POLL: Duration = Duration::from_millis(500);

/// Runs a command to its end, and gives its status as shells do.
pub(crate) fn run(lab: &Lab, words: Vec<String>) -> Result<ExitCode> {
    let mut words = words.into_iter();
    let mut command = Command::new(words.next().unwrap_or_default()).args(words).with_input();
    // What is no text does not go through the line; nothing that matters is.
    for (name, value) in std::env::vars_os() {
        if let (Ok(name), Ok(value)) = (name.into_string(), value.into_string()) {
            command = command.env(name, value);
        }
    }
    if let Ok(directory) = std::env::current_dir() {
        command = command.directory(&directory);
    }
    let size = if io::stdin().is_terminal() && io::stdout().is_terminal() { terminal_size() } else { None };
    if let Some((rows, columns)) = size {
        command = command.on_terminal(rows, columns);
    }
    let job = lab.start(command)?;
    let _raw = size.and_then(|size| {
        let input = job.input();
        thread::spawn(move || follow_size(&input, size));
        RawTerminal::new()
    });
    let input = job.input();
    // Both threads end with the process: there is no way to stop a read from a terminal.
    thread::spawn(move || feed(&input));
    follow(job)
}

fn feed(input: &Input) {
    let mut buffer = vec![0; 4096];
    while let Ok(length @ 1..) = io::stdin().read(&mut buffer) {
        if input.send(buffer.get(..length).unwrap_or_default()).is_err() {
            return;
        }
    }
    // Where the lab host is gone, whoever waits for the command says so.
    let _ = input.end();
}

fn follow_size(input: &Input, mut known: (u16, u16)) {
    loop {
        thread::sleep(RESIZE_POLL);
        if let Some(now) = terminal_size().filter(|&now| now != known) {
            known = now;
            if input.resize(now.0, now.1).is_err() {
                return;
            }
        }
    }
}

fn follow(mut job: Job) -> Result<ExitCode> {
    loop {
        // Who closed our output wants no more of it; the command still runs to its end.
        match job.receive()? {
            Said::Stdout(bytes) => drop(io::stdout().write_all(&bytes).and_then(|()| io::stdout().flush())),
            Said::Stderr(bytes) => drop(io::stderr().write_all(&bytes)),
            Said::Ended(status) => {
                // As shells say it: 128 and the signal.
                let code =
                    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(125);
                return Ok(ExitCode::from(u8::try_from(code).unwrap_or(125)));
            }
        }
    }
}

fn terminal_size() -> Option<(u16, u16)> {
    tcgetwinsize(io::stdin()).ok().map(|size| (size.ws_row, size.ws_col))
}

/// The terminal in raw mode, until dropped.
struct RawTerminal {
    before: Termios,
}

impl RawTerminal {
    fn new() -> Option<Self> {
        let before = tcgetattr(io::stdin()).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw).ok()?;
        Some(Self { before })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // There is nobody left to tell.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}
