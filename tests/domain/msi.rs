//! MSI beyond the specification: accesses of any offset and width, and functions without mask bits.

use std::sync::Arc;

use vm_msi::backend::Capabilities;
use vm_msi::msi::{AddressWidth, MessageCount, MsiLayout, VectorMasking};
use vm_msi::testing::{Failures, FakeBackend, FakeRouter};
use vm_msi::{MsiFunction, MsiMessage, Vector};

use crate::host::is_readable;

const ENABLE: u16 = 1;
const MESSAGE: MsiMessage = MsiMessage { address: 0xfee0_3000, data: 0x40 };

#[test]
fn every_access_of_every_offset_and_width_is_answered() {
    let layout = MsiLayout::new(MessageCount::new(8).unwrap(), AddressWidth::Bits64, VectorMasking::Present);
    let router = Arc::new(FakeRouter::new(Failures::default()));
    let device = FakeBackend::new(Failures::default());
    let function = MsiFunction::new(layout, router.clone(), device.clone());
    for offset in 0..40 {
        for len in 0..=16 {
            for value in [0x00, 0xff, 0xa5, 0x01] {
                function.write_config(offset, &vec![value; len]);
                function.read_config(offset, &mut vec![0; len]);
            }
        }
    }
    function.write_config(4, &MESSAGE.address.to_le_bytes());
    function.write_config(12, &MESSAGE.data.to_le_bytes());
    function.write_config(16, &0u32.to_le_bytes());
    function.write_config(2, &ENABLE.to_le_bytes());
    router.take_delivered();
    device.raise(Vector(0));
    router.pump();
    assert_eq!(router.take_delivered(), [MESSAGE], "the function still works");
}

#[test]
fn a_vector_of_a_function_without_mask_bits_waits_for_no_thread() {
    let layout = MsiLayout::new(MessageCount::new(2).unwrap(), AddressWidth::Bits64, VectorMasking::Absent);
    let capabilities = Capabilities { independent: false, ..Capabilities::UNLIMITED };
    let (failures, router) = (Failures::default(), Arc::new(FakeRouter::new(Failures::default())));
    let device = FakeBackend::with_capabilities(failures, capabilities);
    let function = MsiFunction::new(layout, router.clone(), device.clone());
    let growth = function.deferred_bind_fd().unwrap();
    function.write_config(4, &MESSAGE.address.to_le_bytes());
    function.write_config(12, &MESSAGE.data.to_le_bytes());
    function.write_config(2, &(1 << 4 | ENABLE).to_le_bytes());
    assert!(!is_readable(&growth), "the thread is not told");
    device.raise(Vector(1));
    router.pump();
    assert_eq!(router.take_delivered().len(), 1);
}
