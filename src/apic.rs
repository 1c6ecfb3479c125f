//! What an MSI message means to an x86 local APIC (Intel SDM volume 3, "Message Signalled Interrupts").
//!
//! Owns the check that stands between a guest's table and the VM's routing table: KVM takes any address for an
//! interrupt (also one outside 0xFEE), accepts vector 0, and refuses the whole table for one bad entry.

use std::fmt;

use bitfield_struct::bitfield;

use crate::message::MsiMessage;

/// The low half of a message's address, in compatibility format.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct AddressLow {
    #[bits(2)]
    __: u8,
    /// Bit 2: the destination is a logical one.
    pub logical: bool,
    /// Bit 3: redirection hint.
    pub redirection_hint: bool,
    /// Bit 4: remappable format; only a remapping unit can read such a message.
    pub remappable: bool,
    /// Bits 11:5: bits 14:8 of the destination, for guests that were told of extended destinations.
    #[bits(7)]
    pub extended_destination: u8,
    /// Bits 19:12: destination APIC.
    pub destination: u8,
    /// Bits 31:20: 0xFEE in every interrupt message.
    #[bits(12)]
    pub prefix: u16,
}

/// The data of a message, in compatibility format.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Data {
    /// Bits 7:0: interrupt vector.
    pub vector: u8,
    /// Bits 10:8: delivery mode.
    #[bits(3)]
    pub delivery_mode: u8,
    #[bits(3)]
    __: u8,
    /// Bit 14: level, read only where the trigger is level.
    pub assert: bool,
    /// Bit 15: level-triggered.
    pub level_triggered: bool,
    __: u16,
}

const PREFIX: u16 = 0xfee;
/// Vectors below are exceptions of the processor; a local APIC answers them with an error.
const FIRST_VECTOR: u8 = 16;
const FIXED: u8 = 0;
const LOWEST_PRIORITY: u8 = 1;
const NMI: u8 = 4;

/// A message that a local APIC can take. It exists only checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ApicMessage(MsiMessage);

/// Why a message is no interrupt. It is the guest's doing: the vector is held and counted, nothing fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMessage {
    /// The address is not in the interrupt range 0xFEEx_xxxx, or lies above 4 GiB.
    #[error("{0} does not address a local APIC")]
    Address(MsiMessage),
    /// Remappable format, with no remapping unit in front.
    #[error("{0} is in remappable format and nothing here remaps")]
    Remappable(MsiMessage),
    /// Bits 11:5 of the address extend the destination, and the guest was not told that they may. KVM ignores them: the interrupt
    /// would reach another vCPU.
    #[error("{0} has an extended destination, which nothing here reads")]
    ExtendedDestination(MsiMessage),
    /// A fixed or lowest-priority interrupt on a vector below 16.
    #[error("{0} asks for a vector below 16")]
    Vector(MsiMessage),
    /// A delivery mode that a device may not ask for (SMI, INIT, ExtINT, reserved ones).
    #[error("{0} asks for a delivery mode that no device may use")]
    DeliveryMode(MsiMessage),
}

impl ApicMessage {
    /// The message, as the function writes it.
    pub fn message(self) -> MsiMessage {
        self.0
    }

    /// The same message for another vector. `None` where a vector plays no part (NMI) or would be below 16.
    pub fn with_vector(self, vector: u8) -> Option<Self> {
        let data = Data::from_bits(self.0.data);
        let moved = MsiMessage { data: data.with_vector(vector).into_bits(), ..self.0 };
        if data.delivery_mode() == NMI { None } else { Self::try_from(moved).ok() }
    }

    /// The same message for the local APIC that a guest with so many of them numbers next, after the last the first.
    /// `None` where that cannot be told: no such APIC, or several at once.
    pub fn next_destination(self, apics: u32) -> Option<Self> {
        let address = AddressLow::from_bits(self.0.address_low());
        let at = u32::from(address.destination());
        let (next, first, end) = match address.logical() {
            // One bit for each, of eight at the most.
            true if at.is_power_of_two() => (at.wrapping_shl(1), 1, 1u32.wrapping_shl(apics.min(8))),
            true => return None,
            false => (at.saturating_add(1), 0, apics.min(255)),
        };
        if at >= end {
            return None;
        }
        let destination = u8::try_from(if next < end { next } else { first }).ok()?;
        let address = u64::from(address.with_destination(destination).into_bits());
        Self::try_from(MsiMessage { address, ..self.0 }).ok()
    }

