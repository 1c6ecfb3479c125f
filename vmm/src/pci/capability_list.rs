//! The list of capabilities of a function of the VMM's own, while it grows (PCIe r6 §7.5.1.1.11).

use super::config::{ConfigSpace, Register};

const FIRST: u8 = 0x40;
const POINTER: u16 = 0x34;

/// Capabilities one behind the other, each at a DWORD.
#[derive(Debug)]
pub struct CapabilityList {
    space: ConfigSpace,
    next: u8,
    /// Where the pointer to the next one is.
    pointer: u16,
}

impl CapabilityList {
    /// An empty list in configuration space that has none yet.
    #[must_use]
    pub fn new(space: ConfigSpace) -> Self {
        Self { space, next: FIRST, pointer: POINTER }
    }

    /// Adds a capability of so many bytes, ID and pointer among them, and answers where it is. All else of it reads 0.
    pub fn add(&mut self, id: u8, bytes: u8) -> u16 {
        let at = u16::from(self.next);
        self.space.fix(self.pointer, &[self.next]);
        self.space.fix(at, &[id]);
        self.pointer = at.saturating_add(1);
        self.next = self.next.saturating_add(bytes).next_multiple_of(4);
        at
    }

    /// Makes a part of the capability at `at` read `value`.
    pub fn fix(&mut self, at: u16, offset: u16, value: &[u8]) {
        self.space.fix(at.saturating_add(offset), value);
    }

    /// Defines registers of the capability at `at`.
    pub fn define(&mut self, at: u16, registers: &[Register]) {
        self.space.define(at, registers);
    }

    /// Configuration space with the list.
    #[must_use]
    pub fn finish(self) -> ConfigSpace {
        self.space
    }
}
