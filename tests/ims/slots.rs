//! An array of slots behind eventfds.

use vm_msi::backend::Unsupported;
use vm_msi::domain::State;
use vm_msi::ims::ControlFormat;
use vm_msi::testing::{Failures, FakeBackend, FakeRouter};
use vm_msi::{DeviceBudget, ImsFunction, MsiMessage, Vector};

use crate::fixture::{Fixture, MASK, PENDING, inverted, layout, message, without_mask};

const SLOT: u32 = 40_000;
const LAST: u32 = 65_535;

#[test]
fn a_slot_is_masked_and_blank_after_reset_and_costs_the_host_nothing() {
    for (control, reset) in [(ControlFormat::DSA, MASK), (inverted(), 0), (without_mask(), 0)] {
        let fixture = Fixture::after_reset(control);
        for slot in [0, SLOT, LAST] {
            assert_eq!([0, 1, 2, 3].map(|register| fixture.register(slot, register)), [0, 0, 0, reset]);
        }
        assert_eq!((fixture.device.in_use(), fixture.function.vectors()), ((0, false), 0));
    }
}

#[test]
fn an_unmasked_slot_delivers_its_message_and_the_others_cost_nothing() {
    let fixture = Fixture::using([0, SLOT, LAST]);
    for slot in [LAST, 0, SLOT] {
        assert_eq!(fixture.raise(slot), [message(slot)]);
    }
    assert_eq!((fixture.device.in_use(), fixture.router.in_use()), ((3, true), (3, 3)));
}

#[test]
fn masked_slot_latches_shows_its_pending_bit_and_fires_once_on_unmask() {
    let fixture = Fixture::using([SLOT]);
    fixture.set_control(SLOT, MASK);
    assert_eq!((fixture.raise(SLOT), fixture.raise(SLOT)), (vec![], vec![]));
    assert_eq!(fixture.control(SLOT), MASK | PENDING);
    assert_eq!((fixture.control(SLOT - 1), fixture.control(SLOT + 1)), (MASK, MASK));
    // Reading takes nothing, and what is read may be written back.
    fixture.set_control(SLOT, MASK | PENDING);
    assert_eq!(fixture.control(SLOT), MASK | PENDING);
    fixture.set_control(SLOT, 0);
    assert_eq!((fixture.delivered(), fixture.control(SLOT)), (vec![message(SLOT)], 0));
}

#[test]
fn a_slot_that_was_never_unmasked_keeps_its_interrupt_in_the_device() {
    let fixture = Fixture::using([0]);
    fixture.set_message(SLOT, message(SLOT));
    assert_eq!((fixture.raise(SLOT), fixture.control(SLOT)), (vec![], MASK | PENDING));
    assert_eq!(fixture.device.in_use(), (1, true), "it has no host vector yet");
    fixture.set_control(SLOT, 0);
    assert_eq!(fixture.delivered(), [message(SLOT)]);
}

#[test]
fn a_mask_bit_elsewhere_and_of_the_other_polarity_masks_as_any() {
    let fixture = Fixture::after_reset(inverted());
    fixture.set_message(SLOT, message(SLOT));
    assert_eq!((fixture.raise(SLOT), fixture.control(SLOT)), (vec![], 1));
    fixture.set_control(SLOT, 1 << 31);
    assert_eq!((fixture.delivered(), fixture.control(SLOT)), (vec![message(SLOT)], 1 << 31));
    fixture.set_control(SLOT, 0x7fff_ffff);
    assert_eq!((fixture.raise(SLOT), fixture.control(SLOT)), (vec![], 1), "reserved bits stay 0");
}

#[test]
fn a_slot_without_a_mask_bit_signals_as_soon_as_its_message_is_an_interrupt_until_it_is_cleared() {
    let fixture = Fixture::after_reset(without_mask());
    let MsiMessage { address, data } = message(SLOT);
    fixture.function.write_slots(u64::from(SLOT) * 16, &address.to_le_bytes());
    assert_eq!((fixture.raise(SLOT), fixture.control(SLOT)), (vec![], PENDING), "vector 0 is none");
    fixture.function.write_slots(u64::from(SLOT) * 16 + 8, &data.to_le_bytes());
    assert_eq!(fixture.delivered(), [message(SLOT)]);
    assert_eq!(fixture.device.in_use(), (1, true));
    fixture.set_message(SLOT, MsiMessage::BLANK);
    assert_eq!((fixture.raise(SLOT), fixture.device.in_use()), (vec![], (0, true)));
    fixture.set_message(SLOT, message(SLOT));
    assert_eq!(fixture.delivered(), [message(SLOT)], "it waited in the device");
}

#[test]
fn a_slot_that_is_rewritten_fires_on_its_new_message_only() {
    let fixture = Fixture::using([SLOT]);
    fixture.function.write_slots(u64::from(SLOT) * 16 + 8, &0x99u32.to_le_bytes());
    assert_eq!(fixture.raise(SLOT), [MsiMessage { data: 0x99, ..message(SLOT) }]);
}

#[test]
fn a_freed_slot_gives_its_host_vector_back() {
    let fixture = Fixture::using([SLOT, 7]);
    fixture.set_control(SLOT, MASK);
    fixture.set_message(SLOT, MsiMessage::BLANK);
    assert_eq!((fixture.device.in_use(), fixture.raise(SLOT)), ((1, true), vec![]));
}

