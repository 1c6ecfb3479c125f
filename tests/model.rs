//! Random operations of guest, device and host on a real function, whose registers and domain are compared with the reference model. The
//! router and the device are fakes that panic at the first broken rule.
//!
//! `MODEL_CASES` sets how many sequences run (default 10,000 of 100 operations on average: a million).

use proptest::collection::vec;
use proptest::prelude::*;
use vm_msi::msi::{AddressWidth, MessageCount, MsiLayout, VectorMasking};
use vm_msi::testing::{Op, Reference, Run, SlotOp, SlotShape, SoftwareRun};

fn op() -> impl Strategy<Value = Op> {
    let bytes = any::<[u8; 8]>();
    prop_oneof![
        8 => (any::<u16>(), 0u8..4).prop_map(|(vector, version)| Op::Message { vector, version }),
        10 => (any::<u16>(), any::<bool>()).prop_map(|(vector, masked)| Op::Mask { vector, masked }),
        2 => any::<u16>().prop_map(Op::Clear),
        // Mostly on, so that sequences get somewhere.
        3 => (prop_oneof![4 => Just(2u8), 2 => Just(3u8), 1 => Just(0u8), 1 => Just(1u8)], 0u8..8)
            .prop_map(|(bits, messages)| Op::Control(bits | messages << 2)),
        2 => (0u16..1100, bytes, any::<u8>())
            .prop_map(|(offset, data, len)| Op::WriteTable { offset, data, len }),
        1 => (any::<u8>(), bytes, any::<u8>())
            .prop_map(|(offset, data, len)| Op::WriteConfig { offset, data, len }),
        // Few entries, so that they meet.
        3 => (any::<u16>(), 0u8..8).prop_map(|(vector, entry)| Op::Handle { vector, entry }),
        3 => (0u8..8, prop_oneof![Just(0u8), Just(1), 0x40u8..0x44])
            .prop_map(|(entry, version)| Op::Entry { entry, version }),
        3 => (0u8..8, 0u8..4).prop_map(|(entry, count)| Op::Invalidate { entry, count }),
        12 => any::<u16>().prop_map(Op::Raise),
        1 => Just(Op::Reset),
        1 => prop_oneof![0u8..6, Just(255)].prop_map(Op::VmBudget),
        1 => prop_oneof![0u8..6, Just(255)].prop_map(Op::DeviceBudget),
        // Mostly on.
        1 => prop_oneof![1 => Just(false), 2 => Just(true)].prop_map(Op::BusMaster),
        1 => Just(Op::Suspend),
        3 => Just(Op::Resume),
        1 => Just(Op::Restore),
        1 => Just(Op::Unplug),
        2 => any::<u32>().prop_map(|calls| Op::Fail(calls & 0xff)),
        1 => prop_oneof![Just(0u8), Just(2), Just(8), Just(255)].prop_map(Op::Room),
        2 => Just(Op::Retry),
        1 => Just(Op::RetryLate),
        1 => any::<bool>().prop_map(Op::ReleaseDelay),
        1 => Just(Op::WatchRelayed),
        3 => Just(Op::DeliverRelayed),
        1 => Just(Op::WatchDeferred),
        3 => Just(Op::BindDeferred),
        2 => any::<u16>().prop_map(Op::Latch),
        2 => (any::<u8>(), any::<u8>()).prop_map(|(early, late)| Op::Interrupt { early, late }),
    ]
}

/// With an IMS, and its slots in a BAR.
fn slots_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        12 => op(),
        1 => any::<u16>().prop_map(Op::Clear),
        2 => (any::<u16>(), any::<bool>(), 0u8..3)
            .prop_map(|(vector, masked, pasid)| Op::Pasid { vector, masked, pasid }),
    ]
}

/// With its slots in guest memory.
fn queue_op() -> impl Strategy<Value = Op> {
    let slot = prop_oneof![
        6 => (any::<u16>(), any::<u8>()).prop_map(|(slot, at)| SlotOp::SetAddress { slot, at }),
        1 => (any::<u16>(), any::<u64>()).prop_map(|(slot, address)| SlotOp::SetAnyAddress { slot, address }),
        1 => any::<u16>().prop_map(SlotOp::ClearAddress),
        16 => any::<u16>().prop_map(SlotOp::Ring),
        1 => any::<bool>().prop_map(|all| SlotOp::Plug { all }),
    ];
    prop_oneof![5 => slots_op(), 3 => slot.prop_map(Op::Slot)]
}

