//! Standard input to the serial port, on the event loop.
//!
//! Reads as many bytes as the guest's port accepts. While the port is full, standard input is not watched, and typed
//! characters stay in the terminal. On a terminal, Ctrl-A is the escape: `Ctrl-A h` lists the keys, `Ctrl-A x` ends the VMM, and
//! `Ctrl-A Ctrl-A` sends one Ctrl-A.

use std::os::fd::AsRawFd;
use std::sync::Arc;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};

use super::Port;
use crate::outcome::{ExitEvent, Outcome};

const CTRL_A: u8 = 1;
/// What `Ctrl-A h` prints.
const HELP: &str = "\
vmm: Ctrl-A h       this list
     Ctrl-A x       end the VMM, without a shutdown of the guest
     Ctrl-A Ctrl-A  send Ctrl-A to the guest
     SIGUSR1 writes the report, if --report is given.";
/// The signal whose exit status `Ctrl-A x` has.
const INTERRUPTED: i32 = signal_hook::consts::SIGINT;

/// Forwards standard input to the port.
pub struct Input {
    port: Arc<Port>,
    exit_event: Arc<ExitEvent>,
    escape: Option<Escape>,
    stream: Stream,
}

/// Whether standard input has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stream {
    Open,
    Ended,
}

/// The kind of standard input. Only a terminal has the escape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A terminal.
    Terminal,
    /// A pipe or socket: every byte goes to the guest.
    Stream,
}

/// The escape's state: whether the last byte was Ctrl-A.
#[derive(Debug, Default)]
struct Escape {
    pending: bool,
}

/// What the user wants of the VMM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Command {
    Help,
    End,
}

impl Escape {
    /// The bytes of `typed` for the guest, and the commands among them. Nothing after [`Command::End`] counts.
    fn filter(&mut self, typed: &[u8]) -> (Vec<u8>, Vec<Command>) {
        let mut bytes = Vec::with_capacity(typed.len());
        let mut commands = Vec::new();
        for byte in typed {
            match (std::mem::take(&mut self.pending), *byte) {
                (true, b'x' | b'X') => {
                    commands.push(Command::End);
                    break;
                }
                (true, b'h' | b'H' | b'?') => commands.push(Command::Help),
                (true, CTRL_A) => bytes.push(CTRL_A),
                (true, other) => bytes.extend([CTRL_A, other]),
                (false, CTRL_A) => self.pending = true,
                (false, other) => bytes.push(other),
            }
        }
        (bytes, commands)
    }
}

impl Input {
    /// Input for `port`.
    #[must_use]
    pub fn new(port: Arc<Port>, source: Source, exit_event: Arc<ExitEvent>) -> Self {
        let escape = (source == Source::Terminal).then(Escape::default);
        Self { port, exit_event, escape, stream: Stream::Open }
    }

    fn watch(&mut self, ops: &mut EventOps) {
        if self.stream == Stream::Ended {
            return;
        }
        let stdin = Events::new(&rustix::stdio::stdin(), EventSet::IN);
        match ops.add(stdin) {
            Ok(()) | Err(event_manager::Error::FdAlreadyRegistered) => {}
            // epoll refuses /dev/null and files.
            Err(error) => {
                tracing::info!(
                    "standard input is no terminal, pipe or socket: the guest gets no input ({error})"
                );
                self.stream = Stream::Ended;
            }
        }
    }

    fn end(&mut self, ops: &mut EventOps) {
        self.stream = Stream::Ended;
        Self::unwatch(ops);
    }

    fn unwatch(ops: &mut EventOps) {
        if let Err(error) = ops.remove(Events::empty(&rustix::stdio::stdin())) {
            tracing::debug!("standard input was not watched: {error}");
        }
    }

    fn read(&mut self, ops: &mut EventOps) {
        // An unfinished escape may add a byte.
        let capacity = self.port.input_capacity().saturating_sub(1);
        if capacity == 0 {
            return Self::unwatch(ops);
        }
        let mut buffer = [0; 64];
        let room = buffer.get_mut(..capacity.min(64)).unwrap_or_default();
        let typed = match rustix::io::read(rustix::stdio::stdin(), room) {
            Ok(0) => return self.end(ops),
            Ok(count) => buffer.get(..count).unwrap_or_default(),
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => return,
            Err(error) => {
                tracing::warn!("standard input: {error}; the guest gets no more");
                return self.end(ops);
            }
        };
        match &mut self.escape {
            None => self.port.receive(typed),
            Some(escape) => {
                let (bytes, commands) = escape.filter(typed);
                if !bytes.is_empty() {
                    self.port.receive(&bytes);
                }
                for command in commands {
                    match command {
                        Command::Help => eprintln!("{HELP}"),
                        Command::End => self.exit_event.signal(Outcome::Stopped(INTERRUPTED)),
                    }
                }
            }
        }
    }
}

impl MutEventSubscriber for Input {
    fn process(&mut self, events: Events, ops: &mut EventOps) {
        if events.fd() == self.port.input_read().as_raw_fd() {
            // The port has room again. A failed read means that another event was first.
            if self.port.input_read().read().is_ok() {
                self.watch(ops);
            }
        } else {
            self.read(ops);
        }
    }

    fn init(&mut self, ops: &mut EventOps) {
        self.watch(ops);
        if let Err(error) = ops.add(Events::new(self.port.input_read(), EventSet::IN)) {
            tracing::error!("cannot watch the serial port for room, serial input may stop: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_escape_is_ctrl_a() {
        let mut escape = Escape::default();
        assert_eq!(escape.filter(b"ab\x01"), (b"ab".to_vec(), vec![]));
        assert_eq!(escape.filter(b"\x01c"), (b"\x01c".to_vec(), vec![]));
        assert_eq!(escape.filter(b"\x01q"), (b"\x01q".to_vec(), vec![]));
        assert_eq!(escape.filter(b"h?\x01h\x01"), (b"h?".to_vec(), vec![Command::Help]));
        assert_eq!(escape.filter(b"?!"), (b"!".to_vec(), vec![Command::Help]));
        assert_eq!(escape.filter(b"z\x01h\x01xrest"), (b"z".to_vec(), vec![Command::Help, Command::End]));
    }
}
