//! Any accesses to an MSI capability: none panics, and registers keep what they must.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use vm_msi::msi::MsiLayout;
use vm_msi::testing::{Failures, FakeBackend, FakeRouter};
use vm_msi::{MsiFunction, Vector};

#[derive(arbitrary::Arbitrary, Debug)]
enum Access {
    Read { offset: u16, len: u8 },
    Write { offset: u8, data: Vec<u8> },
    Raise(u8),
    Reset,
}

#[derive(arbitrary::Arbitrary, Debug)]
struct Input {
    control: u16,
    accesses: Vec<Access>,
}

fuzz_target!(|input: Input| {
    let [low, high] = input.control.to_le_bytes();
    let Ok(layout) = MsiLayout::parse([0x05, 0, low, high]) else { return };
    let failures = Failures::default();
    let router = Arc::new(FakeRouter::new(failures.clone()));
    let device = FakeBackend::new(failures);
    let function = MsiFunction::new(layout, router.clone(), device.clone());
    for access in input.accesses {
        match access {
            Access::Read { offset, len } => function.read_config(offset, &mut vec![0; len.into()]),
            Access::Write { offset, data } => function.write_config(offset.into(), &data),
            Access::Raise(vector) => {
                device.raise(Vector((u32::from(vector)) % layout.messages().get()));
                router.pump();
            }
            Access::Reset => function.reset(|| device.reset()),
        }
        let mut capability = [0; 4];
        function.read_config(0, &mut capability);
        let control = u16::from_le_bytes([capability[2], capability[3]]);
        assert_eq!(control & 0x18e, input.control & 0x18e, "read-only bits");
        assert!(function.vectors() <= layout.messages().get());
    }
});