fn shape() -> impl Strategy<Value = SlotShape> {
    prop_oneof![Just(SlotShape::Dsa), Just(SlotShape::Inverted), Just(SlotShape::NoMask)]
}

fn cases() -> ProptestConfig {
    let cases = match std::env::var("MODEL_CASES") {
        Ok(cases) => cases.parse().expect("MODEL_CASES is a number"),
        Err(_) => 10_000,
    };
    ProptestConfig { cases, max_shrink_iters: 100_000, ..ProptestConfig::default() }
}

fn msi() -> impl Strategy<Value = MsiLayout> {
    let address = prop_oneof![Just(AddressWidth::Bits32), Just(AddressWidth::Bits64)];
    let masking = prop_oneof![1 => Just(VectorMasking::Absent), 3 => Just(VectorMasking::Present)];
    (0u32..6, address, masking).prop_map(|(log2, address, masking)| {
        MsiLayout::new(MessageCount::new(1 << log2).expect("a power of two"), address, masking)
    })
}

/// Runs a sequence.
fn perform<R: Reference>(mut run: Run<R>, ops: &[Op]) {
    for op in ops {
        run.step(op);
    }
    run.finish();
}

/// Runs a sequence on a device model's function.
fn perform_software<R: Reference>(mut run: SoftwareRun<R>, ops: &[Op]) {
    ops.iter().for_each(|op| run.step(op));
    run.finish();
}

/// Runs a sequence on MSI-X; a regression is one line: the size and the operations that proptest printed.
fn run(vectors: u16, ops: &[Op]) {
    perform(Run::msix(vectors), ops);
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn no_sequence_of_operations_disagrees_with_the_model(
        vectors in prop_oneof![1u16..5, 63u16..67],
        ops in vec(op(), 1..200),
    ) {
        run(vectors, &ops);
    }

    #[test]
    fn no_sequence_of_operations_on_an_msi_function_disagrees_with_the_model(
        layout in msi(),
        ops in vec(op(), 1..200),
    ) {
        perform(Run::msi(layout), &ops);
    }

    #[test]
    fn no_sequence_of_operations_on_a_device_models_function_disagrees_with_the_model(
        vectors in prop_oneof![1u16..5, 63u16..67],
        ops in vec(op(), 1..200),
    ) {
        perform_software(SoftwareRun::msix(vectors), &ops);
    }

    #[test]
    fn no_sequence_of_operations_on_a_device_models_msi_function_disagrees_with_the_model(
        layout in msi(),
        ops in vec(op(), 1..200),
    ) {
        perform_software(SoftwareRun::msi(layout), &ops);
    }

    #[test]
    fn no_sequence_of_operations_on_slots_disagrees_with_the_model(
        shape in shape(),
        slots in prop_oneof![1u32..5, 63u32..67],
        ops in vec(slots_op(), 1..200),
    ) {
        perform(Run::slots(shape, slots), &ops);
    }

    #[test]
    fn no_sequence_of_operations_on_slots_in_guest_memory_disagrees_with_the_model(
        shape in shape(),
        slots in prop_oneof![3 => 1u32..5, 1 => 63u32..67],
        ops in vec(queue_op(), 1..200),
    ) {
        perform(Run::queue(shape, slots), &ops);
    }

    #[test]
    fn no_sequence_of_operations_on_a_device_models_slots_disagrees_with_the_model(
        shape in shape(),
        slots in prop_oneof![1u32..5, 63u32..67],
        ops in vec(slots_op(), 1..200),
    ) {
        perform_software(SoftwareRun::slots(shape, slots), &ops);
    }

    #[test]
    fn no_sequence_of_operations_on_a_device_models_slots_in_guest_memory_disagrees_with_the_model(
        shape in shape(),
        slots in prop_oneof![3 => 1u32..5, 1 => 63u32..67],
        ops in vec(queue_op(), 1..200),
    ) {
        perform_software(SoftwareRun::queue(shape, slots), &ops);
    }
}

#[test]
fn an_interrupt_that_waits_while_masked_comes_once_on_unmask() {
    let unmask = Op::Mask { vector: 0, masked: false };
    let message = Op::Message { vector: 0, version: 0 };
    run(1, &[Op::Control(2), message, Op::Raise(0), Op::Raise(0), unmask, Op::Raise(0)]);
}

