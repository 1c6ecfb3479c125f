//! The IOAPIC's pins: redirection entries, and the sources of level-triggered lines.
//!
//! Plain state (Intel 82093AA, 3.2.4): no I/O and no lock. A level-triggered pin is asserted while one of its sources asserts it.
//! It delivers once, sets Remote IRR, and delivers again after the end of interrupt. At the end of interrupt, and when the pin is
//! unmasked, every source is deasserted and must be resampled: a source whose device still has an interrupt pending asserts again.
//!
//! Invariant: a level-triggered pin delivers only a message whose route is in force. KVM reports the end of interrupt of no
//! other message.

use std::sync::Arc;

use vm_msi::message::MsiMessage;
use vmm_sys_util::eventfd::EventFd;

/// Number of pins.
pub(super) const PINS: usize = crate::layout::IOAPIC_PINS as usize;

/// Bits of a redirection entry's low word.
const MASKED: u32 = 1 << 16;
const TRIGGER_LEVEL: u32 = 1 << 15;
const REMOTE_IRR: u32 = 1 << 14;
const LOGICAL: u32 = 1 << 11;
const DELIVERY_AND_VECTOR: u32 = 0x7ff;
/// Writable bits: all but delivery status (12) and remote IRR (14).
const LOW_WRITABLE: u32 = MASKED | TRIGGER_LEVEL | 1 << 13 | LOGICAL | DELIVERY_AND_VECTOR;
const HIGH_WRITABLE: u32 = 0xfffe_0000;

/// Message addresses (Intel SDM 3A 11.11.1).
const MESSAGE_ADDRESS: u64 = 0xfee0_0000;
const MESSAGE_LOGICAL: u64 = 1 << 2;
/// Message data: level-triggered, and asserted.
const MESSAGE_LEVEL: u32 = 1 << 15 | 1 << 14;

/// A word of a redirection entry.
#[derive(Debug, Clone, Copy)]
pub(super) enum Word {
    Low,
    High,
}

#[derive(Debug, Clone, Copy)]
struct Pin {
    low: u32,
    high: u32,
    /// The level-triggered message whose end of interrupt KVM reports.
    in_force: Option<MsiMessage>,
}

impl Pin {
    const MASKED: Self = Self { low: MASKED, high: 0, in_force: None };

    fn is_masked(self) -> bool {
        self.low & MASKED != 0
    }

    fn is_level(self) -> bool {
        self.low & TRIGGER_LEVEL != 0
    }

    fn has_remote_irr(self) -> bool {
        self.low & REMOTE_IRR != 0
    }

    fn message(self) -> MsiMessage {
        // Bits 63:56 of the entry, and bits 55:49 if the guest uses extended destination IDs.
        let destination = u64::from(self.high >> 24) << 12 | u64::from(self.high >> 17 & 0x7f) << 5;
        let mode = if self.low & LOGICAL == 0 { 0 } else { MESSAGE_LOGICAL };
        MsiMessage { address: MESSAGE_ADDRESS | destination | mode, data: self.low & DELIVERY_AND_VECTOR }
    }

    fn level_message(self) -> Option<MsiMessage> {
        let message = self.message();
        self.is_level().then_some(MsiMessage { data: message.data | MESSAGE_LEVEL, ..message })
    }
}

/// A device's connection to a level-triggered pin.
#[derive(Debug, Default)]
struct Source {
    pin: usize,
    is_asserted: bool,
    /// Signalled when the source is deasserted and must be resampled. `None` while nothing is connected.
    resample: Option<Arc<EventFd>>,
}

/// Eventfds of sources to resample, after the state has changed.
pub(super) type Resampled = Vec<Arc<EventFd>>;

/// The pins and their sources.
#[derive(Debug)]
pub(super) struct Pins {
    pins: [Pin; PINS],
    sources: Vec<Source>,
}

impl Pins {
    /// After reset: every pin is masked. No source exists.
    pub(super) fn new() -> Self {
        Self { pins: [Pin::MASKED; PINS], sources: Vec::new() }
    }

