//! Invalid states and states of another function. Each is refused with a reason, and the function does not change.
//!
//! `MODEL_CASES` sets how many are tried (default 10,000).

use proptest::collection::vec;
use proptest::prelude::*;
use vm_msi::MsiMessage;
use vm_msi::msix::MsixState;
use vm_msi::state::{FunctionState, PendingBits};
use vm_msi::testing::{function_state, restore_anything};

type State = FunctionState<MsixState>;

/// One change to a valid state.
#[derive(Clone, Debug)]
enum Change {
    Control(u16),
    TableWindow(u32),
    PbaWindow(u32),
    Message(usize, MsiMessage),
    VectorControl(usize, u32),
    Entries(usize),
    Pending(usize, u64),
    Words(usize),
}

impl Change {
    fn apply(self, state: &mut State) {
        let registers = &mut state.registers;
        let (entries, words) = (registers.entries.len(), state.pending.0.len());
        match self {
            Self::Control(bits) => registers.message_control ^= bits,
            Self::TableWindow(bits) => registers.table_window ^= bits,
            Self::PbaWindow(bits) => registers.pba_window ^= bits,
            Self::Message(at, message) if entries > 0 => registers.entries[at % entries].message = message,
            Self::VectorControl(at, value) if entries > 0 => {
                registers.entries[at % entries].vector_control = value;
            }
            Self::Pending(at, bits) if words > 0 => state.pending.0[at % words] = bits,
            Self::Entries(count) => {
                let entry = registers.entries.first().copied();
                registers.entries.resize_with(count, || entry.expect("an entry"));
            }
            Self::Words(count) => state.pending.0.resize(count, 0),
            Self::Message(..) | Self::VectorControl(..) | Self::Pending(..) => {}
        }
    }
}

/// A random change, mostly one that a function could have made itself.
fn change() -> impl Strategy<Value = Change> {
    let message = prop_oneof![
        (0u32..4, 0x20u32..0x30).prop_map(|(cpu, data)| (u64::from(0xfee0_0000 | cpu << 12), data)),
        any::<(u64, u32)>(),
    ];
    prop_oneof![
        6 => (0u16..4).prop_map(|bits| Change::Control(bits << 14)),
        1 => any::<u16>().prop_map(Change::Control),
        1 => any::<u32>().prop_map(Change::TableWindow),
        1 => any::<u32>().prop_map(Change::PbaWindow),
        20 => (any::<usize>(), message)
            .prop_map(|(at, (address, data))| Change::Message(at, MsiMessage { address, data })),
        10 => (any::<usize>(), 0u32..2).prop_map(|(at, value)| Change::VectorControl(at, value)),
        1 => any::<(usize, u32)>().prop_map(|(at, value)| Change::VectorControl(at, value)),
        1 => (1usize..100).prop_map(Change::Entries),
        8 => (any::<usize>(), any::<u8>()).prop_map(|(at, bits)| Change::Pending(at, bits.into())),
        1 => any::<(usize, u64)>().prop_map(|(at, bits)| Change::Pending(at, bits)),
        1 => (0usize..4).prop_map(Change::Words),
    ]
}

fn cases() -> ProptestConfig {
    let cases = match std::env::var("MODEL_CASES") {
        Ok(cases) => cases.parse().expect("MODEL_CASES is a number"),
        Err(_) => 10_000,
    };
    ProptestConfig { cases, ..ProptestConfig::default() }
}

fn sizes() -> impl Strategy<Value = u16> {
    prop_oneof![1u16..5, 63u16..67]
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn any_state_is_restored_as_it_is_or_refused_with_nothing_changed(
        vectors in sizes(),
        changes in vec(change(), 0..8),
    ) {
        let mut state = function_state(vectors);
        changes.into_iter().for_each(|change| change.apply(&mut state));
        let _ = restore_anything(vectors, &state);
    }

    #[test]
    fn any_bytes_are_restored_as_they_are_or_refused_with_nothing_changed(
        vectors in sizes(),
        flips in vec((any::<usize>(), any::<u8>()), 0..6),
    ) {
        let mut bytes = postcard::to_stdvec(&function_state(vectors)).unwrap();
        let len = bytes.len();
        flips.into_iter().for_each(|(at, bits)| bytes[at % len] ^= bits);
        if let Ok(state) = postcard::from_bytes(&bytes) {
            let _ = restore_anything(vectors, &state);
        }
    }
}

#[test]
fn what_a_function_cannot_have_is_refused_each_by_its_own_reason() {
    let refused = [
        (Change::Control(1), "Message Control"),
        (Change::Control(1 << 11), "Message Control"),
        (Change::TableWindow(8), "Table Offset"),
        (Change::PbaWindow(1), "PBA Offset"),
        (Change::VectorControl(3, 2), "Vector Control of vector 3"),
        (Change::VectorControl(3, 1 << 31), "reserved"),
        (Change::Entries(69), "69 table entries"),
        (Change::Entries(71), "71 table entries"),
        (Change::Pending(1, 1 << 6), "vector 70 is pending"),
        (Change::Words(1), "1 words"),
        (Change::Words(3), "3 words"),
    ];
    for (change, reason) in refused {
        let mut state = function_state(70);
        change.clone().apply(&mut state);
        let error = restore_anything(70, &state).unwrap_err().to_string();
        assert!(error.contains(reason), "{change:?}: {error}");
    }
}

#[test]
fn what_a_function_can_have_is_restored() {
    let any_message = MsiMessage { address: u64::MAX, data: u32::MAX };
    let accepted = [
        Change::Control(0xc000),
        Change::Message(0, any_message),
        Change::VectorControl(69, 1),
        Change::Pending(1, 0x3f),
    ];
    for change in accepted {
        let mut state = function_state(70);
        change.clone().apply(&mut state);
        restore_anything(70, &state).unwrap_or_else(|error| panic!("{change:?}: {error}"));
    }
}

#[test]
fn a_state_survives_both_a_binary_and_a_text_format() {
    let state = function_state(70);
    assert_eq!(state.pending, PendingBits(vec![0, 1 << 5]));
    let binary: State = postcard::from_bytes(&postcard::to_stdvec(&state).unwrap()).unwrap();
    let text: State = serde_json::from_str(&serde_json::to_string(&state).unwrap()).unwrap();
    assert_eq!((&binary, &text), (&state, &state));
}
