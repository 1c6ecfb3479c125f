//! The meaning of an MSI message to an x86 local APIC (Intel SDM volume 3, "Message Signalled Interrupts").
//!
//! Owns the check of a guest's message before it enters the VM's routing table. KVM itself accepts any
//! address as an interrupt (also outside 0xFEE), accepts vector 0, ignores address bits 11:5, and refuses the
//! whole table for one invalid entry.

use std::fmt;

use bitfield_struct::bitfield;

use crate::message::MsiMessage;

/// The low half of a message's address, in compatibility format.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct AddressLow {
    #[bits(2)]
    __: u8,
    /// Bit 2: the destination is logical.
    pub logical: bool,
    /// Bit 3: redirection hint.
    pub redirection_hint: bool,
    /// Bit 4: remappable format. Only a remapping unit can interpret such a message.
    pub remappable: bool,
    /// Bits 11:5: bits 14:8 of the destination, if the guest was told of extended destinations.
    #[bits(7)]
    pub extended_destination: u8,
    /// Bits 19:12: bits 7:0 of the destination.
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
    /// Bit 14: level. It has a meaning only for a level trigger.
    pub assert: bool,
    /// Bit 15: level-triggered.
    pub level_triggered: bool,
    __: u16,
}

/// The high half of the address of a message with a 32-bit destination, in the format of remapping units and
/// KVM.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct AddressHigh {
    __: u8,
    /// Bits 31:8: bits 31:8 of the destination.
    #[bits(24)]
    pub destination_high: u32,
}

/// How many bits of an APIC ID a message can carry. The VMM chooses, and tells the guest.
///
/// The choice determines the meaning of a message, so router and CPUID must agree. Otherwise interrupts reach
/// the wrong vCPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "lowercase"))]
pub enum DestinationIds {
    /// 8 bits, in address bits 19:12. A message with any other destination bit set is refused. At most 255
    /// APICs are addressable, because physical destination 255 is the broadcast.
    #[default]
    Bits8,
    /// 15 bits. The guest was told of KVM_FEATURE_MSI_EXT_DEST_ID (CPUID leaf 0x4000_0001, EAX bit 15), and
    /// writes APIC ID bits 14:8 to address bits 11:5. A remapping stage may write 32-bit destinations as with
    /// [`Bits32`](Self::Bits32). Needs KVM_CAP_X2APIC_API.
    Extended,
    /// 32 bits. Bits 31:8 are in bits 31:8 of the address's high half. Only a remapping stage writes such a
    /// message. The guest itself was told of 8 bits, so address bits 11:5 must be 0. Needs
    /// KVM_CAP_X2APIC_API.
    Bits32,
}

impl DestinationIds {
    /// Whether a single APIC with this ID can be addressed.
    pub fn contains(self, apic_id: u32) -> bool {
        apic_id < self.addressable()
    }

    /// How many single APICs can be addressed, if their IDs count from 0.
    pub fn addressable(self) -> u32 {
        match self {
            Self::Bits8 => BROADCAST_8,
            Self::Extended => EXTENDED_IDS,
            Self::Bits32 => u32::MAX,
        }
    }
}

const PREFIX: u16 = 0xfee;
/// The physical broadcast destination, if destinations have 8 bits.
const BROADCAST_8: u32 = 0xff;
/// The number of destinations with 15 bits.
const EXTENDED_IDS: u32 = 1 << 15;
/// Lower vectors are exceptions of the processor. A local APIC raises an error for them.
const FIRST_VECTOR: u8 = 16;
const FIXED: u8 = 0;
const LOWEST_PRIORITY: u8 = 1;
const NMI: u8 = 4;

/// A checked message, which a local APIC can accept.
///
/// Its address is in KVM's format: bits 7:0 of the destination are in bits 19:12, bits 31:8 are in bits
/// 63:40, and bits 11:5 are 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ApicMessage(MsiMessage);

/// Why a message is not an interrupt. The cause is the guest: the vector is held and counted. Nothing has
/// failed in the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMessage {
    /// The address is not in the interrupt range 0xFEEx_xxxx, nor in its extension by remapping units.
    #[error("{0} does not address a local APIC")]
    Address(MsiMessage),
    /// The message is in remappable format, but there is no remapping unit.
    #[error("{0} is in remappable format, but there is no remapping unit")]
    Remappable(MsiMessage),
    /// The destination has bits that the guest was not told of: see [`DestinationIds`].
    #[error("{0} has a wider destination than the guest was told of")]
    Destination(MsiMessage),
    /// A fixed or lowest-priority interrupt has a vector below 16.
    #[error("{0} has a vector below 16")]
    Vector(MsiMessage),
    /// The delivery mode is one that devices must not use (SMI, INIT, ExtINT, or reserved).
    #[error("{0} has a delivery mode that devices must not use")]
    DeliveryMode(MsiMessage),
}