    /// Reads a word of an entry.
    pub(super) fn read(&self, pin: usize, word: Word) -> u32 {
        self.pins.get(pin).map_or(0, |pin| match word {
            Word::Low => pin.low,
            Word::High => pin.high,
        })
    }

    /// Writes a word of an entry. A pin that is unmasked has its sources resampled: a source may have been asserted for an
    /// interrupt that its driver has handled since. An entry that becomes edge-triggered loses Remote IRR.
    pub(super) fn write(&mut self, pin: usize, word: Word, value: u32) -> Resampled {
        let Some(entry) = self.pins.get_mut(pin) else { return Resampled::new() };
        let was_masked = entry.is_masked();
        match word {
            Word::High => entry.high = value & HIGH_WRITABLE,
            Word::Low => entry.low = value & LOW_WRITABLE | entry.low & REMOTE_IRR,
        }
        if !entry.is_level() {
            entry.low &= !REMOTE_IRR;
        }
        let is_unmasked = was_masked && !entry.is_masked() && entry.is_level() && !entry.has_remote_irr();
        if is_unmasked { self.resample(pin) } else { Resampled::new() }
    }

    /// The message of a pulse. A masked pin ignores pulses, so it has none.
    pub(super) fn pulse(&self, pin: usize) -> Option<MsiMessage> {
        self.pins.get(pin).filter(|pin| !pin.is_masked()).map(|pin| pin.message())
    }

    /// The message of each level-triggered pin, masked or not: the end of an interrupt may come while the pin is masked.
    pub(super) fn level_messages(&self) -> Vec<(u32, MsiMessage)> {
        (0..).zip(&self.pins).filter_map(|(pin, entry)| Some((pin, entry.level_message()?))).collect()
    }

    /// Notes for which messages KVM reports the end of interrupt from now on.
    pub(super) fn set_in_force(&mut self, routes: &[(u32, MsiMessage)]) {
        for (number, pin) in (0..).zip(&mut self.pins) {
            pin.in_force = routes.iter().find(|(of, _)| *of == number).map(|(_, message)| *message);
        }
    }

    /// Adds a source of a pin. Nothing is connected to it.
    pub(super) fn add_source(&mut self, pin: usize) -> usize {
        let source = self.sources.len();
        self.sources.push(Source { pin, ..Source::default() });
        source
    }

    /// Connects a source, deasserted.
    pub(super) fn connect(&mut self, source: usize, resample: Arc<EventFd>) {
        if let Some(source) = self.sources.get_mut(source) {
            (source.is_asserted, source.resample) = (false, Some(resample));
        }
    }

    /// Disconnects a source. It is deasserted.
    pub(super) fn disconnect(&mut self, source: usize) {
        if let Some(source) = self.sources.get_mut(source) {
            (source.is_asserted, source.resample) = (false, None);
        }
    }

    /// Asserts a connected source.
    pub(super) fn assert(&mut self, source: usize) {
        if let Some(source) = self.sources.get_mut(source) {
            source.is_asserted = source.resample.is_some();
        }
    }

    /// Sets Remote IRR of each pin that has to deliver now, and returns their messages.
    pub(super) fn take_due(&mut self) -> Vec<(usize, MsiMessage)> {
        let Self { pins, sources } = self;
        let mut due = Vec::new();
        for (number, pin) in pins.iter_mut().enumerate() {
            let is_asserted = sources.iter().any(|source| source.pin == number && source.is_asserted);
            let message = pin.level_message().filter(|message| pin.in_force == Some(*message));
            if let Some(message) = message
                && is_asserted
                && !pin.is_masked()
                && !pin.has_remote_irr()
            {
                pin.low |= REMOTE_IRR;
                due.push((number, message));
            }
        }
        due
    }

    /// No local APIC took the message of a pin, so no end of interrupt follows.
    pub(super) fn refused(&mut self, pin: usize) {
        if let Some(pin) = self.pins.get_mut(pin) {
            pin.low &= !REMOTE_IRR;
        }
    }

