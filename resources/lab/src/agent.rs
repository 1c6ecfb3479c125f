//! The agent: runs in the lab host, takes commands from the virtio-serial line, and streams back what they say.
//!
//! One thread reads the line; each command has one thread per stream. The line's writing end is behind a mutex,
//! held for one frame. A command's `Ended` is sent after the last byte of its output.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use rustix::process::{Pid, Signal, kill_process_group};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::error::{At, Error, Result};
use crate::wire::{Frame, Message, Start, TerminalSize};
use crate::{cpus, pulse};

/// The name of the virtio-serial port.
pub(crate) const PORT: &str = "lab.agent";

/// Serves the line until it closes.
///
/// # Errors
/// The machine has no such line (it is not a lab host), or the line broke.
pub fn serve() -> Result<()> {
    let path = find_port()?;
    let mut line = OpenOptions::new().read(true).write(true).open(&path).at("open", &path)?;
    let agent =
        Agent { line: Arc::new(Mutex::new(line.try_clone().at("open", &path)?)), jobs: Jobs::default() };
    let pulse = agent.clone();
    // Before this process leaves the first CPU, which is to report too.
    pulse::start(move |cpu| pulse.say(0, Message::Pulse(cpu)))?;
    cpus::leave_the_first()?;
    agent.say(0, Message::Ready);
    loop {
        match Frame::receive(&mut line) {
            Ok(frame) => agent.handle(frame),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(source) => return Err(Error::Line { what: "the agent's line", source }),
        }
    }
}

fn find_port() -> Result<String> {
    let class = "/sys/class/virtio-ports";
    for entry in fs::read_dir(class).at("read", class)? {
        let entry = entry.at("read", class)?;
        if fs::read_to_string(entry.path().join("name")).is_ok_and(|name| name.trim() == PORT) {
            return Ok(format!("/dev/{}", entry.file_name().to_string_lossy()));
        }
    }
    Err(Error::Agent(format!("no virtio-serial port `{PORT}`: `lab agent` runs inside a lab host only")))
}

/// The commands that run now.
type Jobs = Arc<Mutex<HashMap<u32, Job>>>;

struct Job {
    group: Pid,
    input: Option<Sender<Vec<u8>>>,
    terminal: Option<OwnedFd>,
}

#[derive(Clone)]
struct Agent {
    line: Arc<Mutex<File>>,
    jobs: Jobs,
}

impl Agent {
    fn say(&self, channel: u32, message: Message) {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        // A line that is gone takes this machine with it; there is nobody left to tell.
        let _ = Frame { channel, message }.send(&mut *line);
    }

    fn handle(&self, Frame { channel, message }: Frame) {
        if let Message::Start(start) = message {
            if let Err(error) = self.start(channel, &start) {
                let program = start.words.first().map_or("", String::as_str);
                self.say(channel, Message::NotStarted(format!("cannot start `{program}`: {error}")));
            }
            return;
        }
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        // A command may have ended while this was on its way.
        let Some(job) = jobs.get_mut(&channel) else { return };
        match message {
            Message::Input(bytes) => {
                // A command that has closed its input does not read this, and need not.
                let _ = job.input.as_ref().map(|input| input.send(bytes));
            }
            Message::EndOfInput => job.input = None,
            Message::Kill => drop(kill_process_group(job.group, Signal::KILL)),
            Message::Resize(size) => {
                if let Some(terminal) = &job.terminal {
                    let _ = tcsetwinsize(terminal, window(size));
                }
            }
            _ => {}
        }
    }

