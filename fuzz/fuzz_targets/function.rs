//! Whole sequences of guest, device and host on a function of any kind, against the reference model.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vm_msi::msi::MsiLayout;
use vm_msi::testing::{Op, Reference, Run, SoftwareRun};

#[derive(arbitrary::Arbitrary, Debug)]
enum Kind {
    Msix { vectors: u8 },
    Msi { control: u16 },
    Software { vectors: u8 },
}

#[derive(arbitrary::Arbitrary, Debug)]
struct Input {
    kind: Kind,
    ops: Vec<Op>,
}

fn perform<R: Reference>(mut run: Run<R>, ops: &[Op]) {
    ops.iter().for_each(|op| run.step(op));
    run.finish();
}

fuzz_target!(|input: Input| {
    let size = |vectors: u8| u16::from(vectors % 80) + 1;
    match input.kind {
        Kind::Msix { vectors } => perform(Run::msix(size(vectors)), &input.ops),
        Kind::Msi { control } => {
            let [low, high] = control.to_le_bytes();
            let Ok(layout) = MsiLayout::parse([0x05, 0, low, high]) else { return };
            perform(Run::msi(layout), &input.ops);
        }
        Kind::Software { vectors } => {
            let mut run = SoftwareRun::msix(size(vectors));
            input.ops.iter().for_each(|op| run.step(op));
            run.finish();
        }
    }
});