impl ApicMessage {
    /// Checks a message that a guest or a remapping stage wrote, and converts its destination to KVM's
    /// format.
    ///
    /// # Errors
    /// No local APIC accepts the message, or its destination does not fit in `ids`.
    pub fn with_ids(message: MsiMessage, ids: DestinationIds) -> Result<Self, InvalidMessage> {
        let low = AddressLow::from_bits(message.address_low());
        let high = AddressHigh::from_bits(message.address_high());
        let data = Data::from_bits(message.data);
        if low.prefix() != PREFIX || high != AddressHigh::new().with_destination_high(high.destination_high())
        {
            return Err(InvalidMessage::Address(message));
        }
        if low.remappable() {
            return Err(InvalidMessage::Remappable(message));
        }
        let destination_high = match (u32::from(low.extended_destination()), high.destination_high(), ids) {
            (0, 0, _) => 0,
            (0, high, DestinationIds::Extended | DestinationIds::Bits32) => high,
            (extended, 0, DestinationIds::Extended) => extended,
            _ => return Err(InvalidMessage::Destination(message)),
        };
        match data.delivery_mode() {
            FIXED | LOWEST_PRIORITY if data.vector() < FIRST_VECTOR => Err(InvalidMessage::Vector(message)),
            FIXED | LOWEST_PRIORITY | NMI => {
                let destination = destination_high << 8 | u32::from(low.destination());
                Ok(Self(addressed(low, destination, message.data)))
            }
            _ => Err(InvalidMessage::DeliveryMode(message)),
        }
    }

    /// The message in KVM's format.
    pub fn message(self) -> MsiMessage {
        self.0
    }

    /// The destination: an APIC ID, or a set of APICs if the destination is logical.
    pub fn destination(self) -> u32 {
        let low = AddressLow::from_bits(self.0.address_low());
        let high = AddressHigh::from_bits(self.0.address_high());
        high.destination_high() << 8 | u32::from(low.destination())
    }

    /// The same message with another vector. `None` if the message has no vector (NMI), or if `vector` is
    /// below 16.
    pub fn with_vector(self, vector: u8) -> Option<Self> {
        let data = Data::from_bits(self.0.data);
        let moved = MsiMessage { data: data.with_vector(vector).into_bits(), ..self.0 };
        if data.delivery_mode() == NMI { None } else { Self::with_ids(moved, DestinationIds::Bits32).ok() }
    }

    /// The same message to the next local APIC of a guest with `apics` APICs. The first APIC follows the
    /// last. `None` if there is no such APIC, or if the message addresses several. At most 32,768 APICs have
    /// a next one.
    pub fn next_destination(self, apics: u32) -> Option<Self> {
        let address = AddressLow::from_bits(self.0.address_low());
        let at = self.destination();
        let (next, first, end) = match address.logical() {
            // A logical destination has one bit for each APIC, of at most eight.
            true if at.is_power_of_two() => (at.wrapping_shl(1), 1, 1u32.wrapping_shl(apics.min(8))),
            true => return None,
            false => (at.saturating_add(1), 0, apics.min(EXTENDED_IDS)),
        };
        let destination = if next < end { next } else { first };
        (at < end).then(|| Self(addressed(address, destination, self.0.data)))
    }

    /// The messages with a fixed edge interrupt to one APIC, physically addressed, for the given vectors.
    pub fn fixed(destination: u32, vectors: impl Iterator<Item = u8>) -> impl Iterator<Item = Self> {
        let low = AddressLow::new().with_prefix(PREFIX);
        vectors.filter_map(move |vector| {
            Self::with_ids(addressed(low, destination, vector.into()), DestinationIds::Bits32).ok()
        })
    }
}

/// `low` and `data` with another destination, in KVM's format.
fn addressed(low: AddressLow, destination: u32, data: u32) -> MsiMessage {
    let [lowest, ..] = destination.to_le_bytes();
    let low = low.with_destination(lowest).with_extended_destination(0);
    let high = AddressHigh::new().with_destination_high(destination >> 8);
    MsiMessage::from_registers(low.into_bits(), high.into_bits(), data)
}

impl fmt::Display for ApicMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// With [`DestinationIds::Bits8`].
impl TryFrom<MsiMessage> for ApicMessage {
    type Error = InvalidMessage;

