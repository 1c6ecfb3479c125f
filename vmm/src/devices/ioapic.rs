//! An IOAPIC in the VMM, for `--irqchip split`.
//!
//! Registers (Intel 82093AA): a select register, a window, and 24 redirection entries. A pulse on an edge-triggered pin becomes a
//! message to the local APICs, through the VM's router. A level-triggered pin has sources, and KVM reports the end of its
//! interrupts (KVM_EXIT_IOAPIC_EOI) where the pin's message is in the routing table at the pin's GSI. [`EndRoutes`] puts it there.
//!
//! Locks, outermost first: the routes, the registers. The registers' lock is released before any host call.

mod pins;

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vm_device::DeviceMmio;
use vm_device::bus::{MmioAddress, MmioAddressOffset};
use vm_msi::Target;
use vm_msi::message::MsiMessage;
use vm_msi::router::{Router, RouterError, Signalled};
use vmm_sys_util::eventfd::EventFd;

use pins::{PINS, Pins, Resampled, Word};

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

#[derive(Debug)]
struct Registers {
    select: u8,
    id: u32,
    pins: Pins,
}

impl Registers {
    /// The pin whose redirection entry `select` names, and which of its two words.
    fn selected(&self) -> Option<(usize, Word)> {
        let index = self.select.checked_sub(REDIRECTION)?;
        let word = if index.is_multiple_of(2) { Word::Low } else { Word::High };
        Some((usize::from(index / 2), word))
    }

    fn read(&self) -> u32 {
        match self.select {
            ID => self.id,
            VERSION => VERSION_VALUE,
            _ => self.selected().map_or(0, |(pin, word)| self.pins.read(pin, word)),
        }
    }

    fn write(&mut self, value: u32) -> Resampled {
        if self.select == ID {
            self.id = value & ID_BITS;
        }
        self.selected().map_or_else(Resampled::new, |(pin, word)| self.pins.write(pin, word, value))
    }
}

/// The messages of level-triggered pins in the VM's routing table.
pub trait EndRoutes: Send + Sync {
    /// Puts these messages at their pins' GSIs, and no others. KVM reports the end of their interrupts from then on.
    ///
    /// # Errors
    /// The kernel refuses the routing table. The messages of before are in force.
    fn set(&self, routes: &[(u32, MsiMessage)]) -> Result<(), RouterError>;
}

/// The IOAPIC, in front of a router.
pub struct Ioapic {
    registers: Mutex<Registers>,
    router: Arc<dyn Router>,
    end_routes: Arc<dyn EndRoutes>,
    /// The routes in force.
    routes: Mutex<Vec<(u32, MsiMessage)>>,
}

impl Ioapic {
    /// An IOAPIC after reset: every pin masked.
    #[must_use]
    pub fn new(router: Arc<dyn Router>, end_routes: Arc<dyn EndRoutes>) -> Self {
        let registers = Registers { select: 0, id: 0, pins: Pins::new() };
        Self { registers: Mutex::new(registers), router, end_routes, routes: Mutex::default() }
    }

    /// Pulses a pin. An invalid message in the redirection entry is dropped.
    ///
    /// # Errors
    /// The router's error if the kernel refuses the message.
    pub fn pulse(&self, pin: u32) -> Result<(), RouterError> {
        let message = usize::try_from(pin).ok().and_then(|pin| self.registers().pins.pulse(pin));
        match message.and_then(|message| self.router.translate(message).ok()) {
            // A message that no local APIC accepts is dropped, too: the guest programmed it.
            Some(Target::Interrupt(interrupt)) => self.router.signal(interrupt).map(drop),
            Some(Target::Memory(_)) | None => Ok(()),
        }
    }

    /// Adds a source of a level-triggered pin, for the life of the IOAPIC.
    pub fn add_source(&self, pin: u32) -> usize {
        self.registers().pins.add_source(usize::try_from(pin).unwrap_or(usize::MAX))
    }

    /// Connects a source. The IOAPIC signals `resample` when it has deasserted the source: the owner then asserts it again if its
    /// device still has an interrupt.
    pub fn connect(&self, source: usize, resample: Arc<EventFd>) {
        self.registers().pins.connect(source, resample);
    }

    /// Disconnects a source, which is deasserted.
    pub fn disconnect(&self, source: usize) {
        self.registers().pins.disconnect(source);
    }

