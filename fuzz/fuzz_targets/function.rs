//! Whole sequences of guest, device and host on an MSI-X function, against the reference model.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vm_msi::testing::{Op, Run};

#[derive(arbitrary::Arbitrary, Debug)]
struct Input {
    vectors: u8,
    ops: Vec<Op>,
}

fuzz_target!(|input: Input| {
    let mut run = Run::new(u16::from(input.vectors % 80) + 1);
    for op in &input.ops {
        run.step(op);
    }
    run.finish();
});
