//! Whole sequences of guest, device and host on a store of IMS slots, in a BAR or in guest memory, against its model.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vm_msi::testing::{ArrayAccess, ArrayDriver, ImsOp, ImsRun, QueueAccess, QueueDriver, SlotDriver, SlotShape};

#[derive(arbitrary::Arbitrary, Debug)]
enum Store {
    Array(Vec<ImsOp<ArrayAccess>>),
    Queue(Vec<ImsOp<QueueAccess>>),
}

#[derive(arbitrary::Arbitrary, Debug)]
struct Input {
    shape: SlotShape,
    slots: u8,
    store: Store,
}

fn perform<D: SlotDriver>(shape: SlotShape, slots: u8, ops: &[ImsOp<D::Access>]) {
    let mut run = ImsRun::<D>::new(shape, u16::from(slots % 80) + 1);
    ops.iter().for_each(|op| run.step(op));
    run.finish();
}

fuzz_target!(|input: Input| match input.store {
    Store::Array(ops) => perform::<ArrayDriver>(input.shape, input.slots, &ops),
    Store::Queue(ops) => perform::<QueueDriver>(input.shape, input.slots, &ops),
});
