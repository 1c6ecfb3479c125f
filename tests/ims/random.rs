//! No sequence of what guest, device and host may do disagrees with a model of slots.
//!
//! `MODEL_CASES` sets how many sequences run (default 3,000 of 100 operations on average).

use proptest::collection::vec;
use proptest::prelude::*;
use vm_msi::testing::{ImsOp, ImsRun, SlotShape};

fn op() -> impl Strategy<Value = ImsOp> {
    let pasid = prop_oneof![4 => Just(0u8), 1 => 1u8..3];
    prop_oneof![
        8 => (any::<u16>(), prop_oneof![1 => Just(0u8), 6 => 0x20u8..0x24])
            .prop_map(|(slot, version)| ImsOp::Message { slot, version }),
        10 => (any::<u16>(), any::<bool>(), pasid)
            .prop_map(|(slot, masked, pasid)| ImsOp::Control { slot, masked, pasid }),
        2 => (any::<u16>(), any::<[u8; 16]>(), any::<u8>())
            .prop_map(|(offset, data, len)| ImsOp::Write { offset, data, len }),
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
        shape in prop_oneof![Just(SlotShape::Dsa), Just(SlotShape::Inverted), Just(SlotShape::NoMask)],
        slots in prop_oneof![1u16..5, 63u16..67],
        ops in vec(op(), 1..200),
    ) {
        let mut run = ImsRun::new(shape, slots);
        ops.iter().for_each(|op| run.step(op));
        run.finish();
    }
}