    /// Asserts a connected source. It stays asserted until its interrupt ends or the pin is unmasked.
    ///
    /// # Errors
    /// The router's error if the kernel refuses the message. The source stays asserted: see [`Ioapic::retry`].
    pub fn assert(&self, source: usize) -> Result<(), RouterError> {
        self.registers().pins.assert(source);
        self.deliver_due()
    }

    /// The end of a level-triggered interrupt with this vector.
    ///
    /// # Errors
    /// The host's error if a source cannot be resampled.
    pub fn end_of_interrupt(&self, vector: u8) -> io::Result<()> {
        let resampled = self.registers().pins.end_of_interrupt(vector);
        signal_all(&resampled)
    }

    /// Tries again what the host has refused.
    ///
    /// # Errors
    /// The host refuses it again.
    pub fn retry(&self) -> Result<(), RouterError> {
        self.update_routes()?;
        self.deliver_due()
    }

    /// Brings the routing table to the redirection entries. Edge-triggered pins have no route.
    fn update_routes(&self) -> Result<(), RouterError> {
        // Held across the commit: the routes of the later of two writers include the entry of the earlier one.
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut messages = self.registers().pins.level_messages();
        messages.retain_mut(|(_, message)| self.is_interrupt(*message));
        if *routes != messages {
            let sent = messages.iter().filter_map(|(pin, message)| Some((*pin, self.translated(*message)?)));
            self.end_routes.set(&sent.collect::<Vec<_>>())?;
            self.registers().pins.set_in_force(&messages);
            *routes = messages;
        }
        Ok(())
    }

    fn is_interrupt(&self, message: MsiMessage) -> bool {
        self.translated(message).is_some()
    }

    fn translated(&self, message: MsiMessage) -> Option<MsiMessage> {
        match self.router.translate(message) {
            Ok(Target::Interrupt(interrupt)) => Some(interrupt.message()),
            Ok(Target::Memory(_)) | Err(_) => None,
        }
    }

    fn deliver_due(&self) -> Result<(), RouterError> {
        let due = self.registers().pins.take_due();
        let mut result = Ok(());
        for (pin, message) in due {
            let delivered = match self.router.translate(message) {
                Ok(Target::Interrupt(interrupt)) => self.router.signal(interrupt),
                Ok(Target::Memory(_)) | Err(_) => Ok(Signalled::NotAccepted),
            };
            if !matches!(delivered, Ok(Signalled::Delivered)) {
                self.registers().pins.refused(pin);
            }
            result = result.and(delivered.map(drop));
        }
        result
    }

    fn registers(&self) -> MutexGuard<'_, Registers> {
        self.registers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the window, then follows with the routing table, the sources and what is due.
    fn write_window(&self, value: u32) {
        let resampled = self.registers().write(value);
        let followed = self.update_routes().map_err(io::Error::other);
        let signalled = signal_all(&resampled);
        let delivered = self.deliver_due().map_err(io::Error::other);
        if let Err(error) = followed.and(signalled).and(delivered) {
            tracing::warn!("the IOAPIC cannot follow a redirection entry: {error}");
        }
    }
}