    /// A local APIC has ended a level-triggered interrupt. It names the vector, which several pins may have.
    pub(super) fn end_of_interrupt(&mut self, vector: u8) -> Resampled {
        let ended = |pin: &Pin| pin.has_remote_irr() && pin.low.to_le_bytes().first() == Some(&vector);
        let ended: Vec<_> = (0..PINS).filter(|pin| self.pins.get(*pin).is_some_and(ended)).collect();
        let mut resampled = Resampled::new();
        for pin in ended {
            self.refused(pin);
            resampled.append(&mut self.resample(pin));
        }
        resampled
    }

    fn resample(&mut self, pin: usize) -> Resampled {
        let asserted = |source: &&mut Source| source.pin == pin && source.is_asserted;
        let resample = |source: &mut Source| {
            source.is_asserted = false;
            source.resample.clone()
        };
        self.sources.iter_mut().filter(asserted).filter_map(resample).collect()
    }
}

#[cfg(test)]
mod tests {
    use vmm_sys_util::eventfd::EFD_NONBLOCK;

    use super::*;

    const LEVEL_31: u32 = TRIGGER_LEVEL | 0x31;

    struct Fixture {
        pins: Pins,
        resample: Vec<Arc<EventFd>>,
    }

    impl Fixture {
        /// Sources 0 and 1 of pin 17, and source 2 of pin 18.
        fn new() -> Self {
            let mut pins = Pins::new();
            let resample: Vec<_> = (0..3).map(|_| Arc::new(EventFd::new(EFD_NONBLOCK).unwrap())).collect();
            for (pin, resample) in [17, 17, 18].into_iter().zip(&resample) {
                let source = pins.add_source(pin);
                pins.connect(source, Arc::clone(resample));
            }
            Self { pins, resample }
        }

        /// Writes the low word and puts the routes in force. Returns the sources that are resampled.
        fn write(&mut self, pin: usize, low: u32) -> Vec<usize> {
            let resampled = self.pins.write(pin, Word::Low, low);
            let routes = self.pins.level_messages();
            self.pins.set_in_force(&routes);
            self.numbers(&resampled)
        }

        fn numbers(&self, resampled: &Resampled) -> Vec<usize> {
            let number = |eventfd| self.resample.iter().position(|mine| Arc::ptr_eq(mine, eventfd));
            resampled.iter().filter_map(number).collect()
        }

        fn due(&mut self) -> Vec<(usize, u32)> {
            self.pins.take_due().into_iter().map(|(pin, message)| (pin, message.data)).collect()
        }

        fn end(&mut self, vector: u8) -> Vec<usize> {
            let resampled = self.pins.end_of_interrupt(vector);
            self.numbers(&resampled)
        }
    }

    #[test]
    fn an_asserted_pin_delivers_once_until_the_end_of_interrupt() {
        let mut fixture = Fixture::new();
        fixture.write(17, LEVEL_31);
        assert_eq!(fixture.due(), []);
        fixture.pins.assert(0);
        assert_eq!(fixture.due(), [(17, 0xc031)]);
        fixture.pins.assert(0);
        assert_eq!(fixture.due(), [], "it waits for the end of interrupt");
        assert_eq!(fixture.pins.read(17, Word::Low), LEVEL_31 | REMOTE_IRR);
        assert_eq!(fixture.end(0x31), [0]);
        assert_eq!((fixture.due(), fixture.pins.read(17, Word::Low)), (vec![], LEVEL_31));
        fixture.pins.assert(0);
        assert_eq!(fixture.due(), [(17, 0xc031)]);
    }

    #[test]
    fn sources_of_one_pin_share_its_interrupt_and_are_all_resampled() {
        let mut fixture = Fixture::new();
        fixture.write(17, LEVEL_31);
        fixture.pins.assert(1);
        assert_eq!(fixture.due(), [(17, 0xc031)]);
        fixture.pins.assert(0);
        assert_eq!(fixture.due(), []);
        assert_eq!(fixture.end(0x32), [0usize; 0], "another vector");
        assert_eq!(fixture.end(0x31), [0, 1]);
        assert_eq!(fixture.end(0x31), [0usize; 0], "it has ended");
        // The device of source 1 still has an interrupt.
        fixture.pins.assert(1);
        assert_eq!(fixture.due(), [(17, 0xc031)]);
        fixture.pins.disconnect(1);
        assert_eq!(fixture.end(0x31), [0usize; 0]);
        fixture.pins.assert(1);
        assert_eq!(fixture.due(), [], "it is not connected");
    }

