//! The guest's configuration space of a passed-through function.
//!
//! Plain state, built from the host's configuration space: the tables of [`registers`], the BARs, and the relinked
//! capability lists. A write changes the state and returns the necessary actions ([`WriteEffects`]). The caller
//! performs them. The registers of MSI and MSI-X are elsewhere, except for ID and next pointer.

use std::ops::Range;

use super::capabilities::{self, ExposedCapabilities, id};
use super::registers::{self, COMMAND_BUS_MASTER, COMMAND_INTX_DISABLE};
use crate::pci::bar::COMMAND;
use crate::pci::{Bars, ConfigSpace, DECODER_COUNT, Decoding, InterruptPin, Register, Root, WindowFull};

/// Whether the host can reset the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostReset {
    /// VFIO_DEVICE_RESET works.
    Supported,
    /// VFIO_DEVICE_RESET does not work. The guest sees a function without reset.
    Unsupported,
}

/// A reset that a guest's write initiates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestReset {
    /// Initiate Function Level Reset (PCIe r6 §6.6.2).
    FunctionLevel,
    /// From D3hot to D0 without No_Soft_Reset (PCI PM 1.2 §5.4.1).
    PowerOn,
}

/// The actions that a guest's write requires.
#[derive(Debug, PartialEq, Eq)]
pub struct WriteEffects {
    /// Bytes to write to the device, by offset.
    pub forwarded: Vec<(u16, Vec<u8>)>,
    /// Update the host's command register to [`GuestConfig::host_command`].
    pub command: bool,
    /// Reset the function, then call [`GuestConfig::reset`].
    pub reset: Option<GuestReset>,
}

/// The guest's configuration space.
#[derive(Debug)]
pub struct GuestConfig {
    space: ConfigSpace,
    bars: Bars,
    capabilities: ExposedCapabilities,
    /// Offsets and bits that initiate a function level reset.
    flr: Vec<(u16, u8)>,
    power: Option<Power>,
    /// Whether the function has INTx. Without it, INTx stays disabled at the host.
    has_intx: bool,
    /// Registers that the guest changes in the device, with their values at reset.
    forwarded_at_reset: Vec<(u16, Vec<u8>)>,
}

#[derive(Clone, Copy, Debug)]
struct Power {
    control: u16,
    no_soft_reset: bool,
}

impl GuestConfig {
    /// Builds the space from the host's configuration space. `interrupts` are the IDs and bytes of the emulated
    /// interrupt capabilities. Other interrupt capabilities are hidden.
    #[must_use]
    pub fn new(
        host: &[u8],
        bars: Bars,
        reset: HostReset,
        interrupts: impl Iterator<Item = (u8, Range<u16>)>,
    ) -> Self {
        let (emulated, bytes): (Vec<u8>, Vec<Range<u16>>) = interrupts.unzip();
        let mut space = ConfigSpace::device(host.len());
        space.define(0, registers::HEADER);
        let command = Register {
            offset: COMMAND,
            width: 2,
            emulated: u32::MAX,
            writable: registers::COMMAND_WRITABLE | bars.command_bits(),
            ..Register::default()
        };
        space.define(0, &[command]);
        bars.define(&mut space);
        let capabilities = capabilities::relink(&mut space, host, &emulated);
        for bytes in bytes {
            space.hide(bytes.start, bytes.len());
        }
        let mut config = Self {
            space,
            bars,
            capabilities,
            flr: Vec::new(),
            power: None,
            has_intx: false,
            forwarded_at_reset: Vec::new(),
        };
        config.define_express(host, reset);
        config.define_advanced_features(host, reset);
        config.define_power(host, reset);
        config
    }