    fn try_from(message: MsiMessage) -> Result<Self, InvalidMessage> {
        Self::with_ids(message, DestinationIds::Bits8)
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

    /// Logical and physical, redirectable, lowest priority, with the assert and the level bit. All are from
    /// memory dumps of guests.
    #[test]
    fn messages_of_linux_and_windows_are_interrupts_and_stay_unchanged() {
        for (address, data) in [
            (0xfee0_100c, 0x4142),
            (0xfee0_0000, 0x4041),
            (0xfee0_f00c, 0x41b1),
            (0xfeef_f00c, 0x49b2),
            (0xfee0_4004, 0x4021),
            (0xfee0_0000, 0x0400),
            (0xfee0_0000, 0xc035),
        ] {
            let taken = check(address, data).map(ApicMessage::message);
            assert_eq!(taken, Ok(MsiMessage { address, data }), "{address:#x} {data:#x}");
        }
    }

    #[test]
    fn an_extended_destination_is_refused_in_each_of_its_bits() {
        for bit in 5..12 {
            let extended = check(0xfee0_1000 | 1 << bit, 0x41);
            assert!(matches!(extended, Err(InvalidMessage::Destination(_))), "bit {bit}");
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
    fn the_first_apic_follows_the_last() {
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

    fn with_ids(address: u64, ids: DestinationIds) -> Result<ApicMessage, InvalidMessage> {
        ApicMessage::with_ids(MsiMessage { address, data: 0x41 }, ids)
    }

    /// The address that a guest with extended destinations writes.
    fn extended(id: u32) -> u64 {
        u64::from(0xfee0_0000 | (id & 0xff) << 12 | id >> 8 << 5)
    }

    #[test]
    fn every_15_bit_destination_reaches_kvm_if_the_guest_was_told_of_them() {
        for id in 0..1 << 15 {
            let message = with_ids(extended(id), DestinationIds::Extended).unwrap();
            assert_eq!(message.destination(), id);
            let taken = message.message();
            assert_eq!(taken.address_low(), 0xfee0_0000 | (id & 0xff) << 12);
            assert_eq!(taken.address_high(), id & !0xff);
            for ids in [DestinationIds::Extended, DestinationIds::Bits32] {
                assert_eq!(ApicMessage::with_ids(taken, ids), Ok(message), "as a remapping stage writes it");
            }
            assert!(DestinationIds::Extended.contains(id));
        }
        assert!(!DestinationIds::Extended.contains(1 << 15));
    }

    #[test]
    fn a_guest_that_was_told_of_8_bits_has_no_wider_destination() {
        for id in 0x100..1 << 15 {
            for ids in [DestinationIds::Bits8, DestinationIds::Bits32] {
                let refused = with_ids(extended(id), ids);
                assert!(matches!(refused, Err(InvalidMessage::Destination(_))), "{id:#x} {ids:?}");
            }
        }
        assert!(matches!(check(extended(0x100), 0x41), Err(InvalidMessage::Destination(_))));
    }

    #[test]
    fn a_logical_destination_keeps_its_mode_when_it_is_moved() {
        let message = with_ids(0xfee8_002c, DestinationIds::Extended).unwrap();
        assert_eq!(message.message().address, 0x100_fee8_000c);
        assert_eq!(message.next_destination(300), None);
    }

    #[test]
    fn a_32_bit_destination_is_accepted_only_if_kvm_accepts_it() {
        let wide = 0xabcd_ef00_fee1_2000;
        for ids in [DestinationIds::Extended, DestinationIds::Bits32] {
            assert_eq!(with_ids(wide, ids).unwrap().destination(), 0xabcd_ef12);
            assert_eq!(with_ids(wide, ids).unwrap().message().address, wide);
            // KVM would refuse the whole table for these.
            for low_byte in 1..=0xffu64 {
                let bad = with_ids(wide | low_byte << 32, ids);
                assert!(matches!(bad, Err(InvalidMessage::Address(_))), "{low_byte:#x}");
            }
            assert!(
                matches!(with_ids(wide | 0x20, ids), Err(InvalidMessage::Destination(_))),
                "both at once"
            );
        }
        assert!(matches!(with_ids(wide, DestinationIds::Bits8), Err(InvalidMessage::Destination(_))));
    }

    #[test]
    fn beyond_255_apics_the_next_destination_is_an_extended_one() {
        let at = |id, apics| {
            let message = with_ids(extended(id), DestinationIds::Extended).unwrap();
            message.next_destination(apics).map(ApicMessage::destination)
        };
        assert_eq!((at(254, 300), at(255, 300), at(299, 300)), (Some(255), Some(256), Some(0)));
        assert_eq!((at(254, 255), at(300, 300)), (Some(0), None));
        assert_eq!(at(0x7fff, u32::MAX), Some(0));
        let fixed: Vec<_> = ApicMessage::fixed(0x1234, [15, 0x41].into_iter()).collect();
        assert_eq!(fixed.iter().map(|message| message.destination()).collect::<Vec<_>>(), [0x1234]);
        assert_eq!(fixed[0].with_vector(0x42).unwrap().destination(), 0x1234);
    }

    #[test]
    fn a_message_moves_to_every_vector_but_those_of_the_processor() {
        let message = check(0xfee0_1004, 0x8141).unwrap();
        assert_eq!(message.with_vector(0xef).unwrap().message().data, 0x81ef);
        assert_eq!(message.with_vector(15), None);
    }
}