/// Signals every eventfd, and returns the first error.
fn signal_all(eventfds: &Resampled) -> io::Result<()> {
    eventfds.iter().map(|eventfd| eventfd.write(1)).fold(Ok(()), Result::and)
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
            (WINDOW, [a, b, c, d, ..]) => self.write_window(u32::from_le_bytes([*a, *b, *c, *d])),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use std::sync::atomic::{AtomicBool, Ordering};

    use vm_msi::Interrupt;
    use vm_msi::router::{Gsi, Route};
    use vmm_sys_util::eventfd::EFD_NONBLOCK;

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

    /// A routing table that records what is in force, and refuses everything on demand.
    #[derive(Default)]
    struct Table {
        routes: Mutex<Vec<(u32, MsiMessage)>>,
        commits: Mutex<u32>,
        refuses: AtomicBool,
    }

    impl EndRoutes for Table {
        fn set(&self, routes: &[(u32, MsiMessage)]) -> Result<(), RouterError> {
            if self.refuses.load(Ordering::Relaxed) {
                return Err(RouterError::Attach { gsi: Gsi(0), source: io::ErrorKind::OutOfMemory.into() });
            }
            *self.commits.lock().unwrap() += 1;
            *self.routes.lock().unwrap() = routes.to_vec();
            Ok(())
        }
    }

    fn ioapic() -> (Ioapic, mpsc::Receiver<MsiMessage>) {
        let (ioapic, messages, _) = ioapic_with_table();
        (ioapic, messages)
    }

    fn ioapic_with_table() -> (Ioapic, mpsc::Receiver<MsiMessage>, Arc<Table>) {
        let (sender, receiver) = mpsc::channel();
        let table = Arc::new(Table::default());
        (Ioapic::new(Arc::new(Wire(sender)), table.clone()), receiver, table)
    }

    /// A connected source of pin 17.
    fn source(ioapic: &Ioapic) -> (usize, Arc<EventFd>) {
        let resample = Arc::new(EventFd::new(EFD_NONBLOCK).unwrap());
        let source = ioapic.add_source(17);
        ioapic.connect(source, Arc::clone(&resample));
        (source, resample)
    }

    /// The low word of pin 17's entry, and a level-triggered vector 0x51.
    const LOW_17: u8 = 0x32;
    const LEVEL_51: u32 = 0x8051;
    const MASKED: u32 = 1 << 16;
    const SENT: MsiMessage = MsiMessage { address: 0xfee0_0000, data: 0xc051 };

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

    #[test]
    fn a_level_triggered_interrupt_comes_again_only_when_its_source_asserts_it_after_the_end() {
        let (ioapic, messages, table) = ioapic_with_table();
        let (source, resample) = source(&ioapic);
        write(&ioapic, LOW_17, LEVEL_51);
        assert_eq!(*table.routes.lock().unwrap(), [(17, SENT)]);
        ioapic.assert(source).unwrap();
        ioapic.assert(source).unwrap();
        assert_eq!(messages.try_iter().collect::<Vec<_>>(), [SENT]);
        ioapic.end_of_interrupt(0x50).unwrap();
        assert!(resample.read().is_err(), "another vector");
        ioapic.end_of_interrupt(0x51).unwrap();
        assert_eq!((resample.read().unwrap(), messages.try_iter().count()), (1, 0));
        ioapic.assert(source).unwrap();
        assert_eq!(messages.try_iter().collect::<Vec<_>>(), [SENT]);
    }

    #[test]
    fn edge_triggered_entries_and_the_mask_cost_no_commit() {
        let (ioapic, _messages, table) = ioapic_with_table();
        for register in 0x10..0x40 {
            write(&ioapic, register, 0x1_0031);
        }
        assert_eq!(*table.commits.lock().unwrap(), 0);
        for low in [LEVEL_51, MASKED | LEVEL_51, LEVEL_51] {
            write(&ioapic, LOW_17, low);
        }
        assert_eq!(*table.commits.lock().unwrap(), 1);
        write(&ioapic, LOW_17, 0x8005);
        assert_eq!(*table.routes.lock().unwrap(), [], "no vector of an interrupt");
    }

    #[test]
    fn an_interrupt_waits_while_the_host_refuses_its_route() {
        let (ioapic, messages, table) = ioapic_with_table();
        let (source, _resample) = source(&ioapic);
        table.refuses.store(true, Ordering::Relaxed);
        write(&ioapic, LOW_17, LEVEL_51);
        ioapic.assert(source).unwrap();
        assert!(ioapic.retry().is_err());
        assert_eq!(messages.try_iter().count(), 0);
        table.refuses.store(false, Ordering::Relaxed);
        ioapic.retry().unwrap();
        assert_eq!(messages.try_iter().collect::<Vec<_>>(), [SENT]);
    }

    #[test]
    fn unmasking_asks_the_sources_and_disconnecting_forgets_one() {
        let (ioapic, messages) = ioapic();
        let (source, resample) = source(&ioapic);
        write(&ioapic, LOW_17, MASKED | LEVEL_51);
        ioapic.assert(source).unwrap();
        write(&ioapic, LOW_17, LEVEL_51);
        assert_eq!((resample.read().unwrap(), messages.try_iter().count()), (1, 0));
        ioapic.disconnect(source);
        ioapic.assert(source).unwrap();
        assert_eq!(messages.try_iter().count(), 0);
    }
}
