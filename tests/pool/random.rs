//! Random operations of guests, devices, embedder and host. The functions are compared with the model after each operation.
//!
//! `POOL_CASES` sets how many sequences run (default 10,000 of 100 operations on average: a million).

use proptest::collection::vec;
use proptest::prelude::*;

use crate::world::{HOST_VECTORS, Kind, World};

/// Functions at a time.
const GUESTS: usize = 5;

#[derive(Clone, Debug)]
enum Op {
    Make(usize, Kind),
    Drop(usize),
    TakeLoose(usize, u32),
    DropLoose(usize),
    Adopt,
    Disown,
    WriteEntry {
        guest: usize,
        vector: usize,
        dword: usize,
        masked: bool,
    },
    Control(usize, u8),
    /// The accesses by which a driver requests a vector.
    Request(usize, usize),
    Reset(usize),
    Raise(usize, u32),
    FailDevices(u32),
    FailVm(u32),
    Retry,
}

fn op() -> impl Strategy<Value = Op> {
    let guest = || 0..GUESTS;
    let kind = prop_oneof![
        2 => Just(Kind::Physical),
        1 => (0usize..2).prop_map(Kind::Of),
        1 => Just(Kind::OfBoth),
        3 => Just(Kind::SubDevice),
        1 => Just(Kind::Mixed),
    ];
    prop_oneof![
        5 => (guest(), kind).prop_map(|(guest, kind)| Op::Make(guest, kind)),
        2 => guest().prop_map(Op::Drop),
        1 => (0usize..2, 0..HOST_VECTORS).prop_map(|(host, vector)| Op::TakeLoose(host, vector)),
        1 => any::<usize>().prop_map(Op::DropLoose),
        2 => Just(Op::Adopt),
        1 => Just(Op::Disown),
        8 => (guest(), 0usize..4, 0usize..3, any::<bool>()).prop_map(|(guest, vector, dword, masked)| {
            Op::WriteEntry { guest, vector, dword, masked }
        }),
        // Mostly on, so that sequences get somewhere.
        5 => (guest(), prop_oneof![5 => Just(2u8), 1 => Just(3u8), 2 => Just(0u8)])
            .prop_map(|(guest, bits)| Op::Control(guest, bits)),
        8 => (guest(), 0usize..4).prop_map(|(guest, vector)| Op::Request(guest, vector)),
        1 => guest().prop_map(Op::Reset),
        16 => (0usize..2, 0..HOST_VECTORS).prop_map(|(host, vector)| Op::Raise(host, vector)),
        2 => (0u32..256).prop_map(Op::FailDevices),
        1 => (0u32..16).prop_map(Op::FailVm),
        2 => Just(Op::Retry),
    ]
}

/// Runs a sequence. A regression is one line, as proptest has printed it.
fn run(ops: &[Op], seed: u64) {
    let mut world = World::new(GUESTS);
    for op in ops {
        match *op {
            Op::Make(guest, kind) => world.make(guest, kind),
            Op::Drop(guest) => world.drop(guest),
            Op::TakeLoose(host, vector) => world.take_loose(host, vector),
            Op::DropLoose(index) => world.drop_loose(index),
            Op::Adopt => world.adopt(),
            Op::Disown => world.disown(),
            Op::WriteEntry { guest, vector, dword, masked } => {
                world.write_entry(guest, vector, dword, masked);
            }
            Op::Control(guest, bits) => world.control(guest, bits),
            Op::Request(guest, vector) => {
                world.control(guest, 2);
                world.write_entry(guest, vector, 2, false);
                world.write_entry(guest, vector, 1, false);
            }
            Op::Reset(guest) => world.reset(guest),
            Op::Raise(host, vector) => world.raise(host, vector),
            Op::FailDevices(calls) => world.failures[0].schedule(calls),
            Op::FailVm(calls) => world.failures[1].schedule(calls),
            Op::Retry => world.retry(),
        }
        world.check();
    }
    world.finish(seed);
}

fn cases() -> ProptestConfig {
    let cases = match std::env::var("POOL_CASES") {
        Ok(cases) => cases.parse().expect("POOL_CASES is a number"),
        Err(_) => 10_000,
    };
    ProptestConfig { cases, max_shrink_iters: 100_000, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn nobody_gets_anothers_interrupt_nothing_is_lost_and_all_is_given_back(
        ops in vec(op(), 1..200),
        seed in any::<u64>(),
    ) {
        run(&ops, seed);
    }
}
