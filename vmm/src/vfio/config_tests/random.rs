//! Random configuration spaces: lists that overlap, loop or lead astray, capabilities that are cut short, and registers
//! of any value.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// A capability that real devices have, or any.
fn conventional_id() -> impl Strategy<Value = u8> {
    prop_oneof![4 => 1u8..=0x15, 4 => proptest::sample::select(vec![1, 5, 9, 0x10, 0x11, 0x13]), 1 => any::<u8>()]
}

fn extended_id() -> impl Strategy<Value = u16> {
    prop_oneof![8 => 0u16..=0x38, 1 => any::<u16>()]
}

/// A device: any registers, linked into lists. Offsets repeat, so lists overlap and loop, and each list ends with any
/// pointer.
fn device() -> impl Strategy<Value = Vec<u8>> {
    let conventional = vec((0x10u8..0x40, conventional_id()), 0..12);
    let extended = vec((0x40u16..0x400, extended_id()), 0..12);
    let pokes = vec((0usize..4096, any::<u8>()), 0..20);
    let registers = prop_oneof![Just(vec![0u8; 4096]), vec(any::<u8>(), 4096)];
    let len = prop_oneof![Just(256usize), Just(4096)];
    let ends = (prop_oneof![Just(0u8), any::<u8>()], prop_oneof![Just(0u16), 0u16..0x1000]);
    (registers, conventional, extended, ends, pokes, len).prop_map(
        |(mut host, conventional, extended, (end, extended_end), pokes, len)| {
            host[6] |= 0x10;
            let offsets = conventional.iter().map(|(at, _)| at * 4);
            let mut next = offsets.chain([end]);
            host[0x34] = next.next().unwrap();
            for ((at, id), next) in conventional.iter().zip(next) {
                put(&mut host, usize::from(*at) * 4, &[*id, next]);
            }
            // The first one is at 0x100.
            let at = |index: usize| match index {
                0 => 0x100,
                _ => extended.get(index).map_or(extended_end, |(at, _)| at * 4),
            };
            for (index, (_, id)) in extended.iter().enumerate() {
                let header = u32::from(*id) | 1 << 16 | u32::from(at(index + 1)) << 20;
                put32(&mut host, usize::from(at(index)), header);
            }
            for (at, value) in pokes {
                host[at] = value;
            }
            host.truncate(len);
            host
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn every_device_keeps_its_registers_and_a_list_that_ends(host in device()) {
        invariants::assert_all(&host);
    }
}

#[test]
fn lists_that_loop_overlap_or_lead_out_of_the_space_end() {
    for next in 0..=u8::MAX {
        let mut host = function(0x40);
        put(&mut host, 0x40, &[9, 0x48, 8, 0]);
        put(&mut host, 0x48, &[0x12, 0x44]);
        put(&mut host, 0x44, &[5, next]);
        invariants::assert_lists(&host);
    }
    for next in (0..0x1000).step_by(4) {
        let mut host = function(0);
        put32(&mut host, 0x100, 0x1041_0001);
        put32(&mut host, 0x104, 0x1082_0010);
        put32(&mut host, 0x108, next << 20 | 0x0001_0003);
        invariants::assert_lists(&host);
    }
}