    #[test]
    fn pins_of_one_vector_end_together() {
        let mut fixture = Fixture::new();
        fixture.write(17, LEVEL_31);
        fixture.write(18, LEVEL_31);
        fixture.pins.assert(0);
        fixture.pins.assert(2);
        assert_eq!(fixture.due(), [(17, 0xc031), (18, 0xc031)]);
        assert_eq!(fixture.end(0x31), [0, 2]);
    }

    #[test]
    fn a_pin_that_is_unmasked_is_resampled_instead_of_delivering_what_is_stale() {
        let mut fixture = Fixture::new();
        fixture.write(17, MASKED | LEVEL_31);
        fixture.pins.assert(0);
        assert_eq!(fixture.due(), []);
        assert_eq!(fixture.write(17, LEVEL_31), [0]);
        assert_eq!(fixture.due(), [], "the device tells whether it still has an interrupt");
        fixture.pins.assert(0);
        assert_eq!(fixture.due(), [(17, 0xc031)]);
        // Masked and unmasked before the end of interrupt: Remote IRR holds the pin back.
        assert_eq!(fixture.write(17, MASKED | LEVEL_31), [0usize; 0]);
        assert_eq!(fixture.write(17, LEVEL_31), [0usize; 0]);
        assert_eq!(fixture.due(), []);
        fixture.write(17, MASKED | LEVEL_31);
        assert_eq!(fixture.end(0x31), [0], "the end may come while the pin is masked");
    }

    #[test]
    fn nothing_is_delivered_before_its_route_is_in_force() {
        let mut fixture = Fixture::new();
        fixture.pins.write(17, Word::Low, LEVEL_31);
        fixture.pins.assert(0);
        assert_eq!(fixture.due(), []);
        let routes = fixture.pins.level_messages();
        assert_eq!(routes, [(17, MsiMessage { address: 0xfee0_0000, data: 0xc031 })]);
        fixture.pins.set_in_force(&routes);
        assert_eq!(fixture.due(), [(17, 0xc031)]);
        fixture.end(0x31);
        fixture.pins.write(17, Word::High, 3 << 24);
        fixture.pins.assert(0);
        assert_eq!(fixture.due(), []);
    }

    #[test]
    fn an_edge_triggered_entry_clears_remote_irr_and_has_no_level() {
        let mut fixture = Fixture::new();
        fixture.write(17, LEVEL_31);
        fixture.pins.assert(0);
        fixture.due();
        fixture.write(17, MASKED | 0x31);
        assert_eq!(fixture.pins.read(17, Word::Low), MASKED | 0x31);
        fixture.write(17, 0x31);
        assert_eq!(fixture.due(), []);
        fixture.write(17, LEVEL_31);
        assert_eq!(fixture.due(), [(17, 0xc031)], "the source has been asserted all the time");
    }

    #[test]
    fn a_message_that_no_local_apic_took_is_delivered_later() {
        let mut fixture = Fixture::new();
        fixture.write(17, LEVEL_31);
        fixture.pins.assert(0);
        let (pin, _) = fixture.due()[0];
        fixture.pins.refused(pin);
        assert_eq!(fixture.due(), [(17, 0xc031)]);
    }

    #[test]
    fn pins_and_sources_that_are_not_there_do_nothing() {
        let mut fixture = Fixture::new();
        assert!(fixture.pins.write(PINS, Word::Low, LEVEL_31).is_empty());
        assert_eq!(fixture.pins.read(PINS, Word::High), 0);
        assert_eq!(fixture.pins.pulse(PINS), None);
        fixture.pins.assert(9);
        fixture.pins.refused(PINS);
        assert_eq!(fixture.due(), []);
    }
}
