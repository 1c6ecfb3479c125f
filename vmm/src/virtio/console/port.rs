//! The port of a console: what is typed goes into the receive queue, and the transmit queue is shown.
//!
//! No call waits. Of the input, [`READ_AHEAD`] bytes are read while the driver offers no buffers, so that the escape works
//! without a driver; the rest stays in the terminal. Output waits in its chain while the
//! terminal accepts none, and with it the guest's later output. Both descriptors are watched edge-triggered, and asked with
//! poll(2) before each read and write, because they are shared with other processes and may be blocking.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use vmm_sys_util::epoll::EventSet;

use super::{Console, Ends, RECEIVE, TRANSMIT};
use crate::error::Result;
use crate::outcome::ExitEvent;
use crate::serial::escape::Escape;
use crate::serial::input::Source;
use crate::virtio::chain::Chain;
use crate::virtio::handler::{Handler, Service, Token};
use crate::virtio::lane::Lane;
use crate::virtio::live_queue::LiveQueue;
use crate::virtio::queue::QueueIndex;

const INPUT: Token = Token(0);
const OUTPUT: Token = Token(1);
/// Bytes that a writable pipe or terminal accepts at once (PIPE_BUF).
const AT_ONCE: usize = 4096;
/// Bytes that are read before there are buffers for them.
const READ_AHEAD: usize = 4096;

/// The handler of a console.
pub(super) struct Port {
    console: Arc<Console>,
    input: Option<OwnedFd>,
    output: OwnedFd,
    escape: Option<Escape>,
    exit_event: Arc<ExitEvent>,
    /// Input for which there was no buffer.
    typed: Vec<u8>,
    /// A chain that is not shown to its end, and the bytes of it that are.
    showing: Option<(Chain, u64)>,
}

impl Port {
    pub(super) fn new(console: Arc<Console>, ends: Ends, exit_event: Arc<ExitEvent>) -> Self {
        let Ends { input, output, source } = ends;
        let escape = (source == Source::Terminal).then(Escape::default);
        Self { console, input: Some(input), output, escape, exit_event, typed: Vec::new(), showing: None }
    }

    fn receive(&mut self, queue: &mut LiveQueue) {
        while let Some(chain) = queue.pop() {
            let room = usize::try_from(chain.writable().len()).unwrap_or(usize::MAX);
            if chain.fault().is_some() || room == 0 {
                if chain.fault().is_none() {
                    queue.count_invalid();
                }
                queue.complete(chain, 0);
                continue;
            }
            if self.typed.is_empty() {
                self.read();
            }
            if self.typed.is_empty() {
                queue.put_back(chain);
                return;
            }
            let count = self.typed.len().min(room);
            let part: Vec<u8> = self.typed.drain(..count).collect();
            if chain.writable().write(queue.memory(), 0, &part).is_ok() {
                self.console.received.fetch_add(count as u64, Ordering::Relaxed);
                queue.complete(chain, u32::try_from(count).unwrap_or(u32::MAX));
            } else {
                queue.count_invalid();
                queue.complete(chain, 0);
            }
        }
    }

    /// Reads what is typed, up to [`READ_AHEAD`] and a buffer.
    fn read(&mut self) {
        let Some(input) = &self.input else { return };
        let mut buffer = [0; 256];
        let mut is_open = true;
        while is_open && self.typed.len() < READ_AHEAD && is_ready(input, PollFlags::IN) {
            let typed = match rustix::io::read(input, &mut buffer) {
                Ok(count) => buffer.get(..count).unwrap_or_default(),
                Err(Errno::INTR | Errno::AGAIN) => continue,
                Err(error) => {
                    tracing::warn!("standard input: {error}; the guest gets no more");
                    &[]
                }
            };
            is_open = !typed.is_empty();
            match &mut self.escape {
                None => self.typed.extend_from_slice(typed),
                Some(escape) => {
                    let (bytes, commands) = escape.filter(typed);
                    self.typed.extend(bytes);
                    commands.into_iter().for_each(|command| command.run(&self.exit_event));
                }
            }
        }
        if !is_open {
            self.input = None;
        }
    }

    fn transmit(&mut self, queue: &mut LiveQueue) {
        while let Some((chain, shown)) = self.showing.take().or_else(|| queue.pop().map(|chain| (chain, 0))) {
            let left = chain.readable().len().saturating_sub(shown);
            if chain.fault().is_some() || left == 0 {
                queue.complete(chain, 0);
                continue;
            }
            let mut buffer = [0; AT_ONCE];
            let len = usize::try_from(left).unwrap_or(usize::MAX).min(AT_ONCE);
            let part = buffer.get_mut(..len).unwrap_or_default();
            if chain.readable().read(queue.memory(), shown, part).is_err() {
                queue.count_invalid();
                queue.complete(chain, 0);
                continue;
            }
            let written = if is_ready(&self.output, PollFlags::OUT) {
                rustix::io::write(&self.output, part)
            } else {
                Err(Errno::AGAIN)
            };
            match written {
                Ok(count) => {
                    self.console.sent.fetch_add(count as u64, Ordering::Relaxed);
                    self.showing = Some((chain, shown.saturating_add(count as u64)));
                }
                Err(Errno::INTR) => self.showing = Some((chain, shown)),
                Err(Errno::AGAIN) => {
                    self.showing = Some((chain, shown));
                    return;
                }
                // The reader is gone. Output that nobody reads must not stop the guest.
                Err(_) => queue.complete(chain, 0),
            }
        }
    }
}

/// Whether a read or a write does not block. An end that is closed counts as ready.
fn is_ready(descriptor: &OwnedFd, event: PollFlags) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::new(descriptor, event)], Some(&now)).is_ok_and(|ready| ready > 0)
}

impl Handler for Port {
    fn init(&mut self, lane: &mut Lane) -> Result<()> {
        // epoll refuses /dev/null and files. They never block.
        if let Some(input) = &self.input
            && let Err(error) = lane.watch(input, INPUT, EventSet::IN | EventSet::EDGE_TRIGGERED)
        {
            tracing::info!(
                "standard input is no terminal, pipe or socket: the guest gets no input ({error})"
            );
            self.input = None;
        }
        if let Err(error) = lane.watch(&self.output, OUTPUT, EventSet::OUT | EventSet::EDGE_TRIGGERED) {
            tracing::debug!("standard output never blocks ({error})");
        }
        Ok(())
    }

    /// Linux reads the size when the configuration changes, and not before.
    fn start(&mut self, _lane: &mut Lane, index: QueueIndex) -> Result<Service> {
        if index == RECEIVE {
            self.console.config.update(0, &[]);
        }
        Ok(Service::Lane)
    }

    /// What is not shown of a chain when the queue stops is lost.
    fn stop(&mut self, lane: &mut Lane, index: QueueIndex) {
        if index == TRANSMIT
            && let (Some((chain, _)), Some(queue)) = (self.showing.take(), lane.queue(index))
        {
            queue.complete(chain, 0);
        }
    }

    fn queue_ready(&mut self, lane: &mut Lane, index: QueueIndex) {
        let Some(queue) = lane.queue(index) else { return };
        if index == RECEIVE { self.receive(queue) } else { self.transmit(queue) }
    }

    fn descriptor_ready(&mut self, lane: &mut Lane, token: Token, _ready: EventSet) {
        if token == INPUT {
            self.read();
        }
        self.queue_ready(lane, if token == INPUT { RECEIVE } else { TRANSMIT });
    }
}