    fn start(&self, channel: u32, start: &Start) -> io::Result<()> {
        // The machine's files are cached here without asking again. Names and pages are forgotten to see what has
        // changed between two commands: with the names alone a file's old pages may stay, now and then.
        fs::write("/proc/sys/vm/drop_caches", "3")?;
        let (mut child, pumps, job) = match start.terminal {
            Some(size) => self.on_terminal(channel, start, size)?,
            None => self.on_pipes(channel, start)?,
        };
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).insert(channel, job);
        let agent = self.clone();
        thread::spawn(move || {
            let status = child.wait();
            for pump in pumps {
                let _ = pump.join();
            }
            agent.jobs.lock().unwrap_or_else(PoisonError::into_inner).remove(&channel);
            agent.say(
                channel,
                match status {
                    Ok(status) => Message::Ended(status.into_raw()),
                    Err(error) => Message::NotStarted(error.to_string()),
                },
            );
        });
        Ok(())
    }

    fn on_pipes(&self, channel: u32, start: &Start) -> io::Result<(Child, Vec<JoinHandle<()>>, Job)> {
        let (program, arguments) = split(start)?;
        let mut command = Command::new(program);
        command.args(arguments).process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.stdin(if start.input { Stdio::piped() } else { Stdio::null() });
        let mut child = surroundings(&mut command, start).spawn()?;
        let mut pumps = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            pumps.push(self.pump(channel, stdout, Message::Stdout));
        }
        if let Some(stderr) = child.stderr.take() {
            pumps.push(self.pump(channel, stderr, Message::Stderr));
        }
        let input = child.stdin.take().map(feed);
        let job = Job { group: pid(&child)?, input, terminal: None };
        Ok((child, pumps, job))
    }

    fn on_terminal(
        &self,
        channel: u32,
        start: &Start,
        size: TerminalSize,
    ) -> io::Result<(Child, Vec<JoinHandle<()>>, Job)> {
        let (program, arguments) = split(start)?;
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&ours)?;
        unlockpt(&ours)?;
        tcsetwinsize(&ours, window(size))?;
        let name = ptsname(&ours, Vec::new())?;
        let theirs = OpenOptions::new().read(true).write(true).open(name.to_string_lossy().as_ref())?;
        let mut command = Command::new("setsid");
        command.arg("--ctty").arg(program).args(arguments);
        command.stdin(theirs.try_clone()?).stdout(theirs.try_clone()?).stderr(theirs);
        let child = surroundings(&mut command, start).spawn()?;
        // `command` goes out of scope here, and with it our copies of their end.
        let pump = self.pump(channel, File::from(ours.try_clone()?), Message::Stdout);
        let job = Job {
            group: pid(&child)?,
            input: Some(feed(File::from(ours.try_clone()?))),
            terminal: Some(ours),
        };
        Ok((child, vec![pump], job))
    }

    fn pump(
        &self,
        channel: u32,
        mut from: impl Read + Send + 'static,
        message: fn(Vec<u8>) -> Message,
    ) -> JoinHandle<()> {
        let agent = self.clone();
        thread::spawn(move || {
            let mut buffer = vec![0; 32 << 10];
            // A terminal whose last process is gone reads as EIO: the end, like 0.
            while let Ok(length @ 1..) = from.read(&mut buffer) {
                agent.say(channel, message(buffer.get(..length).unwrap_or_default().to_vec()));
            }
        })
    }
}

/// Writes to a command's input on a thread of its own: a command that does not read must not hold up the others.
fn feed(mut input: impl Write + Send + 'static) -> Sender<Vec<u8>> {
    let (sender, receiver) = mpsc::channel::<Vec<u8>>();
    thread::spawn(move || receiver.iter().all(|bytes| input.write_all(&bytes).is_ok()));
    sender
}

fn split(start: &Start) -> io::Result<(&String, &[String])> {
    start.words.split_first().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no command"))
}

fn surroundings<'a>(command: &'a mut Command, start: &Start) -> &'a mut Command {
    if let Some(directory) = &start.directory {
        command.current_dir(directory);
    }
    command.envs(start.environment.iter().map(|(name, value)| (name, value)))
}

fn pid(child: &Child) -> io::Result<Pid> {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or_else(|| io::Error::other("no process id"))
}

fn window(size: TerminalSize) -> Winsize {
    Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 }
}
