//! An IOAPIC with edge-triggered pins, for `--irqchip split`.
//!
//! Registers (Intel 82093AA): a select register, a window, and 24 redirection entries. A pulse on a pin becomes a
//! message to the local APICs, through the VM's router. No device has a level-triggered line, so remote IRR and EOI
//! are absent. One lock protects the registers. It is released before a message is sent.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vm_device::DeviceMmio;
use vm_device::bus::{MmioAddress, MmioAddressOffset};
use vm_msi::Target;
use vm_msi::message::MsiMessage;
use vm_msi::router::{Router, RouterError};

const PINS: usize = crate::layout::IOAPIC_PINS as usize;

/// Offsets of the two mapped registers.
const SELECT: u64 = 0x00;
const WINDOW: u64 = 0x10;
/// Register indices: identification, version, and the first redirection entry, two words a pin.
const ID: u8 = 0;
const VERSION: u8 = 1;
const REDIRECTION: u8 = 0x10;
/// Version 0x11, and the index of the last pin.
const VERSION_VALUE: u32 = 0x11 | (PINS as u32 - 1) << 16;
const ID_BITS: u32 = 0x0f00_0000;

/// Bits of a redirection entry's low word.
const MASKED: u32 = 1 << 16;
const TRIGGER_LEVEL: u32 = 1 << 15;
const LOGICAL: u32 = 1 << 11;
const DELIVERY_AND_VECTOR: u32 = 0x7ff;
/// Writable bits: all but delivery status (12) and remote IRR (14).
const LOW_WRITABLE: u32 = MASKED | TRIGGER_LEVEL | 1 << 13 | LOGICAL | DELIVERY_AND_VECTOR;
const HIGH_WRITABLE: u32 = 0xfffe_0000;

/// Message addresses (Intel SDM 3A 11.11.1).
const MESSAGE_ADDRESS: u64 = 0xfee0_0000;
const MESSAGE_LOGICAL: u64 = 1 << 2;

#[derive(Debug, Clone, Copy)]
struct Redirection {
    low: u32,
    high: u32,
}

impl Redirection {
    /// The message for a pulse. A masked pin ignores pulses, so it has none.
    fn message(self) -> Option<MsiMessage> {
        // Bits 63:56 of the entry, and bits 55:49 if the guest uses extended destination IDs.
        let destination = u64::from(self.high >> 24) << 12 | u64::from(self.high >> 17 & 0x7f) << 5;
        let mode = if self.low & LOGICAL == 0 { 0 } else { MESSAGE_LOGICAL };
        let address = MESSAGE_ADDRESS | destination | mode;
        (self.low & MASKED == 0).then_some(MsiMessage { address, data: self.low & DELIVERY_AND_VECTOR })
    }
}

#[derive(Debug)]
struct Registers {
    select: u8,
    id: u32,
    redirections: [Redirection; PINS],
}

impl Registers {
    /// The redirection entry that `select` names, and which of its two words.
    fn selected(&mut self) -> Option<(&mut Redirection, Word)> {
        let index = self.select.checked_sub(REDIRECTION)?;
        let word = if index.is_multiple_of(2) { Word::Low } else { Word::High };
        Some((self.redirections.get_mut(usize::from(index / 2))?, word))
    }

    fn read(&mut self) -> u32 {
        match self.select {
            ID => self.id,
            VERSION => VERSION_VALUE,
            _ => match self.selected() {
                Some((entry, Word::Low)) => entry.low,
                Some((entry, Word::High)) => entry.high,
                None => 0,
            },
        }
    }

