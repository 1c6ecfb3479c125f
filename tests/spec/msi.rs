//! MSI: its registers (PCIe r6 §7.7.1) and its messages (§6.1.4).

use std::sync::Arc;

use vm_msi::msi::{AddressWidth, MessageCount, MsiLayout, VectorMasking};
use vm_msi::testing::{Failures, FakeBackend, FakeRouter};
use vm_msi::{MsiFunction, MsiMessage, Vector};

const ENABLE: u16 = 1;
const ADDRESS: u32 = 0xfee0_3000;
const DATA: u32 = 0x40;

const NOTHING: [u32; 0] = [];

struct Fixture {
    function: MsiFunction,
    router: Arc<FakeRouter>,
    device: FakeBackend,
    layout: MsiLayout,
}

impl Fixture {
    fn after_reset(messages: u32, address: AddressWidth, masking: VectorMasking) -> Self {
        let layout = MsiLayout::new(MessageCount::new(messages).unwrap(), address, masking);
        let failures = Failures::default();
        let router = Arc::new(FakeRouter::new(failures.clone()));
        let device = FakeBackend::new(failures);
        let function = MsiFunction::new(layout, router.clone(), device.clone());
        Self { function, router, device, layout }
    }

    /// A function of 8 vectors with all registers, which was allocated as many as `multiple_message_enable` says.
    fn using(multiple_message_enable: u16) -> Self {
        let fixture = Self::after_reset(8, AddressWidth::Bits64, VectorMasking::Present);
        fixture.set(4, ADDRESS);
        fixture.set(12, DATA);
        fixture.set_control(multiple_message_enable << 4 | ENABLE);
        fixture
    }

    fn get(&self, offset: u16) -> u32 {
        let mut data = [0; 4];
        self.function.read_config(offset, &mut data);
        u32::from_le_bytes(data)
    }

    fn set(&self, offset: u16, value: u32) {
        self.function.write_config(offset, &value.to_le_bytes());
    }

    fn set_control(&self, value: u16) {
        self.function.write_config(2, &value.to_le_bytes());
    }

    fn raise(&self, vector: u32) -> Vec<u32> {
        self.device.raise(Vector(vector));
        self.router.pump();
        self.delivered()
    }

    /// The data of the messages that the guest has received. Their address is always `ADDRESS`.
    fn delivered(&self) -> Vec<u32> {
        let data = |message: MsiMessage| {
            assert_eq!(message.address, u64::from(ADDRESS));
            message.data
        };
        self.router.take_delivered().into_iter().map(data).collect()
    }
}

/// PCIe r6 §7.7.1: The capability has 10, 14, 20 or 24 bytes, as 64-bit addresses and per-vector masking are supported or not.
#[test]
fn the_capability_has_the_length_that_its_options_give_it() {
    use AddressWidth::{Bits32, Bits64};
    use VectorMasking::{Absent, Present};
    let shapes = [(Bits32, Absent, 10), (Bits64, Absent, 14), (Bits32, Present, 20), (Bits64, Present, 24)];
    for (address, masking, bytes) in shapes {
        let fixture = Fixture::after_reset(1, address, masking);
        assert_eq!(fixture.layout.bytes(), bytes);
        fixture.function.write_config(0, &[0xff; 32]);
        let mut data = [0; 32];
        fixture.function.read_config(0, &mut data);
        let end = usize::from(bytes).next_multiple_of(4);
        assert!(data[end..].iter().all(|byte| *byte == 0), "nothing beyond the capability");
    }
}

/// PCIe r6 §7.7.1.2: Message Control says how many vectors the function requests, and which optional registers it has.
/// Encodings of more than 32 vectors are reserved.
#[test]
fn a_functions_own_capability_parses_into_its_shape() {
    let layout = MsiLayout::parse([0x05, 0x70, 0x86, 0x01]).unwrap();
    let messages = MessageCount::new(8).unwrap();
    assert_eq!(layout, MsiLayout::new(messages, AddressWidth::Bits64, VectorMasking::Present));
    assert!(MsiLayout::parse([0x11, 0, 0, 0]).is_err());
    assert!(MsiLayout::parse([0x05, 0, 0x0c, 0]).is_err(), "64 vectors are reserved");
}

/// PCIe r6 §7.7.1.1: The Capability ID is 05h. It is read-only, as are the capable bits of Message Control (§7.7.1.2).
#[test]
fn the_capability_id_and_what_the_function_asks_for_cannot_be_written() {
    let fixture = Fixture::after_reset(8, AddressWidth::Bits64, VectorMasking::Present);
    fixture.set(0, 0xff8e_ffff);
    assert_eq!(fixture.get(0), 0x0186_0005);
}

