//! A function's Interrupt Pin, and the line that it drives (PCIe r6 §7.5.1.1.13; PCI-to-PCI Bridge 1.2 §9.1).
//!
//! Plain values. The pins of neighbouring devices are swizzled over the lines, so that functions that all have INTA share few of
//! them. The same function gives the ACPI tables, the MP table and the devices their lines.

use std::fmt;

use super::DeviceFunction;
use crate::layout::INTX_GSIS;

/// A pin of a function: INTA to INTD.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct InterruptPin(u8);

impl InterruptPin {
    /// All four.
    pub const ALL: [Self; 4] = [Self(0), Self(1), Self(2), Self(3)];

    /// From the Interrupt Pin register: 1 is INTA. `None` for 0, no pin, and for reserved values.
    #[must_use]
    pub fn from_register(value: u8) -> Option<Self> {
        value.checked_sub(1).filter(|pin| *pin < 4).map(Self)
    }

    /// The value of the Interrupt Pin register.
    #[must_use]
    pub const fn register(self) -> u8 {
        self.0.saturating_add(1)
    }

    /// The number as ACPI's `_PRT` and the MP table count: 0 is INTA.
    #[must_use]
    pub const fn index(self) -> u8 {
        self.0
    }

    /// The GSI that this pin of the device of `function` drives.
    #[must_use]
    pub fn gsi(self, function: DeviceFunction) -> u32 {
        let lines = INTX_GSIS.end.saturating_sub(INTX_GSIS.start);
        let line = u32::from(function.device()).saturating_add(u32::from(self.0)).checked_rem(lines);
        INTX_GSIS.start.saturating_add(line.unwrap_or(0))
    }
}

impl fmt::Display for InterruptPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            0 => "INTA",
            1 => "INTB",
            2 => "INTC",
            _ => "INTD",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gsi(device: u8, pin: InterruptPin) -> u32 {
        pin.gsi(DeviceFunction::from_bits(device << 3))
    }

    #[test]
    fn the_register_counts_from_one_and_zero_is_no_pin() {
        let pins: Vec<_> = (0..=u8::MAX).filter_map(InterruptPin::from_register).collect();
        assert_eq!(pins, InterruptPin::ALL);
        assert_eq!(pins.iter().map(|pin| pin.register()).collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert_eq!(
            pins.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["INTA", "INTB", "INTC", "INTD"]
        );
    }

    #[test]
    fn neighbours_have_different_lines_and_the_ninth_device_shares_the_firsts() {
        let [a, b, ..] = InterruptPin::ALL;
        let first_eight: Vec<_> = (1..9).map(|device| gsi(device, a)).collect();
        assert_eq!(first_eight, [17, 18, 19, 20, 21, 22, 23, 16]);
        assert_eq!(gsi(9, a), gsi(1, a));
        assert_eq!(gsi(1, b), gsi(2, a));
        assert_eq!(b.gsi(DeviceFunction::from_bits(1 << 3 | 7)), gsi(1, b), "by device, not by function");
    }

    #[test]
    fn every_pin_of_every_device_has_a_line() {
        for device in 0..32 {
            let lines: Vec<_> = InterruptPin::ALL.into_iter().map(|pin| gsi(device, pin)).collect();
            assert!(lines.iter().all(|gsi| INTX_GSIS.contains(gsi)), "{lines:?}");
            assert!((1..4).all(|pin| !lines[..pin].contains(&lines[pin])), "{lines:?}");
        }
    }
}