    fn define_express(&mut self, host: &[u8], reset: HostReset) {
        let Some(bytes) = self.capabilities.of(id::PCI_EXPRESS) else {
            return;
        };
        let version = value(host, bytes.start.saturating_add(2), 1) & 0xf;
        if version == 0 {
            self.space.define_within(bytes.clone(), registers::PCI_EXPRESS_0);
        }
        if version >= 2 {
            self.space.define_within(bytes.clone(), registers::PCI_EXPRESS_2);
            self.note_in_device(host, &bytes, registers::DEVICE_CONTROL_2);
        }
        self.note_in_device(host, &bytes, registers::DEVICE_CONTROL);
        let capabilities = value(host, bytes.start.saturating_add(registers::DEVICE_CAPABILITIES), 4);
        let has_flr = capabilities & registers::DEVICE_CAPABILITIES_FLR != 0;
        match reset {
            HostReset::Supported if has_flr => self.add_flr(&bytes, registers::DEVICE_CONTROL_FLR),
            HostReset::Supported => {}
            HostReset::Unsupported => {
                let emulated = registers::DEVICE_CAPABILITIES_FLR;
                let offset = registers::DEVICE_CAPABILITIES;
                let register = Register { offset, width: 4, emulated, ..Register::default() };
                self.space.define_within(bytes, &[register]);
            }
        }
    }

    /// Notes the device's value of a control register of two bytes, which a reset restores.
    fn note_in_device(&mut self, host: &[u8], capability: &Range<u16>, offset: u16) {
        let at = capability.start.saturating_add(offset);
        let width = usize::from(capability.end.saturating_sub(at).min(2));
        let found = host.iter().skip(usize::from(at)).take(width).copied().collect::<Vec<_>>();
        self.forwarded_at_reset.extend(self.space.forwarded(at, &found));
    }

    /// Adds the bit of a capability that initiates a function level reset, if the byte is the capability's.
    fn add_flr(&mut self, capability: &Range<u16>, (offset, bit): (u16, u8)) {
        let at = capability.start.saturating_add(offset);
        if capability.contains(&at) {
            self.flr.push((at, bit));
        }
    }

    fn define_advanced_features(&mut self, host: &[u8], reset: HostReset) {
        let Some(bytes) = self.capabilities.of(id::ADVANCED_FEATURES) else {
            return;
        };
        let (offset, flr) = registers::ADVANCED_FEATURES_CAPABILITIES;
        let capabilities = bytes.start.saturating_add(offset);
        let has_flr = value(host, capabilities, 1) & u32::from(flr) != 0;
        match reset {
            HostReset::Supported if has_flr => self.add_flr(&bytes, registers::ADVANCED_FEATURES_FLR),
            HostReset::Supported => {}
            HostReset::Unsupported => self.space.hide(capabilities, 1),
        }
    }

    fn define_power(&mut self, host: &[u8], reset: HostReset) {
        let Some(bytes) = self.capabilities.of(id::POWER_MANAGEMENT) else {
            return;
        };
        let control = bytes.start.saturating_add(registers::PMCSR);
        if !bytes.contains(&control) {
            return;
        }
        let own = value(host, control, 2) & registers::PMCSR_NO_SOFT_RESET;
        let no_soft_reset = own != 0 || reset == HostReset::Unsupported;
        let kept = if no_soft_reset { registers::PMCSR_NO_SOFT_RESET } else { 0 };
        let register = Register {
            offset: registers::PMCSR,
            width: 2,
            reset: kept,
            emulated: u32::MAX,
            writable: registers::PMCSR_STATE,
            ..Register::default()
        };
        self.space.define_within(bytes, &[register]);
        self.power = Some(Power { control, no_soft_reset });
    }

    /// Programs the BARs as firmware would.
    ///
    /// # Errors
    /// The bus has no room for a BAR.
    pub fn assign(&mut self, root: &Root) -> Result<(), WindowFull> {
        root.assign(&self.bars, &mut self.space)
    }

    /// Shows INTx: the pin, and Interrupt Status as the device has it.
    pub fn show_interrupt_pin(&mut self, pin: InterruptPin) {
        self.has_intx = true;
        self.space.fix(registers::INTERRUPT_PIN, &[pin.register()]);
        let reset = self.space.value(registers::STATUS.offset, 2);
        let emulated = registers::STATUS.emulated & !registers::STATUS_INTERRUPT;
        self.space.define(0, &[Register { reset, emulated, ..registers::STATUS }]);
    }

    /// Programs Interrupt Line as firmware would. A reset clears it.
    pub fn set_interrupt_line(&mut self, line: u8) {
        self.space.write(registers::INTERRUPT_LINE, &[line]);
    }

    /// The function is released: INTx stays disabled at the host.
    pub fn release_intx(&mut self) {
        self.has_intx = false;
    }

