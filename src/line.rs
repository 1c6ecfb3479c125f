//! One interrupt source of the VMM: one eventfd, and its present message.
//!
//! For a pin of a userspace I/O APIC, or any other source outside a function's vectors. Owns the eventfd and
//! its route. Invariant: the eventfd is attached to the route in `attached`, or is detached and keeps its
//! signals. Locking: one lock per line, held while the router is called and taken before the router's.
//! Signalling takes no lock.

use std::fmt;
use std::io;
use std::sync::Arc;

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::interrupt::Interrupt;
use crate::lock::Mutex;
use crate::router::{Route, Router, RouterError};

/// An interrupt source with one message at a time.
///
/// Interrupts meanwhile: a signal while the line has no message waits in the eventfd, and the next message
/// delivers it. Several waiting signals become one interrupt, as with a pending bit.
///
/// ```
/// use std::sync::Arc;
///
/// use vm_msi::line::Line;
/// use vm_msi::testing::{FakeRouter, Failures};
/// use vm_msi::{Interrupt, MsiMessage};
///
/// let router = Arc::new(FakeRouter::new(Failures::default()));
/// let line = Line::new(router.clone())?;
/// line.eventfd().write(1)?; // Waits: there is no message yet.
/// line.set(Interrupt::new(MsiMessage { address: 0xfee0_0000, data: 0x41 }))?;
/// assert_eq!(router.take_delivered().len(), 1);
/// line.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Line {
    router: Arc<dyn Router>,
    eventfd: EventFd,
    attached: Mutex<Option<Route>>,
}