#[test]
fn a_vector_of_2048_lives_beside_2047_that_do_not() {
    let unmask = Op::Mask { vector: 2047, masked: false };
    let message = Op::Message { vector: 2047, version: 0 };
    run(2048, &[Op::Control(2), message, unmask, Op::Raise(2047), Op::Raise(3)]);
}

#[test]
fn a_live_vector_moves_when_its_entry_is_invalidated_and_not_before() {
    let entry = |version| Op::Entry { entry: 3, version };
    let invalidate = |entry, count| Op::Invalidate { entry, count };
    let live = [
        entry(0x41),
        invalidate(0, 0),
        Op::Control(2),
        Op::Handle { vector: 0, entry: 3 },
        Op::Mask { vector: 0, masked: false },
        Op::Raise(0),
    ];
    let moved = [entry(0x42), Op::Raise(0), invalidate(4, 9), Op::Raise(0), invalidate(3, 1), Op::Raise(0)];
    let gone_and_back = [entry(0), invalidate(2, 2), Op::Raise(0), entry(0x43), invalidate(3, 1)];
    run(1, &[live.as_slice(), &moved, &gone_and_back].concat());
}

#[test]
fn a_vector_that_takes_a_lingering_ones_place_is_still_tried_again() {
    let message = |vector| Op::Message { vector, version: 0 };
    let unmask = |vector| Op::Mask { vector, masked: false };
    let lingering = [
        Op::WatchRelayed,
        Op::ReleaseDelay(true),
        Op::Control(2),
        message(8),
        unmask(8),
        Op::Mask { vector: 8, masked: true },
    ];
    // The commit fails, then the host vector, until the lingering one is given back.
    let rising = [Op::Clear(8), message(9), Op::Fail(0b11), unmask(9), Op::Retry];
    run(65, &[lingering.as_slice(), &rising].concat());
}

#[test]
fn what_a_mediator_has_for_a_vector_that_the_kernel_does_not_let_go_of_waits() {
    let live = [Op::Control(2), Op::Message { vector: 0, version: 0 }, Op::Mask { vector: 0, masked: false }];
    // The device lets go of the vector, and the kernel does not; nor where the guest has it again, and has it masked. Each access
    // tries twice.
    let ending = [Op::Fail(0b110), Op::Control(0), Op::Fail(0b1101), Op::Control(3), Op::Latch(0)];
    run(1, &[live.as_slice(), &ending, &[Op::Control(2)]].concat());
}

#[test]
fn an_interrupt_that_waits_in_an_eventfd_goes_with_the_function_to_another_vm() {
    let message = |vector| Op::Message { vector, version: 0 };
    let unmask = |vector| Op::Mask { vector, masked: false };
    let using = [Op::Control(2), message(0), unmask(0), message(1), unmask(1)];
    let masked = Op::Mask { vector: 1, masked: true };
    let moved = [masked, Op::Raise(1), Op::Suspend, Op::Raise(0), Op::Restore, Op::Resume, unmask(1)];
    run(2, &[using.as_slice(), &moved].concat());
}

#[test]
fn an_msi_function_that_is_given_more_messages_while_it_is_on_has_them_all_or_none() {
    let layout = MsiLayout::new(
        MessageCount::new(8).expect("a power of two"),
        AddressWidth::Bits64,
        VectorMasking::Present,
    );
    let given = |log2: u8| Op::Control(2 | log2 << 2);
    let message = |vector| Op::Message { vector, version: 0x13 };
    let one = [message(1), given(0), Op::Raise(0), Op::Mask { vector: 0, masked: true }, Op::Raise(0)];
    let eight = [given(3), Op::Raise(7), Op::Raise(0), Op::Mask { vector: 0, masked: false }];
    // The host does not turn it off, or then not on for more.
    let refused = [given(1), Op::Fail(1), given(2), Op::Raise(0), Op::Fail(0b10), given(3), Op::Retry];
    perform(Run::msi(layout), &[one.as_slice(), &eight].concat());
    perform(Run::msi(layout), &[one.as_slice(), &refused, &eight[1..]].concat());
}

