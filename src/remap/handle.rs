//! Messages in remappable format. Such a message names an entry of the guest's remapping table instead of a
//! destination and a vector (VT-d specification r4 §5.1.2.2, "Interrupt Requests in Remappable Format").
//!
//! Pure functions of a message, for stages. They do not look at any table.

use bitfield_struct::bitfield;

use crate::message::MsiMessage;
use crate::refusal::Fault;

/// The low half of the address of a message in remappable format.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
struct Address {
    #[bits(2)]
    __: u8,
    /// Bit 2: bit 15 of the handle.
    handle_high: bool,
    /// Bit 3: the data contains a subhandle to add to the handle. It is the vector's number in a block of
    /// messages.
    subhandle_valid: bool,
    /// Bit 4: the message is in remappable format.
    remappable: bool,
    /// Bits 19:5: bits 14:0 of the handle.
    #[bits(15)]
    handle: u16,
    /// Bits 31:20.
    #[bits(12)]
    prefix: u16,
}

const PREFIX: u16 = 0xfee;

/// The index of the entry that a message names. `None` for a message in compatibility format, or one that
/// addresses no APIC.
///
/// # Errors
/// [`Fault::Reserved`] if the data has bits besides the subhandle.
pub fn index(message: MsiMessage) -> Result<Option<u32>, Fault> {
    let address = Address::from_bits(message.address_low());
    if message.address_high() != 0 || address.prefix() != PREFIX || !address.remappable() {
        return Ok(None);
    }
    let handle = u32::from(address.handle()) | u32::from(address.handle_high()) << 15;
    match (address.subhandle_valid(), message.data) {
        (false, _) => Ok(Some(handle)),
        // At most 17 bits. Stages refuse an index beyond their table.
        (true, subhandle @ 0..=0xffff) => Ok(Some(handle.saturating_add(subhandle))),
        (true, _) => Err(Fault::Reserved),
    }
}

/// The message that names an entry, with a subhandle of 0. Linux writes it in this form.
pub fn message(index: u16) -> MsiMessage {
    let address = Address::new()
        .with_prefix(PREFIX)
        .with_remappable(true)
        .with_subhandle_valid(true)
        .with_handle(index & 0x7fff)
        .with_handle_high(index >> 15 != 0);
    MsiMessage { address: address.into_bits().into(), data: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index_of(address: u64, data: u32) -> Result<Option<u32>, Fault> {
        index(MsiMessage { address, data })
    }

    #[test]
    fn a_message_names_its_entry() {
        for entry in 0..=u16::MAX {
            assert_eq!(index(message(entry)), Ok(Some(entry.into())));
        }
    }

    #[test]
    fn the_handle_is_in_bits_19_to_5_and_2() {
        assert_eq!(index_of(0xfee0_0010, 0), Ok(Some(0)));
        assert_eq!(index_of(0xfee0_0030, 0), Ok(Some(1)));
        assert_eq!(index_of(0xfeef_fff0, 0), Ok(Some(0x7fff)));
        assert_eq!(index_of(0xfee0_0014, 0), Ok(Some(0x8000)));
    }

    #[test]
    fn the_subhandle_is_added_only_if_its_valid_bit_is_set() {
        assert_eq!(index_of(0xfee0_0098, 3), Ok(Some(4 + 3)));
        assert_eq!(index_of(0xfee0_0090, 3), Ok(Some(4)));
        assert_eq!(index_of(0xfeef_fffc, 0xffff), Ok(Some(0x1_fffe)));
    }

    #[test]
    fn data_beyond_a_subhandle_is_reserved() {
        assert_eq!(index_of(0xfee0_0098, 0x1_0000), Err(Fault::Reserved));
        assert_eq!(index_of(0xfee0_0090, 0x1_0000), Ok(Some(4)), "without a subhandle the data is not used");
    }

    #[test]
    fn a_message_in_another_format_names_no_entry() {
        for address in [0, 0xfee0_0000, 0xfed0_0010, 0x1_fee0_0010] {
            assert_eq!(index_of(address, 0x41), Ok(None), "{address:#x}");
        }
    }
}
