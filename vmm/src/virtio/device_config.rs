//! The device-specific configuration (virtio 1.2 §2.5), which the driver reads and, in parts, writes.
//!
//! Owns its bytes and their generation, under one lock. An access is atomic. A change by the device increments the
//! generation (§4.1.4.3.1), and notifies the driver.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use super::transport::Transport;

#[derive(Debug)]
struct Contents {
    bytes: Vec<u8>,
    generation: u8,
}

/// The configuration of a device.
#[derive(Debug)]
pub struct DeviceConfig {
    contents: Mutex<Contents>,
    initial: Vec<u8>,
    /// The bytes that the driver may write.
    writable: Range<usize>,
    transport: OnceLock<Weak<Transport>>,
}

impl DeviceConfig {
    /// A configuration after reset. The driver may write the bytes of `writable`.
    #[must_use]
    pub fn new(bytes: Vec<u8>, writable: Range<usize>) -> Self {
        let contents = Mutex::new(Contents { bytes: bytes.clone(), generation: 0 });
        Self { contents, initial: bytes, writable, transport: OnceLock::new() }
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.initial.len()
    }

    /// Whether it has no byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.initial.is_empty()
    }

    /// Reads bytes. Bytes behind the end are unchanged.
    pub fn read(&self, offset: usize, data: &mut [u8]) {
        let contents = self.contents();
        let bytes = contents.bytes.get(offset..).unwrap_or_default();
        data.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    }

    /// Changes bytes, increments the generation and notifies the driver. Call this for changes by the device. Bytes
    /// behind the end are ignored.
    pub fn update(&self, offset: usize, data: &[u8]) {
        {
            let mut contents = self.contents();
            let bytes = contents.bytes.get_mut(offset..).unwrap_or_default();
            bytes.iter_mut().zip(data).for_each(|(to, from)| *to = *from);
            contents.generation = contents.generation.wrapping_add(1);
        }
        if let Some(transport) = self.transport.get().and_then(Weak::upgrade) {
            transport.config_changed();
        }
    }

    /// A write by the driver. True if it has changed writable bytes or written them again.
    pub(super) fn write(&self, offset: usize, data: &[u8]) -> bool {
        let mut contents = self.contents();
        let mut is_written = false;
        for (at, byte) in (offset..).zip(data) {
            if let Some(to) = contents.bytes.get_mut(at)
                && self.writable.contains(&at)
            {
                *to = *byte;
                is_written = true;
            }
        }
        is_written
    }

    /// Gives the writable bytes their first values, after a reset.
    pub(super) fn reset(&self) {
        let mut contents = self.contents();
        let initial = self.initial.get(self.writable.clone()).unwrap_or_default();
        let bytes = contents.bytes.get_mut(self.writable.clone()).unwrap_or_default();
        bytes.iter_mut().zip(initial).for_each(|(to, from)| *to = *from);
    }

    pub(super) fn generation(&self) -> u8 {
        self.contents().generation
    }

    pub(super) fn connect(&self, transport: Weak<Transport>) {
        // A configuration belongs to one device.
        let _ = self.transport.set(transport);
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