    /// The messages that carry a fixed edge interrupt to one APIC, physically addressed, for the vectors given.
    pub fn fixed(destination: u8, vectors: impl Iterator<Item = u8>) -> impl Iterator<Item = Self> {
        let address = AddressLow::new().with_prefix(PREFIX).with_destination(destination).into_bits();
        vectors.filter_map(move |vector| {
            Self::try_from(MsiMessage { address: address.into(), data: vector.into() }).ok()
        })
    }
}

impl fmt::Display for ApicMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl TryFrom<MsiMessage> for ApicMessage {
    type Error = InvalidMessage;

    fn try_from(message: MsiMessage) -> Result<Self, InvalidMessage> {
        let low = AddressLow::from_bits(message.address_low());
        let data = Data::from_bits(message.data);
        if low.prefix() != PREFIX || message.address_high() != 0 {
            return Err(InvalidMessage::Address(message));
        }
        if low.remappable() {
            return Err(InvalidMessage::Remappable(message));
        }
        if low.extended_destination() != 0 {
            return Err(InvalidMessage::ExtendedDestination(message));
        }
        match data.delivery_mode() {
            FIXED | LOWEST_PRIORITY if data.vector() < FIRST_VECTOR => Err(InvalidMessage::Vector(message)),
            FIXED | LOWEST_PRIORITY | NMI => Ok(Self(message)),
            _ => Err(InvalidMessage::DeliveryMode(message)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(address: u64, data: u32) -> Result<ApicMessage, InvalidMessage> {
        ApicMessage::try_from(MsiMessage { address, data })
    }

    #[test]
    fn a_blank_entry_is_no_interrupt() {
        assert!(matches!(check(0, 0), Err(InvalidMessage::Address(_))));
    }

    #[test]
    fn only_the_interrupt_range_is_an_interrupt() {
        assert!(check(0xfee0_0000, 0x20).is_ok());
        assert!(check(0xfeef_f00c, 0x20).is_ok());
        assert!(matches!(check(0xfed0_0000, 0x20), Err(InvalidMessage::Address(_))));
        assert!(matches!(check(0x1_fee0_0000, 0x20), Err(InvalidMessage::Address(_))));
        assert!(matches!(check(0xfee0_0010, 0x20), Err(InvalidMessage::Remappable(_))));
    }

    #[test]
    fn an_extended_destination_is_refused_in_each_of_its_bits() {
        for bit in 5..12 {
            let extended = check(0xfee0_1000 | 1 << bit, 0x41);
            assert!(matches!(extended, Err(InvalidMessage::ExtendedDestination(_))), "bit {bit}");
        }
    }

    #[test]
    fn exactly_the_vectors_of_the_processor_are_refused() {
        for vector in 0..=255u32 {
            assert_eq!(check(0xfee0_0000, vector).is_ok(), vector >= 16, "fixed vector {vector}");
            assert_eq!(check(0xfee0_0000, 0x100 | vector).is_ok(), vector >= 16, "lowest priority {vector}");
            assert!(check(0xfee0_0000, 0x400 | vector).is_ok(), "an NMI has no vector");
        }
    }

    #[test]
    fn delivery_modes_that_no_device_may_use_are_refused() {
        for mode in [2, 3, 5, 6, 7] {
            assert!(matches!(check(0xfee0_0000, mode << 8 | 0x40), Err(InvalidMessage::DeliveryMode(_))));
        }
    }

    #[test]
    fn after_the_last_apic_comes_the_first() {
        let walk = |address, apics| {
            let first = check(address, 0x41).unwrap();
            let walk = std::iter::successors(Some(first), move |message| message.next_destination(apics));
            walk.map(|message| message.message().address - 0xfee0_0000).take(4).collect::<Vec<_>>()
        };
        assert_eq!(walk(0xfee0_1000, 3), [0x1000, 0x2000, 0, 0x1000], "physical: a number");
        assert_eq!(walk(0xfee0_2004, 3), [0x2004, 0x4004, 0x1004, 0x2004], "logical: a bit");
        assert_eq!(walk(0xfee8_0004, 64), [0x8_0004, 0x1004, 0x2004, 0x4004]);
        for (address, apics) in [(0xfee0_3000, 3), (0xfee0_3004, 3), (0xfee0_8004, 3), (0xfee0_0000, 0)] {
            assert_eq!(walk(address, apics).len(), 1, "{address:#x} of {apics}");
        }
    }

    #[test]
    fn a_message_moves_to_every_vector_but_those_of_the_processor() {
        let message = check(0xfee0_1004, 0x8141).unwrap();
        assert_eq!(message.with_vector(0xef).unwrap().message().data, 0x81ef);
        assert_eq!(message.with_vector(15), None);
    }
}