    /// Whether the buffer must hold the device's bytes before [`merge`](Self::merge).
    #[must_use]
    pub fn reads_device(&self, offset: u16, len: usize) -> bool {
        self.space.reads_device(offset, len)
    }

    /// Replaces the emulated bits in the device's bytes.
    pub fn merge(&self, offset: u16, data: &mut [u8]) {
        self.space.merge(offset, data);
    }

    /// Applies a guest's write and returns the necessary actions.
    #[must_use]
    pub fn write(&mut self, offset: u16, data: &[u8]) -> WriteEffects {
        let state = self.power_state();
        self.space.write(offset, data);
        let initiated = self.flr.iter().any(|(at, bit)| {
            let byte = at.checked_sub(offset).and_then(|index| data.get(usize::from(index)));
            byte.is_some_and(|byte| byte & bit != 0)
        });
        let powered_on = self.power.is_some_and(|power| self.set_power_state(power, state));
        let reset = if initiated {
            Some(GuestReset::FunctionLevel)
        } else {
            powered_on.then_some(GuestReset::PowerOn)
        };
        let end = usize::from(offset).saturating_add(data.len());
        let command = offset < COMMAND.saturating_add(2) && end > usize::from(COMMAND);
        let command = command || self.power_state() != state;
        WriteEffects { forwarded: self.space.forwarded(offset, data), command, reset }
    }

    /// Validates a change of the power state, which was `before`. Returns whether it resets the function.
    fn set_power_state(&mut self, power: Power, before: u32) -> bool {
        const D0: u32 = 0;
        const D3_HOT: u32 = 3;
        match self.power_state() {
            D0 => before == D3_HOT && !power.no_soft_reset,
            D3_HOT => false,
            // An unsupported state: the write completes without effect (PCI PM 1.2 §3.2.4).
            _ => {
                self.space.write(power.control, &[before.to_le_bytes()[0]]);
                false
            }
        }
    }

    fn power_state(&self) -> u32 {
        self.power.map_or(0, |power| self.space.value(power.control, 1) & registers::PMCSR_STATE)
    }

    /// The value for the host's command register: the guest's bits, with the decode enables always set. A mapped BAR
    /// then never faults. The guest's decode enables affect the guest's address map only. Interrupt Disable is the guest's if the
    /// function has INTx.
    #[must_use]
    pub fn host_command(&self) -> u16 {
        let guest = self.space.value(COMMAND, 2);
        let wishes = guest & (registers::COMMAND_WRITABLE & !COMMAND_INTX_DISABLE);
        // A function in D3hot issues no requests.
        let allowed = if self.power_state() == 0 { wishes } else { wishes & !COMMAND_BUS_MASTER };
        let disabled = if self.has_intx && self.power_state() == 0 {
            guest & COMMAND_INTX_DISABLE
        } else {
            COMMAND_INTX_DISABLE
        };
        (allowed | disabled | self.bars.command_bits()) as u16
    }

    /// The ranges that the BARs decode. Outside of D0 they decode nothing.
    #[must_use]
    pub fn decoding(&self) -> Decoding {
        if self.power_state() == 0 { self.bars.decode(&self.space) } else { [None; DECODER_COUNT] }
    }

    /// Resets every register. Returns the bytes to write to the device: VFIO restores the device's registers after a
    /// reset, with the guest's values.
    #[must_use]
    pub fn reset(&mut self) -> &[(u16, Vec<u8>)] {
        self.space.reset();
        &self.forwarded_at_reset
    }
}

