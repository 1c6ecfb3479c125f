//! States that are made from another VMM's snapshot. Reserved bits and pending bits of any value are restored by fixed rules.

use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use vm_msi::msi::{AddressWidth, MessageCount, MsiLayout, MsiState, VectorMasking};
use vm_msi::msix::{Bar, EntryState, Layout, MsixState, TableSize};
use vm_msi::state::{FunctionState, PendingBits, RestoreError, Resume, prepare};
use vm_msi::testing::{Failures, FakeBackend, FakeRouter};
use vm_msi::{MsiFunction, MsiMessage, MsixFunction};

fn table(vectors: u16) -> Layout {
    let bar = Bar::new(0).unwrap();
    Layout::new(TableSize::new(vectors).unwrap(), (bar, 0), (bar, 0x8000)).unwrap()
}

fn fakes() -> (Arc<FakeRouter>, FakeBackend) {
    let failures = Failures::default();
    (Arc::new(FakeRouter::new(failures.clone())), FakeBackend::new(failures))
}

fn msix(layout: &Layout) -> (MsixFunction, Arc<FakeRouter>) {
    let (router, device) = fakes();
    (MsixFunction::new(layout.clone(), router.clone(), device), router)
}

#[test]
fn an_msix_table_and_pba_of_another_vmm_are_restored_without_their_reserved_bits() {
    let layout = table(3);
    // Steering tags, reserved bits of Vector Control, and a Message Control of another table size.
    let entries = [[0xfee0_0000, 0, 0x41, 0xabcd_0001], [0xfee0_1000, 0, 0x42, 0xfffe], [0, 0, 0, 1]];
    let registers = MsixState::new(&layout, 0xb7ff, entries.map(EntryState::from_registers));
    assert_eq!(registers.message_control, 0x8002);
    assert_eq!((registers.table_window, registers.pba_window), (0, 0x8000));
    assert_eq!(registers.entries.iter().map(|entry| entry.vector_control).collect::<Vec<_>>(), [1, 0, 1]);

    let state = FunctionState { registers, pending: PendingBits::from_bytes(3, &[0xfd, 0xff]) };
    let (function, router) = msix(&layout);
    function.restore(&state).unwrap();
    assert_eq!(function.suspend().unwrap(), state);
    function.resume();
    assert_eq!(router.take_delivered(), [], "vector 1 is live, and nothing waits for it");
    function.write_table(12, &0u32.to_le_bytes());
    assert_eq!(router.take_delivered(), [MsiMessage { address: 0xfee0_0000, data: 0x41 }]);
}

#[test]
fn a_table_of_another_size_is_refused_by_the_function() {
    let registers = MsixState::new(&table(3), 0, [EntryState::from_registers([0; 4]); 2]);
    let state = FunctionState { registers, pending: PendingBits::from_bytes(3, &[]) };
    let refused = msix(&table(3)).0.restore(&state);
    assert!(matches!(refused, Err(RestoreError::TableSize { found: 2, expected: 3 })));
}

#[test]
fn a_prepared_guard_counts_what_was_published_and_what_was_refused() {
    let layout = table(2);
    let entries = [[0xfee0_0000, 0, 0x41, 0], [0xfee0_0000, 0, 0x42, 0]].map(EntryState::from_registers);
    let registers = MsixState::new(&layout, 0x8000, entries);
    let state = FunctionState { registers, pending: PendingBits::from_bytes(2, &[3]) };
    let (function, router) = msix(&layout);
    function.restore(&state).unwrap();
    router.set_capacity(1);
    let prepared = prepare(&*router, [&function as &dyn Resume]);
    assert_eq!((prepared.published(), prepared.refused()), (1, 1));
    function.resume();
    drop(prepared);
    assert_eq!((function.report().live, function.failed_steps()), (1, 1));
}

fn msi_layout() -> impl Strategy<Value = MsiLayout> {
    (0u32..6, any::<bool>(), any::<bool>()).prop_map(|(log2, wide, maskable)| {
        let address = if wide { AddressWidth::Bits64 } else { AddressWidth::Bits32 };
        let masking = if maskable { VectorMasking::Present } else { VectorMasking::Absent };
        MsiLayout::new(MessageCount::new(1 << log2).unwrap(), address, masking)
    })
}

fn message() -> impl Strategy<Value = MsiMessage> {
    any::<(u64, u32)>().prop_map(|(address, data)| MsiMessage { address, data })
}

proptest! {
    #[test]
    fn whatever_bits_another_vmm_has_for_msi_a_function_of_the_layout_restores_them(
        layout in msi_layout(),
        (control, message, mask) in (any::<u16>(), message(), any::<u32>()),
        pending in any::<u32>(),
    ) {
        let registers = MsiState::new(&layout, control, message, mask);
        prop_assert_eq!((registers.message_control ^ control) & 0x71, 0, "Enable and Multiple Message Enable");
        let pending = PendingBits::from_words(layout.messages().get(), [pending.into()]);
        let state = FunctionState { registers, pending };
        let (router, device) = fakes();
        let function = MsiFunction::new(layout, router, device);
        function.restore(&state).unwrap();
        prop_assert_eq!(function.suspend().unwrap(), state);
    }

    #[test]
    fn whatever_bits_another_vmm_has_for_msix_a_function_of_the_layout_restores_them(
        control in any::<u16>(),
        entries in vec(any::<[u32; 4]>(), 1..70),
        pending in vec(any::<u8>(), 0..20),
    ) {
        let layout = table(entries.len() as u16);
        let pending = PendingBits::from_bytes(entries.len() as u32, &pending);
        let registers =
            MsixState::new(&layout, control, entries.iter().copied().map(EntryState::from_registers));
        for (entry, [low, high, data, vector_control]) in registers.entries.iter().zip(entries) {
            prop_assert_eq!(entry.message, MsiMessage::from_registers(low, high, data));
            prop_assert_eq!(entry.vector_control, vector_control & 1);
        }
        let state = FunctionState { registers, pending };
        let (function, _) = msix(&layout);
        function.restore(&state).unwrap();
        prop_assert_eq!(function.suspend().unwrap(), state);
    }
}
