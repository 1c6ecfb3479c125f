//! Whole sequences of guest, device and host on an array of IMS slots, against its model.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vm_msi::testing::{ImsOp, ImsRun, SlotShape};

#[derive(arbitrary::Arbitrary, Debug)]
struct Input {
    shape: SlotShape,
    slots: u8,
    ops: Vec<ImsOp>,
}

fuzz_target!(|input: Input| {
    let mut run = ImsRun::new(input.shape, u16::from(input.slots % 80) + 1);
    for op in &input.ops {
        run.step(op);
    }
    run.finish();
});