/// PCIe r6 §7.7.1.2: MSI Enable and Multiple Message Enable are 0 by default.
#[test]
fn enable_and_the_number_of_messages_are_clear_after_reset() {
    let fixture = Fixture::using(3);
    fixture.function.reset(|| fixture.device.reset());
    assert_eq!(fixture.get(0) >> 16 & 0x71, 0);
    assert_eq!([4, 8, 12, 16].map(|offset| fixture.get(offset)), [0; 4]);
}

/// PCIe r6 §7.7.1.3: Bits 1:0 of Message Address are reserved. They read 0.
#[test]
fn the_low_two_bits_of_the_address_are_zero() {
    let fixture = Fixture::after_reset(1, AddressWidth::Bits32, VectorMasking::Absent);
    fixture.set(4, ADDRESS | 3);
    assert_eq!(fixture.get(4), ADDRESS);
}

/// PCIe r6 §6.1.4.4: A function whose Multiple Message Enable is 000b must not modify the data.
#[test]
fn a_function_with_one_vector_sends_the_data_as_it_is() {
    let fixture = Fixture::using(0);
    fixture.set(12, 0x47);
    assert_eq!(fixture.raise(0), [0x47]);
}

/// PCIe r6 §6.1.4.4: A function that was allocated 2^n vectors has its vectors in the low n bits of the data.
#[test]
fn vectors_differ_in_the_low_bits_of_the_data() {
    for log2 in 0..4 {
        let fixture = Fixture::using(log2);
        for vector in 0..1 << log2 {
            assert_eq!(fixture.raise(vector), [DATA | vector]);
        }
    }
}

/// PCIe r6 §7.7.1.5: The function may modify the low bits of the data, whatever software has written there.
#[test]
fn low_bits_that_software_sets_are_the_functions_to_change() {
    let fixture = Fixture::using(2);
    fixture.set(12, 0x47);
    assert_eq!(fixture.raise(1), [0x45]);
}

/// PCIe r6 §6.1.4.4: A function must handle being allocated fewer vectors than it requests.
#[test]
fn a_function_uses_no_more_vectors_than_it_was_given() {
    let fixture = Fixture::using(1);
    assert_eq!(fixture.raise(2), NOTHING);
    assert_eq!(fixture.function.vectors(), 2);
}

/// PCIe r6 §7.7.1.2: The number of allocated vectors is at most the number of requested vectors.
#[test]
fn a_function_that_is_given_more_than_it_asks_for_uses_what_it_asks_for() {
    for reserved in [4, 5, 6, 7] {
        assert_eq!(Fixture::using(reserved).function.vectors(), 8);
    }
}

/// PCIe r6 §7.7.1.2: Multiple Message Enable is read-write and says how many vectors are allocated.
#[test]
fn messages_that_a_function_is_given_while_msi_is_on_are_used_from_then_on() {
    let fixture = Fixture::using(1);
    assert_eq!(fixture.raise(1), [DATA | 1]);
    fixture.set_control(3 << 4 | ENABLE);
    for vector in 0..8 {
        assert_eq!(fixture.raise(vector), [DATA | vector]);
    }
}

/// PCIe r6 §7.7.1.2: A function whose MSI Enable is clear must not request service by MSI.
#[test]
fn a_function_with_msi_disabled_sends_nothing() {
    let fixture = Fixture::using(3);
    fixture.set_control(3 << 4);
    assert_eq!(fixture.raise(0), NOTHING);
}

/// PCIe r6 §6.1.4.5: While a vector is masked, the function sends no message for it and sets its Pending bit instead.
#[test]
fn a_masked_vector_sends_nothing_and_shows_as_pending() {
    let fixture = Fixture::using(3);
    fixture.set(16, 1 << 5);
    assert_eq!(fixture.raise(5), NOTHING);
    assert_eq!(fixture.get(20), 1 << 5);
    assert_eq!(fixture.raise(4), [DATA | 4], "the others are not masked");
}

/// PCIe r6 §6.1.4.5: When software unmasks a vector whose Pending bit is set, the function sends the message and clears the
/// bit.
#[test]
fn unmasking_a_pending_vector_sends_it_once_and_clears_its_bit() {
    let fixture = Fixture::using(3);
    fixture.set(16, 1 << 5);
    fixture.raise(5);
    fixture.raise(5);
    fixture.set(16, 0);
    assert_eq!(fixture.delivered(), [DATA | 5]);
    assert_eq!(fixture.get(20), 0);
}