/// Up to four bytes of configuration space, little-endian. Missing bytes read 0.
fn value(host: &[u8], offset: u16, width: usize) -> u32 {
    let bytes = host.iter().skip(usize::from(offset)).take(width.min(4));
    bytes.rev().fold(0, |value, byte| (value << 8) | u32::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pci::Bar;
    use crate::pci::windows::tests::windows;

    const PM: u16 = 0x40;
    const EXPRESS: u16 = 0x60;

    /// A function like an NVMe controller: PM at 0x40, MSI-X at 0x50, PCI Express version 1 at 0x60; BAR 0 of 16 KiB,
    /// 64-bit.
    fn host() -> Vec<u8> {
        let mut host = vec![0; 4096];
        host[..8].copy_from_slice(&[0x36, 0x1b, 0x10, 0, 0x06, 0x04, 0x10, 0]);
        host[0x10] = 4;
        host[0x34] = 0x40;
        host[0x3c..0x3e].copy_from_slice(&[11, 1]);
        host[0x40..0x46].copy_from_slice(&[1, 0x50, 0xc3, 0xff, 0, 0]);
        host[0x50..0x5c].copy_from_slice(&[0x11, 0x60, 0x40, 0, 0, 0x20, 0, 0, 0, 0x30, 0, 0]);
        host[0x60..0x70]
            .copy_from_slice(&[0x10, 0, 1, 0, 0x20, 0x80, 0, 0x10, 0x10, 0xa8, 0, 0, 0x11, 1, 0, 0]);
        host
    }

    fn config(reset: HostReset) -> GuestConfig {
        let bars = Bars::new([Bar::new(4, 0x4000), None, None, None, None, None]);
        GuestConfig::new(&host(), bars, reset, [(id::MSIX, 0x52..0x5c)].into_iter())
    }

    fn read(config: &GuestConfig, offset: u16) -> u32 {
        let mut data = [0; 4];
        data.copy_from_slice(&host()[usize::from(offset)..][..4]);
        config.merge(offset, &mut data);
        u32::from_le_bytes(data)
    }

    #[test]
    fn the_header_says_no_interrupt_pin_no_rom_and_the_bars_size() {
        let mut config = config(HostReset::Supported);
        assert_eq!(read(&config, 0), 0x0010_1b36);
        assert_eq!(read(&config, 4), 0x0010_0000, "decoding is off, the list is there");
        assert_eq!(read(&config, 0x3c), 0);
        assert_eq!(config.write(0x30, &[0xff; 4]).forwarded, vec![]);
        assert_eq!(read(&config, 0x30), 0);
        assert_eq!(config.write(0x10, &[0xff; 8]).forwarded, vec![], "BARs never reach the host");
        assert_eq!((read(&config, 0x10), read(&config, 0x14)), (0xffff_c004, 0xffff_ffff));
    }

    #[test]
    fn express_is_an_integrated_endpoint_with_flr_and_without_a_link() {
        let config = config(HostReset::Supported);
        assert_eq!(read(&config, EXPRESS), 0x0091_0010);
        assert_eq!(read(&config, EXPRESS + 4), 0x1000_8020);
        assert_eq!(read(&config, EXPRESS + 0xc), 0);
    }

    #[test]
    fn the_host_keeps_decoding_and_follows_in_bus_mastering() {
        let mut config = config(HostReset::Supported);
        assert_eq!(config.host_command(), 0x0402);
        let written = config.write(4, &[0x06, 0x00]);
        assert!(written.command && written.forwarded.is_empty());
        assert_eq!(config.host_command(), 0x0406);
        assert!(config.write(4, &[0]).command);
        assert_eq!(config.host_command(), 0x0402);
        assert!(!config.write(6, &[0xff]).command);
        assert!(config.write(2, &[0; 4]).command);
    }

    #[test]
    fn a_function_with_intx_has_a_pin_a_line_and_the_devices_interrupt_status() {
        let mut config = config(HostReset::Supported);
        let [_, pin, ..] = InterruptPin::ALL;
        config.show_interrupt_pin(pin);
        config.set_interrupt_line(18);
        assert_eq!(read(&config, 0x3c), 0x0212);
        let mut status = [0xff, 0xff];
        config.merge(6, &mut status);
        assert_eq!(status, [0xff, 0xff], "bits 3 and 4 are set");
        let mut status = [0, 0];
        config.merge(6, &mut status);
        assert_eq!(status, [0x10, 0], "the capability list is there, and no interrupt");
        let _ = config.write(0x3c, &[0x5a, 0xff]);
        assert_eq!(read(&config, 0x3c), 0x025a, "the pin is read-only");
        let _ = config.reset();
        assert_eq!(read(&config, 0x3c), 0x0200);
    }

    #[test]
    fn interrupt_disable_reaches_the_host_and_is_set_outside_of_d0() {
        let mut config = config(HostReset::Supported);
        let [pin, ..] = InterruptPin::ALL;
        config.show_interrupt_pin(pin);
        assert_eq!(config.host_command(), 0x0002);
        assert!(config.write(5, &[0x04]).command);
        assert_eq!(config.host_command(), 0x0402);
        let _ = config.write(4, &[0x06, 0x00]);
        assert_eq!(config.host_command(), 0x0006);
        let _ = config.write(PM + 4, &[3, 0]);
        assert_eq!(config.host_command(), 0x0402);
        let _ = config.write(PM + 4, &[0, 0]);
        assert_eq!(config.host_command(), 0x0006);
        config.release_intx();
        assert_eq!(config.host_command(), 0x0406);
    }

    #[test]
    fn a_function_level_reset_is_asked_for_by_any_lanes_and_never_forwarded() {
        let mut config = config(HostReset::Supported);
        for (offset, data) in
            [(0x68, &[0x10, 0x80][..]), (0x69, &[0x80]), (0x68, &[0, 0x80, 0, 0]), (0x66, &[0, 0, 0, 0x80])]
        {
            let written = config.write(offset, data);
            assert_eq!(written.reset, Some(GuestReset::FunctionLevel), "{offset:#x}");
            let reached = written
                .forwarded
                .iter()
                .any(|(at, bytes)| bytes.iter().zip(*at..).any(|(byte, at)| at == 0x69 && byte & 0x80 != 0));
            assert!(!reached);
        }
        assert_eq!(config.write(0x68, &[0x10, 0x20]).reset, None);
        assert_eq!(config.write(0x68, &[0x10, 0x20]).forwarded, vec![(0x68, vec![0x10, 0x20])]);
    }

    #[test]
    fn a_device_that_cannot_be_reset_says_so() {
        let mut config = config(HostReset::Unsupported);
        assert_eq!(read(&config, EXPRESS + 4), 0x0000_8020);
        assert_eq!(config.write(EXPRESS + 8, &[0, 0x80]).reset, None);
        assert_eq!(read(&config, PM + 4) & 0xffff, registers::PMCSR_NO_SOFT_RESET);
        let _ = config.write(PM + 4, &[3, 0]);
        assert_eq!(config.write(PM + 4, &[0, 0]).reset, None);
    }

    #[test]
    fn registers_are_as_after_power_on_when_reset() {
        let mut config = config(HostReset::Supported);
        let root = Root::new(windows());
        config.assign(&root).unwrap();
        let _ = config.write(4, &[0x06, 0]);
        assert!(config.decoding()[0].is_some());
        assert_eq!(config.reset(), [(0x68, vec![0x10, 0x28])]);
        assert_eq!(config.decoding(), [None; DECODER_COUNT]);
        assert_eq!((read(&config, 4), read(&config, 0x10), read(&config, 0x14)), (0x0010_0000, 4, 0));
        assert_eq!(read(&config, 0x34), 0x40);
    }

    #[test]
    fn d3hot_stops_the_function_and_leaving_it_resets() {
        let mut config = config(HostReset::Supported);
        config.assign(&Root::new(windows())).unwrap();
        let _ = config.write(4, &[0x06, 0]);
        assert_eq!(config.write(PM + 4, &[3, 0]).reset, None);
        assert_eq!((config.decoding(), config.host_command()), ([None; DECODER_COUNT], 0x0402));
        let _ = config.write(PM + 4, &[1]);
        assert_eq!(read(&config, PM + 4) & 3, 3, "D1 is not there");
        assert_eq!(config.write(PM + 4, &[0, 0]).reset, Some(GuestReset::PowerOn));
        assert_eq!(read(&config, PM) >> 16, 0x0003, "no PME, no D1, no D2");
    }

    #[test]
    fn no_write_of_any_offset_width_and_value_goes_wrong() {
        for reset in [HostReset::Supported, HostReset::Unsupported] {
            for value in [0x00, 0x5a, 0xff] {
                let mut config = config(reset);
                for offset in (0..0x1010).chain([0x7fff, 0xfffe, 0xffff]) {
                    for len in [0usize, 1, 2, 3, 4, 8, 9] {
                        let mut data = vec![value; len];
                        let written = config.write(offset, &data);
                        assert!(written.forwarded.iter().all(|(at, run)| {
                            usize::from(*at) + run.len() <= 4096
                                && !(0x10..0x34).contains(at)
                                && *at != COMMAND
                        }));
                        config.merge(offset, &mut data);
                        let _ = (config.decoding(), config.reads_device(offset, len));
                    }
                }
            }
        }
    }
}