    fn write(&mut self, value: u32) {
        match self.select {
            ID => self.id = value & ID_BITS,
            _ => match self.selected() {
                Some((entry, Word::Low)) => entry.low = value & LOW_WRITABLE,
                Some((entry, Word::High)) => entry.high = value & HIGH_WRITABLE,
                None => {}
            },
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Word {
    Low,
    High,
}

/// The IOAPIC, in front of a router.
pub struct Ioapic {
    registers: Mutex<Registers>,
    router: Arc<dyn Router>,
}

impl Ioapic {
    /// An IOAPIC after reset: every pin masked.
    #[must_use]
    pub fn new(router: Arc<dyn Router>) -> Self {
        let masked = Redirection { low: MASKED, high: 0 };
        let registers = Registers { select: 0, id: 0, redirections: [masked; PINS] };
        Self { registers: Mutex::new(registers), router }
    }

    /// Pulses a pin. An invalid message in the redirection entry is dropped.
    ///
    /// # Errors
    /// The router's error if the kernel refuses the message.
    pub fn pulse(&self, pin: u32) -> Result<(), RouterError> {
        let entry = usize::try_from(pin).ok().and_then(|pin| self.registers().redirections.get(pin).copied());
        let message = entry.and_then(Redirection::message);
        match message.and_then(|message| self.router.translate(message).ok()) {
            // A message that no local APIC accepts is dropped, too: the guest programmed it.
            Some(Target::Interrupt(interrupt)) => self.router.signal(interrupt).map(drop),
            Some(Target::Memory(_)) | None => Ok(()),
        }
    }

    fn registers(&self) -> MutexGuard<'_, Registers> {
        self.registers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Ioapic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ioapic").field("registers", &self.registers).finish_non_exhaustive()
    }
}

impl DeviceMmio for Ioapic {
    fn mmio_read(&self, _base: MmioAddress, offset: MmioAddressOffset, data: &mut [u8]) {
        data.fill(0);
        let value = match offset {
            SELECT => u32::from(self.registers().select),
            WINDOW => self.registers().read(),
            _ => return,
        };
        // Registers have 32 bits. A wider access reads zeros above.
        data.iter_mut().zip(value.to_le_bytes()).for_each(|(data, byte)| *data = byte);
    }

    fn mmio_write(&self, _base: MmioAddress, offset: MmioAddressOffset, data: &[u8]) {
        match (offset, data) {
            (SELECT, [select, ..]) => self.registers().select = *select,
            (WINDOW, [a, b, c, d, ..]) => self.registers().write(u32::from_le_bytes([*a, *b, *c, *d])),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use vm_msi::Interrupt;
    use vm_msi::router::{Route, Signalled};
    use vmm_sys_util::eventfd::EventFd;

    use super::*;

    const BASE: MmioAddress = MmioAddress(crate::layout::IOAPIC);

    /// A router that records messages.
    struct Wire(mpsc::Sender<MsiMessage>);

    impl Router for Wire {
        fn get_or_publish(&self, _: &[Interrupt], _: &mut Vec<Result<Route, RouterError>>) {}
        fn attach(&self, _: &EventFd, _: &Route) -> Result<(), RouterError> {
            Ok(())
        }
        fn detach(&self, _: &EventFd, _: &Route) -> Result<(), RouterError> {
            Ok(())
        }
        fn put(&self, _: Route) {}
        fn signal(&self, message: Interrupt) -> Result<Signalled, RouterError> {
            self.0.send(message.message()).unwrap();
            Ok(Signalled::Delivered)
        }
    }

    fn ioapic() -> (Ioapic, mpsc::Receiver<MsiMessage>) {
        let (sender, receiver) = mpsc::channel();
        (Ioapic::new(Arc::new(Wire(sender))), receiver)
    }

    fn write(ioapic: &Ioapic, register: u8, value: u32) {
        ioapic.mmio_write(BASE, SELECT, &[register, 0, 0, 0]);
        ioapic.mmio_write(BASE, WINDOW, &value.to_le_bytes());
    }

    fn read(ioapic: &Ioapic, register: u8) -> u32 {
        ioapic.mmio_write(BASE, SELECT, &[register]);
        let mut data = [0xff; 4];
        ioapic.mmio_read(BASE, WINDOW, &mut data);
        u32::from_le_bytes(data)
    }

    #[test]
    fn a_pulse_is_the_message_of_its_entry_and_nothing_while_masked() {
        let (ioapic, messages) = ioapic();
        ioapic.pulse(4).unwrap();
        write(&ioapic, 0x19, 0x0300_0000);
        write(&ioapic, 0x18, 0x0000_0831);
        ioapic.pulse(4).unwrap();
        ioapic.pulse(5).unwrap();
        ioapic.pulse(24).unwrap();
        write(&ioapic, 0x18, 0x0001_0831);
        ioapic.pulse(4).unwrap();
        let expected = MsiMessage { address: 0xfee0_3004, data: 0x31 };
        assert_eq!(messages.try_iter().collect::<Vec<_>>(), [expected]);
    }

    #[test]
    fn registers_keep_their_writable_bits() {
        let (ioapic, _messages) = ioapic();
        assert_eq!(read(&ioapic, VERSION), 0x0017_0011);
        assert_eq!(read(&ioapic, REDIRECTION), MASKED);
        for register in 0..=u8::MAX {
            write(&ioapic, register, u32::MAX);
        }
        assert_eq!((read(&ioapic, ID), read(&ioapic, VERSION)), (0x0f00_0000, 0x0017_0011));
        assert_eq!(
            (read(&ioapic, 0x3e), read(&ioapic, 0x3f), read(&ioapic, 0x40)),
            (0x1_afff, 0xfffe_0000, 0)
        );
    }

    #[test]
    fn any_access_is_answered() {
        let (ioapic, _messages) = ioapic();
        for offset in 0..64 {
            for width in 0..=8 {
                ioapic.mmio_write(BASE, offset, &vec![0xff; width]);
                ioapic.mmio_read(BASE, offset, &mut vec![0; width]);
            }
        }
    }
}