impl Line {
    /// A line without a message. Its signals wait.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub fn new(router: Arc<dyn Router>) -> io::Result<Self> {
        Ok(Self { router, eventfd: EventFd::new(EFD_NONBLOCK)?, attached: Mutex::new(None) })
    }

    /// The eventfd that the source signals. It stays the same for the line's life, so duplicates may be
    /// passed to another thread, process or kernel device. Only the line may read it or attach it.
    pub fn eventfd(&self) -> &EventFd {
        &self.eventfd
    }

    /// The line's message, if it has one.
    pub fn message(&self) -> Option<Interrupt> {
        self.attached.lock().as_ref().map(Route::message)
    }

    /// Sets the message of later signals, and of the signals that wait. When this returns, the old message is
    /// no longer delivered. Setting the same message again does nothing.
    ///
    /// Interrupts meanwhile: they wait. A published message costs a detach and an attach. Any other message
    /// also costs a commit.
    ///
    /// # Errors
    /// A host failure, which may be tried again. After [`RouterError::Detach`] the line still has its old
    /// message. After any other error it has no message, and signals wait.
    pub fn set(&self, message: Interrupt) -> Result<(), RouterError> {
        let mut attached = self.attached.lock();
        if attached.as_ref().is_some_and(|route| route.message() == message) {
            return Ok(());
        }
        // The route is published first, so signals wait for two system calls and not for a commit.
        let route = self.route(message);
        if let Err(error) = self.detach(&mut attached) {
            if let Ok(route) = route {
                self.router.put(route);
            }
            return Err(error);
        }
        let route = route?;
        if let Err(error) = self.router.attach(&self.eventfd, &route) {
            self.router.put(route);
            return Err(error);
        }
        *attached = Some(route);
        Ok(())
    }

    /// Removes the message, as for a masked pin. When this returns, no signal is delivered. Signals wait for
    /// the next message.
    ///
    /// # Errors
    /// [`RouterError::Detach`]: the line still has its message.
    pub fn clear(&self) -> Result<(), RouterError> {
        self.detach(&mut self.attached.lock())
    }

    /// Detaches the eventfd and puts its route back. When this returns, all earlier signals have been
    /// delivered, or had no message.
    ///
    /// Dropping a line does the same, but cannot report an error.
    ///
    /// # Errors
    /// [`RouterError::Detach`]. The kernel detaches the eventfd after every duplicate of it is closed. The
    /// message keeps its GSI for the life of the VM.
    pub fn close(self) -> Result<(), RouterError> {
        let closed = self.clear();
        if closed.is_err() {
            // The kernel may still deliver on this route, so it is dropped and not put back.
            let _pinned = self.attached.lock().take();
        }
        closed
    }

    fn route(&self, message: Interrupt) -> Result<Route, RouterError> {
        if let Some(route) = self.router.get(message) {
            return Ok(route);
        }
        let mut routes = Vec::with_capacity(1);
        self.router.get_or_publish(&[message], &mut routes);
        let no_answer = || RouterError::NoRoom { message, routes: 0 };
        routes.pop().ok_or_else(no_answer)?
    }

    fn detach(&self, attached: &mut Option<Route>) -> Result<(), RouterError> {
        if let Some(route) = &*attached {
            self.router.detach(&self.eventfd, route)?;
        }
        if let Some(route) = attached.take() {
            self.router.put(route);
        }
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let _ = self.clear();
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").field("message", &self.message()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::MsiMessage;
    use crate::testing::{Failures, FakeRouter};

    fn message(vector: u8) -> Interrupt {
        Interrupt::new(MsiMessage { address: 0xfee0_0000, data: vector.into() })
    }

    fn line() -> (Line, Arc<FakeRouter>, Failures) {
        let failures = Failures::default();
        let router = Arc::new(FakeRouter::new(failures.clone()));
        (Line::new(router.clone()).unwrap(), router, failures)
    }

    fn vectors(router: &FakeRouter) -> Vec<u32> {
        router.take_delivered().iter().map(|message| message.data).collect()
    }

    #[test]
    fn a_signal_is_delivered_as_the_present_message() {
        let (line, router, _) = line();
        for vector in [0x41, 0x42, 0x41] {
            line.set(message(vector)).unwrap();
            line.eventfd().write(1).unwrap();
            assert_eq!((vectors(&router), line.message()), (vec![vector.into()], Some(message(vector))));
            assert_eq!(router.in_use(), (1, 1));
        }
    }

    #[test]
    fn signals_without_a_message_wait_and_are_one_interrupt() {
        let (line, router, _) = line();
        line.eventfd().write(1).unwrap();
        assert!(vectors(&router).is_empty());
        line.set(message(0x41)).unwrap();
        assert_eq!(vectors(&router), [0x41]);
        line.clear().unwrap();
        line.clear().unwrap();
        assert_eq!(router.in_use(), (0, 0));
        line.eventfd().write(1).unwrap();
        line.eventfd().write(1).unwrap();
        assert!(vectors(&router).is_empty());
        line.set(message(0x42)).unwrap();
        assert_eq!(vectors(&router), [0x42]);
    }

    #[test]
    fn the_same_message_again_costs_nothing() {
        let (line, router, failures) = line();
        line.set(message(0x41)).unwrap();
        failures.schedule(1);
        line.set(message(0x41)).unwrap();
        assert_eq!(router.commits(), 1);
    }

    #[test]
    fn a_signal_is_delivered_after_the_host_stops_refusing() {
        // The calls of a change of message: publish, detach, attach.
        for refused in 0..3 {
            let (line, router, failures) = line();
            line.set(message(0x41)).unwrap();
            failures.schedule(1 << refused);
            assert!(line.set(message(0x42)).is_err());
            line.eventfd().write(1).unwrap();
            let before = vectors(&router);
            match refused {
                1 => assert_eq!((before, line.message()), (vec![0x41], Some(message(0x41)))),
                _ => assert_eq!((before, line.message()), (vec![], None)),
            }
            line.set(message(0x42)).unwrap();
            let expected: &[u32] = if refused == 1 { &[] } else { &[0x42] };
            assert_eq!(vectors(&router), expected);
            line.eventfd().write(1).unwrap();
            assert_eq!(vectors(&router), [0x42]);
            assert_eq!(router.in_use(), (1, 1));
        }
    }

    #[test]
    fn a_closed_or_dropped_line_puts_its_route_back() {
        for end in [|line: Line| line.close().unwrap(), drop::<Line>] {
            let (line, router, _) = line();
            line.set(message(0x41)).unwrap();
            end(line);
            assert_eq!(router.in_use(), (0, 0));
        }
    }
}
