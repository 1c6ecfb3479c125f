//! Whole sequences of guest, device and host on a store of IMS slots, in a BAR or in guest memory, of a device with eventfds
//! or of a device model, against the reference model.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vm_msi::testing::{Op, Reference, Run, SlotShape, SoftwareRun};

#[derive(arbitrary::Arbitrary, Debug)]
enum Kind {
    Slots,
    Queue,
    SoftwareSlots,
    SoftwareQueue,
}

#[derive(arbitrary::Arbitrary, Debug)]
struct Input {
    kind: Kind,
    shape: SlotShape,
    slots: u8,
    ops: Vec<Op>,
}

fn perform<R: Reference>(mut run: Run<R>, ops: &[Op]) {
    ops.iter().for_each(|op| run.step(op));
    run.finish();
}

fn perform_software<R: Reference>(mut run: SoftwareRun<R>, ops: &[Op]) {
    ops.iter().for_each(|op| run.step(op));
    run.finish();
}

fuzz_target!(|input: Input| {
    let Input { kind, shape, slots, ops } = input;
    let slots = u32::from(slots % 80) + 1;
    match kind {
        Kind::Slots => perform(Run::slots(shape, slots), &ops),
        Kind::Queue => perform(Run::queue(shape, slots), &ops),
        Kind::SoftwareSlots => perform_software(SoftwareRun::slots(shape, slots), &ops),
        Kind::SoftwareQueue => perform_software(SoftwareRun::queue(shape, slots), &ops),
    }
});
