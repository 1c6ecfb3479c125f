//! Any accesses to an MSI-X capability, table and pending bits: none panics, and registers keep what they must.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use vm_msi::MsixFunction;
use vm_msi::Vector;
use vm_msi::msix::{Bar, Layout, TableSize};
use vm_msi::testing::{Failures, FakeBackend, FakeRouter};

#[derive(arbitrary::Arbitrary, Debug)]
enum Access {
    ReadConfig { offset: u16, len: u8 },
    WriteConfig { offset: u8, data: Vec<u8> },
    ReadBar { bar: u8, offset: u64, len: u8 },
    WriteBar { bar: u8, offset: u16, data: Vec<u8> },
    WriteFar { bar: u8, offset: u64, data: Vec<u8> },
    Raise(u16),
    Reset,
}

#[derive(arbitrary::Arbitrary, Debug)]
struct Input {
    vectors: u16,
    pba_offset: u16,
    accesses: Vec<Access>,
}

fuzz_target!(|input: Input| {
    let size = TableSize::new(input.vectors % 2048 + 1).unwrap();
    let bar = |index: u8| Bar::new(index % 6).unwrap();
    let Ok(layout) = Layout::new(size, (bar(0), 0x40), (bar(0), u32::from(input.pba_offset))) else { return };
    let failures = Failures::default();
    let router = Arc::new(FakeRouter::new(failures.clone()));
    let device = FakeBackend::new(failures);
    let function = MsixFunction::new(layout, router.clone(), device.clone());
    for access in input.accesses {
        match access {
            Access::ReadConfig { offset, len } => function.read_config(offset, &mut vec![0; len.into()]),
            Access::WriteConfig { offset, data } => function.write_config(offset.into(), &data),
            Access::ReadBar { bar: index, offset, len } => {
                function.read_bar(bar(index), offset, &mut vec![0; len.into()], |_, part| part.fill(0xff));
            }
            Access::WriteBar { bar: index, offset, data } => {
                function.write_bar(bar(index), offset.into(), &data, |_, _| {});
            }
            Access::WriteFar { bar: index, offset, data } => {
                function.write_bar(bar(index), offset, &data, |_, _| {});
            }
            Access::Raise(vector) => {
                device.raise(Vector((vector % size.get()).into()));
                router.pump();
            }
            Access::Reset => function.reset(|| device.reset()),
        }
        let mut capability = [0; 4];
        function.read_config(0, &mut capability);
        let [id, next, low, high] = capability;
        assert_eq!((id, next), (0x11, 0));
        assert_eq!(u16::from_le_bytes([low, high]) & 0x3fff, size.get() - 1, "read-only and reserved bits");
    }
});
