//! The device of queues: a ring of a queue triggers its slot.

use serde_json::{Map, Value};
use vm_msi::{Router, Vector};

use super::device::{Model, Signals};
use super::interrupts::Interrupts;
use super::registers::{RING, RING_MSIX};

/// The model.
#[derive(Debug, Default)]
pub struct Queues;

impl Queues {
    fn ring<R: Router>(queue: u32, signals: &mut Signals<'_, R>) {
        if queue < signals.interrupts().slot_count() {
            signals.slot(Vector(queue));
        } else {
            signals.refuse();
        }
    }

    fn ring_msix<R: Router>(vector: u32, signals: &mut Signals<'_, R>) {
        let vectors = signals.interrupts().msix.as_ref().map_or(0, |msix| msix.layout().size().get());
        if vector < vectors.into() {
            signals.msix(Vector(vector));
        } else {
            signals.refuse();
        }
    }
}

impl Model for Queues {
    const IDENTIFICATION: [u8; 4] = *b"IMSQ";
    const NAME: &'static str = "queues";

    fn read<R: Router>(&self, _register: u64, _interrupts: &Interrupts<R>) -> u32 {
        0
    }

    fn write<R: Router>(&mut self, register: u64, value: u32, signals: &mut Signals<'_, R>) {
        match register {
            RING => Self::ring(value, signals),
            RING_MSIX => Self::ring_msix(value, signals),
            _ => {}
        }
    }

    fn reset(&mut self) {}

    fn report(&self) -> Map<String, Value> {
        Map::new()
    }
}
