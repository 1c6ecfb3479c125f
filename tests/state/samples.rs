//! Data that earlier versions wrote, in `samples`: every later version restores it.
//!
//! A release's samples never change. A new version adds files of its own: `STATE_SAMPLES=write` writes those that are missing.

use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;
use std::{env, fs};

use serde::Serialize;
use serde::de::DeserializeOwned;
use vm_msi::domain::DeviceDomain;
use vm_msi::msi::{AddressWidth, MessageCount, MsiLayout, MsiState, VectorMasking};
use vm_msi::msix::{Bar, EntryState, Layout, MsixState, TableSize};
use vm_msi::state::{FunctionState, PendingBits};
use vm_msi::testing::{Failures, FakeBackend, FakeRouter};
use vm_msi::{InterruptFunction, MsiFunction, MsiMessage, MsixFunction, Registers};

/// The version that this crate writes.
const NEWEST: &str = "v1";

fn msix_layout() -> Layout {
    let bar = Bar::new(2).unwrap();
    Layout::new(TableSize::new(3).unwrap(), (bar, 0x1000), (bar, 0x2000)).unwrap()
}

fn msi_layout() -> MsiLayout {
    MsiLayout::new(MessageCount::new(4).unwrap(), AddressWidth::Bits64, VectorMasking::Present)
}

/// The state that every sample of MSI-X has: all three entries differ, and one interrupt waits.
fn msix_state() -> FunctionState<MsixState> {
    let entries = [[0xfee0_1000, 0, 0x41, 0], [0xfee0_2000, 0x100, 0x42, 1], [0, 0, 0, 1]];
    let registers = MsixState::new(&msix_layout(), 0xc000, entries.map(EntryState::from_registers));
    FunctionState { registers, pending: PendingBits::from_words(3, [0b010]) }
}

/// The state that every sample of MSI has: four vectors in use, one masked, and one interrupt waits.
fn msi_state() -> FunctionState<MsiState> {
    let message = MsiMessage { address: 0xfee0_3000, data: 0x44 };
    let registers = MsiState::new(&msi_layout(), 0x21, message, 0b1000);
    FunctionState { registers, pending: PendingBits::from_words(4, [0b1000]) }
}

fn fakes() -> (Arc<FakeRouter>, FakeBackend) {
    let failures = Failures::default();
    (Arc::new(FakeRouter::new(failures.clone())), FakeBackend::new(failures))
}

/// Every sample of `kind` restores `state`. Samples of the newest version equal the data that is written today, byte for byte.
fn restore_samples<C>(
    kind: &str,
    state: &FunctionState<C::State>,
    function: impl Fn() -> InterruptFunction<C, DeviceDomain>,
) where
    C: Registers,
    C::State: Serialize + DeserializeOwned + Debug,
{
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/state/samples");
    let json = serde_json::to_string_pretty(state).unwrap() + "\n";
    let newest = [("json", json.into_bytes()), ("postcard", postcard::to_stdvec(state).unwrap())];
    for (format, written) in newest {
        let path = samples.join(format!("{kind}-{NEWEST}.{format}"));
        if env::var("STATE_SAMPLES").is_ok_and(|what| what == "write") && !path.exists() {
            fs::write(&path, &written).unwrap();
        }
        assert_eq!(fs::read(&path).unwrap(), written, "{}: the format has changed", path.display());
    }

    let mut restored = 0;
    for entry in fs::read_dir(samples).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap();
        if !name.starts_with(&format!("{kind}-")) {
            continue;
        }
        let bytes = fs::read(&path).unwrap();
        let sample: FunctionState<C::State> = match path.extension().and_then(|format| format.to_str()) {
            Some("json") => serde_json::from_slice(&bytes).unwrap(),
            Some("postcard") => postcard::from_bytes(&bytes).unwrap(),
            format => panic!("{name}: no format {format:?}"),
        };
        let function = function();
        function.restore(&sample).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(function.suspend().unwrap(), *state, "{name}");
        restored += 1;
    }
    assert!(restored >= 2, "a sample in each format");
}

#[test]
fn msix_states_of_every_version_are_restored() {
    restore_samples("msix", &msix_state(), || {
        let (router, device) = fakes();
        MsixFunction::new(msix_layout(), router, device)
    });
}

#[test]
fn msi_states_of_every_version_are_restored() {
    restore_samples("msi", &msi_state(), || {
        let (router, device) = fakes();
        MsiFunction::new(msi_layout(), router, device)
    });
}

#[test]
fn a_state_of_a_later_version_is_refused() {
    let json = serde_json::to_string(&msix_state()).unwrap();
    let later = json.replacen("\"v1\"", "\"v999\"", 1);
    let error = serde_json::from_str::<FunctionState<MsixState>>(&later).unwrap_err().to_string();
    assert!(error.contains("v999") && error.contains("v1"), "{error}");

    let mut later = postcard::to_stdvec(&msix_state()).unwrap();
    later[0] = 99;
    assert!(postcard::from_bytes::<FunctionState<MsixState>>(&later).is_err());
}
