//! Standard input to the serial port, on the event loop.
//!
//! Reads as many bytes as the guest's port accepts. While the port is full, standard input is not watched, and typed
//! characters stay in the terminal. On a terminal, Ctrl-A is the escape (`escape.rs`).

use std::os::fd::AsRawFd;
use std::sync::Arc;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};

use super::Port;
use super::escape::Escape;
use crate::outcome::ExitEvent;

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

impl Source {
    /// The kind of standard input.
    #[must_use]
    pub fn of_stdin() -> Self {
        if rustix::termios::isatty(rustix::stdio::stdin()) { Self::Terminal } else { Self::Stream }
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
                commands.into_iter().for_each(|command| command.run(&self.exit_event));
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
