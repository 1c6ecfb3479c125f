//! No sequence of what guest, device and host may do disagrees with a model of slots.
//!
//! `MODEL_CASES` sets how many sequences run (default 3,000 of 100 operations on average).

use std::fmt::Debug;

use proptest::collection::vec;
use proptest::prelude::*;
use vm_msi::testing::{
    ArrayAccess, ArrayDriver, ImsOp, ImsRun, QueueAccess, QueueDriver, SlotDriver, SlotShape,
};

fn pasid() -> impl Strategy<Value = u8> {
    prop_oneof![4 => Just(0u8), 1 => 1u8..3]
}

fn version() -> impl Strategy<Value = u8> {
    prop_oneof![1 => Just(0u8), 6 => 0x20u8..0x24]
}

fn array() -> impl Strategy<Value = ArrayAccess> {
    prop_oneof![
        8 => (any::<u16>(), version()).prop_map(|(slot, version)| ArrayAccess::Message { slot, version }),
        10 => (any::<u16>(), any::<bool>(), pasid())
            .prop_map(|(slot, masked, pasid)| ArrayAccess::Control { slot, masked, pasid }),
        2 => (any::<u16>(), any::<[u8; 16]>(), any::<u8>())
            .prop_map(|(offset, data, len)| ArrayAccess::Write { offset, data, len }),
    ]
}

fn queue() -> impl Strategy<Value = QueueAccess> {
    prop_oneof![
        6 => (any::<u16>(), any::<u8>()).prop_map(|(slot, at)| QueueAccess::Place { slot, at }),
        1 => (any::<u16>(), any::<u64>())
            .prop_map(|(slot, address)| QueueAccess::PlaceAnywhere { slot, address }),
        1 => any::<u16>().prop_map(QueueAccess::Unplace),
        8 => (any::<u16>(), version()).prop_map(|(slot, version)| QueueAccess::Message { slot, version }),
        8 => (any::<u16>(), any::<bool>(), pasid())
            .prop_map(|(slot, masked, pasid)| QueueAccess::Control { slot, masked, pasid }),
        16 => any::<u16>().prop_map(QueueAccess::Ring),
        2 => (any::<u16>(), any::<[u8; 16]>()).prop_map(|(at, data)| QueueAccess::Write { at, data }),
        1 => any::<bool>().prop_map(|all| QueueAccess::Memory { all }),
    ]
}

fn op<A: Clone + Debug + 'static>(
    access: impl Strategy<Value = A> + 'static,
) -> impl Strategy<Value = ImsOp<A>> {
    prop_oneof![
        24 => access.prop_map(ImsOp::Access),
        12 => any::<u16>().prop_map(ImsOp::Raise),
        1 => Just(ImsOp::Reset),
        1 => Just(ImsOp::Suspend),
        3 => Just(ImsOp::Resume),
        1 => Just(ImsOp::Restore),
        2 => any::<u8>().prop_map(ImsOp::Fail),
        1 => prop_oneof![Just(0u8), Just(2), Just(8), Just(255)].prop_map(ImsOp::Room),
        2 => Just(ImsOp::Retry),
        1 => Just(ImsOp::Watch),
        3 => Just(ImsOp::Deliver),
    ]
}

fn shape() -> impl Strategy<Value = SlotShape> {
    prop_oneof![Just(SlotShape::Dsa), Just(SlotShape::Inverted), Just(SlotShape::NoMask)]
}

fn perform<D: SlotDriver>(shape: SlotShape, slots: u16, ops: &[ImsOp<D::Access>]) {
    let mut run = ImsRun::<D>::new(shape, slots);
    ops.iter().for_each(|op| run.step(op));
    run.finish();
}

fn cases() -> ProptestConfig {
    let cases = match std::env::var("MODEL_CASES") {
        Ok(cases) => cases.parse().expect("MODEL_CASES is a number"),
        Err(_) => 3_000,
    };
    ProptestConfig { cases, max_shrink_iters: 100_000, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn no_sequence_of_operations_on_slots_disagrees_with_the_model(
        shape in shape(),
        slots in prop_oneof![1u16..5, 63u16..67],
        ops in vec(op(array()), 1..200),
    ) {
        perform::<ArrayDriver>(shape, slots, &ops);
    }

    #[test]
    fn no_sequence_of_operations_on_slots_in_guest_memory_disagrees_with_the_model(
        shape in shape(),
        slots in prop_oneof![3 => 1u16..5, 1 => 63u16..67],
        ops in vec(op(queue()), 1..200),
    ) {
        perform::<QueueDriver>(shape, slots, &ops);
    }
}