/// PCIe r6 §7.7.1.8: Pending bits are read-only.
#[test]
fn pending_bits_cannot_be_written() {
    let fixture = Fixture::using(3);
    fixture.set(20, 0xff);
    assert_eq!(fixture.get(20), 0);
}

/// PCIe r6 §7.7.1.7: Mask bits that are not implemented are reserved.
#[test]
fn mask_bits_of_vectors_that_the_function_has_not_are_reserved() {
    let fixture = Fixture::using(3);
    fixture.set(16, u32::MAX);
    assert_eq!(fixture.get(16), 0xff);
}

/// PCIe r6 §7.7.1.7: Each requested vector has a Mask bit, up to 32 of them.
#[test]
fn all_32_vectors_can_be_masked() {
    let fixture = Fixture::after_reset(32, AddressWidth::Bits32, VectorMasking::Present);
    fixture.set(12, u32::MAX);
    assert_eq!(fixture.get(12), u32::MAX);
}

/// PCIe r6 §7.7.1.5: Message Data is the value that every vector is made of.
#[test]
fn new_data_moves_every_vector() {
    let fixture = Fixture::using(3);
    fixture.set(12, 0x60);
    assert_eq!(
        (0..8).flat_map(|vector| fixture.raise(vector)).collect::<Vec<_>>(),
        (0x60..0x68).collect::<Vec<_>>()
    );
}

/// PCIe r6 §7.7.1.3: While MSI Enable is set, the registers are the message. FreeBSD D24593 writes them so and does not write
/// Message Control, and Enable may come in a DWORD.
#[test]
fn a_message_that_changes_while_msi_is_on_is_sent_as_it_is_after_each_write() {
    for masking in [VectorMasking::Absent, VectorMasking::Present] {
        for address in [AddressWidth::Bits32, AddressWidth::Bits64] {
            let Fixture { function, router, device, layout } = Fixture::after_reset(1, address, masking);
            let data = match address {
                AddressWidth::Bits32 => 8,
                AddressWidth::Bits64 => 12,
            };
            let sent = |address: u64, data: u32| {
                device.raise(Vector(0));
                router.pump();
                assert_eq!(router.take_delivered(), [MsiMessage { address, data }], "{layout:?}");
            };
            function.write_config(4, &0xfee0_1000u32.to_le_bytes());
            function.write_config(data, &0x41u32.to_le_bytes());
            function.write_config(0, &0x0001_0005u32.to_le_bytes());
            sent(0xfee0_1000, 0x41);
            function.write_config(4, &0xfee0_2000u32.to_le_bytes());
            sent(0xfee0_2000, 0x41);
            function.write_config(data, &0x52u16.to_le_bytes());
            sent(0xfee0_2000, 0x52);
            function.write_config(data, &[0x63]);
            sent(0xfee0_2000, 0x63);
            function.write_config(data + 1, &[0x01]);
            sent(0xfee0_2000, 0x163);
            function.write_config(5, &[0x30]);
            sent(0xfee0_3000, 0x163);
        }
    }
}

/// PCIe r6 §7.7.1.4: A non-zero Message Upper Address makes the address one of 64 bits. If it is zero, the address has 32 bits.
#[test]
fn a_message_whose_upper_address_comes_and_goes_while_msi_is_on_is_an_interrupt_without_it() {
    let fixture = Fixture::using(0);
    fixture.set(8, 1);
    assert_eq!(fixture.raise(0), NOTHING, "a write to memory above 4 GiB");
    fixture.set(8, 0);
    assert_eq!(fixture.delivered(), NOTHING);
    assert_eq!(fixture.raise(0), [DATA]);
}

/// PCIe r6 §6.1.4.4: Without Extended Message Data Enable, the upper two bytes of the data are zero.
#[test]
fn the_upper_two_bytes_of_the_data_are_zero() {
    let fixture = Fixture::using(0);
    fixture.set(12, 0xffff_0047);
    assert_eq!((fixture.get(12), fixture.raise(0)), (0x47, vec![0x47]));
}

/// PCIe r6 §7.7.1.7: A Mask bit of a vector that is not allocated must not affect interrupts.
#[test]
fn mask_bits_of_vectors_that_were_not_allocated_do_not_affect_the_others() {
    let fixture = Fixture::using(1);
    fixture.set(16, 0xfc);
    assert_eq!([0, 1].map(|vector| fixture.raise(vector)), [[DATA], [DATA | 1]]);
}