#[test]
fn accesses_of_any_offset_and_width_act_as_on_memory_with_byte_enables() {
    let fixture = Fixture::using([3]);
    let mut memory = vec![0; 5 * 16];
    fixture.function.read_slots(0, &mut memory);
    let data: Vec<u8> = (0x80..0x80 + 33).collect();
    for offset in 0..64usize {
        for len in 0..=33 {
            fixture.function.write_slots(offset as u64, &data[..len]);
            let end = memory.len();
            for (at, byte) in (offset..end).zip(&data[..len]) {
                // Of a control DWORD: mask, PASID enable, PASID.
                let writable = [0x09, 0xf0, 0xff, 0xff];
                memory[at] = if at % 16 < 12 { *byte } else { byte & writable[at % 4] };
            }
            let mut read = vec![0xee; memory.len()];
            fixture.function.read_slots(0, &mut read);
            assert_eq!(read, memory, "{len} bytes at {offset}");
            let mut part = vec![0xee; len];
            fixture.function.read_slots(offset as u64, &mut part);
            let within = len.min(memory.len() - offset);
            assert_eq!(part[..within], memory[offset..offset + within]);
        }
    }
}

#[test]
fn what_lies_beyond_the_last_slot_reads_0_and_ignores_writes() {
    let fixture = Fixture::after_reset(ControlFormat::DSA);
    let end = 65_536 * 16;
    for offset in [end, end + 12, u64::MAX - 3, u64::MAX / 2] {
        fixture.function.write_slots(offset, &[0xff; 16]);
        let mut data = [0xee; 16];
        fixture.function.read_slots(offset, &mut data[..4]);
        assert_eq!(data[..4], [0; 4]);
    }
    assert_eq!(fixture.function.vectors(), 0, "nothing was written to a slot");
    // Across the end: the last slot's control is written, the rest is nobody's.
    fixture.function.write_slots(end - 4, &[0xff; 16]);
    let mut data = [0xee; 16];
    fixture.function.read_slots(end - 4, &mut data);
    assert_eq!(u32::from_le_bytes(data[..4].try_into().unwrap()), 0xffff_f009);
    assert_eq!(data[4..], [0; 12]);
}

#[test]
fn a_reset_takes_every_slot_down_at_once_and_forgets_what_waited() {
    let fixture = Fixture::using((0..1000).map(|slot| slot * 65));
    fixture.set_control(65, MASK);
    assert_eq!(fixture.raise(65), []);
    let before = fixture.function.report().counters;
    fixture.function.reset(|| fixture.device.reset());
    let after = fixture.function.report().counters;
    assert_eq!((after.unbinds, after.closes), (before.unbinds, before.closes + 1), "by one call");
    assert_eq!((fixture.device.in_use(), fixture.router.in_use()), ((0, false), (0, 0)));
    assert_eq!((fixture.control(65), fixture.register(65, 0)), (MASK, 0));
    fixture.set_message(65, message(65));
    fixture.set_control(65, 0);
    assert_eq!(fixture.delivered(), []);
    assert_eq!(fixture.raise(65), [message(65)]);
}

#[test]
fn a_host_that_refuses_a_slot_holds_it_and_loses_nothing() {
    let fixture = Fixture::using([0]);
    fixture.set_message(LAST, message(LAST));
    fixture.failures.schedule(1);
    fixture.set_control(LAST, 0);
    assert_eq!((fixture.function.failed_steps(), fixture.raise(LAST)), (1, vec![]));
    assert_eq!(fixture.control(LAST), PENDING);
    fixture.function.retry();
    assert_eq!((fixture.function.failed_steps(), fixture.delivered()), (0, vec![message(LAST)]));
}

#[test]
fn a_slot_beyond_the_routes_is_delivered_from_userspace() {
    let fixture = Fixture::using([0]);
    fixture.router.set_capacity(1);
    fixture.function.relay_fd().unwrap();
    fixture.set_message(LAST, message(LAST));
    fixture.set_control(LAST, 0);
    let report = fixture.function.report();
    let last = report.vectors.iter().find(|vector| vector.vector == Vector(LAST)).unwrap();
    assert_eq!(last.state, State::Relayed);
    fixture.raise(LAST);
    fixture.function.deliver_relayed();
    assert_eq!(fixture.delivered(), [message(LAST)]);
}

#[test]
fn a_device_with_fewer_vectors_than_slots_is_refused_before_a_guest_sees_a_store() {
    let failures = Failures::default();
    let (router, device) = (FakeRouter::new(failures.clone()), FakeBackend::new(failures));
    let refused =
        ImsFunction::try_new(layout(65_536, ControlFormat::DSA), std::sync::Arc::new(router), device);
    assert_eq!(refused.err(), Some(Unsupported::Vectors { needed: 65_536, vectors: 2048 }));
}

#[test]
fn a_store_of_65536_slots_may_take_2048_host_vectors_unless_its_embedder_says_otherwise() {
    let Fixture { function, .. } = Fixture::after_reset(ControlFormat::DSA);
    assert_eq!(function.report().budget.limit, Some(DeviceBudget::DEFAULT_LIMIT));

    let function = function.with_budget(DeviceBudget::new(Some(2)));
    for slot in [0, SLOT, LAST] {
        let MsiMessage { address, data } = message(slot);
        function.write_slots(u64::from(slot) * 16, &address.to_le_bytes());
        function.write_slots(u64::from(slot) * 16 + 8, &u64::from(data).to_le_bytes());
    }
    let report = function.report();
    assert_eq!((report.host_vectors, report.budget.limit, function.failed_steps()), (2, Some(2), 1));
}
