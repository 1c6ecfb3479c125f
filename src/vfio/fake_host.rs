//! A host without VFIO: the kernel's rules for VFIO_DEVICE_SET_IRQS on MSI and MSI-X, with failures that a
//! test schedules.
//!
//! It follows Linux 6.12 (vfio_pci_intrs.c) where the kernel is strict. It returns a count if fewer
//! interrupts are available. It returns -EINVAL for a vector that cannot be allocated, and for any call while
//! another index is enabled. Clones are one host.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, MutexGuard};

use super::set_irqs::{Index, IrqCalls, IrqInfo, NO_FD};

pub(super) const EINTR: i32 = 4;
pub(super) const EINVAL: i32 = 22;
pub(super) const EMFILE: i32 = 24;
pub(super) const ENOSPC: i32 = 28;

/// The answer of the next SET_IRQS, whatever its arguments.
#[derive(Clone, Copy, Debug)]
pub(super) enum Answer {
    Error(i32),
    Count(u32),
}

#[derive(Debug)]
pub(super) struct State {
    info: IrqInfo,
    /// INTx or the other index is enabled.
    pub(super) other_index: bool,
    enabled: Option<Index>,
    allocated: BTreeSet<u32>,
    bound: BTreeMap<u32, RawFd>,
    /// How many interrupts are available at each call that enables the index. The last value stays.
    pub(super) available: VecDeque<u32>,
    pub(super) answers: VecDeque<Answer>,
    enables: Vec<u32>,
    calls: usize,
    /// Bytes of the device's file by their offset.
    pub(super) file: BTreeMap<u64, u8>,
}

/// A fake of a VFIO device's descriptor.
#[derive(Clone, Debug)]
pub(super) struct FakeHost(Arc<Mutex<State>>);

impl FakeHost {
    pub(super) fn new(info: IrqInfo) -> Self {
        Self(Arc::new(Mutex::new(State {
            info,
            other_index: false,
            enabled: None,
            allocated: BTreeSet::new(),
            bound: BTreeMap::new(),
            available: VecDeque::from([info.vectors]),
            answers: VecDeque::new(),
            enables: Vec::new(),
            calls: 0,
            file: BTreeMap::new(),
        })))
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub(super) fn is_enabled(&self) -> bool {
        self.state().enabled.is_some()
    }

    pub(super) fn bound(&self) -> Vec<u32> {
        self.state().bound.keys().copied().collect()
    }

    /// The number of vectors of each call that enabled the index, or tried to.
    pub(super) fn enables(&self) -> Vec<u32> {
        self.state().enables.clone()
    }

    /// How many times SET_IRQS was called.
    pub(super) fn calls(&self) -> usize {
        self.state().calls
    }

    /// Sets bytes of the device's file, from `offset` on.
    pub(super) fn set_file(&self, offset: u64, bytes: &[u8]) {
        self.state().file.extend((offset..).zip(bytes.iter().copied()));
    }
}

impl State {
    fn allocate(&mut self, index: Index, vector: u32) -> io::Result<()> {
        let dynamic = self.info.dynamic && index == Index::Msix;
        if !self.allocated.contains(&vector) && !dynamic {
            return Err(error(EINVAL));
        }
        self.allocated.insert(vector);
        Ok(())
    }

    /// One vector of a block: fd -1 detaches, any other fd attaches.
    fn set(&mut self, index: Index, vector: u32, fd: RawFd) -> io::Result<()> {
        if fd == NO_FD {
            self.bound.remove(&vector);
            return Ok(());
        }
        self.allocate(index, vector)?;
        self.bound.insert(vector, fd);
        Ok(())
    }
}

impl IrqCalls for FakeHost {
    fn info(&self, _: Index) -> io::Result<IrqInfo> {
        Ok(self.state().info)
    }

    fn set_eventfds(&self, index: Index, start: u32, eventfds: &[RawFd]) -> io::Result<u32> {
        let state = &mut *self.state();
        state.calls += 1;
        let end = start + eventfds.len() as u32;
        match state.answers.pop_front() {
            Some(Answer::Error(errno)) => return Err(error(errno)),
            Some(Answer::Count(count)) => return Ok(count),
            None => {}
        }
        if end > state.info.vectors || state.other_index || state.enabled.is_some_and(|other| other != index)
        {
            return Err(error(EINVAL));
        }
        if state.enabled.is_none() {
            state.enables.push(end);
            let available = if state.available.len() > 1 {
                state.available.pop_front()
            } else {
                state.available.front().copied()
            };
            let available = available.unwrap_or(0);
            if available == 0 {
                return Err(error(ENOSPC));
            }
            if available < end {
                return Ok(available);
            }
            state.enabled = Some(index);
            state.allocated = (0..end).collect();
        }
        for (vector, fd) in (start..).zip(eventfds) {
            if let Err(refused) = state.set(index, vector, *fd) {
                // The kernel detaches the whole block.
                state.bound.retain(|vector, _| !(start..end).contains(vector));
                return Err(refused);
            }
        }
        Ok(0)
    }

    fn disable(&self, index: Index) -> io::Result<()> {
        let state = &mut *self.state();
        state.calls += 1;
        if let Some(Answer::Error(errno)) = state.answers.pop_front() {
            return Err(error(errno));
        }
        if state.enabled != Some(index) {
            return Err(error(EINVAL));
        }
        state.enabled = None;
        state.allocated.clear();
        state.bound.clear();
        Ok(())
    }

    fn read(&self, offset: u64, data: &mut [u8]) -> io::Result<()> {
        let state = self.state();
        for (byte, at) in data.iter_mut().zip(offset..) {
            *byte = *state.file.get(&at).ok_or_else(|| error(5))?;
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        for (byte, at) in data.iter().zip(offset..) {
            *state.file.get_mut(&at).ok_or_else(|| error(5))? = *byte;
        }
        Ok(())
    }
}

fn error(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}
