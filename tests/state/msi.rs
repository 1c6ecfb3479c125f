//! The state of MSI: one message, and the pending interrupt of each vector.

use std::sync::Arc;

use vm_msi::msi::{AddressWidth, MessageCount, MsiLayout, MsiState, VectorMasking};
use vm_msi::state::{FunctionState, Resume, resume_all};
use vm_msi::testing::{Failures, FakeBackend, FakeRouter};
use vm_msi::{MsiFunction, MsiMessage, Vector};

type Msi = MsiFunction;

fn after_reset(address: AddressWidth, masking: VectorMasking) -> (Msi, Arc<FakeRouter>, FakeBackend) {
    let layout = MsiLayout::new(MessageCount::new(8).unwrap(), address, masking);
    let failures = Failures::default();
    let router = Arc::new(FakeRouter::new(failures.clone()));
    let device = FakeBackend::new(failures);
    (MsiFunction::new(layout, router.clone(), device.clone()), router, device)
}

/// A function of 8 vectors in use, of which vector 5 is masked and has one waiting.
fn state() -> FunctionState<MsiState> {
    let (function, _, device) = after_reset(AddressWidth::Bits64, VectorMasking::Present);
    function.write_config(4, &0xfee0_3000u64.to_le_bytes());
    function.write_config(12, &0x40u32.to_le_bytes());
    function.write_config(2, &0x31u16.to_le_bytes());
    function.write_config(16, &(1u32 << 5).to_le_bytes());
    device.raise(Vector(5));
    function.suspend().unwrap()
}

#[test]
fn all_vectors_of_msi_come_back_with_what_waits_for_them() {
    let state = state();
    let (function, router, device) = after_reset(AddressWidth::Bits64, VectorMasking::Present);
    function.restore(&state).unwrap();
    resume_all(&*router, [&function as &dyn Resume]);
    assert_eq!(router.take_delivered(), []);
    function.write_config(16, &0u32.to_le_bytes());
    let message = |vector: u32| MsiMessage { address: 0xfee0_3000, data: 0x40 | vector };
    assert_eq!(router.take_delivered(), [message(5)]);
    device.raise(Vector(7));
    router.pump();
    assert_eq!(router.take_delivered(), [message(7)]);
}

#[test]
fn what_the_capability_has_no_bits_for_is_refused() {
    let good = state();
    let with = |change: fn(&mut FunctionState<MsiState>)| {
        let mut state = good.clone();
        change(&mut state);
        state
    };
    let wide = (AddressWidth::Bits64, VectorMasking::Present);
    let refused = [
        (wide, with(|state| state.registers.message_control ^= 1 << 1), "Message Control"),
        (wide, with(|state| state.registers.message_control ^= 1 << 9), "Message Control"),
        (wide, with(|state| state.registers.message.address |= 1), "Message Address"),
        (wide, with(|state| state.registers.message.data |= 1 << 16), "Message Data"),
        (wide, with(|state| state.registers.mask |= 1 << 8), "Mask Bits"),
        (wide, with(|state| state.pending.0[0] |= 1 << 8), "vector 8 is pending"),
        (
            (AddressWidth::Bits32, VectorMasking::Present),
            with(|state| {
                state.registers.message_control ^= 1 << 7;
                state.registers.message.address |= 1 << 32;
            }),
            "Message Address",
        ),
        (
            (AddressWidth::Bits64, VectorMasking::Absent),
            with(|state| state.registers.message_control ^= 1 << 8),
            "Mask Bits",
        ),
    ];
    for ((address, masking), state, reason) in refused {
        let (function, ..) = after_reset(address, masking);
        let before = function.suspend().unwrap();
        let error = function.restore(&state).unwrap_err().to_string();
        assert!(error.contains(reason), "{reason}: {error}");
        assert_eq!(function.suspend().unwrap(), before);
    }
}
