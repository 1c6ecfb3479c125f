//! A device of the test's own: it raises interrupts from any thread, as hardware does.
//!
//! Each line keeps to the contract of a host vector: it signals its eventfd while it has one, and otherwise sets
//! its pending bit, which its next eventfd gets. One lock a line, held across a signal, so that none comes after
//! an unbind has returned.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use vm_msi::Vector;
use vm_msi::backend::{Backend, BackendError, Capabilities, EventfdOwner, Growth};
use vmm_sys_util::eventfd::EventFd;

/// The device's side of its vectors.
pub(crate) struct Device {
    lines: Vec<Mutex<Line>>,
}

#[derive(Default)]
struct Line {
    eventfd: Option<EventFd>,
    pending: bool,
}

impl Device {
    pub(crate) fn new(vectors: u32) -> Arc<Self> {
        Arc::new(Self { lines: (0..vectors).map(|_| Mutex::default()).collect() })
    }

    /// Raises an interrupt.
    pub(crate) fn raise(&self, vector: u32) {
        let mut line = self.line(Vector(vector));
        match &line.eventfd {
            Some(eventfd) => eventfd.write(1).unwrap(),
            None => line.pending = true,
        }
    }

    /// Forgets what is pending, as a reset of the device does.
    pub(crate) fn reset(&self) {
        for line in &self.lines {
            line.lock().unwrap().pending = false;
        }
    }

    /// How many lines have an eventfd.
    pub(crate) fn bound(&self) -> usize {
        self.lines.iter().filter(|line| line.lock().unwrap().eventfd.is_some()).count()
    }

    fn line(&self, vector: Vector) -> MutexGuard<'_, Line> {
        self.lines[vector.index()].lock().unwrap()
    }
}

/// The device as the crate sees it.
pub(crate) struct DeviceBackend(pub(crate) Arc<Device>);

impl Backend for DeviceBackend {
    fn capabilities(&self) -> Capabilities {
        let vectors = self.0.lines.len() as u32;
        Capabilities {
            vectors,
            growth: Growth::Dynamic,
            independent: true,
            multi_message: false,
            ims: true,
            cookies: false,
        }
    }

    fn open(&mut self, vectors: u32) -> Result<(), BackendError> {
        assert_eq!(vectors as usize, self.0.lines.len());
        Ok(())
    }

    fn bind(&mut self, vector: Vector, eventfd: &EventFd) -> Result<(), BackendError> {
        let refused = |source: io::Error| BackendError::Bind { vector, source };
        let mut line = self.0.line(vector);
        let eventfd = eventfd.try_clone().map_err(refused)?;
        if line.pending {
            eventfd.write(1).map_err(refused)?;
        }
        *line = Line { eventfd: Some(eventfd), pending: false };
        Ok(())
    }

    fn unbind(&mut self, vector: Vector) -> Result<(), BackendError> {
        self.0.line(vector).eventfd = None;
        Ok(())
    }

    fn close(&mut self) -> Result<(), BackendError> {
        for line in &self.0.lines {
            line.lock().unwrap().eventfd = None;
        }
        Ok(())
    }

    /// Its duplicates are closed by then.
    fn eventfd_owner_after_close(&self) -> EventfdOwner {
        EventfdOwner::Domain
    }

    fn pending(&mut self, group: u32) -> u64 {
        let lines = self.0.lines.iter().enumerate().skip(group as usize * 64).take(64);
        lines.fold(0, |bits, (index, line)| bits | u64::from(line.lock().unwrap().pending) << (index % 64))
    }
}