#[test]
fn a_relayed_vector_that_is_raised_between_deliveries_of_others_with_its_message_is_delivered_again() {
    let layout = MsiLayout::new(
        MessageCount::new(8).expect("a power of two"),
        AddressWidth::Bits32,
        VectorMasking::Present,
    );
    let own_messages = Op::Message { vector: 0, version: 0 };
    let ops = [
        Op::Entry { entry: 3, version: 64 },
        Op::Invalidate { entry: 0, count: 0 },
        Op::Room(0),
        Op::Control(14),
        Op::Mask { vector: 0, masked: true },
        own_messages.clone(),
        // In the first call: the seven vectors then wait. In the eighth: the first of them has been delivered.
        Op::Interrupt { early: 1 << 7, late: 1 },
        Op::WatchRelayed,
        // All vectors name one entry.
        Op::Handle { vector: 1, entry: 3 },
        Op::DeliverRelayed,
        own_messages,
    ];
    perform(Run::msi(layout), &ops);
}

#[test]
fn a_function_that_is_unplugged_in_whatever_state_leaves_nothing_and_the_next_one_works() {
    let message = |vector| Op::Message { vector, version: 0 };
    let unmask = |vector| Op::Mask { vector, masked: false };
    let using = [Op::Control(2), message(0), unmask(0), message(1), unmask(1), Op::Raise(0)];
    let states = [
        vec![Op::Suspend],
        vec![Op::Mask { vector: 0, masked: true }, Op::Raise(0)],
        vec![Op::ReleaseDelay(true), Op::Mask { vector: 0, masked: true }, Op::Clear(0)],
        vec![Op::WatchRelayed, Op::Room(0), Op::Mask { vector: 0, masked: true }, unmask(0), Op::Raise(0)],
        vec![Op::DeviceBudget(1), message(2), unmask(2), Op::Raise(2)],
        // Refused when it goes, and half of it before.
        vec![Op::Raise(1), Op::Fail(1)],
        vec![Op::Fail(1), Op::Control(0), Op::Fail(1)],
    ];
    for state in states {
        run(3, &[using.as_slice(), &state, &[Op::Unplug, Op::Room(255)], &using, &[Op::Raise(1)]].concat());
    }
}

/// Vectors are requested, masked, moved, freed, delivered by userspace, turned off and reset; each time, all are raised in one of
/// the host's calls that this takes, as it begins or as it ends.
#[test]
fn interrupts_in_any_call_to_the_host_come_once_and_on_a_message_that_their_vector_has() {
    let message = |vector, version| Op::Message { vector, version };
    let mask = |vector, masked| Op::Mask { vector, masked };
    let using = [Op::Control(2), message(0, 0), mask(0, false), message(1, 0), mask(1, false)];
    let works = [
        vec![mask(2, false), message(2, 0)],
        vec![mask(0, true)],
        vec![message(0, 1)],
        vec![mask(0, true), Op::Clear(0)],
        vec![Op::Control(3)],
        vec![Op::Control(0)],
        vec![mask(0, true), Op::Control(0)],
        vec![Op::Reset],
        vec![Op::Suspend],
        vec![Op::BusMaster(false)],
        vec![Op::Restore],
        vec![Op::Unplug],
        vec![Op::WatchRelayed, Op::Room(0), message(0, 1), Op::Raise(0), Op::DeliverRelayed],
        vec![Op::WatchRelayed, Op::Room(0), message(0, 1), Op::Room(255), Op::Retry],
        vec![Op::ReleaseDelay(true), mask(0, true), Op::Clear(0), message(0, 2), Op::RetryLate],
        vec![Op::WatchDeferred, mask(2, false), message(2, 0), Op::BindDeferred],
        vec![Op::Fail(0b1), Op::Control(0), Op::Retry],
        vec![Op::Fail(0b10), message(0, 1), Op::Retry],
    ];
    let again = [
        Op::Resume,
        Op::BusMaster(true),
        Op::DeliverRelayed,
        mask(0, false),
        Op::DeliverRelayed,
        mask(1, true),
        mask(1, false),
    ];
    for work in works {
        for call in 0..8 {
            for interrupt in
                [Op::Interrupt { early: 1 << call, late: 0 }, Op::Interrupt { early: 0, late: 1 << call }]
            {
                run(3, &[using.as_slice(), &[interrupt], &work, &again, &using].concat());
            }
        }
    }
}
