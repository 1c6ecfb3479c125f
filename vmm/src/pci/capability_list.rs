//! Builder for the capability list of an emulated function (PCIe r6 §7.5.1.1.11).

use super::config::{ConfigSpace, Register};

const FIRST: u8 = 0x40;
const POINTER: u16 = 0x34;

/// Consecutive capabilities, each DWORD-aligned.
#[derive(Debug)]
pub struct CapabilityList {
    space: ConfigSpace,
    next: u8,
    /// Offset of the last next pointer.
    pointer: u16,
}

impl CapabilityList {
    /// An empty list in configuration space without capabilities.
    #[must_use]
    pub fn new(space: ConfigSpace) -> Self {
        Self { space, next: FIRST, pointer: POINTER }
    }

    /// Adds a capability of `bytes` bytes, including ID and next pointer. Returns its offset. The remaining bytes
    /// read 0.
    pub fn add(&mut self, id: u8, bytes: u8) -> u16 {
        let at = u16::from(self.next);
        self.space.fix(self.pointer, &[self.next]);
        self.space.fix(at, &[id]);
        self.pointer = at.saturating_add(1);
        self.next = self.next.saturating_add(bytes).next_multiple_of(4);
        at
    }

    /// Sets read-only bytes of the capability at `at`.
    pub fn fix(&mut self, at: u16, offset: u16, value: &[u8]) {
        self.space.fix(at.saturating_add(offset), value);
    }

    /// Defines registers of the capability at `at`.
    pub fn define(&mut self, at: u16, registers: &[Register]) {
        self.space.define(at, registers);
    }

    /// The finished configuration space.
    #[must_use]
    pub fn finish(self) -> ConfigSpace {
        self.space
    }
}
