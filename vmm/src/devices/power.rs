//! Power-off and reset: every register by which a PC operating system requests them.
//!
//! The ACPI tables name the ACPI registers (ACPI 4.8.3.6 reset, 4.8.3.7 sleep control and status). Operating systems
//! fall back to the chipset's reset control register at 0xCF9 and the keyboard controller's reset command. Every
//! request ends the run: the VMM boots once, so a reset ends it, too. The only state is the shared [`ExitEvent`].

use std::sync::Arc;

use vm_device::DevicePio;
use vm_device::bus::{PioAddress, PioAddressOffset};

use crate::layout;
use crate::outcome::{ExitEvent, Outcome};

/// Port of the sleep control register.
pub const SLEEP_CONTROL: u16 = layout::ACPI_POWER_PORTS.start;
/// Port of the sleep status register.
pub const SLEEP_STATUS: u16 = SLEEP_CONTROL + 1;
/// Port of the ACPI reset register.
pub const RESET_REGISTER: u16 = SLEEP_CONTROL + 2;
/// The value that resets through the ACPI reset register.
pub const RESET_VALUE: u8 = 1;
/// The sleep type of state S5, soft off. Any value from 0 to 7 works.
pub const SLEEP_TYPE_SOFT_OFF: u8 = 5;

/// Sleep control with SLP_EN (bit 5) and SLP_TYP (bits 4:2) of soft off, and the bits to ignore.
const SWITCH_OFF: u8 = 1 << 5 | SLEEP_TYPE_SOFT_OFF << 2;
const SLEEP_IGNORED: u8 = 0b1100_0011;
/// Reset control register: this bit resets the CPUs.
const RESET_CPU: u8 = 1 << 2;
/// Keyboard controller: offset of the command port, and the command that pulses the CPU reset line.
const I8042_COMMAND: u16 = 4;
const I8042_RESET: u8 = 0xfe;

/// The ACPI sleep and reset registers.
#[derive(Debug)]
pub struct AcpiPower(pub Arc<ExitEvent>);

impl DevicePio for AcpiPower {
    fn pio_read(&self, _base: PioAddress, _offset: PioAddressOffset, data: &mut [u8]) {
        // Sleep status reads 0: no wake event. The other registers read 0, too.
        data.fill(0);
    }

    fn pio_write(&self, base: PioAddress, offset: PioAddressOffset, data: &[u8]) {
        tracing::debug!("ACPI power register {offset}: write of {data:02x?}");
        let [value] = *data else { return };
        match base.0.saturating_add(offset) {
            SLEEP_CONTROL if value & !SLEEP_IGNORED == SWITCH_OFF => self.0.signal(Outcome::PoweredOff),
            RESET_REGISTER if value == RESET_VALUE => self.0.signal(Outcome::Rebooted),
            _ => {}
        }
    }
}

/// A keyboard controller without a keyboard. It accepts the reset command only.
#[derive(Debug)]
pub struct I8042(pub Arc<ExitEvent>);

impl DevicePio for I8042 {
    fn pio_read(&self, _base: PioAddress, _offset: PioAddressOffset, data: &mut [u8]) {
        // Status 0: the output buffer is empty, and the controller accepts a command.
        data.fill(0);
    }

    fn pio_write(&self, _base: PioAddress, offset: PioAddressOffset, data: &[u8]) {
        tracing::debug!("keyboard controller port {offset}: write of {data:02x?}");
        if offset == I8042_COMMAND && *data == [I8042_RESET] {
            self.0.signal(Outcome::Rebooted);
        }
    }
}

/// The PCI configuration ports with the reset control register among them. A byte access to 0xCF9 is the register.
/// Every other access belongs to PCI.
pub struct ConfigPorts<D> {
    /// PCI's configuration mechanism.
    pub pci: D,
    /// Signalled by a reset.
    pub exit_event: Arc<ExitEvent>,
}

impl<D: DevicePio> DevicePio for ConfigPorts<D> {
    fn pio_read(&self, base: PioAddress, offset: PioAddressOffset, data: &mut [u8]) {
        if is_reset_control(base, offset, data.len()) {
            data.fill(0);
        } else {
            self.pci.pio_read(base, offset, data);
        }
    }

    fn pio_write(&self, base: PioAddress, offset: PioAddressOffset, data: &[u8]) {
        match *data {
            [value] if is_reset_control(base, offset, 1) => {
                if value & RESET_CPU != 0 {
                    self.exit_event.signal(Outcome::Rebooted);
                }
            }
            _ => self.pci.pio_write(base, offset, data),
        }
    }
}

fn is_reset_control(base: PioAddress, offset: PioAddressOffset, width: usize) -> bool {
    width == 1 && base.0.saturating_add(offset) == layout::RESET_CONTROL_PORT
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Default)]
    struct Recorder(Mutex<Vec<(u16, Vec<u8>)>>);

    impl DevicePio for &Recorder {
        fn pio_read(&self, _base: PioAddress, _offset: PioAddressOffset, data: &mut [u8]) {
            data.fill(0x5a);
        }
        fn pio_write(&self, _base: PioAddress, offset: PioAddressOffset, data: &[u8]) {
            self.0.lock().unwrap().push((offset, data.to_vec()));
        }
    }

    fn outcome(write: impl Fn(Arc<ExitEvent>)) -> Option<Outcome> {
        let exit_event = ExitEvent::new().unwrap();
        write(Arc::clone(&exit_event));
        exit_event.take()
    }

    #[test]
    fn only_soft_off_with_the_enable_bit_switches_off() {
        let write =
            |value: u8| outcome(|end| AcpiPower(end).pio_write(PioAddress(SLEEP_CONTROL), 0, &[value]));
        for value in 0..=u8::MAX {
            let off = value & 0x20 != 0 && value >> 2 & 7 == 5;
            assert_eq!(matches!(write(value), Some(Outcome::PoweredOff)), off, "{value:#x}");
        }
    }

    #[test]
    fn every_reset_register_reboots() {
        let acpi = outcome(|end| AcpiPower(end).pio_write(PioAddress(SLEEP_CONTROL), 2, &[RESET_VALUE]));
        let i8042 = outcome(|end| I8042(end).pio_write(PioAddress(0x60), 4, &[0xfe]));
        let pci = Recorder::default();
        let base = PioAddress(layout::PCI_CONFIG_PORTS.start);
        let chipset = outcome(|exit_event| ConfigPorts { pci: &pci, exit_event }.pio_write(base, 1, &[6]));
        for outcome in [acpi, i8042, chipset] {
            assert!(matches!(outcome, Some(Outcome::Rebooted)));
        }
    }

    #[test]
    fn configuration_accesses_reach_pci_and_end_nothing() {
        let pci = Recorder::default();
        let exit_event = ExitEvent::new().unwrap();
        let ports = ConfigPorts { pci: &pci, exit_event: Arc::clone(&exit_event) };
        let base = PioAddress(layout::PCI_CONFIG_PORTS.start);
        ports.pio_write(base, 0, &[0, 0, 6, 0x80]);
        ports.pio_write(base, 1, &[6, 6]);
        ports.pio_write(base, 5, &[6]);
        ports.pio_write(base, 1, &[2]);
        let seen: Vec<u16> = pci.0.lock().unwrap().iter().map(|(offset, _)| *offset).collect();
        assert_eq!(seen, [0, 1, 5]);
        let mut data = [0xff];
        ports.pio_read(base, 1, &mut data);
        assert_eq!(data, [0]);
        assert!(exit_event.take().is_none());
    }
}
